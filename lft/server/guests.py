"""What main knows of a connection, whatever is spoken on it."""

from __future__ import annotations

import enum
import selectors
import time
from abc import ABC, abstractmethod
from typing import Any

import config
from lft.addresses import is_loopback, network_of
from lft.wire.channel import Channel
from lft.wire.proxy_protocol import Origin
from protocol import ConnectionLostError

TOO_SLOW = "too slow, or silent for too long"  # what a peer is told that misses a deadline


class Place(enum.Enum):
    """Which thread has a connection. Only main changes it, in ``Connections``."""

    WATCHED = "watched"  # by the selector: a worker gets it when something comes
    RESTING = "resting"  # until a timer hands it to a worker
    SERVED = "served"  # by a worker
    CUT = "cut"  # served, but over: main closes it when the worker gives it back
    LEAVING = "leaving"  # all is said; it may read that and close, while the selector watches
    CLOSED = "closed"


class Next(enum.Enum):
    """How main goes on with a connection that a worker gives back."""

    WAIT = "wait"  # for something to come
    AGAIN = "again"  # there is more to do at once
    LOST = "lost"  # the peer is gone


def _machine(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else ""


class Guest(ABC):
    """One connection, as ``Connections`` sees it; ``Peer`` speaks the wire's protocol.

    Owned by the main thread, or by the worker that serves it. ``place`` is main's alone.
    """

    def __init__(self, connection: Channel, timeout: float) -> None:
        """Give it ``timeout`` seconds for what it has to do first."""
        self.connection = connection
        self.network = network_of(self.address)
        self.place = Place.CLOSED  # until main watches it
        self.deadline = time.monotonic() + timeout
        self.paused_until = 0.0  # nothing is to be received before
        self.held_until = 0.0  # it is served then at the latest, even without the right of way

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection!r}, {self.place.value}>"

    @abstractmethod
    def serve(self) -> Next:
        """Do one unit of work, whatever it sends; never raises (a worker)."""

    @abstractmethod
    def refuse(self, code: str, reason: str) -> None:
        """Say our last words; after them the peer may only read and close (its owner)."""

    @property
    @abstractmethod
    def user(self) -> str | None:
        """The user that has logged in on it."""

    @property
    @abstractmethod
    def priority(self) -> int:
        """That of its user; 0 before it has logged in."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether all is said on it."""

    @property
    @abstractmethod
    def has_news(self) -> bool:
        """Whether another thread has left something for it to be sent."""

    @property
    def busy(self) -> bool:
        """Whether a server that stops lets it end what it does."""
        return self.connection.unsent > 0

    @property
    def due_at(self) -> float:
        """The instant at which a worker is to look at it, whether something has come or not."""
        return float("inf")

    @property
    def events(self) -> int:
        """What main watches it for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.connection.unsent else 0)

    def introduce(self, origin: Origin) -> None:
        """Let it come from where a balancer says (main, before it is watched)."""
        self.connection.introduce(origin)
        self.network = network_of(self.address)

    @property
    def address(self) -> str:
        """The machine it comes from; ``network`` is what limits go by."""
        return _machine(self.connection.origin)

    @property
    def port(self) -> int:
        """Its port on that machine."""
        origin = self.connection.origin
        return int(origin[1]) if isinstance(origin, tuple) else 0

    @property
    def is_local(self) -> bool:
        """Whether it comes from this machine, also where a balancer hands it on.

        The loopback address of a client of another machine's balancer is on that machine.
        """
        return is_loopback(self.address) and is_loopback(_machine(self.connection.address[1]))

    @property
    def name(self) -> str:
        """What the log calls it."""
        return self.connection.peer

    def release(self) -> None:  # noqa: B027  (most hold nothing)
        """Let go of what it holds: the connection ends (main)."""

    def pause(self, seconds: float) -> bool:
        """Let nothing be received for so long; return whether that is any time (its owner)."""
        self.paused_until = time.monotonic() + seconds
        return seconds > 0

    def flush(self) -> None:
        """Send what is left, as far as the peer has room (its owner).

        Raises ``ConnectionLostError`` for a peer that does not read our answers.
        """
        self.connection.flush()
        if self.connection.unsent > config.MAX_QUEUED_BYTES:
            raise ConnectionLostError(f"{self.name} does not read our answers")
