"""Memory for bytes on their way between files and sockets."""

from __future__ import annotations

import mmap


def pages(size: int) -> memoryview:
    """Return ``size`` bytes of memory, at least one, that begin with a page.

    The system copies a file into such memory in half the time that it takes for a ``bytearray``,
    which begins a few bytes after the start of a page: then each copy waits for the one before.
    """
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
