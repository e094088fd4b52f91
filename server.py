"""The server: takes files in, proves that they arrived, and answers with a verdict.

This file tells the story: the main loop, the answers to a client's messages, the command line.
The work itself is done in the rooms of ``lft/server`` and ``lft/store``.

Threads
-------
The main thread owns the listeners and every connection that no worker serves. A connection on which
something has come goes into the work queue; the worker that takes it owns it until it gives it
back. A unit of work is short: some messages, some blocks, a stretch of hashing, one flush. A worker
never waits for a peer while another peer is ready, and no unit waits for another. Each docstring
says on which thread a function runs: *main*, *a worker*, or *any*.

Higher priority goes first in three places: in admission (lower ones take no place from it), in the
work queue (it is worth some waiting), and block by block (``RightOfWay``: while it brings bytes,
connections of lower priority rest with the main thread, unread, so that TCP quiets their clients).
Waiting raises urgency in each, so no client starves. At equal priority users take turns, and logins
have turns of their own (``Turns``).

Locks: each of ``Registry``, ``Admission``, ``Opener``, ``PartStore``, ``Leftovers``, ``Usage``,
``WorkQueue``, ``Slots``, ``LogLimit``, ``BufferPool``, ``Shares``, ``TokenBucket``,
``SharedLimit``, ``Limits``, ``LoginDelay``, ``Recorder`` and ``CredentialStore`` has one, each
transfer three (``Transfer``, ``Tally``, ``Lifetime``). None is taken while another is held, and
nothing is received, sent, written, hashed or logged under one.
"""

from __future__ import annotations

import gc
import os
import signal

if __name__ == "__main__":
    gc.disable()  # nothing that is made while Python imports is garbage: see the end
    # until it serves: as process 1 of a container it would ignore both
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))

import contextlib
import logging
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import config
from config import ServerSettings
from lft.accounts.account import AccountSource
from lft.accounts.scram import SCRAM_PLUS
from lft.addresses import place
from lft.files import keep_own_rights
from lft.options import plural
from lft.server.admission import Admission
from lft.server.announcements import Announcements
from lft.server.background_log import BackgroundLog
from lft.server.clearing import Clearing
from lft.server.commandline import parse
from lft.server.connections import Connections
from lft.server.descriptors import places, raise_limit
from lft.server.disk_probe import DiskProbe
from lft.server.entrance import Entrance
from lft.server.event_loop import EventLoop
from lft.server.guests import Guest, Next
from lft.server.ledger import Ledger
from lft.server.lifecycle import Lifecycle
from lft.server.limits import Limits
from lft.server.log_file import FATAL
from lft.server.login import Login
from lft.server.opened import (
    accounts_of,
    load_tls,
    open_listeners,
    open_store,
    open_web_listeners,
)
from lft.server.receiving import Receiving
from lft.server.right_of_way import RightOfWay
from lft.server.sessions import Peer, Registry
from lft.server.signals import heed_signals, ignore_signals
from lft.server.transfer import Transfer
from lft.server.unsized import UnsizedTransfer
from lft.server.verification import Verification
from lft.server.watchdog import Watchdog
from lft.server.work_queue import WorkQueue
from lft.store.ownership import OutputDirectory
from lft.terminal import make_output_safe, say, setup_logging
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.service_manager import ServiceManager
from protocol import (
    AHEAD,
    BEFORE_1970,
    PACKED,
    PRESERVE,
    SKIP,
    TREES,
    UNSIZED,
    VERSION,
    WAITING,
    Attach,
    AuthenticationError,
    AuthResponse,
    AuthStart,
    Cancel,
    ConnectionLostError,
    FileStart,
    Goodbye,
    Heard,
    Hello,
    ManifestPart,
    Message,
    Pong,
    Queued,
    RemoteProtocolError,
    Side,
    TransferComplete,
    TransferError,
    UsageError,
    Verifying,
    numbered,
)

if TYPE_CHECKING:
    from lft.wire.tls import Tls

log = logging.getLogger("server")

MESSAGES_PER_UNIT = 16  # of one coordinator before other peers get their turn

# --- the answers to a client's messages ---------------------------------------------------------


class Answers:
    """Does one unit of work for a connection: reads and answers what its client says.

    All methods run on workers. They never wait for a peer.
    """

    def __init__(
        self,
        settings: ServerSettings,
        login: Login,
        lifecycle: Lifecycle,
        receiving: Receiving,
        verification: Verification,
    ) -> None:
        self._settings = settings
        self._login = login
        self._lifecycle = lifecycle
        self._receiving = receiving
        self._verification = verification
        self._announcements = Announcements(lifecycle)
        self._answers: dict[type[Message], Callable[[Peer, Any], None]] = {
            Hello: self._on_hello,
            AuthStart: self._login.start,
            AuthResponse: self._login.respond,
            Attach: self._on_attach,
            FileStart: self._on_file_start,
            TransferComplete: self._on_transfer_complete,
            Cancel: self._on_cancel,
            Heard: self._on_heard,
            Pong: self._on_pong,
            ManifestPart: self._on_manifest,
            Goodbye: self._on_goodbye,
        }

    def serve(self, peer: Peer) -> Next:
        """Do one unit of work for ``peer``, whatever it sends; never raises."""
        receive = self._receiving.handle_block_transfer
        try:
            return receive(peer) if peer.blocks else self.handle_file_coordinator(peer)
        except ConnectionLostError as error:
            log.debug("%s", error)
            return Next.LOST
        except RemoteProtocolError as error:
            late = error.code == "transfer" and peer.session  # of a transfer that was rejected, say
            log.log(logging.DEBUG if late else logging.WARNING, "%s: %s", peer.name, error)
            peer.refuse(error.code, str(error))
        except AuthenticationError as error:
            self._login.tell_refused(peer, error)
            peer.refuse("authentication", str(error))
        except Exception:
            log.exception("%s: internal error", peer.name)
            peer.refuse("internal", "internal error of the server")
        return Next.WAIT

    def handle_file_coordinator(self, peer: Peer) -> Next:
        """Send what other threads want said, then read and answer a few messages."""
        moved = self._send_mail(peer)
        self._login.judge_due(peer)
        count = self._answer_messages(peer)
        peer.flush()
        self._put_off_deadline(peer, moved=moved or count > 0)
        more = count == MESSAGES_PER_UNIT or (peer.blocks and peer.connection.mid_frame)
        return Next.AGAIN if more else Next.WAIT

    def _answer_messages(self, peer: Peer) -> int:
        """Read and answer messages, a few at most; return their number."""
        for count in range(MESSAGES_PER_UNIT):
            if peer.done or peer.blocks:
                return count
            message = peer.connection.receive()
            if message is None:
                return count
            if peer.session:
                peer.session.heard_at = time.monotonic()
            self._answers[type(message)](peer, message)
            if isinstance(message, ManifestPart):  # to judge a thousand entries takes 10 ms
                break
        return MESSAGES_PER_UNIT

    def _send_mail(self, peer: Peer) -> bool:
        """Send the mailbox; return whether there was something.

        What the dialogue no longer allows has been overtaken: a verdict or a CANCEL crossed it
        between two threads. So has the news of a transfer that is over.
        """
        sent = False
        while peer.mailbox:
            message = peer.mailbox.popleft()
            number = getattr(message, "transfer", None)  # FILE_READY and MISSING have one
            over = number is not None and not self._lifecycle.current(peer.session, number)
            if peer.connection.dialogue.allows(message) and not over:
                peer.connection.send(message)
                sent = True
        return sent

    def _put_off_deadline(self, peer: Peer, *, moved: bool) -> None:
        """Give more time to a peer that completed something, a last term to one that began."""
        if peer.session is None:
            return  # the whole login has one deadline, whatever trickles in
        if moved:
            idle = peer.connection.dialogue.idle
            timeout = self._settings.idle_timeout if idle else float("inf")
            listed = [listing.deadline for listing in peer.listings.values()]
            peer.deadline = min([time.monotonic() + timeout, *listed])
        if peer.mid_frame and peer.deadline == float("inf"):
            peer.deadline = time.monotonic() + self._settings.block_timeout

    def _on_hello(self, peer: Peer, message: Hello) -> None:
        if message.version != VERSION:
            reason = f"this server speaks version {VERSION}, the client {message.version}"
            raise RemoteProtocolError(reason, "version")
        peer.features = message.features
        bound = () if peer.binding is None else (SCRAM_PLUS,)
        features = *FEATURES, PRESERVE, UNSIZED, AHEAD, SKIP, TREES, PACKED, BEFORE_1970, *bound
        peer.connection.send(Hello(VERSION, features))

    def _on_attach(self, peer: Peer, message: Attach) -> None:
        self._receiving.attach(peer, message.token)

    def _on_file_start(self, peer: Peer, message: FileStart) -> None:
        assert peer.session is not None  # the dialogue sees to it
        if message.file is None:
            self._lifecycle.confirm(peer.session, None)
        self._login.check_account(peer.session)
        self._send(peer, self._announcements.start(peer, message))

    def _on_manifest(self, peer: Peer, message: ManifestPart) -> None:
        self._send(peer, self._announcements.add(peer, message))

    @staticmethod
    def _send(peer: Peer, answer: Message | None) -> None:
        if answer:
            peer.connection.send(answer)

    def _on_transfer_complete(self, peer: Peer, message: TransferComplete) -> None:
        transfer = self._lifecycle.current(peer.session, message.transfer)
        if transfer:  # otherwise it crossed our REJECTED or INTEGRITY_FAILED
            if isinstance(transfer, UnsizedTransfer):
                self._lifecycle.run(lambda _: transfer.end_at(message.size), transfer)
            self._verification.complete(transfer, message.digest, delivered=message.delivered)

    def _on_cancel(self, peer: Peer, message: Cancel) -> None:
        self._send(peer, self._announcements.cancel(peer, message))

    def _on_heard(self, peer: Peer, message: Heard) -> None:
        assert peer.session is not None  # the dialogue sees to it
        self._lifecycle.confirm(peer.session, message.files)

    def _on_pong(self, _peer: Peer, _message: Pong) -> None:
        """Do nothing: that something came is all it says, and that has been noted."""

    def _on_goodbye(self, peer: Peer, _message: Goodbye) -> None:
        if peer.session:  # verdicts on numbered files are confirmed by HEARD only
            self._lifecycle.confirm(peer.session, None)


# --- the main loop ------------------------------------------------------------------------------


class Server:
    """The main thread: the loop, the clocks, the shutdown.

    Everything runs on main, except ``stop``, ``reload`` and ``_tell`` (any).
    """

    def __init__(self, settings: ServerSettings, accounts: AccountSource) -> None:
        """Take the output directory and the port. Raises ``UsageError`` if that cannot be."""
        self._settings = settings
        tls = load_tls(settings)
        with contextlib.ExitStack() as undo:
            self.output = OutputDirectory(settings.output, shared=settings.shared)
            undo.callback(self.output.release)
            listeners = open_listeners(settings)
            web_listeners = open_web_listeners(settings)
            for listener in (*listeners, *web_listeners):
                undo.callback(listener.close)
            self.work = WorkQueue(settings.workers)
            undo.callback(self.work.shutdown)
            self._manager = ServiceManager()
            self._watchdog = Watchdog()
            undo.callback(self._watchdog.dismiss)
            port = listeners[0].getsockname()[1]
            own = f"{socket.gethostname()}-{port}" if settings.shared else ""
            self.ledger = Ledger(settings.output, settings.on_received, own)
            undo.callback(self.ledger.stop)
            self._start_threads()
            undo.pop_all()
        self._ports = [bound.getsockname()[1] for bound in (*listeners[:1], *web_listeners[:1])]
        self._loop = EventLoop()
        self.registry = Registry()
        self.admission = Admission(settings.max_active)
        self.parts = open_store(settings)
        self.login = Login(settings, accounts, self.registry)
        way = RightOfWay()
        self._open_rooms(tls, way)
        disk = DiskProbe(self._ask_disk, self.work)
        self.entrance = Entrance(settings.proxy_from, self._loop, self.connections, disk)
        self.entrance.add(listeners, self.greet)
        if web_listeners:
            self._open_web(web_listeners, accounts, way)
        self._stops = 0
        self._stop_began = float("inf")
        self._scan()

    def _start_threads(self) -> None:
        """Start all threads now: later the system may have none left. Raises ``UsageError``."""
        try:
            self.work.start()
            self._watchdog.start()
            self.ledger.start()
        except RuntimeError as error:
            raise UsageError(f"the system gives this server no threads: {error}") from None

    def _open_rooms(self, tls: Tls | None, way: RightOfWay) -> None:
        """Make the objects that need each other."""
        settings = self._settings
        self.connections = Connections(self._loop, self.work, way, self._end_session)
        self.connections.tls = tls
        self.connections.most = self.registry.places = places(raise_limit())
        self.lifecycle = Lifecycle(
            settings, self.output, self.admission, self.parts, self.work, self._tell,
            self.ledger,
        )  # fmt: skip
        self.verification = Verification(
            self.lifecycle, self.work, way, self._tell, self._loop.later
        )
        self.receiving = Receiving(
            settings, self.lifecycle, self.verification, self.registry,
            Limits(settings.limit, self.registry), self.work, way,
        )  # fmt: skip
        self.answers = Answers(
            settings, self.login, self.lifecycle, self.receiving, self.verification
        )

    def _open_web(
        self, listeners: list[socket.socket], accounts: AccountSource, way: RightOfWay
    ) -> None:
        """Serve browsers and other programs, which few servers are asked to do."""
        from lft.web.api import open_site  # noqa: PLC0415  (it loads http, json and more)
        from lft.web.site import House  # noqa: PLC0415

        house = House(
            self._settings, accounts, self.login, self.lifecycle, self.admission,
            self.connections, self.work, way, self._loop, self.output, self.parts,
            self.receiving, self.receiving.limits, self.verification, self.ledger,
            lambda: self.trouble,
        )  # fmt: skip
        self.entrance.add(listeners, open_site(house).greet, lasts=True)

    @property
    def trouble(self) -> str:
        """Why new clients had better go to another server; "" if they need not (any)."""
        return self.entrance.trouble

    @property
    def address(self) -> tuple[str, int]:
        """First host as it was asked for, and the port in use on all."""
        return self._settings.hosts[0], self._ports[0]

    @property
    def web_address(self) -> tuple[str, int] | None:
        """The same of the HTTP side, if there is one."""
        http = self._settings.http
        return (http[0], self._ports[1]) if http else None

    def stop(self) -> None:
        """Ask the loop to end (any, also a signal handler); the second time at once.

        The watchdog begins to count here: main itself may hang, in the disk for example.
        """
        self._stops += 1
        grace = self._settings.grace + config.EXIT_TIMEOUT
        self._watchdog.end_within(grace if self._stops < 2 else config.CLOSING_TIMEOUT)
        self._loop.wake()

    def reload(self) -> None:
        """Ask the loop to read the certificate again (any, also a signal handler)."""
        self._loop.call(self._read_certificate)

    def run(self) -> None:
        """Serve until ``stop``; then let running transfers end within the grace period."""
        self._loop.every(config.DISK_ASKED_EVERY, self.entrance.disk.begin)
        self._loop.every(config.TICK, self._tick)
        self._loop.every(config.TICK, Clearing(self.parts.waste, self.work).look)
        self._manager.tell("READY=1")
        self._loop.every(config.REPORT_EVERY, self._report)
        self._loop.every(config.EXPIRE_EVERY, self._expire)
        self._loop.every(config.CERTIFICATE_LOOK_EVERY, self._look_at_certificate)
        try:
            while not self._is_over():
                self._loop.turn()
        finally:
            self._close()

    def _scan(self) -> None:
        """Have workers look at what an earlier run left (any)."""
        if self.parts.scanned:
            return

        def scan_some() -> None:
            listed = self.parts.listed
            try:
                self.parts.scan_some()
            except OSError as error:  # no transfer begins before: it has to be tried again
                log.error("cannot look at unfinished files: %s", error.strerror)
                self._loop.later(time.monotonic() + config.SCAN_AGAIN, self._scan)
            else:
                if self.parts.listed != listed:  # transfers wait for that
                    self._loop.call(self.lifecycle.try_again)
                self._scan()

        self.work.put(scan_some, priority=0)

    def greet(self, sock: socket.socket, tls: Tls | None) -> Peer:
        """Make a peer of a new connection of the wire. Raises ``OSError`` if it has gone."""
        connection = Connection(sock, Side.SERVER, tls.context if tls else None)
        peer = Peer(connection, self._settings.login_timeout, self.answers.serve)
        peer.binding = tls.binding if tls else None
        return peer

    def _end_session(self, peer: Guest) -> list[Peer]:
        """End the session of a guest that leaves; return the data connections that end with it."""
        if not isinstance(peer, Peer):
            return []
        self.receiving.drop_half_block(peer)
        session, peer.session = peer.session, None
        if session is None:
            return []
        if session.coordinator is not peer:
            self.registry.detach(session, peer)
            return []
        session.closed = True
        self.work.put(lambda: self.lifecycle.abandon(session), session.priority, session.user)
        return self.registry.remove(session)

    # -- clocks

    def _tick(self) -> None:
        """Look at every deadline."""
        self._loop.run_calls()  # should a ring ever be lost
        self.connections.look_at_deadlines(time.monotonic())
        self.entrance.look(time.monotonic())
        for transfer in self.admission.stalled(self._settings.stall_timeout):
            self.lifecycle.start(self.lifecycle.expire, transfer)
        self.lifecycle.try_again()

    def _ask_disk(self) -> None:
        """Have the disk answer (a worker); while it is idle anyway, it is left alone."""
        self.output.ask(write=bool(self.admission.active()))

    def _expire(self) -> None:
        """Have a worker remove what no client has come back for."""
        if self.parts.scanned:
            self.work.put(self.parts.expire, priority=0)

    def _report(self) -> None:
        """Tell clients that wait how far they are; it also shows them that we live."""
        under_way = len(self.admission.active())
        self._manager.show(self.trouble or f"{plural(under_way, 'transfer')} under way")
        for transfer in self.admission.active():
            begun = transfer.life.receiving  # otherwise its part file is looked for, or made
            report = Verifying(transfer.verified_bytes) if begun else self._opening(transfer)
            self._tell(transfer, report)
        for transfer, position in self.admission.positions():
            self._tell(transfer, Queued(position))

    def _tell(self, transfer: Transfer, message: Message) -> None:
        """Have a message about ``transfer`` sent to its client (any)."""
        self.connections.post(transfer.session.coordinator, numbered(message, transfer.facts.file))

    def _opening(self, transfer: Transfer) -> Queued:
        """Say that a transfer is next, and why it has to wait, if its client understands that."""
        reason = self.lifecycle.waits_for(transfer)
        if reason and WAITING in transfer.session.coordinator.features:
            return Queued(1, reason=reason)
        return Queued(1)

    def _read_certificate(self) -> None:
        """Take a renewed certificate for new connections; a bad one changes nothing."""
        try:
            self.connections.tls = load_tls(self._settings)
        except UsageError as error:
            log.error("the old certificate stays in use: %s", error)
        else:
            log.info("the certificate has been read again")
            self._look_at_certificate()

    def _look_at_certificate(self) -> None:
        """Warn of a certificate that clients do not trust, or soon will not."""
        tls = self.connections.tls
        trouble = tls.validity.trouble(time.time()) if tls else ""
        if trouble:
            log.warning("TLS certificate %s: %s", self._settings.tls_cert, trouble)

    # -- the end

    def _is_over(self) -> bool:
        """Return whether to leave the loop."""
        if not self._stops:
            return False
        if not self.lifecycle.stopping:
            self._begin_stop()
        late = self._stops > 1 or time.monotonic() >= self._stop_began + self._settings.grace
        return late or self._is_quiet()

    def _begin_stop(self) -> None:
        """Begin the grace period."""
        self.lifecycle.stopping = True
        self._stop_began = time.monotonic()
        self.entrance.begin_stop()
        lasts = self._settings.grace + config.EXIT_TIMEOUT + config.LOG_PATIENCE
        self._manager.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(lasts * 1e6)}")
        for transfer in self.admission.waiting():
            self.lifecycle.start(self.lifecycle.turn_away, transfer)
        active = len(self.admission.active())
        if active:
            transfers, grace = plural(active, "transfer"), self._settings.grace
            log.info("stopping: %g s for %s to end", grace, transfers)

    def _is_quiet(self) -> bool:
        """Return whether no transfer runs and every verdict has been sent."""
        if self.admission.active() or self._loop.has_calls:
            return False
        if self.parts.in_use and time.monotonic() < self._stop_began + config.CLOSING_TIMEOUT:
            return False  # a client that lives confirms its verdict in no time
        return self.connections.at_rest

    def _close(self) -> None:
        """Cut what still runs, wait for the workers, release everything."""
        self.lifecycle.stopping = True
        self._watchdog.end_within(config.EXIT_TIMEOUT)
        self.entrance.close()
        self.connections.say_goodbye()
        for transfer in self.admission.active() + self.admission.waiting():
            self.lifecycle.cut(transfer)
        self.work.shutdown()
        self.lifecycle.close()
        self.ledger.stop()
        self._watchdog.dismiss()
        self.connections.close()
        self._loop.close()
        self.output.release()


# --- the command line ---------------------------------------------------------------------------


def _serve(settings: ServerSettings) -> None:
    server = Server(settings, accounts_of(settings))  # until then a signal ends it at once
    heed_signals(server.stop, server.reload if settings.tls_cert else None)
    _, port = server.address
    try:
        for host in settings.hosts:
            say(f"Listening on {place(host, port)}")
        if server.web_address:
            say(f"HTTP on {place(*server.web_address)}")
    except UsageError as error:  # a full disk must not keep it from serving
        log.warning("%s", error)
    if server.output.made:
        log.info("made the output directory %s", settings.output.resolve())
    try:
        server.run()
    finally:
        ignore_signals()
    log.info("stopped")


def _run(background: BackgroundLog, *, history: bool, json: bool, log_file: Path | None,
         **settings: Any) -> None:  # fmt: skip
    if history:
        from lft.server.history_table import show  # noqa: PLC0415  (no server needs it)

        show(settings["output"], as_json=json)
    else:
        background.start(log_file)
        _serve(ServerSettings(**settings))


def main(argv: list[str] | None = None) -> int:
    """Run ``python server.py``; return its exit code."""
    make_output_safe()
    keep_own_rights()
    arguments = vars(parse(argv))
    code, background = 0, BackgroundLog(setup_logging(arguments.pop("log_level")))
    try:
        _run(background, **arguments)
    except (TransferError, OSError, RuntimeError) as error:  # no descriptors or threads left, say
        log.error("%s", error, extra=FATAL)
        code = UsageError.exit_code
    if not background.stop():
        os._exit(code)  # its thread holds standard error, for which Python would wait for ever
    return code


if __name__ == "__main__":
    gc.freeze()  # neither now nor at the end does Python look through what it imported: 25 ms
    gc.enable()
    sys.exit(main())
