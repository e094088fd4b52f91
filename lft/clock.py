"""Time: deadlines, rate limits, pauses, timers, and what can be done together in time."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from typing import Callable, Iterator

import config


class Deadline:
    """An instant on the monotonic clock, which may be put off again and again."""

    def __init__(self, seconds: float) -> None:
        """Set it ``seconds`` from now."""
        self._seconds = seconds
        self.put_off()

    def put_off(self) -> None:
        """Set it as many seconds from now as at first."""
        self._at = time.monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self._at - time.monotonic())

    @property
    def lasted(self) -> float:
        """The seconds since it was last set."""
        return time.monotonic() - self._at + self._seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._at


class TokenBucket:
    """A limit for what passes in a second, such as bytes, over all that take from it. Any thread.

    It never waits: it returns the seconds to wait. The lock protects the instant up to which the
    rate is used up.
    """

    def __init__(self, rate: float, burst: float = config.BURST) -> None:
        """Allow ``rate`` a second; after a pause, the rate of ``burst`` seconds at once."""
        self._rate = rate
        self._burst = burst
        self._used_until = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size: float, sharers: float = math.inf) -> float:
        """Take ``size``; return the seconds to wait before more is taken.

        The rate has then caught up. But the wait is no longer than if each of ``sharers`` had taken
        as much: the one that takes the most at once waits the longest, and not all the others.
        """
        with self._lock:
            now = time.monotonic()
            self._used_until = max(self._used_until, now - self._burst) + size / self._rate
            return max(0.0, min(self._used_until - now, sharers * size / self._rate))

    @property
    def saved(self) -> float:
        """The part of ``burst`` that has been saved up: 1 is all; below 0 it is overdrawn."""
        with self._lock:
            return min(1.0, (time.monotonic() - self._used_until) / self._burst)


class Backoff:
    """The pauses between attempts, each twice as long as the one before, up to ``longest``."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """Begin with the first pause again, after an attempt with progress."""
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
    """The time for which at least one of several connections paused. Not for several threads."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._until = 0.0

    def add(self, seconds: float) -> None:
        """Note that a connection pauses for ``seconds`` from now on."""
        now = time.monotonic()
        self.seconds += max(0.0, now + seconds - max(now, self._until))
        self._until = max(self._until, now + seconds)


class WakingClock:
    """The time in which this process runs: while it is suspended (Ctrl-Z), the clock stands still.

    Must be read several times a second, so that a pause between two readings tells. Owned by one
    thread.
    """

    def __init__(self) -> None:
        self.slept = 0.0  # seconds
        self._read_at = time.monotonic()

    def read(self) -> float:
        """Return the seconds of this clock."""
        now = time.monotonic()
        if now - self._read_at > config.SUSPENDED:
            self.slept += now - self._read_at
        self._read_at = now
        return now - self.slept

    def note_waking(self) -> bool:
        """Read it; return whether the process was suspended since it was read last."""
        before = self.slept
        self.read()
        return self.slept > before


class Timers:
    """Calls to make at instants of the monotonic clock. Owned by one thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()  # of two for the same instant the older one goes first

    def at(self, instant: float, call: Callable[[], None]) -> None:
        """Let ``call`` be due at ``instant``."""
        heapq.heappush(self._heap, (instant, next(self._order), call))

    def due(self) -> Iterator[Callable[[], None]]:
        """Take out the calls that are due by now, the earliest first."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            yield heapq.heappop(self._heap)[2]

    @property
    def next_at(self) -> float:
        """The instant of the next call; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf


class RunLength:
    """How many neighbouring blocks go together, as fast as that went so far. One thread's own.

    The blocks of a run share one stream, and they are acknowledged together: where that is slow,
    none should wait for another.
    """

    def __init__(self, *, grows: bool = True) -> None:
        """Begin with one block, and stay there unless it ``grows``."""
        self.blocks = 1
        self._grows = grows

    def note(self, seconds: float, most: int = config.RUN_BLOCKS) -> None:
        """Note how long the last run took; the next one has ``most`` blocks at most."""
        longer = seconds < config.RUN_SECONDS and self._grows
        self.blocks = max(1, min(most, 2 * self.blocks if longer else self.blocks // 2))
