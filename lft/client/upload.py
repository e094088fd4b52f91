"""One file on its way out: the reader, the blocks, what is not acknowledged."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Callable

import config
from config import ClientSettings
from lft.client.receipt import Spent
from lft.client.source import Source
from lft.wire.sockets import Waker
from protocol import DIGEST_SIZES, Blocks, FileReady, RemoteProtocolError, Spans, TransferError

log = logging.getLogger("client")

MOST_OWED = 16  # acknowledgements of one block: a few more than the server's rounds of repair


def block_size_for(size: int, settings: ClientSettings) -> int:
    """Return the bytes of a block for a file of ``size`` bytes.

    It depends on nothing that the link may do: an attempt to go on has to arrive at the same.
    """
    block_size, most = settings.block_size or config.BLOCK_SIZE, config.MAX_BLOCK_SIZE
    if settings.block_size is None:
        while size > block_size * config.AUTO_BLOCKS and block_size < most:
            block_size = min(2 * block_size, most)
    if settings.limit:  # each stream should have something to do in every second
        share = settings.limit // (settings.streams or config.STREAMS)
        block_size = min(block_size, max(config.MIN_BLOCK_SIZE, share))
    return block_size


class Upload:
    """One file on its way out: what was hashed, what is not acknowledged.

    The lock protects every attribute that begins with an underscore. The three numbers of bytes are
    written under it, too, and read without. ``digests`` is written by the reader only, always
    before the block in question can be asked for.
    """

    def __init__(
        self, source: Source, algorithm: str, block_size: int, ready: FileReady, ring: Ring
    ) -> None:
        self.source = source
        self.number = ready.transfer
        self.blocks = Blocks(source.size, block_size)
        self.over = False  # set by main: whoever still works for it stops
        self.repairs = 0  # main's own, like the next
        self.repaired: list[str] = []  # what to tell about the first of them
        self.spent = Spent()
        self.digests = bytearray()  # running digest of each block, one behind the other
        self._digest_size = DIGEST_SIZES[algorithm]
        self._hash = hashlib.new(algorithm)
        self._ring = ring
        self._lock = threading.Lock()
        self.free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()  # buffers, see Reader
        self._held = self._flags(ready.have)  # 1 for a block that the server claims to have
        self._read = 0  # blocks
        self._sent_at: dict[int, float] = {}  # when each block that is awaited was sent last
        self._usual = 0.0  # seconds from there to the acknowledgement, smoothed
        self._moved_at = time.monotonic()  # when the last acknowledgement came ...
        # ... and it with those before it
        self._moves: deque[float] = deque(maxlen=config.STUCK_ROUNDS * config.MAX_STREAMS)
        self._twice: set[int] = set()  # went two ways, because the first lagged
        self._awaited: Counter[int] = Counter()  # acknowledgements owed for each block; a block
        # that is asked for again before its first acknowledgement came is owed two
        self.acknowledged = 0  # bytes that the server has
        self.carried = 0  # those of them that this session brought
        self.wire_bytes = 0  # of payload that were sent
        self._error: TransferError | None = None

    def _flags(self, held: Spans) -> bytearray:
        if held and held[-1][1] > self.blocks.count:
            raise RemoteProtocolError("the server has blocks that the file does not have")
        flags = bytearray(self.blocks.count)
        for first, end in held:
            flags[first:end] = b"\1" * (end - first)
        return flags

    @property
    def resumed_bytes(self) -> int:
        """The bytes that need not be sent, because the server has them."""
        with self._lock:
            held = self._held.count(1) * self.blocks.block_size
            short = self.blocks.block_size * self.blocks.count - self.blocks.size
            return held - (short if self._held[-1:] == b"\1" else 0)

    @property
    def digest(self) -> str:
        """The digest of what has been hashed, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def _stuck(self) -> float:
        """How many seconds without an acknowledgement are too many for a stream (any)."""
        return max(config.STUCK, config.STUCK_TIMES * self._usual)

    @property
    def still(self) -> float:
        """How many seconds ago the last acknowledgement came, on any stream (any)."""
        return time.monotonic() - self._moved_at

    def passed_by(self, silent: float, streams: int) -> bool:
        """Whether others got on while a stream heard nothing for ``silent`` seconds (a sender).

        Where a limit on the server lets ``streams`` of them have their turn one after the other,
        they do so once: who is passed by was left out twice.
        """
        if silent <= self._stuck or self.still >= silent / 2:
            return False
        with self._lock:
            rounds = list(self._moves)[-config.STUCK_ROUNDS * streams :]
        whole = len(rounds) == config.STUCK_ROUNDS * streams
        return whole and time.monotonic() - rounds[0] < silent

    @property
    def read(self) -> bool:
        """Whether the whole file has been read and hashed."""
        return self._read == self.blocks.count  # one read: no lock needed

    @property
    def delivered(self) -> bool:
        """Whether every block has been acknowledged; raises what a thread of ours ran into."""
        with self._lock:
            if self._error:
                raise self._error
            return self._read == self.blocks.count and not self._awaited

    def fail(self, error: TransferError) -> None:
        """Let main raise ``error`` (any thread)."""
        with self._lock:
            self._error = self._error or error
        self._ring()

    def hash_block(self, block: int, view: memoryview) -> bool:
        """Take the next block of the file into the running digest (reader).

        Returns whether the server has it: then it wants the digest and not the bytes.
        """
        self._hash.update(view)
        self.digests += self._hash.digest()
        with self._lock:
            self._awaited[block] += 1
            self._read = block + 1
            return self._held[block] == 1

    def digest_of(self, block: int) -> bytes:
        """Return the running digest of ``block``."""
        start = block * self._digest_size
        return bytes(self.digests[start : start + self._digest_size])

    def sent(self, block: int, size: int) -> None:
        """Note that ``block`` goes out with ``size`` bytes of payload (a sender)."""
        with self._lock:
            self._note_sent(block)
            self.wire_bytes += size

    def _note_sent(self, block: int) -> None:
        self._sent_at.pop(block, None)  # so that the oldest stay in front
        self._sent_at[block] = time.monotonic()

    def paced(self, seconds: float) -> None:
        """Note that the limit keeps a stream from sending (a sender)."""
        with self._lock:
            self.spent.paced.add(seconds)

    def confirm(self, block: int) -> None:
        """Note an acknowledgement (a sender): of a block that went two ways the first counts."""
        with self._lock:
            if block not in self._awaited:  # for its number a Counter would take longer
                return
            self._awaited[block] -= 1
            if self._awaited[block] > 0:
                return
            del self._awaited[block]
            self._moved_at = time.monotonic()
            self._moves.append(self._moved_at)
            took = self._moved_at - self._sent_at.pop(block, self._moved_at)
            self._usual += (took - self._usual) / (8 if self._usual else 1)
            self.acknowledged += self.blocks.length(block)
            self.carried += 0 if self._held[block] else self.blocks.length(block)
            done = self._read == self.blocks.count and not self._awaited
        if done:
            self._ring()

    def owes(self, block: int) -> bool:
        """Whether an acknowledgement of ``block`` is still wanted (a sender)."""
        with self._lock:
            return block in self._awaited

    def late(self, most: int, *, hasty: bool) -> list[int]:
        """Return up to ``most`` blocks that lag at the end of the file, to go another way (main).

        ``hasty`` where what is sent twice costs nobody anything: on a link with room and a long
        round trip. Elsewhere a block lags only when its stream is stuck.
        """
        patience = max(config.LATE_LEAST, config.LATE * self._usual) if hasty else self._stuck
        with self._lock:
            if self._read < self.blocks.count:
                return []
            limit = time.monotonic() - patience
            late = [block for block, at in self._sent_at.items() if at < limit][:most]
            for block in late:
                self._note_sent(block)
            self._twice.update(late)
            return late

    def went_twice(self, block: int) -> bool:
        """Whether ``late`` has ever named ``block`` (a sender)."""
        with self._lock:
            return block in self._twice

    def ask_again(self, block: int) -> bool:
        """Owe the bytes of ``block`` (main); ``False`` if the reader has yet to come to it.

        Raises ``RemoteProtocolError`` for one that is asked for over and over.
        """
        with self._lock:
            self._held[block] = 0
            if block >= self._read:
                return False
            if self._awaited[block] > MOST_OWED:
                raise RemoteProtocolError("the server asks for the same block without end")
            if not self._awaited[block]:
                self.acknowledged -= self.blocks.length(block)
            self._awaited[block] += 1
            return True


Ring = Callable[[], None]


@dataclass
class Block:
    """A block to be sent: from ``view`` while it is in memory, else read from the file again.

    Of one that the server holds only the running digest is sent.
    """

    upload: Upload
    index: int
    view: memoryview | None = None
    held: bool = False

    def free_buffer(self) -> None:
        """Give the buffer back to the reader (a sender)."""
        if self.view is not None:
            buffer, self.view = self.view.obj, None
            self.upload.free.put(buffer)  # type: ignore[arg-type]  # the reader made it


class BlockQueue:
    """Blocks to be sent, and the senders that have nothing to do. The lock protects both.

    A sender waits on its socket and its waker together, so that it hears acknowledgements, a lost
    connection and new blocks alike.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[Block] = deque()
        self._idle: dict[Waker, None] = {}  # the one that became idle last is the first to be woken

    def put(self, block: Block) -> None:
        """Add a block and wake one idle sender."""
        with self._lock:
            self._blocks.append(block)
            waker = self._idle.popitem()[0] if self._idle else None
        if waker:
            waker.ring()

    def get(self, waker: Waker) -> Block | None:
        """Take a block, or be noted as idle: ``waker`` rings when there is one."""
        with self._lock:
            self._idle.pop(waker, None)
            if self._blocks:
                return self._blocks.popleft()
            self._idle[waker] = None
            return None

    def leave(self, waker: Waker) -> None:
        """Stop being idle; a block meant for this sender goes to another."""
        with self._lock:
            self._idle.pop(waker, None)
            other = self._idle.popitem()[0] if self._blocks and self._idle else None
        if other:
            other.ring()

    def clear(self) -> None:
        with self._lock:
            self._blocks.clear()


class Reader(threading.Thread):
    """Reads a file once, in order, hashes it, and hands blocks to the senders.

    The upload's ``free`` holds the buffers that are not in use: when all are, the reader waits.
    ``None`` in it is a call to look whether the upload is over.
    """

    def __init__(self, upload: Upload, blocks: BlockQueue, buffers: int) -> None:
        super().__init__(name="reader", daemon=True)
        self._upload = upload
        self._blocks = blocks
        for _ in range(buffers):
            upload.free.put(bytearray())  # grows when it is used: small files need few

    def run(self) -> None:
        """Read it all, or until the upload is over."""
        try:
            for index in range(self._upload.blocks.count):
                if not self._read_block(index):
                    return
        except TransferError as error:
            self._upload.fail(error)
        except Exception as error:  # a bug of ours must not leave main waiting
            log.exception("the reader failed")
            self._upload.fail(TransferError(f"internal error: {error!r}"))

    def _read_block(self, index: int) -> bool:
        buffer = self._upload.free.get()
        if buffer is None or self._upload.over:
            return False
        spent, began = self._upload.spent, time.monotonic()
        blocks = self._upload.blocks
        length = blocks.length(index)
        view = memoryview(buffer if len(buffer) >= length else bytearray(length))[:length]
        self._upload.source.read(view, blocks.offset(index))
        read = time.monotonic()
        held = self._upload.hash_block(index, view)
        spent.reading += read - began
        spent.hashing += time.monotonic() - read
        self._blocks.put(Block(self._upload, index, view, held))
        return True
