"""An end for a server whose workers hang."""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time

from lft.wire.sockets import Waker

log = logging.getLogger("server")


class Watchdog(threading.Thread):
    """Ends the process at an instant, if it has not ended by itself: a dead disk holds for ever.

    Its thread runs from the start: when it is needed, the system may have no thread left. It waits
    for a ring, so that a signal handler may set the instant.
    """

    def __init__(self) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._waker = Waker()
        self._ends_at = math.inf  # on the monotonic clock; one attribute, replaced as a whole
        self._over = False

    def end_within(self, seconds: float) -> None:
        """Let the process last ``seconds`` at most from now on (any, also a signal handler)."""
        self._ends_at = min(self._ends_at, time.monotonic() + seconds)
        self._waker.ring()

    def run(self) -> None:
        """Wait for the instant (the watchdog's thread)."""
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        while not self._over:
            left = self._ends_at - time.monotonic()
            if left <= 0:
                _give_up()
            poll.poll(None if left == math.inf else math.ceil(left * 1000))
            self._waker.quiet()

    def dismiss(self) -> None:
        """End the watch: the server has ended (main)."""
        self._over = True
        self._waker.ring()
        if self.ident is not None:
            self.join()
        self._waker.close()


def _give_up() -> None:
    """Leave without the workers, and without a log that may hang as well."""
    log.error("a worker hangs, probably in the disk: ending without it; transfers can go on later")
    for handler in logging.getLogger().handlers:
        handler.flush()  # the log thread writes that, unless it hangs as well
    os._exit(0)
