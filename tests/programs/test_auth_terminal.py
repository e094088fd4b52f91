"""auth.py at a terminal: a password is asked for and not shown."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

import auth
from lft.accounts.file import load_credentials
from lft.accounts.scram import ScramClient, ScramServer
from tests.support.processes import environment
from tests.support.scram import log_in
from tests.support.waiting import PATIENCE, eventually

# Opening the terminal as the leader of a new session makes it the one that getpass asks at.
# What the shell that runs the tests has said of Ctrl-C (in the background: no) is not for it.
AT_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
for target in (0, 1, 2):
    os.dup2(os.open(sys.argv[1], os.O_RDWR), target)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Terminal:
    """``python auth.py`` at a terminal of its own, and the person who sits there."""

    def __init__(self, *arguments: str) -> None:
        self.seen = ""
        self._master, self._slave = os.openpty()  # both kept: no end of file before we have read
        os.set_blocking(self._master, False)
        script = [sys.executable, "-c", AT_A_TERMINAL, os.ttyname(self._slave), str(auth.__file__)]
        self._process = subprocess.Popen(
            [*script, *arguments], start_new_session=True, env=environment()
        )

    def types(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def sees(self, text: str) -> None:
        """Wait for this text."""
        eventually(lambda: self._shows(text), repr(text))

    def _shows(self, text: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.seen += os.read(self._master, 4096).decode()
        return text in self.seen

    def listens(self) -> None:
        """Wait until it sleeps in its prompt: Python would not notice a signal just before that."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(") ")[2].startswith("S"), "its reading")

    def leaves(self) -> int:
        """Wait for the end; return the exit code and see the rest."""
        code = self._process.wait(PATIENCE)
        self._shows("")
        return code

    def close(self) -> None:
        """Take the terminal away; nothing may run on without it."""
        os.close(self._master)
        os.close(self._slave)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture
def terminal(credential_file: Path) -> Iterator[Terminal]:
    """Give a terminal at which ``auth.py add alice`` runs."""
    one = Terminal("add", "alice", "--credentials", str(credential_file))
    yield one
    one.close()


def test_a_password_is_asked_for_twice_and_not_shown(
    terminal: Terminal, credential_file: Path
) -> None:
    """Typed twice alike, it is the new user's; the terminal never shows it."""
    terminal.sees("Password of alice: ")
    terminal.types("wonderland\n")
    terminal.sees("Password of alice once more: ")
    terminal.types("wonderland\n")
    assert terminal.leaves() == 0
    assert "wonderland" not in terminal.seen
    users = load_credentials(credential_file)
    assert log_in(ScramClient("alice", "wonderland"), ScramServer(users, b"secret")) == "alice"


def test_two_different_passwords_are_refused(terminal: Terminal, credential_file: Path) -> None:
    """A slip of the finger does not become a password."""
    terminal.sees("Password of alice: ")
    terminal.types("wonderland\n")
    terminal.sees("once more: ")
    terminal.types("wonderlamd\n")
    assert terminal.leaves() == 2
    assert "auth.py: the two passwords differ" in terminal.seen
    assert not credential_file.exists()


def test_ctrl_c_at_the_prompt_ends_without_a_traceback(
    terminal: Terminal, credential_file: Path
) -> None:
    """Exit code 130, as for every program that was interrupted."""
    terminal.sees("Password of alice: ")
    terminal.listens()
    terminal.types("\x03")
    assert terminal.leaves() == 130
    assert terminal.seen == "Password of alice: \r\n"  # the shell's prompt gets its own line
    assert not credential_file.exists()


def test_end_of_file_at_the_prompt_is_no_password(
    terminal: Terminal, credential_file: Path
) -> None:
    """Ctrl-D instead of a password: one line and exit code 2, no traceback."""
    terminal.sees("Password of alice: ")
    terminal.types("\x04")
    assert terminal.leaves() == 2
    assert "\r\nauth.py: no password for alice" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert not credential_file.exists()
