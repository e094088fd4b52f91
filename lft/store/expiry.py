"""What has rested for too long in a directory that several servers share."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Callable, Dict, NamedTuple

import config
from lft.store.fencedtree import Fenced, fenced, remove_useless
from lft.store.journal import Journal
from lft.store.locks import HeldElsewhereError
from lft.store.part import Part
from lft.store.paths import PARTIAL, reason_of
from lft.store.trees import LEFT_BEHIND
from lft.store.waste import Waste

log = logging.getLogger("server")

_FORGOTTEN = ".nfs"  # how NFS calls what was removed while a machine, dead since, had it open
_Files = Dict[str, int]  # the suffixes of a stem, each with its time of change in nanoseconds


class Rested(NamedTuple):
    """A part file as the last look found it."""

    part: Fenced
    changed: int  # its journal, in nanoseconds by the clock of the disk
    seen_at: float  # since when it is like that, on our monotonic clock


class Expiry:
    """Removes what no client comes back for, and what no server can use. One worker at a time.

    Another server may take or leave a part file at any time, so only what can be locked is removed,
    and only after another look at it. The age is told by two times of the disk: the clocks of the
    machines may differ. As a step of that clock must remove nothing, a part file has to be seen as
    it is for a while, too.
    """

    def __init__(
        self,
        output: Path,
        in_use: Callable[[], set[str]],
        removed: Callable[[Part], None],
        waste: Waste,
    ) -> None:
        """``in_use`` tells the stems that this server uses; ``removed`` hears of each one gone.

        ``waste`` removes them.
        """
        self._output = output
        self._folder = output / PARTIAL
        self._in_use = in_use
        self._removed = removed
        self._waste = waste
        self._seen: dict[str, Rested] = {}

    def look(self) -> None:
        """Look at all of ``.partial`` once. Raises ``OSError``."""
        now, found = self._now(), self._list()
        for stem in self._in_use():
            found.pop(stem, None)
        self._seen = {stem: one for stem, one in self._seen.items() if stem in found}
        for stem, files in found.items():
            with contextlib.suppress(FileNotFoundError, HeldElsewhereError):  # a server goes on
                self._look_at(stem, files, now)
        self._keep_some_of_each_user()

    def _now(self) -> int:
        """Return the time by the clock of the disk, in nanoseconds."""
        self._folder.mkdir(exist_ok=True)
        os.utime(self._folder)
        return os.stat(self._folder).st_mtime_ns

    def _list(self) -> dict[str, _Files]:
        """List the files of each stem. What NFS keeps of a removed one is a stem by itself."""
        found: dict[str, _Files] = {}
        for entry in os.scandir(self._folder):
            stem, suffix = os.path.splitext(entry.name)
            if suffix in LEFT_BEHIND or stem.startswith(_FORGOTTEN):
                with contextlib.suppress(FileNotFoundError):
                    changed = entry.stat(follow_symlinks=False).st_mtime_ns
                    found.setdefault(stem, {})[suffix] = changed
        return found

    def _look_at(self, stem: str, files: _Files, now: int) -> None:
        """Remove one that is of no use, or too old; note the others."""
        journal = Journal(self._folder / f"{stem}.journal")
        try:
            part = fenced(self._output, stem, journal.facts())
            part.published = journal.says_published(part.facts)
        except (FileNotFoundError, ValueError) as error:
            if now - max(files.values()) >= config.USELESS_FOR * 1e9:
                self._remove_useless(stem, reason_of(error))
        except OSError as error:  # no fault of the file's
            log.warning("leaving %s alone: %s", stem, reason_of(error))
        else:
            changed = files.get(".journal", now)
            if self._is_expired(self._note(part, changed), now):
                self._remove(part, "left for too long")

    def _note(self, part: Fenced, changed: int) -> Rested:
        """Note a part file that rests; return it, with the time since when it is like that."""
        known = self._seen.get(part.stem)
        same = known is not None and known.changed == changed
        seen_at = known.seen_at if known and same else time.monotonic()
        self._seen[part.stem] = Rested(part, changed, seen_at)
        return self._seen[part.stem]

    @staticmethod
    def _is_expired(rested: Rested, now: int) -> bool:
        limit = config.KEEP_ANSWER if rested.part.published else config.KEEP_PARTIAL
        seen_for, age = time.monotonic() - rested.seen_at, (now - rested.changed) / 1e9
        return seen_for >= limit or (age >= limit and seen_for >= config.KEEP_AFTER_START)

    def _remove(self, part: Fenced, why: str) -> None:
        """Remove a part file, unless a server has it or changed it since. Raises as ``lock``."""
        before, published = self._seen.pop(part.stem), part.published
        part.lock()
        if self._changed(part.stem) != before.changed or part.published != published:
            part.close()
            return
        self._waste.remove(part)
        self._removed(part)
        if not published:
            log.warning("removed %s of %s: %s", part.facts.name, part.facts.user, why)

    def _changed(self, stem: str) -> int:
        return os.stat(self._folder / f"{stem}.journal").st_mtime_ns

    def _remove_useless(self, stem: str, reason: str) -> None:
        if stem.startswith(_FORGOTTEN):
            (self._folder / stem).unlink()
        elif remove_useless(self._output, stem):
            self._waste.note(stem)
            log.warning("removed %s: no client can go on with it (%s)", stem, reason)

    def _keep_some_of_each_user(self) -> None:
        """Of too many unfinished files of one user the oldest go, as far as no server has them."""
        of_users: dict[str, list[Rested]] = {}
        for one in self._seen.values():
            if not one.part.published:
                of_users.setdefault(one.part.facts.user, []).append(one)
        for own in of_users.values():
            own.sort(key=lambda one: one.changed, reverse=True)
            for one in own[config.MAX_PARTS_OF_USER :]:
                with contextlib.suppress(FileNotFoundError, ValueError, HeldElsewhereError):
                    self._remove(one.part, "too many unfinished files of this user")
