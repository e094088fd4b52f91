"""Where a password comes from: a file, the environment, a demo account, a prompt."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from lft.accounts.account import DEMO_ACCOUNTS
from lft.accounts.keys import saslprep
from lft.addresses import NoNameServiceError, is_loopback, resolve
from lft.terminal import printable
from protocol import UsageError

MAX_SECRET_FILE = 4096  # bytes that the first line of a password or token file may have
PASSWORD_VARIABLE = "LFT_PASSWORD"  # noqa: S105  (a name, not a password)


def read_password(user: str, file: Path | None, server: str) -> str:
    """Find the password of ``user`` at ``server``: file, environment, demo account, prompt.

    The demo accounts' own passwords are for loopback. Raises ``UsageError`` where none is found,
    and ``ConnectionLostError`` where there is no such server: that is better said before a prompt.
    """
    given = _given_password(file)
    if given is not None:
        return given
    if user in DEMO_ACCOUNTS and is_loopback(server):
        return DEMO_ACCOUNTS[user][0]
    with contextlib.suppress(NoNameServiceError):  # it may answer soon
        resolve(server, 0)
    return _prompt(user)


def _given_password(file: Path | None) -> str | None:
    return os.environ.get(PASSWORD_VARIABLE) if file is None else first_line(file, "password file")


def new_password(user: str, file: Path | None) -> str:
    """Find a new password for ``user``; a prompt asks for it twice."""
    password = _given_password(file)
    if password is None:
        password = _prompt(user)
        if _prompt(user, "once more") != password:
            raise UsageError("the two passwords differ")
    if not saslprep(password):
        raise UsageError("an empty password lets everyone in")
    return password


def first_line(file: Path, what: str) -> str:
    try:
        with open(file, "rb") as opened:
            line = opened.read(MAX_SECRET_FILE + 1).split(b"\n")[0]
        if len(line) > MAX_SECRET_FILE:
            raise UsageError(f"{what} {file}: its first line is too long")
        return line.decode("utf-8").rstrip("\r")
    except OSError as error:
        raise UsageError(f"{what} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{what} {file}: not UTF-8 text") from None


def _prompt(user: str, remark: str = "") -> str:
    if sys.stdin.isatty():
        from lft.accounts.prompt import ask  # noqa: PLC0415  (few runs need it)

        with contextlib.suppress(EOFError):  # Ctrl-D
            return ask(f"Password of {printable(user)} {remark}".rstrip() + ": ")
    raise UsageError(
        f"no password for {printable(user)}: use --password-file or {PASSWORD_VARIABLE}"
    )
