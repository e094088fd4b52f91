"""Accounts and tokens for the tests that log in with their own."""

from __future__ import annotations

import time
from typing import Any, Callable

import jwt

from lft.accounts.account import MIN_ITERATIONS, Accounts, Credential
from lft.accounts.tokens import signing_key
from tests.support.local import ServerThread

PASSWORD = "open sesame"
VERIFIER = Credential.make(PASSWORD, iterations=MIN_ITERATIONS)
TOKEN_KEY = bytes(range(32))


def account(**limits: Any) -> Credential:
    """Return an account whose password is ``PASSWORD``."""
    return VERIFIER.replace(**limits)


Serve = Callable[..., ServerThread]
ALICE_ALONE = Accounts({"alice": VERIFIER}, token_key=TOKEN_KEY)
SIGNING_KEY = signing_key(TOKEN_KEY, VERIFIER)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of alice's token; a change to ``None`` leaves one out."""
    now = int(time.time())
    whole = {"sub": "alice", "iat": now, "exp": now + 600, "jti": "0123456789abcdef", **changes}
    return {key: value for key, value in whole.items() if value is not None}


def token(key: Any = SIGNING_KEY, algorithm: str = "HS256", **changes: Any) -> str:
    """Make a token with another library than ours."""
    return jwt.encode(claims(**changes), key, algorithm)
