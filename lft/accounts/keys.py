"""Keys made from passwords (RFC 5802), and how keys are written as text."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stringprep
import unicodedata

from protocol import UsageError


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

    Raises ``UsageError`` for characters that RFC 4013 prohibits.
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
