"""The pool of workers: the most urgent unit of work first."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import config
from lft.wire.connection import Connection
from lft.wire.sockets import Waker

log = logging.getLogger("server")

Unit = Callable[[], None]


class WorkQueue:
    """A ``ThreadPoolExecutor`` whose workers take the most urgent unit first.

    A step of priority counts as ``LEAD`` seconds of waiting, so no unit starves. The order of two
    units never changes while they wait: a heap of (time it came - priority x LEAD) says it all. The
    lock protects the heap and the counts.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Unit]] = []
        self._ages = itertools.count()
        self._busy = 0
        self._closed = False
        self._lingering = 0
        self._pressure = Waker()

    def start(self) -> None:
        """Start all workers now (main). Raises ``RuntimeError`` where the system has no threads."""
        all_there = threading.Event()
        try:
            for _ in range(self._workers):  # each waits, so that the pool needs one more
                self._pool.submit(all_there.wait)
        finally:
            all_there.set()

    def put(self, unit: Unit, priority: int) -> None:
        """Have ``unit`` run by a worker soon (any)."""
        with self._lock:
            if self._closed:
                return  # the server ends, and everything that runs with it
            due = time.monotonic() - priority * config.LEAD
            heapq.heappush(self._heap, (due, next(self._ages), unit))
            self._pool.submit(self._run_most_urgent)
            wanted = self._lingering > 0 and self.pressed
        if wanted:
            self._pressure.ring()

    @property
    def pressed(self) -> bool:
        """Whether a unit waits while all workers are busy (any); no lock: it may be stale."""
        return len(self._heap) + self._busy > self._workers

    def _run_most_urgent(self) -> None:
        """Run one unit (a worker). What a unit raises is a bug: logged, and the worker goes on."""
        with self._lock:
            _, _, unit = heapq.heappop(self._heap)
            self._busy += 1
        try:
            unit()
        except Exception:
            log.exception("a unit of work failed")
        finally:
            with self._lock:
                self._busy -= 1

    def linger(self, connection: Connection, seconds: float) -> bool:
        """Wait for more (a worker); ``False`` if nothing came, or another needs the worker."""
        with self._lock:
            if self.pressed:
                return False
            self._lingering += 1
        try:
            ready = connection.wait(seconds, waker=self._pressure)
        finally:
            with self._lock:
                self._lingering -= 1
        if not ready:
            self._pressure.quiet(1)  # one ring is for one of us
        return ready

    def shutdown(self) -> None:
        """Wait for the units that are there already and end the workers (main)."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True)
        self._pressure.close()
