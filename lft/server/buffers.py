"""Memory for blocks on their way from a socket to the hash."""

from __future__ import annotations

import threading
from collections import Counter, deque

from lft.memory import pages


class Buffer:
    """The memory of one block, from ``BufferPool.take`` to ``release``.

    It has one owner at a time, which releases it or hands it on: the connection that receives into
    it, the transfer that writes it, the hash. After ``release`` ``view`` must not be used.
    """

    __slots__ = ("_memory", "_pool", "_waits", "size", "view")

    def __init__(self, pool: BufferPool, memory: memoryview, size: int) -> None:
        self.view = memory[:size]
        self.size = size
        self._pool = pool
        self._memory = memory
        self._waits = 0  # bytes that count as waiting for the hash

    def keep_for_hashing(self) -> bool:
        """Ask to stay in memory until the block is hashed; return whether there is room."""
        if self._pool.lend(len(self._memory)):  # all that it keeps, however little is used
            self._waits = len(self._memory)
        return self._waits > 0

    def release(self) -> None:
        """Give the memory back."""
        waits, self._waits = self._waits, 0
        self._pool.give(self._memory, waits)


class BufferPool:
    """Block buffers to use again: a fresh one costs a page fault for every 4 KB. Any thread.

    The lock protects all attributes; nothing is allocated under it.
    """

    def __init__(self, keep: int, lend: int = 0) -> None:
        """Keep up to ``keep`` bytes for the next block; let ``lend`` bytes wait to be hashed."""
        self._lock = threading.Lock()
        self._room = keep  # bytes that may still be kept
        self._left = lend  # bytes that may still wait
        self._spare: deque[memoryview] = deque()

    def take(self, size: int) -> Buffer:
        """Return a buffer of exactly ``size`` bytes with anything in it."""
        if not size:
            return Buffer(self, memoryview(b""), 0)
        with self._lock:
            spare = self._spare.pop() if self._spare else memoryview(b"")
            has = len(spare)
            self._room += has
        if not size <= has <= 2 * size:  # large ones are not for small ones
            spare = pages(size)
        return Buffer(self, spare, size)

    def lend(self, size: int) -> bool:
        """Let ``size`` bytes wait to be hashed, if there is room; return whether there is."""
        if size > self._left:  # one read: most blocks of a large file find no room
            return False
        with self._lock:
            granted = 0 < size <= self._left
            self._left -= size if granted else 0
            return granted

    def give(self, memory: memoryview, waited: int) -> None:
        """Take memory back of which ``waited`` bytes were lent; for ``Buffer`` alone."""
        size = len(memory)
        with self._lock:
            self._left += waited
            if 0 < size <= self._room:
                self._room -= size
                self._spare.append(memory)


class Shares:
    """Memory that peers make the server hold, for each user and for all. Any thread.

    A block's header makes it hold memory for all of the block, however slowly the rest comes. The
    lock protects both counts.
    """

    def __init__(self, most_of_user: int, most: int) -> None:
        """Let one user have so many bytes, and all together so many."""
        self._most_of_user = most_of_user
        self._most = most
        self._lock = threading.Lock()
        self._of_user: Counter[str] = Counter()
        self._of_all = 0

    def take(self, user: str, size: int) -> bool:
        """Count ``size`` bytes for ``user``; ``False``, and nothing, if that would be too many."""
        with self._lock:
            of_user, of_all = self._of_user[user] + size, self._of_all + size
            fits = of_user <= self._most_of_user and of_all <= self._most
            if fits:
                self._of_user[user], self._of_all = of_user, of_all
            return fits

    def give(self, user: str, size: int) -> None:
        """Take ``size`` bytes back."""
        with self._lock:
            self._of_all -= size
            self._of_user[user] -= size
            if self._of_user[user] <= 0:
                del self._of_user[user]
