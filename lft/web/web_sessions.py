"""Logins of browsers: SCRAM in two requests, then a cookie."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

import config
from lft.accounts.account import Accounts, Credential
from lft.accounts.scram import ScramServer
from lft.accounts.tokens import Identity
from lft.web.head import Head
from lft.web.problem import Field
from lft.web.request import Door

_T = TypeVar("_T")


class _Open(NamedTuple):
    """One login of a browser."""

    user: str
    stored_key: bytes  # of the account then: another password ends the login
    ends_at: float  # on the monotonic clock, whatever it does
    used_at: float


class _Recent(Generic[_T]):
    """The newest values by their keys, a bounded number of each owner and of all.

    It has no lock: its own owner has.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[bytes, tuple[str, _T]] = OrderedDict()

    def add(self, key: str, value: _T, owner: str) -> None:
        """Note a value of ``owner``, as the newest one."""
        self._values.pop(_hashed(key), None)
        own = [one for one, (whose, _) in self._values.items() if whose == owner]
        if len(own) >= config.WEB_LOGINS_OF_USER:
            del self._values[own[0]]
        elif len(self._values) >= self._most:
            self._values.popitem(last=False)
        self._values[_hashed(key)] = owner, value

    def find(self, key: str) -> _T | None:
        """Return a value."""
        return self._values.get(_hashed(key), ("", None))[1]

    def replace(self, key: str, value: _T) -> None:
        """Change a value that is there, and is the newest one then."""
        owner, _ = self._values[_hashed(key)]
        self._values[_hashed(key)] = owner, value
        self._values.move_to_end(_hashed(key))

    def pop(self, key: str) -> _T | None:
        """Take a value out."""
        return self._values.pop(_hashed(key), ("", None))[1]


def _hashed(key: str) -> bytes:
    """Hash a secret for looking it up: the time that takes tells nothing about a right one."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class WebSessions:
    """The logins of browsers, those that have begun and those that hold. Any thread.

    The lock protects both tables; no proof is judged under it.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)  # makes the salts of users that do not exist
        self._lock = threading.Lock()
        self._begun: _Recent[tuple[ScramServer, float]] = _Recent(config.WEB_LOGINS)
        self._open: _Recent[_Open] = _Recent(config.WEB_SESSIONS)

    def begin(self, accounts: Accounts, client_first: str, network: str) -> tuple[str, str]:
        """Begin a login; return what names it, and the challenge.

        Raises ``AuthenticationError``.
        """
        login, name = ScramServer(accounts, self._secret), secrets.token_urlsafe(24)
        challenge = login.challenge(client_first)
        with self._lock:
            until = time.monotonic() + config.LOGIN_TIMEOUT
            self._begun.add(name, (login, until), network)
        return name, challenge

    def begun(self, name: str) -> ScramServer | None:
        """Return a login that has begun, which stays so."""
        with self._lock:
            login, until = self._begun.find(name) or (None, 0.0)
        return login if time.monotonic() < until else None

    def take(self, name: str) -> ScramServer | None:
        """Return a login that has begun, for its only proof."""
        login = self.begun(name)
        with self._lock:
            return login if self._begun.pop(name) else None

    def open(self, user: str, credential: Credential) -> str:
        """Let a user in; return the token for the cookie."""
        token, now = secrets.token_urlsafe(32), time.monotonic()
        web = _Open(user, credential.stored_key, now + config.WEB_SESSION_LIFETIME, now)
        with self._lock:
            self._open.add(token, web, user)
        return token

    def find(self, token: str, accounts: Accounts) -> Identity | None:
        """Return whose token it is, if the login holds; it has been used then."""
        now = time.monotonic()
        with self._lock:
            web = self._open.find(token)
            if web is None:
                return None
            account = accounts.get(web.user)
            holds = account is not None and account.stored_key == web.stored_key
            idle = now - web.used_at > config.WEB_SESSION_IDLE
            if account is None or not holds or idle or now > web.ends_at:
                self._open.pop(token)
                return None
            self._open.replace(token, web._replace(used_at=now))
        return Identity(web.user, account) if account.active(time.time()) else None

    def end(self, token: str) -> None:
        """End a login."""
        with self._lock:
            self._open.pop(token)


def _cookie_name(head: Head, door: Door) -> str:
    """Return what the cookie is called for the server that a browser asks.

    A browser has one set of cookies for all ports of a host, so the port is in the name: otherwise
    a login at one server ended that at another. With TLS no other host can have set it ("cookie
    prefixes", RFC 6265bis).
    """
    port = head.authority[len(head.host) :].replace(":", "_")
    return ("__Host-" if door.secure else "") + "lft_session" + port


def cookie_of(head: Head, door: Door) -> str | None:
    """Return the token in a request's cookie, if there is one."""
    pairs = (pair.strip().partition("=") for pair in head.fields.get("cookie", "").split(";"))
    wanted = _cookie_name(head, door)
    return next((value for name, _, value in pairs if name == wanted), None)


def set_cookie(token: str, head: Head, door: Door) -> Field:
    """Return the field that gives a browser its cookie, or takes it away with an empty one."""
    age = "" if token else "; Max-Age=0"
    secure = "; Secure" if door.secure else ""
    value = f"{_cookie_name(head, door)}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{age}"
    return "Set-Cookie", value
