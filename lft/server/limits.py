"""What users may move in a second, whichever way it goes and by whichever door."""

from __future__ import annotations

import threading
from collections import Counter

import config
from lft.clock import TokenBucket
from lft.server.sessions import Registry
from lft.server.shared_limit import SharedLimit

_PORTION = 1 / 8  # of a second's bytes: what a client that is sent a file gets at once


class Limits:
    """Charges what is moved to the limit of its user and to that of the server. Any worker.

    It never waits: it says how long to. The lock protects ``_moving``.
    """

    def __init__(self, limit: int | None, registry: Registry) -> None:
        """Let all users together move ``limit`` bytes a second, or as many as they can."""
        self._limit = limit
        self._shared = SharedLimit(limit) if limit else None
        self._registry = registry
        self._lock = threading.Lock()
        self._moving: Counter[str] = Counter()  # requests of each user that move a file over HTTP

    def begin(self, user: str) -> None:
        """Note that a request of ``user`` begins to move a file: it shares the user's limit."""
        with self._lock:
            self._moving[user] += 1

    def end(self, user: str) -> None:
        """Note that such a request has ended (any)."""
        with self._lock:
            self._moving[user] -= 1
            if not self._moving[user]:
                del self._moving[user]

    def hold(self, bucket: TokenBucket | None) -> bool:
        """Return whether there is a limit for the user of ``bucket``."""
        return bool(self._shared or bucket)

    def portion(self, own: int | None) -> int:
        """Return the bytes of a file to send at once to a user with the limit ``own``."""
        limits = [one for one in (own, self._limit) if one]
        return max(config.KB, int(min(limits) * _PORTION)) if limits else config.HTTP_SLICE

    def take(self, user: str, bucket: TokenBucket | None, size: int) -> tuple[float, float]:
        """Charge ``size`` bytes; return the seconds to rest, and what ``wait`` is to be asked."""
        if not self.hold(bucket):
            return 0.0, 0.0
        sharers = max(1, self._registry.streams_of(user) + self._moving[user])
        pause = bucket.take(size, sharers) if bucket else 0.0
        if not self._shared:
            return pause, 0.0
        owed = self._shared.take(user, size, sharers)
        return max(pause, self._shared.wait(owed)), owed

    def wait(self, owed: float) -> float:
        """Return the seconds until the server's limit has paid for what ``take`` said is owed."""
        return self._shared.wait(owed) if self._shared and owed else 0.0
