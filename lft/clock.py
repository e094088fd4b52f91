"""Time: deadlines, token buckets, pauses. Knows no socket and no thread."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from typing import Callable, Iterator

import config


class Deadline:
    """An instant on the monotonic clock, some seconds from when it was made or last put off."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.put_off()

    def put_off(self) -> None:
        """Start again: something moved."""
        self._at = time.monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self._at - time.monotonic())

    @property
    def lasted(self) -> float:
        """The seconds since it was made or last put off."""
        return time.monotonic() - self._at + self._seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._at


class TokenBucket:
    """Lets so much pass in a second (bytes, say), whoever brings it. Any thread.

    It never holds anybody up itself: it says for how long they should stay away. The lock protects
    the instant at which what has passed is paid for.
    """

    def __init__(self, rate: float, burst: float = config.BURST) -> None:
        """Let ``rate`` pass in a second, after a pause that of ``burst`` seconds at once."""
        self._rate = rate
        self._burst = burst
        self._paid_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size: float, sharers: float = math.inf) -> float:
        """Let ``size`` pass; return the seconds until the next may follow.

        That is when all is paid for, but no later than if each of ``sharers`` had brought as much:
        who brings more at once waits for it longer, not the others with him.
        """
        with self._lock:
            now = time.monotonic()
            self._paid_at = max(self._paid_at, now - self._burst) + size / self._rate
            return max(0.0, min(self._paid_at - now, sharers * size / self._rate))

    @property
    def saved(self) -> float:
        """How much of ``burst`` has been saved up: 1 is all, below 0 it is overdrawn."""
        with self._lock:
            return min(1.0, (time.monotonic() - self._paid_at) / self._burst)


class Backoff:
    """The pauses between attempts: each twice as long as the one before, up to ``longest``."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """Begin with the first pause again: an attempt got somewhere."""
        self._seconds = self._first

    def next_pause(self) -> float:
        """Return the seconds to pause before the next attempt, and make the pause after it longer.

        A part of each pause is random, so that many clients do not come back in the same instant.
        """
        pause = _jittered(self._seconds)
        self._seconds = min(2 * self._seconds, self._longest)
        return pause


def _jittered(seconds: float) -> float:
    import random  # noqa: PLC0415  (5 ms that only a lost connection should cost)

    return seconds * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)


class Pauses:
    """For how long at least one of several was at rest; who owns it sees to the order of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._until = 0.0

    def add(self, seconds: float) -> None:
        """Note that one rests for so long from now on."""
        now = time.monotonic()
        self.seconds += max(0.0, now + seconds - max(now, self._until))
        self._until = max(self._until, now + seconds)


class Timers:
    """What is to be done at which instant of the monotonic clock. Owned by one thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()  # of two at the same instant the older goes first

    def at(self, instant: float, unit: Callable[[], None]) -> None:
        """Have ``unit`` given by ``due`` at ``instant``, not before."""
        heapq.heappush(self._heap, (instant, next(self._order), unit))

    def due(self) -> Iterator[Callable[[], None]]:
        """Give what is due by now, the earliest first."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            yield heapq.heappop(self._heap)[2]

    @property
    def next_at(self) -> float:
        """The instant of the next one; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf
