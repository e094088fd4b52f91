"""All part files of an output directory."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator

import config
from lft.store.journal import NO_FACTS, Claims, Facts, Journal
from lft.store.partfile import PartFile
from lft.store.paths import NO_SPACE, OURS, PARTIAL, counted, reason_of
from protocol import RejectedError

if TYPE_CHECKING:
    from lft.server.transfer import Transfer

log = logging.getLogger("server")


class PartStore:
    """All part files of an output directory: which are in use, which rest for a resume.

    The lock protects the two collections; whoever took a part file out of ``_resting`` has it for
    itself. Workers call it, unless a docstring says otherwise. A ``key`` is that of ``Facts``.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._resting: list[PartFile] = []
        self._in_use: dict[PartFile, Transfer] = {}

    def scan(self) -> None:
        """Find what an earlier run left; remove what nobody can go on with (main, at start)."""
        folder = self._output / PARTIAL
        kept = 0
        for stem in sorted({path.stem for path in folder.iterdir() if path.name != "lock"}):
            try:
                part = PartFile(self._output, stem, Journal(folder / f"{stem}.journal").facts())
                part.recover()
                age = part.age()
            except (FileNotFoundError, ValueError) as error:
                log.warning("removing %s: nobody can go on with it (%s)", stem, reason_of(error))
                PartFile(self._output, stem, NO_FACTS).remove()
            except OSError as error:  # no fault of the file's: it may go at the next start
                log.warning("leaving %s alone: %s", stem, reason_of(error))
            else:
                self._put(part, age)
                kept += 1
        if kept:
            log.info("unfinished files kept for their clients to go on: %d", kept)

    def _put(self, part: PartFile, age: float = 0.0) -> None:
        """Let ``part`` rest; of too many of one user the oldest goes.

        Until then it counts as in use, so that who comes for it always finds it.
        """
        oldest = None
        part.rested_at = time.monotonic() - age
        with self._lock:
            self._in_use.pop(part, None)
            self._resting.append(part)
            own = [p for p in self._resting if p.facts.user == part.facts.user]
            if len(own) > config.MAX_PARTS_OF_USER:
                oldest = min(own, key=lambda p: p.rested_at)
                self._resting.remove(oldest)
        if oldest:
            log.warning("removing %s of %s: too many unfinished files of this user",
                        oldest.facts.name, oldest.facts.user)  # fmt: skip
            oldest.remove()

    def left_bytes(self, facts: Facts, *, same: bool) -> int:
        """Return what unfinished files reserve that nobody sends; if ``same``, of this one too."""
        with self._lock:
            ended = (part for part, transfer in self._in_use.items() if transfer.ended)
            left = [part.facts for part in (*self._resting, *ended) if not part.published]
        here = (one for one in left if one.directory == facts.directory)
        return sum(counted(one.size) for one in here if same or one.key != facts.key)

    def published_bytes(self, facts: Facts) -> int:
        """Return the bytes of this same file that are published and can still be answered for."""
        with self._lock:
            known = [part.facts for part in (*self._resting, *self._in_use) if part.published]
        here = (one for one in known if one.directory == facts.directory)
        return sum(counted(one.size) for one in here if one.key == facts.key)

    def _taken(self, key: tuple[object, ...]) -> Iterator[PartFile]:
        """Take out what rests with ``key``, the last first, one each time it is asked."""
        while True:
            with self._lock:
                part = next((p for p in reversed(self._resting) if p.facts.key == key), None)
                if part is None:
                    return
                self._resting.remove(part)
            yield part

    def forget(self, key: tuple[object, ...]) -> None:
        """Remove what rests of a file that is to be sent anew."""
        for part in self._taken(key):
            part.remove()

    def create(self, transfer: Transfer) -> PartFile:
        """Return a new part file; older attempts at the same file make room for it."""
        while True:
            try:
                part = PartFile.create(self._output, transfer.facts)
            except FileNotFoundError:  # somebody has tidied up
                (self._output / PARTIAL).mkdir(exist_ok=True)  # another worker may be faster
            except OSError as error:
                full = error.errno in NO_SPACE
                older = next(self._taken(transfer.facts.key), None) if full else None
                if older is None:
                    raise
                older.remove()
            else:
                self._use(part, transfer)
                return part

    def resume(
        self, transfer: Transfer, check: Callable[[], None] = lambda: None
    ) -> tuple[PartFile, Claims] | None:
        """Return one that rests and was for the same file, with its claims, if ``check`` agrees."""
        aside: list[PartFile] = []  # cannot be read just now: somebody may look after the disk
        try:
            for part in self._taken(transfer.facts.key):
                self._use(part, transfer)  # from now on somebody who comes for it has to wait
                claims = self._reopen(part, transfer, check, aside)
                if claims is not None:
                    return part, claims
            return None
        finally:
            for part in aside:
                self.rest(part)

    def _reopen(
        self, part: PartFile, transfer: Transfer, check: Callable[[], None], aside: list[PartFile]
    ) -> Claims | None:
        """Open ``part`` for ``transfer``, or set it aside; a bad one goes. Raises ``OSError``."""
        try:
            return part.reopen(transfer.facts, check)
        except RejectedError:
            aside.append(part)
            raise
        except (FileNotFoundError, ValueError) as error:
            log.warning("removing %s: it cannot be resumed (%s)", part.stem, reason_of(error))
            self.drop(part)
        except OSError as error:
            log.warning("%s cannot be resumed: %s", part.stem, reason_of(error))
            aside.append(part)
            if error.errno in OURS:  # a new one would not go better
                raise
        return None

    def _use(self, part: PartFile, transfer: Transfer) -> None:
        with self._lock:
            self._in_use[part] = transfer

    @property
    def in_use(self) -> int:
        """How many are in use (any)."""
        return len(self._in_use)  # one read: no lock needed

    def rivals(self, transfer: Transfer) -> list[Transfer]:
        """Return the transfers whose part file ``transfer`` could go on with."""
        with self._lock:
            users = list(self._in_use.values())
        return [user for user in users if user is not transfer and user.same_file(transfer)]

    def rest(self, part: PartFile) -> None:
        """Take a part file back that its transfer has let go, for whoever comes again (any)."""
        if part not in self._in_use:
            return  # it rests already
        if part.worth_keeping:
            part.close()
            self._put(part)
        else:
            self.drop(part)

    def drop(self, part: PartFile) -> None:
        """Remove a part file that nobody needs any more (any)."""
        with self._lock:
            known = self._in_use.pop(part, None)
        if known:
            part.remove()

    def close(self) -> None:
        """Let go what is still in use, verdicts that nobody has confirmed (main, at the end)."""
        for transfer in list(self._in_use.values()):
            transfer.end()
            transfer.settle(confirmed=False)

    def expire(self) -> None:
        """Remove what nobody came back for."""
        with self._lock:
            resting = list(self._resting)
        for part in resting:
            self._expire(part)

    def _expire(self, part: PartFile) -> None:
        fresh = PartFile(self._output, part.stem, part.facts)  # somebody may use the other by now
        try:
            fresh.look()
            limit = config.KEEP_ANSWER if fresh.published else config.KEEP_PARTIAL
            if fresh.age() < limit:
                return
        except (FileNotFoundError, ValueError) as error:
            log.debug("%s: %s", part.stem, error)  # gone already: forget it
        except OSError as error:  # no fault of the file's
            log.warning("leaving %s alone: %s", part.stem, reason_of(error))
            return
        with self._lock:
            if part not in self._resting:
                return  # somebody goes on with it
            self._resting.remove(part)
        if not part.published:
            log.warning("removing %s of %s: left for too long", part.facts.name, part.facts.user)
        part.remove()
