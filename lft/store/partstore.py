"""All part files of an output directory."""

from __future__ import annotations

import errno
import itertools
import logging
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, Iterator, Sequence

import config
from lft.store.journal import Claims, Facts
from lft.store.leftovers import Leftovers, Need
from lft.store.part import Part
from lft.store.paths import NO_SPACE, PARTIAL, reason_of
from lft.store.trees import kind_of
from lft.store.waste import Waste

log = logging.getLogger("server")

# trouble of this machine, not of one part file: a new part file would not go better
_TROUBLE = (*NO_SPACE, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOMEM)


Around = Callable[[Callable[[], Part]], Part]


def at_once(make: Callable[[], Part]) -> Part:
    return make()


class PartStore:
    """All part files of an output directory: which are in use, which rest for a resume.

    The lock protects the two collections; a caller that took a part file out of ``_resting`` has it
    for itself. All methods run on workers, unless a docstring says otherwise.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._resting: dict[str, list[Part]] = {}  # of each user, the newest last
        self._in_use: set[Part] = set()
        self.waste = Waste(output)
        self._leftovers = Leftovers(output, self._put, self.waste)
        self.scanned = False  # whether all that an earlier run left has been looked at

    # -- what an earlier run left

    def scan(self) -> None:
        """Find the part files of an earlier run; remove those without use."""
        while not self.scanned:
            self.scan_some()

    def scan_some(self) -> None:
        """Do a part of the scan: a unit of work, one worker at a time. Raises ``OSError``."""
        leftovers = self._leftovers
        if leftovers.listed:
            leftovers.look_at_some()
        else:
            leftovers.read_some()
        self.scanned = leftovers.listed and not leftovers.left()
        if self.scanned and leftovers.kept:
            log.info("unfinished files kept for their clients to go on: %d", leftovers.kept)

    @property
    def listed(self) -> bool:
        """Whether it is known whose files an earlier run left; no transfer begins before (any)."""
        return self._leftovers.listed

    def knows(self, needed: Need) -> bool:
        """Return whether the part files of an earlier run that are ``needed`` are all known."""
        return self.scanned or (self.listed and not self._leftovers.left(needed))

    def look_first(self, needed: Need) -> int:
        """Look at some of the part files that are ``needed`` at once; return their number."""
        return self._leftovers.look_at_some(needed) if self.listed else 0

    def _put(self, part: Part, age: float = 0.0) -> None:
        """Let ``part`` rest; of too many of one user the oldest goes.

        Until then it counts as in use, so that a search always finds it. Second names of published
        files are counted apart: they must not push out an unfinished file.
        """
        oldest = None
        part.rested_at, part.found_age = time.monotonic(), age
        with self._lock:
            self._in_use.discard(part)
            own = self._resting.setdefault(part.facts.user, [])
            own.append(part)
            alike = [other for other in own if other.published == part.published]
            if len(alike) > config.MAX_PARTS_OF_USER:
                oldest = min(alike, key=lambda other: other.rested_at - other.found_age)
                self._remove_resting(oldest)
        if oldest:
            if not oldest.published:
                log.warning("removing %s of %s: too many unfinished files of this user",
                            oldest.facts.name, oldest.facts.user)  # fmt: skip
            self.waste.remove(oldest)

    def _remove_resting(self, part: Part) -> None:
        """Take a part file out of those that rest; the caller holds the lock."""
        own = self._resting[part.facts.user]
        own.remove(part)
        if not own:
            del self._resting[part.facts.user]

    # -- how much there is

    @property
    def in_use(self) -> int:
        """How many part files are in use (any)."""
        return len(self._in_use)  # one read: no lock needed

    def resting(self, directory: str) -> list[Facts]:
        """Return the unfinished files of a directory that wait for their clients."""
        return _unfinished((part for part, in_use in self.parts() if not in_use), directory)

    def used(self, directory: str, own: Part | None = None) -> list[Facts]:
        """Return the unfinished files of a directory that are in use, without ``own``."""
        with self._lock:
            return _unfinished(self._in_use - {own}, directory)

    def parts(self) -> list[tuple[Part, bool]]:
        """Return all part files that are known, each with whether it is in use."""
        with self._lock:
            resting = itertools.chain.from_iterable(self._resting.values())
            return [*((part, False) for part in resting), *((p, True) for p in self._in_use)]

    def published_bytes(self, facts: Facts) -> int:
        """Return what published files count whose verdict this same file can still get."""
        with self._lock:
            parts = [*self._resting.get(facts.user, ()), *self._in_use]
        here = (p.facts for p in parts if p.published and p.facts.directory == facts.directory)
        return sum(one.counts for one in here if one.key == facts.key)

    # -- to and from a transfer

    def create(self, facts: Facts, around: Around = at_once) -> Part:
        """Return a new part file; older attempts at the same file make room for it.

        ``around`` makes it, and may do something before and after that.
        """
        while True:
            try:
                part = around(partial(self._make, facts))
            except FileNotFoundError:  # the folder was removed
                (self._output / PARTIAL).mkdir(exist_ok=True)  # another worker may be faster
            except OSError as error:
                older = self._take(facts) if error.errno in NO_SPACE else None
                if older is None:
                    raise
                self.drop(older)
            else:
                with self._lock:
                    self._in_use.add(part)
                return part

    def _make(self, facts: Facts) -> Part:
        return kind_of(facts).create(self._output, facts)

    def reopen(self, facts: Facts) -> Part | None:
        """Open the newest part file of an earlier attempt at this file, if there is one.

        ``go_on`` follows, or ``rest``. Unfit ones go. Raises ``OSError`` for trouble of the
        machine.
        """
        while True:
            part = next(filter(self._take_resting, self._fit(facts)), None)
            if part is None:
                return None
            try:
                part.reopen(facts)
            except (FileNotFoundError, ValueError) as error:
                self._drop_unfit(part, error)
            except OSError as error:
                self._set_aside(part, error)
                return None
            else:
                return part

    def earlier(self, facts: Facts) -> Facts | None:
        """Return the facts of an earlier attempt, in other blocks or by another digest.

        The newest part file of this user and name counts that begins as ``facts.head`` says.
        """
        return next((part.facts for part in self._earlier(facts)), None)

    def _earlier(self, facts: Facts) -> Iterator[Part]:
        """Give what rests of this file, in whatever blocks and by whatever digest, newest first."""
        alike = [p for p in self._resting_of(facts) if p.facts.alike(facts) and not p.published]
        if facts.is_tree:
            del alike[config.TREES_TRIED :]
        return (p for p in alike if not p.facts.is_upload and p.begins_with(facts))

    def _resting_of(self, facts: Facts) -> Sequence[Part]:
        """Return what rests of a user, at least of the files of this name, the newest first."""
        with self._lock:
            return list(reversed(self._resting.get(facts.user, ())))

    def go_on(self, part: Part, facts: Facts) -> Claims | None:
        """Use a reopened part file; return its claims, ``None`` if it turns out to be unfit."""
        try:
            return part.go_on(facts)
        except (FileNotFoundError, ValueError) as error:
            self._drop_unfit(part, error)
        except OSError as error:
            self._set_aside(part, error)
        return None

    def _take(self, facts: Facts) -> Part | None:
        """Take out the newest part file that rests and is for the same file; it is then in use."""
        with self._lock:
            own = reversed(self._resting.get(facts.user, ()))
            part = next((one for one in own if one.facts.key == facts.key), None)
            if part:
                self._remove_resting(part)
                self._in_use.add(part)
            return part

    def _fit(self, facts: Facts) -> Iterator[Part]:
        """Give what rests of this file, the newest first, also for a weaker digest.

        Its bytes are hashed again in any case, and then by the digest that is wanted now. A tree
        has to have most of what is in it.
        """
        same = [part for part in self._resting_of(facts) if part.facts.key == facts.key]
        if facts.is_tree:
            same = [part for part in same[: config.TREES_TRIED] if part.begins_with(facts)]
        yield from same
        for part in self._earlier(facts):
            stronger = part.facts.digest_size < facts.digest_size
            if part.facts.block_size == facts.block_size and stronger:
                yield part

    def _take_resting(self, part: Part) -> bool:
        """Take a part out if it rests still."""
        with self._lock:
            rests = part in self._resting.get(part.facts.user, ())
            if rests:
                self._remove_resting(part)
                self._in_use.add(part)
            return rests

    def _drop_unfit(self, part: Part, error: Exception) -> None:
        log.warning("removing %s: it cannot be resumed (%s)", part.stem, reason_of(error))
        self.drop(part)

    def _set_aside(self, part: Part, error: OSError) -> None:
        """Leave a part file that cannot be read just now; an operator may look after the disk."""
        log.warning("%s cannot be resumed: %s", part.stem, reason_of(error))
        self.rest(part)
        if error.errno in _TROUBLE:
            raise error

    def rest(self, part: Part) -> None:
        """Take back a part file from its transfer, for the client to come again (any)."""
        if part not in self._in_use:
            return  # it rests already
        if part.worth_keeping:
            part.close()
            self._put(part)
        else:
            self.drop(part)

    def drop(self, part: Part) -> None:
        """Remove a part file that is not needed any more (any)."""
        with self._lock:
            known = part in self._in_use
            self._in_use.discard(part)
        if known:
            self.waste.remove(part)

    def forget(self, facts: Facts) -> None:
        """Remove what rests of a file that is to be sent anew."""
        for part in iter(lambda: self._take(facts), None):
            self.drop(part)
        for other in self._earlier(facts):
            self.remove_if_resting(other)

    # -- age

    def expire(self) -> None:
        """Remove the part files that no client has come back for."""
        for part in [part for part, in_use in self.parts() if not in_use]:
            expired = _is_expired(part, self._output)
            if expired and self.remove_if_resting(part) and not part.published:
                log.warning("removed %s of %s: left for too long", part.facts.name, part.facts.user)

    def remove_if_resting(self, part: Part) -> bool:
        """Remove a part file, unless a client goes on with it; return whether it is gone."""
        with self._lock:
            if part not in self._resting.get(part.facts.user, ()):
                return False
            self._remove_resting(part)
        self.waste.remove(part)
        return True


def _unfinished(parts: Iterable[Part | None], directory: str) -> list[Facts]:
    found = [part.facts for part in parts if part and not part.published]
    return [facts for facts in found if facts.directory == directory]


def _is_expired(part: Part, output: Path) -> bool:
    """Return whether a part that rests has been left for too long."""
    fresh = kind_of(part.facts)(output, part.stem, part.facts)  # the other may be in use by now
    try:
        fresh.look()
    except (FileNotFoundError, ValueError) as error:
        log.debug("%s: %s", part.stem, error)  # gone already: forget it
        return True
    except OSError as error:  # no fault of the file's
        log.warning("leaving %s alone: %s", part.stem, reason_of(error))
        return False
    limit = config.KEEP_ANSWER if fresh.published else config.KEEP_PARTIAL
    rested = time.monotonic() - part.rested_at
    found_old = part.found_age + rested >= limit and rested >= config.KEEP_AFTER_START
    return rested >= limit or found_old
