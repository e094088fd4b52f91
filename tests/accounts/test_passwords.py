"""Where a password comes from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lft.accounts.passwords import MAX_SECRET_FILE, PASSWORD_VARIABLE, read_password
from protocol import UsageError

pytestmark = pytest.mark.usefixtures("no_password_around")


def test_a_password_file_goes_first(password_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line goes before everything else."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "from environment")
    assert read_password("user1", password_file, "localhost") == "from file"


def test_the_environment_goes_before_the_demo_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that was set on purpose goes before a default."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "from environment")
    assert read_password("user1", None, "localhost") == "from environment"


@pytest.mark.parametrize("server", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
@pytest.mark.parametrize(("user", "password"), [("admin", "admin123"), ("user1", "password1")])
def test_the_demo_accounts_need_no_password_on_this_machine(
    user: str, password: str, server: str
) -> None:
    """Trying it out takes one command in each of two terminals."""
    assert read_password(user, None, server) == password


@pytest.mark.parametrize(("user", "server"), [("user1", "192.0.2.1"), ("alice", "localhost")])
def test_without_a_password_and_a_terminal_the_error_says_how_to_give_one(
    user: str, server: str
) -> None:
    """A demo password is never tried on another machine, nor for another user."""
    with pytest.raises(UsageError, match=f"{user}: use --password-file or LFT_PASSWORD"):
        read_password(user, None, server)


def test_a_user_without_password_is_named_safely() -> None:
    """The name in the error cannot act on the terminal."""
    with pytest.raises(UsageError) as caught:
        read_password("\x1b[31m", None, "localhost")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"pw", "pw"),
        (b"pw\n", "pw"),
        (b"pw\r\n", "pw"),
        (b"pw\nsecond line\n", "pw"),
        (b" pw \n", " pw "),
        ("pässwörd\n".encode(), "pässwörd"),
        (b"", ""),
    ],
)
def test_a_password_is_the_first_line_of_its_file(
    tmp_path: Path, content: bytes, password: str
) -> None:
    """Without its line end, with every space."""
    path = tmp_path / "password"
    path.write_bytes(content)
    assert read_password("user1", path, "localhost") == password


def test_a_password_that_is_too_long_for_its_file_is_refused_and_not_cut(tmp_path: Path) -> None:
    """Half of it would be another password, and a weaker one."""
    path = tmp_path / "password"
    path.write_text("x" * MAX_SECRET_FILE + "\n")
    assert read_password("ann", path, "localhost") == "x" * MAX_SECRET_FILE
    path.write_text("x" * (MAX_SECRET_FILE + 1))
    with pytest.raises(UsageError, match="first line is too long"):
        read_password("ann", path, "localhost")


def test_a_missing_password_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """No other source is tried silently in its place."""
    path = tmp_path / "missing"
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}: No such file"):
        read_password("user1", path, "localhost")


def test_a_password_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are no password."""
    path = tmp_path / "password"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_password("user1", path, "localhost")
