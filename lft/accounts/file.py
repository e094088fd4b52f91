"""The credential file: read, written, and followed while a server runs."""

from __future__ import annotations

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
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from lft.accounts.account import Accounts, Credential, Credentials, is_user_name, is_whole
from lft.accounts.keys import from_base64, to_base64
from lft.strictjson import as_object, parse_json, with_keys
from lft.terminal import printable
from protocol import UsageError

MAX_CREDENTIALS_FILE = 16 * 1024 * 1024  # bytes: some fifty thousand users
READ_AGAIN_AFTER = 5.0  # seconds until a credential file that could not be read is tried once more


def load_credentials(path: Path) -> Accounts:
    """Read a credential file. Raises ``UsageError`` that says what is wrong with it, and where."""
    try:
        with _told(path):
            return _from_document(_read_private(path))
    except ValueError as error:
        raise UsageError(f"credential file {path}: {printable(str(error))}") from None


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the system says of a credential file into one line of ours."""
    try:
        yield
    except OSError as error:
        # how O_NOFOLLOW says it
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise UsageError(f"credential file {path}: {reason}") from None


def _read_private(path: Path) -> bytes:
    """Read a file that only its owner may read, never through a symlink."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_private(path, os.fstat(descriptor))
        return os.read(descriptor, MAX_CREDENTIALS_FILE)
    finally:
        os.close(descriptor)


def _check_private(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"credential file {path}: not a regular file")
    if facts.st_mode & 0o077:
        raise UsageError(f"credential file {path}: others can read it; chmod 600 {path}")
    if facts.st_uid not in (0, os.geteuid()):  # whoever owns it can change it at any time
        raise UsageError(f"credential file {path}: it belongs to another user")
    if facts.st_size > MAX_CREDENTIALS_FILE:
        raise UsageError(f"credential file {path}: too large")


_KEYS = {"token_key", "salt_key"}


def _from_document(data: bytes) -> Accounts:
    parsed = parse_json(data, fractions=True)
    if not is_whole(as_object(parsed).get("version", 1), 1, 1):  # which may know other keys, too
        raise ValueError("made by another version of this program")
    document = with_keys(parsed, {"version", "users"}, _KEYS)
    keys = {name: from_base64(document[name], name) for name in _KEYS & document.keys()}
    if any(len(key) != 32 for key in keys.values()):
        raise ValueError("a key does not have 32 bytes")
    users = as_object(document["users"])
    return Accounts({name: _from_json(name, entry) for name, entry in users.items()}, **keys)


_REQUIRED = {item.name for item in fields(Credential) if item.default is MISSING}
OPTIONAL = {item.name for item in fields(Credential)} - _REQUIRED


def _from_json(name: str, entry: object) -> Credential:
    """Make a credential of its entry in the file. Raises ``ValueError`` that names the user."""
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


def save_credentials(path: Path, credentials: Credentials) -> None:
    """Write the file anew, mode 0600, in one step: a reader sees the old or the new one.

    Raises ``UsageError`` where the system does not let us.
    """
    text = json.dumps(_to_document(snapshot(credentials)), indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _told(path):
            _write_private(temporary, text.encode())
            os.replace(temporary, path)
            _sync_directory(path.parent)  # or a removed user is back after a power cut
    finally:
        with contextlib.suppress(OSError):  # gone already, unless something went wrong
            temporary.unlink()


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_document(accounts: Accounts) -> dict[str, object]:
    keys = {"salt_key": accounts.salt_key, "token_key": accounts.token_key}
    users = {name: _to_json(credential) for name, credential in sorted(accounts.items())}
    return {"version": 1, **{name: to_base64(k) for name, k in keys.items() if k}, "users": users}


def _to_json(credential: Credential) -> dict[str, object]:
    """Return a user's entry: what is as it is by default is left out."""
    defaults = {item.name: item.default for item in fields(credential)}
    return {
        key: to_base64(value) if isinstance(value, bytes) else value
        for key, value in asdict(credential).items()
        if value != defaults[key]
    }


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file meanwhile; may wait for them.

    The lock is a file beside it, since the file itself is replaced; lckpwdf(3) does the same for
    /etc/passwd. It stays: if the one who has it removed it, two could have one each.
    """
    lock = path.with_name(f".{path.name}.lock")
    with _told(lock):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(lock, flags, 0o600)
    try:
        with _told(lock):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the system gives it back when we die
        yield
    finally:
        os.close(descriptor)


def change(path: Path, change: Callable[[Accounts], Accounts]) -> Accounts:
    """Let ``change`` make the file's next content. Of two changes at once, one waits."""
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


class CredentialStore(Mapping[str, Credential]):
    """The accounts of a credential file, read again when it has changed.

    A file that has become unreadable or damaged changes nothing: the accounts read last stay in
    force, ``warn`` is told once, in one line without secrets, and the file is tried again now and
    then, since the trouble may be ours (no descriptor left). Raises ``UsageError`` when the file is
    bad from the start. May be used by any thread.

    ``_lock`` guards all that changes; nothing is read from disk or told while it is held.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self._path = path
        self._warn = warn
        self._lock = threading.Lock()
        self._seen = _identity(path)  # of the file that somebody has read, or is reading now
        self._again = math.inf  # when to read it once more even if it has not changed
        self._problem: str | None = None
        self._read = load_credentials(path)

    def current(self) -> Accounts:
        """Return the accounts of now: one stat call, and a read if the file has changed."""
        identity = _identity(self._path)
        with self._lock:
            if identity == self._seen and time.monotonic() < self._again:
                return self._read
            # it is ours to read: the others go on with what there is
            self._seen, self._again = identity, math.inf
        accounts, problem = None, None
        try:
            accounts = load_credentials(self._path)
        except UsageError as error:
            problem = str(error)
        with self._lock:
            if self._seen != identity:  # somebody has seen, and reads, a newer file
                return self._read
            known, self._problem = self._problem, problem
            if accounts is None:
                self._again = time.monotonic() + READ_AGAIN_AFTER
            else:
                self._read = accounts
            read = self._read
        if problem and problem != known:
            self._warn(f"{problem}; the accounts read before stay in force")
        return read

    def __getitem__(self, name: str) -> Credential:
        return self.current()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.current())

    def __len__(self) -> int:
        return len(self.current())


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what is another when the file is; its change time tells of a chmod, too."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size


def snapshot(credentials: Credentials) -> Accounts:
    """Return what does not change while one login looks at it."""
    if isinstance(credentials, CredentialStore):
        return credentials.current()
    return credentials if isinstance(credentials, Accounts) else Accounts(credentials)
