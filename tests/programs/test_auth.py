"""The command line of auth.py."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import jwt
import pytest

import auth
from lft.accounts.account import MAX_TIME, Accounts
from lft.accounts.file import OPTIONAL, load_credentials, save_credentials
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.accounts.scram import ScramClient, ScramServer
from lft.accounts.tokens import verify_token
from protocol import AuthenticationError
from tests.support.generated import short
from tests.support.processes import environment
from tests.support.scram import USERS, log_in
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("no_password_around")


class Cli:
    """Runs ``python auth.py`` in this process, with a password from the environment."""

    def __init__(self, capsys: pytest.CaptureFixture[str], file: Path) -> None:
        self._capsys = capsys
        self._file = file
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        """Run it on the credential file; return the exit code, keep what it printed."""
        try:
            code: Any = auth.main([*arguments, "--credentials", str(self._file)])
        except SystemExit as error:
            code = error.code
        self.out, self.err = self._capsys.readouterr()
        assert isinstance(code, int)
        return code

    def fails_in_one_line(self, *arguments: str) -> bool:
        """Say whether it ends with exit code 2, one printable line, and no other output."""
        code = self(*arguments)
        line = self.err[:-1]
        named = line.startswith("auth.py: ") and self.err.endswith("\n")
        return code == 2 and self.out == "" and named and line.isprintable()


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], credential_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Cli:
    """Return the command line of auth.py, with a password in the environment."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "pw")
    return Cli(capsys, credential_file)


def test_add_makes_a_file_with_which_the_user_can_log_in(cli: Cli, credential_file: Path) -> None:
    """The first user needs no file."""
    assert cli("add", "alice", "--priority", "3") == 0
    server = ScramServer(load_credentials(credential_file), b"secret")
    assert log_in(ScramClient("alice", "pw"), server) == "alice"
    assert server.credential.priority == 3
    assert stat.S_IMODE(credential_file.stat().st_mode) == 0o600


def test_no_umask_takes_the_file_from_its_owner(cli: Cli, credential_file: Path) -> None:
    """A server of the same user could not read it; with mode 0600 it can."""
    before = os.umask(0o777)
    try:
        assert cli("add", "alice") == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(credential_file.stat().st_mode) == 0o600


def test_add_takes_the_password_from_a_file(
    cli: Cli, credential_file: Path, password_file: Path
) -> None:
    """The file goes before the environment."""
    assert cli("add", "alice", "--password-file", str(password_file)) == 0
    users = load_credentials(credential_file)
    assert log_in(ScramClient("alice", "from file"), ScramServer(users, b"secret")) == "alice"


def test_add_keeps_the_other_users(cli: Cli, filled_file: Path) -> None:
    """A new user changes no other account."""
    assert cli("add", "alice") == 0
    users = load_credentials(filled_file)
    assert sorted(users) == ["alice", "user"]
    assert users["user"] == USERS["user"]


def test_add_gives_an_existing_user_a_new_password(cli: Cli, filled_file: Path) -> None:
    """The old password no longer works."""
    assert cli("add", "user") == 0
    users = load_credentials(filled_file)
    assert log_in(ScramClient("user", "pw"), ScramServer(users, b"secret")) == "user"
    with pytest.raises(AuthenticationError):
        log_in(ScramClient("user", "pencil"), ScramServer(users, b"secret"))


def test_add_stores_a_name_in_the_form_in_which_clients_send_it(
    cli: Cli, credential_file: Path
) -> None:
    """A name added in one Unicode form logs in in the other."""
    assert cli("add", unicodedata.normalize("NFD", "rené")) == 0
    users = load_credentials(credential_file)
    client = ScramClient(unicodedata.normalize("NFC", "rené"), "pw")
    assert log_in(client, ScramServer(users, b"secret")) == unicodedata.normalize("NFC", "rené")


def test_adding_shows_nothing_of_the_password(cli: Cli) -> None:
    """Neither output nor errors contain it."""
    assert cli("add", "alice") == 0
    assert cli.out + cli.err == ""


@pytest.mark.parametrize(
    "name",
    ["", "x" * 256, "a\x1b[31m", "a\nb", "\ud800", "\u202e", "\u06271", "\u1806", "\ufdfa" * 100],
    ids=short,
)
def test_add_refuses_a_name_that_cannot_be_one(cli: Cli, filled_file: Path, name: str) -> None:
    """Empty (also once prepared), too long (also once prepared), or not printable."""
    assert cli.fails_in_one_line("add", name)
    assert load_credentials(filled_file) == USERS


@pytest.mark.parametrize("priority", ["101", "-101", "99999999999999999999"])
def test_add_refuses_a_priority_out_of_range(
    cli: Cli, credential_file: Path, priority: str
) -> None:
    """The error says what the range is, and no file is made."""
    assert cli.fails_in_one_line("add", "alice", "--priority", priority)
    assert "-100 to 100" in cli.err
    assert not credential_file.exists()


@pytest.mark.parametrize("password", ["", "\u00ad", "\u200b\ufeff"], ids=short)
def test_add_refuses_an_empty_password(
    cli: Cli, credential_file: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """Empty is also what is empty once it has been prepared."""
    monkeypatch.setenv(PASSWORD_VARIABLE, password)
    assert cli.fails_in_one_line("add", "alice")
    assert not credential_file.exists()


def test_add_refuses_a_password_with_characters_that_cannot_be_typed_again(
    cli: Cli, credential_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 4013 prohibits controls; the error does not repeat the password."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "s3cret\x07")
    assert cli.fails_in_one_line("add", "alice")
    assert "s3cret" not in cli.err
    assert not credential_file.exists()


def test_add_without_a_password_fails_in_one_line(
    cli: Cli, credential_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a demo account gets a password from nowhere, and no file is made."""
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert cli.fails_in_one_line("add", "user1")
    assert not credential_file.exists()


def test_add_leaves_a_damaged_file_alone(cli: Cli, credential_file: Path) -> None:
    """A file that cannot be read is not overwritten: it may still be repaired."""
    credential_file.touch(0o600)
    credential_file.write_bytes(b"precious")
    assert cli.fails_in_one_line("add", "alice")
    assert credential_file.read_bytes() == b"precious"


def test_add_leaves_a_file_open_to_others_alone(cli: Cli, filled_file: Path) -> None:
    """Its owner must close it first; only then are its accounts worth keeping."""
    filled_file.chmod(0o644)
    before = filled_file.read_bytes()
    assert cli.fails_in_one_line("add", "alice")
    assert filled_file.read_bytes() == before


def test_add_does_not_follow_a_dangling_link(
    cli: Cli, credential_file: Path, tmp_path: Path
) -> None:
    """A link to nowhere is not a file that is not there yet."""
    credential_file.symlink_to(tmp_path / "elsewhere")
    assert cli.fails_in_one_line("add", "alice")
    assert not (tmp_path / "elsewhere").exists()


def test_remove_takes_one_user_away(cli: Cli, filled_file: Path) -> None:
    """The others stay."""
    cli("add", "alice")
    assert cli("remove", "user") == 0
    assert list(load_credentials(filled_file)) == ["alice"]


def test_removing_an_unknown_user_fails_in_one_line(cli: Cli, filled_file: Path) -> None:
    """Nothing changes, and the error names the user safely."""
    before = filled_file.read_bytes()
    assert cli.fails_in_one_line("remove", "ghost")
    assert "ghost" in cli.err
    assert filled_file.read_bytes() == before


def test_list_shows_names_and_priorities_in_order(cli: Cli, credential_file: Path) -> None:
    """One line for each user, and nothing of a key."""
    one = USERS["user"]
    save_credentials(credential_file, Accounts({"zoe": one, "bob": one.replace(priority=-5)}))
    assert cli("list") == 0
    assert cli.out == "bob\tpriority -5\nzoe\tpriority 0\n"


LIMITS = ["--directory", "team/alice/", "--max-file-size", "2G", "--quota", "10G", "--limit", "5M"]
LIMITS += ["--allow-ext", "PDF,.tar.gz", "--expires", "30d", "--disabled", "--priority", "2"]


def test_add_sets_every_limit(cli: Cli, credential_file: Path) -> None:
    """Sizes in 1024s, extensions in lower case, expiry as an instant."""
    before = int(time.time())
    assert cli("add", "alice", *LIMITS) == 0
    account = load_credentials(credential_file)["alice"]
    assert account.expires is not None
    assert 0 <= account.expires - before - 30 * 86400 <= PATIENCE
    assert (account.priority, account.directory) == (2, "team/alice")
    assert (account.max_file_size, account.quota, account.limit) == (2 << 30, 10 << 30, 5 << 20)
    assert (account.allow_ext, account.disabled) == ((".pdf", ".tar.gz"), True)


def test_list_shows_every_limit(cli: Cli, filled_file: Path) -> None:
    """Expiry in UTC, and whether it has come."""
    limits = USERS["user"].replace(
        directory="d", max_file_size=2 << 30, quota=10 << 30, limit=5 << 20,
        allow_ext=(".pdf", ".txt"), expires=1, disabled=True,
    )  # fmt: skip
    save_credentials(
        filled_file, Accounts({"a": limits, "b": USERS["user"].replace(expires=MAX_TIME)})
    )
    assert cli("list") == 0
    assert cli.out == (
        "a\tpriority 0\tdirectory d\tmax-file-size 2.0 GB\tquota 10.0 GB\tlimit 5.0 MB/s"
        "\tallow-ext .pdf,.txt\texpired 1970-01-01T00:00:01Z\tdisabled\n"
        "b\tpriority 0\texpires 9999-12-31T23:59:59Z\n"
    )


def test_a_new_password_changes_no_limit(cli: Cli, credential_file: Path) -> None:
    """Otherwise a new password could lift a quota, or open a closed account, by mistake."""
    assert cli("add", "alice", *LIMITS) == 0
    before = load_credentials(credential_file)["alice"]
    assert cli("add", "alice") == 0
    after = load_credentials(credential_file)["alice"]
    assert after.stored_key != before.stored_key
    verifiers = ("iterations", "salt", "stored_key", "server_key")
    assert after.replace(**{name: getattr(before, name) for name in verifiers}) == before


def test_limits_can_be_changed_without_a_new_password(
    cli: Cli, credential_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator disables an account without knowing its password."""
    monkeypatch.delenv(PASSWORD_VARIABLE)
    save_credentials(credential_file, Accounts({"user": USERS["user"].replace(quota=5)}))
    assert cli("add", "user", "--keep-password", "--disabled") == 0
    assert load_credentials(credential_file)["user"] == USERS["user"].replace(
        quota=5, disabled=True
    )
    assert cli("add", "user", "--keep-password", "--enabled") == 0
    assert load_credentials(credential_file)["user"] == USERS["user"].replace(quota=5)


def test_rights_are_named_and_those_that_are_not_end(cli: Cli, credential_file: Path) -> None:
    """A right that an operator forgot to name must not stay by mistake."""
    cli("add", "a", "--may", "operate", "--may", "read-all", "--may", "operate")
    assert load_credentials(credential_file)["a"].may == ("read-all", "operate")
    cli("list")
    assert cli.out == "a\tpriority 0\tmay read-all,operate\n"
    cli("add", "a", "--keep-password", "--quota", "5G")
    assert load_credentials(credential_file)["a"].may == ("read-all", "operate")
    cli("add", "a", "--keep-password", "--may", "operate")
    assert load_credentials(credential_file)["a"].may == ("operate",)
    cli("add", "a", "--keep-password", "--may", "")
    assert load_credentials(credential_file)["a"].may == ()
    assert cli("add", "a", "--may", "everything") == 2


def test_a_file_without_rights_is_as_it_was(cli: Cli, credential_file: Path) -> None:
    """An older server reads it; one that knows no rights refuses a file that has some."""
    cli("add", "a")
    assert "may" not in credential_file.read_text()
    cli("add", "a", "--may", "operate")
    assert '"may": [' in credential_file.read_text()


def test_an_empty_value_takes_a_limit_away(cli: Cli, credential_file: Path) -> None:
    """Each of them."""
    assert cli("add", "alice", *LIMITS) == 0
    options = ["--directory", "--max-file-size", "--quota", "--limit", "--allow-ext", "--expires"]
    empty = [word for option in options for word in (option, "")]
    assert cli("add", "alice", "--keep-password", "--enabled", *empty) == 0
    account = load_credentials(credential_file)["alice"]
    assert all(getattr(account, name) == account.FIELDS[name].default for name in OPTIONAL)


def test_a_user_who_is_not_there_has_no_password_to_keep(cli: Cli, credential_file: Path) -> None:
    """No file is made, either."""
    assert cli.fails_in_one_line("add", "alice", "--keep-password")
    assert not credential_file.exists()


@pytest.mark.parametrize(
    "options",
    [("--quota", "0"), ("--quota", "much"), ("--limit", "-1"), ("--max-file-size", "5X"),
     ("--allow-ext", ".a b"), ("--expires", "soon"), ("--expires", "0d"), ("--expires", "30"),
     ("--disabled", "--enabled")],
    ids=short,
)  # fmt: skip
def test_add_refuses_limits_that_cannot_be_read(
    cli: Cli, credential_file: Path, options: tuple[str, ...]
) -> None:
    """A wrong command line, and it says what would be right."""
    assert cli("add", "alice", *options) == 2
    assert "usage:" in cli.err
    assert not credential_file.exists()


@pytest.mark.parametrize("directory", ["../x", "/x", ".x", "a/../b"])
def test_add_refuses_a_directory_elsewhere(cli: Cli, credential_file: Path, directory: str) -> None:
    """The error shows what one looks like."""
    assert cli.fails_in_one_line("add", "alice", "--directory", directory)
    assert "relative path" in cli.err
    assert not credential_file.exists()


def test_the_first_user_of_a_file_brings_the_key_for_salts(cli: Cli, credential_file: Path) -> None:
    """It stays the same from then on; there is none for tokens before there are any."""
    cli("add", "alice")
    first = load_credentials(credential_file)
    cli("add", "bob")
    second = load_credentials(credential_file)
    assert len(first.salt_key) == 32
    assert first.salt_key == second.salt_key
    assert first.token_key == b""


def test_token_prints_a_token_with_which_the_user_gets_in(cli: Cli, filled_file: Path) -> None:
    """The first one makes the key, the others use it; nothing else is printed."""
    tokens = []
    for _ in range(2):
        assert cli("token", "user", "--expires", "12h") == 0
        assert cli.err == ""
        tokens.append(cli.out.rstrip("\n"))
    accounts = load_credentials(filled_file)
    assert [verify_token(token, accounts).user for token in tokens] == ["user", "user"]
    with pytest.raises(AuthenticationError):
        verify_token(tokens[0], accounts, time.time() + 12 * 3600)
    assert stat.S_IMODE(filled_file.stat().st_mode) == 0o600


def test_a_token_is_good_for_30_days_if_nothing_is_said(cli: Cli, filled_file: Path) -> None:
    """Long enough to be of use, short enough to be forgotten."""
    assert cli("token", "user") == 0
    claims = jwt.decode(cli.out.strip(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 30 * 86400


def test_renewing_the_key_ends_the_tokens(cli: Cli, filled_file: Path) -> None:
    """Alone it prints nothing; with a name it prints the first token of the new key."""
    cli("token", "user")
    old = cli.out.strip()
    assert cli("token", "--renew-key") == 0
    assert cli.out == ""
    with pytest.raises(AuthenticationError):
        verify_token(old, load_credentials(filled_file))
    assert cli("token", "user", "--renew-key") == 0
    assert verify_token(cli.out.strip(), load_credentials(filled_file)).user == "user"
    assert load_credentials(filled_file)["user"] == USERS["user"]


def test_no_token_for_an_unknown_or_disabled_user(cli: Cli, credential_file: Path) -> None:
    """In one line, and a key is not made for it."""
    save_credentials(credential_file, Accounts({"off": USERS["user"].replace(disabled=True)}))
    assert cli.fails_in_one_line("token", "ghost")
    assert cli.fails_in_one_line("token", "")
    assert cli.fails_in_one_line("token", "off")
    assert load_credentials(credential_file).token_key == b""


@pytest.mark.parametrize("command", [("token",), ("token", "user", "--expires", "")])
def test_token_wants_a_name_and_a_time(
    cli: Cli, filled_file: Path, command: tuple[str, ...]
) -> None:
    """A wrong command line."""
    assert cli(*command) == 2
    assert "usage:" in cli.err


@pytest.mark.parametrize("command", [("list",), ("remove", "alice"), ("token", "alice")])
def test_a_missing_file_fails_in_one_line(cli: Cli, command: tuple[str, ...]) -> None:
    """Only ``add`` makes a file."""
    assert cli.fails_in_one_line(*command)
    assert "No such file" in cli.err


@pytest.mark.parametrize(
    "command", [(), ("steal",), ("add",), ("add", "alice", "--priority", "high"), ("list", "--all")]
)
def test_a_wrong_command_line_ends_with_exit_code_2(
    cli: Cli, credential_file: Path, command: tuple[str, ...]
) -> None:
    """The usage is shown, and nothing happens."""
    assert cli(*command) == 2
    assert "usage:" in cli.err
    assert not credential_file.exists()


ARGUMENTS = {
    "add": [
        *("NAME", "--credentials", "--password-file", "--keep-password", "--priority"),
        *("--directory", "--max-file-size", "--quota", "--limit", "--allow-ext", "--expires"),
        *("--disabled", "--enabled"),
    ],
    "remove": ["NAME", "--credentials"],
    "list": ["--credentials"],
    "token": ["NAME", "--expires", "--renew-key", "--credentials"],
}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_help_explains_each_argument_and_gives_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """For a reader who has never seen the program."""
    with pytest.raises(SystemExit):
        auth.main([command, "--help"])
    text = capsys.readouterr().out
    usage, _, rest = text.partition("\n\n")
    assert f"auth.py {command} " in usage
    assert "--credentials FILE" in usage
    for argument in ARGUMENTS[command]:
        assert re.search(rf"^  .*{argument}\b[^\n]*(  |\n {{20,}})\w", rest, re.M), argument
    assert f"example:\n    python auth.py {command} " in rest


def test_no_command_at_all_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the commands."""
    with pytest.raises(SystemExit) as caught:
        auth.main([])
    assert caught.value.code == 2
    assert "say add, remove, list or token" in capsys.readouterr().err


def test_a_password_is_never_taken_from_an_argument(cli: Cli, credential_file: Path) -> None:
    """All users of the machine can see arguments."""
    assert cli("add", "alice", "--password", "pw") == 2
    assert cli("add", "alice", "pw") == 2
    assert not credential_file.exists()


def test_the_script_itself_ends_with_the_exit_code_and_one_line(credential_file: Path) -> None:
    """``python auth.py list`` without a file: exit code 2, no traceback."""
    done = subprocess.run(
        [sys.executable, str(auth.__file__), "list", "--credentials", str(credential_file)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"auth.py: credential file ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["list"], ["token", "alice"]])
def test_a_full_standard_output_is_exit_code_2_and_one_line(
    cli: Cli, credential_file: Path, command: list[str], unbuffered: str
) -> None:
    """A token that was not written must not look as if it were."""
    cli("add", "alice")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(auth.__file__), *command, "--credentials", str(credential_file)],
            env={**environment(), "PYTHONUNBUFFERED": unbuffered}, check=False,
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "auth.py: cannot write to standard output: No space left on device\n"
