"""Files whose bytes come in order, from one writer at a time: those that HTTP brings."""

from __future__ import annotations

import math
import time
from typing import Any

import config
from lft.server.blockmap import Due
from lft.server.buffers import Buffer
from lft.server.transfer import Transfer
from lft.store.history import Proof
from lft.store.journal import record
from lft.store.part import Part


class OrderedTransfer(Transfer):
    """A file that is written from its start to its end, and hashed as it is written.

    Its client sends no running digests. So those in the journal are the server's own, and a block
    is proven as soon as it is written; after an interruption they tell how much of the part file is
    still right, as ever. What comes counts at once, or, where a checksum of it will follow, only
    after ``commit``: until then ``take_back`` undoes it.

    The writer's own, one thread at a time: ``_saved``, ``_buffer``, ``_block``, ``_filled``,
    ``_fresh``. ``offset`` is one read for others.
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take what any transfer takes."""
        super().__init__(*values, **named)
        self.offset = 0  # bytes from the start that are here and count
        self.rests_after = math.inf  # seconds without a request until any server may have it
        self._idle_since = math.inf  # no request is at work with it
        self._buffer: Buffer | None = None  # of the block that is being filled
        self._block = 0  # its index ...
        self._filled = 0  # ... and its bytes so far
        self._fresh: list[bytes] = []  # records of written blocks that do not count yet
        self._saved: tuple[Any, int, int] | None = None  # the hash, block and bytes before those

    # -- going on with an earlier attempt

    def prove_some(self) -> bool:
        """Hash some of the blocks that the journal claims; return whether to go on with that.

        It ends at the first that is not claimed, or not right: from there on the client sends.
        Raises ``OSError``, ``TransferEndedError``.
        """
        with self.life.use() as part:
            right = 0
            while right < config.HASH_STRETCH and self._map.claims_next and self._proves(part):
                right += 1
            self._block = self._map.verified
            self.offset = self.tally.resumed_bytes = self.verified_bytes
        more = right == config.HASH_STRETCH
        if not more:
            self._idle_since = time.monotonic()
        return more

    def _proves(self, part: Part) -> bool:
        """Hash the next block that is claimed; return whether it is right."""
        block = self._map.verified
        buffer, before = self._read_back(part, block), self.hash.save()
        try:
            right = self.hash.add(buffer.view) == self._map.claimed_digest(block)
        finally:
            self.hash.begin()
            buffer.release()
        if right:
            with self._lock:
                self._map.prove_next()
                self._moved_at = time.monotonic()
        else:
            self.hash.restore(before)
        return right

    def _read_back(self, part: Part, block: int) -> Buffer:
        buffer = self.buffers.take(self.blocks.length(block))
        part.read(buffer.view, self.blocks.offset(block))
        return buffer

    # -- writing

    def begin(self, *, held: bool) -> None:
        """Begin to write at ``offset``; ``held`` until ``commit``. Raises as ``prove_some``."""
        self._idle_since = math.inf
        with self.life.use() as part:
            self._saved = (self.hash.save(), self._block, self._filled) if held else None
            if self.offset < self.blocks.size:
                self._buffer = self._take_tail(part)

    def _take_tail(self, part: Part) -> Buffer:
        """Return the memory of the block that is to be filled, with what came of it before."""
        buffer = self.buffers.take(self.blocks.block_size)
        try:
            part.read(buffer.view[: self._filled], self.blocks.offset(self._block))
        except BaseException:
            buffer.release()
            raise
        return buffer

    def digest_so_far(self) -> str:
        """Return the digest of the bytes up to ``offset``, in hexadecimal; nobody writes now.

        By it a client finds out whether they are the beginning of its file. Raises as
        ``prove_some``.
        """
        with self.life.use() as part:
            if not self._filled:
                return self.hash.hexdigest
            tail = self._take_tail(part)
            try:
                return self.hash.hexdigest_with(tail.view[: self._filled])
            finally:
                tail.release()

    def write(self, view: memoryview) -> Due:
        """Write what comes next; no more than the file has. Raises as ``prove_some``."""
        began, size = time.monotonic(), len(view)
        with self.life.use() as part:
            assert self._buffer is not None or not view  # begun
            while view:
                view = self._fill(part, view)
            due = Due(self.offset) if self._saved else self._count()
            self.tally.wrote(time.monotonic() - began)
            self.tally.count_wire(size)
            with self._lock:
                self._moved_at = time.monotonic()
                return due._replace(flush=self._flush.take(size))

    def _fill(self, part: Part, view: memoryview) -> memoryview:
        """Fill the block and write it when it is full; return what is left of ``view``."""
        assert self._buffer is not None  # begun
        length = self.blocks.length(self._block)
        some = view[: length - self._filled]
        self._buffer.view[self._filled : self._filled + len(some)] = some
        self._filled += len(some)
        if self._filled == length:
            whole = self._buffer.view[:length]
            part.write_run([whole], self.blocks.offset(self._block))
            self._fresh.append(record(self._block, self.hash.add(whole)))
            self.hash.begin()
            self._block, self._filled = self._block + 1, 0
        return view[len(some) :]

    def _count(self) -> Due:
        """Let all that was written count; the transfer is in use."""
        fresh, self._fresh = self._fresh, []
        with self._lock:
            for one in fresh:
                self._map.prove_next()
                self._notes.add(one)
            received = self._map.received
        self.offset = self.verified_bytes + self._filled
        return Due(received)

    def commit(self) -> None:
        """Let what was ``held`` count: its checksum is right. Raises as ``prove_some``."""
        with self.life.use():
            self._saved = None
            self._count()

    def take_back(self) -> None:
        """Undo what was held and is not committed; otherwise keep what came. Never raises.

        What came before it of a block that was not full is in the part file, whatever followed.
        """
        if self._saved is None:
            return
        saved, self._block, self._filled = self._saved
        self.hash.restore(saved)
        self._saved, self._fresh = None, []
        if self._buffer:
            self._buffer.release()
            self._buffer = None

    def pause(self) -> None:
        """End writing for now: a block that is not full is in the file, and no memory is held.

        Raises as ``prove_some``; the memory is released in any case.
        """
        self._idle_since = time.monotonic()
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            return
        try:
            with self.life.use() as part:
                part.write_run([buffer.view[: self._filled]], self.blocks.offset(self._block))
        finally:
            buffer.release()

    @property
    def rests(self) -> bool:
        """Whether no request has come for so long that any server may go on with it."""
        return self.idle_for >= self.rests_after and not self.is_whole

    @property
    def idle_for(self) -> float:
        """The seconds since the last request that brought bytes ended; negative during one."""
        return time.monotonic() - self._idle_since

    def stalled_for(self) -> float:
        """Return the seconds without progress; of one that rests it is long enough in any case."""
        return math.inf if self.rests else super().stalled_for()

    # -- the end

    @property
    def is_whole(self) -> bool:
        """Whether every byte is here and counts."""
        return self.offset == self.blocks.size

    def end(self, digest: str | None, proof: Proof) -> bool:
        """Take the client's digest of the whole file, if it has one; return who is to publish."""
        with self._lock:
            self.proof = proof
            self._claimed_digest = self.digest if digest is None else digest
            self._map.complete = True
        return self.life.judge()
