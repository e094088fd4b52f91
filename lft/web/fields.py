"""Header fields about a file: its name (RFC 6266, 8187) and its digest (RFC 9530)."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import quote

from lft.terminal import is_hidden

_OURS = re.compile(r"server_received_[0-9]{8}-[0-9]{6}-[0-9a-f]{6}_(.+)", re.DOTALL)
_SHA256 = re.compile(r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/=]{0,128}):")
_PLAIN = re.compile(r"[^\x20\x21\x23\x24\x26-\x5b\x5d-\x7e]")  # not these: " % \ and beyond ASCII
_ATTRIBUTE = "!#$&+-.^_`|~"  # beside letters and digits, what RFC 8187 leaves as it is


def original_name(saved_as: str) -> str:
    """Return the name that a file had before it was sent."""
    match = _OURS.fullmatch(saved_as)
    return match.group(1) if match else saved_as


def content_disposition(name: str) -> str:
    """Return the field that has a browser save a file as ``name``, and never show it.

    What another program put into the directory may have any name: no control character of it
    reaches the header, and what no header can say is an underscore.
    """
    shown = "".join("_" if is_hidden(char) else char for char in name)
    plain = _PLAIN.sub("_", shown)
    if plain == shown:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(shown, safe=_ATTRIBUTE)}"


def repr_digest(sha256: str) -> str:
    """Return a ``Repr-Digest`` field with a SHA-256 that is given in hexadecimal."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def parse_repr_digest(field: str) -> str | None:
    """Return the SHA-256 of a ``Repr-Digest`` field in hexadecimal, if it has one.

    Raises ``ValueError`` for one that is none.
    """
    match = _SHA256.search(field)
    if match is None:
        return None
    digest = decode_base64(match.group(1))
    if len(digest) != 32:
        raise ValueError("a SHA-256 has 32 bytes")
    return digest.hex()


def decode_base64(text: str) -> bytes:
    """Return the bytes of strict Base64. Raises ``ValueError``."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not Base64") from None
