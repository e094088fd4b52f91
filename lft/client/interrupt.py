"""Stopping early: SIGINT and SIGTERM as an exception in the main thread, or a program's wish."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from protocol import TransferError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt(BaseException):  # no Exception: nothing on its way up may take it for an error
    """The user stopped the program."""

    exit_code = 130
    unfinished = ""  # the name of the file of which the server keeps a part, to go on with


class CancelledError(TransferError):
    """The user, or the program that called ``send_files``, stopped it: the file can go on later."""

    exit_code = Interrupt.exit_code


def raise_on_signals() -> None:
    """Let the first signal raise ``Interrupt`` in the main thread, and the second one exit."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """Let no signal stop the program any more: its end is near enough."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(Interrupt.exit_code))
    raise Interrupt
