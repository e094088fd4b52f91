"""The files of a tree that stay open from one block to the next."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Callable

import config


class OpenFile:
    """A file that is open, and how many workers use it right now.

    As a context it gives its descriptor, and is given back at the end: this is done for each run of
    blocks, and a generator in its place took three times as long.
    """

    __slots__ = ("_give_back", "descriptor", "users")

    def __init__(self, descriptor: int, give_back: Callable[[OpenFile], None]) -> None:
        self.descriptor = descriptor
        self.users = 0
        self._give_back = give_back

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        self._give_back(self)


class OpenFiles:
    """A few open files of a tree, those used last. Any worker.

    The lock protects the collection; nothing is opened or closed under it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenFile] = (
            OrderedDict()
        )  # by entry, that used last at the end

    def use(self, entry: int, opener: Callable[[int], int]) -> OpenFile:
        """Return a file as a context, in which it stays open; ``opener`` opens it.

        Raises ``OSError``.
        """
        one = self._take(entry, None)
        if one is None:
            one = self._take(entry, OpenFile(opener(entry), self._give_back))
        assert one is not None  # it is open
        return one

    def _take(self, entry: int, fresh: OpenFile | None) -> OpenFile | None:
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

    def _give_back(self, one: OpenFile) -> None:
        closing: list[OpenFile] = []
        with self._lock:
            one.users -= 1
            surplus = len(self._open) - config.OPEN_IN_TREE
            if surplus > 0:
                idle = [entry for entry, other in self._open.items() if not other.users]
                closing = [self._open.pop(entry) for entry in idle[:surplus]]
        for other in closing:
            os.close(other.descriptor)

    def close(self) -> None:
        """Close all files; no worker uses one."""
        with self._lock:
            closing, self._open = list(self._open.values()), OrderedDict()
        for one in closing:
            os.close(one.descriptor)
