"""Passwords that a client shows, as HTTP Basic does: derived once each, and not at each use."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict

import config
from lft.accounts.account import Accounts, RefusedLoginError
from lft.accounts.keys import hmac_sha256, salt_password, saslprep
from lft.accounts.tokens import Identity
from protocol import AuthenticationError, UsageError

_BAD_LOGIN = "unknown user or wrong password"


def verify_password(accounts: Accounts, user: str, password: str) -> Identity:
    """Return who ``user`` is, with an account that is open. Raises ``AuthenticationError``.

    An unknown user costs the same work as a wrong password, and so does one whose account is
    closed. The cause of the error is for the log.
    """
    found, now = accounts.get(user), time.time()
    iterations = found.iterations if found else accounts.usual_iterations
    try:
        salted = salt_password(password, found.salt if found else bytes(16), iterations)
    except UsageError:  # such a password no account has
        salted = bytes(32)
    stored = hashlib.sha256(hmac_sha256(salted, b"Client Key")).digest()
    right = hmac.compare_digest(stored, found.stored_key if found else bytes(32))
    if found is None or not right or not found.active(now):
        cause = RefusedLoginError(user, _reason(found.closed(now)) if found else "no such user")
        raise AuthenticationError(_BAD_LOGIN) from cause
    return Identity(user, found)


def _reason(closed: str) -> str:
    return f"the account {closed}" if closed else "wrong password"


class KnownPasswords:
    """Right passwords that have been shown: not as they are, but keyed with a secret of this run.

    An account with another password, or a closed one, is not known any more. The lock protects
    ``_known``.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()  # the oldest use first

    def find(self, accounts: Accounts, user: str, password: str) -> Identity | None:
        """Return who ``user`` is if the password was right before and still is (any)."""
        with self._lock:
            shown, stored_key = self._known.get(user, (b"", b""))
        account = accounts.get(user)
        if account is None or account.stored_key != stored_key or not account.active(time.time()):
            return None
        right = hmac.compare_digest(self._shown(password), shown)
        return Identity(user, account) if right else None

    def add(self, identity: Identity, password: str) -> None:
        """Note a password that has been verified (any)."""
        entry = self._shown(password), identity.credential.stored_key
        with self._lock:
            self._known[identity.user] = entry
            self._known.move_to_end(identity.user)
            if len(self._known) > config.DERIVED_KEPT:
                self._known.popitem(last=False)

    def _shown(self, password: str) -> bytes:
        return hmac_sha256(self._secret, password.encode("utf-8", "surrogatepass"))


def prepared_name(text: str) -> str:
    """Return a user's name in the form that accounts have, "" if no user can have it."""
    try:
        return saslprep(text)
    except UsageError:
        return ""
