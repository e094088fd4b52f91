"""The loop of the main thread: descriptors, calls from other threads, timers."""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import time
from collections import deque
from typing import Any, Callable

from lft.clock import Timers
from lft.server.work_queue import Unit
from lft.wire.sockets import Waker

log = logging.getLogger("server")


class EventLoop:
    """Waits for descriptors and instants, and does what belongs to them on the main thread.

    Everything runs on main, except ``call``, ``later`` and ``wake`` (any thread).
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._rung = False
        self._calls: deque[Unit] = deque()  # its append and popleft are atomic
        self._timers = Timers()
        self._selector.register(self._waker, selectors.EVENT_READ, self._on_ring)

    # -- any thread

    def call(self, function: Unit) -> None:
        """Have ``function`` run on main soon."""
        self._calls.append(function)
        if not self._rung:  # cleared before the calls are taken: no call is overlooked
            self._rung = True
            self._waker.ring()

    def later(self, instant: float, unit: Unit) -> None:
        """Have ``unit`` done on main at ``instant``."""
        self.call(lambda: self.at(instant, unit))

    def wake(self) -> None:
        """End the wait that runs now; a signal handler may call it, too."""
        self._waker.ring()

    # -- main

    def at(self, instant: float, unit: Unit) -> None:
        """Do ``unit`` at ``instant``, not before."""
        self._timers.at(instant, unit)

    def watch(self, file: Any, events: int, function: Unit) -> None:
        """Call ``function`` whenever ``file`` is ready."""
        self._selector.register(file, events, function)

    def unwatch(self, file: Any) -> None:
        """Do not look at ``file`` any more."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)

    def watches(self, file: Any) -> bool:
        """Return whether ``file`` is watched."""
        return file in self._selector.get_map()

    def every(self, seconds: float, unit: Unit) -> None:
        """Do ``unit`` now and again, whatever it raises."""

        def again() -> None:
            self.at(time.monotonic() + seconds, again)
            self.safely(unit)

        again()

    def turn(self) -> None:
        """Wait for the next thing to do, and do all that is ready."""
        left = max(0.0, self._timers.next_at - time.monotonic())
        for key, _ in self._selector.select(None if left == math.inf else left):
            self.safely(key.data)
        for unit in self._timers.due():
            self.safely(unit)

    def _on_ring(self) -> None:
        self._waker.quiet()
        self._rung = False
        self.run_calls()

    def run_calls(self) -> None:
        """Do what other threads have asked for."""
        while self._calls:
            self.safely(self._calls.popleft())

    @property
    def has_calls(self) -> bool:
        """Whether another thread has asked for something that is not done yet."""
        return bool(self._calls)

    @staticmethod
    def safely(function: Callable[[], object]) -> None:
        """Do one thing; a bug in it must not end the server for all clients."""
        try:
            function()
        except Exception:
            log.exception("internal error on the main thread")

    def close(self) -> None:
        """Release the descriptors."""
        self._selector.close()
        self._waker.close()
