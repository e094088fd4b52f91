"""Block buffers, used again."""

from __future__ import annotations

import contextlib
import threading
from collections import deque


class BufferPool:
    """Block buffers to use again: a fresh one costs a page fault for every 4 KB. Any thread."""

    def __init__(self, keep: int, lend: int = 0) -> None:
        """Keep up to ``keep`` bytes for the next block; let ``lend`` bytes wait to be hashed."""
        self._keep = keep
        self._kept = 0  # about: two threads may miss each other, which costs a buffer
        self._spare: deque[bytearray] = deque()  # its append and pop are atomic
        self._lock = threading.Lock()  # protects the next one
        self._left = lend

    def take(self, size: int) -> memoryview:
        """Return a view of exactly ``size`` bytes with anything in it."""
        with contextlib.suppress(IndexError):
            spare = self._spare.pop()
            self._kept -= len(spare)
            if len(spare) >= size:
                return memoryview(spare)[:size]
        return memoryview(bytearray(size))

    def lend(self, size: int) -> bool:
        """Whether a block of ``size`` bytes may stay in memory until ``settle`` is called."""
        with self._lock:
            granted = size <= self._left
            self._left -= size if granted else 0
            return granted

    def settle(self, size: int) -> None:
        """Take back what was lent."""
        with self._lock:
            self._left += size

    def give(self, view: memoryview) -> None:
        """Take a buffer back; the caller must not use it any more."""
        buffer = view.obj
        assert isinstance(buffer, bytearray)  # take() made it
        if self._kept + len(buffer) <= self._keep:
            self._kept += len(buffer)
            self._spare.append(buffer)
