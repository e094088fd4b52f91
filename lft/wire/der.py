"""DER, as far as certificates need it (X.690)."""

from __future__ import annotations

SEQUENCE = 0x30  # the tag of a list of elements


def element(data: bytes, start: int, end: int, tag: int) -> tuple[int, int]:
    """Return where the content of the element at ``start`` begins and ends.

    Raises ``ValueError`` if its tag is not ``tag``, or if it does not end by ``end``.
    """
    if end - start < 2 or data[start] != tag:
        raise ValueError("another tag, or none")
    length, start = data[start + 1], start + 2
    if length >= 0x80:  # the long form: the number of bytes that hold the length
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
        if not 1 <= size <= 4:
            raise ValueError("a length of no bytes, or of too many")
    if length > end - start:
        raise ValueError("longer than the element around it")
    return start, start + length
