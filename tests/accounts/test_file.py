"""The credential file: writing it, reading it, and refusing an unsafe one."""

from __future__ import annotations

import base64
import codecs
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import auth
from lft.accounts.account import (
    MAX_ITERATIONS,
    MAX_TIME,
    MIN_ITERATIONS,
    Accounts,
    Credential,
    Credentials,
)
from lft.accounts.file import (
    MAX_CREDENTIALS_FILE,
    _check_private,
    _locked,
    load_credentials,
    save_credentials,
)
from lft.accounts.passwords import PASSWORD_VARIABLE
from protocol import MAX_FILE_SIZE, UsageError
from tests.support.files import open_descriptors
from tests.support.generated import quick, short
from tests.support.processes import environment
from tests.support.scram import SALT, USERS, names
from tests.support.waiting import PATIENCE

limits = st.none() | st.integers(1, MAX_FILE_SIZE)


@quick
@given(
    st.dictionaries(
        names,
        st.builds(
            Credential,
            st.integers(-100, 100),
            st.integers(MIN_ITERATIONS, MAX_ITERATIONS),
            st.binary(min_size=1, max_size=40),
            st.binary(min_size=32, max_size=32),
            st.binary(min_size=32, max_size=32),
            directory=st.sampled_from(["", "alice", "team/alice", "été"]),
            max_file_size=limits,
            quota=limits,
            limit=limits,
            allow_ext=st.sampled_from([(), (".pdf",), (".tar.gz", ".été")]),
            expires=st.none() | st.integers(1, MAX_TIME),
            disabled=st.booleans(),
        ),
        max_size=4,
    )
)
def test_what_is_saved_is_loaded_again(users: Credentials) -> None:
    """Every account comes back as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "credentials")
        save_credentials(path, Accounts(users))
        assert load_credentials(path) == users


def test_the_file_is_for_its_owner_only(credential_file: Path) -> None:
    """Mode 0600, whatever the umask says."""
    before = os.umask(0)
    try:
        save_credentials(credential_file, USERS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(credential_file.stat().st_mode) == 0o600


def test_the_file_is_private_again_after_it_was_replaced(filled_file: Path) -> None:
    """A file that others could read is replaced by one that they cannot read."""
    filled_file.chmod(0o644)
    save_credentials(filled_file, USERS)
    assert stat.S_IMODE(filled_file.stat().st_mode) == 0o600


def test_the_file_holds_no_password(credential_file: Path) -> None:
    """Neither in plain text nor encoded."""
    save_credentials(
        credential_file, Accounts({"alice": Credential.make("wonderland", iterations=4096)})
    )
    text = credential_file.read_bytes()
    assert b"wonderland" not in text
    assert base64.b64encode(b"wonderland").rstrip(b"=") not in text
    assert b"wonderland".hex().encode() not in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_a_file_open_to_others_is_refused(filled_file: Path, mode: int) -> None:
    """FAULTS 25: the error says what to do about it."""
    filled_file.chmod(mode)
    with pytest.raises(UsageError, match=f"chmod 600 {re.escape(str(filled_file))}"):
        load_credentials(filled_file)


def test_a_file_that_even_its_owner_may_not_write_is_fine(filled_file: Path) -> None:
    """Stricter than needed is no reason to refuse."""
    filled_file.chmod(0o400)
    assert load_credentials(filled_file) == USERS


def test_a_file_of_another_user_is_refused(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner could change it, or open it to others, at any time."""
    if os.geteuid() == 0:
        os.chown(filled_file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="belongs to another user"):
        load_credentials(filled_file)


def test_a_file_of_the_superuser_is_fine(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root can read and change everything anyway."""
    facts = os.stat(filled_file)
    owned = os.stat_result((*facts[:4], 0, *facts[5:10]))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    _check_private(filled_file, owned)


def test_a_missing_file_is_refused(credential_file: Path) -> None:
    """FAULTS 25: the error names the file and says why."""
    with pytest.raises(UsageError, match=f"{re.escape(str(credential_file))}: No such file"):
        load_credentials(credential_file)


def test_a_symlink_is_refused(filled_file: Path, tmp_path: Path) -> None:
    """FAULTS 25: another user may turn a link to another file."""
    link = tmp_path / "link"
    link.symlink_to(filled_file)
    with pytest.raises(UsageError, match=f"{re.escape(str(link))}: it is a symbolic link"):
        load_credentials(link)


def test_a_fifo_is_refused_without_waiting(credential_file: Path) -> None:
    """No process writes into it, and the server must not wait for one."""
    os.mkfifo(credential_file, 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        load_credentials(credential_file)


def test_a_device_is_refused() -> None:
    """``/dev/zero`` has no end."""
    with pytest.raises(UsageError, match="not a regular file"):
        load_credentials(Path("/dev/zero"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        load_credentials(tmp_path)


def test_a_file_that_is_too_large_is_refused_unread(credential_file: Path) -> None:
    """Its size is checked before anything is read."""
    credential_file.touch(0o600)
    os.truncate(credential_file, MAX_CREDENTIALS_FILE + 1)
    with pytest.raises(UsageError, match="too large"):
        load_credentials(credential_file)


ACCOUNT = {
    "priority": 0,
    "iterations": 4096,
    "salt": base64.b64encode(SALT).decode(),
    "stored_key": base64.b64encode(USERS["user"].stored_key).decode(),
    "server_key": base64.b64encode(USERS["user"].server_key).decode(),
}


def file_with(name: str = "user", without: str = "", **changes: object) -> bytes:
    """Return a credential file with one user, correct except for the changes."""
    account = {key: value for key, value in {**ACCOUNT, **changes}.items() if key != without}
    return json.dumps({"version": 1, "users": {name: account}}).encode()


def test_the_file_has_the_documented_form(credential_file: Path) -> None:
    """What stands in the file, key by key: a later version must still read it."""
    save_credentials(credential_file, USERS)
    assert json.loads(credential_file.read_bytes()) == {"version": 1, "users": {"user": ACCOUNT}}
    credential_file.write_bytes(file_with())
    assert load_credentials(credential_file) == USERS


def test_what_is_set_stands_in_the_file_too(credential_file: Path) -> None:
    """The optional keys, and the two of the file itself."""
    account = USERS["user"].replace(
        directory="a/b", quota=7, allow_ext=(".a",), expires=9, disabled=True
    )
    save_credentials(
        credential_file, Accounts({"user": account}, token_key=b"t" * 32, salt_key=b"s" * 32)
    )
    limits = {"directory": "a/b", "quota": 7, "allow_ext": [".a"], "expires": 9, "disabled": True}
    keys = {"token_key": "dHR0" * 10 + "dHQ=", "salt_key": "c3Nz" * 10 + "c3M="}
    document = {"version": 1, **keys, "users": {"user": {**ACCOUNT, **limits}}}
    assert json.loads(credential_file.read_bytes()) == document
    loaded = load_credentials(credential_file)
    assert (loaded.token_key, loaded.salt_key) == (b"t" * 32, b"s" * 32)
    assert loaded["user"] == account


def document_with(**changes: object) -> bytes:
    """Return a credential file that is correct except for the changes beside its users."""
    return json.dumps({"version": 1, "users": {"user": ACCOUNT}, **changes}).encode()


TWICE = json.dumps(ACCOUNT)[:-1] + ', "priority": 1}'

DAMAGED = "damaged, or not a credential file"
SAID = {
    "user ann: quota must be a number from 1": file_with("ann", quota=0),
    "user ann: max_file_size must be a number": file_with("ann", max_file_size="1G"),
    "user ann: limit must be": file_with("ann", limit=1.5),
    "user ann: directory must be a relative path": file_with("ann", directory="../bob"),
    "user ann: allow_ext must be": file_with("ann", allow_ext=["pdf"]),
    "user ann: expires must be": file_with("ann", expires=-1),
    "user ann: disabled must be true or false": file_with("ann", disabled=0),
    "user ann: salt must be 1 to 64 bytes": file_with("ann", salt=""),
    "user ann: salt must be base64": file_with("ann", salt=1234),
    "user ann: stored_key must be 32 bytes": file_with("ann", stored_key="AAAA"),
    "user ann: server_key is missing": file_with("ann", without="server_key"),
    "user ann: 'qouta' is not known": file_with("ann", qouta=1),
    "user ann: 'priority' stands there twice": b'{"version": 1, "users": {"ann": %s}}'
    % TWICE.encode(),
    "'ann' stands there twice": b'{"version": 1, "users": {"ann": {}, "ann": {}}}',
    "'users' stands there twice": b'{"version": 1, "users": {}, "users": {}}',
    "version is missing": b'{"users": {}}',
    "users is missing": b'{"version": 1}',
    "'admins' is not known": document_with(admins=[]),
    "made by another version": document_with(version=2),
    "made by another version of this program": document_with(version=2, groups={}),
    "token_key must be base64": document_with(token_key=5),
    "a key does not have 32 bytes": document_with(salt_key="AAAA"),
    f"{DAMAGED}: it is empty": b"\n",
    f"{DAMAGED}: it is not UTF-8 text, in line 1": document_with().decode().encode("utf-16"),
    f"{DAMAGED}: it is not UTF-8 text, in line 3": b'{\n"users":\n{"\xff": 1}}',
    f"{DAMAGED}: Expecting property name enclosed in double quotes, in line 2, column 15": (
        b'{"version": 1,\n "users": {}, }'
    ),
    f"{DAMAGED}: Expecting value, in line 3, column 1": b'{\n"users":\n// ours\n{}}',
    f"{DAMAGED}: something in it is too large": b"[" * 100_000,
    f"{DAMAGED}: something in it is too large, or is no number": b'{"version": NaN}',
}


@pytest.mark.parametrize("words", SAID)
def test_a_malformed_file_is_refused_with_the_user_and_the_reason(
    credential_file: Path, words: str
) -> None:
    """FAULTS 25: the error names the user and the field, and none of the file's secrets."""
    credential_file.touch(0o600)
    credential_file.write_bytes(SAID[words])
    with pytest.raises(UsageError, match=re.escape(f"{credential_file}: {words}")) as caught:
        load_credentials(credential_file)
    assert str(ACCOUNT["stored_key"]) not in str(caught.value)


GOOD_DIRECTORIES = ["", "alice", "team/alice", "a b", "été", "a.b", "a..b", "x" * 255]
BAD_DIRECTORIES = ["/", "/x", "..", "../x", "a/..", "a/../b", ".", "./a", ".hidden", "a/.hidden"]
BAD_DIRECTORIES += [
    "a//b",
    "a/",
    "a\\b",
    "C:x",
    "a\x00b",
    "a\nb",
    "\u202ea",
    "-x",
    " a",
    "a/ ",
    "\ud800",
]
BAD_DIRECTORIES += ["x" * 256, "é" * 128, "/".join(["x"] * 1000)]


@pytest.mark.parametrize("directory", GOOD_DIRECTORIES, ids=short)
def test_a_directory_below_the_output_is_taken(directory: str) -> None:
    """Relative, with nothing hidden, of any depth."""
    assert USERS["user"].replace(directory=directory).directory == directory


@pytest.mark.parametrize("directory", BAD_DIRECTORIES, ids=short)
def test_a_directory_that_leads_elsewhere_or_hides_is_refused(directory: str) -> None:
    """FAULTS 8, for what an administrator may type."""
    with pytest.raises(ValueError, match="directory must be"):
        USERS["user"].replace(directory=directory)


@pytest.mark.parametrize(
    "extensions",
    [("pdf",), (".PDF",), (".",), ("..a",), (".a.",), (".a b",), (".a/b",), (".a,b",), ("",),
     [".a"], (".\x1b",), (1,), (".x" * 20,), (".a",) * 65, None, ".a"],
    ids=short,
)  # fmt: skip
def test_extensions_that_no_name_can_end_with_are_refused(extensions: Any) -> None:
    """A dot and something in lower case, once or more."""
    with pytest.raises(ValueError, match="allow_ext must be"):
        USERS["user"].replace(allow_ext=extensions)


MALFORMED_FILES = {
    "empty": b"",
    "not JSON": b"user:password\n",
    "cut": file_with()[:-20],
    "something behind": file_with() + b"{}",
    "not UTF-8": b'{"users": {"\xff": {}}}',
    "NUL": bytes(100),
    "null": b"null",
    "number": b"1",
    "list": b"[]",
    "no users": b'{"version": 1}',
    "list of users": b'{"users": [1]}',
    "user without entry": b'{"users": {"user": null}}',
    "user with a list": b'{"users": {"user": []}}',
    "nested": b"[" * 100_000,
    "long number": b'{"users": {"user": ' + b"9" * 5000 + b"}}",
    "no priority": file_with(without="priority"),
    "no iterations": file_with(without="iterations"),
    "no salt": file_with(without="salt"),
    "no stored key": file_with(without="stored_key"),
    "no server key": file_with(without="server_key"),
    "priority text": file_with(priority="1"),
    "priority true": file_with(priority=True),
    "priority fraction": file_with(priority=1.5),
    "priority too high": file_with(priority=101),
    "priority too low": file_with(priority=-101),
    "iterations text": file_with(iterations="4096"),
    "iterations true": file_with(iterations=True),
    "iterations too few": file_with(iterations=4095),
    "iterations too many": file_with(iterations=10_000_001),
    "salt empty": file_with(salt=""),
    "salt null": file_with(salt=None),
    "salt number": file_with(salt=1234),
    "salt not base64": file_with(salt="!!!!"),
    "salt not ASCII": file_with(salt="éééé"),
    "stored key short": file_with(stored_key="AAAA"),
    "stored key long": file_with(stored_key=base64.b64encode(bytes(33)).decode()),
    "stored key number": file_with(stored_key=1),
    "server key short": file_with(server_key="AAAA"),
    "server key list": file_with(server_key=[1]),
    "nameless user": file_with(""),
    "user named by an escape": file_with("\x1b[31m"),
    "user with a long name": file_with("x" * 256),
    "user with half a character": file_with("\ud800"),
}


@pytest.mark.parametrize("kind", MALFORMED_FILES)
def test_a_malformed_file_is_refused(credential_file: Path, kind: str) -> None:
    """FAULTS 25: one printable line that names the file, whatever stands in it."""
    credential_file.touch(0o600)
    credential_file.write_bytes(MALFORMED_FILES[kind])
    with pytest.raises(UsageError) as caught:
        load_credentials(credential_file)
    assert str(caught.value).startswith(f"credential file {credential_file}: ")
    assert str(caught.value).isprintable()


def test_a_byte_order_mark_is_no_damage(credential_file: Path) -> None:
    """Some editors write one before UTF-8."""
    credential_file.touch(0o600)
    credential_file.write_bytes(codecs.BOM_UTF8 + file_with())
    assert list(load_credentials(credential_file)) == ["user"]


@quick
@given(st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    """Bytes changed anywhere in the file never end in an error of another kind."""
    text = file_with()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 20, len(text))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "credentials")
        path.touch(0o600)
        path.write_bytes(text[:start] + data.draw(st.binary(max_size=20)) + text[end:])
        try:
            users = load_credentials(path)
        except UsageError:
            return
        assert len(users) <= 1


def test_a_refused_file_is_closed(credential_file: Path, tmp_path: Path) -> None:
    """Whatever is wrong with it, no descriptor stays open."""
    os.mkfifo(credential_file, 0o600)
    before = open_descriptors()
    for path in (credential_file, tmp_path, tmp_path / "missing", Path(os.devnull)):
        with pytest.raises(UsageError):
            load_credentials(path)
    assert open_descriptors() == before


def test_a_reader_sees_the_old_file_or_the_new_one(credential_file: Path) -> None:
    """Loading while another thread saves never fails."""
    versions = [USERS, Accounts({f"user{i}": USERS["user"] for i in range(50)})]
    save_credentials(credential_file, versions[0])
    done = threading.Event()

    def save() -> None:
        for number in range(40):
            save_credentials(credential_file, versions[number % 2])
        done.set()

    writer = threading.Thread(target=save)
    writer.start()
    loads = 0
    while not done.is_set() or not loads:
        assert load_credentials(credential_file) in versions
        loads += 1
    writer.join(PATIENCE)
    assert not writer.is_alive()


def test_saving_leaves_nothing_but_the_file(filled_file: Path, tmp_path: Path) -> None:
    """The temporary file has become the file."""
    save_credentials(filled_file, Accounts({}))
    assert list(tmp_path.iterdir()) == [filled_file]


def test_what_was_saved_survives_a_power_cut(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is flushed before the name is given, the directory after that."""
    flushed: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append((folder, b"alice" in filled_file.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    save_credentials(filled_file, Accounts({"alice": USERS["user"]}))
    assert flushed == [(False, False), (True, True)]


def test_saving_where_no_file_can_stand_leaves_nothing(tmp_path: Path) -> None:
    """The target is a directory: an error in one line, and no temporary file."""
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UsageError, match=re.escape(str(target))):
        save_credentials(target, USERS)
    assert list(tmp_path.iterdir()) == [target]


def test_saving_into_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error says that it is not there."""
    with pytest.raises(UsageError, match="No such file or directory"):
        save_credentials(tmp_path / "missing" / "credentials", USERS)


def test_saving_under_a_name_that_the_system_refuses_is_a_usage_error(tmp_path: Path) -> None:
    """The longest possible name leaves no room for the temporary file's longer one."""
    with pytest.raises(UsageError, match="File name too long"):
        save_credentials(tmp_path / ("x" * 250), USERS)


def test_a_symlink_is_replaced_and_not_written_through(filled_file: Path, tmp_path: Path) -> None:
    """Saving never changes a file that a link points to."""
    link = tmp_path / "link"
    link.symlink_to(filled_file)
    save_credentials(link, Accounts({}))
    assert load_credentials(link) == {}
    assert load_credentials(filled_file) == USERS


def test_of_two_changes_at_once_one_waits_for_the_other(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change made while another one waits is not lost."""
    real, waiting = fcntl.flock, threading.Event()

    def flock(descriptor: int, how: int) -> None:
        waiting.set()
        real(descriptor, how)

    with _locked(filled_file):
        monkeypatch.setattr(fcntl, "flock", flock)
        change = [
            "add",
            "user",
            "--keep-password",
            "--quota",
            "5K",
            "--credentials",
            str(filled_file),
        ]
        other = threading.Thread(target=auth.main, args=(change,))
        other.start()
        assert waiting.wait(PATIENCE)
        save_credentials(filled_file, Accounts({**USERS, "alice": USERS["user"]}))
    other.join(PATIENCE)
    assert not other.is_alive()
    loaded = load_credentials(filled_file)
    assert loaded["user"].quota == 5 * 1024
    assert "alice" in loaded


def test_processes_that_add_at_the_same_time_lose_no_user(credential_file: Path) -> None:
    """Real processes, a new file, one user each."""
    variables = {**environment(), PASSWORD_VARIABLE: "pw"}
    command = [sys.executable, str(auth.__file__), "add", "--credentials", str(credential_file)]
    crowd = [subprocess.Popen([*command, f"user{i}"], env=variables) for i in range(3)]
    assert [one.wait(PATIENCE) for one in crowd] == [0] * 3
    assert sorted(load_credentials(credential_file)) == [f"user{i}" for i in range(3)]


def test_the_lock_is_for_its_owner_only_and_never_a_link(filled_file: Path, tmp_path: Path) -> None:
    """Another user can neither hold us up nor have us make a file elsewhere."""
    with _locked(filled_file):
        lock = tmp_path / ".credentials.json.lock"
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"), _locked(filled_file):
        pass
    assert not (tmp_path / "elsewhere").exists()
