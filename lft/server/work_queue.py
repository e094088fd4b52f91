"""The pool of workers: the most urgent unit of work first, and each user in turn."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, NamedTuple

import config
from lft.server.log_limit import speaking_for
from lft.server.turns import Turns
from lft.wire.channel import Channel
from lft.wire.sockets import Waker

log = logging.getLogger("server")

Unit = Callable[[], None]


class _Waiting(NamedTuple):
    """A unit of work that waits."""

    came: float  # on the monotonic clock
    priority: int
    unit: Unit
    login: bool
    owner: str  # a user, or the network of a connection that has none


class _Order:
    """The units of work that wait, and which of them is next. It has no lock: its owner has.

    At equal priority users take turns, however much each of them has waiting. Of two priorities
    that one goes first whose next unit is older, where priority counts as waiting: none starves.
    Connections that have not logged in have every second turn, their networks one after the other.
    So no user's work keeps others from logging in, and strangers do not keep users from their work.
    """

    def __init__(self) -> None:
        self.users = 0  # units of users
        self._logins: Turns[_Waiting] = Turns()
        self._turns: dict[int, Turns[_Waiting]] = {}  # of users, by priority; none is empty
        self._login_was_last = False

    @property
    def logins(self) -> int:
        """How many units of connections wait that have not logged in."""
        return len(self._logins)

    def add(self, waiting: _Waiting) -> None:
        """Add a unit."""
        if waiting.login:
            self._logins.add(waiting.owner, waiting)
        else:
            self._turns.setdefault(waiting.priority, Turns()).add(waiting.owner, waiting)
            self.users += 1

    def take(self, *, users_may: bool) -> _Waiting | None:
        """Take out the next unit; ``None`` if there is none of those that may run."""
        users_may = users_may and self.users > 0
        login = self.logins > 0 and not (users_may and self._login_was_last)
        self._login_was_last = login
        if login:
            return self._logins.take()
        return self._take_of_users() if users_may else None

    def _take_of_users(self) -> _Waiting:
        priority = min(self._turns, key=lambda one: self._turns[one].first.came - lead(one))
        waiting = self._turns[priority].take()
        if not self._turns[priority]:
            del self._turns[priority]
        self.users -= 1
        return waiting


def lead(priority: int) -> float:
    """Return the seconds of waiting that ``priority`` is worth in the queue.

    The first step from 0 is worth ``LEAD``, further ones less and less, all together less than
    ``LONGEST_LEAD``: otherwise a priority of 1000 kept all others waiting for 100 s.
    """
    steps = config.LONGEST_LEAD / config.LEAD
    return config.LONGEST_LEAD * priority / (steps - 1 + abs(priority)) if priority else 0.0


class WorkQueue:
    """A ``ThreadPoolExecutor`` whose workers take the unit that is next (``_Order``).

    Units of users leave a worker to those that log in, if there are several: a user's unit may have
    to wait for the disk. The lock protects ``_order`` and the counts.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._most_for_users = max(1, workers - config.LOGIN_WORKERS)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._lock = threading.Lock()
        self._order = _Order()
        self._busy = 0
        self._busy_for_users = 0
        self._put_off = 0  # calls of workers that found no unit that might run
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

    def put(self, unit: Unit, priority: int, owner: str = "", *, login: bool = False) -> None:
        """Have ``unit`` run by a worker soon (any).

        ``owner`` is the user that it is for. A ``login`` is of a connection that has none yet: then
        ``owner`` is its network.
        """
        with self._lock:
            if self._closed:
                return  # the server ends, and everything that runs with it
            self._order.add(_Waiting(time.monotonic(), priority, unit, login, owner))
            self._pool.submit(self._run_next)
            wanted = self._lingering > 0 and self.pressed
        if wanted:
            self._pressure.ring()

    @property
    def pressed(self) -> bool:
        """Whether a unit waits while no worker is free for it (any); no lock: it may be stale."""
        users = self._order.users
        if users + self._busy_for_users > self._most_for_users and users:
            return True
        return users + self._order.logins + self._busy > self._workers

    def _run_next(self) -> None:
        """Run the next unit, and those that had to wait for its end (a worker)."""
        waiting = self._take()
        while waiting:
            self._run(waiting)
            waiting = self._take_put_off(waiting)

    def _take(self) -> _Waiting | None:
        with self._lock:
            waiting = self._take_locked()
            self._put_off += waiting is None
            return waiting

    def _take_put_off(self, done: _Waiting) -> _Waiting | None:
        """Note the end of a unit; take another in place of a call that found none."""
        with self._lock:
            self._busy -= 1
            self._busy_for_users -= not done.login
            waiting = self._take_locked() if self._put_off else None
            self._put_off -= waiting is not None
            return waiting

    def _take_locked(self) -> _Waiting | None:
        """Take the next unit that may run; the caller holds the lock."""
        waiting = self._order.take(users_may=self._busy_for_users < self._most_for_users)
        if waiting:
            self._busy += 1
            self._busy_for_users += not waiting.login
        return waiting

    @staticmethod
    def _run(waiting: _Waiting) -> None:
        """Run one unit. What it raises is a bug: logged, and the worker goes on."""
        with speaking_for(waiting.owner):
            try:
                waiting.unit()
            except Exception:
                log.exception("a unit of work failed")

    def linger(self, connection: Channel, seconds: float) -> bool:
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
