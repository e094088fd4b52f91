"""Acknowledgements: for which blocks of a file one is owed, and how long they usually take."""

from __future__ import annotations

import time
from collections import deque

import config
from protocol import RemoteProtocolError

MOST_OWED = 16  # acknowledgements of one block: a few more than the server's rounds of repair


class Acknowledgements:
    """The acknowledgements that the server owes for the blocks of one file.

    A block that is asked for again before its first acknowledgement came is owed two. Has no lock:
    the upload calls it under its own, except for ``quiet_for``, which is one read.
    """

    def __init__(self) -> None:
        self._owed: dict[int, int] = {}  # by block; without those that are owed none
        self._sent_at: dict[int, float] = {}  # when each such block was sent last, the oldest first
        self._sent_twice: set[int] = set()  # blocks that went another way, too
        self._usual = 0.0  # seconds from sending to the acknowledgement, smoothed
        self._came_at = time.monotonic()  # when the last one came ...
        # ... and it with those before it
        self._times: deque[float] = deque(maxlen=config.STUCK_ROUNDS * config.MAX_STREAMS)

    def __contains__(self, block: int) -> bool:
        """Whether one is owed for ``block``."""
        return block in self._owed

    def __bool__(self) -> bool:
        """Whether any is owed."""
        return bool(self._owed)

    def expect(self, block: int) -> None:
        """Note that the server owes one more for ``block``.

        Raises ``RemoteProtocolError`` where it asks for the same block over and over.
        """
        owed = self._owed.get(block, 0)
        if owed > MOST_OWED:
            raise RemoteProtocolError("the server asks for the same block without end")
        self._owed[block] = owed + 1

    def take(self, block: int) -> bool:
        """Note that one came for ``block``; return whether that was the last one owed for it.

        One that is not owed is no news: of a block that went two ways the first one counts.
        """
        owed = self._owed.pop(block, 0)
        if owed > 1:
            self._owed[block] = owed - 1
        if owed != 1:
            return False
        self._came_at = time.monotonic()
        self._times.append(self._came_at)
        took = self._came_at - self._sent_at.pop(block, self._came_at)
        self._usual += (took - self._usual) / (8 if self._usual else 1)
        return True

    def forgo(self, end: int) -> list[int]:
        """Wait for none of the blocks before ``end`` any more; return those that were owed one."""
        proven = [block for block in self._owed if block < end]
        for block in proven:
            del self._owed[block]
            self._sent_at.pop(block, None)
        return proven

    def note_sent(self, block: int) -> None:
        """Note that ``block`` goes out now; one that has been acknowledged lags no more."""
        self._sent_at.pop(block, None)  # so that the oldest stay in front
        if block in self._owed:
            self._sent_at[block] = time.monotonic()

    def resend_late(self, most: int, *, hasty: bool) -> list[int]:
        """Pick up to ``most`` blocks that lag, the oldest first; note that they go out again now.

        ``hasty`` where one that takes longer than usual lags, not only one on a stuck stream.
        """
        patience = max(config.LATE_LEAST, config.LATE * self._usual) if hasty else self.stuck
        limit = time.monotonic() - patience
        late = [block for block, at in self._sent_at.items() if at < limit][:most]
        for block in late:
            self.note_sent(block)
        self._sent_twice.update(late)
        return late

    def went_twice(self, block: int) -> bool:
        """Whether ``resend_late`` has ever picked ``block``."""
        return block in self._sent_twice

    @property
    def stuck(self) -> float:
        """How many seconds without an acknowledgement are too many for a stream."""
        return max(config.STUCK, config.STUCK_TIMES * self._usual)

    @property
    def quiet_for(self) -> float:
        """How many seconds ago the last acknowledgement came, on any stream."""
        return time.monotonic() - self._came_at

    def rounds_within(self, seconds: float, streams: int) -> bool:
        """Whether as many came within ``seconds`` as ``streams`` get in ``STUCK_ROUNDS`` rounds."""
        last = list(self._times)[-config.STUCK_ROUNDS * streams :]
        whole = len(last) == config.STUCK_ROUNDS * streams
        return whole and time.monotonic() - last[0] < seconds
