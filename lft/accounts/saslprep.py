"""SASLprep by the tables (RFC 4013, RFC 3454): for names and passwords beyond printable ASCII."""

from __future__ import annotations

import stringprep
import unicodedata

from protocol import UsageError


def prepare(text: str) -> str:
    """Map, normalise and check ``text``. Raises ``UsageError`` for what RFC 4013 prohibits."""
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
