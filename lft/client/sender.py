"""One sender thread with its data connection."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import config
from lft.client.link import Link
from lft.client.upload import Block
from lft.clock import Backoff, Deadline
from lft.wire.blocks import BlockHeader, encode_header
from lft.wire.connection import Connection
from lft.wire.sockets import Socket, Waker, wait
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    ConnectionLostError,
    RemoteProtocolError,
    SessionLostError,
    SourceError,
    TransferError,
)

if TYPE_CHECKING:
    from lft.client.compression import Compression

block_log = logging.getLogger("block")

FOREVER = 5.0  # seconds of a wait that only a waker or the server should end


class Stop(Exception):  # noqa: N818  (not an error)
    """The session is ending: a wait breaks off."""


class Sender:
    """One of the pool's threads, with one long-lived data connection that carries every file."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number
        self._extra: deque[Block] = deque()  # for this sender alone; main puts them there
        self._settings = link.settings
        self._waker = Waker()
        self._connection: Connection | None = None  # the latest; main cuts it, reads its figures
        self._unacknowledged: dict[tuple[int, int], list[Block]] = {}
        self._backoff = Backoff(config.RETRY_FIRST, config.RETRY_LONGEST)
        self._bad_frames = 0  # since the last acknowledgement
        self._silence = Deadline(self._settings.timeout)  # of the server, on this connection
        self._congestion = ""  # what main wanted when it was chosen for this connection
        self._system_congestion = ""  # what the system chose for this connection
        self._waited = 0.0  # seconds that the link made us wait ...
        self._told_at = time.monotonic()  # ... since the compression was last told of it

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
                    done = self._unacknowledged and not self._owed()  # all of it went another way
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
        blocks = list(itertools.chain.from_iterable(self._unacknowledged.values()))
        self._unacknowledged.clear()
        self._link.queue.leave(self._waker)
        for block in blocks:
            if block.upload.owes(block.index):
                self._link.queue.put(block)

    def _send_blocks(self, connection: Connection) -> None:
        """Send what the queue has, hear acknowledgements as they come; end by an exception."""
        self._silence.put_off()
        in_a_row = 0
        while True:
            if self._congestion != self._link.wanted_congestion:
                self._adapt(connection)
            block = self._take_block()
            if block:
                if not self._unacknowledged:
                    self._silence.put_off()
                self._pace(connection, block, self.send_file_block(connection, block))
                in_a_row += 1
                if in_a_row < config.ACK_EVERY:
                    continue
            in_a_row = 0
            if block or self._wait(connection):
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

    def _take_block(self) -> Block | None:
        """Take a block of a file that is not over, if this sender may send another one."""
        if self._number >= self._link.streams:  # fewer are wanted
            self._link.queue.leave(self._waker)
            return None
        if len(self._unacknowledged) >= config.MAX_UNACKNOWLEDGED:
            return None
        block = self._take_any()
        while block and block.upload.over:
            block.free_buffer()
            block = self._take_any()
        return block

    def _take_any(self) -> Block | None:
        if not self._extra:
            return self._link.queue.take(self._waker)
        self._link.queue.leave(self._waker)  # the next block wakes a sender that is idle
        return self._extra.popleft()

    def _leave_if_overtaken(self) -> None:
        """Raise if the other streams leave this one behind: a new connection is faster."""
        oldest = next(iter(self._unacknowledged.values()), None)
        if not oldest:
            return
        upload = oldest[0].upload
        if upload.over and upload.went_twice(oldest[0].index):
            raise ConnectionLostError("it lags, and what it carries went another way")
        if upload.passed_by(self._silence.lasted, self._link.streams):
            raise ConnectionLostError("it lags behind the others")

    def _patience_left(self) -> float:
        """Return the seconds that the server may stay silent before the connection counts as dead.

        It may as long as other streams get on, for ``passed_by`` finds one that is too slow: with a
        limit on the server many streams wait long for their turn, and one that is given up
        meanwhile would keep its place there until that turn comes.
        """
        oldest = next(iter(self._unacknowledged.values()), None)
        others = self._settings.timeout - oldest[0].upload.quiet_for if oldest else 0.0
        return max(self._silence.left(), others)

    def _owed(self) -> bool:
        """Whether the server owes an acknowledgement for a file that is not over."""
        return any(not of[0].upload.over for of in self._unacknowledged.values())

    def _wait(self, connection: Connection, *, write: bool = False) -> bool:
        """Wait for the server or a new block; return whether the server has something for us."""
        owed = write or self._owed()
        most = min(self._patience_left(), config.STUCK / 2) if owed else FOREVER
        ready = connection.wait(most, write=write, waker=self._waker)
        if not ready:
            self._waker.quiet()
        if self._link.ending.is_set():
            raise Stop
        self._leave_if_overtaken()
        if not ready and owed and not self._patience_left():
            raise ConnectionLostError(f"no sign of the server for {self._settings.timeout:g} s")
        return ready

    def _hear_acks(self, connection: Connection) -> None:
        for ack in connection.receive_acks():
            blocks = self._unacknowledged.get(ack)
            if not blocks:
                raise RemoteProtocolError("the server acknowledges a block it was never sent")
            blocks.pop().upload.confirm(ack.block)
            if not blocks:
                del self._unacknowledged[ack]
            self._backoff.reset()
            self._bad_frames = 0
            self._silence.put_off()

    def send_file_block(self, connection: Connection, block: Block) -> int:
        """Send one block, chunk by chunk; its buffer goes back to the reader.

        Returns the bytes of its payload.
        """
        upload, index = block.upload, block.index
        sent = 0
        try:
            codec, payload = self._payload(block)
            sent = len(payload)
            self._unacknowledged.setdefault((upload.number, index), []).append(block)
            length, digest = upload.blocks.length(index), upload.digests.of(index)
            header = BlockHeader(upload.number, index, length, sent, codec, digest)
            upload.note_sent(index, sent)
            self._push(connection, encode_header(header), payload)
        except SourceError as error:
            upload.fail(error)
        finally:
            block.free_buffer()
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
        behind = len(self._unacknowledged)
        self._tell_wait(compression, behind)
        return compression.pack(view, behind)

    def _tell_wait(self, compression: Compression, behind: int) -> None:
        """Tell the compression how long the link made us wait since the last block."""
        now = time.monotonic()
        worked = min(max(now - self._told_at - self._waited, 1e-6), config.COMPRESS_IDLE)
        compression.note_wait(self._waited, worked, behind)
        self._waited, self._told_at = 0.0, now

    def _push(self, connection: Connection, header: bytes, view: memoryview) -> None:
        """Send chunk by chunk; the header goes in one segment with the first."""
        chunk = self._settings.chunk_size
        connection.push(header, view[:chunk])
        for start in range(chunk, len(view), chunk):
            if connection.unsent:
                self._drain(connection)
            connection.push(view[start : start + chunk])
        if connection.unsent:
            self._drain(connection)

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
