"""One file on its way in."""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from operator import attrgetter
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

import config
from lft.clock import Pauses
from lft.manifest import Manifest
from lft.server.blockmap import BlockMap, BlockState, Due, Stretch, Unproven
from lft.server.buffers import Buffer, BufferPool
from lft.server.lifetime import Lifetime, Stage
from lft.server.sessions import Session
from lft.store.history import Proof
from lft.store.journal import Claims, Facts, record
from lft.store.part import Part, StaleError
from lft.sums import TreeHash
from protocol import Blocks, IntegrityOk, Spans, Why

log = logging.getLogger("server")


class RunningHash:
    """The hash of a file or tree from its start.

    Owned by the one worker whose turn it is to hash.
    """

    def __init__(self, algorithm: str, manifest: Manifest | None = None) -> None:
        self._hash = hashlib.new(algorithm) if manifest is None else TreeHash(manifest, algorithm)
        self._before: list[
            hashlib._Hash | TreeHash
        ] = []  # as it was before each block of this stretch
        self.seconds = 0.0  # that hashing took
        self.gives_way_until = 0.0  # a stretch is hashed then at the latest
        self.looked_at = 0  # files whose content was held against their names

    def begin(self) -> None:
        """Begin a stretch of blocks; those before it are not taken back any more."""
        self._before.clear()

    def add(self, view: memoryview) -> bytes:
        """Hash the next block; return the running digest with it."""
        self._before.append(self._hash.copy())
        began = time.monotonic()
        self._hash.update(view)
        self.seconds += time.monotonic() - began
        return self._hash.digest()

    def keep(self, blocks: int) -> None:
        """Take back all but the first ``blocks`` of the stretch."""
        if blocks < len(self._before):
            self._hash = self._before[blocks]

    def save(self) -> hashlib._Hash | TreeHash:
        """Return the state as it is now, to be taken up again by ``restore``."""
        return self._hash.copy()

    def restore(self, saved: hashlib._Hash | TreeHash) -> None:
        """Take back all blocks since ``saved`` was made."""
        self._before.clear()
        self._hash = saved

    def sums(self) -> Iterable[bytes]:
        """Give the lines of a tree's sums, of which its digest is; a file has none."""
        return self._hash.lines() if isinstance(self._hash, TreeHash) else ()

    @property
    def hexdigest(self) -> str:
        """The digest of the blocks hashed so far, in hexadecimal."""
        return self._hash.hexdigest()

    def hexdigest_with(self, view: memoryview) -> str:
        """Return what that would be with ``view`` behind them."""
        hashed = self._hash.copy()
        hashed.update(view)
        return hashed.hexdigest()


class Arrived(NamedTuple):
    """A block that has been received, with its bytes."""

    block: int  # index
    digest: bytes  # running digest, zero-padded
    buffer: Buffer


def neighbours(run: Iterable[Arrived]) -> Iterator[list[Arrived]]:
    """Give the blocks of ``run`` in groups that lie one behind the other in the file."""
    group: list[Arrived] = []
    for one in sorted(run, key=attrgetter("block")):
        if group and one.block != group[-1].block + 1:
            yield group
            group = []
        group.append(one)
    yield group


class FlushTurn:
    """Whose turn it is to flush a part file: one worker at a time, the publisher last.

    The system reports a failed write only once: to one of two flushes at the same time. Its owner
    has the lock.
    """

    def __init__(self) -> None:
        self._running = False
        self._unflushed = 0  # bytes
        self._publish_next = False  # the flush that runs has to call the publisher

    def take(self, written: int) -> bool:
        """Note written bytes; return whether the caller has to flush now."""
        self._unflushed += written
        taken = self._unflushed >= config.FLUSH_EVERY and not self._running
        if taken:
            self._running, self._unflushed = True, 0
        return taken

    def end(self, *, done: bool) -> bool:
        """Let the next flush begin; return whether the caller has to call the publisher now."""
        self._running = False
        if not done:  # try again after some more blocks
            self._unflushed += config.FLUSH_EVERY - config.FLUSH_EVERY // 8
        publish, self._publish_next = self._publish_next, False
        return publish

    def take_last(self) -> bool:
        """Let the publisher flush; otherwise the flush that runs calls it when it has ended."""
        self._publish_next = self._running
        return not self._running


class NoteTurn:
    """Whose turn it is to have the journal claim blocks: one worker at a time.

    Its owner has the lock.
    """

    def __init__(self) -> None:
        self._running = False
        self._records = bytearray()  # of written blocks that the journal does not claim yet

    def add(self, records: bytes) -> None:
        """Add the records of written blocks."""
        self._records += records

    def take(self) -> bytes:
        """Return the records to be appended now; none while another worker is at it."""
        if self._running or not self._records:
            return b""
        records, self._records = bytes(self._records), bytearray()
        self._running = True
        return records

    def end(self) -> None:
        """Let the next worker append."""
        self._running = False


class Tally:
    """What a transfer has cost so far. The lock protects all that adds up (any worker)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.wrote_for = 0.0  # seconds, of all workers together, and the last flush
        self.held_back = Pauses()  # of its data connections, by limits
        self.wire_bytes = 0  # of the payload of blocks that came
        self.resumed_bytes = 0  # that the journal claimed at the beginning
        self.resent = 0  # blocks, once the transfer is over
        self.received = 0  # bytes that are here, each block once; set under the transfer's lock

    def wrote(self, seconds: float) -> None:
        """Note that writing took so long."""
        with self._lock:
            self.wrote_for += seconds

    def hold_back(self, seconds: float) -> None:
        """Note that a limit keeps one of the data connections from being received from."""
        with self._lock:
            self.held_back.add(seconds)

    def count_wire(self, length: int) -> None:
        """Note that blocks came, with a payload of ``length`` bytes together."""
        with self._lock:
            self.wire_bytes += length


class Transfer:
    """One file on its way in: its blocks, their hash, and the work that falls due.

    Fixed, once the part file is found: ``session``, ``name``, ``facts``, ``blocks``, ``resumes``,
    ``asked_at``, ``buffers``; the admission's own: ``turn``.
    The hasher's own: ``hash``. The lock protects every attribute that begins with an underscore;
    ``life`` and ``tally`` have locks of their own. All methods run on workers, unless a docstring
    says otherwise.
    """

    proof = Proof.CLIENT_DIGEST  # what shows at the end that the file is right

    def __init__(
        self,
        session: Session,
        facts: Facts,
        buffers: BufferPool,
        let_go: Callable[[Transfer, Part], None],
        *,
        resumes: bool = True,
    ) -> None:
        """Stand for the file of ``facts``; ``let_go`` gets the part file at the end."""
        self.session = session
        self.facts = facts
        self.name = facts.name
        self.blocks = facts.blocks
        self.resumes = resumes  # whether it may go on with an earlier attempt
        self.asked_at = time.monotonic()
        self.turn = 0  # in which order the transfers came in
        self.life = Lifetime(self._let_part_go)
        self.hash = RunningHash(facts.digest, facts.manifest)
        self._let_go = let_go
        self.buffers = buffers
        self._lock = threading.Lock()
        self._map = BlockMap(Blocks(0, 1))  # until the part file is open
        self._claimed_digest: str | None = None  # of the last TRANSFER_COMPLETE
        self._notes = NoteTurn()
        self._hashing = False  # whether a worker is at it
        self._flush = FlushTurn()
        self._moved_at = self.asked_at
        self.tally = Tally()

    def __repr__(self) -> str:
        return f"<Transfer {self.number}: {self._map!r}>"

    @property
    def priority(self) -> int:
        """The priority of its session."""
        return self.session.priority

    @property
    def number(self) -> int:
        """What block headers call it: 1 to 2**32 - 1."""
        return self.turn % (2**32 - 1) + 1

    # -- beginning and end

    def open(self, part: Part, claims: Claims | None = None) -> bool:
        """Begin to receive into ``part``; ``False`` if the transfer has ended meanwhile."""
        blocks = BlockMap(self.blocks, claims)
        with self._lock:
            self._map, self._moved_at = blocks, time.monotonic()
            claimed = claims.count * self.blocks.block_size if claims else 0
            self.tally.resumed_bytes = min(claimed, self.facts.size)
        return self.life.open(part)

    def _let_part_go(self, part: Part) -> None:
        """Have the journal claim the last blocks; no worker uses the transfer any more."""
        with self._lock:
            records, buffers = self._notes.take(), self._map.take_buffers()
            self.tally.resent = self._map.resent
            self._map = BlockMap(Blocks(0, 1))  # half a block on a silent connection keeps us alive
        for buffer in buffers:
            buffer.release()
        try:
            part.note(records)
        except OSError as error:
            log.warning("%s: the journal lacks some blocks: %s", self.name, error.strerror)
        self._let_go(self, part)

    def lives(self, asked_at: float) -> bool:
        """Return whether its client has been heard of since ``asked_at``.

        Blocks count a little later: earlier ones may have waited to be received. One read each, so
        no lock is needed.
        """
        drained = asked_at + config.PROBE_TIMEOUT / 3
        return self.session.heard_at >= asked_at or self._moved_at >= drained

    def stalled_for(self) -> float:
        """Return the seconds since a block came, 0 unless it is the client's turn (main).

        A client that has sent all may first have to read the file once more, which has grown.
        """
        with self._lock:
            all_here = self._map.all_here
            if not self.life.receiving or (self._map.complete and all_here):
                return 0.0
            rereads = self.facts.size / config.REREAD_RATE if all_here else 0.0
            return max(0.0, time.monotonic() - self._moved_at - rereads)

    # -- blocks

    def announce(self, block: int, digest: bytes) -> Due:
        """Take the client's digest of a block that the journal claims."""
        with self.life.use(), self._lock:
            digest = digest[: self.facts.digest_size]
            if self._map.lacks_record(block):
                self._notes.add(record(block, digest))
            missing = self._map.announce(block, digest)
            self._moved_at = time.monotonic()
            self.tally.received = self._map.received
            return Due(self._map.received, self._take_hashing_turn(), missing=missing)

    def store(self, run: Sequence[Arrived]) -> Due:
        """Write those blocks that are not here yet; return the work that is due with them.

        The buffers belong to the transfer from here on: some stay in memory, so that hashing need
        not read them back. Raises ``OSError``, ``TransferEndedError``, ``StaleError``.
        """
        with self.life.use() as part:
            with self._lock:
                begins = [self._map.begin_writing(one.block) for one in run]
            fresh = list(itertools.compress(run, begins))
            for one, begun in zip(run, begins):
                if not begun:
                    one.buffer.release()
            if not fresh:
                return Due(self._map.received)
            began = time.monotonic()
            for group in neighbours(fresh):
                views = [one.buffer.view for one in group]
                part.write_run(views, self.blocks.offset(group[0].block))
            return self._note_written(fresh, time.monotonic() - began)

    def _note_written(self, run: list[Arrived], took: float) -> Due:
        size = self.facts.digest_size
        length = sum([one.buffer.size for one in run])
        items = [
            Unproven(block, BlockState.WRITTEN, digest[:size],
                     buffer if buffer.keep_for_hashing() else None)
            for block, digest, buffer in run
        ]  # fmt: skip
        self.tally.wrote(took)
        with self._lock:
            self._map.note_written(items, length)
            self._notes.add(b"".join([record(item.block, item.digest) for item in items]))
            self._moved_at = time.monotonic()
            self.tally.received = self._map.received
            due = Due(self._map.received, self._take_hashing_turn(), self._flush.take(length))
        for one, item in zip(run, items):
            if item.buffer is None:
                one.buffer.release()
        return due

    def note_blocks(self) -> None:
        """Have the journal claim what was written since the last time; one worker at a time."""
        with self.life.use() as part:
            with self._lock:
                records = self._notes.take()
            if not records:
                return
            try:
                part.note(records)
            finally:
                with self._lock:
                    self._notes.end()

    def complete(self, digest: str, *, delivered: bool = True) -> Spans:
        """Take the client's word for the whole file; return the blocks it has to send again.

        Before all is ``delivered`` there are none.
        """
        with self._lock:
            self._claimed_digest = digest
            self._map.complete = True
            missing = self._map.ask_for_gaps() if delivered else ()
            if missing:
                self._moved_at = time.monotonic()
            return missing

    # -- flushing

    def end_flush(self, *, done: bool) -> bool:
        """Let the next flush begin; return whether the caller has to call the publisher now."""
        with self._lock:
            return self._flush.end(done=done)

    def take_last_flush(self) -> bool:
        """Let the publisher flush; otherwise the flush that runs calls it when it has ended."""
        with self._lock:
            return self._flush.take_last()

    def flush_last(self, part: Part) -> None:
        """Flush the whole file; all data connections wait for that. Raises ``OSError``."""
        began = time.monotonic()
        part.finish(self.hash.sums())
        self.tally.wrote((time.monotonic() - began) * self._streams)

    # -- hashing: one worker at a time

    def take_hashing_turn(self) -> bool:
        """Let the caller hash, if that is worth a unit of work and no other worker is at it."""
        with self._lock:
            return self._take_hashing_turn()

    def _take_hashing_turn(self) -> bool:
        taken = self._map.worth_hashing and not self._hashing and self.life.stage is Stage.OPEN
        self._hashing |= taken
        return taken

    def hash_stretch(self) -> Stretch:
        """Hash some blocks in file order, to the first that is not right. Raises as ``store``."""
        with self._lock:
            stretch = self._map.next_stretch()
            self._hashing = bool(stretch)
            whole = self._map.complete and self._map.all_verified
        if not stretch:
            return Stretch(more=False, judged=whole and self.life.judge())
        with self.life.use() as part:
            run = list(itertools.takewhile(attrgetter("sent"), stretch)) or stretch[:1]
            proven = self._hash_blocks(part, run)
            return Stretch(more=True) if proven == len(run) else self._send_back(part, run[proven])

    def _hash_blocks(self, part: Part, run: list[Unproven]) -> int:
        """Hash blocks to the first that is not right; return how many are proven.

        They are blocks that were sent, or one that the journal claims. The hash then is that of the
        proven ones. Those that are read back are done in one turn, too, and in the same memory: a
        turn for each cost 3 % of the time of 1 GiB.
        """
        in_memory = None not in [item.buffer for item in run]
        room = self.buffers.take(0 if in_memory else self.blocks.length(run[0].block))
        try:
            right = self._hash_run(part, run, room.view)
            with self._lock:
                proven = self._map.judge(run[: right + 1], right)
            self.hash.keep(proven)
            if proven and not run[0].sent:  # no worker writes it any more
                part.dig(room.view, self.blocks.offset(run[0].block))
        finally:
            room.release()
        for item in run[: proven + 1]:
            if item.buffer:
                item.buffer.release()
        return proven

    def _hash_run(self, part: Part, run: list[Unproven], room: memoryview) -> int:
        """Hash blocks to the first that is not right, by way of ``room`` those not in memory.

        Returns how many are right.
        """
        self.hash.begin()
        for right, item in enumerate(run):
            view = item.buffer.view if item.buffer else room[: self.blocks.length(item.block)]
            if item.buffer is None:
                part.read(view, self.blocks.offset(item.block))
            if self.hash.add(view) != item.digest:
                return right
        return len(run)

    def _send_back(self, part: Part, item: Unproven) -> Stretch:
        """Ask for a block again that is not what it should be."""
        if part.published:
            raise StaleError
        with self._lock:
            missing = self._map.send_back(item)
            self._moved_at = time.monotonic()
        return Stretch(True, missing, Why.DAMAGED if item.sent else Why.ALTERED)

    # -- how it goes: one read each, no lock needed

    @property
    def _streams(self) -> int:
        return max(1, len(self.session.streams))  # a stale number makes a share coarser

    @property
    def claimed_digest(self) -> str | None:
        """The client's digest in hexadecimal; ``None`` before TRANSFER_COMPLETE."""
        return self._claimed_digest

    @property
    def digest(self) -> str:
        """The digest of the blocks hashed so far, in hexadecimal."""
        return self.hash.hexdigest

    @property
    def verified_bytes(self) -> int:
        """How much of the file, from its start, is proven right."""
        return min(self._map.verified * self.blocks.block_size, self.blocks.size)

    @property
    def full(self) -> bool:
        """Whether remembering one more block would take memory without bound."""
        return self._map.unproven > config.MAX_AHEAD

    @property
    def hopeless(self) -> bool:
        """Whether repair was tried too often without progress."""
        return self._map.rounds > config.MAX_ROUNDS

    @property
    def resent(self) -> int:
        """How many blocks came again."""
        return max(self._map.resent, self.tally.resent)

    def receipt(self, name: str) -> IntegrityOk:
        """Return the verdict for a file published as ``name``, and where the time went."""
        tally = self.tally
        seconds = self.hash.seconds, tally.wrote_for / self._streams, tally.held_back.seconds
        hashing, disk, limited = (round(1000 * one) for one in seconds)
        size, resent = self.blocks.size, self.resent
        return IntegrityOk(name, size, self.digest, resent, True, hashing, disk, limited)
