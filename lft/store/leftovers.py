"""The part files that an earlier run left, until each has been looked at."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from pathlib import Path
from typing import Callable

import config
from lft.store.journal import Facts, Journal
from lft.store.part import Part
from lft.store.paths import PARTIAL, reason_of
from lft.store.trees import LEFT_BEHIND, kind_of
from lft.store.waste import Waste

log = logging.getLogger("server")

Need = Callable[[Facts], bool]  # whether a part file matters to a transfer


def _any(_facts: Facts) -> bool:
    return True


class Leftovers:
    """What an earlier run left, in two steps: whose each part file is, then whether it is of use.

    A transfer waits for the first step. Of the second it needs only a few part files, those of its
    user, which it has looked at before all others.

    The lock protects the two collections; a worker that moved a part file to ``_in_hand`` has it
    for itself. All methods run on workers.
    """

    def __init__(self, output: Path, keep: Callable[[Part, float], None], waste: Waste) -> None:
        """``keep`` is given each part file that a client can go on with, and its age in seconds.

        ``waste`` removes the others.
        """
        self._output = output
        self._waste = waste
        self._folder = output / PARTIAL
        self._keep = keep
        self._lock = threading.Lock()
        self._waiting: dict[str, Facts] = {}  # of each stem
        self._in_hand: dict[str, Facts] = {}
        self._unread: list[str] | None = None  # stems; the reading worker's own
        self.listed = False  # whether the first step is done
        self.kept = 0

    def read_some(self) -> None:
        """Do a part of the first step, one worker at a time. Raises ``OSError``."""
        if self._unread is None:
            names = map(os.path.splitext, os.listdir(self._folder))
            stems = {stem for stem, suffix in names if suffix in LEFT_BEHIND}
            self._unread = sorted(stems, reverse=True)
        for _ in range(min(config.SCAN_STRETCH, len(self._unread))):
            self._read(self._unread[-1])
            self._unread.pop()
        self.listed = not self._unread

    def _read(self, stem: str) -> None:
        """Learn whose part file it is, or remove it."""
        try:
            facts = Journal(self._folder / f"{stem}.journal").facts()
        except (OSError, ValueError) as error:
            self._leave(stem, error)
        else:
            with self._lock:
                self._waiting[stem] = facts

    def look_at_some(self, needed: Need = _any) -> int:
        """Do a part of the second step, of what is ``needed``; return how many that were."""
        with self._lock:
            found = (stem for stem, facts in self._waiting.items() if needed(facts))
            stems = list(itertools.islice(found, config.SCAN_STRETCH))
        return sum(map(self._look_at, stems))

    def _look_at(self, stem: str) -> bool:
        """Keep one part file, or remove it; ``False`` if another worker has done so."""
        with self._lock:
            facts = self._waiting.pop(stem, None)
            if facts is None:
                return False
            self._in_hand[stem] = facts
        try:
            self._judge(stem, facts)
        finally:
            with self._lock:
                del self._in_hand[stem]
        return True

    def left(self, needed: Need = _any) -> bool:
        """Return whether something ``needed`` has not been looked at, or not to the end."""
        with self._lock:
            return any(map(needed, itertools.chain(self._in_hand.values(), self._waiting.values())))

    def _judge(self, stem: str, facts: Facts) -> None:
        part = kind_of(facts)(self._output, stem, facts)
        try:
            part.recover()
            age = self._age(stem)
        except (OSError, ValueError) as error:
            self._leave(stem, error)
        else:
            with self._lock:
                self.kept += 1
            self._keep(part, age)

    def _age(self, stem: str) -> float:
        """Return the seconds since a journal was last written to, says the clock of the disk."""
        return max(0.0, time.time() - (self._folder / f"{stem}.journal").stat().st_mtime)

    def _leave(self, stem: str, error: Exception) -> None:
        """Remove a part file without use; leave one alone that the disk does not give just now."""
        if isinstance(error, (FileNotFoundError, ValueError)):
            log.warning("removing %s: no client can go on with it (%s)", stem, reason_of(error))
            self._waste.remove_leftover(stem)
        else:  # no fault of the file's: it may go at the next start
            log.warning("leaving %s alone: %s", stem, reason_of(error))
