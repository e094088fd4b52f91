"""Who makes a request: a password, a token, or the cookie of an earlier login."""

from __future__ import annotations

import base64
import threading
from http import HTTPStatus
from typing import Iterable

import config
from config import ServerSettings
from lft.accounts.account import AccountSource
from lft.accounts.basic import KnownPasswords, prepared_name, verify_password
from lft.accounts.permissions import Rights
from lft.accounts.tokens import Identity, verify_token
from lft.server.login import Login, log_refused, token_name
from lft.web.head import Head
from lft.web.problem import Field, HttpError
from lft.web.request import Caller, Door, Later
from lft.web.web_sessions import WebSessions, cookie_of
from protocol import AuthenticationError

_REALM = "Large Files Transfer"
_BASIC = ("WWW-Authenticate", f'Basic realm="{_REALM}", charset="UTF-8"')
_BEARER = ("WWW-Authenticate", f'Bearer realm="{_REALM}"')


class Access:
    """Tells who makes a request. All of it runs on workers.

    A wrong password or token counts in ``login.delays`` as on the wire; what has to wait for that
    is tried ``Later``. At most ``DERIVATIONS`` passwords are derived at once.
    """

    def __init__(
        self, settings: ServerSettings, accounts: AccountSource, login: Login, webs: WebSessions
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._login = login
        self._sessions = webs
        self._known = KnownPasswords()
        self._derivations = threading.Semaphore(config.DERIVATIONS)

    def caller(self, head: Head, door: Door, *, waited: bool) -> Caller:
        """Return who makes a request. Raises ``HttpError``, and ``Later`` unless it ``waited``."""
        shown = head.fields.get("authorization")
        cookie = cookie_of(head, door)
        if shown is None and cookie is None:
            raise unknown_caller(head, "log in first")
        if not door.private:  # others can read it on the way
            raise HttpError(HTTPStatus.FORBIDDEN, "log in over TLS only, or from this machine")
        if shown is not None:
            return self.as_caller(self._shown(head, door, shown, waited=waited))
        identity = self._sessions.find(cookie or "", self._accounts())
        if identity is None:
            raise unknown_caller(head, "the login has ended: log in again")
        return self.as_caller(identity)

    def as_caller(self, identity: Identity) -> Caller:
        """Return what a user may do on this server now."""
        user, credential = identity
        return Caller(user, credential, Rights.of(credential, self._settings))

    def _shown(self, head: Head, door: Door, shown: str, *, waited: bool) -> Identity:
        """Judge an ``Authorization`` field."""
        scheme, _, value = shown.partition(" ")
        try:
            if scheme.lower() == "basic":
                return self._password(door, *_split_basic(value.strip()), waited=waited)
            if scheme.lower() == "bearer":
                return self._token(door, value.strip(), waited=waited)
        except AuthenticationError as error:
            log_refused(door.address, door.port, error)
            raise unknown_caller(head, str(error)) from None
        raise unknown_caller(head, "authorization is by Basic or by Bearer")

    def _password(self, door: Door, user: str, password: str, *, waited: bool) -> Identity:
        accounts = self._accounts()
        known = self._known.find(accounts, user, password)
        if known:
            return known
        if not self._derivations.acquire(blocking=False):  # perhaps for the same password
            raise Later(config.DERIVE_AGAIN, counted=waited)
        try:  # look once more: it may have been derived since
            known = self._known.find(accounts, user, password)
            return known or self._derive(door, user, password, waited=waited)
        finally:
            self._derivations.release()

    def _derive(self, door: Door, user: str, password: str, *, waited: bool) -> Identity:
        """Judge a password that is not known yet, and remember a right one."""
        if not waited:
            self.count(user, door)
        identity = verify_password(self._accounts(), user, password)
        self._login.delays.succeeded(user, door.address)
        self._known.add(identity, password)
        return identity

    def _token(self, door: Door, token: str, *, waited: bool) -> Identity:
        """Judge a token. A wrong one is told so after the delay that wrong ones have earned."""
        try:
            return verify_token(token, self._accounts())
        except AuthenticationError:
            if not waited:
                self.count(token_name(token), door)
            raise

    def count(self, name: str, door: Door) -> None:
        """Count an attempt that may be wrong. Raises ``Later`` where earlier ones cost time."""
        delay = self._login.delays.attempt(name, door.address)
        if delay == float("inf"):
            fields = [("Retry-After", str(round(config.LONGEST_DELAY)))]
            reason = "too many wrong passwords; try again later"
            raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, reason, fields)
        if delay:
            raise Later(delay)


def unknown_caller(head: Head, reason: str) -> HttpError:
    """Ask for a login. A script is not offered Basic, for which the browser would open a window."""
    script = head.fields.get("sec-fetch-dest") == "empty"
    fields: Iterable[Field] = [_BEARER] if script else [_BASIC, _BEARER]
    return HttpError(HTTPStatus.UNAUTHORIZED, reason, list(fields))


def _split_basic(value: str) -> tuple[str, str]:
    """Return user and password of RFC 7617. Raises ``HttpError``."""
    try:
        text = base64.b64decode(value.encode("latin-1"), validate=True).decode("utf-8")
        user, colon, password = text.partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise HttpError(HTTPStatus.BAD_REQUEST, "authorization is no Basic of RFC 7617 in UTF-8")
    return prepared_name(user), password
