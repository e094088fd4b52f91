"""Connections, sessions, and which transfers receive or wait."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import secrets
import threading
import time
from collections import Counter, deque
from typing import Iterator

import config
from lft.accounts.permissions import Rights
from lft.accounts.scram import ScramServer
from lft.addresses import network_of
from lft.clock import TokenBucket
from lft.server.transfer import Transfer
from lft.terminal import printable
from lft.wire.blocks import BlockReader
from lft.wire.connection import Connection
from protocol import (
    AuthResponse,
    AuthStart,
    Error,
    Message,
    RejectedError,
    RemoteProtocolError,
    TransferError,
)


class Peer:
    """One connection and what the server knows of it.

    Owned by the main thread while idle, by one worker while it is served. Only ``mailbox`` may be
    touched by others: what they want said on this connection. Main may set ``gone`` at any time.
    """

    def __init__(self, connection: Connection, login_timeout: float) -> None:
        self.connection = connection
        self.network = network_of(self.address)
        self.session: Session | None = None
        self.login: ScramServer | None = None
        self.binding: bytes | None = None  # of our certificate, where there is TLS
        self.proof: AuthStart | AuthResponse | None = None  # to be judged ...
        self.proof_due = 0.0  # ... not before this
        self.blocks: BlockReader | None = None  # a data connection has one
        self.incoming: Transfer | None = None  # what the block on its way is for
        self.acks = bytearray()  # not sent yet
        self.acks_due = 0.0
        self.paused_until = 0.0  # nothing is to be received before
        self.held_until = 0.0  # it brings a block then at the latest, whoever has the right of way
        self.mailbox: deque[Message] = deque()
        self.deadline = time.monotonic() + login_timeout
        self.idle = False  # the selector watches it
        self.resting = False  # nobody does, until its pause is over
        self.hurried = False  # there is more to do at once
        self.leaving = False  # all is said; it may read that and close
        self.gone = False

    def __repr__(self) -> str:
        return f"<Peer {self.connection!r}>"

    @property
    def address(self) -> str:
        """The machine it comes from; ``network`` is what limits go by."""
        address = self.connection.address[1]
        return str(address[0]) if isinstance(address, tuple) else ""

    @property
    def priority(self) -> int:
        """Its session's priority; that of the least before it has logged in."""
        return self.session.priority if self.session else 0

    @property
    def mid_frame(self) -> bool:
        """Whether it owes us the rest of something; what came with ATTACH is here already."""
        return self.blocks.mid_block if self.blocks else self.connection.mid_frame

    def refuse(self, code: str, reason: str) -> None:
        """Say our last words; after them it may only read and close (its owner)."""
        self.leaving = True
        with contextlib.suppress(TransferError):
            self.connection.send(Error(code, reason))


class Session:
    """One logged-in client: its coordinator and the data connections that showed its token.

    ``transfer`` and ``unconfirmed`` are set by the worker that owns the coordinator or ends the
    transfer; others read them once and look again.
    """

    def __init__(
        self, user: str, priority: int, coordinator: Peer, rights: Rights | None = None
    ) -> None:
        self.user = user
        self.rights = rights or Rights()
        self.verifier = b""  # what the account had when it was proven
        self.buckets: tuple[TokenBucket, ...] = ()  # what limits its bytes in a second
        self.priority = priority
        self.coordinator = coordinator
        self.token = secrets.token_urlsafe(32)
        self.transfer: Transfer | None = None
        self.unconfirmed: Transfer | None = None  # published; its verdict may not have arrived
        self.heard_at = time.monotonic()  # when the coordinator said something last
        self.closed = False  # set by main: the coordinator is gone
        self.streams: set[Peer] = set()  # the registry's lock protects it

    def __repr__(self) -> str:
        return f"<Session of {printable(self.user)}, {len(self.streams)} data connections>"


class Registry:
    """Which sessions there are, which transfers receive, which wait. The lock protects all of it.

    A transfer may begin when fewer than ``max_active`` of its own priority or higher receive: lower
    ones leave it room. The others wait, the most urgent first: a step of priority counts as having
    come ``URGENCY`` seconds earlier.
    """

    def __init__(self, max_active: int) -> None:
        self._max_active = max_active
        self._lock = threading.Lock()
        self._sessions: dict[bytes, Session] = {}
        self.attached = 0  # data connections, of all sessions; to read it needs no lock
        self._unpaid: dict[str, list[float]] = {}  # ends of the pauses that users left early
        self._active: list[Transfer] = []
        self._waiting: list[Transfer] = []
        self._turns = itertools.count()

    def add(self, session: Session) -> None:
        """Let data connections find ``session`` by its token (any)."""
        with self._lock:
            self._sessions[_token_key(session.token)] = session

    def attach(self, token: str, peer: Peer) -> Session | None:
        """Give ``peer`` to the session that has ``token``, if there is one and has room (any)."""
        with self._lock:
            session = self._sessions.get(_token_key(token))
            if session and len(session.streams) >= config.MAX_STREAMS:
                raise RemoteProtocolError("too many data connections", "busy")
            if session:
                session.streams.add(peer)
                self.attached += 1
                peer.paused_until = self._turn_of(session.user)
            return session

    def detach(self, session: Session, peer: Peer) -> None:
        """Take a lost data connection out of its session (main).

        If a limit made it rest, a later one of the user does so in its place: to come back for each
        block would else be a way around the limit.
        """
        with self._lock:
            session.streams.discard(peer)
            self.attached -= 1
            if peer.paused_until > time.monotonic():
                heapq.heappush(self._unpaid.setdefault(session.user, []), peer.paused_until)

    def _turn_of(self, user: str) -> float:
        """Return until when a new connection rests, in place of one that did not stay so long."""
        turns, until = self._unpaid.pop(user, []), 0.0
        while turns and until <= time.monotonic():
            until = heapq.heappop(turns)
        if turns:
            self._unpaid[user] = turns
        return until

    def remove(self, session: Session) -> list[Peer]:
        """Forget ``session``; return its data connections (any)."""
        with self._lock:
            self._sessions.pop(_token_key(session.token), None)
            streams, session.streams = list(session.streams), set()
            return streams

    def enter(self, transfer: Transfer) -> int:
        """Number ``transfer``, admit it (0) or return its position, or refuse it (any)."""
        with self._lock:
            transfer.turn = next(self._turns)
            transfer.number = transfer.turn % (2**32 - 1) + 1
            own = [one for one in self._active + self._waiting if one.user == transfer.user]
            if len(own) >= config.MAX_TRANSFERS_OF_USER:
                raise RejectedError("busy", "too many transfers of this user; try again later")
            if self._has_room_for(transfer):
                self._active.append(transfer)
                return 0
            if len(self._waiting) >= config.MAX_WAITING_TRANSFERS:
                raise RejectedError("busy", "too many transfers wait already; try again later")
            self._waiting.append(transfer)
            self._waiting.sort(key=lambda one: one.asked_at - one.priority * config.URGENCY)
            return dict(self._positions())[transfer]

    def _has_room_for(self, transfer: Transfer) -> bool:
        before = sum(one.priority >= transfer.priority for one in self._active)
        return before < self._max_active

    def _positions(self) -> Iterator[tuple[Transfer, int]]:
        """Count, for each that waits, those of its own priority or higher up to it."""
        counts: Counter[int] = Counter()
        for one in self._waiting:
            counts[one.priority] += 1
            yield one, sum(n for priority, n in counts.items() if priority >= one.priority)

    def leave(self, transfer: Transfer) -> list[Transfer]:
        """Take ``transfer`` out; return those that are admitted in its place (any)."""
        admitted = []
        with self._lock:
            for line in (self._active, self._waiting):
                if transfer in line:
                    line.remove(transfer)
            for one in list(self._waiting):
                if self._has_room_for(one):
                    self._waiting.remove(one)
                    self._active.append(one)
                    admitted.append(one)
        return admitted

    def earlier(self, transfer: Transfer) -> list[Transfer]:
        """Return those before ``transfer`` that go to the same directory (any).

        Of two that race for the last bytes of a quota, one sees the other.
        """
        with self._lock:
            others = [one for one in self._active + self._waiting if one.turn < transfer.turn]
        place = transfer.facts.directory
        return [one for one in others if not one.ended and one.facts.directory == place]

    def active(self) -> list[Transfer]:
        """Return the transfers that receive or are verified (any)."""
        with self._lock:
            return list(self._active)

    def waiting(self) -> list[Transfer]:
        """Return those that wait, the most urgent first (any)."""
        with self._lock:
            return list(self._waiting)

    def positions(self) -> list[tuple[Transfer, int]]:
        """Return those that wait, each with its position in the queue (any)."""
        with self._lock:
            return list(self._positions())


def _token_key(token: str) -> bytes:
    """Look tokens up by their hash: how long it takes tells nothing about a right one (any)."""
    return hashlib.sha256(token.encode()).digest()
