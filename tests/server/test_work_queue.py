"""The queue of the workers, and which transfer gives way to which."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from typing import Iterator

import pytest

import config
from lft.server.work_queue import WorkQueue, lead
from lft.wire.connection import Connection
from protocol import Side
from tests.support.waiting import PATIENCE, eventually

# --- the queue of workers -----------------------------------------------------------------------


@pytest.fixture
def one_worker() -> Iterator[WorkQueue]:
    """A queue with a single worker, so that the order shows."""
    work = WorkQueue(1)
    yield work
    work.shutdown()


def _block(work: WorkQueue) -> threading.Event:
    """Keep the only worker busy from now on, until the event that is returned is set."""
    begun, gate = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        gate.wait()

    work.put(wait, 0, "blocker")
    assert begun.wait(PATIENCE)
    return gate


def _run_behind_a_blocker(work: WorkQueue, units: list[tuple[str, int]]) -> list[str]:
    """Put units while the only worker is busy; return their names in the order they ran."""
    gate = _block(work)
    ran: list[str] = []
    for name, priority in units:
        work.put(partial(ran.append, name), priority)
    gate.set()
    eventually(lambda: len(ran) == len(units))
    return ran


def test_higher_priority_runs_first_then_the_older_unit(one_worker: WorkQueue) -> None:
    """Priority, then age."""
    units = [("low", 0), ("high", 1), ("low again", 0), ("high again", 1)]
    order = _run_behind_a_blocker(one_worker, units)
    assert order == ["high", "high again", "low", "low again"]


def test_waiting_raises_urgency(one_worker: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A low unit that waited longer than a step of priority is worth runs first: none starves."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gate = _block(one_worker)
    ran: list[str] = []
    one_worker.put(lambda: ran.append("low"), 0)
    now += 2 * config.LEAD
    one_worker.put(lambda: ran.append("high"), 1)
    gate.set()
    monkeypatch.undo()
    eventually(lambda: len(ran) == 2)
    assert ran == ["low", "high"]


def _order_of(work: WorkQueue, units: list[tuple[str, int, bool]]) -> list[str]:
    """Put units, named after their owners, while the only worker is busy; return their order."""
    gate = _block(work)
    ran: list[str] = []
    for name, priority, login in units:
        work.put(partial(ran.append, name), priority, name[0], login=login)
    gate.set()
    eventually(lambda: len(ran) == len(units))
    return ran


def test_users_of_one_priority_take_turns(one_worker: WorkQueue) -> None:
    """A user with a thousand connections gets no more turns than one with a single one."""
    units = [(f"a{number}", 0, False) for number in range(4)] + [("b0", 0, False)]
    assert _order_of(one_worker, units) == ["a0", "b0", "a1", "a2", "a3"]


def test_logins_take_every_second_turn(one_worker: WorkQueue) -> None:
    """A user of any priority that floods the queue does not keep others from logging in."""
    units = [(f"a{number}", 1000, False) for number in range(4)]
    units += [("x0", 0, True), ("x1", 0, True), ("y0", 0, True)]
    assert _order_of(one_worker, units) == ["x0", "a0", "y0", "a1", "x1", "a2", "a3"]


@pytest.mark.parametrize("priority", [1, 2, 10, 1000])
def test_no_priority_is_worth_more_than_a_second_of_waiting(priority: int) -> None:
    """With 0.1 s for each step, a priority of 1000 would keep the others waiting for 100 s."""
    assert lead(priority - 1) < lead(priority) < config.LONGEST_LEAD
    assert lead(-priority) == -lead(priority)
    assert lead(1) == pytest.approx(config.LEAD)


def test_a_worker_is_left_for_logins() -> None:
    """However many users wait for the disk, one that comes to log in finds a worker."""
    work = WorkQueue(3)
    gate, ran = threading.Event(), threading.Event()
    begun: list[int] = []

    def wait(number: int) -> None:
        begun.append(number)
        gate.wait()

    for number in range(5):
        work.put(partial(wait, number), 0, f"user {number}")
    work.put(ran.set, 0, "network", login=True)
    assert ran.wait(10)
    eventually(lambda: begun == [0, 1], "the units that may run")
    assert work.pressed
    gate.set()
    eventually(lambda: begun == [0, 1, 2, 3, 4], "the units that had to wait")
    work.shutdown()


def test_the_end_waits_for_units_that_had_to_wait() -> None:
    """What was put before the end still runs."""
    work = WorkQueue(2)
    gate = _block(work)
    ran: list[int] = []
    for number in range(3):
        work.put(partial(ran.append, number), 0)
    threading.Timer(0.05, gate.set).start()
    work.shutdown()
    assert ran == [0, 1, 2]


def test_a_unit_that_raises_does_not_cost_a_worker(
    one_worker: WorkQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 45: the error is logged, the next unit runs."""
    done = threading.Event()
    one_worker.put(lambda: 1 / 0, 0)  # type: ignore[arg-type]
    one_worker.put(done.set, 0)
    assert done.wait(10)
    assert "a unit of work failed" in caplog.text


def test_a_worker_leaves_a_silent_peer_when_somebody_needs_it(
    one_worker: WorkQueue,
) -> None:
    """A worker never waits for a peer while somebody else is ready."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Side.SERVER)
    lingering, left, done = threading.Event(), threading.Event(), threading.Event()

    def unit() -> None:
        lingering.set()
        assert not one_worker.linger(connection, 3600.0)
        left.set()

    one_worker.put(unit, 0)
    assert lingering.wait(10)
    one_worker.put(done.set, 0)
    assert left.wait(10)
    assert done.wait(10)
    ours.close()
    theirs.close()


def test_a_unit_that_comes_after_the_end_is_dropped() -> None:
    """A worker that still runs may put one; that is no error."""
    work = WorkQueue(1)
    work.shutdown()
    work.put(lambda: None, 0)


# --- who gives way ------------------------------------------------------------------------------
