"""One output that is not finished: what a part file and a part tree have in common."""

from __future__ import annotations

import abc
import logging
import time
from pathlib import Path
from typing import Iterable, Sequence

from lft.files import write_all
from lft.holes import is_zero, make_hole
from lft.store.journal import Claims, Facts, Journal, NoJournal
from lft.store.paths import NO_SPACE, PARTIAL, native

log = logging.getLogger("server")


class StaleError(Exception):
    """The client's file differs from the one that was published; nothing of it can be used."""


class Part(abc.ABC):
    """An output that is not finished, below ``.partial``, with its journal beside it.

    All methods run on a worker and may wait for the disk. A published part stays until the client
    has confirmed the verdict; it is not written to any more.
    """

    JOURNAL: type[Journal] = Journal  # the kind that it has, if any
    found = False  # whether it was published by an earlier transfer, and is only compared

    def __init__(self, output: Path, stem: str, facts: Facts) -> None:
        self.facts = facts
        self.stem = stem
        self.published = False
        self.trusted = True  # whether the disk has taken what it was given
        self.kept: bool | None = None  # whether it has the bits and the time that its client wants
        self.made_at = 0.0  # when it was opened to be written alone by us; 0: otherwise, or unsized
        self.rested_at = 0.0  # when the store got it back, on the monotonic clock
        self.found_age = 0.0  # seconds that it had rested then, says the clock of the disk
        self._claims_some = False
        self._told_full = False
        self._output = output
        kind = NoJournal if facts.unsized else self.JOURNAL
        self._journal = kind(output / PARTIAL / f"{stem}.journal")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stem}>"

    @property
    def _final(self) -> Path:
        return self._output / native(self.facts.place)

    @property
    @abc.abstractmethod
    def unfinished(self) -> Path:
        """Where it stands until it has its final name."""

    # -- beginning

    @classmethod
    @abc.abstractmethod
    def create(cls, output: Path, facts: Facts) -> Part:
        """Make a new part; ``reserve_some`` follows. Raises ``OSError`` and leaves nothing."""

    @abc.abstractmethod
    def reopen(self, facts: Facts) -> None:
        """Open what an earlier attempt left; ``go_on`` follows. Raises ``OSError``.

        Raises ``ValueError`` for a part that is unfit for ``facts``.
        """

    @abc.abstractmethod
    def go_on(self, facts: Facts) -> Claims:
        """Use the reopened part for ``facts``; return what its journal claims.

        ``reserve_some`` follows, as for a new one. Raises as ``reopen``.
        """

    @abc.abstractmethod
    def begins_with(self, facts: Facts) -> bool:
        """Return whether the part, which rests, can be of use for ``facts``."""

    @abc.abstractmethod
    def try_name(self) -> None:
        """See that it can get its final name; said before a byte is sent. Raises ``OSError``."""

    @abc.abstractmethod
    def reserve_some(self, seconds: float) -> bool:
        """Reserve space for about ``seconds``; return whether there is more to reserve.

        Raises ``OSError``.
        """

    # -- bytes

    @abc.abstractmethod
    def write_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Put ``views``, one behind the other, at ``offset``.

        A published part is not written to: the last blocks before its publication may lack their
        claim, so they come again. Raises ``StaleError`` where it has other bytes.
        """

    @abc.abstractmethod
    def dig(self, view: memoryview, offset: int) -> None:
        """Have a hole where it has the bytes of ``view``, if these are zeros.

        A resume reserves space for all of a file anew, also where there was a hole.
        """

    @abc.abstractmethod
    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``OSError``."""

    @abc.abstractmethod
    def flush(self, proven: int = 0) -> None:
        """Bring the bytes written so far to the disk, and the journal's claims after them.

        The first ``proven`` bytes are not needed in memory any more. An error is final: the system
        has dropped the bytes that it could not write, and a second try would succeed without them
        (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
        """

    def flush_with(self, _files: int) -> bool:
        """Flush it, and all that was made later of so many files, with one call.

        Returns ``False``, having done nothing, where that is not faster, or not possible. Raises
        ``OSError``, which is final for all of them.
        """
        return False

    # -- the end

    @abc.abstractmethod
    def finish(self, sums: Iterable[bytes]) -> None:
        """Bring all of it to the disk, as it will be published; of a tree also its ``sums``."""

    @abc.abstractmethod
    def publish(self) -> str:
        """Give what is finished its final name without replacing anything; return that name.

        The name, too, is on the disk then. What was published before a kill keeps the name it got.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close it; it stays on the disk."""

    @abc.abstractmethod
    def remove(self) -> None:
        """Close it and remove what is unfinished; what is published keeps its final name."""

    # -- its journal

    def note(self, records: bytes) -> None:
        """Claim written blocks in the journal.

        On a full disk the blocks stay unclaimed: the room for the file itself is reserved, so it
        can still arrive, and only a client that breaks off has to send those blocks again.
        """
        if not records or self.published or self.facts.unsized:
            return
        try:
            self._journal.append(records)
            self._claims_some = True
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            if not self._told_full:
                log.warning("%s: disk full: blocks from here on could not be resumed later",
                            self.facts.name)  # fmt: skip
            self._told_full = True

    def _renew_journal(self, facts: Facts, claims: Claims) -> None:
        """Write the journal anew; on a full disk the old one has to do, if it is for this size."""
        try:
            self._journal.begin(facts, claims)
        except OSError as error:
            if error.errno not in NO_SPACE or facts.journaled != self.facts.journaled:
                raise
            self._journal.go_on(facts)

    def _flush_journal(self) -> None:
        """Bring the claims to the disk, after what they claim."""
        try:
            self._journal.flush()
        except OSError as error:  # the data is safe all the same
            log.debug("%s: %s", self.stem, error)

    def _note_published(self) -> None:
        """Have the journal say for ever whose second name this is.

        Otherwise a user who removes the published file would leave a hidden copy that looks
        unfinished.
        """
        try:
            self._journal.note_published(self.facts)
        except OSError as error:  # a full disk, say: the file is there all the same
            log.debug("%s: %s", self.stem, error)

    # -- between two attempts

    def recover(self) -> None:
        """Look at what an earlier run left, and note a publication that it may not have noted.

        Raises as ``look`` does.
        """
        self.look()
        if self.published and not self._journal.says_published(self.facts):
            try:
                self._journal.go_on(self.facts)
                self._note_published()
            finally:
                self._journal.close()

    @abc.abstractmethod
    def look(self) -> None:
        """See whether it has its final name. Raises ``ValueError`` if it is not ours now."""

    @property
    def worth_keeping(self) -> bool:
        """Whether a client could go on with the file, or ask for its verdict again."""
        of_use = self._claims_some or self.published or self.facts.is_upload  # whose id is known
        return self.trusted and not self.facts.unsized and of_use

    def age(self) -> float:
        """Return the seconds since the journal was last written to, says the clock of the disk."""
        return max(0.0, time.time() - self._journal.stat().st_mtime)


def write_sparse(descriptor: int, views: Sequence[memoryview], offset: int) -> None:
    """Put ``views``, one behind the other, at ``offset``; holes, in place of zeros, if it can."""
    run: list[memoryview] = []
    start = offset
    for view in views:
        offset += len(view)
        if is_zero(view) and make_hole(descriptor, offset - len(view), len(view)):
            write_all(descriptor, run, start)
            run, start = [], offset
        elif view:
            run.append(view)
    write_all(descriptor, run, start)
