"""The credential file: reading it, writing it, and following it while a server runs."""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import json
import math
import os
import secrets
import stat
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import config
from lft.accounts.account import Accounts, Credential, is_user_name
from lft.accounts.keys import from_base64, to_base64
from lft.files import flush_directory
from lft.records import is_whole
from lft.strictjson import as_object, parse_json, with_keys
from lft.terminal import printable
from protocol import UsageError

MAX_CREDENTIALS_FILE = 16 * 1024 * 1024  # bytes: some fifty thousand users


class StaleFileError(UsageError):
    """The credential file that we see is not the one that is changed where it is mounted from."""


def load_credentials(path: Path) -> Accounts:
    """Read a credential file. Raises ``UsageError`` that says what is wrong in which file."""
    try:
        with _os_errors_told(path):
            return _from_document(_read_private(path))
    except ValueError as error:
        raise UsageError(f"credential file {path}: {printable(str(error))}") from None


@contextlib.contextmanager
def _os_errors_told(path: Path) -> Iterator[None]:
    """Turn an error of the system into one line that names the credential file."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise UsageError(f"credential file {path}: {reason}") from None


_REASONS = {
    errno.ELOOP: "it is a symbolic link",  # how O_NOFOLLOW says it
    errno.EBUSY: "it is mounted by itself and cannot be replaced; mount its directory instead",
}


def _read_private(path: Path) -> bytes:
    """Read a file that only its owner may read, never through a symlink."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        _check_private(path, facts)
        _check_linked(path, facts)
        return os.read(descriptor, MAX_CREDENTIALS_FILE)
    finally:
        os.close(descriptor)


def _check_private(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"credential file {path}: not a regular file")
    if facts.st_mode & 0o077:
        raise UsageError(f"credential file {path}: others can read it; chmod 600 {path}")
    if facts.st_uid not in (0, os.geteuid()):  # its owner can change it at any time
        raise UsageError(f"credential file {path}: it belongs to another user")
    if facts.st_size > MAX_CREDENTIALS_FILE:
        raise UsageError(f"credential file {path}: too large")


def _check_linked(path: Path, facts: os.stat_result) -> None:
    """Raise ``StaleFileError`` for a file that has no name any more, yet ``path`` leads to it.

    So it is with a single file that is mounted, into a container for example, once it is replaced
    where it comes from: users that were removed there still stand in this one.
    """
    if facts.st_nlink == 0 and os.path.samestat(facts, os.lstat(path)):
        raise StaleFileError(
            f"credential file {path}: it was replaced where it is mounted from, and the new one "
            "cannot be seen from here; mount its directory instead of the file"
        )


_KEYS = {"token_key", "salt_key"}


def _from_document(data: bytes) -> Accounts:
    data = data[3:] if data.startswith(codecs.BOM_UTF8) else data  # some editors write one
    try:
        parsed = parse_json(data, fractions=True)
    except ValueError:
        raise ValueError(f"damaged, or not a credential file: {_trouble(data)}") from None
    if not is_whole(as_object(parsed).get("version", 1), 1, 1):  # which may know other keys, too
        raise ValueError("made by another version of this program")
    document = with_keys(parsed, {"version", "users"}, _KEYS)
    keys = {name: from_base64(document[name], name) for name in _KEYS & document.keys()}
    if any(len(key) != 32 for key in keys.values()):
        raise ValueError("a key does not have 32 bytes")
    users = as_object(document["users"])
    return Accounts({name: _from_json(name, entry) for name, entry in users.items()}, **keys)


def _trouble(data: bytes) -> str:
    """Say what makes ``data`` no JSON, and in which line and column, without quoting it."""
    if not data.strip():
        return "it is empty"
    try:
        json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 text, in line {data.count(10, 0, error.start) + 1}"
    except json.JSONDecodeError as error:
        return f"{error.msg}, in line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        pass
    return "something in it is too large, or is no number"


_REQUIRED = {name for name, item in Credential.FIELDS.items() if item.required}
OPTIONAL = Credential.FIELDS.keys() - _REQUIRED


def _from_json(name: str, entry: object) -> Credential:
    """Make a credential from its entry in the file. Raises ``ValueError`` that names the user."""
    if not is_user_name(name):
        raise ValueError(f"user {name[:40]!a}: not a name that a user can have")
    try:
        given = with_keys(entry, _REQUIRED, OPTIONAL)
        return Credential(**{key: _value(key, value) for key, value in given.items()})
    except ValueError as error:
        raise ValueError(f"user {name}: {error}") from None


def _value(key: str, value: object) -> Any:
    if key in ("salt", "stored_key", "server_key"):
        return from_base64(value, key)
    return tuple(value) if isinstance(value, list) else value


def save_credentials(path: Path, accounts: Accounts) -> None:
    """Replace the file in one step, mode 0600: a reader sees the old one or the new one.

    Raises ``UsageError`` where the system does not let us.
    """
    text = json.dumps(_to_document(accounts), indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _os_errors_told(path):
            _write_private(temporary, text.encode())
            os.replace(temporary, path)
            flush_directory(path.parent)  # or a removed user is back after a power cut
    finally:
        with contextlib.suppress(OSError):  # gone already, unless something went wrong
            temporary.unlink()


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _to_document(accounts: Accounts) -> dict[str, object]:
    keys = {"salt_key": accounts.salt_key, "token_key": accounts.token_key}
    users = {name: _to_json(credential) for name, credential in sorted(accounts.items())}
    return {"version": 1, **{name: to_base64(k) for name, k in keys.items() if k}, "users": users}


def _to_json(credential: Credential) -> dict[str, object]:
    """Return a user's entry in the file, without the fields that have their default."""
    return {
        key: to_base64(value) if isinstance(value, bytes) else value
        for key, value in vars(credential).items()
        if value != credential.FIELDS[key].default
    }


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file meanwhile; may wait for them.

    The lock is a file beside it, since the file itself is replaced; lckpwdf(3) does the same for
    /etc/passwd. It is never removed, or two processes could hold a lock of that name each.
    """
    lock = path.with_name(f".{path.name}.lock")
    with _os_errors_told(lock):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(lock, flags, 0o600)
    try:
        with _os_errors_told(lock):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the system releases it when we die
        yield
    finally:
        os.close(descriptor)


def change(path: Path, change: Callable[[Accounts], Accounts]) -> Accounts:
    """Replace the file's accounts by what ``change`` makes of them. Of two at once, one waits."""
    with _locked(path):
        old = load_or_new(path)
        new = change(old)
        if new is not old:
            save_credentials(path, new)
        return new


def load_or_new(path: Path) -> Accounts:
    if os.path.lexists(path):
        return load_credentials(path)
    return Accounts({})


class CredentialStore:
    """The accounts of a credential file, read again when it has changed.

    A file that has become unreadable or damaged changes nothing: the accounts read last stay in
    force, ``warn`` gets one line without secrets, once, and the file is tried again now and then,
    since the trouble may be ours (no descriptor left). A file that was replaced out of our sight is
    worse, because users may have been removed from it: until it can be read there are no users.
    Raises ``UsageError`` when the file is bad from the start. Any thread may use it.

    ``_lock`` guards all that changes; nothing is read from disk and no warning given under it.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self._path = path
        self._warn = warn
        self._lock = threading.Lock()
        self._seen = _identity(path)  # of the file that a thread has read, or is reading now
        self._again = math.inf  # when to read the file once more even if it has not changed
        self._problem: str | None = None
        self._read = load_credentials(path)

    def current(self) -> Accounts:
        """Return the present accounts: one stat call, and a read if the file has changed."""
        identity = _identity(self._path)
        with self._lock:
            if identity == self._seen and time.monotonic() < self._again:
                return self._read
            # this thread reads it; meanwhile the others use the accounts read before
            self._seen, self._again = identity, math.inf
        accounts, problem = self._load()
        with self._lock:
            if self._seen != identity:  # another thread has seen a newer file, and reads that
                return self._read
            known, self._problem = self._problem, problem
            if problem:
                self._again = time.monotonic() + config.READ_AGAIN_AFTER
            self._read = read = self._read if accounts is None else accounts
        if problem and problem != known:
            self._warn(problem)
        return read

    def _load(self) -> tuple[Accounts | None, str | None]:
        """Read the file; return the accounts, ``None`` for those read before, and the problem."""
        try:
            return load_credentials(self._path), None
        except StaleFileError as error:
            return self._read.with_users({}), f"{error}; until then no user can log in"
        except UsageError as error:
            return None, f"{error}; the accounts read before stay in force"


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what differs when the file does; its change time also shows a chmod."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size
