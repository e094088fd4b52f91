"""All part files of an output directory that several servers share."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
from pathlib import Path
from typing import Iterable, Iterator

import config
from lft.store.counters import Counters
from lft.store.expiry import Expiry
from lft.store.fenced import FencedPartFile, new_stem, prefix_of
from lft.store.fencedtree import Fenced, FencedTree, fenced
from lft.store.journal import Facts, Journal
from lft.store.leftovers import Need
from lft.store.locks import HeldElsewhereError
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL, reason_of
from lft.store.trees import LEFT_BEHIND

log = logging.getLogger("server")

_OURS = re.compile(r"[0-9a-f]{24}-[0-9a-f]{16}")


class SharedPartStore(PartStore):
    """Finds what rests on the disk, where other servers leave and take part files at any time.

    Nothing is known of a part file without looking, except that this server uses it. A look lists
    ``.partial``, which a network file system never answers from memory: the names tell user and
    name of the file. What a server left that had the directory for itself has other names; no such
    server is there, so the journals of those are read once, at the start.

    The lock of ``PartStore`` protects ``_in_use`` and ``_others``.
    """

    def __init__(self, output: Path) -> None:
        super().__init__(output)
        self.counters = Counters(output)
        self._folder = output / PARTIAL
        self._others: dict[str, str] = {}  # stems with other names, and what the names should be
        self._unread: Iterator[str] | None = None
        self._expiry = Expiry(output, self._stems_in_use, self._removed, self.waste)
        self._listed = False

    # -- at the start

    def scan_some(self) -> None:
        """Learn whose part files with other names are, then look for what is of no use."""
        if self._unread is None:
            self._unread = iter([stem for stem in self._stems() if not _OURS.fullmatch(stem)])
        if not self._listed:
            read = list(itertools.islice(self._unread, config.SCAN_STRETCH))
            for stem in read:
                self._read(stem)
            self._listed = not read
        else:
            self.expire()
            self.scanned = True

    def _read(self, stem: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # then it is found when it is old
            facts = Journal(self._folder / f"{stem}.journal").facts()
            with self._lock:
                self._others[stem] = prefix_of(facts.user, facts.name)

    @property
    def listed(self) -> bool:
        """Whether the part files with other names are known (any)."""
        return self._listed

    def knows(self, _needed: Need) -> bool:
        """Return whether a transfer may look for its part file."""
        return self._listed

    def look_first(self, _needed: Need) -> int:
        """Have nothing to hurry with."""
        return 0

    # -- what rests

    def _names(self) -> list[str]:
        """List ``.partial``. Raises ``OSError``."""
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:  # it will be made again
            return []

    def _stems(self) -> set[str]:
        pairs = map(os.path.splitext, self._names())
        return {stem for stem, suffix in pairs if suffix in LEFT_BEHIND}

    def _resting_of(self, facts: Facts) -> list[Fenced]:
        """Return what rests of the files of a user that have this name, the newest first."""
        prefix = prefix_of(facts.user, facts.name)
        with self._lock:
            others = {stem for stem, name in self._others.items() if name == prefix}
        found = {stem for stem in self._stems() if stem.startswith(prefix) or stem in others}
        stems = sorted(found - self._stems_in_use(), key=lambda stem: (stem not in others, stem))
        return list(self._known(reversed(stems)))

    def _stems_in_use(self) -> set[str]:
        with self._lock:
            return {part.stem for part in self._in_use}

    def _known(self, stems: Iterable[str]) -> Iterator[Fenced]:
        """Give the part files of stems whose journals can be read, as those say now."""
        for stem in stems:
            journal = Journal(self._folder / f"{stem}.journal")
            try:
                part = fenced(self._output, stem, journal.facts())
                part.published = journal.says_published(part.facts)
            except (OSError, ValueError) as error:  # it may go just now; otherwise it gets old
                log.debug("%s: %s", stem, reason_of(error))
            else:
                yield part

    def parts(self) -> list[tuple[Part, bool]]:
        """Return what this server uses, and what other servers use or rests."""
        with self._lock:
            own = list(self._in_use)
        others = self._stems() - {part.stem for part in own}
        return [*((part, True) for part in own), *((p, False) for p in self._known(others))]

    # -- to and from a transfer

    def _make(self, facts: Facts) -> Part:
        kind = FencedTree if facts.is_tree else FencedPartFile
        return kind.create(self._output, facts, new_stem(facts.user, facts.name))

    def reopen(self, facts: Facts) -> Part | None:
        """Open and lock the newest part file of an earlier attempt, if there is one.

        Raises ``HeldElsewhereError`` where there are some and other servers have all of them.
        """
        held = None
        for part in self._fit(facts):
            try:
                part.lock()
                part.reopen(facts)
            except HeldElsewhereError as error:
                held = held or error
            except (FileNotFoundError, ValueError) as error:
                self._drop_unfit(part, error)
            except OSError as error:
                self._set_aside(part, error)
                return None
            else:
                self._use(part)
                return part
        if held:
            raise held
        return None

    def _fit(self, facts: Facts) -> Iterator[Fenced]:
        """Give what rests of this very file, also what was to be proven by a weaker digest."""
        resting = self._resting_of(facts)
        same = [part for part in resting if part.facts.key == facts.key]
        if facts.is_tree:
            del resting[config.TREES_TRIED :]
            same = [part for part in same[: config.TREES_TRIED] if part.begins_with(facts)]
        yield from same
        for part in resting:
            weaker = part.facts.digest_size < facts.digest_size
            if weaker and part.facts.block_size == facts.block_size and _is_earlier(part, facts):
                yield part

    def earlier(self, facts: Facts) -> Facts | None:
        """Return the facts of an earlier attempt, in other blocks or by another digest."""
        own = facts.block_size, facts.digest  # of these another server has all
        found = (part.facts for part in self._earlier(facts))
        return next((one for one in found if (one.block_size, one.digest) != own), None)

    def _use(self, part: Part) -> None:
        with self._lock:
            self._in_use.add(part)

    def _set_aside(self, part: Part, error: OSError) -> None:
        self._use(part)
        super()._set_aside(part, error)

    def _drop_unfit(self, part: Part, error: Exception) -> None:
        self._use(part)
        super()._drop_unfit(part, error)

    def _put(self, part: Part, _age: float = 0.0) -> None:
        """Have a part file rest; it is closed, so any server may take it."""
        with self._lock:
            self._in_use.discard(part)

    def drop(self, part: Part) -> None:
        """Remove a part file that is not needed any more (any)."""
        super().drop(part)
        self._removed(part)

    def forget(self, facts: Facts) -> None:
        """Remove what rests of a file that is to be sent anew, and that no server has."""
        for part in self._resting_of(facts):
            if part.facts.key == facts.key or _is_earlier(part, facts):
                self.remove_if_resting(part)

    def remove_if_resting(self, part: Part) -> bool:
        """Remove a part file, unless a server goes on with it; return whether it is gone."""
        resting = fenced(self._output, part.stem, part.facts)
        try:
            resting.lock()
        except (OSError, ValueError, HeldElsewhereError):
            return False
        self.waste.remove(resting)
        self._removed(resting)
        return True

    def _removed(self, part: Part) -> None:
        """Give back what a part file that is gone counted in a quota."""
        with self._lock:
            self._others.pop(part.stem, None)
        if not part.published:
            self.counters.release(part.facts.directory, part.stem)

    def expire(self) -> None:
        """Remove what no client has come back for, and what is of no use."""
        self._expiry.look()


def _is_earlier(part: Part, facts: Facts) -> bool:
    fits = part.facts.alike(facts) and not (part.published or part.facts.is_upload)
    return fits and part.begins_with(facts)
