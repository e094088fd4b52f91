"""Removing large trees between other work."""

from __future__ import annotations

import config
from lft.server.work_queue import WorkQueue
from lft.store.waste import Waste


class Clearing:
    """Has a worker remove some of the waste, as often as it takes, one at a time.

    Main begins while none is at it, and otherwise the worker goes on: so ``_under_way`` needs no
    lock. At the end of the server the queue takes nothing more; the next one goes on.
    """

    def __init__(self, waste: Waste, work: WorkQueue) -> None:
        self._waste = waste
        self._work = work
        self._under_way = False

    def look(self) -> None:
        """Begin if there is something to remove (main)."""
        if self._waste and not self._under_way:
            self._under_way = True
            self._go_on()

    def _go_on(self) -> None:
        self._work.put(self._remove_some, priority=0)

    def _remove_some(self) -> None:
        """Remove some of it; then others have their turn (a worker)."""
        try:
            self._waste.remove_some(config.REMOVE_FOR)
        finally:
            if self._waste:
                self._go_on()
            else:
                self._under_way = False
