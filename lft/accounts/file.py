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
from typing import Any, Callable, Iterator, Mapping

import config
from lft.accounts.account import Accounts, Credential, is_user_name
from lft.accounts.keys import from_base64, to_base64
from lft.accounts.privacy import (
    NotPrivateError,
    check_private,
    chown_advice,
    copy_access,
    follow_links,
)
from lft.files import flush_directory
from lft.records import is_whole
from lft.strictjson import as_object, parse_json, with_keys
from lft.terminal import printable
from protocol import UsageError

MAX_CREDENTIALS_FILE = 16 * 1024 * 1024  # bytes: some fifty thousand users


class StaleFileError(UsageError):
    """The credential file that we see is not the one that is changed where it is mounted from."""


def load_credentials(path: Path, *, editing: bool = False) -> Accounts:
    """Read a credential file. Raises ``UsageError`` that says what is wrong in which file.

    When root is ``editing`` it, the account of the server may read it, too.
    """
    try:
        denied = {errno.EACCES: chown_advice(path)}
        with _os_errors_told(path, denied), _open_private(path, editing=editing) as descriptor:
            return _from_document(os.read(descriptor, MAX_CREDENTIALS_FILE))
    except ValueError as error:
        raise UsageError(f"credential file {path}: {printable(str(error))}") from None


@contextlib.contextmanager
def _os_errors_told(path: Path, words: Mapping[int, str] | None = None) -> Iterator[None]:
    """Turn an error of the system into one line that names the credential file.

    ``words`` are better ones than the system's, by the number of the error.
    """
    try:
        yield
    except OSError as error:
        reason = {**_REASONS, **(words or {})}.get(error.errno or 0, error.strerror)
        raise UsageError(f"credential file {path}: {reason}") from None
    except NotPrivateError as error:
        raise UsageError(f"credential file {path}: {error}") from None


_REASONS = {
    errno.EBUSY: "it is mounted by itself and cannot be replaced; mount its directory instead",
    errno.EROFS: "it is mounted read-only; change it where it is mounted from",
}
_DENIED = {errno.EACCES: "this user may not change it; run auth.py as the owner of its directory"}


@contextlib.contextmanager
def _open_private(path: Path, *, editing: bool) -> Iterator[int]:
    """Open a file that no other account can read or exchange.

    Raises ``OSError``, ``UsageError`` or ``ValueError``.
    """
    place = follow_links(path)
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        check_private(descriptor, path, editing=editing)
        if facts.st_size > MAX_CREDENTIALS_FILE:
            raise ValueError("too large")
        _check_linked(path, facts)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_linked(path: Path, facts: os.stat_result) -> None:
    """Raise ``StaleFileError`` for a file that has no name any more, yet ``path`` leads to it.

    So it is with a single file that is mounted, into a container for example, once it is replaced
    where it comes from: users that were removed there still stand in this one.
    """
    if facts.st_nlink == 0 and os.path.samestat(facts, os.stat(path)):
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
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is UTF-16 text; save it as UTF-8"
    try:
        json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return f"it is not UTF-8 text, in line {line}"
    except json.JSONDecodeError as error:
        return f"{_mistake(error)}, in line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        pass
    return "something in it is too large, or is no number"


def _mistake(error: json.JSONDecodeError) -> str:
    """Put what people add to JSON by hand into words; otherwise the library has its own."""
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :]
    if rest.startswith(("#", "//", "/*")):
        return "JSON has no comments"
    behind = rest[1:].lstrip()[:1]
    if rest[:1] == "," and (before[-1:] in (",", "{", "[") or behind in ("}", "]")):
        return "a comma too many"
    if rest[:1] in ("}", "]") and before[-1:] == ",":
        return "a comma too many"
    return error.msg


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
    """Replace the file in one step: a reader sees the old one or the new one.

    A new one has mode 0600; otherwise those that could read the old one can read the new one, if
    that was private. Raises ``UsageError`` where the system does not let us.
    """
    text = json.dumps(_to_document(accounts), indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _os_errors_told(path, _DENIED):
            _write_private(temporary, text.encode(), path)
            os.replace(temporary, path)
            flush_directory(path.parent)  # or a removed user is back after a power cut
    finally:
        with contextlib.suppress(OSError):  # gone already, unless something went wrong
            temporary.unlink()


def _write_private(path: Path, data: bytes, before: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        _keep_access(descriptor, before)
        os.fsync(descriptor)


def _keep_access(descriptor: int, before: Path) -> None:
    """Let the readers of the file that is replaced read the new one, where that was private."""
    with contextlib.suppress(OSError, ValueError, UsageError), _open_private(
        before, editing=True
    ) as old:
        copy_access(old, descriptor)


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
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _os_errors_told(path, _DENIED):
        descriptor = os.open(lock, flags, 0o600)
    try:
        with _os_errors_told(lock):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the system releases it when we die
        yield
    finally:
        os.close(descriptor)


def change(path: Path, change: Callable[[Accounts], Accounts]) -> Accounts:
    """Replace the file's accounts by what ``change`` makes of them. Of two at once, one waits.

    Where ``path`` is a link the file that it leads to is replaced, and not the link.
    """
    place = path
    if os.path.lexists(path):
        with _os_errors_told(path):
            place = follow_links(path)
    with _locked(place):
        old = load_or_new(place)
        new = change(old)
        if new is not old:
            save_credentials(place, new)
        return new


def load_or_new(path: Path) -> Accounts:
    """Read a credential file that will be changed; without one there are no users."""
    if os.path.lexists(path):
        return load_credentials(path, editing=True)
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
        facts = os.stat(path)  # of the file that links lead to, which they may change
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size
