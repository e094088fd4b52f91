"""One limit for all users together, of which each has an equal part."""

from __future__ import annotations

import threading
import time

import config


class SharedLimit:
    """Bytes a second, shared by the users that owe some: what one leaves, others have.

    What a user brings it owes, until the rate has paid for it; each user that owes has an equal
    part of the rate, however many connections it has. So the level rises: the bytes that have been
    paid for each user that owed all the time ("fair queuing", Demers, Keshav and Shenker, 1989).
    It never waits. The lock protects all attributes.
    """

    def __init__(self, rate: float, burst: float = config.BURST) -> None:
        """Allow ``rate`` a second; after a pause, the rate of ``burst`` seconds at once."""
        self._rate = rate
        self._lock = threading.Lock()
        self._level = 0.0
        self._owed: dict[str, float] = {}  # the levels that pay for all of each user that owes
        self._most_saved = rate * burst
        self._saved = 0.0  # bytes that nobody owed, for the next ones
        self._paid_at = time.monotonic()

    def take(self, user: str, size: float, streams: float) -> float:
        """Let ``user`` owe ``size`` bytes more; return the level that pays for them.

        That is no higher than if each of its ``streams`` had brought as much: the one that brings
        the most at once waits the longest, and not all the others.
        """
        with self._lock:
            self._pay()
            spared = min(self._saved, size)
            self._saved -= spared
            owed = self._owed.get(user, self._level) + size - spared
            if owed > self._level:
                self._owed[user] = owed
            return min(owed, self._level + streams * size)

    def wait(self, level: float) -> float:
        """Return the seconds to wait for ``level``, if no user brings more meanwhile."""
        with self._lock:
            self._pay()
            below = sum(min(owed, level) - self._level for owed in self._owed.values())
            return below / self._rate if below >= 1 else 0.0  # less is an error of rounding

    @property
    def users(self) -> int:
        """How many users owe something now."""
        with self._lock:
            self._pay()
            return len(self._owed)

    def _pay(self) -> None:
        """Share out what the rate has allowed since the last time; the lock is held."""
        now = time.monotonic()
        left, self._paid_at = (now - self._paid_at) * self._rate, now
        for user, owed in sorted(self._owed.items(), key=lambda one: one[1]):
            part = min(owed - self._level, left / len(self._owed))
            left -= part * len(self._owed)
            if self._level + part < owed:
                self._level += part
                return
            self._level = owed
            del self._owed[user]
        self._saved = min(self._most_saved, self._saved + left)
