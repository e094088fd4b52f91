"""Keys made from passwords (RFC 5802), and how keys are written as text."""

from __future__ import annotations

import base64
import hashlib
import hmac


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right))


def salt_password(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: object, what: str = "this") -> bytes:
    """Decode base64. Raises ``ValueError`` with the name ``what``, without the content."""
    try:
        if not isinstance(text, str):
            raise TypeError("not text")
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be base64") from None


def to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def from_base64url(text: str) -> bytes:
    """Decode the base64url of a JWT. Raises ``ValueError`` unless it is in its canonical form."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64url(data) != text:  # padding, stray characters, or bits that mean nothing
        raise ValueError("not canonical")
    return data


def saslprep(text: str) -> str:
    """Bring a name or password into one form (RFC 4013), whatever keyboard it was typed on.

    Raises ``UsageError`` for characters that RFC 4013 prohibits. Of ASCII those are the control
    characters, and the others stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    from lft.accounts.saslprep import prepare  # noqa: PLC0415  (its tables take 3 ms to load)

    return prepare(text)
