"""The credential file of a running server, and the effect of changes in it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from config import ServerSettings
from lft.accounts.account import MIN_ITERATIONS, Accounts, Credential
from lft.accounts.file import CredentialStore, load_credentials, save_credentials
from lft.accounts.scram import ScramServer
from lft.server.opened import accounts_of
from protocol import AuthenticationError, FileReady, IntegrityOk, Rejected, UsageError
from tests.support.accounts import VERIFIER, account
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.rawpeer import Peer
from tests.support.scram import USERS, log_in, rfc_client
from tests.support.waiting import PATIENCE

# --- a store by itself --------------------------------------------------------------------------


def test_a_login_can_use_what_a_store_gives(filled_file: Path) -> None:
    """It holds what is in the file."""
    accounts = CredentialStore(filled_file).current()
    assert accounts == USERS
    assert log_in(rfc_client(), ScramServer(accounts, b"secret")) == "user"


def test_a_store_sees_what_was_changed(filled_file: Path) -> None:
    """Added, changed, removed: without a restart."""
    store = CredentialStore(filled_file)
    save_credentials(filled_file, Accounts({**USERS, "alice": USERS["user"]}))
    assert sorted(store.current()) == ["alice", "user"]
    save_credentials(filled_file, Accounts({"user": USERS["user"].replace(disabled=True)}))
    assert store.current()["user"].disabled
    assert list(store.current()) == ["user"]


def test_a_store_reads_a_file_that_has_not_changed_once(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login costs a stat call."""
    store = CredentialStore(filled_file)
    monkeypatch.setattr("lft.accounts.file.load_credentials", lambda _: pytest.fail("read again"))
    assert store.current() is store.current()


def test_a_store_does_not_start_with_a_bad_file(credential_file: Path) -> None:
    """FAULTS 25: the server does not start, and says why."""
    with pytest.raises(UsageError, match="No such file"):
        CredentialStore(credential_file)


def spoil(file: Path) -> None:
    """Write something that is not a credential file."""
    file.write_bytes(b"s3cret")


SPOILT: dict[str, Callable[[Path], Any]] = {
    "damaged": spoil,
    "gone": Path.unlink,
    "open to others": lambda file: file.chmod(0o644),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_store_keeps_what_it_had_when_the_file_goes_bad(filled_file: Path, how: str) -> None:
    """One warning, however many logins there are; then the repaired file counts again."""
    warnings: list[str] = []
    store = CredentialStore(filled_file, warnings.append)
    SPOILT[how](filled_file)
    assert [dict(store.current()) for _ in range(3)] == [USERS] * 3
    assert len(warnings) == 1
    assert warnings[0].startswith(f"credential file {filled_file}: ")
    assert "s3cret" not in warnings[0]
    save_credentials(filled_file, Accounts({"alice": USERS["user"]}))
    assert list(store.current()) == ["alice"]
    assert len(warnings) == 1


def test_a_file_that_could_not_be_read_is_tried_again_although_it_has_not_changed(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trouble may have been ours; the warning still comes once, and again after a success."""
    warnings: list[str] = []
    store = CredentialStore(filled_file, warnings.append)

    def no_descriptor(_: Path) -> Accounts:
        raise UsageError("Too many open files")

    for round_ in (1, 2):
        save_credentials(filled_file, Accounts({f"user{round_}": USERS["user"]}))
        monkeypatch.setattr("config.READ_AGAIN_AFTER", 0.0)
        monkeypatch.setattr("lft.accounts.file.load_credentials", no_descriptor)
        before = list(store.current())
        assert list(store.current()) == before != [f"user{round_}"]
        assert len(warnings) == round_
        monkeypatch.setattr("lft.accounts.file.load_credentials", load_credentials)
        assert list(store.current()) == [f"user{round_}"]


def test_a_bad_file_is_not_read_for_each_login(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may be large, and any stranger can try to log in."""
    store = CredentialStore(filled_file)
    spoil(filled_file)
    assert list(store.current()) == ["user"]
    monkeypatch.setattr("lft.accounts.file.load_credentials", lambda _: pytest.fail("read again"))
    assert list(store.current()) == ["user"]


def test_a_slow_reader_of_an_old_file_does_not_undo_a_newer_one(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads do not wait for the reader, and its outdated result is dropped."""
    store, real = CredentialStore(filled_file), load_credentials
    reading, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> Accounts:
        accounts = real(path)
        reading.set()
        assert go_on.wait(PATIENCE)
        return accounts

    save_credentials(filled_file, Accounts({"old": USERS["user"]}))
    monkeypatch.setattr("lft.accounts.file.load_credentials", slow)
    reader = threading.Thread(target=store.current)
    reader.start()
    assert reading.wait(PATIENCE)
    assert list(store.current()) == ["user"]
    monkeypatch.setattr("lft.accounts.file.load_credentials", real)
    save_credentials(filled_file, Accounts({"new": USERS["user"]}))
    assert list(store.current()) == ["new"]
    go_on.set()
    reader.join(PATIENCE)
    assert list(store.current()) == ["new"]


def test_what_a_store_gave_does_not_change_under_ones_feet(filled_file: Path) -> None:
    """A login works with one version from beginning to end."""
    store = CredentialStore(filled_file)
    before = store.current()
    save_credentials(filled_file, Accounts({}))
    assert list(store.current()) == []
    assert list(before) == ["user"]


def test_accounts_and_stores_do_not_show_their_keys(filled_file: Path) -> None:
    """Least of all the key that signs tokens."""
    save_credentials(filled_file, Accounts(USERS, token_key=b"s3cret" * 5 + b"xx"))
    shown = repr(load_credentials(filled_file)) + repr(CredentialStore(filled_file))
    assert "s3cret" not in shown


# --- a file that is mounted by itself -----------------------------------------------------------


def replace_at_its_source(file: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a file look like a mounted one that was replaced where it is mounted from.

    Its path still leads to it, but it has no name any more. Only the superuser could mount one.
    """
    real = os.fstat

    def nameless(descriptor: int) -> os.stat_result:
        facts = list(real(descriptor))
        facts[3] = 0  # st_nlink
        return os.stat_result(facts)

    patch.setattr(os, "fstat", nameless)
    os.utime(file)


def test_a_user_removed_where_a_file_is_mounted_from_does_not_get_in(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25: the mount still shows the old file, and the new one cannot be read."""
    warnings: list[str] = []
    store = CredentialStore(filled_file, warnings.append)
    replace_at_its_source(filled_file, monkeypatch)
    assert [list(store.current()) for _ in range(3)] == [[]] * 3
    assert [warning.endswith("no user can log in") for warning in warnings] == [True]
    with pytest.raises(UsageError, match="mount its directory"):
        load_credentials(filled_file)


def test_the_users_are_back_when_a_mounted_file_can_be_read_again(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25: mounted anew, without a restart."""
    store = CredentialStore(filled_file)
    with monkeypatch.context() as patch:
        replace_at_its_source(filled_file, patch)
        assert list(store.current()) == []
    save_credentials(filled_file, Accounts({"alice": USERS["user"]}))
    assert list(store.current()) == ["alice"]


def test_a_file_that_is_replaced_while_it_is_read_is_read_nevertheless(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no name any more, but its path leads to the new one."""
    real = os.fstat

    def meanwhile(descriptor: int) -> os.stat_result:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", real)
            save_credentials(filled_file, Accounts({"alice": USERS["user"]}))
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", meanwhile)
    assert list(load_credentials(filled_file)) == ["user"]


def test_a_mounted_file_that_cannot_be_replaced_says_what_to_do(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system only says that a device is busy."""

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(UsageError, match="mount its directory instead"):
        save_credentials(filled_file, USERS)


# --- a server with a store ----------------------------------------------------------------------


@pytest.fixture
def stored(start_local: StartLocal, users_file: Path, no_delays: None) -> ServerThread:
    """A server that reads this file as server.py does."""
    return start_local(accounts_of(ServerSettings(credentials=users_file)))


def gets_in(local: ServerThread, user: str) -> bool:
    """Whether a user can log in."""
    with Peer(local.port) as peer:
        try:
            peer.log_in(user)
        except AuthenticationError:
            return False
        return True


def test_a_user_added_while_the_server_runs_gets_in(stored: ServerThread, users_file: Path) -> None:
    """25: without a restart or a signal."""
    assert not gets_in(stored, "bob")
    save_credentials(users_file, Accounts({"alice": VERIFIER, "bob": VERIFIER}))
    assert gets_in(stored, "bob")


@pytest.mark.parametrize(
    "users", [{}, {"alice": account(disabled=True)}, {"alice": account(expires=1)}]
)
def test_a_user_taken_away_while_the_server_runs_does_not_get_in(
    stored: ServerThread, users_file: Path, users: dict[str, Credential]
) -> None:
    """25: removed, disabled or expired."""
    assert gets_in(stored, "alice")
    save_credentials(users_file, Accounts(users))
    assert not gets_in(stored, "alice")


@pytest.mark.parametrize(
    "users",
    [
        {},
        {"alice": account(disabled=True)},
        {"alice": account(expires=1)},
        {"alice": Credential.make("another", iterations=MIN_ITERATIONS)},
    ],
)
def test_who_is_taken_away_while_logged_in_begins_no_other_file(
    stored: ServerThread, users_file: Path, users: dict[str, Credential]
) -> None:
    """25: removed, disabled, expired or with a new password; what runs may end."""
    data = os.urandom(10)
    with Peer(stored.port).log_in() as peer:
        upload = peer.start("x", data)
        save_credentials(users_file, Accounts(users))
        upload.send(peer.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)
        with pytest.raises(AuthenticationError, match="the account has"):
            peer.ask("y", 10)


def test_who_gets_other_limits_while_logged_in_sends_on(
    stored: ServerThread, users_file: Path
) -> None:
    """25: the new limits hold from the next login on."""
    with Peer(stored.port).log_in() as peer:
        save_credentials(users_file, Accounts({"alice": account(quota=1)}))
        assert isinstance(peer.ask("x", 10), FileReady)
    with Peer(stored.port).log_in() as peer:
        assert isinstance(peer.ask("y", 10), Rejected)


def test_a_broken_credential_file_changes_nothing(
    stored: ServerThread, users_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """25: the last good accounts stay in force, and one line says so."""
    users_file.write_text("{")
    assert gets_in(stored, "alice")
    assert gets_in(stored, "alice")
    assert len(lines(caplog, "the accounts read before stay in force")) == 1


def test_a_credential_file_that_others_can_read_by_now_changes_nothing(
    stored: ServerThread, users_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """25: what was read while it was private stays in force."""
    users_file.chmod(0o644)
    assert gets_in(stored, "alice")
    assert len(lines(caplog, "others can read it")) == 1
