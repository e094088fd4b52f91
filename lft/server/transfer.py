"""One file on its way in."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
import logging
import threading
import time
from typing import TYPE_CHECKING, Callable, Iterator

import config
from lft.accounts.permissions import LONGEST_BEGINNING
from lft.clock import Pauses
from lft.server.blockmap import GAPS, PROMISED, READY, TO_STATES, BlockState, Due, Stretch, Unproven
from lft.server.buffers import BufferPool
from lft.store.journal import Claims, Facts, record
from lft.store.partfile import PartFile, StaleError
from lft.store.paths import output_name, unique
from protocol import DIGEST_SIZES, MAX_SPANS, Blocks, FileStart, IntegrityOk, Spans, Why

if TYPE_CHECKING:
    from lft.server.sessions import Session

log = logging.getLogger("server")


class TransferEndedError(Exception):
    """The transfer ended meanwhile; whoever still worked for it stops."""


class Stage(enum.IntEnum):
    """How far a transfer has come: each stage leads to the next, as far as ``CONFIRMED``.

    From ``PUBLISHING`` a disk that refuses leads back, and nobody else; every other stage before
    ``CONFIRMED`` may lead to ``ENDED``.
    """

    OPEN = 0  # blocks come and are hashed
    JUDGED = 1  # all of them are; one worker is to publish the file
    PUBLISHING = 2
    PUBLISHED = 3  # the part file stays until the client has read the verdict, or is gone
    CONFIRMED = 4  # nobody needs the part file any more: it goes with its last user
    ENDED = 5  # somebody may go on with the part file: it rests when its last user has left


class Transfer:
    """One file on its way in: which blocks are here, which of them are proven right.

    ``Block`` says which way a block goes. Memory holds a byte for each, and more only for what is
    between written and verified. The lock protects the stage and every attribute that begins with
    an underscore, but for the hash state, which belongs to the one worker that hashes.
    """

    def __init__(
        self,
        session: Session,
        start: FileStart,
        name: str,
        buffers: BufferPool,
        let_go: Callable[[Transfer, PartFile], None],
    ) -> None:
        """Stand for the file that ``start`` announces; ``let_go`` gets the part file at the end."""
        self.turn = 0  # the registry's: in which order they came in ...
        self.number = 0  # ... and what the wire calls them
        self.session = session
        self.user, self.priority = session.user, session.priority
        self.name = name
        self.resumes = start.resume
        self.blocks = Blocks(start.size, start.block_size)
        saved_as = output_name(name, unique())
        self.facts = Facts(
            session.user, name, start.size, start.block_size, start.digest, saved_as,
            session.rights.directory, start.head,
        )  # fmt: skip
        self._digest_size = DIGEST_SIZES[start.digest]
        self.asked_at = time.monotonic()
        self.probes: dict[Transfer, float] = {}  # owners of its part file, and since when asked
        self._buffers = buffers
        self._let_go = let_go
        self._lock = threading.Lock()
        self.stage = Stage.OPEN
        self._part: PartFile | None = None
        self._states = bytearray()
        self._claims = Claims(0, 0)  # of the journal, when it began
        self._asked = 0  # blocks in state ASKED
        self._verified = 0  # blocks from the start of the file
        self._here = 0  # blocks announced, written or verified
        self._written: dict[int, Unproven] = {}  # the pool lends the payloads in there
        self._records = bytearray()  # written blocks that the journal does not claim yet
        self._claim: str | None = None  # the digest of a TRANSFER_COMPLETE that counts
        self._hashing = self._flushing = self._noting = False  # whether a worker is at it
        self._unflushed = 0
        self._received = 0  # bytes, each block once
        self._hashed_for = 0.0  # seconds; the hasher's, like the hash state
        self._wrote_for = 0.0  # seconds, of all workers together, and the last flush
        self._held_back = Pauses()  # of its data connections, by limits
        self._rounds = 0  # repairs without progress
        self._resent = 0
        self._moved_at = self.asked_at
        self._users = 0  # workers that use the part file right now
        self._publish_next = False  # the flush that runs now has to call the publisher
        self._hash = hashlib.new(start.digest)
        self.held_until = 0.0  # a stretch is hashed then at the latest, whoever has right of way
        self._looked_at = False  # whether the content fits the name

    def __repr__(self) -> str:
        return f"<Transfer {self.number}: {self._verified} of {self.blocks.count} blocks verified>"

    def same_file(self, other: Transfer) -> bool:
        """Whether ``other`` could go on with what this one has received."""
        return self.facts.key == other.facts.key

    # -- its life: any worker

    def open(self, part: PartFile, claims: Claims | None = None) -> bool:
        """Begin to receive into ``part``; ``False`` if the transfer has ended meanwhile."""
        states = claims.flags.translate(TO_STATES) if claims else bytearray(self.blocks.count)
        with self._lock:
            if not self.ended:
                self._part, self._moved_at = part, time.monotonic()
                self._states, self._claims = states, claims or self._claims
            return not self.ended

    @contextlib.contextmanager
    def part(self) -> Iterator[PartFile]:
        """Use the part file; it stays open until the last user has left."""
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            self._users += 1
            part = self._part
        try:
            yield part
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
        self._look_last()

    def _look_last(self) -> None:
        """Let the part file go, once, when the stage is a last one and nobody uses it."""
        if self.stage < Stage.CONFIRMED:  # one read: who changes that looks as well
            return
        with self._lock:
            if self._users or self._part is None:
                return
            part, self._part = self._part, None  # nobody else is left to touch the rest
        self._buffers.settle(sum(len(one.payload or b"") for one in self._written.values()))
        try:
            part.note(bytes(self._records))
        except OSError as error:
            log.warning("%s: the journal lacks some blocks: %s", self.name, error.strerror)
        self._let_go(self, part)

    def spoil(self) -> None:
        """Let nobody go on with the part file."""
        with self._lock:
            if self._part:
                self._part.trusted = False

    def note_blocks(self) -> None:
        """Have the journal claim what was written since the last time (one worker at a time)."""
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            if self._noting or not self._records:
                return
            self._noting = True
            self._users += 1
            part, records = self._part, bytes(self._records)
            self._records.clear()
        try:
            part.note(records)
        finally:
            with self._lock:
                self._noting = False
            self._leave()

    def end(self) -> bool:
        """Let nobody begin anything; return whether it was the caller who ended it."""
        with self._lock:
            ends = self.stage < Stage.PUBLISHING
            if ends:
                self.stage = Stage.ENDED
        self._look_last()
        return ends

    def settle(self, *, confirmed: bool) -> None:
        """The client has read the verdict, or is gone: then somebody may ask for it again."""
        with self._lock:
            if self.stage is Stage.PUBLISHED:
                self.stage = Stage.CONFIRMED if confirmed else Stage.ENDED
        self._look_last()

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish the file within this. Raises ``TransferEndedError`` if somebody was faster."""
        with self._lock:
            if self.ended:
                raise TransferEndedError
            self.stage, after = Stage.PUBLISHING, Stage.JUDGED
        try:
            yield
            after = Stage.PUBLISHED
        finally:
            with self._lock:
                self.stage = after

    # -- blocks: any worker

    @property
    def receiving(self) -> bool:
        """Whether blocks may come."""
        return self._part is not None and not self.ended  # one read each: no lock needed

    @property
    def ended(self) -> bool:
        """Whether it is over; its part file may still be in use for a moment."""
        return self.stage >= Stage.PUBLISHED  # one read: no lock needed

    def lives(self, asked_at: float) -> bool:
        """Whether its client has been heard of since ``asked_at``; one read each, no lock needed.

        Blocks count a little later: what had come before may still have waited to be received.
        """
        drained = asked_at + config.PROBE_TIMEOUT / 3
        return self.session.heard_at >= asked_at or self._moved_at >= drained

    @property
    def claimed(self) -> Spans:
        """The blocks of which only the running digest is wanted."""
        return self._claims.spans

    def announce(self, block: int, digest: bytes) -> Due:
        """Take the client's digest of a block that the journal claims.

        One that differs from the journal's says that the source has changed before the end of this
        block: from here on nothing that the journal claims can be used.
        """
        digest = digest[: self._digest_size]
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            missing: Spans = ()
            if self._states[block] == BlockState.CLAIMED:
                if digest == self._claims.digest_of(block):
                    self._states[block] = BlockState.ANNOUNCED
                    self._arrived(self.blocks.length(block))
                else:
                    missing = self._distrust(block)
            return Due(self._received, self._hashing_due(), missing=missing)

    def _distrust(self, block: int) -> Spans:
        """Ask for the bytes of every block from ``block`` on that was only claimed."""
        found = PROMISED.finditer(self._states, block)
        asked = tuple(match.span() for match in itertools.islice(found, MAX_SPANS))
        for at in itertools.chain.from_iterable(itertools.starmap(range, asked)):
            if self._states[at] == BlockState.ANNOUNCED:
                self._withdraw(at)
        return self._ask(asked)

    def _arrived(self, length: int) -> None:
        self._here += 1
        self._received += length
        self._moved_at = time.monotonic()

    def _withdraw(self, block: int) -> None:
        """A block that was here is not, after all."""
        self._here -= 1
        self._received -= self.blocks.length(block)

    def store(self, block: int, digest: bytes, payload: memoryview) -> Due:
        """Write a block that is not here yet; return what has become due by it.

        The buffer is the transfer's from here on: a few stay in memory, so that hashing need not
        read them back. Raises ``OSError``, ``TransferEndedError``, ``StaleError``.
        """
        part = self._claim_block(block)
        if part is None:
            self._buffers.give(payload)
            return Due(self._received)
        began = time.monotonic()
        try:
            part.write(payload, self.blocks.offset(block))
        except BaseException:
            self._leave()
            raise
        return self._note_written(block, digest, payload, time.monotonic() - began)

    @property
    def full(self) -> bool:
        """Whether to remember one more block would take memory without bound."""
        return len(self._written) > config.MAX_AHEAD  # one read: no lock needed

    def _claim_block(self, block: int) -> PartFile | None:
        """Reserve ``block`` for writing; ``None`` when it is here, or another worker is at it.

        So no block is ever written after it was verified, whatever comes twice.
        """
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            state = self._states[block]
            if state >= BlockState.ANNOUNCED:
                return None
            self._asked -= state == BlockState.ASKED
            self._states[block] = BlockState.WRITING
            self._users += 1
            return self._part

    def _note_written(self, block: int, digest: bytes, payload: memoryview, took: float) -> Due:
        digest, length = digest[: self._digest_size], len(payload)
        kept = payload if self._buffers.lend(length) else None
        with self._lock:
            self._wrote_for += took
            self._written[block] = Unproven(block, BlockState.WRITTEN, digest, kept)
            self._states[block] = BlockState.WRITTEN
            self._records += record(block, digest)
            self._unflushed += length
            self._arrived(length)
            due = Due(self._received, self._hashing_due(), self._flush_due())
            self._users -= 1
        self._look_last()
        if kept is None:
            self._buffers.give(payload)
        return due

    def stalled_for(self) -> float:
        """Return the seconds since a block came, 0 unless it is the client's turn."""
        with self._lock:
            complete = self._here == self.blocks.count and self._claim is not None
            waits = self._part is not None and not complete
            return time.monotonic() - self._moved_at if waits else 0.0

    # -- flushing: one worker at a time

    def _flush_due(self) -> bool:
        due = self._unflushed >= config.FLUSH_EVERY and not self._flushing
        if due:
            self._flushing, self._unflushed = True, 0
        return due

    def end_flush(self, *, done: bool) -> bool:
        """Let the next flush begin; whether the caller has to call the publisher now."""
        with self._lock:
            self._flushing = False
            if not done:  # try again after some more blocks
                self._unflushed += config.FLUSH_EVERY - config.FLUSH_EVERY // 8
            publish, self._publish_next = self._publish_next, False
            return publish

    def begin_last_flush(self) -> bool:
        """Whether the publisher may go on; else the flush that runs calls it when it has ended.

        The system tells of a write that failed only once: to one of two flushes at the same time.
        """
        with self._lock:
            self._publish_next = self._flushing
            return not self._flushing

    # -- hashing: one worker at a time

    def complete(self, digest: str, *, delivered: bool = True) -> Spans:
        """Take the client's word for the whole file; return the blocks that nobody will bring.

        Before all is ``delivered`` there are none. While a block that a MISSING named is still
        absent, that MISSING has crossed this word on the way, and another word will follow.
        """
        with self._lock:
            self._claim = digest
            if not delivered or self._asked or self._here == self.blocks.count:
                return ()
            found = GAPS.finditer(self._states, self._verified)
            missing = tuple(match.span() for match in itertools.islice(found, MAX_SPANS))
            if missing:
                self._rounds += 1
                self._resent += sum(end - first for first, end in missing)
            return self._ask(missing)

    def _ask(self, missing: Spans) -> Spans:
        for first, end in missing:
            self._states[first:end] = bytes([BlockState.ASKED]) * (end - first)
            self._asked += end - first
        self._moved_at = time.monotonic()
        return missing

    def begin_hashing(self) -> bool:
        """Whether hashing is worth a unit of work; if so it is the caller's to do."""
        with self._lock:
            return self._hashing_due()

    def _hashing_due(self) -> bool:
        waiting, at_end = self._here - self._verified, self._verified == self.blocks.count
        enough = waiting >= (config.HASH_BATCH if self._claim is None else 1)
        ready = enough and self._states[self._verified] in READY
        due = ready or (at_end and self._claim is not None)
        due = due and not self._hashing and self.stage is Stage.OPEN
        self._hashing |= due
        return due

    def hash_stretch(self) -> Stretch:
        """Hash some blocks in file order, to the first that is not right. Raises as ``store``."""
        stretch, judged = self._next_stretch()
        with self.part() as part:
            for item in stretch:
                if not self._hash_block(part, item):
                    return self._send_back(part, item)
        return Stretch(bool(stretch), judged=judged)

    def _next_stretch(self) -> tuple[list[Unproven], bool]:
        """Return the next blocks to hash; none ends the caller's turn, perhaps with judgement."""
        with self._lock:
            first = self._verified
            stretch = []
            for block in range(first, min(first + config.HASH_STRETCH, self.blocks.count)):
                if self._states[block] not in READY:
                    break
                stretch.append(self._written.get(block) or self._announced(block))
            if stretch:
                return stretch, False
            self._hashing = False
            judged = self._claim is not None and first == self.blocks.count
            judged = judged and self.stage is Stage.OPEN
            if judged:
                self.stage = Stage.JUDGED
            return [], judged

    def _announced(self, block: int) -> Unproven:
        return Unproven(block, BlockState.ANNOUNCED, self._claims.digest_of(block), None)

    def _read_back(self, part: PartFile, block: int) -> memoryview:
        view = self._buffers.take(self.blocks.length(block))
        part.read(view, self.blocks.offset(block))
        return view

    def _hash_block(self, part: PartFile, item: Unproven) -> bool:
        """Hash one block; ``False``, and the hash as it was before, if that proves nothing."""
        view = item.payload or self._read_back(part, item.block)
        before, began = self._hash.copy(), time.monotonic()
        self._hash.update(view)
        self._hashed_for += time.monotonic() - began
        right = self._hash.digest() == item.digest
        with self._lock:
            if item.payload is not None:
                self._buffers.settle(len(view))
            if item.state == BlockState.WRITTEN:
                del self._written[item.block]
            right = right and self._states[item.block] == item.state  # else distrusted meanwhile
            if right:
                self._states[item.block] = BlockState.VERIFIED
                self._verified, self._rounds = item.block + 1, 0
        self._buffers.give(view)
        if not right:
            self._hash = before
        return right

    def _send_back(self, part: PartFile, item: Unproven) -> Stretch:
        """Ask for a block again that is not what it should be."""
        with self._lock:
            if self._states[item.block] != item.state:
                return Stretch(more=True)  # it has been asked for already
            if part.published:
                raise StaleError
            self._withdraw(item.block)
            self._rounds += 1
            self._resent += item.state == BlockState.WRITTEN
            missing = self._ask(((item.block, item.block + 1),))
        why = Why.DAMAGED if item.state == BlockState.WRITTEN else Why.ALTERED
        return Stretch(True, missing, why)

    def last_flush(self, part: PartFile) -> None:
        """Flush the whole file; everybody waits for that (publisher). Raises ``OSError``."""
        began = time.monotonic()
        part.flush()
        with self._lock:
            self._wrote_for += (time.monotonic() - began) * self._streams

    def held_back(self, seconds: float) -> None:
        """Note that a limit keeps one of the data connections from being received from."""
        with self._lock:
            self._held_back.add(seconds)

    @property
    def _streams(self) -> int:
        return max(1, len(self.session.streams))  # one read: a stale number makes a share coarser

    @property
    def resent(self) -> int:
        """How many blocks had to be asked for again."""
        return self._resent  # one read: no lock needed

    def receipt(self, name: str) -> IntegrityOk:
        """Say where the file stands and where the time went."""
        with self._lock:
            seconds = self._hashed_for, self._wrote_for / self._streams, self._held_back.seconds
        times = (round(1000 * one) for one in seconds)
        return IntegrityOk(name, self.blocks.size, self.digest, self.resent, True, *times)

    def content_due(self) -> bool:
        """Whether the beginning is here and nobody has looked at it; said once."""
        beginning = min(LONGEST_BEGINNING, self.blocks.size)
        due = not self._looked_at and self.verified_bytes >= beginning
        self._looked_at |= due  # only the one who hashes asks
        return due

    @property
    def hopeless(self) -> bool:
        """Whether repair was tried too often without progress."""
        return self._rounds > config.MAX_ROUNDS  # one read: no lock needed

    @property
    def claimed_digest(self) -> str | None:
        """What TRANSFER_COMPLETE said, in hexadecimal; ``None`` before it counts."""
        return self._claim  # one read: no lock needed

    @property
    def digest(self) -> str:
        """The digest of what has been hashed so far, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def verified_bytes(self) -> int:
        """How much of the file, from its start, is proven right."""
        verified = self._verified * self.blocks.block_size  # one read: no lock needed
        return min(verified, self.blocks.size)
