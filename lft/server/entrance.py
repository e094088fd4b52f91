"""The entrance: how new connections come in, and what keeps them out."""

from __future__ import annotations

import logging
from functools import partial
from typing import Sequence

import config
from lft.addresses import Networks
from lft.server.connections import Connections, Greeter
from lft.server.disk_probe import DiskProbe
from lft.server.door import Door
from lft.server.event_loop import EventLoop
from lft.server.introductions import Introductions
from lft.wire.sockets import Socket

log = logging.getLogger("server")

STOPPING = "the server is shutting down"
DISK_HANGS = "the disk has not answered"


class Entrance:
    """The doors, the introductions behind them, and whether the disk has them shut. Main's own.

    Any thread may ask for ``trouble``.
    """

    def __init__(
        self, balancers: Sequence[str], loop: EventLoop, connections: Connections, disk: DiskProbe
    ) -> None:
        self._loop = loop
        self._connections = connections
        self._introductions = Introductions(
            Networks(balancers), loop, connections.welcome, connections.turn_away
        )
        self.disk = disk
        self.doors: list[Door] = []  # shut while there is trouble ...
        self._lasting: list[Door] = []  # ... and those that are open to tell of it
        self._stopping = False

    def add(self, listeners: Sequence[Socket], greeter: Greeter, *, lasts: bool = False) -> None:
        """Have ``greeter`` greet what comes to ``listeners``, which from now on are owned here.

        A door that ``lasts`` is open until the very end, also while there is trouble.
        """
        take = partial(self._introductions.take, greeter)
        door = Door(listeners, self._loop, take, self._make_room)
        (self._lasting if lasts else self.doors).append(door)

    def _make_room(self) -> bool:
        """Close a connection of which nothing is known, for one more; return whether one did."""
        return self._introductions.drop_oldest() or self._connections.drop_stranger()

    @property
    def trouble(self) -> str:
        """Why new clients had better go to another server; "" if they need not (any)."""
        if self._stopping:
            return STOPPING
        return DISK_HANGS if self.disk.hangs else ""

    def look(self, now: float) -> None:
        """Look at deadlines; open paused or shut doors again, or shut them while the disk hangs."""
        self._introductions.look_at_deadlines(now)
        for door in self._lasting:
            door.open()
        if self._stopping:
            return
        if self.disk.hangs:
            if sum(door.shut() for door in self.doors):
                log.error("%s for %g s: new connections are refused until it does",
                          DISK_HANGS, config.DISK_PATIENCE)  # fmt: skip
        elif sum(door.open() for door in self.doors):
            log.warning("the disk answers again: new connections are taken")

    def begin_stop(self) -> None:
        """Shut the doors for good, except those that last."""
        self._stopping = True
        for door in self.doors:
            door.shut()

    def close(self) -> None:
        """Shut all doors for good."""
        self.begin_stop()
        for door in self._lasting:
            door.shut()
        self._introductions.close()
