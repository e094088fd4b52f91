"""Tokens for unattended use (JWT, RFC 7519)."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

import config
from lft.accounts.account import (
    MAX_TIME,
    Accounts,
    Credential,
    RefusedLoginError,
    is_user_name,
)
from lft.accounts.keys import from_base64url, hmac_sha256, to_base64url
from lft.accounts.passwords import first_line
from lft.records import is_whole
from lft.strictjson import parse_json, with_keys
from lft.terminal import printable
from protocol import MAX_TEXT, AuthenticationError, UsageError

MAX_TOKEN = MAX_TEXT  # characters: a token must fit a message
_BAD_TOKEN = "the token is not valid"  # noqa: S105  (a message)


class Identity(NamedTuple):
    """A user that has logged in, and its account."""

    user: str
    credential: Credential


def signing_key(token_key: bytes, credential: Credential | None) -> bytes:
    """Return the key of one user's tokens.

    It is made from the file's key and the user's verifier: a new password ends the user's tokens,
    and a name that is given to another person does not come with the old owner's tokens.
    """
    return hmac_sha256(token_key, b"token:" + (credential.stored_key if credential else bytes(32)))


def make_token(accounts: Accounts, user: str, lifetime: int, now: float | None = None) -> str:
    """Make a JWT (RFC 7519, HS256) for ``user``, good for ``lifetime`` seconds.

    Raises ``UsageError`` for a user that could not log in with it.
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
    """Return the account of a user that may have a token. Raises ``UsageError``."""
    credential = accounts.get(user)
    if credential is None:
        raise UsageError(f"no user {printable(user)}")
    if not credential.active(now):
        raise UsageError(f"the account of {user} is disabled or has expired")
    return credential


def verify_token(token: str, accounts: Accounts, now: float | None = None) -> Identity:
    """Return the user that a token stands for, and the user's account.

    Raises ``AuthenticationError``, always with the same words, for a token that is not valid: not
    signed by us with HS256, not written as we would, expired, from the future, or of a user that
    does not exist or may not log in. Its cause says more, for the log. A refusal costs the same
    work for every user.
    """
    try:
        return _token_owner(token, accounts, time.time() if now is None else now)
    except RefusedLoginError as error:
        raise AuthenticationError(_BAD_TOKEN) from error
    except (ValueError, RecursionError):
        cause = RefusedLoginError("", "this is no token that auth.py makes")
        raise AuthenticationError(_BAD_TOKEN) from cause


def _token_owner(token: str, accounts: Accounts, now: float) -> Identity:
    if len(token) > MAX_TOKEN:
        raise ValueError("too long")
    header, part, signature = token.split(".")
    _check_header(header)
    claims = _claims(part)
    user = claims["sub"]
    credential = accounts.get(user)
    key = signing_key(accounts.token_key or secrets.token_bytes(32), credential)
    right = hmac.compare_digest(
        hmac_sha256(key, f"{header}.{part}".encode()), from_base64url(signature)
    )
    if credential is None:
        raise RefusedLoginError(user, "the token names a user that there is not")
    if not right:
        reason = (
            "the token is not signed with today's key: the key was renewed or the password changed "
            "after it was made, or it is forged"
        )
        raise RefusedLoginError(user, reason)
    _check_time(claims, now)
    if not credential.active(now):
        raise RefusedLoginError(user, f"the account {credential.closed(now)}")
    return Identity(user, credential)


def _check_header(part: str) -> None:
    """Raise ``ValueError`` unless the header is ours: an unknown field may change the meaning."""
    header = with_keys(parse_json(from_base64url(part)), {"alg"}, {"typ"})
    if header["alg"] != "HS256" or header.get("typ", "JWT") != "JWT":
        raise ValueError("not a token of ours")


def _claims(part: str) -> dict[str, Any]:
    """Return what a token claims. Raises ``ValueError`` for what we would not write."""
    claims = with_keys(parse_json(from_base64url(part)), {"sub", "iat", "exp", "jti"}, {"nbf"})
    instants = claims["iat"], claims["exp"], claims.get("nbf", 0)
    if not all(is_whole(instant, 0, MAX_TIME) for instant in instants):
        raise ValueError("not an instant")
    if not all(
        isinstance(text, str) and is_user_name(text) for text in (claims["sub"], claims["jti"])
    ):
        raise ValueError("not a name")
    return claims


def _check_time(claims: dict[str, Any], now: float) -> None:
    """Raise ``RefusedLoginError`` unless the claims hold at ``now``."""
    user, start, end = claims["sub"], max(claims["iat"], claims.get("nbf", 0)), claims["exp"]
    if end <= max(now, start):
        raise RefusedLoginError(user, f"the token expired at {_as_text(end)}")
    if start > now + config.TOKEN_LEEWAY:
        reason = f"the token is good from {_as_text(start)} on: is a clock wrong?"
        raise RefusedLoginError(user, reason)


def _as_text(instant: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant))


def _json_part(value: dict[str, Any]) -> str:
    return to_base64url(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def read_token(file: Path) -> str:
    """Read the token in the first line of a file. Raises ``UsageError`` if there is none."""
    text = first_line(file, "token file").strip()
    if len(text) > MAX_TOKEN or not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", text, re.ASCII):
        raise UsageError(f"token file {file}: there is no token in its first line")
    return text
