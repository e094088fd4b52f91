"""How many bytes the published files of a directory have, without counting them each time."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import config
from lft.manifest import Kind, Manifest
from lft.store.paths import counted, native, used_bytes
from protocol import DIGEST_SIZES


class Count:
    """What is known of one directory. ``Usage`` has the lock."""

    def __init__(self) -> None:
        self.trees = False  # whether there are any, as far as we looked
        self.total = 0  # bytes, as a quota counts them: of the last look, and published since
        self.pending = 0  # of files that are being published
        self.published = 0  # how often that was begun or ended: a look may overlap it
        self.changed = -1  # the directory's time of change in nanoseconds; -1 if that is not sure
        self.looked_at = -math.inf  # instant of the last look
        self.took = 0.0  # seconds that it took

    def holds(self, changed: int, seldom: float) -> bool:
        """Return whether the count need not be made anew: nothing changed, or it was just made."""
        age = time.monotonic() - self.looked_at
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
        changed = _changed(path)
        with self._lock:
            count = self._counts.setdefault(directory, Count())
            seen = -2 if surely and count.trees else changed  # its time says nothing of trees
            if count.holds(seen, 1 if surely else config.COUNT_SELDOM):
                return count.total + count.pending
            overlaps, before = count.pending > 0, count.published
        return self._look(path, count, changed, overlaps, before)

    def _look(self, path: Path, count: Count, changed: int, overlaps: bool, before: int) -> int:
        """Count the files. One that is published meanwhile may count twice, until the next look."""
        began = time.monotonic()
        found = used_bytes(path)
        with self._lock:
            count.looked_at, count.took = began, time.monotonic() - began
            count.total, count.trees = found.total, found.trees
            count.changed = -1 if overlaps or count.published != before else changed
            return found.total + count.pending

    def add(self, directory: str, size: int) -> None:
        """Count a file of ``size`` bytes that is about to be published."""
        with self._lock:
            count = self._counts.setdefault(directory, Count())
            count.pending += counted(size)
            count.published += 1

    def take_back(self, directory: str, size: int) -> None:
        """Do not count a file of ``size`` bytes after all: it could not be published."""
        with self._lock:
            count = self._counts[directory]
            count.pending -= counted(size)
            count.published += 1

    def note_published(self, directory: str, size: int) -> None:
        """Count a file that has its name; the directory's last change was for it."""
        changed = _changed(self._output / native(directory))
        with self._lock:
            count = self._counts[directory]
            count.pending -= counted(size)
            count.total += counted(size)
            count.published += 1
            count.changed = -1 if count.changed < 0 else changed


def counts_of(manifest: Manifest, digest: str) -> int:
    """Return the bytes that a tree counts in a quota, together with its sums."""
    files = sum(counted(manifest.length(number)) for number in range(manifest.files))
    others = len(manifest) - manifest.files + 1  # the tree itself is a directory, too
    digits = 2 * DIGEST_SIZES[digest]
    sums = sum(digits + 3 + len(manifest.path(index)) for index in manifest.of_kind(Kind.FILE))
    return files + others * config.LEAST_COUNTED + counted(sums)


def _changed(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
