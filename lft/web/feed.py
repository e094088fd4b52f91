"""Looks at the transfers twice a second, and lets those know that watch."""

from __future__ import annotations

from lft.server.connections import Connections
from lft.server.event_loop import EventLoop
from lft.server.work_queue import WorkQueue
from lft.web.events import Events
from lft.web.overview import Overview, key_of


class Feed:
    """Measures what is under way, and tells of it. ``tick`` runs on main, the rest on a worker."""

    def __init__(
        self,
        overview: Overview,
        events: Events,
        connections: Connections,
        work: WorkQueue,
        loop: EventLoop,
    ) -> None:
        self._overview = overview
        self._events = events
        self._connections = connections
        self._work = work
        self._loop = loop
        self._looking = False  # a worker is at it; the next one begins when that has ended
        self._known: set[str] = set()  # transfers of which was told that they began

    def tick(self) -> None:
        """Have a worker look (main)."""
        if not self._looking:
            self._looking = True
            self._work.put(self._look, priority=0)

    def _look(self) -> None:
        try:
            active = self._overview.sample()
            if self._events.watched:
                self._tell()
            else:
                self._known = {key_of(one) for one in active}
        finally:
            self._looking = False
        self._loop.call(self._connections.nudge_all)

    def _tell(self) -> None:
        described = []
        for transfer, position in self._overview.all():
            facts = self._overview.describe(transfer, position)
            described.append((transfer.session.user, facts))
            if facts["id"] not in self._known:
                self._events.tell("start", transfer.session.user, facts)
        self._known = {facts["id"] for _, facts in described}
        self._events.tell_progress(described)
