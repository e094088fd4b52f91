"""One file on its way out: the reader, the blocks, and the queue to the senders."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Callable, Iterable, Sequence

import config
from config import ClientSettings
from lft.client.acknowledgements import Acknowledgements
from lft.client.bottleneck import Spent
from lft.client.repair_report import Repairs
from lft.client.runs import run_length_for
from lft.client.source import Input
from lft.client.standard_input import StandardInput
from lft.memory import pages
from lft.wire.sockets import Waker
from protocol import Blocks, FileReady, RemoteProtocolError, Spans, TransferError

if TYPE_CHECKING:
    import hashlib

    from lft.sums import TreeHash

log = logging.getLogger("client")


def block_size_for(size: int, settings: ClientSettings, *, far: bool = False) -> int:
    """Return the bytes of a block for a file of ``size`` bytes, on a link that is ``far`` or not.

    Should the next attempt find another kind of link, it goes on with the blocks of this one: the
    server names them.
    """
    block_size, most = settings.block_size or config.BLOCK_SIZE, config.MAX_BLOCK_SIZE
    if settings.block_size is None:
        if not far and size >= config.AUTO_LARGE:
            block_size = config.AUTO_BLOCK_SIZE
        while size > block_size * config.AUTO_BLOCKS and block_size < most:
            block_size = min(2 * block_size, most)
    if settings.limit:  # each stream should have something to do in every second
        share = settings.limit // (settings.streams or config.STREAMS)
        block_size = min(block_size, max(config.MIN_BLOCK_SIZE, share))
    return block_size


class RunningDigests:
    """The running digest of each block that has been hashed.

    Written by the reader alone, always before any thread can ask for the block in question.
    """

    def __init__(self, algorithm: str, state: hashlib._Hash | TreeHash) -> None:
        """``state`` is what hashes the bytes; it has seen none so far."""
        self.algorithm = algorithm
        self._hash = state
        self._digests = bytearray()  # one behind the other

    def add(self, view: memoryview) -> None:
        """Take the next block of the file in (reader)."""
        self._hash.update(view)
        self._digests += self._hash.digest()

    def of(self, block: int) -> bytes:
        """Return the running digest of ``block``."""
        size = self._hash.digest_size
        return bytes(self._digests[block * size : (block + 1) * size])

    def hexdigest(self) -> str:
        """Return the digest of all that has been hashed."""
        return self._hash.hexdigest()


class Upload:
    """One file on its way out: what was hashed, what the server has.

    The lock protects what was hashed, held and acknowledged, and the error. Where the docstring of
    a property says (any), its one read needs no lock.
    """

    def __init__(
        self, source: Input, algorithm: str, block_size: int, ready: FileReady, ring: Ring
    ) -> None:
        # fixed
        self.source = source
        self.number = ready.transfer
        self.blocks = Blocks(source.size, block_size)
        self.run_length = run_length_for(source.size, block_size)
        self._ring = ring
        self._first_gap = ready.have[0][1] if ready.have and not ready.have[0][0] else 0
        # with rules of their own
        self.digests = RunningDigests(algorithm, source.new_hash(algorithm))
        self.spent = Spent()
        self.free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()  # see Reader
        # main's own; over is read by any thread
        self.repairs = Repairs(self.blocks)
        self.over = False  # a thread that still works for it stops
        # under the lock; the numbers of bytes are read without it
        self._lock = threading.Lock()
        self._held = self._flags(ready.have)  # 1 for a block that the server claims to have
        self._hashed = 0  # blocks
        self._acks = Acknowledgements()
        self._error: TransferError | None = None
        self.acknowledged = 0  # bytes that the server has
        self.carried = 0  # those of them that this session brought
        self.wire_bytes = 0  # of payload that were sent

    def _flags(self, held: Spans) -> bytearray:
        count = self.blocks.count if self.source.sized else 0
        if held and held[-1][1] > count:
            raise RemoteProtocolError("the server has blocks that the file does not have")
        flags = bytearray(count)
        for first, end in held:
            flags[first:end] = b"\1" * (end - first)
        return flags

    # -- main

    @property
    def resumed_bytes(self) -> int:
        """The bytes that need not be sent, because the server has them."""
        with self._lock:
            held = self._held.count(1) * self.blocks.block_size
            short = self.blocks.block_size * self.blocks.count - self.blocks.size
            return held - (short if self._held[-1:] == b"\1" else 0)

    @property
    def all_hashed(self) -> bool:
        """Whether the whole file has been read and hashed (any)."""
        return self._hashed == self.blocks.count

    @property
    def unread(self) -> int:
        """The bytes that are still to be read; very many while the end is unknown (any)."""
        return max(0, self.blocks.size - self._hashed * self.blocks.block_size)

    @property
    def checking(self) -> bool:
        """Whether all that was read so far is there already, and only its digests go out (any)."""
        return self._hashed < self._first_gap

    @property
    def delivered(self) -> bool:
        """Whether every block has been acknowledged."""
        with self._lock:
            return self.all_hashed and not self._acks

    @property
    def known(self) -> int:
        """How many blocks the server may ask for."""
        return self.blocks.count if self.source.sized else self._hashed

    def check(self) -> None:
        """Raise the error that a thread of ours ran into."""
        with self._lock:
            if self._error:
                raise self._error

    def resend_late(self, most: int, *, hasty: bool) -> list[int]:
        """Pick up to ``most`` blocks that lag at the end of the file; they go another way, too.

        ``hasty`` where sending twice costs nothing: on a link with room and a long round trip.
        Elsewhere a block lags only when its stream is stuck.
        """
        with self._lock:
            return self._acks.resend_late(most, hasty=hasty) if self.all_hashed else []

    def ask_again(self, block: int) -> bool:
        """Take back that the server has ``block``; ``False`` if the reader has yet to come to it.

        Raises ``RemoteProtocolError`` for one that is asked for over and over.
        """
        with self._lock:
            if block < len(self._held):
                self._held[block] = 0
            if block >= self._hashed:
                return False
            if block not in self._acks:
                self.acknowledged -= self.blocks.length(block)
            self._acks.expect(block)
            return True

    def note_verified(self, size: int) -> None:
        """Take in that the server has proven the first ``size`` bytes.

        Acknowledgements may have been lost with their connection. What is proven need not be sent
        again, and cannot where the source is read once.
        """
        whole = size >= self.blocks.size
        end = self.blocks.count if whole else size // self.blocks.block_size
        with self._lock:
            self._count(self._acks.forgo(end))
        self.source.release(size)

    def end(self) -> None:
        """Let every thread that still works for it stop."""
        self.over = True
        self.source.stop()
        self.free.put(None)

    # -- the reader

    def hash_run(self, first: int, views: Sequence[memoryview]) -> bytes:
        """Take the next blocks of the file, from ``first`` on, into the running digest.

        Returns a 1 for each one that the server has: it wants the digest of that, not the bytes.
        """
        for view in views:
            self.digests.add(view)
        end = first + len(views)
        with self._lock:
            for block in range(first, end):
                self._acks.expect(block)
            self._hashed = end
            return bytes(self._held[first:end]).ljust(len(views), b"\0")

    def _holds(self, block: int) -> bool:
        return self._held[block : block + 1] == b"\1"

    def note_read(self) -> None:
        """Note that the reader is done: the next file may be read."""
        self._ring()

    def end_at(self, size: int) -> None:
        """Take in that the source ends after ``size`` bytes, which was unknown before."""
        self.source.size = size
        self.blocks = Blocks(size, self.blocks.block_size)
        self._ring()

    # -- the senders

    def note_sent(self, block: int, size: int) -> None:
        """Note that ``block`` goes out with ``size`` bytes of payload."""
        with self._lock:
            self._acks.note_sent(block)
            self.wire_bytes += size

    def note_pause(self, seconds: float) -> None:
        """Note that the limit keeps a stream from sending."""
        with self._lock:
            self.spent.paced.add(seconds)

    def confirm(self, blocks: Iterable[int]) -> None:
        """Take acknowledgements: of a block that went two ways the first one counts."""
        with self._lock:
            done = self._count([block for block in blocks if self._acks.take(block)])
        if done:
            self._ring()

    def _count(self, taken: list[int]) -> bool:
        """Count blocks that the server has; return whether these are the last ones."""
        for block in taken:
            length = self.blocks.length(block)
            self.acknowledged += length
            self.carried += 0 if self._holds(block) else length
        return bool(taken) and self.all_hashed and not self._acks

    def owes(self, block: int) -> bool:
        """Whether an acknowledgement of ``block`` is still wanted."""
        with self._lock:
            return block in self._acks

    def went_twice(self, block: int) -> bool:
        """Whether ``resend_late`` has ever picked ``block``."""
        with self._lock:
            return self._acks.went_twice(block)

    @property
    def quiet_for(self) -> float:
        """How many seconds ago the last acknowledgement came, on any stream (any)."""
        return self._acks.quiet_for

    def passed_by(self, silent: float, streams: int) -> bool:
        """Whether others got on while a stream heard nothing for ``silent`` seconds.

        Where a limit on the server lets ``streams`` of them have their turn one after the other,
        they do so once: a stream that is passed by was left out twice.
        """
        with self._lock:
            if silent <= self._acks.stuck or self._acks.quiet_for >= silent / 2:
                return False
            return self._acks.rounds_within(silent, streams)

    # -- any thread

    def fail(self, error: TransferError) -> None:
        """Let main raise ``error``."""
        with self._lock:
            self._error = self._error or error
        self._ring()


Ring = Callable[[], None]


class Block:
    """A block to be sent: from ``view`` while it is in memory, otherwise from the file again.

    Of one that the server holds only the running digest is sent.
    """

    __slots__ = ("held", "index", "upload", "view")

    def __init__(
        self, upload: Upload, index: int, view: memoryview | None = None, *, held: bool = False
    ) -> None:
        self.upload = upload
        self.index = index
        self.view = view
        self.held = held

    def free_buffer(self) -> None:
        """Give the buffer back to the reader (a sender)."""
        if self.view is not None:
            memory, self.view = memoryview(self.view.obj), None
            self.upload.free.put(memory)


class BlockQueue:
    """Blocks to be sent, and the senders that have nothing to do. The lock protects both.

    A sender waits on its socket and its waker together, so that it hears acknowledgements, a lost
    connection and new blocks alike.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[Block] = deque()
        self._idle: dict[Waker, None] = {}  # the last that became idle is woken first

    def put(self, blocks: Iterable[Block]) -> None:
        """Add blocks and wake one idle sender."""
        with self._lock:
            self._blocks.extend(blocks)
            waker = self._choose_idle()
        if waker:
            waker.ring()

    def take(self, waker: Waker, most: int = 1) -> list[Block]:
        """Take up to ``most`` blocks, or be noted as idle: ``waker`` rings when there are some.

        They have about ``RUN_SIZE`` bytes, whatever the blocks of the last file had.
        """
        run: list[Block] = []
        room = config.RUN_SIZE
        with self._lock:
            self._idle.pop(waker, None)
            while self._blocks and len(run) < most and room > 0:
                run.append(self._blocks.popleft())
                room -= run[-1].upload.blocks.block_size
            if not run:
                self._idle[waker] = None
            other = self._choose_idle()
        if other:
            other.ring()
        return run

    def _choose_idle(self) -> Waker | None:
        """Return an idle sender to be woken for what is left, if there is both."""
        return self._idle.popitem()[0] if self._blocks and self._idle else None

    def leave(self, waker: Waker) -> None:
        """Stop being idle; a block meant for this sender goes to another."""
        with self._lock:
            self._idle.pop(waker, None)
            other = self._choose_idle()
        if other:
            other.ring()

    def drop(self, upload: Upload) -> None:
        """Drop the blocks of a file that is over."""
        with self._lock:
            self._blocks = deque(block for block in self._blocks if block.upload is not upload)


class Reader(threading.Thread):
    """Reads a file once, in order, hashes it, and hands blocks to the senders.

    The upload's ``free`` holds the buffers that are not in use; while it is empty, the reader
    waits. ``None`` in it means that the upload is over.
    """

    def __init__(self, upload: Upload, blocks: BlockQueue, in_hand: int) -> None:
        """Read ahead of the senders, which may have ``in_hand`` blocks in their hands."""
        super().__init__(name="reader", daemon=True)
        self._upload = upload
        self._blocks = blocks
        self._look_at = time.monotonic() + config.LOOK_AT_SOURCE
        buffers = config.READ_AHEAD_BYTES // upload.blocks.block_size
        for _ in range(min(in_hand + config.READ_AHEAD, buffers)):
            upload.free.put(memoryview(b""))  # it grows when it is used: a small file needs few

    def run(self) -> None:
        """Read the file to its end, or until the upload is over."""
        index, came = 0, 1
        try:
            while came and index < self._upload.blocks.count:
                came = self._read_next(index)
                index += came
        except TransferError as error:
            self._upload.fail(error)
        except Exception as error:  # a bug of ours must not leave main waiting
            log.exception("the reader failed")
            self._upload.fail(TransferError(f"internal error: {error!r}"))
        self._upload.note_read()

    def _read_next(self, index: int) -> int:
        """Read some blocks from ``index`` on; return how many, none when the upload is over."""
        left = self._upload.blocks.count - index
        # the first blocks are to leave at once
        buffers = self._take_buffers(min(self._upload.run_length, index + 1, left))
        if buffers:
            self._read_run(index, buffers)
        return len(buffers)

    def _take_buffers(self, most: int) -> list[memoryview]:
        """Wait for a buffer; take up to ``most`` that are free, none when the upload is over."""
        free = self._upload.free
        taken = [free.get()]
        with contextlib.suppress(queue.Empty):
            while len(taken) < most:
                taken.append(free.get_nowait())
        over = None in taken or self._upload.over
        return [] if over else [one for one in taken if one is not None]

    def _read_run(self, first: int, buffers: list[memoryview]) -> None:
        """Read and hash as many blocks as there are ``buffers``, from ``first`` on."""
        upload, blocks = self._upload, self._upload.blocks
        views = [_fit(memory, blocks.length(first + at)) for at, memory in enumerate(buffers)]
        upload.spent.begin_read()
        self._look_at_source()
        upload.source.read_run(views, blocks.offset(first))
        upload.spent.end_read()
        began = time.monotonic()
        held = upload.hash_run(first, views)
        upload.spent.note_hashed(time.monotonic() - began)
        numbered = enumerate(zip(views, held), first)
        self._blocks.put(Block(upload, at, view, held=bool(has)) for at, (view, has) in numbered)

    def _look_at_source(self) -> None:
        """See now and then whether going on has a point. Raises ``SourceError`` if not."""
        if time.monotonic() >= self._look_at:
            self._upload.source.look()
            self._look_at = time.monotonic() + config.LOOK_AT_SOURCE


class StreamReader(Reader):
    """Reads a source whose end is unknown before it comes."""

    def __init__(
        self, upload: Upload, source: StandardInput, blocks: BlockQueue, in_hand: int
    ) -> None:
        super().__init__(upload, blocks, in_hand)
        self._source = source

    def _read_next(self, index: int) -> int:
        buffers = self._take_buffers(1)
        if not buffers:
            return 0
        spent, size = self._upload.spent, self._upload.blocks.block_size
        view = _fit(buffers[0], size)
        spent.begin_read()
        length = self._source.fill(view)
        spent.end_read()
        if self._upload.over:
            return 0
        if length < size:
            self._upload.end_at(index * size + length)
            if not index and not length:
                log.warning("%s: nothing came from standard input", self._upload.source.name)
        if length:
            began = time.monotonic()
            self._upload.hash_run(index, [view[:length]])
            spent.note_hashed(time.monotonic() - began)
            self._blocks.put([Block(self._upload, index, view[:length])])
        return int(length == size)


def reader_of(upload: Upload, blocks: BlockQueue, in_hand: int) -> Reader:
    """Make the reader that fits the source."""
    if isinstance(upload.source, StandardInput):
        return StreamReader(upload, upload.source, blocks, in_hand)
    return Reader(upload, blocks, in_hand)


def _fit(memory: memoryview, length: int) -> memoryview:
    """Return ``length`` bytes of ``memory``, or of new memory where that is too small."""
    return (memory if len(memory) >= length else pages(length))[:length]
