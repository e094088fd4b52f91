"""The files of a tree that stay open from one block to the next."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from typing import Callable, Iterator

import config


class _Open:
    """A file that is open, and how many workers use it right now."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 0


class OpenFiles:
    """A few open files of a tree, those used last. Any worker.

    The lock protects the collection; nothing is opened or closed under it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Open] = OrderedDict()  # by entry, that used last at the end

    @contextlib.contextmanager
    def use(self, entry: int, opener: Callable[[int], int]) -> Iterator[int]:
        """Give the descriptor of a file, which stays open meanwhile; ``opener`` opens it.

        Raises ``OSError``.
        """
        one = self._take(entry, None) or self._take(entry, _Open(opener(entry)))
        assert one is not None  # it is open
        try:
            yield one.descriptor
        finally:
            self._give_back(one)

    def _take(self, entry: int, fresh: _Open | None) -> _Open | None:
        """Return the open file of an entry, ``fresh`` if there was none."""
        with self._lock:
            one = self._open.get(entry, fresh)
            if one:
                self._open[entry] = one
                self._open.move_to_end(entry)
                one.users += 1
        if fresh and one is not fresh:
            os.close(fresh.descriptor)  # another worker was faster
        return one

    def _give_back(self, one: _Open) -> None:
        with self._lock:
            one.users -= 1
            idle = [entry for entry, other in self._open.items() if not other.users]
            surplus = idle[: max(0, len(self._open) - config.OPEN_IN_TREE)]
            closing = [self._open.pop(entry) for entry in surplus]
        for other in closing:
            os.close(other.descriptor)

    def close(self) -> None:
        """Close all files; no worker uses one."""
        with self._lock:
            closing, self._open = list(self._open.values()), OrderedDict()
        for one in closing:
            os.close(one.descriptor)
