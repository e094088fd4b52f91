"""The password prompt at a terminal that a shell shares with the program."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Iterator

import pytest

from lft.accounts.file import load_credentials
from tests.support.files import random_file
from tests.support.processes import ROOT, environment
from tests.support.waiting import PATIENCE, eventually

PROMPT = "Password of ann: "

# Opening the terminal as the leader of a new session makes it the one that passwords are asked at.
AT_A_TERMINAL = """
import os, sys
os.setsid()
os.close(os.open(sys.argv[1], os.O_RDWR))
os.execvp(sys.argv[2], sys.argv[2:])
"""
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "--noediting", "-i"], "sh": ["sh", "-i"]}


class Shell:
    """An interactive shell at a terminal of its own, and the person who types."""

    def __init__(self, command: list[str]) -> None:
        self.seen = ""
        self._leader, follower = os.openpty()
        os.set_blocking(self._leader, False)
        own = {**environment(), "PS1": "shell> ", "PS2": "", "ENV": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-c", AT_A_TERMINAL, os.ttyname(follower), *command],
            stdin=follower, stdout=follower, stderr=follower, env=own,
        )  # fmt: skip
        self._follower = follower
        self.sees("shell> ")

    def types(self, text: str) -> None:
        """Press these keys; what was seen before is forgotten."""
        self._look()
        self.seen = ""
        os.write(self._leader, text.encode())

    def sees(self, text: str) -> None:
        """Wait for this text."""
        eventually(lambda: text in self._look(), f"{text!r} in {self.seen!r}")

    def _look(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                self.seen += os.read(self._leader, 4096).decode()
        return self.seen

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._follower)[3] & termios.ECHO)

    def close(self) -> None:
        """Hang up: the shell ends what it has started."""
        os.close(self._leader)
        os.close(self._follower)
        self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Give a shell: one that mends a terminal whose program was stopped, and one that does not."""
    one = Shell(SHELLS[request.param])
    yield one
    one.close()


def auth(credentials: Path) -> str:
    """Return a command that asks for a new password, twice."""
    command = [sys.executable, str(ROOT / "auth.py"), "add", "ann", "--credentials"]
    return shlex.join([*command, str(credentials)]) + "\n"


def client(source: Path) -> str:
    """Return a command that asks for the password of an account."""
    command = [sys.executable, str(ROOT / "client.py"), "--user", "ann", str(source)]
    return shlex.join([*command, "--port", "1", "--timeout", "2"]) + "\n"


def is_stopped(shell: Shell) -> None:
    """Stop the program with Ctrl-Z, and wait for the shell."""
    eventually(lambda: not shell.echoes, "the echo to be off")
    shell.types("\x1a")
    shell.sees("Stopped")
    shell.sees("shell> ")


def test_after_ctrl_z_and_fg_the_prompt_is_back_and_the_echo_off(
    shell: Shell, tmp_path: Path
) -> None:
    """Otherwise a user types into a dark terminal, and it shows the password."""
    credentials = tmp_path / "users.json"
    shell.types(auth(credentials))
    shell.sees(PROMPT)
    is_stopped(shell)
    shell.types("fg\n")
    shell.sees(PROMPT)
    eventually(lambda: not shell.echoes, "the echo to be off again")
    shell.types("wonderland\n")
    shell.sees("once more: ")
    assert "wonderland" not in shell.seen
    eventually(lambda: not shell.echoes, "the echo to be off")
    is_stopped(shell)
    shell.types("fg\n")
    shell.sees("once more: ")
    eventually(lambda: not shell.echoes, "the echo to be off again")
    shell.types("wonderland\n")
    shell.sees("shell> ")
    assert "wonderland" not in shell.seen
    assert list(load_credentials(credentials)) == ["ann"]


def test_the_shell_has_its_echo_while_the_program_is_stopped(shell: Shell, tmp_path: Path) -> None:
    """Not every shell mends a terminal that a program has left without it."""
    shell.types(auth(tmp_path / "users.json"))
    shell.sees(PROMPT)
    is_stopped(shell)
    assert shell.echoes


def test_ctrl_c_at_the_clients_prompt_ends_the_line(shell: Shell, tmp_path: Path) -> None:
    """Exit code 130; the message stands on a line of its own, promises nothing, names the file."""
    shell.types(client(random_file(tmp_path / "x", 10)))
    shell.sees(PROMPT)
    eventually(lambda: not shell.echoes, "the echo to be off")
    shell.types("\x03")
    shell.sees("shell> ")
    assert shell.seen.startswith("\r\n")
    assert "FAILED interrupted  x\r\n" in shell.seen
    assert "interrupted\r\n" in shell.seen.replace("\x1b[0m", "")
    assert "Traceback" not in shell.seen
    shell.types("echo code $?\n")
    shell.sees("code 130")
    assert shell.echoes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_ended_at_the_prompt_leaves_the_echo_on(
    shell: Shell, tmp_path: Path, number: int
) -> None:
    """By another program, say; what is typed afterwards is for the shell, which shows it."""
    shell.types(auth(tmp_path / "users.json"))
    shell.sees(PROMPT)
    eventually(lambda: not shell.echoes, "the echo to be off")
    command = f"auth.py\0add\0ann\0--credentials\0{tmp_path}".encode()
    (process,) = [
        int(one.name)
        for one in Path("/proc").iterdir()
        if one.name.isdigit() and command in _line(one)
    ]
    os.kill(process, number)
    shell.sees("shell> ")
    assert shell.echoes


def _line(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""
