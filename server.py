"""The server: takes files in, proves that they arrived, and answers with a verdict.

What lives here: part files with their journals, the transfer, the session, the pool of workers with
its priority queue, and the main loop. What does not: the encoding of anything (``protocol.py``),
passwords (``auth.py``), and any path made from a string that a client sent.

Who does what
-------------
The main thread owns the listener, the selector and every idle connection. A connection on which
something has come goes into the work queue; the worker that takes it owns it until it gives it
back. A unit of work is short: some messages, some blocks, a stretch of hashing, one flush. A worker
never waits for a peer while somebody else is ready, and no unit waits for another. Each docstring
says on which thread a function runs: *main*, *a worker*, or *any*.

Higher priority goes first in three places: into the registry (lower ones take no room from it), in
the work queue (it is taken out first), and block by block (``RightOfWay``: while it brings bytes,
connections of lower priority rest with the main thread, unread, so that TCP quiets their clients).
Waiting raises urgency in each, so nobody starves.

Locks, in this order: ``Registry`` (sessions; which transfers receive, which wait), ``Transfer``
(one for each), ``BufferPool``. ``WorkQueue`` and ``PartStore`` have one of their own, taken alone.
Nothing is received, sent, written, hashed or logged while one is held.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until it serves, Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import heapq
import itertools
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

import config
from config import ServerSettings
from lft.accounts.account import Credentials, demo_credentials, parse_extensions
from lft.accounts.file import CredentialStore
from lft.addresses import is_loopback, network_of
from lft.files import keep_own_rights
from lft.options import (
    add_log_level,
    argument,
    checked,
    parse_size,
    port_argument,
    rate_argument,
    seconds_argument,
)
from lft.server.service import TOO_SLOW, Service
from lft.server.sessions import Peer
from lft.server.work_queue import Unit
from lft.store.ownership import OutputDirectory
from lft.terminal import make_output_safe, printable, say, setup_logging
from lft.wire.connection import Connection
from lft.wire.sockets import Waker, listen
from lft.wire.tls import Tls
from protocol import (
    MAX_FILE_SIZE,
    ConnectionLostError,
    Message,
    Queued,
    Side,
    TransferError,
    UsageError,
    Verifying,
)

log = logging.getLogger("server")


class Server:
    """The main thread: listener, selector, idle connections, clocks, shutdown.

    Everything runs on main but ``stop``, ``_post`` and ``_call`` (any) and ``_serve`` (a worker).
    """

    def __init__(self, settings: ServerSettings, credentials: Credentials) -> None:
        """Take the output directory and the port. Raises ``UsageError`` if that cannot be."""
        self._settings = settings
        self._tls = Tls.load(settings)
        self._output = OutputDirectory(settings.output)
        try:
            self._listener = listen(settings.host, settings.port)
        except UsageError:
            self._output.release()
            raise
        self._service = Service(settings, credentials, self._post, self._later)
        self._service.parts.scan()
        self._selector = selectors.DefaultSelector()
        self._peers: set[Peer] = set()
        self._neighbours: Counter[str] = Counter()  # connections of each network
        self._strangers: dict[Peer, None] = {}  # have not logged in, the oldest first
        self._waker = Waker()
        self._calls: deque[Callable[[], None]] = deque()
        self._rung = False
        self._paused: list[tuple[float, int, Unit]] = []  # a heap; until when, and what then
        self._pauses = itertools.count()
        self._stops = 0
        self._reload = False
        self._grace_ends = self._confirm_by = float("inf")
        self._next_tick = self._next_report = self._next_expiry = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Host as it was asked for, and the port in use."""
        return self._settings.host, self._listener.getsockname()[1]

    def stop(self) -> None:
        """Ask the loop to end (any, also a signal handler); the second time at once."""
        self._stops += 1
        self._waker.ring()

    def reload(self) -> None:
        """Ask the loop to read the certificate again (any, also a signal handler)."""
        self._reload = True
        self._waker.ring()

    def _read_certificate(self) -> None:
        """Take a renewed certificate for new connections; a bad one changes nothing."""
        self._reload = False
        try:
            self._tls = Tls.load(self._settings)
        except UsageError as error:
            log.error("the old certificate stays in use: %s", error)
        else:
            log.info("the certificate has been read again")

    def run(self) -> None:
        """Serve until ``stop``; then let running transfers end within the grace period."""
        self._selector.register(self._waker, selectors.EVENT_READ, self._on_ring)
        self._watch_listener()
        try:
            while not self._done():
                for key, _ in self._selector.select(self._timeout()):
                    self._safely(key.data)
                self._safely(self._end_pauses)
                self._safely(self._tick)
        finally:
            self._close()

    @staticmethod
    def _safely(function: Callable[[], None]) -> None:
        """Do one thing; a bug in it must not end the server for everybody."""
        try:
            function()
        except Exception:
            log.exception("internal error on the main thread")

    def _timeout(self) -> float:
        first = self._paused[0][0] if self._paused else self._next_tick
        return max(0.0, min(first, self._next_tick) - time.monotonic())

    def _done(self) -> bool:
        """Whether to leave the loop; begins the grace period when it is time."""
        if not self._stops:
            return False
        if not self._service.stopping:
            self._begin_stop()
        return self._quiet() or self._stops > 1 or time.monotonic() >= self._grace_ends

    def _quiet(self) -> bool:
        """Whether no transfer runs and every verdict has been sent."""
        if self._service.registry.active() or self._calls:
            return False
        if self._service.parts.in_use and time.monotonic() < self._confirm_by:
            return False  # a client that lives confirms its verdict in no time
        at_rest = (peer.idle or peer.resting for peer in self._peers)
        return all(at_rest) and not any(peer.connection.unsent for peer in self._peers)

    def _begin_stop(self) -> None:
        self._service.stopping = True
        self._grace_ends = time.monotonic() + self._settings.grace
        self._confirm_by = time.monotonic() + config.CLOSING_TIMEOUT
        self._unwatch_listener()
        for transfer in self._service.registry.waiting():
            self._service.start(self._service.turn_away, transfer)
        active = len(self._service.registry.active())
        if active:
            log.info("stopping: %d transfers have %g s to end", active, self._settings.grace)

    # -- calls from workers

    def _call(self, function: Callable[[], None]) -> None:
        """Have ``function`` run on main soon (any)."""
        self._calls.append(function)
        if not self._rung:  # cleared before the calls are taken: no call is overlooked
            self._rung = True
            self._waker.ring()

    def _on_ring(self) -> None:
        self._waker.quiet()
        self._rung = False
        if self._reload:
            self._read_certificate()
        self._run_calls()

    def _run_calls(self) -> None:
        while self._calls:
            self._safely(self._calls.popleft())

    def _post(self, peer: Peer, message: Message) -> None:
        """Have ``message`` sent by whoever owns ``peer`` (any)."""
        peer.mailbox.append(message)
        self._call(partial(self._nudge, peer))

    def _nudge(self, peer: Peer) -> None:
        if peer.idle:
            self._hand_over(peer)

    # -- connections

    def _watch_listener(self) -> None:
        if self._stops == 0:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _unwatch_listener(self) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._listener)

    def _accept(self) -> None:
        """Take new connections, not too many at a time."""
        for _ in range(64):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:  # out of descriptors: leave them in the backlog for a while
                log.error("cannot accept connections: %s", error.strerror)
                self._unwatch_listener()
                return
            self._welcome(sock, str(address[0]))

    def _welcome(self, sock: socket.socket, address: str = "") -> None:
        if not self._room_for(address):
            sock.close()
            return
        tls = self._tls
        try:
            connection = Connection(sock, Side.SERVER, tls.context if tls else None)
        except OSError:  # it has gone already
            sock.close()
            return
        peer = Peer(connection, self._settings.login_timeout)
        peer.binding = tls.binding if tls else None
        self._peers.add(peer)
        self._strangers[peer] = None
        self._neighbours[peer.network] += 1
        self._watch(peer)

    def _room_for(self, address: str) -> bool:
        """Whether one more connection may come; those that have not logged in make way for it.

        A newcomer is more likely to be somebody who wants to send a file than the one that has said
        nothing for the longest time.
        """
        network = network_of(address)
        if self._neighbours[network] >= config.MAX_OF_ADDRESS:
            return self._make_room([peer for peer in self._unknown() if peer.network == network])
        if len(self._peers) >= config.MAX_CONNECTIONS:
            return self._make_room(self._unknown())
        if len(self._strangers) < config.MAX_STRANGERS:
            return True
        strangers = self._unknown()
        own = [peer for peer in strangers if peer.network == network]
        crowd = own if 2 * len(own) > len(strangers) else strangers  # no address pushes all out
        return len(strangers) < config.MAX_STRANGERS or self._make_room(crowd)

    def _unknown(self) -> list[Peer]:
        """Return those that have not logged in, the oldest first."""
        return [p for p in self._strangers if not (p.session or p.leaving or p.gone)]

    def _make_room(self, strangers: list[Peer]) -> bool:
        if strangers:
            self._drop(strangers[0])
        return bool(strangers)

    def _watch(self, peer: Peer) -> None:
        """Own ``peer`` until something comes."""
        events = selectors.EVENT_READ
        if peer.connection.unsent:
            events |= selectors.EVENT_WRITE
        self._selector.register(peer.connection, events, partial(self._on_ready, peer))
        peer.idle = True

    def _unwatch(self, peer: Peer) -> None:
        if peer.idle:
            self._selector.unregister(peer.connection)
            peer.idle = False

    def _on_ready(self, peer: Peer) -> None:
        if not peer.idle:
            return  # an earlier event of the same round has handed it over, or closed it
        if not peer.leaving:
            self._hand_over(peer)
        elif peer.connection.discard():
            self._forget(peer)
        elif peer.connection.unsent:
            self._unwatch(peer)
            self._say_rest(peer)

    def _hand_over(self, peer: Peer) -> None:
        """Give ``peer`` to a worker."""
        self._unwatch(peer)
        peer.resting = peer.hurried = False
        self._service.work.put(partial(self._serve, peer), peer.priority)

    def _serve(self, peer: Peer) -> None:
        """Serve ``peer`` and give it back to main (a worker)."""
        try:
            self._service.serve(peer)
        finally:
            self._call(partial(self._take_back, peer))

    def _take_back(self, peer: Peer) -> None:
        if peer.session:
            self._strangers.pop(peer, None)
        if peer.gone:
            self._forget(peer)
        elif peer.leaving:
            self._see_off(peer)
        elif peer.paused_until > time.monotonic():
            peer.resting = True
            self._rest(peer.paused_until, partial(self._go_on, peer))
        elif peer.hurried or peer.mailbox or peer.connection.pending:
            self._hand_over(peer)
        else:
            self._watch(peer)

    def _see_off(self, peer: Peer) -> None:
        """Let a peer read our last words before its connection closes.

        Closing while its bytes are unread would reset the connection and destroy those words.
        """
        self._end_session(peer)
        peer.deadline = time.monotonic() + config.CLOSING_TIMEOUT
        self._say_rest(peer)

    def _say_rest(self, peer: Peer) -> None:
        with contextlib.suppress(ConnectionLostError):  # the selector tells of that as well
            if peer.connection.flush():
                peer.connection.finish()
        self._watch(peer)

    def _forget(self, peer: Peer) -> None:
        """Close a connection and what depends on it."""
        peer.gone = True
        self._unwatch(peer)
        self._end_session(peer)
        if peer in self._peers:
            self._peers.remove(peer)
            self._strangers.pop(peer, None)
            self._neighbours[peer.network] -= 1
            if not self._neighbours[peer.network]:
                del self._neighbours[peer.network]
        peer.connection.close()

    def _end_session(self, peer: Peer) -> None:
        session, peer.session = peer.session, None
        if session is None:
            return
        if session.coordinator is not peer:
            self._service.registry.detach(session, peer)
            return
        session.closed = True
        self._service.work.put(partial(self._service.abandon, session), session.priority)
        for stream in self._service.registry.remove(session):
            self._drop(stream)

    def _drop(self, peer: Peer) -> None:
        """Close a connection that a worker may be busy with."""
        if peer.idle or peer.resting:
            self._forget(peer)
        else:
            peer.gone = True  # whatever its worker still finds
            peer.connection.cut()

    # -- clocks

    def _end_pauses(self) -> None:
        """Let those go on whose pause is over."""
        while self._paused and self._paused[0][0] <= time.monotonic():
            self._safely(heapq.heappop(self._paused)[2])

    def _rest(self, until: float, unit: Unit) -> None:
        """Do ``unit`` at that instant, not before."""
        heapq.heappush(self._paused, (until, next(self._pauses), unit))

    def _later(self, until: float, unit: Unit) -> None:
        """Have ``unit`` done on main at that instant (any)."""
        self._call(partial(self._rest, until, unit))

    def _go_on(self, peer: Peer) -> None:
        """End the pause of ``peer``, unless it has to give way: that needs no worker to see."""
        if peer.gone:  # closed while it rested
            return
        if self._service.gives_way(peer):
            self._rest(peer.paused_until, partial(self._go_on, peer))
        else:
            self._hand_over(peer)

    def _tick(self) -> None:
        """Look at every deadline, twice a second."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + config.TICK
        self._run_calls()  # should ever a ring be lost
        for peer in list(self._peers):
            if peer.idle and now >= peer.deadline:  # one that ended another's session closed it
                self._time_out(peer)
            elif peer.idle and peer.proof and not peer.leaving and now >= peer.proof_due:
                self._hand_over(peer)
        for transfer in self._service.registry.active():
            if transfer.stalled_for() > self._settings.stall_timeout:
                self._service.start(self._service.expire, transfer)
        self._service.look_again()
        self._report(now)
        if now >= self._next_expiry:
            self._next_expiry = now + config.EXPIRE_EVERY
            self._service.work.put(self._service.parts.expire, priority=0)
        if not (self._service.stopping or self._listener in self._selector.get_map()):
            self._watch_listener()

    def _time_out(self, peer: Peer) -> None:
        if peer.leaving:
            self._forget(peer)
            return
        log.info("%s: closed after too long a silence", peer.connection.peer)
        peer.refuse("timeout", TOO_SLOW)
        self._unwatch(peer)
        self._see_off(peer)

    def _report(self, now: float) -> None:
        """Tell clients that wait how far they are; it also shows them that we live."""
        if now < self._next_report:
            return
        self._next_report = now + config.REPORT_EVERY
        for transfer in self._service.registry.active():
            begun = transfer.receiving  # else its part file is looked for, or made
            report = Verifying(transfer.verified_bytes) if begun else Queued(1)
            self._post(transfer.session.coordinator, report)
        for transfer, position in self._service.registry.positions():
            self._post(transfer.session.coordinator, Queued(position))

    # -- the end

    def _close(self) -> None:
        """Cut what still runs, wait for the workers, release everything."""
        self._service.stopping = True
        self._unwatch_listener()
        self._listener.close()
        for peer in self._peers:
            if peer.idle:
                peer.refuse("shutdown", "the server is shutting down")
                peer.connection.finish()
            else:
                peer.connection.cut()
        with self._watchdog():
            for transfer in self._service.registry.active() + self._service.registry.waiting():
                transfer.end()  # workers that are at it stop at the next block
            self._service.work.shutdown()
            self._service.parts.close()
        for peer in self._peers:
            peer.connection.close()
        self._peers.clear()
        self._selector.close()
        self._waker.close()
        self._output.release()

    @contextlib.contextmanager
    def _watchdog(self) -> Iterator[None]:
        """End the process if a worker hangs, in a dead disk for example: nothing can end that."""
        patience = config.EXIT_TIMEOUT if self._stops < 2 else config.CLOSING_TIMEOUT
        watchdog = threading.Timer(patience, _give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            watchdog.join()


def _give_up() -> None:
    """Leave without the workers (the watchdog's thread)."""
    log.error("a worker hangs, probably in the disk: ending without it; transfers can go on later")
    logging.shutdown()
    os._exit(0)


# --- the command line ---------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    workers = argument(int, 1, 256, "a number of workers from 1 to 256")
    size = argument(parse_size, 1, MAX_FILE_SIZE, "a size such as 200K, 1.5M, 2G")
    extensions = checked(parse_extensions)
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Receive files and prove that they arrived."
    )
    add = parser.add_argument
    # fmt: off
    add("--host", default=config.DEFAULT_HOST, help="address to listen on (localhost)")
    add("--port", type=port_argument(), default=config.DEFAULT_PORT,
        help="port to listen on (4455); 0 takes a free one")
    add("--output", type=Path, default=Path("output"), metavar="DIR",
        help="where files go (output/)")
    add("--workers", type=workers, default=config.WORKERS, metavar="N",
        help="threads that do the work (10)")
    add("--credentials", type=Path, metavar="FILE",
        help="users, made with auth.py; without it there are demo accounts, on loopback only")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate (and chain) for TLS, PEM; "
        "read again on SIGHUP")
    add("--tls-key", type=Path, metavar="FILE", help="its key")
    add("--max-file-size", type=size, metavar="SIZE", help="take no larger files (no limit)")
    add("--allow-ext", type=extensions, default=(), metavar=".a,.b",
        help="take only files with such names, whose content is what they say (all)")
    add("--limit", type=rate_argument(config.LEAST_LIMIT), metavar="RATE",
        help="bytes a second, of all clients together, such as 10M (no limit)")
    add("--grace", type=seconds_argument(0), default=config.GRACE, metavar="SECONDS",
        help="how long running transfers may go on at shutdown (10)")
    # fmt: on
    add_log_level(parser)
    return parser


def _credentials(settings: ServerSettings) -> Credentials:
    """Load the accounts; the demo ones only where nobody else can reach them."""
    if settings.credentials is not None:
        return CredentialStore(settings.credentials, lambda text: log.warning("%s", text))
    if not is_loopback(settings.host):
        raise UsageError(
            f"the demo accounts work on loopback only, not on {printable(settings.host)}: "
            "make accounts with auth.py add and start with --credentials"
        )
    return demo_credentials()


def _serve(settings: ServerSettings) -> None:
    server = Server(settings, _credentials(settings))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    # without a certificate to read again, it says what it always did: the terminal has gone
    on_hangup = server.reload if settings.tls_cert else server.stop
    signal.signal(signal.SIGHUP, lambda *_: on_hangup())
    host, port = server.address
    try:
        say(f"Listening on {host}:{port}")
    except OSError as error:
        raise UsageError(f"cannot write to standard output: {error.strerror}") from error
    try:
        server.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the end is near enough
    log.info("stopped")


def main(argv: list[str] | None = None) -> int:
    """Run ``python server.py``; return its exit code."""
    make_output_safe()
    keep_own_rights()
    arguments = vars(_parser().parse_args(argv))
    setup_logging(arguments.pop("log_level"))
    try:
        _serve(ServerSettings(**arguments))
    except (TransferError, OSError) as error:  # OSError: no descriptors left, say
        log.error("%s", error)
        return UsageError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
