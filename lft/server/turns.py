"""Turns: of what many owners want at once, each gets one thing after the other."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Callable, Generic, TypeVar

Item = TypeVar("Item")


def _alone(_item: object) -> bool:
    """Let no item share a place."""
    return False


class Turns(Generic[Item]):
    """Items of several owners, taken out one owner after the other, each owner's in their order.

    So an owner with a thousand items is no better off than one with a single item. All operations
    take constant time. It has no lock: its owner has.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()  # the first one is next
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, owner: str, item: Item) -> None:
        """Put ``item`` behind the others of ``owner``."""
        self._lines.setdefault(owner, deque()).append(item)
        self._size += 1

    @property
    def first(self) -> Item:
        """The item whose turn it is; there is one."""
        return next(iter(self._lines.values()))[0]

    def take(self) -> Item:
        """Take that item out; there is one. Its owner comes again behind all others."""
        owner, line = next(iter(self._lines.items()))
        item = line.popleft()
        if line:
            self._lines.move_to_end(owner)
        else:
            del self._lines[owner]
        self._size -= 1
        return item


class Slots(Generic[Item]):
    """A number of places for work that may take long; the items beyond it wait in turns.

    No thread waits: what has to wait is handed to the thread that ends other work. Any thread may
    call any method. The lock protects all attributes.
    """

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._free = most
        self._waiting: Turns[Item] = Turns()

    def enter(self, owner: str, item: Item) -> bool:
        """Return whether ``item`` has a place; otherwise it waits, and ``leave`` returns it."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.add(owner, item)
            return False

    def leave(self, joins: Callable[[Item], bool] = _alone, most: int = 1) -> list[Item]:
        """Give a place back; return the items that have it now: one, or up to ``most`` that join.

        Items share a place where ``joins`` says so of each. It is asked under the lock.
        """
        with self._lock:
            items: list[Item] = []
            while self._waiting and len(items) < most and self._joins(items, joins):
                items.append(self._waiting.take())
            self._free += not items
            return items

    def _joins(self, items: list[Item], joins: Callable[[Item], bool]) -> bool:
        return not items or (joins(items[0]) and joins(self._waiting.first))
