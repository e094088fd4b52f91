"""One account and all accounts: their fields, with a check of each."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from typing import Any, Callable, Iterator, Mapping

import config
from lft.accounts.keys import hmac_sha256, salt_password, saslprep
from lft.records import Record, field, flag, is_whole, whole
from lft.terminal import printable
from protocol import MAX_FILE_SIZE, MAX_TEXT, UsageError

MIN_ITERATIONS = 4096  # the least RFC 7677 allows; less would be an attack on the password
MAX_ITERATIONS = 10_000_000  # a server that asks for more wants to keep our processor busy
MAX_USER_NAME = 255  # characters
MAX_SALT = 64  # bytes: a salt must fit a message, and more than 16 bytes bring nothing
MAX_TIME = 253_402_300_799  # the last second of 9999, the last year that can be printed
PRIORITIES = range(-100, 101)
RIGHTS = ("read-all", "operate")  # beside sending, and reading what one has sent oneself
DEMO_ACCOUNTS = {"admin": ("admin123", 1), "user1": ("password1", 0)}  # for loopback only


def _limit(high: int = MAX_FILE_SIZE) -> Any:
    """Make a field that holds a limit, or ``None`` where there is none."""
    wants = f"a number from 1 to {high}"
    return field(lambda v: v is None or is_whole(v, 1, high), wants, default=None)


def _secret(low: int, high: int) -> Any:
    wants = f"{low} to {high} bytes in base64" if low < high else f"{high} bytes in base64"
    return field(lambda v: isinstance(v, bytes) and low <= len(v) <= high, wants, shown=False)


def _is_directory(value: object) -> bool:
    """Whether ``value`` names a place below the output directory: relative, with nothing hidden."""
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


def _are_rights(value: object) -> bool:
    return isinstance(value, tuple) and len(set(value)) == len(value) and set(value) <= set(RIGHTS)


class Credential(Record):
    """A stored identity: a salted verifier (RFC 5802, section 3), never a password, and limits.

    ``directory`` is relative to the output directory; "" is the output directory itself.
    ``max_file_size`` and ``quota`` are bytes, ``limit`` bytes a second, ``expires`` seconds since
    1970; ``None`` means no limit. A file's name must end with one of ``allow_ext``, in lower case;
    where there are none, with anything. ``may`` has further rights: to read the files of all users,
    to see and cancel what all send. The fields are checked when a credential is made:
    ``ValueError`` says which one is wrong.
    """

    priority: int = whole(PRIORITIES[0], PRIORITIES[-1])
    iterations: int = whole(MIN_ITERATIONS, MAX_ITERATIONS)
    salt: bytes = _secret(1, MAX_SALT)
    stored_key: bytes = _secret(32, 32)
    server_key: bytes = _secret(32, 32)
    directory: str = field(
        _is_directory, "a relative path with nothing hidden in it, such as team/alice", default=""
    )
    max_file_size: int | None = _limit()
    quota: int | None = _limit()
    limit: int | None = _limit()
    allow_ext: tuple[str, ...] = field(
        _are_extensions, "up to 64 extensions such as .pdf, in lower case", default=()
    )
    expires: int | None = _limit(MAX_TIME)
    disabled: bool = flag(default=False)
    may: tuple[str, ...] = field(_are_rights, f"some of {', '.join(RIGHTS)}", default=())

    @classmethod
    def make(
        cls, password: str, priority: int = 0, iterations: int = config.ITERATIONS
    ) -> Credential:
        """Make the verifier of ``password`` with a salt of its own."""
        salt = os.urandom(16)
        salted = salt_password(password, salt, iterations)
        stored = hashlib.sha256(hmac_sha256(salted, b"Client Key")).digest()
        return cls(priority, iterations, salt, stored, hmac_sha256(salted, b"Server Key"))

    def active(self, now: float) -> bool:
        """Whether the account is open at ``now``, in seconds since 1970."""
        return not self.closed(now)

    def closed(self, now: float) -> str:
        """Say why the account is closed at ``now``; "" if it is open."""
        if self.disabled:
            return "is closed"
        return "has expired" if self.expires is not None and now >= self.expires else ""


class RefusedLoginError(ValueError):
    """Why a login of ``user`` is refused: for the operator's log, not for the client."""

    def __init__(self, user: str, reason: str) -> None:
        super().__init__(reason)
        self.user = user  # as the client calls itself; "" if that cannot be read


Credentials = Mapping[str, Credential]


class Accounts(Mapping[str, Credential]):
    """The accounts of one moment: what a credential file holds. They never change.

    ``token_key`` signs tokens. ``salt_key`` makes the salts of users that do not exist, so that
    they stay the same after a restart. Either is empty where the file has none.
    ``usual_iterations`` is the number that most users have.
    """

    def __init__(
        self, users: Credentials, *, token_key: bytes = b"", salt_key: bytes = b""
    ) -> None:
        self._users = dict(users)
        self.token_key = token_key
        self.salt_key = salt_key
        counts = Counter(one.iterations for one in self._users.values())
        self.usual_iterations = max(counts, key=lambda n: (counts[n], n), default=config.ITERATIONS)

    def __getitem__(self, name: str) -> Credential:
        return self._users[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._users)

    def __len__(self) -> int:
        return len(self._users)

    def with_users(self, users: Credentials) -> Accounts:
        """Return other users with the same keys, and with a salt key where there was none yet."""
        salt_key = self.salt_key or os.urandom(32)
        return Accounts(users, token_key=self.token_key, salt_key=salt_key)

    def with_token_key(self, *, renew: bool) -> Accounts:
        """Return these with a token key; ``renew`` makes a new one, which ends all tokens."""
        if self.token_key and not renew:
            return self
        return Accounts(self, token_key=os.urandom(32), salt_key=self.salt_key)


AccountSource = Callable[[], Accounts]  # gives the accounts of this moment


def demo_credentials() -> Accounts:
    """Make the accounts for trying the program out; the caller allows them on loopback only."""
    accounts = {
        name: Credential.make(password, priority, MIN_ITERATIONS)  # no secret, so be quick
        for name, (password, priority) in DEMO_ACCOUNTS.items()
    }
    return Accounts({**accounts, "admin": accounts["admin"].replace(may=RIGHTS)})


def is_user_name(name: str) -> bool:
    return 0 < len(name) <= MAX_USER_NAME and printable(name) == name


def check_user_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` can be the name of a user."""
    if not is_user_name(name) or not is_user_name(saslprep(name)):
        raise UsageError(f"a user name has 1 to {MAX_USER_NAME} printable characters")


def parse_extensions(text: str) -> tuple[str, ...]:
    """Split ``.pdf,.tar.gz`` into extensions, in lower case. Raises ``ValueError``."""
    names = tuple(f".{name.strip().lstrip('.').lower()}" for name in text.split(","))
    if not _are_extensions(names):
        raise ValueError(f"not extensions: {printable(text)!r} (try .pdf,.tar.gz)")
    return names
