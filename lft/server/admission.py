"""Which transfers receive, and which wait for a place."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from typing import Iterator

import config
from lft.server.transfer import Transfer
from protocol import RejectedError


class Admission:
    """The transfers that receive, and those that wait for a place. The lock protects all of it.

    A transfer may begin when fewer than ``max_active`` of its own priority or higher receive: lower
    ones leave it room. The others wait, the most urgent first: a step of priority counts as having
    come ``URGENCY`` seconds earlier. Any thread may call any method.
    """

    def __init__(self, max_active: int) -> None:
        self._max_active = max_active
        self._lock = threading.Lock()
        self._active: list[Transfer] = []
        self._waiting: list[Transfer] = []
        self._turns = itertools.count()

    def enter(self, transfer: Transfer) -> int:
        """Give ``transfer`` its turn; return 0 if it may begin, otherwise its position.

        Raises ``RejectedError`` where too many wait already.
        """
        with self._lock:
            transfer.turn = next(self._turns)
            own = [
                one for one in self._active + self._waiting if one.facts.user == transfer.facts.user
            ]
            if len(own) >= config.MAX_TRANSFERS_OF_USER:
                raise RejectedError("busy", "too many transfers of this user; try again later")
            if self._has_place_for(transfer):
                self._active.append(transfer)
                return 0
            if len(self._waiting) >= config.MAX_WAITING_TRANSFERS:
                raise RejectedError("busy", "too many transfers wait already; try again later")
            self._waiting.append(transfer)
            self._waiting.sort(key=lambda one: one.asked_at - one.priority * config.URGENCY)
            return dict(self._positions())[transfer]

    def leave(self, transfer: Transfer) -> list[Transfer]:
        """Take ``transfer`` out; return the transfers that are admitted in its place."""
        with self._lock:
            for line in (self._active, self._waiting):
                if transfer in line:
                    line.remove(transfer)
            return list(self._admit())

    def _admit(self) -> Iterator[Transfer]:
        for one in list(self._waiting):
            if self._has_place_for(one):
                self._waiting.remove(one)
                self._active.append(one)
                yield one

    def _has_place_for(self, transfer: Transfer) -> bool:
        before = sum(one.priority >= transfer.priority for one in self._active)
        return before < self._max_active

    def _positions(self) -> Iterator[tuple[Transfer, int]]:
        """Count, for each that waits, those of its own priority or higher up to it."""
        counts: Counter[int] = Counter()
        for one in self._waiting:
            counts[one.priority] += 1
            yield one, sum(n for priority, n in counts.items() if priority >= one.priority)

    def earlier(self, transfer: Transfer) -> list[Transfer]:
        """Return the transfers to the same directory that came before this one.

        Of two that race for the last bytes of a quota, one sees the other.
        """
        with self._lock:
            others = [one for one in self._active + self._waiting if one.turn < transfer.turn]
        place = transfer.facts.directory
        return [one for one in others if not one.life.ended and one.facts.directory == place]

    def active(self) -> list[Transfer]:
        """Return the transfers that receive or are verified."""
        with self._lock:
            return list(self._active)

    def waiting(self) -> list[Transfer]:
        """Return the transfers that wait, the most urgent first."""
        with self._lock:
            return list(self._waiting)

    def positions(self) -> list[tuple[Transfer, int]]:
        """Return the transfers that wait, each with its position in the queue."""
        with self._lock:
            return list(self._positions())
