"""How a transfer goes: what the main loop tells of it, and what follows from that."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Callable, Sequence

import config
from config import ClientSettings
from lft.clock import WakingClock


class Progress:
    """Is told how a transfer goes, and does nothing with it. ``lft.client.bar`` shows it."""

    def plan(self, paths: Sequence[Path], settings: ClientSettings) -> None:
        """Note all that is to be sent, in this order, before any of it is."""

    def settle(self) -> None:
        """Note that it is known what became of one more of these."""

    def begin(self, name: str, size: int | None) -> None:
        """Take up a file of ``size`` bytes, or go on with it in another session.

        ``None`` is a size that is not known yet.
        """

    def count_files(self, files: int, complete: Callable[[int], int]) -> None:
        """Note that what was begun is a directory of so many files.

        ``complete`` tells how many of them its first bytes hold, by their number.
        """

    def phase(self, phase: str) -> None:
        """Note what happens now: connecting, waiting, checking, sending, verifying."""

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        """Note how many bytes the server has, how many of them this run sent, what it verified.

        While a file is under way, this is called some ten times a second, with or without news.
        """

    def end(self) -> None:
        """Be done with the file."""


class Pace:
    """A smoothed rate: what came long ago counts less and less. Knows no clock."""

    def __init__(self, memory: float) -> None:
        """Let what is older than ``memory`` seconds count a third."""
        self._memory = memory
        self._amount = self._seconds = 0.0

    def note(self, amount: float, seconds: float) -> None:
        """Note that ``amount`` came in the last ``seconds``."""
        kept = math.exp(-seconds / self._memory)
        self._amount = self._amount * kept + amount
        self._seconds = self._seconds * kept + seconds

    @property
    def rate(self) -> float:
        """The amount in a second; 0 before anything is known."""
        return self._amount / self._seconds if self._seconds else 0.0


class Journey:
    """One file under way: where it is, how fast it goes, when it will be there. Main's own.

    Only what this run sends counts for the rate, and only the time in which it may be sent: not
    that of a check of what is there already, nor that in which this process was suspended.
    """

    def __init__(self, name: str, size: int | None) -> None:
        self.name = name
        self.size = size
        self.at = 0  # bytes that the server has
        self.sent = 0  # those of them that this run has sent
        self.verified = 0  # bytes that the server has read back and hashed, as far as it says
        self.place = ""  # which one it is of several that are sent: "2/5"
        self.files: tuple[int, int] | None = None  # of several: how many are there, of how many
        self._clock = WakingClock()
        self._moved_at = self._sampled_at = self._clock.read()
        self._sampled = 0  # bytes sent by then
        self._fast, self._steady = Pace(config.RATE_MEMORY), Pace(config.LEFT_MEMORY)

    def move(self, at: int, sent: int, verified: int, *, sending: bool) -> None:
        """Note where it is; ``sending`` whether the rate may be judged by that."""
        now = self._clock.read()
        if (at, verified) != (self.at, self.verified):
            self._moved_at = now
        self.at, self.sent, self.verified = at, max(sent, self.sent), verified
        elapsed = now - self._sampled_at
        if sending and elapsed < config.RATE_EVERY:
            return
        if sending:
            self._fast.note(self.sent - self._sampled, elapsed)
            self._steady.note(self.sent - self._sampled, elapsed)
        self._sampled, self._sampled_at = self.sent, now

    @property
    def part(self) -> float:
        """The part of the file that the server has: 0 to 1; 0 while its size is unknown."""
        if self.size is None:
            return 0.0
        return self.at / self.size if self.size else 1.0

    @property
    def rate(self) -> float:
        """Bytes a second, of the last seconds."""
        return self._fast.rate

    @property
    def seconds_left(self) -> float | None:
        """The seconds until all of it will be there; ``None`` where that is not known."""
        rate = self._steady.rate
        return (self.size - self.at) / rate if rate and self.size is not None else None

    @property
    def still_for(self) -> float:
        """The seconds since anything moved."""
        return self._clock.read() - self._moved_at
