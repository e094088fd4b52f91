"""Which bytes of a file a request wants (RFC 9110, section 14)."""

from __future__ import annotations

import re
from typing import NamedTuple

_ONE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_MOST_DIGITS = 18  # of a place in a file: no file is larger, and int() stays quick


class Span(NamedTuple):
    """The bytes of a file from ``start`` up to, and without, ``end``."""

    start: int
    end: int

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self.end - self.start


class UnsatisfiableError(Exception):
    """The file has none of the bytes that are wanted."""


def parse_range(field: str, size: int) -> Span | None:
    """Return the bytes of a file of ``size`` bytes that a Range field wants.

    ``None`` means the whole file: for what is no range of bytes, and for several ranges, which a
    server may ignore: no client for large files needs them, and a thousand of one byte each cost
    more than the file. Raises ``UnsatisfiableError``. It takes time linear in the field's length.
    """
    match = _ONE.fullmatch(field)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return _suffix(_number(last), size)
    start = _number(first)
    if last and _number(last) < start:
        return None
    if start >= size:
        raise UnsatisfiableError
    return Span(start, min(_number(last) + 1, size) if last else size)


def _suffix(length: int, size: int) -> Span:
    if not length or not size:
        raise UnsatisfiableError
    return Span(max(0, size - length), size)


def _number(digits: str) -> int:
    """Read a number; one with more digits than any file has bytes is beyond the end."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else int("9" * _MOST_DIGITS)
