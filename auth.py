"""Who may come in, over which channel: credentials, SCRAM, tokens, TLS, and a small command line.

What lives here: salted verifiers and the file that keeps them, both sides of SCRAM-SHA-256 with and
without channel binding (RFC 5802, RFC 7677, RFC 5929), tokens for unattended use (RFC 7519), the
delay that guessing costs, TLS contexts, passwords read the same way everywhere. What does not:
sockets, and any logging of secrets.

No password crosses the wire and none is kept: the server holds what RFC 5802 calls StoredKey and
ServerKey, from which neither the password nor a login can be made. The key that signs tokens is
another matter: who can read the file it stands in can make a token. Hence its mode.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import ipaddress
import json
import math
import os
import re
import secrets
import ssl
import stat
import stringprep
import sys
import threading
import time
import unicodedata
from collections import Counter, OrderedDict
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, NamedTuple, Tuple

from config import (
    LEAST_LIMIT,
    checked,
    format_size,
    keep_own_rights,
    make_output_safe,
    parse_size,
    printable,
    rate_argument,
    say,
)
from protocol import (
    MAX_FILE_SIZE,
    MAX_TEXT,
    SCRAM,
    AuthenticationError,
    TransferError,
    UsageError,
    is_loopback,
)

ITERATIONS = 100_000  # about 25 ms once per login, a hundred thousand times that for a guesser
MIN_ITERATIONS = 4096  # the least RFC 7677 allows; less would be an attack on the password
MAX_ITERATIONS = 10_000_000  # a server asking for more wants to keep our processor busy
MAX_CREDENTIALS_FILE = 16 * 1024 * 1024  # bytes: some fifty thousand users
MAX_USER_NAME = 255  # characters
MAX_NONCE = 256  # characters of one side's nonce: what is made of it still fits a message
MAX_SALT = 64  # bytes: it must fit a message, and more than 16 bring nothing
MAX_TIME = 253_402_300_799  # the last second of the year 9999, which is the last one with a name
READ_AGAIN_AFTER = 5.0  # seconds until a credential file that could not be read is tried once more
MAX_TOKEN = MAX_TEXT  # characters: it must fit a message
MAX_SECRET_FILE = 4096  # bytes of the first line of a password or token file
MAX_PEM_FILE = 1024 * 1024  # bytes of a certificate chain or a key
PRIORITIES = range(-100, 101)
TOKEN_LIFETIME = "30d"  # noqa: S105  (how long, not what)
LEEWAY = 60  # seconds a clock may be ahead of ours; none for a token's end, which is ours to say
DEMO_ACCOUNTS = {"admin": ("admin123", 1), "user1": ("password1", 0)}  # for loopback only
PASSWORD_VARIABLE = "LFT_PASSWORD"  # noqa: S105  (a name, not a password)

_BAD_LOGIN = "unknown user or wrong password"
_BAD_TOKEN = "the token is not valid"  # noqa: S105  (a message)

# --- credentials: the checks of a field ---------------------------------------------------------


def _checked(check: Callable[[Any], bool], wants: str, **options: Any) -> Any:
    return field(metadata={"check": check, "wants": wants}, **options)


def _whole(low: int, high: int) -> Any:
    return _checked(lambda v: _is_whole(v, low, high), f"a number from {low} to {high}")


def _limit(high: int = MAX_FILE_SIZE) -> Any:
    """Make a field that holds a limit, or ``None`` where there is none."""
    wants = f"a number from 1 to {high}"
    return _checked(lambda v: v is None or _is_whole(v, 1, high), wants, default=None)


def _secret(low: int, high: int) -> Any:
    wants = f"{low} to {high} bytes in base64" if low < high else f"{high} bytes in base64"
    return _checked(lambda v: isinstance(v, bytes) and low <= len(v) <= high, wants, repr=False)


def _is_whole(value: object, low: int, high: int) -> bool:
    # type() and not isinstance(): a bool is an int to Python, not to a file
    return type(value) is int and low <= value <= high


def _is_directory(value: object) -> bool:
    """Whether this names a place below the output directory: relative, plain, nothing hidden."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    return value == "" or all(_is_folder(part) for part in value.split("/"))


def _is_folder(name: str) -> bool:
    plain = printable(name) == name and name.strip() == name and not set(name) & set("\\:")
    return plain and name[:1] not in ("", ".", "-") and len(name.encode()) <= 255


def _are_extensions(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= 64 and all(_is_extension(v) for v in value)


def _is_extension(value: object) -> bool:
    if not isinstance(value, str) or len(value) > 32 or printable(value) != value:
        return False
    return re.fullmatch(r"(\.[^\s./\\,]+)+", value) is not None and value.lower() == value


# --- credentials --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Credential:
    """A stored identity: a salted verifier (RFC 5802, section 3), never a password, and limits.

    ``directory`` is relative to the output directory, which "" stands for itself. ``max_file_size``
    and ``quota`` are bytes, ``limit`` bytes per second, ``expires`` seconds since 1970; ``None``
    means no limit. ``allow_ext`` are the ends of names that are taken, in lower case; none: all.
    Its fields are checked when it is made: ``ValueError`` says which one is wrong.
    """

    priority: int = _whole(PRIORITIES[0], PRIORITIES[-1])
    iterations: int = _whole(MIN_ITERATIONS, MAX_ITERATIONS)
    salt: bytes = _secret(1, MAX_SALT)
    stored_key: bytes = _secret(32, 32)
    server_key: bytes = _secret(32, 32)
    directory: str = _checked(
        _is_directory, "a relative path with nothing hidden in it, such as team/alice", default=""
    )
    max_file_size: int | None = _limit()
    quota: int | None = _limit()
    limit: int | None = _limit()
    allow_ext: tuple[str, ...] = _checked(
        _are_extensions, "up to 64 extensions such as .pdf, in lower case", default=()
    )
    expires: int | None = _limit(MAX_TIME)
    disabled: bool = _checked(lambda v: isinstance(v, bool), "true or false", default=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            if not item.metadata["check"](getattr(self, item.name)):
                raise ValueError(f"{item.name} must be {item.metadata['wants']}")

    @classmethod
    def make(cls, password: str, priority: int = 0, iterations: int = ITERATIONS) -> Credential:
        """Make the verifier of ``password`` with a salt of its own."""
        salt = secrets.token_bytes(16)
        salted = _salted(password, salt, iterations)
        stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
        return cls(priority, iterations, salt, stored, _hmac(salted, b"Server Key"))

    def active(self, now: float) -> bool:
        """Whether the account is open at ``now``, in seconds since 1970."""
        return not self.closed(now)

    def closed(self, now: float) -> str:
        """Say why nobody can log in at ``now``; nothing if that is not so."""
        if self.disabled:
            return "is closed"
        return "has expired" if self.expires is not None and now >= self.expires else ""


class ClosedAccountError(ValueError):
    """Somebody tries an account that is closed or has expired: for the log, not for the client."""

    def __init__(self, user: str, account: Credential, now: float) -> None:
        super().__init__(f"the account of {user} {account.closed(now)}")


Credentials = Mapping[str, Credential]


class Accounts(Mapping[str, Credential]):
    """What a credential file holds. It never changes: a change makes another one.

    ``token_key`` signs tokens; ``salt_key`` makes the salts of users who do not exist, the same
    ones after a restart. Either is empty where the file has none. ``usual_iterations`` is what most
    of the users have.
    """

    def __init__(
        self, users: Credentials, *, token_key: bytes = b"", salt_key: bytes = b""
    ) -> None:
        self._users = dict(users)
        self.token_key = token_key
        self.salt_key = salt_key
        counts = Counter(one.iterations for one in self._users.values())
        self.usual_iterations = max(counts, key=lambda n: (counts[n], n), default=ITERATIONS)

    def __getitem__(self, name: str) -> Credential:
        return self._users[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._users)

    def __len__(self) -> int:
        return len(self._users)

    def with_users(self, users: Credentials) -> Accounts:
        """Return the same keys with other users, and a salt key where there was none yet."""
        salt_key = self.salt_key or secrets.token_bytes(32)
        return Accounts(users, token_key=self.token_key, salt_key=salt_key)

    def with_token_key(self, *, renew: bool) -> Accounts:
        """Return these with a token key; with ``renew`` with a new one, which ends all tokens."""
        if self.token_key and not renew:
            return self
        return Accounts(self, token_key=secrets.token_bytes(32), salt_key=self.salt_key)


def _accounts(credentials: Credentials) -> Accounts:
    """Return what does not change while one login looks at it."""
    if isinstance(credentials, CredentialStore):
        return credentials.current()
    return credentials if isinstance(credentials, Accounts) else Accounts(credentials)


def demo_credentials() -> Credentials:
    """Return the accounts for trying it out; the caller sees to it that it is on loopback."""
    return {
        name: Credential.make(password, priority, MIN_ITERATIONS)  # no secret: why make it slow
        for name, (password, priority) in DEMO_ACCOUNTS.items()
    }


# --- the credential file: reading ---------------------------------------------------------------


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


class _Pairs(List[Tuple[str, Any]]):
    """A JSON object as it was written, with every key as often as it stands there."""


def _parse_json(data: bytes) -> object:
    """Parse JSON strictly. Raises ``ValueError`` that does not quote it."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise ValueError("damaged, or not a credential file") from None


def _object(value: object, required: set[str], optional: set[str]) -> dict[str, Any]:
    """Return a JSON object that has these keys, each once. Raises ``ValueError``."""
    given = _unique(value)
    missing, unknown = required - given.keys(), given.keys() - required - optional
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    if unknown:
        raise ValueError(f"{min(unknown)[:40]!a} is not known")
    return given


def _unique(value: object) -> dict[str, Any]:
    if not isinstance(value, _Pairs):
        raise ValueError("damaged, or not a credential file")  # noqa: TRY004  (not a bug of ours)
    for key, times in Counter(key for key, _ in value).items():
        if times > 1:
            raise ValueError(f"{key[:40]!a} stands there twice")
    return dict(value)


_KEYS = {"token_key", "salt_key"}


def _from_document(data: bytes) -> Accounts:
    parsed = _parse_json(data)
    if not _is_whole(_unique(parsed).get("version", 1), 1, 1):  # which may know other keys, too
        raise ValueError("made by another version of this program")
    document = _object(parsed, {"version", "users"}, _KEYS)
    keys = {name: _unbase64(document[name], name) for name in _KEYS & document.keys()}
    if any(len(key) != 32 for key in keys.values()):
        raise ValueError("a key does not have 32 bytes")
    users = _unique(document["users"])
    return Accounts({name: _from_json(name, entry) for name, entry in users.items()}, **keys)


_REQUIRED = {item.name for item in fields(Credential) if item.default is MISSING}
_OPTIONAL = {item.name for item in fields(Credential)} - _REQUIRED


def _from_json(name: str, entry: object) -> Credential:
    """Make a credential of its entry in the file. Raises ``ValueError`` that names the user."""
    if not _is_user_name(name):
        raise ValueError(f"user {name[:40]!a}: not a name that a user can have")
    try:
        given = _object(entry, _REQUIRED, _OPTIONAL)
        return Credential(**{key: _value(key, value) for key, value in given.items()})
    except ValueError as error:
        raise ValueError(f"user {name}: {error}") from None


def _value(key: str, value: object) -> Any:
    if key in ("salt", "stored_key", "server_key"):
        return _unbase64(value, key)
    return tuple(value) if type(value) is list else value  # not a _Pairs


def _is_user_name(name: str) -> bool:
    return 0 < len(name) <= MAX_USER_NAME and printable(name) == name


def check_user_name(name: str) -> None:
    """Raise ``UsageError`` for a name that cannot be one."""
    if not _is_user_name(name) or not _is_user_name(saslprep(name)):
        raise UsageError(f"a user name has 1 to {MAX_USER_NAME} printable characters")


# --- the credential file: writing ---------------------------------------------------------------


def save_credentials(path: Path, credentials: Credentials) -> None:
    """Write the file anew, mode 0600, in one step: a reader sees the old or the new one.

    Raises ``UsageError`` where the system does not let us.
    """
    text = json.dumps(_to_document(_accounts(credentials)), indent=2) + "\n"
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
    return {"version": 1, **{name: _base64(k) for name, k in keys.items() if k}, "users": users}


def _to_json(credential: Credential) -> dict[str, object]:
    """Return a user's entry: what is as it is by default is left out."""
    defaults = {item.name: item.default for item in fields(credential)}
    return {
        key: _base64(value) if isinstance(value, bytes) else value
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


def _change(path: Path, change: Callable[[Accounts], Accounts]) -> Accounts:
    """Let ``change`` make the file's next content. Of two changes at once, one waits."""
    with _locked(path):
        old = _load_or_new(path)
        new = change(old)
        if new is not old:
            save_credentials(path, new)
        return new


def _load_or_new(path: Path) -> Accounts:
    if os.path.lexists(path):
        return load_credentials(path)
    return Accounts({})


# --- the credential file, as a running server sees it -------------------------------------------


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


# --- tokens -------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """Who has logged in."""

    user: str
    credential: Credential


def signing_key(token_key: bytes, credential: Credential | None) -> bytes:
    """Return the key of one user's tokens.

    It is made from the file's key and from the user's verifier: a new password ends the user's
    tokens, and a name that is given to somebody else does not come with the old owner's tokens.
    """
    return _hmac(token_key, b"token:" + (credential.stored_key if credential else bytes(32)))


def make_token(accounts: Accounts, user: str, lifetime: int, now: float | None = None) -> str:
    """Make a JWT (RFC 7519, HS256) for ``user``, good for ``lifetime`` seconds.

    Raises ``UsageError`` for a user who could not use it.
    """
    issued = int(time.time() if now is None else now)
    credential = _holder(accounts, user, issued)
    if not accounts.token_key:
        raise UsageError("there is no key for tokens yet")
    claims = {"sub": user, "iat": issued, "exp": issued + lifetime, "jti": secrets.token_hex(8)}
    signed = f"{_json_part({'alg': 'HS256', 'typ': 'JWT'})}.{_json_part(claims)}"
    key = signing_key(accounts.token_key, credential)
    token = f"{signed}.{_base64url(_hmac(key, signed.encode()))}"
    if len(token) > MAX_TOKEN:
        raise UsageError(f"the name {user} is too long for a token")
    return token


def _holder(accounts: Accounts, user: str, now: float) -> Credential:
    """Return the account of somebody who may have a token. Raises ``UsageError``."""
    credential = accounts.get(user)
    if credential is None:
        raise UsageError(f"no user {printable(user)}")
    if not credential.active(now):
        raise UsageError(f"the account of {user} is disabled or has expired")
    return credential


def verify_token(token: str, credentials: Credentials, now: float | None = None) -> Identity:
    """Return whose token this is.

    Raises ``AuthenticationError``, always with the same words, for one that is not valid: not
    signed by us with HS256, not written as we would, expired, from the future, or of a user who
    does not exist or may not log in (its cause tells of that, and is not for the client). To refuse
    one costs the same work for every user.
    """
    try:
        return _token_owner(token, _accounts(credentials), time.time() if now is None else now)
    except ClosedAccountError as error:
        raise AuthenticationError(_BAD_TOKEN) from error
    except (ValueError, RecursionError):
        raise AuthenticationError(_BAD_TOKEN) from None


def _token_owner(token: str, accounts: Accounts, now: float) -> Identity:
    if len(token) > MAX_TOKEN:
        raise ValueError("too long")
    header, claims, signature = token.split(".")
    # nothing else may stand there: a header that we do not understand may change what is meant
    kind = _object(_parse_json(_unbase64url(header)), {"alg"}, {"typ"})
    if kind["alg"] != "HS256" or kind.get("typ", "JWT") != "JWT":
        raise ValueError("not a token of ours")
    user = _subject(_object(_parse_json(_unbase64url(claims)), _CLAIMS, {"nbf"}), now)
    credential = accounts.get(user)
    key = signing_key(accounts.token_key or secrets.token_bytes(32), credential)
    right = hmac.compare_digest(_hmac(key, f"{header}.{claims}".encode()), _unbase64url(signature))
    if not right or credential is None:
        raise ValueError("not signed by us, or of nobody")
    if not credential.active(now):
        raise ClosedAccountError(user, credential, now)
    return Identity(user, credential)


_CLAIMS = {"sub", "iat", "exp", "jti"}


def _subject(claims: dict[str, Any], now: float) -> str:
    """Return who the claims are about. Raises ``ValueError`` unless they hold at ``now``."""
    issued, expires, start = claims["iat"], claims["exp"], claims.get("nbf", 0)
    if not all(_is_whole(instant, 0, MAX_TIME) for instant in (issued, expires, start)):
        raise ValueError("not an instant")
    if not max(issued, start) <= now + LEEWAY or not max(issued, start, now) < expires:
        raise ValueError("not now")
    user, number = claims["sub"], claims["jti"]
    if not all(isinstance(text, str) and _is_user_name(text) for text in (user, number)):
        raise ValueError("not a name")
    return str(user)


def _json_part(value: dict[str, Any]) -> str:
    return _base64url(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def read_token(file: Path) -> str:
    """Read a token file: its first line. Raises ``UsageError`` for what cannot be a token."""
    text = _first_line(file, "token file").strip()
    if len(text) > MAX_TOKEN or not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", text, re.ASCII):
        raise UsageError(f"token file {file}: there is no token in its first line")
    return text


# --- guessing -----------------------------------------------------------------------------------

FIRST_DELAY = 0.5  # seconds, doubled with each further failure ...
LONGEST_DELAY = 15.0  # ... up to this: a login must still end within LOGIN_TIMEOUT
LONGEST_ACCOUNT_DELAY = 2.0  # seconds a stranger's guessing may cost the user himself
GUESSES_AT_ONCE = 8  # of one user from one address may wait like that at the same time
FREE_PAIR = 2  # failures of one user from one address that cost nothing: slips of the finger
FREE_ADDRESS = 10  # of one address: many people may share one
FREE_ACCOUNT = 20  # of one user from anywhere
FORGET_AFTER = 600.0  # seconds without an attempt
MAX_REMEMBERED = 10_000  # users, addresses, and pairs: two or three megabytes of each


class _Failures:
    """Failed attempts by key, and the delay they cost. The longest untouched are dropped first.

    An entry is their number, when the last one was, and until when the delays fill the time of the
    ``at_once`` that may wait together.
    """

    def __init__(self, free: int, longest: float, capacity: int, at_once: float = math.inf) -> None:
        self._free, self._longest, self._capacity = free, longest, capacity
        self._at_once = at_once
        self._entries: OrderedDict[str, tuple[int, float, float]] = OrderedDict()

    def add(self, key: str, now: float) -> float:
        """Count a failure; return the seconds that those before it cost, infinity if too many."""
        before, last, busy = self._entries.pop(key, (0, now, now))
        if now - last >= FORGET_AFTER:
            before = 0
        over = min(before - self._free, 30)  # doubling has no use for more
        delay = min(self._longest, FIRST_DELAY * 2**over) if over >= 0 else 0.0
        longer = max(busy, now) + delay / self._at_once
        if longer <= now + self._longest:
            busy = longer
        else:  # it takes nobody's place, or who goes on would keep everybody out for ever
            delay = math.inf
        self._entries[key] = before + 1, now, busy
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return delay

    def remove(self, key: str, count: int) -> None:
        before, last, busy = self._entries.get(key, (0, 0.0, 0.0))
        if before > count:
            self._entries[key] = before - count, last, busy
        else:
            self._entries.pop(key, None)


class LoginDelay:
    """How long an attempt to log in waits for its answer.

    Failures are counted for the user at this address, for the address, and for the user from
    anywhere; the longest of the three delays counts. The last one is short, however many failures
    there were: an account that is locked, or as good as, is a way to keep its owner out. So the
    right user elsewhere gets in, 2 s later at most. Precedents: Dovecot's authentication penalty,
    which doubles up to 15 s, and OpenSSH's PerSourcePenalties; both go by address alone.

    An attempt counts as failed until ``succeeded`` says otherwise, so that many at the same time
    wait as long as one after the other. Only so many of one user from one address may wait
    together, or a thousand connections would make a thousand guesses in the time of one.
    Users that do not exist are counted like those that do. May be used by any thread.

    ``_lock`` guards the three tables; nothing but counting is done under it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, capacity: int = MAX_REMEMBERED
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pairs = _Failures(FREE_PAIR, LONGEST_DELAY, capacity, GUESSES_AT_ONCE)
        self._addresses = _Failures(FREE_ADDRESS, LONGEST_DELAY, capacity)
        self._users = _Failures(FREE_ACCOUNT, LONGEST_ACCOUNT_DELAY, capacity)

    def attempt(self, user: str, address: str) -> float:
        """Count an attempt; return the seconds to wait before it is answered, right or wrong.

        Infinity: it is not to be looked at.
        """
        now, (pair, network, name) = self._clock(), _keys(user, address)
        with self._lock:
            return max(
                self._pairs.add(pair, now),
                self._addresses.add(network, now),
                self._users.add(name, now),
            )

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of this user at this address; elsewhere, take the attempt back."""
        pair, network, name = _keys(user, address)
        with self._lock:
            self._pairs.remove(pair, sys.maxsize)
            self._addresses.remove(network, 1)
            self._users.remove(name, 1)


def _keys(user: str, address: str) -> tuple[str, str, str]:
    """Return what stands for this user there, for the address, and for the user anywhere."""
    # short, however long a name a guesser makes up
    name = hashlib.sha256(user.encode()).hexdigest()
    network = network_of(address)
    return f"{network} {name}", network, name


def network_of(address: str) -> str:
    """Return what one person has: an IPv4 address, or a /64 of IPv6, free to choose from."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.IPv6Address(int(found) >> 64 << 64))


# --- SCRAM-SHA-256 ------------------------------------------------------------------------------

SCRAM_PLUS = f"{SCRAM}-PLUS"  # the same, bound to the TLS connection it takes place on

_MALFORMED = "malformed login message"
_BOUND = "p=tls-server-end-point"  # gs2-cbind-flag (RFC 5802, section 7): bound to this certificate
_COULD_BIND = "y"  # there is TLS, but the server does not offer to bind
_CANNOT_BIND = "n"  # there is no TLS


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right))


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: object, what: str = "this") -> bytes:
    """Decode base64. Raises ``ValueError`` that names ``what``, not its content."""
    try:
        if not isinstance(text, str):
            raise TypeError("not text")
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be base64") from None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unbase64url(text: str) -> bytes:
    """Decode base64url as a JWT has it. Raises ``ValueError`` unless written the one right way."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _base64url(data) != text:  # padding, stray characters, or bits that mean nothing
        raise ValueError("not canonical")
    return data


def saslprep(text: str) -> str:
    """Bring a name or password into one form (RFC 4013), so that every keyboard gives the same.

    Raises ``UsageError`` for characters that must not stand in one.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.normalize("NFKC", mapped)
    if any(_prohibited(char) for char in normal) or not _one_direction(normal):
        raise UsageError("a name or password contains characters that are not allowed in one")
    return normal


def _prohibited(char: str) -> bool:
    # A.1, "unassigned in Unicode 3.2", is not checked: newer characters are fine in a password
    tables = "c12", "c21_c22", "c3", "c4", "c5", "c6", "c7", "c8", "c9"
    return any(getattr(stringprep, f"in_table_{name}")(char) for name in tables)


def _one_direction(text: str) -> bool:
    """Check RFC 3454, section 6: right-to-left text stands alone, from first to last character."""
    if not any(stringprep.in_table_d1(char) for char in text):
        return True
    if any(stringprep.in_table_d2(char) for char in text):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])


def _attributes(message: str, names: str, *, extensions: bool = False) -> list[str]:
    """Split ``r=...,s=...`` into values; the attributes must be ``names``, in that order."""
    parts = message.split(",")
    if len(parts) < len(names) or (len(parts) > len(names) and not extensions):
        raise AuthenticationError(_MALFORMED)
    if any(part[:2] != f"{name}=" for part, name in zip(parts, names)):
        raise AuthenticationError(_MALFORMED)
    return [part[2:] for part in parts[: len(names)]]


def _nonce() -> str:
    return secrets.token_urlsafe(18)


class ScramClient:
    """The client's side of one login: ``first``, then ``respond``, then ``check_server``.

    ``binding`` is the server's end point (``server_end_point``) where there is TLS; ``plus`` says
    whether the server offers to bind the login to it. A man in the middle who makes it seem not to
    is found out by the server, which learns that we could have.
    """

    def __init__(
        self,
        user: str,
        password: str,
        nonce: str | None = None,
        *,
        binding: bytes | None = None,
        plus: bool = True,
    ) -> None:
        check_user_name(user)
        self._password = password
        self._nonce = nonce or _nonce()
        name = saslprep(user).replace("=", "=3D").replace(",", "=2C")
        self._first_bare = f"n={name},r={self._nonce}"
        self._server_signature = b""
        flag = _CANNOT_BIND if binding is None else _BOUND if plus else _COULD_BIND
        self._header = f"{flag},,"
        self._bound = self._header.encode() + ((binding or b"") if plus else b"")
        self.mechanism = SCRAM_PLUS if flag == _BOUND else SCRAM

    def first(self) -> str:
        return self._header + self._first_bare

    def respond(self, server_first: str) -> str:
        """Prove that we know the password: turn server-first into client-final-message.

        Raises ``AuthenticationError`` for a challenge that no honest server would send.
        """
        nonce, salt, iterations = self._challenge(server_first)
        without_proof = f"c={_base64(self._bound)},r={nonce}"
        signed = f"{self._first_bare},{server_first},{without_proof}".encode()
        salted = _salted(self._password, salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), signed)
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={_base64(_xor(client_key, signature))}"

    def _challenge(self, server_first: str) -> tuple[str, bytes, int]:
        nonce, salt_text, count = _attributes(server_first, "rsi", extensions=True)
        if len(nonce) > 2 * MAX_NONCE or len(salt_text) > MAX_NONCE:
            raise AuthenticationError(_MALFORMED)
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise AuthenticationError("the server did not take up our challenge")
        try:
            salt, iterations = _unbase64(salt_text), int(count) if len(count) < 10 else 0
        except ValueError:
            raise AuthenticationError(_MALFORMED) from None
        if not salt or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise AuthenticationError("the server asks for an unreasonable password computation")
        return nonce, salt, iterations

    def check_server(self, server_final: str) -> None:
        """Raise ``AuthenticationError`` unless the server knows our verifier too."""
        (signature,) = _attributes(server_final, "v", extensions=True)
        expected = _base64(self._server_signature)
        if not expected or not hmac.compare_digest(signature.encode(), expected.encode()):
            raise AuthenticationError("the server cannot prove that it knows this account")


class ScramServer:
    """The server's side of one login: ``challenge``, then ``verify``.

    An unknown user gets the same messages and costs the same work as a wrong password, and so does
    one whose account is disabled or has expired.

    ``binding`` is our own end point where the connection has TLS. Then the login must be bound to
    it, and the mechanism is SCRAM-SHA-256-PLUS. RFC 5802, section 6, lets a client that cannot bind
    in (``n``); we do not: ours all can, and one that sees no TLS where we do is not talking to us.
    """

    def __init__(
        self,
        credentials: Credentials,
        secret: bytes,
        nonce: str | None = None,
        *,
        binding: bytes | None = None,
    ) -> None:
        self._credentials = credentials
        self._secret = secret  # makes the salt of unknown users, where the file has no key for it
        self._binding = binding
        self.mechanism = SCRAM if binding is None else SCRAM_PLUS  # no other will do
        self._extension = nonce or _nonce()
        self._header = ""
        self._transcript = ""
        self._nonce = ""
        self._known = False
        self._closed: ClosedAccountError | None = None
        self.user = ""
        self.credential: Credential  # the account, once it has been verified

    def challenge(self, client_first: str) -> str:
        """Turn client-first into server-first-message. Raises ``AuthenticationError``."""
        self._header, bare = self._split(client_first)
        name, nonce = _attributes(bare, "nr", extensions=True)
        escaped = not re.search("=(?!2C|3D)", name)  # RFC 5802, section 5.1: else MUST fail
        if not 0 < len(nonce) <= MAX_NONCE or len(name) > 3 * MAX_USER_NAME or not escaped:
            raise AuthenticationError(_MALFORMED)
        self.user = name.replace("=2C", ",").replace("=3D", "=")
        accounts = _accounts(self._credentials)
        found, stand_in = accounts.get(self.user), self._stand_in(accounts)
        now = time.time()
        self._known = found is not None and found.active(now)
        if found is not None and not self._known:
            self._closed = ClosedAccountError(self.user, found, now)
        self.credential = found if found is not None and self._known else stand_in
        self._nonce = nonce + self._extension
        salt = _base64(self.credential.salt)
        server_first = f"r={self._nonce},s={salt},i={self.credential.iterations}"
        self._transcript = f"{bare},{server_first}"
        return server_first

    def _split(self, client_first: str) -> tuple[str, str]:
        """Return gs2-header and client-first-message-bare. Raises ``AuthenticationError``."""
        flag, _, rest = client_first.partition(",")
        if not rest.startswith(",") or not re.fullmatch("[ny]|p=.+", flag):  # no other authzid
            raise AuthenticationError(_MALFORMED)
        if self._binding is not None and flag != _BOUND:
            raise AuthenticationError("the login is not bound to this TLS connection")
        if self._binding is None and flag not in (_CANNOT_BIND, _COULD_BIND):
            raise AuthenticationError("the login is bound to TLS, and this connection has none")
        return f"{flag},,", rest[1:]

    def _stand_in(self, accounts: Accounts) -> Credential:
        """Make up an account that nobody has; for everyone, to take everyone's time."""
        salt = _hmac(accounts.salt_key or self._secret, self.user.encode())[:16]
        return Credential(0, accounts.usual_iterations, salt, salt * 2, salt * 2)

    def verify(self, client_final: str) -> str:
        """Check the proof; return server-final-message. Raises ``AuthenticationError``.

        That its cause is a ``ClosedAccountError`` says nothing of the password: it is not known.
        """
        binding, nonce, proof_text = _attributes(client_final, "crp")
        try:
            proof = _unbase64(proof_text)
        except ValueError:
            proof = b""
        signed = f"{self._transcript},{client_final.rpartition(',p=')[0]}".encode()
        client_key = _xor(proof, _hmac(self.credential.stored_key, signed))
        found = hashlib.sha256(client_key).digest()
        right = hmac.compare_digest(found, self.credential.stored_key) and len(proof) == 32
        if binding != _base64(self._header.encode() + (self._binding or b"")):
            raise AuthenticationError("the login is bound to another connection")
        if not (right and self._known and nonce == self._nonce):
            raise AuthenticationError(_BAD_LOGIN) from self._closed
        return f"v={_base64(_hmac(self.credential.server_key, signed))}"


# --- channel binding ----------------------------------------------------------------------------

# The algorithms whose hash RFC 5929 wants as it is, by the bytes of their identifiers. What is not
# here is hashed with SHA-256: RFC 5929 has MD5 and SHA-1 replaced by it, most others use it anyway,
# and for those without a hash of their own (Ed25519, Ed448) the RFC leaves it open. Any choice is
# right there, since both ends are ours, and this one is as strong as the others.
_HASHES = {
    bytes.fromhex("2a864886f70d01010c"): "sha384",  # 1.2.840.113549.1.1.12: with RSA
    bytes.fromhex("2a864886f70d01010d"): "sha512",
    bytes.fromhex("2a864886f70d01010e"): "sha224",
    bytes.fromhex("2a8648ce3d040301"): "sha224",  # 1.2.840.10045.4.3.1: with ECDSA
    bytes.fromhex("2a8648ce3d040303"): "sha384",
    bytes.fromhex("2a8648ce3d040304"): "sha512",
    bytes.fromhex("608648016503040301"): "sha224",  # 2.16.840.1.101.3.4.3.1: with DSA
    bytes.fromhex("608648016503040303"): "sha384",
    bytes.fromhex("608648016503040304"): "sha512",
    bytes.fromhex("608648016503040202"): "sha384",  # 2.16.840.1.101.3.4.2.2: alone, within PSS
    bytes.fromhex("608648016503040203"): "sha512",
    bytes.fromhex("608648016503040204"): "sha224",
}
_PSS = bytes.fromhex("2a864886f70d01010a")  # RSASSA-PSS (RFC 4055): the hash is a parameter
_SEQUENCE, _IDENTIFIER, _FIRST_PARAMETER = 0x30, 0x06, 0xA0  # DER tags


def server_end_point(certificate: bytes) -> bytes:
    """Return the tls-server-end-point binding (RFC 5929, section 4) of a DER certificate.

    Raises ``AuthenticationError`` for one that cannot be read.
    """
    try:
        name = _signature_hash(certificate)
    except ValueError:
        raise AuthenticationError("the TLS certificate cannot be read") from None
    return hashlib.new(name, certificate).digest()


def _signature_hash(certificate: bytes) -> str:
    """Return the hash of the signature: Certificate is { to be signed, algorithm, signature }."""
    start, end = _der(certificate, 0, len(certificate), _SEQUENCE)
    if end != len(certificate):
        raise ValueError("something behind it")
    _, signed_end = _der(certificate, start, end, _SEQUENCE)
    start, end = _der(certificate, signed_end, end, _SEQUENCE)
    first, last = _der(certificate, start, end, _IDENTIFIER)
    if certificate[first:last] == _PSS:
        return _pss_hash(certificate, last, end)
    return _HASHES.get(certificate[first:last], "sha256")


def _pss_hash(data: bytes, start: int, end: int) -> str:
    """Return the hash of RSASSA-PSS-params { [0] { identifier, ... }, ... }."""
    start, end = _der(data, start, end, _SEQUENCE)
    if start == end or data[start] != _FIRST_PARAMETER:
        return "sha256"  # left out: SHA-1, which RFC 5929 has replaced
    for tag in (_FIRST_PARAMETER, _SEQUENCE, _IDENTIFIER):
        start, end = _der(data, start, end, tag)
    return _HASHES.get(data[start:end], "sha256")


def _der(data: bytes, start: int, end: int, tag: int) -> tuple[int, int]:
    """Return where the content of the element at ``start`` begins and ends.

    Raises ``ValueError`` unless it has this ``tag`` and ends at ``end`` or before.
    """
    if end - start < 2 or data[start] != tag:
        raise ValueError("not what should be here")
    length, start = data[start + 1], start + 2
    if length >= 0x80:  # then it is the number of bytes that the length takes
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
        if not 1 <= size <= 4:
            raise ValueError("no such length")
    if length > end - start:
        raise ValueError("longer than what it is in")
    return start, start + length


# --- TLS ----------------------------------------------------------------------------------------


def server_tls(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the server's side of TLS, with the certificate (and chain) and key in PEM form.

    Raises ``UsageError`` where they cannot be used; never asks for the password of a key.
    """
    _read_pem(cert, "TLS certificate", "CERTIFICATE")
    _read_pem(key, "TLS key", "PRIVATE KEY")
    asked = []

    def no_password() -> bytes:
        asked.append(True)  # to raise from here is a SystemError in Python 3.7
        return secrets.token_hex(16).encode()

    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    try:
        context.load_cert_chain(cert, key, password=no_password)
    except OSError as error:  # an SSLError is one
        if asked:
            raise UsageError(f"TLS key {key}: it is encrypted, and nobody can be asked") from None
        raise UsageError(f"TLS certificate {cert} and key {key}: {_tls_reason(error)}") from None
    return context


def _tls_reason(error: OSError) -> str:
    """Say in our own terms what OpenSSL says of a certificate with its key."""
    if not isinstance(error, ssl.SSLError):
        return str(error.strerror)
    reason = (error.reason or "damaged").replace("_", " ").lower()
    if "mismatch" in reason or reason == "no certificate assigned":  # RSA and ECDSA, say
        return "they do not belong together"
    return reason


def certificate_binding(cert: Path) -> bytes:
    """Return the end point that clients of ``server_tls(cert, ...)`` see. Raises ``UsageError``."""
    text = _read_pem(cert, "TLS certificate", "CERTIFICATE")
    try:
        return server_end_point(base64.b64decode("".join(text.split()), validate=True))
    except (ValueError, AuthenticationError):
        raise UsageError(f"TLS certificate {cert}: damaged") from None


def client_tls(ca: Path | None = None) -> ssl.SSLContext:
    """Return the client's side of TLS: chain and host name are checked, always.

    ``ca``, certificates in PEM form, stands in place of what the system trusts, not beside it.
    Raises ``UsageError`` where it cannot be used.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # which means: check both
    if ca is None:
        context.load_default_certs()
        return context
    _read_pem(ca, "CA file", "CERTIFICATE")
    try:
        context.load_verify_locations(ca)
    except OSError:  # an SSLError is one
        raise UsageError(f"CA file {ca}: damaged") from None
    return context


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    """Allow TLS 1.3 only, 1.2 where there is no 1.3; no compression, no renegotiation."""
    if hasattr(context, "minimum_version"):
        newest = ssl.TLSVersion.TLSv1_3 if ssl.HAS_TLSv1_3 else ssl.TLSVersion.TLSv1_2
        context.minimum_version = newest
    else:  # Python 3.7 with OpenSSL 1.1.0f or older
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.options |= ssl.OP_NO_COMPRESSION | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    return context


def _read_pem(path: Path, what: str, kind: str) -> str:
    """Return the first ``kind`` in a PEM file. Raises ``UsageError`` that says ``what`` it is."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_PEM_FILE).decode("latin-1")  # what is around the PEM is a comment
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}") from None
    found = re.search(f"-----BEGIN [A-Z0-9 ]*{kind}-----(.*?)-----END", text, re.DOTALL)
    if not found:
        raise UsageError(f"{what} {path}: there is no {kind.lower()} in PEM form in it")
    return found[1]


# --- passwords ----------------------------------------------------------------------------------


def read_password(user: str, file: Path | None, server: str) -> str:
    """Find the password of ``user`` at ``server``: file, environment, demo account, prompt.

    The demo accounts' own are for loopback. Raises ``UsageError`` where there is none to be had.
    """
    given = _given_password(file)
    if given is not None:
        return given
    if user in DEMO_ACCOUNTS and is_loopback(server):
        return DEMO_ACCOUNTS[user][0]
    return _prompt(user)


def _given_password(file: Path | None) -> str | None:
    return os.environ.get(PASSWORD_VARIABLE) if file is None else _first_line(file, "password file")


def _new_password(user: str, file: Path | None) -> str:
    """Find the password to give ``user``; asks twice where it has to ask."""
    password = _given_password(file)
    if password is None:
        password = _prompt(user)
        if _prompt(user, "once more") != password:
            raise UsageError("the two passwords differ")
    if not saslprep(password):
        raise UsageError("an empty password lets everyone in")
    return password


def _first_line(file: Path, what: str) -> str:
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
    import getpass  # noqa: PLC0415  (3 ms that nobody who is not asked should pay)

    if sys.stdin.isatty():
        with contextlib.suppress(EOFError):  # Ctrl-D
            return getpass.getpass(f"Password of {printable(user)} {remark}".rstrip() + ": ")
    raise UsageError(
        f"no password for {printable(user)}: use --password-file or {PASSWORD_VARIABLE}"
    )


# --- the command line of the credential file ----------------------------------------------------

_LASTS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> int:
    """Turn ``30d``, ``12h``, ``90m`` or ``45s`` into seconds. Raises ``ValueError``."""
    match = re.fullmatch(r"(\d{1,6})\s*([dhms])", text.strip(), re.I | re.A)
    seconds = int(match[1]) * _LASTS[match[2].lower()] if match else 0
    if seconds < 1:
        raise ValueError(f"not a duration: {printable(text)!r} (try 30d, 12h, 90m)")
    return seconds


def parse_extensions(text: str) -> tuple[str, ...]:
    """Turn ``.pdf,.tar.gz`` into extensions, in lower case. Raises ``ValueError``."""
    names = tuple(f".{name.strip().lstrip('.').lower()}" for name in text.split(","))
    if not _are_extensions(names):
        raise ValueError(f"not extensions: {printable(text)!r} (try .pdf,.tar.gz)")
    return names


def _folder(text: str) -> str:
    return text.rstrip("/") or text  # as the shell completes it


def _expiry(text: str) -> int:
    return int(time.time()) + parse_duration(text)


def _or_nothing(parse: Callable[[str], Any], nothing: object = None) -> Callable[[str], Any]:
    """Make an argparse type that takes an empty text for ``nothing``."""
    return checked(lambda text: parse(text) if text else nothing)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Manage the credential file of server.py."
    )
    commands = parser.add_subparsers(dest="command", metavar="add|remove|list|token")
    command = partial(commands.add_parser, allow_abbrev=False)
    add = command(
        "add",
        help="add a user, or give one a new password",
        description="Add a user, or give one a new password. Of a user that exists, what is not "
        "said stays as it is; an empty value takes a limit away.",
    )
    remove = command("remove", help="remove a user")
    listing = command("list", help="list users, their priorities and limits")
    token = command("token", help="make a token for unattended use")
    _add_arguments(add)
    remove.add_argument("name", metavar="NAME")
    _add_token_arguments(token)
    for one in (add, remove, listing, token):
        one.add_argument("--credentials", type=Path, required=True, metavar="FILE")
    return parser


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument(
        "--keep-password", action="store_true", help="of a user that exists: change the rest only"
    )
    size, expiry = _or_nothing(parse_size), _or_nothing(_expiry)
    rate = _or_nothing(rate_argument(LEAST_LIMIT))
    # SUPPRESS: what is not said is not there, and the user keeps what he has
    for option, convert, metavar, explained in (
        ("--priority", int, "N", "higher goes first (0)"),
        ("--directory", _folder, "DIR", "where files go, below the server's output directory"),
        ("--max-file-size", size, "SIZE", "of one file, such as 2G"),
        ("--quota", size, "SIZE", "of all files together"),
        ("--limit", rate, "RATE", "bytes per second, such as 5M"),
        ("--allow-ext", _or_nothing(parse_extensions, ()), ".a,.b", "take such files only"),
        ("--expires", expiry, "TIME", "close the account after 30d, 12h, 90m"),
    ):
        parser.add_argument(
            option, type=convert, metavar=metavar, help=explained, default=argparse.SUPPRESS
        )
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--disabled", action="store_true", default=argparse.SUPPRESS)
    state.add_argument(
        "--enabled", dest="disabled", action="store_false", default=argparse.SUPPRESS
    )


def _add_token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument(
        "--expires",
        type=checked(parse_duration),
        default=TOKEN_LIFETIME,
        metavar="TIME",
        help=f"good for 30d, 12h, 90m ({TOKEN_LIFETIME})",
    )
    parser.add_argument(
        "--renew-key", action="store_true", help="end all tokens that were made so far"
    )


def _add(arguments: argparse.Namespace) -> None:
    check_user_name(arguments.name)
    name = saslprep(arguments.name)
    given = {key: value for key, value in vars(arguments).items() if key in _GIVEN}
    known = name in _load_or_new(arguments.credentials)  # what cannot be read is said before asking
    if arguments.keep_password and not known:
        raise UsageError(f"no user {name} in {arguments.credentials}")
    # made before the file is locked: nobody waits for somebody who types
    verifier = None
    if not arguments.keep_password:
        verifier = Credential.make(_new_password(name, arguments.password_file))
    _change(arguments.credentials, lambda old: _with_user(old, name, verifier, given))


_GIVEN = _OPTIONAL | {"priority"}


def _with_user(
    old: Accounts, name: str, verifier: Credential | None, given: dict[str, Any]
) -> Accounts:
    """Return ``old`` with this user: a new password if there is one, the rest as before."""
    before = old.get(name)
    base = verifier or before
    if base is None:
        raise UsageError(f"no user {name}")
    if before is not None:
        kept = {key: getattr(before, key) for key in _GIVEN}
        given = {**kept, **given}
    try:
        return old.with_users({**old, name: replace(base, **given)})
    except ValueError as error:
        raise UsageError(str(error)) from None


def _remove(arguments: argparse.Namespace) -> None:
    load_credentials(arguments.credentials)  # it must be there: only ``add`` makes one
    _change(arguments.credentials, lambda old: _without_user(old, arguments))


def _without_user(old: Accounts, arguments: argparse.Namespace) -> Accounts:
    name = saslprep(arguments.name)
    if name not in old:
        raise UsageError(f"no user {printable(arguments.name)} in {arguments.credentials}")
    return old.with_users({key: one for key, one in old.items() if key != name})


def _list(arguments: argparse.Namespace) -> None:
    for name, credential in sorted(load_credentials(arguments.credentials).items()):
        say("\t".join([printable(name), *_facts(credential, time.time())]))


def _facts(credential: Credential, now: float) -> Iterator[str]:
    """Say what is so about an account, but for what is so by default."""
    yield f"priority {credential.priority}"
    if credential.directory:
        yield f"directory {credential.directory}"
    if credential.max_file_size:
        yield f"max-file-size {format_size(credential.max_file_size)}"
    if credential.quota:
        yield f"quota {format_size(credential.quota)}"
    if credential.limit:
        yield f"limit {format_size(credential.limit)}/s"
    if credential.allow_ext:
        yield f"allow-ext {','.join(credential.allow_ext)}"
    if credential.expires:
        word = "expires" if now < credential.expires else "expired"
        yield time.strftime(f"{word} %Y-%m-%dT%H:%M:%SZ", time.gmtime(credential.expires))
    if credential.disabled:
        yield "disabled"


def _token(arguments: argparse.Namespace) -> None:
    path: Path = arguments.credentials
    accounts = load_credentials(path)
    name = saslprep(arguments.name or "")
    if arguments.name is not None:
        _holder(accounts, name, time.time())  # before a key is made for nothing
    if arguments.renew_key or not accounts.token_key:
        accounts = _change(path, lambda old: old.with_token_key(renew=arguments.renew_key))
    if arguments.name is not None:
        say(make_token(accounts, name, arguments.expires))


def main(argv: list[str] | None = None) -> int:
    """Run ``python auth.py``; return its exit code."""
    make_output_safe()
    keep_own_rights()
    parser = _parser()
    arguments = parser.parse_args(argv)
    actions = {"add": _add, "remove": _remove, "list": _list, "token": _token}
    if arguments.command is None:
        parser.error("say add, remove, list or token")
    if arguments.command == "token" and arguments.name is None and not arguments.renew_key:
        parser.error("say whose token, or --renew-key")
    try:
        actions[arguments.command](arguments)
    except TransferError as error:
        print(f"auth.py: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # nobody takes what we have to say
        print(f"auth.py: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return UsageError.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
