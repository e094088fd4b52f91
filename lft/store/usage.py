"""How many bytes the published files of a directory have, without counting them each time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import config
from lft.store.paths import counted, native, used_bytes


class Count(NamedTuple):
    """What one look at a directory has found, and the files published since then."""

    total: int  # bytes, as a quota counts them
    changed: int  # the directory's time of change in nanoseconds, as far as it is accounted for
    at: float  # instant of the look, on the monotonic clock
    took: float  # seconds

    def holds(self, changed: int, seldom: float) -> bool:
        """Return whether the count need not be made anew: nothing changed, or it was just made."""
        age = time.monotonic() - self.at
        return age < (config.COUNT_AGAIN if changed == self.changed else seldom * self.took)


class Usage:
    """What the published files of each directory count together. Any worker.

    A file that the server publishes is added to the count. A directory that another program has
    changed is looked at again, but for no more than a small part of the time: with 100,000 files a
    look takes half a second. The lock protects the counts; no directory is read under it.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._counts: dict[str, Count] = {}

    def total(self, directory: str, *, surely: bool = False) -> int:
        """Return the bytes in ``directory``; ``surely`` if a file is to be refused for them."""
        path = self._output / native(directory)
        with self._lock:
            known = self._counts.get(directory)
        if known and known.holds(_changed(path), 1 if surely else config.COUNT_SELDOM):
            return known.total
        return self._look(directory, path, known)

    def _look(self, directory: str, path: Path, before: Count | None) -> int:
        """Count the files; those that were added meanwhile may count twice, until the next look."""
        began, changed = time.monotonic(), _changed(path)
        found = used_bytes(path)
        with self._lock:
            now = self._counts.get(directory)
            added = now.total - before.total if now and before and now.at == before.at else 0
            total = found + max(0, added)
            self._counts[directory] = Count(total, changed, began, time.monotonic() - began)
        return total

    def add(self, directory: str, size: int) -> None:
        """Count a file of ``size`` bytes that is about to be published."""
        self._change(directory, counted(size))

    def take_back(self, directory: str, size: int) -> None:
        """Do not count a file of ``size`` bytes after all: it could not be published."""
        self._change(directory, -counted(size))

    def _change(self, directory: str, change: int) -> None:
        with self._lock:
            known = self._counts.get(directory)
            if known:
                self._counts[directory] = known._replace(total=known.total + change)

    def note_published(self, directory: str) -> None:
        """Take the directory's last change for the file that was added."""
        changed = _changed(self._output / native(directory))
        with self._lock:
            known = self._counts.get(directory)
            if known:
                self._counts[directory] = known._replace(changed=changed)


def _changed(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
