"""What is under way, as a page or a program sees it: bytes, rate, time left, what holds it up."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, NamedTuple

import config
from lft.server.admission import Admission
from lft.server.lifetime import Stage
from lft.server.transfer import Transfer

WAITS, RECEIVES, VERIFIES, PUBLISHES = "waiting", "receiving", "verifying", "publishing"


class _Sample(NamedTuple):
    """How far a transfer was, and how fast it went."""

    at: float
    received: int
    rate: float | None  # bytes a second, smoothed; None before the second look
    spent: dict[str, float]  # seconds since it began, by what they went into
    held_up: str


class Overview:
    """Looks at all transfers now and then. Any thread; the lock protects the samples."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._lock = threading.Lock()
        self._samples: dict[str, _Sample] = {}

    def sample(self) -> list[Transfer]:
        """Measure how fast each transfer goes; return those that are under way."""
        with self._lock:
            before = self._samples
        active = self._admission.active()
        after = {key_of(one): _sample(one, before.get(key_of(one))) for one in active}
        with self._lock:
            self._samples = after
        return active

    def all(self) -> list[tuple[Transfer, int]]:
        """Return what is under way, then what waits, each with its position in the queue, or 0."""
        return [(one, 0) for one in self._admission.active()] + self._admission.positions()

    def find(self, key: str) -> tuple[Transfer, int] | None:
        """Return a transfer and its position."""
        return next((found for found in self.all() if key_of(found[0]) == key), None)

    def describe(self, transfer: Transfer, position: int = 0) -> dict[str, Any]:
        """Return what a client is told of a transfer."""
        key = key_of(transfer)
        with self._lock:
            sample = self._samples.get(key)
        size = None if transfer.facts.unsized else transfer.facts.size
        received, rate = transfer.tally.received, (sample.rate or 0.0) if sample else 0.0
        left = math.ceil((size - received) / rate) if size is not None and rate >= 1 else None
        session = transfer.session
        return {
            "id": key,
            "user": session.user,
            "name": transfer.name,
            "directory": transfer.facts.directory,
            "size": size,
            "received": received,
            "verified": transfer.verified_bytes,
            "state": WAITS if position else _state(transfer, received),
            "position": position or None,
            "priority": transfer.priority,
            "rate": round(rate),
            "eta_seconds": left,
            "held_up_by": (sample.held_up if sample else "") or None,
            "seconds": round(time.monotonic() - transfer.asked_at, 3),
            "address": session.coordinator.address,
            "door": session.door,
        }


def key_of(transfer: Transfer) -> str:
    """Return what a transfer is called here, as long as this server runs."""
    return str(transfer.number)


def _state(transfer: Transfer, received: int) -> str:
    if transfer.life.stage >= Stage.JUDGED:
        return PUBLISHES
    return VERIFIES if received >= transfer.facts.size and received else RECEIVES


def _spent(transfer: Transfer) -> dict[str, float]:
    """Return the seconds that went into what may hold a transfer up here."""
    tally, streams = transfer.tally, max(1, len(transfer.session.streams))
    spent = {"hashing": transfer.hash.seconds, "disk": tally.wrote_for / streams}
    return {**spent, "limit": tally.held_back.seconds}


def _sample(transfer: Transfer, before: _Sample | None) -> _Sample:
    """Measure one transfer, after an earlier look at it."""
    now, received, spent = time.monotonic(), transfer.tally.received, _spent(transfer)
    if before is None:
        return _Sample(now, received, None, spent, "")
    passed = max(now - before.at, 1e-3)
    weight = 1 - math.exp(-passed / config.RATE_MEMORY)
    current = max(0, received - before.received) / passed
    rate = current if before.rate is None else before.rate + weight * (current - before.rate)
    new = {name: seconds - before.spent.get(name, 0.0) for name, seconds in spent.items()}
    most = max(new, key=new.__getitem__)
    return _Sample(now, received, rate, spent, most if new[most] > config.MOSTLY * passed else "")
