"""One round: sends the messages of its plan and hears the answers."""

from __future__ import annotations

import collections
import contextlib
import functools
import random
import re
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Iterable, Sequence

from config import KB
from lft.accounts.scram import ScramClient
from lft.wire.frames import Ack, FrameReader
from protocol import (
    AuthChallenge,
    AuthOk,
    ConnectionLostError,
    Error,
    FileReady,
    Message,
    ProtocolError,
    Queued,
    Rejected,
    Side,
    TransferError,
    Verifying,
)
from tests.tools.fuzzing.mutations import Channel, Mutator
from tests.tools.fuzzing.plans import Event, Plan
from tests.tools.fuzzing.target import Target
from tests.tools.fuzzing.words import HOST, MARK, PASSWORD, SETTLE, ViolationError, number_mark

HEAR = 0.2  # seconds to wait for an answer that may never come


@dataclass
class Actor:
    """One connection of ours and what the server has said on it."""

    session: int
    rng: random.Random
    sock: socket.socket | None = None
    tls: Channel | None = None
    frames: FrameReader = field(default_factory=FrameReader)
    login: ScramClient | None = None
    final: str = ""
    heard: int = 0  # answers since somebody listened last

    def close(self, *, reset: bool = False) -> None:
        """End the connection."""
        if self.sock is None:
            return
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.sock = None


ALERT = re.compile(rb"\x15\x03[\x00-\x04]\x00\x02..", re.DOTALL)  # in TLS, before there are keys


def pieces(data: bytes, cuts: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Return the bounds of what ``data`` is cut into."""
    bounds = [0, *cuts, len(data)]
    return zip(bounds, bounds[1:])


class Round:
    """Performs a plan. One thread; it waits for nothing but the server's answers."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self._plan, self._target = plan, target
        self._rng = random.Random(plan.seed)
        self._actors: dict[int, Actor] = {}
        self._tokens: dict[int, str] = {}
        self._numbers: dict[int, int] = {}
        self._waits: dict[int, float] = {}  # until when a group listens

    def perform(self) -> None:
        """Do everything. Raises ``ViolationError`` for what the server may never say."""
        left = {at: collections.deque(events) for at, events in enumerate(self._plan.groups)}
        try:
            while left:
                self._listen(0.0)
                ready = [at for at in left if self._goes_on(at, left[at][0])]
                if not ready:
                    self._listen(0.005)
                    continue
                at = self._rng.choice(ready)
                self._do(at, left[at].popleft())
                if not left[at]:
                    del left[at]
        finally:
            for actor in self._actors.values():
                actor.close(reset=self._rng.random() < 0.5)

    def _goes_on(self, at: int, event: Event) -> bool:
        """Whether a group need not wait (any longer) for an answer."""
        if event.kind != "hear":
            return True
        actor = self._actors.get(event.actor)
        if actor is None or actor.sock is None or actor.heard >= event.number:
            return True
        return time.monotonic() > self._waits.setdefault(at, time.monotonic() + HEAR)

    def _do(self, at: int, event: Event) -> None:
        actor = self._actors.get(event.actor)
        if actor is None:
            rng = random.Random(f"{self._plan.seed}-{event.actor}")
            actor = self._actors[event.actor] = Actor(at, rng)
        if event.kind == "open":
            self._open(actor, *event.data.decode().split())
        elif event.kind == "login":
            user, nonce = event.data.decode().split()
            binding = self._target.binding if actor.tls else None
            actor.login = ScramClient(user, PASSWORD, nonce, binding=binding)
        elif event.kind == "hear":
            self._waits.pop(at, None)
            actor.heard = 0
        elif event.kind == "send":
            data = self._seal(actor, self._fill(actor, event.data), event.cuts)
            self._send(actor, data, event.cuts)
        elif event.kind == "shut" and actor.sock:
            with contextlib.suppress(OSError):
                if actor.tls:
                    actor.tls.say_goodbye()
                    actor.sock.sendall(actor.tls.outgoing())
                actor.sock.shutdown(socket.SHUT_WR)
        else:
            actor.close(reset=event.kind == "reset")

    def _open(self, actor: Actor, address: str, rate: str = "") -> None:
        actor.close()
        actor.frames, actor.heard = FrameReader(), 0
        actor.frames.takes_acks = True
        try:
            actor.sock = socket.create_connection((HOST, self._target.port), SETTLE, (address, 0))
        except OSError as error:
            raise ViolationError(f"the server cannot be reached: {error}") from None
        actor.sock.settimeout(HEAR)
        actor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        actor.tls = None
        if rate:
            how = Mutator(actor.rng, float(rate))
            actor.tls = Channel(self._target.context, Side.CLIENT, "localhost", how)
            actor.tls.spoilt = not self._plan.secure
            actor.tls.shake_hands()
            self._send(actor, actor.tls.outgoing())

    def _seal(self, actor: Actor, data: bytes, cuts: Sequence[int]) -> bytes:
        """Put each piece into a record; where there is no channel, what is not said in TLS goes."""
        if actor.tls is None:
            return data
        try:
            for first, end in pieces(data, cuts):
                actor.tls.write([data[first:end]])
        except TransferError:  # not shaken hands, or broken
            actor.tls.spoilt = True
            return data
        return actor.tls.outgoing()

    def _unseal(self, actor: Actor, data: bytes) -> bytes:
        """Go on with the handshake, or return what was in the records."""
        if actor.tls is None:  # an alert is the last thing one hears from who speaks TLS
            return ALERT.sub(b"", data) if self._plan.secure else data
        room = memoryview(bytearray(2 * len(data) + 32 * KB))
        try:
            actor.tls.feed(data)
            if not actor.tls.ready:
                actor.tls.shake_hands()
                actor.heard += actor.tls.ready
                self._send(actor, actor.tls.outgoing())
            return bytes(room[: actor.tls.read_into(room)]) if actor.tls.ready else b""
        except ConnectionLostError:  # it said goodbye
            return b""
        except TransferError as error:
            if not actor.tls.spoilt:
                raise ViolationError(f"the server's TLS is broken: {error}") from None
            return b""

    def _send(self, actor: Actor, data: bytes, cuts: Sequence[int] = ()) -> None:
        """Send in pieces; a server that has closed, or reads no more, is none of our concern."""
        try:
            for first, end in pieces(data, cuts):
                if actor.sock:
                    actor.sock.sendall(data[first:end])
        except OSError:
            self._hear_last(actor)

    def _hear_last(self, actor: Actor) -> None:
        with contextlib.suppress(OSError):
            while actor.sock and self._take(actor, actor.sock.recv(65536)):
                continue
        actor.close()

    def _fill(self, actor: Actor, data: bytes) -> bytes:
        """Put what the server has told in the place of the marks."""
        return MARK.sub(functools.partial(self._real, actor), data)

    def _real(self, actor: Actor, mark: re.Match[bytes]) -> bytes:
        token, final, digits, binary = mark.groups()
        text = mark[0]
        if token:
            return self._tokens.get(int(token), text.decode()).encode()
        if final:
            return actor.final.encode() if len(actor.final) == len(text) else text
        if digits:
            return str(self._numbers.get(int(digits), text.decode())).rjust(10).encode()
        if binary:
            session = binary[0]
            return struct.pack("!I", self._numbers.get(session, number_mark(session)))
        jwt = self._target.jwt
        return jwt.encode() if len(jwt) == len(text) else text

    def _listen(self, seconds: float) -> None:
        """Take what has come on all connections."""
        poll = select.poll()
        open_ones = {a.sock.fileno(): a for a in self._actors.values() if a.sock}
        for descriptor in open_ones:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(seconds * 1000):
            actor = open_ones[descriptor]
            assert actor.sock is not None  # it was open a moment ago, and this is the only thread
            try:
                alive = self._take(actor, actor.sock.recv(65536))
            except OSError:
                alive = False
            if not alive:
                actor.close()

    def _take(self, actor: Actor, data: bytes) -> bool:
        """Read the server's words; ``False`` at their end."""
        if data:
            actor.frames.feed(self._unseal(actor, data))
        try:
            frame = actor.frames.next()
            while frame is not None:
                self._note(actor, frame)
                frame = actor.frames.next()
        except ProtocolError as error:
            raise ViolationError(f"the server talks nonsense: {error}") from None
        return bool(data)

    def _note(self, actor: Actor, frame: Message | Ack) -> None:
        self._target.heard["ack" if isinstance(frame, Ack) else frame.VERB] += 1
        actor.heard += not isinstance(frame, (Queued, Verifying))
        if isinstance(frame, AuthChallenge) and actor.login:
            with contextlib.suppress(TransferError):  # the challenge of a login that we disturbed
                actor.final = actor.login.respond(frame.data)
        elif isinstance(frame, AuthOk):
            self._tokens[actor.session] = frame.token
        elif isinstance(frame, FileReady):
            self._numbers[actor.session] = frame.transfer
        elif isinstance(frame, (Error, Rejected)) and frame.code == "internal":
            raise ViolationError(f"the server tells of an internal error: {frame.reason}")
