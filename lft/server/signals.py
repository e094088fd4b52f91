"""What signals mean to a server that listens."""

from __future__ import annotations

import errno
import os
import signal
from typing import Callable

_STOPPING = (signal.SIGINT, signal.SIGTERM)

Act = Callable[[], None]  # what a signal handler may call: it neither waits nor raises


def heed_signals(stop: Act, reload: Act | None) -> None:
    """Let SIGINT and SIGTERM call ``stop``; SIGHUP calls ``reload``, or ``stop`` without it (main).

    SIGINT stops us even where it was ignored: a shell script ignores it for what it starts with
    ``&``, and then often ends that with ``kill -INT``.
    """
    for number in _STOPPING:
        signal.signal(number, lambda *_: stop())
    on_hangup = _on_hangup(stop, reload)
    if on_hangup:
        signal.signal(signal.SIGHUP, lambda *_: on_hangup())


def _on_hangup(stop: Act, reload: Act | None) -> Act | None:
    """Return what SIGHUP does: the terminal has gone, or a file is to be read again.

    ``nohup`` has it ignored, and relies on us to leave it so: then there is nothing to do, except
    to read again. A server that began in a terminal ends with it, also if it could read again.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    if reload is None:
        return None if ignored else stop
    again, outlives = reload, ignored or _has_no_terminal()
    return lambda: again() if outlives or not _has_no_terminal() else stop()


def ignore_signals() -> None:
    """Let no signal stop the server any more: its end is near enough (main)."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _has_no_terminal() -> bool:
    """Whether no terminal controls this process: none did, or it has been closed (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False
