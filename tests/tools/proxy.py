"""A bad network: a TCP relay between client and server whose faults a test sets while it runs.

One thread does everything with non-blocking sockets; a test's thread says what shall go wrong (a
``Plan``, or an action such as ``reset``) and waits for what has happened (``forwarded``). All state
is protected by one condition, which the proxy's thread holds while it works and not while it waits.
Only the proxy's thread touches a socket: it does an action that a test's thread then waits for.

What lives here: faults of the network. What does not: the protocol, except for the first bytes of a
connection, from which the proxy learns whether it is a coordinator or a data connection, and where
the greeting (HELLO, then ATTACH or AUTH_START, and their answers) ends. Offsets are counted from
there: offset 0 of a data connection is the first byte of its first block, or of its first ack. On a
connection that does not begin with a greeting it is the first byte of all.

The buffers on the way are small, so that what was forwarded has also nearly arrived. For the same
reason a delayed direction moves at most ``QUEUE`` bytes in the time of its delay.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import re
import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Callable, Collection, Iterator, Union

import pytest

from lft.wire.sockets import Waker
from tests.support.waiting import PATIENCE

BUFFER = 128 * 1024  # bytes asked for of the system on each socket; Linux doubles them


PIECE = 64 * 1024  # bytes of one receive call


QUEUE = 256 * 1024  # bytes of one direction the proxy holds itself before it stops to read


SLICE = 0.01  # seconds of a limited rate that are sent at once


LAG = 0.02  # seconds a limited rate may catch up on, because timers are late


NEVER = math.inf


class Way(enum.Enum):
    """The two directions of a connection."""

    UP = "client to server"
    DOWN = "server to client"


class Kind(enum.Enum):
    """What a connection is for, by the verb behind HELLO."""

    COORDINATOR = b"AUTH_START"
    DATA = b"ATTACH"


class What(enum.Enum):
    """What a ``Fault`` does."""

    RESET = "both sides get RST"
    FINISH = "the receiver gets FIN, the sender is not read any more"
    FLIP = "one bit arrives wrong"
    BLACK_HOLE = "both sides stay open, nothing comes through any more"
    HALF_OPEN = "the client gets RST, the server's side stays open and silent"


@dataclass(frozen=True, eq=False)
class Fault:
    """One thing that goes wrong when a direction has got somewhere.

    ``at``: how many bytes behind the greeting come through before it does; for a flip the offset of
    the wrong byte. ``word``: it happens when these bytes come, instead; they do not come through.
    ``times``: on how many connections it happens; ``None`` is on all. ``every``: a flip happens
    again after so many bytes, without end.
    """

    what: What
    way: Way = Way.UP
    at: int = 0
    word: bytes = b""
    every: int = 0
    times: int | None = 1


@dataclass(frozen=True)
class Line:
    """How slow one direction is: ``delay`` in seconds, ``rate`` in bytes a second."""

    delay: float = 0.0
    rate: float = NEVER


@dataclass(frozen=True)
class Plan:
    """What a connection has to endure.

    ``black_hole``: both sockets stay open, nothing comes through, nobody is read. ``deaf``: the
    client's socket is never read, so that its window closes.
    """

    up: Line = Line()
    down: Line = Line()
    black_hole: bool = False
    deaf: bool = False
    faults: tuple[Fault, ...] = ()


Which = Union[int, Kind, None]  # a connection by its number, all of a kind, or all


_FRAME = re.compile(rb"\0[\0\1]..([A-Z_]+)@", re.DOTALL)  # its first bytes; at most 64 KB long


class _Greeting:
    """Looks at the first bytes of one direction, just enough to know where the greeting ends."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self.length: int | None = None  # bytes; None: not known yet
        self.verb = b""  # of the second frame

    def feed(self, data: bytes) -> None:
        """Take what came, until everything is known."""
        if self.length is None:
            self._seen += data
            self._look()

    def _look(self) -> None:
        """Find two whole frames. What cannot be the start of a frame is no greeting at all."""
        start = 0
        for _ in range(2):
            frame = bytes(self._seen[start:])
            found = _FRAME.match(frame)
            if not found:
                if not _may_become_frame(frame):
                    self.length = 0
                return
            self.verb = found[1]
            start += 4 + int.from_bytes(frame[:4], "big")
        if len(self._seen) >= start:
            self.length = start


def _may_become_frame(start: bytes) -> bool:
    return re.fullmatch(rb"|\0|\0[\0\1].{0,2}[A-Z_]{0,20}", start, re.DOTALL) is not None


class _Flow:
    """One direction of one connection (the proxy's thread, which holds the condition)."""

    def __init__(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        self.way = way
        self.source = source
        self.target = target
        self.received = 0  # bytes
        self.forwarded = 0  # bytes
        self.greeting = _Greeting()
        self.ending: What | None = None  # comes when the queue has been sent
        self.ended = False  # the ending has come
        self.blocked = False  # the target takes no more for now
        self._queue: deque[tuple[float, memoryview]] = deque()  # what is due when
        self._queued = 0
        self._last = b""  # of what was received; a word may begin there
        self._next_slice = 0.0  # when a limited rate allows more

    @property
    def reads(self) -> bool:
        """Whether there is room for more from the source."""
        return self.ending is None and self._queued < QUEUE

    def take(self, data: bytes, due: float, faults: list[Fault]) -> dict[Fault, int]:
        """Queue what the source sent, spoiled by ``faults``; return how often each happened."""
        start = self.received
        self.received += len(data)
        happened = {}
        if self.greeting.length is not None:
            offset = start - self.greeting.length
            spoiled = bytearray(data)
            happened = {fault: self._spoil(fault, spoiled, offset) for fault in faults}
            self._last = (self._last + data)[-64:]
            data = bytes(spoiled)
        self._queue.append((due, memoryview(data)))
        self._queued += len(data)
        return happened

    def _spoil(self, fault: Fault, data: bytearray, start: int) -> int:
        """Do ``fault`` to ``data``, which begins at offset ``start``; say how often it happened."""
        if fault.what is What.FLIP:
            return self._flip(fault, data, start)
        end = self._find(fault.word, data) if fault.word else max(0, fault.at - start)
        if not 0 <= end <= len(data) or self.ending:
            return 0
        del data[end:]
        self.ending = fault.what
        return 1

    @staticmethod
    def _flip(fault: Fault, data: bytearray, start: int) -> int:
        first = fault.at - start
        if first < 0:
            first = first % fault.every if fault.every else len(data)
        places = range(first, len(data), fault.every or PIECE)
        for place in places:
            data[place] ^= 1
        return len(places)

    def _find(self, word: bytes, data: bytearray) -> int:
        """Return where ``word`` begins in ``data``; 0 if it began before, -1 if it is not there."""
        before = self._last[-(len(word) - 1) :] if len(word) > 1 else b""
        place = (before + data).find(word)
        return place if place < 0 else max(0, place - len(before))

    def forward(self, now: float, rate: float) -> float:
        """Send what is due; return when there will be more to do."""
        while self._queue and not self.blocked:
            due = max(self._queue[0][0], self._next_slice if rate < NEVER else 0.0)
            if due > now:
                return due
            self._send(now, rate)
        return NEVER

    def _send(self, now: float, rate: float) -> None:
        due, data = self._queue.popleft()
        piece = data if rate == NEVER else data[: max(1, int(rate * SLICE))]
        try:
            size = self.target.send(piece)
        except BlockingIOError:
            size, self.blocked = 0, True
        if size < len(data):
            self._queue.appendleft((due, data[size:]))
        self._queued -= size
        self.forwarded += size
        self._next_slice = max(self._next_slice, now - LAG) + size / rate

    @property
    def at_its_end(self) -> bool:
        """Whether everything has been sent and now the ending comes."""
        return self.ending is not None and not self._queue and not self.ended


class _Connection:
    """One client's connection and the one made to the server for it."""

    def __init__(self, number: int, near: socket.socket, far: socket.socket) -> None:
        self.number = number
        self.near = near  # the client
        self.far = far  # the server
        self.up = _Flow(Way.UP, near, far)
        self.down = _Flow(Way.DOWN, far, near)
        self.relays = True  # until it has ended, one way or another
        self.silent = False  # in a black hole for ever

    @property
    def flows(self) -> tuple[_Flow, _Flow]:
        return self.up, self.down

    @property
    def kind(self) -> Kind | None:
        """What it is for, as far as that is known."""
        verb = self.up.greeting.verb
        return Kind(verb) if verb in [kind.value for kind in Kind] else None

    def is_one_of(self, which: Which) -> bool:
        return which is None or which in (self.number, self.kind)


class FaultProxy:
    """Relays connections to ``port`` on 127.0.0.1; use it as a context manager.

    Connections are numbered from 0 as they are accepted. Any thread may call the methods.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._changed = threading.Condition()
        self._connections: list[_Connection] = []
        self._plans: dict[Which, Plan] = {None: Plan()}
        self._happened: Counter[Fault] = Counter()
        self._outage_end = 0.0  # on the monotonic clock
        self._actions: deque[Callable[[], None]] = deque()  # not done yet
        self._stopping = False
        self._waker = Waker()
        self._reserved = _bound(0)  # keeps the port ours while nobody listens on it
        self.port: int = self._reserved.getsockname()[1]
        self._listener: socket.socket | None = _listening(self.port)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, reset what is still open."""
        with self._told():
            self._stopping = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        for connection in self._connections:
            self._end(connection)
        self._stop_listening()
        self._reserved.close()
        self._selector.close()
        self._waker.close()

    # --- what shall go wrong

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Change something, then let the proxy's thread look at it."""
        with self._changed:
            yield
            self._waker.ring()

    def _have_done(self, action: Callable[[], None]) -> None:
        """Let the proxy's thread do ``action``; return when it has."""
        with self._told():
            self._actions.append(action)
        self.wait(lambda: action not in self._actions, "the proxy's thread")

    def plan(self, plan: Plan, which: Which = None) -> None:
        """Set what connections have to endure from now on; the most exact plan counts.

        That is the one of its number, else of its kind, else the one for all.
        """
        with self._told():
            self._plans[which] = plan

    def freeze(self) -> list[int]:
        """Make a black hole of every connection there is, not of new ones; return the numbers."""
        with self._told():
            numbers = [one.number for one in self._connections if one.relays]
            self._plans.update((number, Plan(black_hole=True)) for number in numbers)
            return numbers

    def reset(self, which: Which = None) -> None:
        """Send RST to both sides, now."""
        self._have_done(lambda: self._end_all(which, half=False))

    def half_open(self, which: Which = None) -> None:
        """Send RST to the client only; the server's side stays open, and silent for ever."""
        self._have_done(lambda: self._end_all(which, half=True))

    def outage(self, seconds: float = NEVER) -> None:
        """Make a black hole of everything, and leave new connections unanswered, for a while."""
        with self._told():
            self._outage_end = time.monotonic() + seconds

    def go_on(self) -> None:
        """End an outage."""
        with self._told():
            self._outage_end = 0.0

    def refuse(self) -> None:
        """Refuse new connections, until ``accept``."""
        self._have_done(self._stop_listening)

    def accept(self) -> None:
        """Take new connections again."""
        self._have_done(self._start_listening)

    # --- what has happened

    @property
    def in_outage(self) -> bool:
        """Whether there is an outage now."""
        return time.monotonic() < self._outage_end

    def count(self, way: Way | None = None, which: Which = None) -> int:
        """Return the bytes passed on, one way or both, on some connections or all."""
        with self._changed:
            return sum(
                flow.forwarded
                for connection in self._connections
                for flow in connection.flows
                if way in (None, flow.way) and connection.is_one_of(which)
            )

    def happened(self, fault: Fault) -> int:
        """Return how often ``fault`` has happened."""
        with self._changed:
            return self._happened[fault]

    def numbers(self, which: Which = None) -> list[int]:
        """Return the numbers of all connections of a kind there were so far."""
        with self._changed:
            return [one.number for one in self._connections if one.is_one_of(which)]

    def open_ones(self, which: Which = None) -> list[int]:
        """Return the numbers of the connections that have not ended."""
        with self._changed:
            return [one.number for one in self._connections if one.relays and one.is_one_of(which)]

    def forwarded(self, at_least: int, way: Way | None = Way.UP, which: Which = None) -> None:
        """Wait until so many bytes have been passed on."""
        self.wait(lambda: self.count(way, which) >= at_least, f"{at_least} bytes")

    def wait(self, condition: Callable[[], object], what: str = "the condition") -> None:
        """Wait until ``condition`` holds; fail the test if it never does."""
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE):
                pytest.fail(f"the proxy waited in vain for {what}")

    # --- the proxy's thread

    def _run(self) -> None:
        timeout: float | None = 0.0  # the first time round nothing is watched yet
        while not self._stopping:
            events = self._selector.select(timeout)
            with self._changed:
                for key, mask in events:
                    self._handle(key, mask)
                self._act()
                timeout = self._advance()
                self._watch()
                self._changed.notify_all()

    def _act(self) -> None:
        while self._actions:
            self._actions[0]()
            self._actions.popleft()

    def _handle(self, key: selectors.SelectorKey, mask: int) -> None:
        if key.fileobj is self._waker:
            self._waker.quiet()
        elif key.fileobj is self._listener:
            self._welcome(self._listener)
        elif isinstance(key.data, _Connection) and self._works(key.data):
            with self._broken_ends(key.data):
                self._serve(key.data, key.fileobj, mask)

    def _welcome(self, listener: socket.socket) -> None:
        try:
            near, _ = listener.accept()
        except OSError:
            return  # it was gone before we looked
        near.setblocking(False)
        far = socket.socket()
        far.setblocking(False)
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        connection = _Connection(len(self._connections), near, far)
        self._connections.append(connection)
        if far.connect_ex(self._server) not in (0, errno.EINPROGRESS):
            self._end(connection)

    @contextlib.contextmanager
    def _broken_ends(self, connection: _Connection) -> Iterator[None]:
        """A connection of which one side broke is reset on the other."""
        try:
            yield
        except OSError:
            self._end(connection)

    def _serve(self, connection: _Connection, sock: object, mask: int) -> None:
        for flow in connection.flows:
            if mask & selectors.EVENT_WRITE and flow.target is sock:
                flow.blocked = False
            if mask & selectors.EVENT_READ and flow.source is sock and flow.reads:
                self._receive(connection, flow)

    def _receive(self, connection: _Connection, flow: _Flow) -> None:
        try:
            data = flow.source.recv(PIECE)
        except BlockingIOError:
            return
        if not data:
            flow.ending = What.FINISH
            return
        flow.greeting.feed(data)  # before the plan: it may be one for this kind
        plan = self._plan_of(connection)
        due = time.monotonic() + _line(plan, flow.way).delay
        faults = [fault for fault in plan.faults if fault.way is flow.way and self._is_left(fault)]
        self._happened.update(flow.take(data, due, faults))

    def _is_left(self, fault: Fault) -> bool:
        always = fault.times is None or fault.every
        return bool(always or self._happened[fault] < (fault.times or 0))

    def _plan_of(self, connection: _Connection) -> Plan:
        for which in (connection.number, connection.kind):
            if which is not None and which in self._plans:
                return self._plans[which]
        return self._plans[None]

    def _works(self, connection: _Connection) -> bool:
        """Whether bytes come through, apart from an outage."""
        held = connection.silent or self._plan_of(connection).black_hole
        return connection.relays and not held

    def _advance(self) -> float | None:
        """Forward what is due; return the seconds until there is more to do."""
        now = time.monotonic()
        if self.in_outage:
            return None if self._outage_end == NEVER else self._outage_end - now
        next_at = NEVER
        for connection in self._connections:
            plan = self._plan_of(connection)
            if self._works(connection):
                with self._broken_ends(connection):
                    next_at = min(next_at, self._forward(connection, plan, now))
        return None if next_at == NEVER else max(0.0, next_at - now)

    def _forward(self, connection: _Connection, plan: Plan, now: float) -> float:
        next_at = min(flow.forward(now, _line(plan, flow.way).rate) for flow in connection.flows)
        for flow in connection.flows:
            if flow.at_its_end:
                self._conclude(connection, flow)
        return next_at

    def _conclude(self, connection: _Connection, flow: _Flow) -> None:
        """Do what ends a direction, when all before it has been passed on."""
        flow.ended = True
        if flow.ending is What.FINISH:
            flow.target.shutdown(socket.SHUT_WR)
            if all(one.ended for one in connection.flows):
                self._end(connection, politely=True)
        elif flow.ending is What.BLACK_HOLE:
            connection.silent = True
        else:
            self._end(connection, half=flow.ending is What.HALF_OPEN)

    def _end(self, connection: _Connection, *, half: bool = False, politely: bool = False) -> None:
        """Close both sides, or only the client's: with RST, unless ``politely``."""
        connection.relays = False
        for sock in (connection.near,) if half else (connection.near, connection.far):
            self._forget(sock)
            if not politely:
                _make_abrupt(sock)
            sock.close()
        if half:
            self._forget(connection.far)

    def _end_all(self, which: Which, *, half: bool) -> None:
        for connection in self._connections:
            if connection.relays and connection.is_one_of(which):
                self._end(connection, half=half)

    def _start_listening(self) -> None:
        self._listener = self._listener or _listening(self.port)

    def _stop_listening(self) -> None:
        if self._listener:
            self._forget(self._listener)
            self._listener.close()
            self._listener = None

    def _watch(self) -> None:
        """Tell the selector exactly what we are ready for now."""
        wanted = {} if self.in_outage else self._wanted()
        for sock, (events, connection) in wanted.items():
            key = self._selector.get_map().get(sock)
            if key is None:
                self._selector.register(sock, events, connection)
            elif key.events != events:
                self._selector.modify(sock, events, connection)
        self._forget_all_but(wanted)

    def _wanted(self) -> dict[socket.socket, tuple[int, _Connection | None]]:
        wanted: dict[socket.socket, tuple[int, _Connection | None]] = {}
        if self._listener:
            wanted[self._listener] = (selectors.EVENT_READ, None)
        for connection in self._connections:
            plan = self._plan_of(connection)
            if self._works(connection):
                for sock in (connection.near, connection.far):
                    deaf = plan.deaf and sock is connection.near
                    events = _events(connection, sock, deaf=deaf)
                    if events:
                        wanted[sock] = (events, connection)
        return wanted

    def _forget_all_but(self, wanted: Collection[object]) -> None:
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._waker and key.fileobj not in wanted:
                self._selector.unregister(key.fileobj)

    def _forget(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):  # not watched, or closed already
            self._selector.unregister(sock)


def _line(plan: Plan, way: Way) -> Line:
    return plan.up if way is Way.UP else plan.down


def _events(connection: _Connection, sock: socket.socket, *, deaf: bool) -> int:
    events = 0
    for flow in connection.flows:
        if flow.source is sock and flow.reads and not deaf:
            events |= selectors.EVENT_READ
        if flow.target is sock and flow.blocked:
            events |= selectors.EVENT_WRITE
    return events


def _bound(port: int) -> socket.socket:
    """Return a socket that has ``port`` and does not listen: connections to it are refused."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _listening(port: int) -> socket.socket:
    sock = _bound(port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)  # what it accepts has it, too
    sock.listen(128)
    sock.setblocking(False)
    return sock


def _make_abrupt(sock: socket.socket) -> None:
    """Let close send RST and not FIN."""
    with contextlib.suppress(OSError):  # closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reserve_port() -> socket.socket:
    """Keep a port free for a server that is started and restarted on it; close it at the end."""
    return _bound(0)
