"""Asking for a password at the terminal, which stays usable however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import threading
from typing import Iterator

_TERMINAL = "/dev/tty"
_LEAVING = (signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP)  # Ctrl-Z, and what ends a program


def ask(prompt: str) -> str:
    """Show ``prompt`` and return the line that is typed, which is not shown.

    Raises ``EOFError`` for Ctrl-D, and whatever Ctrl-C raises here; the line is ended first.
    """
    import getpass  # noqa: PLC0415  (3 ms, only where a prompt is needed)

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, termios.error):  # no terminal of our own
            terminal = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY)
            stack.callback(os.close, terminal)
            if threading.current_thread() is threading.main_thread():  # others get no signals
                stack.enter_context(_job_control(terminal, prompt))
        try:
            return getpass.getpass(prompt)
        except BaseException:
            _show("\n")
            raise


def _show(text: str) -> None:
    with contextlib.suppress(OSError), open(_TERMINAL, "w", encoding="utf-8") as terminal:
        terminal.write(text)


@contextlib.contextmanager
def _job_control(terminal: int, prompt: str) -> Iterator[None]:
    """Give the terminal its echo back when we leave it, and take it away when we come back.

    getpass alone does neither: the shell would show what is typed at the prompt after ``fg``.
    """
    before = termios.tcgetattr(terminal)
    hidden = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]

    def leave(number: int, _frame: object) -> None:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        _show("\n")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, leave)  # here again after fg

    def come_back(*_: object) -> None:
        with contextlib.suppress(termios.error):  # in the background: we are stopped again
            termios.tcsetattr(terminal, termios.TCSAFLUSH, hidden)
            _show(prompt)

    heeded = [number for number in _LEAVING if signal.getsignal(number) is signal.SIG_DFL]
    with contextlib.ExitStack() as undo:
        for number in heeded:
            undo.callback(signal.signal, number, signal.signal(number, leave))
        undo.callback(signal.signal, signal.SIGCONT, signal.signal(signal.SIGCONT, come_back))
        yield
