"""Tokens for unattended use (JWT, RFC 7519)."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

from lft.accounts.account import (
    MAX_TIME,
    Accounts,
    ClosedAccountError,
    Credential,
    Credentials,
    is_user_name,
    is_whole,
)
from lft.accounts.file import snapshot
from lft.accounts.keys import from_base64url, hmac_sha256, to_base64url
from lft.accounts.passwords import first_line
from lft.strictjson import parse_json, with_keys
from lft.terminal import printable
from protocol import MAX_TEXT, AuthenticationError, UsageError

MAX_TOKEN = MAX_TEXT  # characters: it must fit a message
TOKEN_LIFETIME = "30d"  # noqa: S105  (how long, not what)
LEEWAY = 60  # seconds a clock may be ahead of ours; none for a token's end, which is ours to say
_BAD_TOKEN = "the token is not valid"  # noqa: S105  (a message)


class Identity(NamedTuple):
    """Who has logged in."""

    user: str
    credential: Credential


def signing_key(token_key: bytes, credential: Credential | None) -> bytes:
    """Return the key of one user's tokens.

    It is made from the file's key and from the user's verifier: a new password ends the user's
    tokens, and a name that is given to somebody else does not come with the old owner's tokens.
    """
    return hmac_sha256(token_key, b"token:" + (credential.stored_key if credential else bytes(32)))


def make_token(accounts: Accounts, user: str, lifetime: int, now: float | None = None) -> str:
    """Make a JWT (RFC 7519, HS256) for ``user``, good for ``lifetime`` seconds.

    Raises ``UsageError`` for a user who could not use it.
    """
    issued = int(time.time() if now is None else now)
    credential = holder(accounts, user, issued)
    if not accounts.token_key:
        raise UsageError("there is no key for tokens yet")
    claims = {"sub": user, "iat": issued, "exp": issued + lifetime, "jti": secrets.token_hex(8)}
    signed = f"{_json_part({'alg': 'HS256', 'typ': 'JWT'})}.{_json_part(claims)}"
    key = signing_key(accounts.token_key, credential)
    token = f"{signed}.{to_base64url(hmac_sha256(key, signed.encode()))}"
    if len(token) > MAX_TOKEN:
        raise UsageError(f"the name {user} is too long for a token")
    return token


def holder(accounts: Accounts, user: str, now: float) -> Credential:
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
        return _token_owner(token, snapshot(credentials), time.time() if now is None else now)
    except ClosedAccountError as error:
        raise AuthenticationError(_BAD_TOKEN) from error
    except (ValueError, RecursionError):
        raise AuthenticationError(_BAD_TOKEN) from None


def _token_owner(token: str, accounts: Accounts, now: float) -> Identity:
    if len(token) > MAX_TOKEN:
        raise ValueError("too long")
    header, claims, signature = token.split(".")
    # nothing else may stand there: a header that we do not understand may change what is meant
    kind = with_keys(parse_json(from_base64url(header)), {"alg"}, {"typ"})
    if kind["alg"] != "HS256" or kind.get("typ", "JWT") != "JWT":
        raise ValueError("not a token of ours")
    user = _subject(with_keys(parse_json(from_base64url(claims)), _CLAIMS, {"nbf"}), now)
    credential = accounts.get(user)
    key = signing_key(accounts.token_key or secrets.token_bytes(32), credential)
    right = hmac.compare_digest(
        hmac_sha256(key, f"{header}.{claims}".encode()), from_base64url(signature)
    )
    if not right or credential is None:
        raise ValueError("not signed by us, or of nobody")
    if not credential.active(now):
        raise ClosedAccountError(user, credential, now)
    return Identity(user, credential)


_CLAIMS = {"sub", "iat", "exp", "jti"}


def _subject(claims: dict[str, Any], now: float) -> str:
    """Return who the claims are about. Raises ``ValueError`` unless they hold at ``now``."""
    issued, expires, start = claims["iat"], claims["exp"], claims.get("nbf", 0)
    if not all(is_whole(instant, 0, MAX_TIME) for instant in (issued, expires, start)):
        raise ValueError("not an instant")
    if not max(issued, start) <= now + LEEWAY or not max(issued, start, now) < expires:
        raise ValueError("not now")
    user, number = claims["sub"], claims["jti"]
    if not all(isinstance(text, str) and is_user_name(text) for text in (user, number)):
        raise ValueError("not a name")
    return str(user)


def _json_part(value: dict[str, Any]) -> str:
    return to_base64url(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def read_token(file: Path) -> str:
    """Read a token file: its first line. Raises ``UsageError`` for what cannot be a token."""
    text = first_line(file, "token file").strip()
    if len(text) > MAX_TOKEN or not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", text, re.ASCII):
        raise UsageError(f"token file {file}: there is no token in its first line")
    return text
