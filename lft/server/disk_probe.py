"""Whether the disk still answers."""

from __future__ import annotations

import logging
import time
from typing import Callable

import config
from lft.server.work_queue import WorkQueue

log = logging.getLogger("server")


class DiskProbe:
    """Has a worker ask the disk for a sign of life, again once it has answered.

    No answer means that the call hangs, or that no worker is left to make it because all of them
    hang. A disk that answers with an error does answer.
    """

    def __init__(self, ask: Callable[[], None], work: WorkQueue) -> None:
        """``ask`` does something that the disk has to answer."""
        self._ask = ask
        self._work = work
        self._asked_at: float | None = None  # by the monotonic clock; None: it has answered

    def begin(self) -> None:
        """Ask, unless the last answer is still to come (main)."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._work.put(self._run, priority=0)

    def _run(self) -> None:
        """Ask the disk, and wait for as long as that takes (a worker)."""
        try:
            self._ask()
        except OSError as error:
            log.debug("the disk answers: %s", error)
        finally:
            self._asked_at = None

    @property
    def hangs(self) -> bool:
        """Whether the answer is overdue (any)."""
        asked_at = self._asked_at
        return asked_at is not None and time.monotonic() - asked_at > config.DISK_PATIENCE
