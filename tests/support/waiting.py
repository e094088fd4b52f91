"""Waiting for a condition, and clocks that move only when a test says so."""

from __future__ import annotations

import time
from typing import Callable

import pytest

PATIENCE = 20.0  # seconds until a condition that should come counts as never coming
SOON = 25.0  # seconds: long for a busy machine, and shorter than any wait for a peer that is gone


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until ``condition`` holds; fail the test if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.005)


class Clock:
    """The time, for a module that has this in place of ``time``; it passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


class SleepClock:
    """The time, as far as the client is concerned; sleeping makes it pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds
