"""Which transfers receive, and which wait for a place."""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
from collections import Counter
from typing import Iterator

import config
from lft.server.transfer import Transfer
from protocol import RejectedError


class Admission:
    """The transfers that receive, and those that wait for a place. The lock protects all of it.

    A transfer may begin when fewer than ``max_active`` of its own priority or higher receive: lower
    ones leave it room. The first one of a user may also begin while fewer than ``max_active`` users
    have one: so no user who fills all places, however slowly, keeps the others waiting.

    A session has one place, however many numbered files it has under way: they share its data
    connections and what these hold in memory. It begins another file in its place while no other
    session has to wait, up to ``MAX_BESIDE`` files of all sessions.

    The rest wait. At equal priority users take turns: that one is first whose user has the fewest
    before it, receiving or waiting, and of those the one whose user got a place the longest ago.
    Between priorities the most urgent goes first: a step counts as having come ``URGENCY`` seconds
    earlier. Any thread may call any method.
    """

    def __init__(self, max_active: int) -> None:
        self._max_active = max_active
        self._lock = threading.Lock()
        self._active: list[Transfer] = []
        self._waiting: list[Transfer] = []
        self._turns = itertools.count()
        self._admissions = itertools.count(1)
        self._last_of: dict[str, int] = {}  # the last admission of each user that is here

    def enter(self, transfer: Transfer) -> int:
        """Give ``transfer`` its turn; return 0 if it may begin, otherwise its position.

        Raises ``RejectedError`` where too many wait already.
        """
        with self._lock:
            transfer.turn = next(self._turns)
            if self._sessions_beside(transfer) >= config.MAX_TRANSFERS_OF_USER:
                raise RejectedError("busy", "too many transfers of this user; try again later")
            if self._has_place_for(transfer):
                self._place(transfer)
                return 0
            if self._is_crowded(transfer):
                raise RejectedError("busy", "too many transfers wait already; try again later")
            self._waiting.append(transfer)
            return dict(self._positions())[transfer]

    def leave(self, transfer: Transfer) -> list[Transfer]:
        """Take ``transfer`` out; return the transfers that are admitted in its place."""
        with self._lock:
            for line in (self._active, self._waiting):
                if transfer in line:
                    line.remove(transfer)
            admitted = list(self._admit())
            if not self._of_user(transfer.facts.user):
                self._last_of.pop(transfer.facts.user, None)
            return admitted

    def _of_user(self, user: str) -> list[Transfer]:
        return [one for one in self._active + self._waiting if one.facts.user == user]

    def _sessions_beside(self, transfer: Transfer) -> int:
        """Count the other sessions of its user that receive or wait."""
        sessions = {one.session for one in self._of_user(transfer.facts.user)}
        return len(sessions - {transfer.session})

    def _is_crowded(self, transfer: Transfer) -> bool:
        """Whether too many wait: sessions, and files of those that have others here."""
        ahead = any(one.session is transfer.session for one in self._active + self._waiting)
        waiting = self._waiting if ahead else {one.session for one in self._waiting}
        return len(waiting) >= config.MAX_WAITING_TRANSFERS

    def _place(self, transfer: Transfer) -> None:
        self._active.append(transfer)
        self._last_of[transfer.facts.user] = next(self._admissions)

    def _admit(self) -> Iterator[Transfer]:
        """Admit those that have a place; the caller holds the lock, as for those below."""
        while True:
            one = next(filter(self._has_place_for, self._line()), None)
            if one is None:
                return
            self._waiting.remove(one)
            self._place(one)
            yield one

    def _has_place_for(self, transfer: Transfer) -> bool:
        if any(one.session is transfer.session for one in self._active):
            return self._may_share(transfer)
        before = [one for one in self._active if one.priority >= transfer.priority]
        users = {one.facts.user for one in before}
        first = transfer.facts.user not in users
        places = len({one.session for one in before})
        return places < self._max_active or (first and len(users) < self._max_active)

    def _may_share(self, transfer: Transfer) -> bool:
        """Whether it may begin in the place that its session has."""
        level, session = transfer.priority, transfer.session
        others = (one for one in self._waiting if one.session is not session)
        return len(self._active) < config.MAX_BESIDE and all(one.priority < level for one in others)

    def _line(self) -> Iterator[Transfer]:
        """Give those that wait, the next one first."""
        ages = sorted(self._waiting, key=lambda one: (one.priority, one.asked_at))
        lines = (list(of) for _, of in itertools.groupby(ages, lambda one: one.priority))
        return heapq.merge(
            *map(self._in_turns, lines),
            key=lambda one: one.asked_at - one.priority * config.URGENCY,
        )

    def _in_turns(self, waiting: list[Transfer]) -> list[Transfer]:
        """Order transfers of one priority, the oldest first, so that their users take turns."""
        before = Counter(one.user for one in {one.session for one in self._active})
        last, keys = dict(self._last_of), {}
        for one in waiting:
            user = one.facts.user
            keys[one] = before[user], last.get(user, 0)
            before[user] += 1
            last[user] = sys.maxsize  # its next one comes after this one
        return sorted(waiting, key=keys.__getitem__)

    def _positions(self) -> Iterator[tuple[Transfer, int]]:
        """Count, for each that waits, those of its own priority or higher up to it."""
        counts: Counter[int] = Counter()
        for one in self._line():
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

    def stalled(self, timeout: float) -> list[Transfer]:
        """Return the transfers of sessions in which nothing has come for ``timeout`` seconds."""
        still = [(one, one.stalled_for()) for one in self.active()]
        moving = {one.session for one, seconds in still if seconds <= timeout}
        return [one for one, _ in still if one.session not in moving]

    def active(self) -> list[Transfer]:
        """Return the transfers that receive or are verified."""
        with self._lock:
            return list(self._active)

    def waiting(self) -> list[Transfer]:
        """Return the transfers that wait, the next one first."""
        with self._lock:
            return list(self._line())

    def positions(self) -> list[tuple[Transfer, int]]:
        """Return the transfers that wait, each with its position in the queue."""
        with self._lock:
            return list(self._positions())
