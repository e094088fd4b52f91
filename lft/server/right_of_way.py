"""Which priority may send, and which is held back meanwhile."""

from __future__ import annotations

import time

import config


class RightOfWay:
    """Holds lower priorities back while a higher one brings bytes.

    Each byte holds back for as long as it would take at ``HOLD_RATE``, all together for ``HOLD``
    seconds at most. So a fast transfer has the machine for itself, a slow one takes its part, and
    one that has ended holds no other. The highest priority that moves has the right of way.

    Each attribute is read once and replaced as a whole, so there is no lock. Of two priorities
    that move at once, one may be forgotten until its next block; a reader of an old answer brings
    one block too many, or rests for ``HOLD`` seconds too long.
    """

    def __init__(self) -> None:
        self._first = 0, 0.0  # the priority that has it, and until when
        # the highest that moved within LONGEST_HOLD, and when it did last
        self._highest = 0, -config.LONGEST_HOLD

    def moved(self, priority: int, length: int) -> None:
        """Note that ``length`` bytes of ``priority`` came (any)."""
        first, until = self._first
        now = time.monotonic()
        if priority >= self._highest[0] or now >= self._highest[1] + config.LONGEST_HOLD:
            self._highest = priority, now
        if priority > first or now >= until:
            until = now
        elif priority < first:
            return
        self._first = priority, min(until + length / config.HOLD_RATE, now + config.HOLD)

    def is_overtaken(self, priority: int) -> bool:
        """Return whether a higher one than ``priority`` has moved within ``LONGEST_HOLD``.

        Then little is to be done together: the higher one may come back at any moment (any).
        """
        highest, at = self._highest
        return priority < highest and time.monotonic() < at + config.LONGEST_HOLD

    def pause(self, priority: int, latest: float) -> float:
        """Return the seconds for which ``priority`` gives way now, not beyond ``latest`` (any)."""
        first, until = self._first
        if priority >= first:
            return 0.0
        return max(0.0, min(until, latest) - time.monotonic())
