"""The units of work."""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import threading
import time
from collections import deque
from functools import partial
from typing import Any, Callable

import config
from config import ServerSettings
from lft.accounts.account import Credential, Credentials
from lft.accounts.permissions import LONGEST_BEGINNING, Rights, looks_like
from lft.accounts.scram import SCRAM_PLUS, ScramServer
from lft.accounts.throttle import LoginDelay
from lft.accounts.tokens import verify_token
from lft.addresses import is_loopback
from lft.clock import TokenBucket
from lft.options import format_size
from lft.server.blockmap import Stretch
from lft.server.buffers import BufferPool
from lft.server.sessions import Peer, Registry, Session
from lft.server.transfer import Stage, Transfer, TransferEndedError
from lft.server.work_queue import RightOfWay, Unit, WorkQueue
from lft.store.journal import Claims
from lft.store.partfile import PartFile, StaleError
from lft.store.partstore import PartStore
from lft.store.paths import NO_SPACE, counted, make_directory, safe_name, used_bytes
from lft.terminal import SUCCESS
from lft.wire.blocks import BlockHeader, BlockReader
from lft.wire.codecs import FEATURES, decompress
from lft.wire.frames import encode_ack
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    DIGEST_SIZES,
    TOKEN,
    VERSION,
    Attach,
    Attached,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    Blocks,
    Cancel,
    ConnectionLostError,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
    IntegrityFailed,
    Message,
    Missing,
    Ping,
    Pong,
    Queued,
    Rejected,
    RejectedError,
    RemoteProtocolError,
    Spans,
    State,
    TransferComplete,
    Why,
)

block_log = logging.getLogger("block")
coordinator_log = logging.getLogger("coordinator")
log = logging.getLogger("server")

ACKS_TOGETHER = 4 * len(encode_ack(0, 0))  # bytes: one call and one wake-up for four blocks
ACK_PAUSE = 0.005  # seconds without another block after which they are sent all the same
TOO_SLOW = "too slow, or silent for too long"  # what who misses a deadline is told
MESSAGES_PER_UNIT = 16  # of one coordinator before others get their turn


class Service:
    """The units of work. All of it runs on workers, unless a docstring says otherwise.

    ``post`` sends a message on somebody's coordinator connection from wherever one is.
    """

    def __init__(
        self,
        settings: ServerSettings,
        credentials: Credentials,
        post: Callable[[Peer, Message], None],
        later: Callable[[float, Unit], None],
    ) -> None:
        self.settings = settings
        self.delays = LoginDelay()
        self.work = WorkQueue(settings.workers)
        self.registry = Registry(settings.max_active)
        self._way = RightOfWay()
        self.stopping = False  # set by main: nothing new begins
        self._credentials = credentials
        self._post = post
        self._later = later
        self._bucket = TokenBucket(settings.limit) if settings.limit else None
        self._buckets_of: dict[tuple[str, int], TokenBucket] = {}
        self._buffers = BufferPool(config.SPARE_BUFFERS, config.KEEP_FOR_HASHING)
        self._secret = secrets.token_bytes(32)
        self._flushes = threading.BoundedSemaphore(config.MAX_FLUSHES)
        self.parts = PartStore(settings.output)
        self._seeking: deque[Transfer] = deque()  # wait for the owner of their part file to answer
        self._answers = self._handlers()

    def _handlers(self) -> dict[type[Message], Callable[[Peer, Any], None]]:
        """Return what answers each message a client may send."""
        return {
            Hello: self._on_hello,
            AuthStart: self._on_auth_start,
            AuthResponse: self._on_auth_response,
            Attach: self._on_attach,
            FileStart: self._on_file_start,
            TransferComplete: self._on_transfer_complete,
            Cancel: self._on_cancel,
            Pong: self._on_pong,
            Goodbye: self._on_goodbye,
        }

    def serve(self, peer: Peer) -> None:
        """Do one unit of work for ``peer``, whatever it sends; never raises."""
        handle = self.handle_block_transfer if peer.blocks else self.handle_file_coordinator
        try:
            handle(peer)
        except ConnectionLostError as error:
            log.debug("%s", error)
            peer.gone = True
        except RemoteProtocolError as error:
            log.warning("%s: %s", peer.connection.peer, error)
            peer.refuse(error.code, str(error))
        except AuthenticationError as error:
            log.warning("%s: login failed: %s", peer.connection.peer, error.__cause__ or error)
            peer.refuse("authentication", str(error))
        except Exception:
            log.exception("%s: internal error", peer.connection.peer)
            peer.refuse("internal", "internal error of the server")

    # -- the coordinator

    def handle_file_coordinator(self, peer: Peer) -> None:
        """Send what others want said, then read and answer a few messages."""
        moved = self._send_mail(peer)
        if peer.proof and time.monotonic() >= peer.proof_due:
            self._judge_proof(peer)
        for _ in range(MESSAGES_PER_UNIT):
            message = peer.connection.receive()
            if message is None:
                break
            moved = True
            if peer.session:
                peer.session.heard_at = time.monotonic()
            self._answers[type(message)](peer, message)
            if peer.leaving or peer.blocks:
                break
        else:
            peer.hurried = True
        self._flush(peer)
        self._put_off_deadline(peer, moved)

    @staticmethod
    def _flush(peer: Peer) -> None:
        """Send what is left, as far as the peer has room; cut off who does not read."""
        peer.connection.flush()
        if peer.connection.unsent > config.MAX_QUEUED_BYTES:
            raise ConnectionLostError(f"{peer.connection.peer} does not read our answers")

    def _send_mail(self, peer: Peer) -> bool:
        """Send the mailbox. What the dialogue no longer allows has been overtaken: a verdict or a
        CANCEL crossed it between two threads."""
        sent = False
        while peer.mailbox:
            message = peer.mailbox.popleft()
            late = isinstance(message, FileReady) and not _transfer_of(peer, message.transfer)
            if peer.connection.dialogue.allows(message) and not late:
                peer.connection.send(message)
                sent = True
        return sent

    def _put_off_deadline(self, peer: Peer, moved: bool) -> None:
        """Give more time to a peer that completed something, a last term to one that began."""
        if peer.session is None:
            return  # the whole login has one deadline, whatever trickles in
        if moved:
            idle = peer.connection.state is State.READY
            peer.deadline = time.monotonic() + self.settings.idle_timeout if idle else float("inf")
        if peer.mid_frame and peer.deadline == float("inf"):
            peer.deadline = time.monotonic() + self.settings.block_timeout

    def _on_hello(self, peer: Peer, message: Hello) -> None:
        if message.version != VERSION:
            reason = f"this server speaks version {VERSION}, the client {message.version}"
            raise RemoteProtocolError(reason, "version")
        bound = () if peer.binding is None else (SCRAM_PLUS,)
        peer.connection.send(Hello(VERSION, FEATURES + bound))

    def _on_auth_start(self, peer: Peer, message: AuthStart) -> None:
        if message.mechanism == TOKEN:
            self._expect_proof(peer, message, _unnamed(peer))  # whose it is will show
            return
        login = ScramServer(self._credentials, self._secret, binding=peer.binding)
        if message.mechanism != login.mechanism:
            raise RemoteProtocolError(f"this server wants {login.mechanism}", "authentication")
        peer.login = login
        peer.connection.send(AuthChallenge(login.challenge(message.data)))

    def _on_auth_response(self, peer: Peer, message: AuthResponse) -> None:
        assert peer.login is not None  # the dialogue sees to it
        self._expect_proof(peer, message, peer.login.user)

    def _expect_proof(self, peer: Peer, proof: AuthStart | AuthResponse, user: str) -> None:
        """Judge a proof now, or later where there were wrong ones: main looks at the clock."""
        delay = self.delays.attempt(user, peer.address)
        if delay == float("inf"):
            raise AuthenticationError("too many wrong passwords; try again later")
        peer.proof, peer.proof_due = proof, time.monotonic() + delay
        if delay:
            log.warning("%s: wrong passwords before: its login waits %.1f s",
                        peer.connection.peer, delay)  # fmt: skip
        else:
            self._judge_proof(peer)

    def _judge_proof(self, peer: Peer) -> None:
        """Let the client in, or raise ``AuthenticationError``."""
        proof, peer.proof = peer.proof, None
        if isinstance(proof, AuthResponse):
            assert peer.login is not None
            final = peer.login.verify(proof.data)
            user, credential = peer.login.user, peer.login.credential
            counted = user
        else:
            assert proof is not None
            if not (peer.connection.secure or is_loopback(peer.address)):  # many could read it
                raise AuthenticationError("a token may be shown over TLS only")
            user, credential = verify_token(proof.data, self._credentials)
            final, counted = "", _unnamed(peer)
        self.delays.succeeded(counted, peer.address)
        self._let_in(peer, user, credential, final)

    def _let_in(self, peer: Peer, user: str, credential: Credential, final: str) -> None:
        rights = Rights.of(credential, self.settings)
        session = Session(user, credential.priority, peer, rights)
        session.verifier = credential.stored_key
        session.buckets = tuple(filter(None, (self._bucket, self._bucket_of(user, rights.limit))))
        peer.session, peer.login = session, None
        self.registry.add(session)
        coordinator_log.info(
            "%s logged in as %s (priority %d)", peer.connection.peer, user, session.priority
        )
        peer.connection.send(AuthOk(final, session.token, session.priority))

    def _bucket_of(self, user: str, limit: int | None) -> TokenBucket | None:
        """Return the one bucket of a user, whatever the number of sessions."""
        return self._buckets_of.setdefault((user, limit), TokenBucket(limit)) if limit else None

    def _on_attach(self, peer: Peer, message: Attach) -> None:
        session = self.registry.attach(message.token, peer)
        if session is None:
            raise RemoteProtocolError("no such session", "session")
        peer.session = session
        peer.hurried = peer.connection.mid_frame  # its first block is here already
        peer.blocks = BlockReader(partial(self._room_for, peer), config.RECEIVE_SIZE)
        peer.deadline = float("inf")
        peer.connection.send(Attached())

    def _on_pong(self, _peer: Peer, _message: Pong) -> None:
        """That something came is all it says; it has been noted."""

    def _on_goodbye(self, peer: Peer, _message: Goodbye) -> None:
        peer.leaving = True
        if peer.session:
            self._settle(peer.session, confirmed=True)

    @staticmethod
    def _settle(session: Session, *, confirmed: bool) -> None:
        """Let go the part file of the last verdict, ``confirmed`` if the client read it (any)."""
        transfer, session.unconfirmed = session.unconfirmed, None
        if transfer:
            transfer.settle(confirmed=confirmed)

    # -- a transfer's beginning and end

    def _on_file_start(self, peer: Peer, message: FileStart) -> None:
        assert peer.session is not None
        self._settle(peer.session, confirmed=True)
        self._check_account(peer.session)
        try:
            transfer = peer.session.transfer = self._accept(peer.session, message)
            position = self.registry.enter(transfer)
            self._check_quota(transfer, anew=not transfer.resumes)
        except (RejectedError, OSError) as error:
            coordinator_log.warning("rejected %s: %s", message.name, error)
            if peer.session.transfer:  # it came as far as to have a place
                self._finish(peer.session.transfer, None)
            peer.connection.send(_rejection(error))
            return
        if position:
            coordinator_log.info("%s waits at position %d", transfer.name, position)
            peer.connection.send(Queued(position))
        else:
            self.start(self._open, transfer)

    def _check_account(self, session: Session) -> None:
        """Raise ``AuthenticationError`` if the user could not log in any more as he once did.

        A session may last for days: a closed account, a changed password must not wait for its end.
        """
        account = self._credentials.get(session.user)
        if account is None or not account.active(time.time()):
            raise AuthenticationError("the account has been closed")
        if account.stored_key != session.verifier:
            raise AuthenticationError("the account has another password by now")

    def _check_quota(self, transfer: Transfer, *, anew: bool) -> None:
        """Raise ``RejectedError`` if the directory has no room for it, reserved room counted.

        What is reserved is counted before what is there: a file that is published meanwhile may
        count twice, but never not at all. Unless it begins ``anew``, what there is of the same file
        does not count: it may be what this one goes on with.
        """
        quota = transfer.session.rights.quota
        if quota is None:
            return
        earlier = self.registry.earlier(transfer)
        others = (one for one in earlier if anew or not one.same_file(transfer))
        used = sum(counted(one.blocks.size) for one in others)
        used += self.parts.left_bytes(transfer.facts, same=anew and transfer.resumes)
        used += used_bytes(self.settings.output / transfer.facts.directory)
        used -= 0 if anew else self.parts.published_bytes(transfer.facts)
        size = counted(transfer.blocks.size)
        if used + size > quota:
            reason = f"{format_size(size)} is more than the {format_size(max(0, quota - used))}"
            least = " (what a file counts at least)" if size > transfer.blocks.size else ""
            raise RejectedError("quota", f"{reason} left of the quota{least}")

    def _accept(self, session: Session, start: FileStart) -> Transfer:
        """Look at the metadata before anything is reserved. Raises ``RejectedError``."""
        if self.stopping:
            raise RejectedError("shutdown", "the server is shutting down")
        if start.digest not in DIGEST_SIZES:
            raise RejectedError("digest", f"unknown digest; take one of {', '.join(DIGEST_SIZES)}")
        if not config.MIN_BLOCK_SIZE <= start.block_size <= config.MAX_BLOCK_SIZE:
            low, high = format_size(config.MIN_BLOCK_SIZE), format_size(config.MAX_BLOCK_SIZE)
            raise RejectedError("block_size", f"a block has {low} to {high} here")
        if Blocks(start.size, start.block_size).count > config.MAX_BLOCKS:
            raise RejectedError("size", "too many blocks; use larger ones")
        name = safe_name(start.name)
        session.rights.check(name, start.size)
        return Transfer(session, start, name, self._buffers, self._let_go)

    def start(self, unit: Callable[[Transfer], None], transfer: Transfer) -> None:
        """Have ``unit`` done for ``transfer`` by some worker (any)."""
        self.work.put(partial(self._run, unit, transfer), transfer.priority)

    def _run(self, unit: Callable[[Transfer], None], transfer: Transfer) -> None:
        """Do ``unit``; what it raises ends this transfer and nothing else."""
        try:
            unit(transfer)
        except TransferEndedError:
            return
        except StaleError:
            transfer.spoil()
            self._finish(transfer, Rejected("stale", "the file has changed since it was published"))
        except (RejectedError, OSError) as error:
            self._finish(transfer, _rejection(error))
        except Exception:
            log.exception("%s: internal error", transfer.name)
            self._finish(transfer, Rejected("internal", "internal error of the server"))

    def _open(self, transfer: Transfer) -> None:
        """Find or make the part file of an admitted transfer and let the client send."""
        if transfer.ended:
            return
        make_directory(self.settings.output, transfer.facts.directory)  # said before a byte is sent
        kept = None
        if transfer.resumes:
            rivals = self.parts.rivals(transfer)  # before the search: what rests then is found
            check = partial(self._check_quota, transfer, anew=True)
            kept = self.parts.resume(transfer, check)
            if kept is None and self._must_wait(transfer, rivals):
                self._seeking.append(transfer)
                return
            if kept is None:
                check()
        else:
            self.parts.forget(transfer.facts.key)
        part, claims = kept or (self.parts.create(transfer), None)
        if not transfer.open(part, claims):
            self.parts.rest(part)
            return
        self._log_opened(transfer, claims)
        self._post(transfer.session.coordinator, FileReady(transfer.number, transfer.claimed))

    @staticmethod
    def _log_opened(transfer: Transfer, claims: Claims | None) -> None:
        size, count = format_size(transfer.blocks.size), transfer.blocks.count
        facts = f"{transfer.name} ({size} in {count} blocks) from {transfer.user}"
        if claims:
            coordinator_log.info("resuming %s: %d blocks are here", facts, sum(claims.flags))
        else:
            coordinator_log.info("receiving %s", facts)

    def _must_wait(self, transfer: Transfer, rivals: list[Transfer]) -> bool:
        """Whether one of ``rivals`` that may be dead has the part file; it is asked to answer.

        A client notices a dead connection long before the server does, and comes back while its old
        session still stands. So who does not answer in ``PROBE_TIMEOUT`` seconds loses the file.
        """
        now = time.monotonic()
        silent = False
        for rival in rivals:
            asked_at = transfer.probes.setdefault(rival, now)
            if not rival.ended and (rival.lives(asked_at) or not rival.receiving):
                continue  # it lives, or is about to begin
            silent |= now < asked_at + self.settings.stall_timeout  # else a disk is stuck
            if now < asked_at + config.PROBE_TIMEOUT:
                self._post(rival.session.coordinator, Ping())
            else:
                self._take_from(rival)
        return silent

    def _take_from(self, rival: Transfer) -> None:
        """Let the part file of a dead session rest, so that its successor finds it."""
        if not rival.ended:
            coordinator_log.warning("%s: its client is silent, another goes on", rival.name)
        self._finish(rival, Rejected("taken", "another client goes on with this file"))
        if rival.session.unconfirmed is rival:
            self._settle(rival.session, confirmed=False)

    def look_again(self) -> None:
        """Start the search of those who wait for a part file again (main)."""
        for _ in range(len(self._seeking)):
            self.start(self._open, self._seeking.popleft())

    def _let_go(self, transfer: Transfer, part: PartFile) -> None:
        """Take back the part file of a transfer that has ended, from its last user (any)."""
        if transfer.stage is Stage.CONFIRMED:
            self.parts.drop(part)
        else:
            self.parts.rest(part)

    def _finish(self, transfer: Transfer, answer: Message | None) -> None:
        """End ``transfer`` with ``answer``, unless somebody else does (any)."""
        if transfer.end():
            self._conclude(transfer, answer)

    def _conclude(self, transfer: Transfer, answer: Message | None) -> None:
        """Say how ``transfer`` ended, and admit the next (who ended it)."""
        transfer.session.transfer = None
        if isinstance(answer, (Rejected, IntegrityFailed)):
            log.error("%s: %s", transfer.name, answer.reason)
        if answer:  # before the registry lets go of it: a stopping server waits for that
            self._post(transfer.session.coordinator, answer)
        for admitted in self.registry.leave(transfer):
            self.start(self._open, admitted)

    def abandon(self, session: Session) -> None:
        """End what a session that is gone has left."""
        transfer = session.transfer
        if transfer:
            coordinator_log.warning("%s: the client went away; it can go on later", transfer.name)
            self._finish(transfer, None)
        self._settle(session, confirmed=False)

    def turn_away(self, transfer: Transfer) -> None:
        """End a transfer that has not begun, because the server stops."""
        self._finish(transfer, Rejected("shutdown", "the server is shutting down"))

    def expire(self, transfer: Transfer) -> None:
        """End a transfer in which nothing moves any more."""
        timeout = self.settings.stall_timeout
        self._finish(transfer, Rejected("timeout", f"nothing came for {timeout:g} s"))

    def _on_cancel(self, peer: Peer, _message: Cancel) -> None:
        transfer = _transfer_of(peer)
        if transfer:
            self._finish(transfer, Rejected("cancelled", "cancelled by the client"))

    def _on_transfer_complete(self, peer: Peer, message: TransferComplete) -> None:
        transfer = _transfer_of(peer, message.transfer)
        if transfer is None:
            return  # it crossed our REJECTED or INTEGRITY_FAILED
        missing = transfer.complete(message.digest, delivered=message.delivered)
        if transfer.hopeless:
            self._fail(transfer, "blocks are still missing after several rounds")
        elif missing:
            block_log.warning("%s: asking for missing blocks %s", transfer.name, missing[:10])
            peer.connection.send(Missing(transfer.number, missing, Why.LOST))
        elif transfer.begin_hashing():
            self.start(self.verify_blocks, transfer)

    def _fail(self, transfer: Transfer, reason: str) -> None:
        transfer.spoil()
        self._finish(transfer, IntegrityFailed(transfer.digest, reason))

    # -- blocks

    def handle_block_transfer(self, peer: Peer) -> None:
        """Receive blocks while they come; stay for more only while nobody else is ready."""
        while not (self._overdue(peer) or self.gives_way(peer)):
            found = peer.blocks and peer.blocks.receive(peer.connection)
            if found:
                peer.deadline = float("inf")
                assert peer.incoming is not None  # _room_for has found it
                raw = self._unpacked(peer, *found)
                self._run(partial(self._store_block, peer, found[0], raw), peer.incoming)
                if len(peer.acks) >= ACKS_TOGETHER or time.monotonic() >= peer.acks_due:
                    self._send_acks(peer)
                if self._must_pause(peer, len(found[1])) or self.work.pressed:
                    break
            elif self.work.linger(peer.connection, ACK_PAUSE if peer.acks else config.LINGER):
                continue
            elif peer.acks:
                self._send_acks(peer)
            else:
                break
        self._send_acks(peer)
        if self._overdue(peer):  # main would find it ready, and unread, again and again
            raise RemoteProtocolError(TOO_SLOW, "timeout")
        # what came in one piece with ATTACH is in memory: no selector tells of it
        peer.hurried = peer.connection.mid_frame

    def gives_way(self, peer: Peer) -> bool:
        """Whether a data connection rests with main while a higher priority sends (its owner)."""
        pause = self._way.pause(peer.priority, peer.held_until)
        if pause:
            peer.paused_until = time.monotonic() + pause
        return pause > 0

    def _must_pause(self, peer: Peer, length: int) -> bool:
        """Whether a limit wants this connection to rest: with main, and no worker waits with it."""
        assert peer.session is not None  # it is attached
        sharers = self.registry.attached
        pause = max((one.take(length, sharers) for one in peer.session.buckets), default=0.0)
        peer.paused_until = time.monotonic() + pause
        if pause and peer.incoming:
            peer.incoming.held_back(pause)
        peer.held_until = peer.paused_until + config.LONGEST_HOLD
        return pause > 0

    def _room_for(self, peer: Peer, header: BlockHeader) -> memoryview:
        """Check a block's header before its payload; return the buffer for that.

        There is one answer for foreign, unknown, finished and expired transfers.
        """
        transfer = peer.incoming = _transfer_of(peer, header.transfer)
        if transfer is None or not transfer.receiving:
            if peer.session and peer.session.closed:  # no fault of the peer's, nothing to warn of
                raise ConnectionLostError("its session has ended")
            raise RemoteProtocolError("no such transfer", "transfer")
        blocks, length = transfer.blocks, header.wire_length
        if header.block >= blocks.count or header.raw_length != blocks.length(header.block):
            raise RemoteProtocolError("a block that is not part of the file")
        if not header.consistent:
            raise RemoteProtocolError("a block of the wrong length")
        if length and transfer.full:
            raise RemoteProtocolError("too many blocks wait for one that is missing", "busy")
        # buffers of one size, whatever comes: else the pool had none that fits the next block
        return self._buffers.take(header.raw_length)[:length] if length else memoryview(b"")

    def _unpacked(self, peer: Peer, header: BlockHeader, payload: memoryview) -> memoryview:
        """Return the bytes of the file that a block brings.

        Raises ``RemoteProtocolError`` for what cannot be: that ends the connection, but the blocks
        that came before are acknowledged, so that the client sees progress and tries again.
        """
        if header.codec in (CODEC_RAW, CODEC_HELD):
            return payload
        raw = self._buffers.take(header.raw_length)
        try:
            decompress(header.codec, payload, raw)
        except RemoteProtocolError:
            self._send_acks(peer)
            raise
        self._buffers.give(payload)
        return raw

    def _store_block(
        self, peer: Peer, header: BlockHeader, payload: memoryview, transfer: Transfer
    ) -> None:
        """Write one block, acknowledge it, and see to the work that follows from it.

        Due hashing is done here and now, while the block is warm in this processor's cache: handing
        it to another worker cost 4 % of the time of 1 GiB.
        """
        if header.codec == CODEC_HELD:
            due = transfer.announce(header.block, header.digest)
        else:
            due = transfer.store(header.block, header.digest, payload)
        peer.acks += encode_ack(header.transfer, header.block)
        self._way.moved(transfer.priority, len(payload))
        if due.flush:
            self.start(self.flush_part, transfer)
        if due.missing:
            block_log.info("%s: changed since the last attempt, from block %d on",
                           transfer.name, due.missing[0][0])  # fmt: skip
            self._ask_for(transfer, due.missing, Why.CHANGED)
        how = "held" if header.codec == CODEC_HELD else "written"
        block_log.debug("%s: block %d %s", transfer.name, header.block, how)
        self._log_progress(transfer, due.received, len(payload))
        if due.hashing:
            with contextlib.suppress(ConnectionLostError):  # the next call to receive finds that
                self._send_acks(peer)
            self.verify_blocks(transfer)

    def _log_progress(self, transfer: Transfer, received: int, length: int) -> None:
        """Log a line for each tenth of a large file."""
        size = transfer.blocks.size
        step = max(size // config.PROGRESS_LINES, config.FLUSH_EVERY)
        if received // step > (received - length) // step:
            percent = received * 100 // size
            block_log.info("%s: %d %% (%s)", transfer.name, percent, format_size(received))

    def _overdue(self, peer: Peer) -> bool:
        """Whether a half-received block has had its time, however steadily it trickles."""
        if peer.mid_frame and peer.deadline == float("inf"):
            peer.deadline = time.monotonic() + self.settings.block_timeout
        return time.monotonic() >= peer.deadline

    def _send_acks(self, peer: Peer) -> None:
        """Have the journal claim what is written, then acknowledge it."""
        peer.acks_due = time.monotonic() + config.ACK_DELAY
        if peer.acks and peer.incoming:
            self._run(Transfer.note_blocks, peer.incoming)
            peer.connection.push(bytes(peer.acks))
            peer.acks.clear()
        self._flush(peer)

    # -- hashing, flushing, publishing

    def flush_part(self, transfer: Transfer) -> None:
        """Bring what was written to the disk, in the background, unless enough flushes run."""
        done = self._flushes.acquire(blocking=False)
        if done:
            try:
                with transfer.part() as part:
                    part.flush(transfer.verified_bytes)
            finally:
                self._flushes.release()
        if transfer.end_flush(done=done):
            self.assemble_file_from_blocks(transfer)

    def verify_blocks(self, transfer: Transfer) -> None:
        """Hash what has come, in file order; ask for what is damaged; judge when all is there."""
        while not self._way.pause(transfer.priority, transfer.held_until):
            transfer.held_until = time.monotonic() + config.LONGEST_HOLD
            stretch = transfer.hash_stretch()
            self._check_content(transfer)
            if stretch.missing:
                self._repair(transfer, stretch)
            if stretch.judged:
                self.assemble_file_from_blocks(transfer)
            if not stretch.more:
                return
            if self.work.pressed:
                break
        self._go_on_hashing(transfer)

    def _go_on_hashing(self, transfer: Transfer) -> None:
        """Have hashing go on when it need not give way any more (any)."""
        pause = self._way.pause(transfer.priority, transfer.held_until)
        if pause:
            self._later(time.monotonic() + pause, partial(self._go_on_hashing, transfer))
        else:
            self.start(self.verify_blocks, transfer)

    def _check_content(self, transfer: Transfer) -> None:
        """Once its first block is verified, see that a file is what its extension says."""
        if not transfer.session.rights.allow_ext or not transfer.content_due():
            return
        view = memoryview(bytearray(min(LONGEST_BEGINNING, transfer.blocks.size)))
        with transfer.part() as part:
            part.read(view, 0)
        if not looks_like(transfer.name, bytes(view)):
            transfer.spoil()
            reason = "the content is not what the extension says"
            self._finish(transfer, Rejected("content", reason))
            raise TransferEndedError

    def _repair(self, transfer: Transfer, stretch: Stretch) -> None:
        block = stretch.missing[0][0]
        if transfer.hopeless:
            self._fail(transfer, f"block {block} arrives damaged every time")
            return
        block_log.warning("%s: block %d (offset %d) is %s: asking for it again", transfer.name,
                          block, transfer.blocks.offset(block), stretch.why)  # fmt: skip
        self._ask_for(transfer, stretch.missing, stretch.why)

    def _ask_for(self, transfer: Transfer, missing: Spans, why: str) -> None:
        self._post(transfer.session.coordinator, Missing(transfer.number, missing, why))

    def assemble_file_from_blocks(self, transfer: Transfer) -> None:
        """Compare the digests, publish the file, and only then say so."""
        if transfer.claimed_digest != transfer.digest:
            self._fail(transfer, "the digest of the file is not the one the client computed")
            return
        if not transfer.begin_last_flush():
            return  # flush_part calls us again
        with transfer.part() as part:
            transfer.last_flush(part)
            with transfer.publishing():
                name = part.publish()
            transfer.session.unconfirmed = transfer  # before the client can confirm it
            self._conclude(transfer, transfer.receipt(name))
        if transfer.session.closed:  # while we published
            self._settle(transfer.session, confirmed=False)
        facts = f"{format_size(transfer.blocks.size)}, {transfer.facts.digest} {transfer.digest}"
        log.info("saved %s (%s)", name, facts, extra=SUCCESS)


def _unnamed(peer: Peer) -> str:
    """Return what failures of a token count for: its address, and no user's account (any)."""
    return f"token from {peer.address}"


def _transfer_of(peer: Peer, number: int | None = None) -> Transfer | None:
    """Return what the peer's session sends right now, if it is (that) one (any)."""
    transfer = peer.session.transfer if peer.session else None
    return transfer if transfer and number in (None, transfer.number) else None


def _rejection(error: RejectedError | OSError) -> Rejected:
    """Say why a file is not taken; what the disk says without the server's paths (any)."""
    if isinstance(error, RejectedError):
        return Rejected(error.code, str(error))
    if error.errno in (*NO_SPACE, errno.EFBIG):
        return Rejected("space", "not enough space on the server")
    return Rejected("disk", f"the server cannot write: {error.strerror or 'unknown error'}")
