"""Holes: stretches of a file that read as zeros and take no room on the disk."""

from __future__ import annotations

import errno
import functools
import os
from typing import Any, Callable

_SAMPLE = 64  # bytes that are looked at before all of them are copied
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)


def is_zero(view: memoryview) -> bool:
    """Return whether there are only zeros in ``view``.

    Three bytes tell it for nearly every other block: 0.1 us. A whole block of zeros takes 50 us,
    a sixth of its hash; to compare the view itself would take 4 ms.
    """
    if not view or view[0] or view[-1] or view[len(view) // 2]:
        return False
    return not any(view[:_SAMPLE]) and bytes(view) == zeros(len(view))


@functools.lru_cache(maxsize=2)
def zeros(size: int) -> bytes:
    """Return ``size`` zeros: of a whole block, and of the last one."""
    return bytes(size)


def next_data(descriptor: int, offset: int) -> int | None:
    """Return where the next bytes of an open file are that may not be zero, from ``offset`` on.

    ``None`` if there are none.
    """
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        return None if error.errno == errno.ENXIO else offset
    except AttributeError:  # a system without
        return offset


def make_hole(descriptor: int, offset: int, length: int) -> bool:
    """Make so many bytes from ``offset`` on a hole; return whether they are zeros now.

    Otherwise they have to be written: few file systems know no holes.
    """
    punch = _puncher()
    if punch and not punch(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        return os.fstat(descriptor).st_size >= offset + length  # a hole makes no file longer
    return _is_hole(descriptor, offset, offset + length)


def _is_hole(descriptor: int, start: int, end: int) -> bool:
    found = next_data(descriptor, start)
    return os.fstat(descriptor).st_size >= end and (found is None or found >= end)


@functools.lru_cache(maxsize=1)
def _puncher() -> Callable[[int, int, int, int], int] | None:
    """Return fallocate(2), for which Python has no name; ``None`` where there is none."""
    try:
        import ctypes  # noqa: PLC0415  (10 ms, and few files have holes)

        library: Any = ctypes.CDLL(None)
        call = getattr(library, "fallocate64", None) or library.fallocate
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    except (ImportError, OSError, AttributeError):  # a Python without ctypes, or not Linux
        return None
    return call  # type: ignore[no-any-return]
