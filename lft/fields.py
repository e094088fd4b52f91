"""The fields of messages: how each kind of value is checked when a message is made."""

from __future__ import annotations

import re
from typing import Any, Tuple

from lft.records import field

MAX_BLOCKS = 2**32  # a block index has four bytes
MAX_TEXT = 1024  # characters of a name or a reason
MAX_SPANS = 2000  # in one MISSING or FILE_READY: so many fit into a frame
Spans = Tuple[Tuple[int, int], ...]  # half-open ranges of block indexes, ascending, not touching
Raw = Tuple[Any, ...]  # an entry of a directory as it is on the wire
_SHAPES = {"f": (str, str, int, int, int), "d": (str, str, int, int), "l": (str, str, str, int)}


def text(low: int = 0, high: int = MAX_TEXT, **default: Any) -> Any:
    """Declare a text of so many characters, all of which UTF-8 can carry."""
    return field(lambda v: _is_text(v, low, high), f"text of {low} to {high} characters", **default)


def digest() -> Any:
    """Declare a digest."""
    return field(
        lambda v: isinstance(v, str) and re.fullmatch("(?:[0-9a-f]{32}){1,2}", v) is not None,
        "a digest in hexadecimal",
    )


def words() -> Any:
    """Declare a tuple of words, such as the names of features."""
    return field(
        lambda v: isinstance(v, tuple) and len(v) <= 64 and all(_is_text(w, 1, 64) for w in v),
        "up to 64 short words",
    )


def spans() -> Any:
    """Declare ranges of blocks."""
    return field(_are_spans, f"up to {MAX_SPANS} ascending [first, end] pairs")


def entries() -> Any:
    """Declare entries of a directory, at least one; ``lft.manifest`` judges what they say."""
    return field(_are_entries, "entries of a directory")


def _is_text(value: object, low: int, high: int) -> bool:
    if not isinstance(value, str) or not low <= len(value) <= high:
        return False
    # lone surrogates have no UTF-8
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _are_spans(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) > MAX_SPANS:
        return False
    last = -1
    for span in value:
        if not isinstance(span, tuple) or [type(v) for v in span] != [int, int]:
            return False
        if not last < span[0] < span[1] <= MAX_BLOCKS:
            return False
        last = span[1]
    return True


def _are_entries(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_entry, value))


def _is_entry(value: object) -> bool:
    if not isinstance(value, tuple) or not value or not isinstance(value[0], str):
        return False
    return tuple(map(type, value)) == _SHAPES.get(value[0])
