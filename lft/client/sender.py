"""One sender thread with its data connection."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

import config
from lft.client.link import Link
from lft.client.upload import Block
from lft.clock import Backoff, Deadline, RunLength
from lft.wire.blocks import BlockHeader, encode_header
from lft.wire.connection import Connection
from lft.wire.frames import Ack
from lft.wire.sockets import Socket, Waker, wait
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    ConnectionLostError,
    RemoteProtocolError,
    SessionLostError,
    SilenceError,
    SourceError,
    TransferError,
)

if TYPE_CHECKING:
    from lft.client.compression import Compression

block_log = logging.getLogger("block")

FOREVER = 5.0  # seconds of a wait that only a waker or the server should end


class Stop(Exception):  # noqa: N818  (not an error)
    """The session is ending: a wait breaks off."""


class Unacknowledged:
    """The blocks that one connection carried and the server has not acknowledged. No lock."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], list[Block]] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def oldest(self) -> Block | None:
        """The block that has waited for the longest time."""
        blocks = next(iter(self._blocks.values()), None)
        return blocks[0] if blocks else None

    @property
    def wanted(self) -> bool:
        """Whether the server owes an acknowledgement for a file that is not over."""
        return any(not blocks[0].upload.over for blocks in self._blocks.values())

    def add(self, block: Block) -> None:
        """Note that ``block`` goes out."""
        self._blocks.setdefault((block.upload.number, block.index), []).append(block)

    def take(self, ack: Ack) -> Block:
        """Return the block that ``ack`` is for. Raises ``RemoteProtocolError`` where none is."""
        blocks = self._blocks.get(ack)
        if not blocks:
            raise RemoteProtocolError("the server acknowledges a block it was never sent")
        block = blocks.pop()
        if not blocks:
            del self._blocks[ack]
        return block

    def take_all(self) -> list[Block]:
        """Return every block, once its connection is lost."""
        blocks = list(itertools.chain.from_iterable(self._blocks.values()))
        self._blocks.clear()
        return blocks


class Sender:
    """One of the pool's threads, with one long-lived data connection that carries every file."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number
        self._extra: deque[Block] = deque()  # for this sender alone; main puts them there
        self._settings = link.settings
        self._waker = Waker()
        self._connection: Connection | None = None  # the latest; main cuts it, reads its figures
        self._unacknowledged = Unacknowledged()
        self._backoff = Backoff(config.RETRY_FIRST, config.RETRY_LONGEST)
        self._bad_frames = 0  # since the last acknowledgement
        self._silence = Deadline(self._settings.timeout)  # of the server, on this connection
        self._congestion = ""  # what main wanted when it was chosen for this connection
        self._system_congestion = ""  # what the system chose for this connection
        self._waited = 0.0  # seconds that the link made us wait ...
        self._told_at = time.monotonic()  # ... since the compression was last told of it
        self._run_length = RunLength(grows=link.takes_runs)

    def stop(self) -> None:
        """Break off what it waits for, once the session is ending (main)."""
        self._waker.ring()
        if self._connection:
            self._connection.cut()

    def close(self) -> None:
        """Release the waker, once the thread has ended (main)."""
        self._waker.close()

    def wake(self) -> None:
        """Let it look for something to do (main)."""
        self._waker.ring()

    @property
    def free(self) -> bool:
        """Whether nothing is under way on it (main): a stale answer costs a block sent twice."""
        return self._connection is not None and not self._unacknowledged and not self._extra

    @property
    def queueing(self) -> float:
        """How many times its least the round trip takes now (main); 1 without a connection."""
        return self._connection.tcp.queueing if self._connection else 1.0

    @property
    def waits(self) -> tuple[float, float]:
        """For how many seconds data was under way, and the server had no room for more (main)."""
        return self._connection.tcp.waits if self._connection else (0.0, 0.0)

    def hand(self, block: Block) -> None:
        """Let this sender send ``block``, and no other (main)."""
        self._extra.append(block)
        self._waker.ring()

    def run(self) -> None:
        """Send blocks until the session ends; replace a connection that is lost."""
        with contextlib.suppress(Stop):
            while not self._link.ending.is_set():
                try:
                    self._connect_and_send()
                except SessionLostError:
                    raise  # main has to log in again
                except (ConnectionLostError, RemoteProtocolError) as error:
                    self._bad_frames += isinstance(error, RemoteProtocolError)
                    if self._bad_frames >= config.BAD_FRAMES:
                        raise
                    done = (
                        self._unacknowledged and not self._unacknowledged.wanted
                    )  # all of it went another way
                    self._give_back()
                    if not done:
                        self._pause_after(error)

    def _connect_and_send(self) -> None:
        """Use a new data connection until it is lost or the session ends."""
        self._waker.quiet()  # a ring was for the last connection
        if self._link.ending.is_set():  # read after the rings are gone: it is set before they come
            raise Stop
        self._connection = self._link.open(self._until_connected)
        try:
            if self._link.ending.is_set():  # again: ``stop`` may have found no connection to cut
                raise Stop
            self._system_congestion = self._connection.tcp.congestion
            self._adapt(self._connection)
            self._link.attach(self._connection)
            self._send_blocks(self._connection)
        finally:
            self._connection.close()

    def _adapt(self, connection: Connection) -> None:
        """Let main's choice decide how fast TCP goes."""
        self._congestion = self._link.wanted_congestion
        connection.tcp.choose_congestion(self._congestion or self._system_congestion)
        self._link.congestion = connection.tcp.congestion

    def _until_connected(self, sock: Socket) -> bool:
        """Wait for ``sock``; ``False`` if it takes too long. Raises ``Stop``."""
        deadline = Deadline(self._settings.timeout)
        while not wait(sock, deadline.left(), write=True, waker=self._waker):
            self._waker.quiet()
            if self._link.ending.is_set():
                raise Stop
            if deadline.passed:
                return False
        return True

    def _pause_after(self, error: TransferError) -> None:
        if self._link.ending.is_set():
            return
        pause = self._backoff.next_pause()
        self._link.tell_lost(error, pause)
        self._link.ending.wait(pause)

    def _give_back(self) -> None:
        """Put the blocks of a lost connection back into the queue."""
        self._link.queue.leave(self._waker)
        lost = self._unacknowledged.take_all()
        self._link.queue.put(block for block in lost if block.upload.owes(block.index))

    def _send_blocks(self, connection: Connection) -> None:
        """Send what the queue has, hear acknowledgements as they come; end by an exception."""
        self._silence.put_off()
        in_a_row = 0
        while True:
            if self._congestion != self._link.wanted_congestion:
                self._adapt(connection)
            run = self._take_run()
            if run:
                if not self._unacknowledged:
                    self._silence.put_off()
                self._pace(connection, run[0], self._send_run(connection, run))
                in_a_row += len(run)
                if in_a_row < config.ACK_EVERY:
                    continue
            in_a_row = 0
            if run or self._wait(connection):
                self._hear_acks(connection)

    def _pace(self, connection: Connection, block: Block, sent: int) -> None:
        """Pause as the limit asks after ``sent`` bytes; hear acknowledgements meanwhile."""
        bucket = self._link.bucket
        if bucket is None or not sent:
            return
        began = time.monotonic()
        seconds = bucket.take(sent)
        pause = Deadline(seconds)
        block.upload.note_pause(seconds)
        while not pause.passed:
            if connection.wait(pause.left(), waker=self._waker):
                self._hear_acks(connection)
            elif self._waker.quiet() and self._link.ending.is_set():
                raise Stop
        self._silence.put_off()  # in the pause the server had nothing to answer
        self._waited += time.monotonic() - began

    def _take_run(self) -> list[Block]:
        """Take blocks of a file that is not over, if this sender may send any more."""
        if self._number >= self._link.streams:  # fewer are wanted
            self._link.queue.leave(self._waker)
            return []
        if len(self._unacknowledged) >= config.MAX_UNACKNOWLEDGED:
            return []
        while True:
            taken = self._take_any()
            run = [block for block in taken if not block.upload.over]
            if run or not taken:
                return run

    def _take_any(self) -> list[Block]:
        if not self._extra:
            return self._link.queue.take(self._waker, self._run_length.blocks)
        self._link.queue.leave(self._waker)  # the next block wakes a sender that is idle
        return [self._extra.popleft()]

    def _leave_if_overtaken(self) -> None:
        """Raise if the other streams leave this one behind: a new connection is faster."""
        oldest = self._unacknowledged.oldest
        if not oldest:
            return
        upload = oldest.upload
        if upload.over and upload.went_twice(oldest.index):
            raise ConnectionLostError("it lags, and what it carries went another way")
        if upload.passed_by(self._silence.lasted, self._link.streams):
            raise ConnectionLostError("it lags behind the others")

    def _patience_left(self) -> float:
        """Return the seconds that the server may stay silent before the connection counts as dead.

        It may as long as other streams get on, for ``passed_by`` finds one that is too slow: with a
        limit on the server many streams wait long for their turn, and one that is given up
        meanwhile would keep its place there until that turn comes.
        """
        oldest = self._unacknowledged.oldest
        others = self._settings.timeout - oldest.upload.quiet_for if oldest else 0.0
        return max(self._silence.left(), others)

    def _wait(self, connection: Connection, *, write: bool = False) -> bool:
        """Wait for the server or a new block; return whether the server has something for us."""
        owed = write or self._unacknowledged.wanted
        most = min(self._patience_left(), config.STUCK / 2) if owed else FOREVER
        ready = connection.wait(most, write=write, waker=self._waker)
        if not ready:
            self._waker.quiet()
        if self._link.ending.is_set():
            raise Stop
        self._leave_if_overtaken()
        if not ready and owed and not self._patience_left():
            raise SilenceError(f"no sign of the server for {self._settings.timeout:g} s")
        return ready

    def _hear_acks(self, connection: Connection) -> None:
        heard: list[Block] = []
        try:
            for ack in connection.receive_acks():
                heard.append(self._unacknowledged.take(ack))
        finally:  # behind acknowledgements there may be an ERROR
            if heard:
                self._confirm(heard)

    def _confirm(self, heard: list[Block]) -> None:
        for upload, blocks in itertools.groupby(heard, attrgetter("upload")):
            upload.confirm([block.index for block in blocks])
        self._backoff.reset()
        self._bad_frames = 0
        self._silence.put_off()

    def _send_run(self, connection: Connection, run: list[Block]) -> int:
        """Send blocks with as few calls as the system takes; their buffers go to the reader.

        Returns the bytes of their payload.
        """
        began = time.monotonic()
        for block in run:  # before any of them leaves: when the connection breaks, all are owed
            self._unacknowledged.add(block)
        try:
            sent = sum([self.send_file_block(connection, block) for block in run])
            self._drain(connection)
        finally:
            for block in run:
                block.free_buffer()
        self._run_length.note(time.monotonic() - began, run[0].upload.run_length)
        return sent

    def send_file_block(self, connection: Connection, block: Block) -> int:
        """Put one block on its way, chunk by chunk; what the system has not taken waits.

        Returns the bytes of its payload.
        """
        upload, index = block.upload, block.index
        sent = 0
        try:
            codec, payload = self._payload(block)
            sent = len(payload)
            length, digest = upload.blocks.length(index), upload.digests.of(index)
            header = BlockHeader(upload.number, index, length, sent, codec, digest)
            upload.note_sent(index, sent)
            size = connection.whole_chunk(self._settings.chunk_size or max(1, len(payload)))
            connection.hold(encode_header(header), *_chunks(payload, size))
        except SourceError as error:
            if upload.owes(index):
                upload.fail(error)
            else:  # the server has it, and the source let go of it just now
                self._unacknowledged.take(Ack(upload.number, index))
        block_log.debug("block %d %s", index, "is held" if block.held else "sent")
        return sent

    def _payload(self, block: Block) -> tuple[int, memoryview]:
        """Return what to send of a block, and its codec. Raises ``SourceError``."""
        if block.held:
            return CODEC_HELD, memoryview(b"")
        view = block.view or self._read_again(block)
        compression = self._link.compression
        if compression is None:
            return CODEC_RAW, view
        behind = len(self._unacknowledged) - 1
        self._tell_wait(compression, behind)
        return compression.pack(view, behind)

    def _tell_wait(self, compression: Compression, behind: int) -> None:
        """Tell the compression how long the link made us wait since the last block."""
        now = time.monotonic()
        worked = min(max(now - self._told_at - self._waited, 1e-6), config.COMPRESS_IDLE)
        compression.note_wait(self._waited, worked, behind)
        self._waited, self._told_at = 0.0, now

    def _read_again(self, block: Block) -> memoryview:
        """Read a block that was sent before; the server notices what changed since then."""
        blocks = block.upload.blocks
        view = memoryview(bytearray(blocks.length(block.index)))
        block.upload.source.read(view, blocks.offset(block.index))
        return view

    def _drain(self, connection: Connection) -> None:
        """Wait until the system has taken everything; hear acknowledgements meanwhile."""
        began = time.monotonic()
        while not connection.flush():
            unsent = connection.unsent
            self._wait(connection, write=True)
            self._hear_acks(connection)
            if connection.flush() or connection.unsent < unsent:
                self._silence.put_off()
        self._waited += time.monotonic() - began


def _chunks(view: memoryview, size: int) -> list[memoryview]:
    return [view[start : start + size] for start in range(0, len(view), size)]
