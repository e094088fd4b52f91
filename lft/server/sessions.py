"""Connections and the sessions they belong to."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from typing import Any, Callable, Union

import config
from lft.accounts.permissions import Rights
from lft.accounts.scram import ScramServer
from lft.clock import RunLength, TokenBucket
from lft.server.guests import Guest, Next
from lft.server.listing import Listing
from lft.store.history import WIRE
from lft.terminal import printable
from lft.wire.blocks import BlockReader
from lft.wire.connection import Connection
from protocol import (
    AuthResponse,
    AuthStart,
    Error,
    Message,
    RemoteProtocolError,
    State,
    TransferError,
)


class Peer(Guest):
    """One connection of the wire and what the server knows of it.

    Owned by the main thread, or by the worker that serves it. Any thread may put a message into
    ``mailbox``, for the owner to send. ``place`` is main's alone.
    """

    connection: Connection

    def __init__(
        self,
        connection: Connection,
        login_timeout: float,
        serve: Callable[[Peer], Next] = lambda _: Next.LOST,
    ) -> None:
        """``serve`` does one unit of work for it, on a worker."""
        super().__init__(connection, login_timeout)
        self._serve = serve
        self.mailbox: deque[Message] = deque()
        self.session: Session | None = None
        self.features: tuple[str, ...] = ()  # of its HELLO
        # until the login is over
        self.binding: bytes | None = None  # of our certificate, where there is TLS
        self.login: ScramServer | None = None
        self.proof: AuthStart | AuthResponse | None = None  # to be judged ...
        self.proof_due = 0.0  # ... not before this instant
        # of the directories that it announces just now, by their numbers
        self.listings: dict[int | None, Listing] = {}
        # of a data connection
        self.blocks: BlockReader[Any] | None = None
        self.run_length = RunLength()  # of the blocks that are taken together
        self.brings = 0  # the number of the transfer of its last block
        self.acks = bytearray()  # not sent yet ...
        self.acks_of: set[int] = set()  # ... and the transfers that they are of
        self.acks_due = 0.0  # the instant at which they are sent at the latest
        self.owed = 0.0  # nor before the level of the shared limit that pays for what came

    def serve(self) -> Next:
        return self._serve(self)

    @property
    def user(self) -> str | None:
        return self.session.user if self.session else None

    @property
    def priority(self) -> int:
        return self.session.priority if self.session else 0

    @property
    def mid_frame(self) -> bool:
        """Whether it owes us the rest of something; bytes that came with ATTACH are here."""
        return self.blocks.mid_block if self.blocks else self.connection.mid_frame

    def refuse(self, code: str, reason: str) -> None:
        with contextlib.suppress(TransferError):
            self.connection.send(Error(code, reason))

    @property
    def done(self) -> bool:
        """Whether all is said: an ERROR of ours, or a GOODBYE of the client's."""
        return self.connection.state is State.CLOSED

    @property
    def has_news(self) -> bool:
        return bool(self.mailbox)

    @property
    def due_at(self) -> float:
        """The instant at which a proof is to be judged that had to wait."""
        return self.proof_due if self.proof else float("inf")


class Correspondent(ABC):
    """Who hears what becomes of a session's files, in place of a coordinator of the wire."""

    address: str  # of the client's machine
    features: tuple[str, ...] = ()

    @abstractmethod
    def hear(self, message: Message) -> None:
        """Take news of a file (any); whatever takes time is left to a worker."""


# has a message sent on a connection, from any thread
Post = Callable[[Union[Peer, Correspondent], Message], None]


class Session:
    """One logged-in client: its coordinator and the data connections that showed its token."""

    def __init__(
        self,
        user: str,
        priority: int,
        coordinator: Peer | Correspondent,
        rights: Rights | None = None,
    ) -> None:
        self.user = user
        self.priority = priority
        self.coordinator = coordinator
        self.rights = rights or Rights()
        self.token = secrets.token_urlsafe(32)
        self.verifier = b""  # of the account, when the client logged in
        self.login_token = ""  # that it logged in with, if not with a password
        self.bucket: TokenBucket | None = None  # the user's own limit
        self.door = WIRE  # through which its files come
        self.heard_at = time.monotonic()  # when the coordinator said something last
        self.closed = False  # set by main: the coordinator is gone
        self.in_order = False  # whether the bytes of its files come from their start to their end
        self.streams: set[Peer] = set()  # data connections; the registry's lock protects it

    def __repr__(self) -> str:
        return f"<Session of {printable(self.user)}, {len(self.streams)} data connections>"


class Registry:
    """The sessions by their tokens, and their data connections. The lock protects all of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[bytes, Session] = {}
        self._sessions_of: Counter[str] = Counter()  # by user
        self._streams_of: Counter[str] = Counter()  # data connections, by user
        self.places = config.MAX_CONNECTIONS  # for connections, of all kinds; set once, by main
        self.attached = 0  # data connections, of all sessions; reading it needs no lock
        # pauses that users left early: the end, and what was owed
        self._unpaid: dict[str, list[tuple[float, float]]] = {}

    def add(self, session: Session) -> None:
        """Let data connections find ``session`` by its token (any).

        Raises ``RemoteProtocolError`` where its user has too many.
        """
        with self._lock:
            if self._sessions_of[session.user] >= self._share(config.MAX_SESSIONS_OF_USER):
                raise RemoteProtocolError("too many sessions of this user", "busy")
            self._sessions_of[session.user] += 1
            self._sessions[_token_key(session.token)] = session

    def remove(self, session: Session) -> list[Peer]:
        """Forget ``session``; return its data connections (any)."""
        with self._lock:
            if self._sessions.pop(_token_key(session.token), None):
                _count_down(self._sessions_of, session.user)
            streams, session.streams = list(session.streams), set()
            return streams

    def attach(self, token: str, peer: Peer) -> Session | None:
        """Give ``peer`` to the session of ``token``, if there is one (any).

        Raises ``RemoteProtocolError`` where session, user or server have no room for one more.
        """
        with self._lock:
            session = self._sessions.get(_token_key(token))
            if session:
                self._check_room(session)
                session.streams.add(peer)
                self.attached += 1
                self._streams_of[session.user] += 1
                peer.paused_until, peer.owed = self._inherit_pause(session.user)
            return session

    def _check_room(self, session: Session) -> None:
        of_user, share = self._streams_of[session.user], self._share
        full = len(session.streams) >= config.MAX_STREAMS
        full = full or of_user >= share(config.MAX_STREAMS_OF_USER)
        if full or self.attached >= share(config.MAX_STREAMS_OF_ALL):
            raise RemoteProtocolError("too many data connections", "busy")

    def _share(self, most: int) -> int:
        """Return ``most`` of all connections, where there are places for fewer of them."""
        return max(1, most * self.places // config.MAX_CONNECTIONS)

    def detach(self, session: Session, peer: Peer) -> None:
        """Take a lost data connection out of its session (main).

        If a limit made it rest, a later connection of the user does so in its place: otherwise a
        new connection for each block would be a way around the limit.
        """
        with self._lock:
            session.streams.discard(peer)
            self.attached -= 1
            _count_down(self._streams_of, session.user)
            if peer.paused_until > time.monotonic():
                pause = peer.paused_until, peer.owed
                heapq.heappush(self._unpaid.setdefault(session.user, []), pause)

    def _inherit_pause(self, user: str) -> tuple[float, float]:
        """Return a pause that a connection of ``user`` left early: its end, and what was owed."""
        pauses, pause = self._unpaid.pop(user, []), (0.0, 0.0)
        while pauses and pause[0] <= time.monotonic():
            pause = heapq.heappop(pauses)
        if pauses:
            self._unpaid[user] = pauses
        return pause

    def streams_of(self, user: str) -> int:
        """Return how many data connections ``user`` has; it needs no lock (any)."""
        return self._streams_of[user]


def _count_down(counts: Counter[str], user: str) -> None:
    counts[user] -= 1
    if not counts[user]:
        del counts[user]


def _token_key(token: str) -> bytes:
    """Hash a token for looking it up: the time that takes tells nothing about a right one (any)."""
    return hashlib.sha256(token.encode()).digest()
