"""Data connections: receive blocks, write them, acknowledge them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from functools import partial
from typing import Iterator, NamedTuple

import config
from config import ServerSettings
from lft.options import format_size
from lft.server.blockmap import Due
from lft.server.buffers import Buffer, Shares
from lft.server.guests import TOO_SLOW, Next
from lft.server.lifecycle import Lifecycle
from lft.server.limits import Limits
from lft.server.right_of_way import RightOfWay
from lft.server.sessions import Peer, Registry
from lft.server.transfer import Arrived, Transfer
from lft.server.unsized import UnsizedTransfer
from lft.server.verification import Verification
from lft.server.work_queue import WorkQueue
from lft.wire.blocks import BlockHeader, BlockReader
from lft.wire.codecs import decompress
from lft.wire.frames import encode_ack
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    Attached,
    ConnectionLostError,
    RemoteProtocolError,
    Why,
)

log = logging.getLogger("server")
block_log = logging.getLogger("block")

ACKS_TOGETHER = 4 * len(encode_ack(0, 0))  # bytes: one call and one wake-up for four blocks
ACK_PAUSE = 0.005  # seconds without another block after which acknowledgements are sent anyway


class Incoming(NamedTuple):
    """What the block that is being received is for, and the memory it goes to."""

    transfer: Transfer
    buffer: Buffer


class Receiving:
    """Receives blocks. All methods run on workers, unless a docstring says otherwise."""

    def __init__(
        self,
        settings: ServerSettings,
        lifecycle: Lifecycle,
        verification: Verification,
        registry: Registry,
        limits: Limits,
        work: WorkQueue,
        way: RightOfWay,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._verification = verification
        self._registry = registry
        self._work = work
        self._way = way
        self._shares = Shares(config.MAX_HALF_OF_USER, config.MAX_HALF)
        self.limits = limits

    def attach(self, peer: Peer, token: str) -> None:
        """Make a connection a data connection of the session of ``token``.

        Raises ``RemoteProtocolError`` where there is none, or it has no room.
        """
        session = self._registry.attach(token, peer)
        if session is None:
            raise RemoteProtocolError("no such session", "session")
        peer.session = session
        peer.blocks = BlockReader(partial(self._make_room, peer), config.RECEIVE_SIZE)
        peer.deadline = float("inf")
        peer.connection.send(Attached())

    def handle_block_transfer(self, peer: Peer) -> Next:
        """Receive blocks while they come; stay for more only while no other peer is ready.

        Raises ``RemoteProtocolError`` for a bad one: the blocks before it are acknowledged, so that
        the client sees progress and tries again.
        """
        assert peer.blocks is not None
        try:
            while not (self._check_deadline(peer) or self._give_way(peer)):
                run = peer.blocks.receive(peer.connection, self._most(peer))
                if run:
                    if self._take_run(peer, run) or self._work.pressed:
                        break
                elif not self._stay(peer):
                    break
        finally:
            self._send_acks(peer)
        if self._check_deadline(peer):  # main would find it ready, and unread, again and again
            raise RemoteProtocolError(TOO_SLOW, "timeout")
        # bytes that came in one piece with ATTACH are in memory: no selector tells of them
        again = peer.connection.mid_frame or peer.blocks.failed
        return Next.AGAIN if again else Next.WAIT

    def _most(self, peer: Peer) -> int:
        """Return how many blocks to take together.

        With a limit each pauses for itself; beside a higher priority each may be the last for now.
        """
        limited = peer.session is None or self.limits.hold(peer.session.bucket)
        single = limited or self._way.is_overtaken(peer.priority)
        return 1 if single else peer.run_length.blocks

    def _stay(self, peer: Peer) -> bool:
        """Wait for more, if no other peer needs the worker; return whether to go on."""
        waits = bool(peer.acks)
        if self._work.linger(peer.connection, ACK_PAUSE if waits else config.LINGER):
            return True
        self._send_acks(peer)
        return waits

    def _check_deadline(self, peer: Peer) -> bool:
        """Give a half-received block its time, however steadily it trickles; is that over?"""
        if peer.mid_frame and peer.deadline == float("inf"):
            peer.deadline = time.monotonic() + self._settings.block_timeout
        return time.monotonic() >= peer.deadline

    def _give_way(self, peer: Peer) -> bool:
        """Have a data connection rest while a higher priority sends; return whether it does.

        So it does while the server's limit has not paid for what it brought: with what others
        have brought meanwhile, that takes longer than it seemed.
        """
        pause = self.limits.wait(peer.owed)
        if pause:
            brings = self._lifecycle.current(peer.session, peer.brings)
            return self._hold_back(peer, brings, pause)
        peer.owed = 0.0
        pause = self._way.pause(peer.priority, peer.held_until)
        return pause > 0 and peer.pause(pause)

    def _make_room(self, peer: Peer, header: BlockHeader) -> tuple[Incoming, memoryview]:
        """Check a block's header before its payload; return the room for that.

        There is one answer for foreign, unknown, finished and expired transfers.
        """
        transfer = self._lifecycle.current(peer.session, header.transfer)
        if transfer is None or not transfer.life.receiving:
            if peer.session and peer.session.closed:  # no fault of the peer's, nothing to warn of
                raise ConnectionLostError("its session has ended")
            raise RemoteProtocolError("no such transfer", "transfer")
        blocks, length = transfer.blocks, header.wire_length
        if not blocks.has(header.block, header.raw_length):
            raise RemoteProtocolError("a block that is not part of the file")
        if not header.consistent:
            raise RemoteProtocolError("a block of the wrong length")
        if length and transfer.full:
            raise RemoteProtocolError("too many blocks wait for one that is missing", "busy")
        # of the raw length, whatever comes: otherwise the pool had none that fits the next block
        size = header.raw_length if length else 0
        if not self._shares.take(transfer.facts.user, size):
            raise RemoteProtocolError("too many blocks of this user are on their way", "busy")
        try:
            buffer = transfer.buffers.take(size)
        except BaseException:  # no memory
            self._shares.give(transfer.facts.user, size)
            raise
        return Incoming(transfer, buffer), buffer.view[:length]

    def drop_half_block(self, peer: Peer) -> None:
        """Release what a connection that ends has received of a block (its owner)."""
        incoming = peer.blocks.abandon() if peer.blocks else None
        if incoming:
            self._shares.give(incoming.transfer.facts.user, incoming.buffer.size)
            incoming.buffer.release()

    def _take_run(self, peer: Peer, run: list[tuple[BlockHeader, Incoming]]) -> bool:
        """Store blocks that are complete; return whether a limit lets the connection rest."""
        peer.deadline, began = float("inf"), time.monotonic()
        user = run[0][1].transfer.facts.user  # of the session, and so of every block
        self._shares.give(user, sum([incoming.buffer.size for _, incoming in run]))
        rests = False
        for transfer, group in itertools.groupby(run, lambda one: one[1].transfer):
            peer.brings = transfer.number
            rests = self._take_group(peer, transfer, list(group))
        peer.run_length.note(time.monotonic() - began)
        return rests

    def _take_group(
        self, peer: Peer, transfer: Transfer, run: list[tuple[BlockHeader, Incoming]]
    ) -> bool:
        """Store blocks of one transfer; return whether a limit lets the connection rest.

        Raises ``RemoteProtocolError`` for what cannot be unpacked, once those before it are stored.
        """
        transfer.tally.count_wire(sum([header.wire_length for header, _ in run]))
        held = [header for header, _ in run if header.codec == CODEC_HELD]
        arrived, error = _unpack(one for one in run if one[0].codec != CODEC_HELD)
        if held:
            self._lifecycle.run(partial(self._announce, peer, held), transfer)
        if arrived:
            self._lifecycle.run(partial(self._store, peer, arrived), transfer)
        if len(peer.acks) >= ACKS_TOGETHER or time.monotonic() >= peer.acks_due:
            self._send_acks(peer)
        if error:
            raise error
        return self._charge(peer, transfer, sum([_cost(header) for header, _ in run]))

    def _announce(self, peer: Peer, held: list[BlockHeader], transfer: Transfer) -> None:
        """Take the digests of blocks that the journal claims."""
        for header in held:
            if isinstance(transfer, UnsizedTransfer):
                self._lifecycle.growth.make_room(transfer, header.block, header.raw_length)
            due = transfer.announce(header.block, header.digest)
            block_log.debug("%s: block %d held", transfer.name, header.block)
            if not due.missing:
                _log_progress(transfer, due.received, header.raw_length)
            self._see_to(peer, transfer, [header.block], due, 0)

    def _store(self, peer: Peer, arrived: list[Arrived], transfer: Transfer) -> None:
        """Write blocks."""
        blocks = [one.block for one in arrived]
        length = sum([one.buffer.size for one in arrived])
        if isinstance(transfer, UnsizedTransfer):
            for one in arrived:
                self._lifecycle.growth.make_room(transfer, one.block, one.buffer.size)
        due = transfer.store(arrived)
        if block_log.isEnabledFor(logging.DEBUG):
            for block in blocks:
                block_log.debug("%s: block %d written", transfer.name, block)
        _log_progress(transfer, due.received, length)
        self._see_to(peer, transfer, blocks, due, length)

    def _see_to(
        self, peer: Peer, transfer: Transfer, blocks: list[int], due: Due, length: int
    ) -> None:
        """Acknowledge ``blocks``, of ``length`` bytes, and see to the work that is due with them.

        Due hashing is done here and now, while they are warm in this processor's cache: handing it
        to another worker cost 4 % of the time of 1 GiB.
        """
        peer.acks += b"".join([encode_ack(transfer.number, block) for block in blocks])
        peer.acks_of.add(transfer.number)
        self._way.moved(transfer.priority, length)
        if due.flush:
            self._lifecycle.start(self._verification.flush_part, transfer)
        if due.missing:
            block_log.info("%s: changed since the last attempt, from block %d on",
                           transfer.name, due.missing[0][0])  # fmt: skip
            self._verification.ask_for(transfer, due.missing, Why.CHANGED)
        if due.hashing:
            # that the connection is lost or broken is no fault of the transfer, which goes on
            with contextlib.suppress(ConnectionLostError, RemoteProtocolError):
                self._send_acks(peer)
            self._verification.verify_blocks(transfer)

    def _charge(self, peer: Peer, transfer: Transfer, length: int) -> bool:
        """Charge bytes to the limits; return whether the connection has to rest.

        It rests with main: no worker waits with it.
        """
        assert peer.session is not None  # it is attached
        session = peer.session
        pause, peer.owed = self.limits.take(session.user, session.bucket, length)
        return self._hold_back(peer, transfer, pause)

    def charge_upload(self, transfer: Transfer, length: int) -> float:
        """Charge bytes of an upload to the limits; return the seconds until it may bring more."""
        session = transfer.session
        self._way.moved(transfer.priority, length)
        pause, _ = self.limits.take(session.user, session.bucket, length)
        if pause:
            transfer.tally.hold_back(pause)
        return max(pause, self._way.pause(transfer.priority, time.monotonic() + config.HOLD))

    @staticmethod
    def _hold_back(peer: Peer, transfer: Transfer | None, pause: float) -> bool:
        """Have a data connection rest for a limit; return whether it does."""
        rests = peer.pause(pause)
        if rests and transfer:
            transfer.tally.hold_back(pause)
        peer.held_until = peer.paused_until + config.LONGEST_HOLD
        return rests

    def _send_acks(self, peer: Peer) -> None:
        """Have the journal claim the written blocks, then acknowledge them."""
        peer.acks_due = time.monotonic() + config.ACK_DELAY
        if peer.acks:
            for number in peer.acks_of:
                transfer = self._lifecycle.current(peer.session, number)
                if transfer:
                    self._lifecycle.run(Transfer.note_blocks, transfer)
            peer.acks_of.clear()
            peer.connection.push(bytes(peer.acks))
            peer.acks.clear()
        peer.flush()


def _cost(header: BlockHeader) -> int:
    """Return the bytes that a block costs a limit."""
    return max(header.wire_length, header.raw_length // config.UNSENT_PER_BYTE)


def _unpack(
    run: Iterator[tuple[BlockHeader, Incoming]],
) -> tuple[list[Arrived], RemoteProtocolError | None]:
    """Return the blocks of the file in ``run`` up to the first that cannot be unpacked, and why."""
    arrived: list[Arrived] = []
    for header, incoming in run:
        try:
            raw = header.codec == CODEC_RAW
            buffer = incoming.buffer if raw else _unpack_block(header, incoming)
        except RemoteProtocolError as error:
            for _, behind in run:
                behind.buffer.release()
            return arrived, error
        arrived.append(Arrived(header.block, header.digest, buffer))
    return arrived, None


def _unpack_block(header: BlockHeader, incoming: Incoming) -> Buffer:
    """Return the bytes of the file that a block brings. Raises ``RemoteProtocolError``."""
    packed, raw = incoming.buffer, incoming.transfer.buffers.take(header.raw_length)
    try:
        decompress(header.codec, packed.view[: header.wire_length], raw.view)
    except RemoteProtocolError:
        raw.release()
        raise
    finally:
        packed.release()
    return raw


def _log_progress(transfer: Transfer, received: int, length: int) -> None:
    """Log a line for each tenth of a large file (a worker)."""
    size = transfer.blocks.size
    step = max(size // config.PROGRESS_LINES, config.FLUSH_EVERY)
    if received // step > (received - length) // step:
        percent, so_far = received * 100 // size, format_size(received)
        facts = so_far if transfer.facts.unsized else f"{percent} % ({so_far})"
        block_log.info("%s: %s", transfer.name, facts)
