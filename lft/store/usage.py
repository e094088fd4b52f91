"""How many bytes the published files of a directory have, without counting them each time."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Mapping

import config
from lft.manifest import Kind, Manifest
from lft.store.paths import counted, native, used_bytes
from protocol import DIGEST_SIZES

_REMEMBERED = 1000  # names: far more than are published while one directory is looked at
_NEVER = (-1, 0)  # moment and bytes of a name that was not published
_NOTHING: Mapping[str, int] = {}


class Count:
    """What is known of one directory. ``Usage`` has the lock."""

    def __init__(self) -> None:
        self.trees = False  # whether there are any, as far as we looked
        self.total = 0  # bytes, as a quota counts them: of the last look, and published since
        self.pending: dict[str, int] = {}  # bytes of each name that is being published
        self.moment = 0  # how often that was begun or ended
        self.done: dict[str, tuple[int, int]] = {}  # moment and bytes of names published lately
        self.changed = -1  # the directory's time of change in nanoseconds; -1 if that is not sure
        self.looked_at = -math.inf  # instant of the last look
        self.took = 0.0  # seconds that it took

    def holds(self, changed: int, seldom: float) -> bool:
        """Return whether the count need not be made anew: nothing changed, or it was just made."""
        age = time.monotonic() - self.looked_at
        return age < (config.COUNT_AGAIN if changed == self.changed else seldom * self.took)

    def begin(self, name: str, size: int) -> None:
        """Count a file that is about to be published."""
        self.pending[name] = size
        self.moment += 1

    def take_back(self, name: str) -> int:
        """Do not count it after all; return its bytes."""
        self.moment += 1
        return self.pending.pop(name)

    def end(self, name: str) -> None:
        """Count it for good."""
        size = self.take_back(name)
        self.total += size
        self.done[name] = (self.moment, size)
        if len(self.done) > _REMEMBERED:
            del self.done[next(iter(self.done))]

    def done_since(self, moment: int) -> dict[str, int]:
        """Return the bytes of each name that was published after ``moment``."""
        return {name: size for name, (at, size) in self.done.items() if at > moment}

    def overlaps(self, name: str, moment: int) -> bool:
        """Return whether ``name`` is being published, or was after ``moment``: no lock needed."""
        return name in self.pending or self.done.get(name, _NEVER)[0] > moment

    def with_reserved(self, reserved: Mapping[str, int]) -> int:
        """Return what all count together with ``reserved`` names, some of them published by now."""
        still = {name: size for name, size in reserved.items() if name not in self.done}
        return self.total + sum({**still, **self.pending}.values())


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

    def total(
        self, directory: str, reserved: Mapping[str, int] = _NOTHING, *, surely: bool = False
    ) -> int:
        """Return the bytes in ``directory``; ``surely`` if a file is to be refused for them.

        With them count the names that were ``reserved`` just before, each once, also those that
        have been published meanwhile.
        """
        path = self._output / native(directory)
        changed = _changed(path)
        with self._lock:
            count = self._counts.setdefault(directory, Count())
            seen = -2 if surely and count.trees else changed  # its time says nothing of trees
            if count.holds(seen, 1 if surely else config.COUNT_SELDOM):
                return count.with_reserved(reserved)
        self._look(path, count, changed)
        with self._lock:
            return count.with_reserved(reserved)

    def _look(self, path: Path, count: Count, changed: int) -> None:
        """Count the files, without those that are published meanwhile: their bytes are known."""
        began, moment, still = time.monotonic(), count.moment, not count.pending
        found = used_bytes(path, lambda name: count.overlaps(name, moment))
        with self._lock:
            count.looked_at, count.took = began, time.monotonic() - began
            count.total = found.total + sum(count.done_since(moment).values())
            count.trees = found.trees
            count.changed = changed if still and count.moment == moment else -1

    def add(self, directory: str, name: str, size: int) -> None:
        """Count a file of ``size`` bytes that is about to be published."""
        with self._lock:
            self._counts.setdefault(directory, Count()).begin(name, counted(size))

    def take_back(self, directory: str, name: str) -> None:
        """Do not count a file after all: it could not be published."""
        with self._lock:
            self._counts[directory].take_back(name)

    def note_published(self, directory: str, name: str) -> None:
        """Count a file that has its name; the directory's last change was for it."""
        changed = _changed(self._output / native(directory))
        with self._lock:
            count = self._counts[directory]
            count.end(name)
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
