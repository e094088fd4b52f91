"""The queue of the workers, and which transfer gives way to which."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from typing import Iterator

import pytest

import config
from lft.server.right_of_way import RightOfWay
from lft.server.work_queue import WorkQueue
from lft.wire.connection import Connection
from protocol import Side
from tests.support.waiting import Clock, eventually

# --- the queue of workers -----------------------------------------------------------------------


@pytest.fixture
def one_worker() -> Iterator[WorkQueue]:
    """A queue with a single worker, so that the order shows."""
    work = WorkQueue(1)
    yield work
    work.shutdown()


def _wait(gate: threading.Event) -> None:
    gate.wait()


def _run_behind_a_blocker(work: WorkQueue, units: list[tuple[str, int]]) -> list[str]:
    """Put units while the only worker is busy; return their names in the order they ran."""
    gate = threading.Event()
    ran: list[str] = []
    work.put(partial(_wait, gate), 0)
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
    gate = threading.Event()
    ran: list[str] = []
    one_worker.put(partial(_wait, gate), 0)
    one_worker.put(lambda: ran.append("low"), 0)
    now += 2 * config.LEAD
    one_worker.put(lambda: ran.append("high"), 1)
    gate.set()
    monkeypatch.undo()
    eventually(lambda: len(ran) == 2)
    assert ran == ["low", "high"]


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


FAST = 10 * config.MB  # more than holds the others back for as long as may be
EVER = float("inf")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until somebody moves it."""
    one = Clock()
    monkeypatch.setattr("lft.server.work_queue.time", one)
    return one


def test_a_priority_that_moves_holds_the_lower_ones_back(clock: Clock) -> None:
    """FAULTS 31: them, and nobody else."""
    way = RightOfWay()
    way.moved(1, FAST)
    assert way.pause(0, EVER) == pytest.approx(config.HOLD)
    assert [way.pause(priority, EVER) for priority in (1, 2)] == [0.0, 0.0]


def test_the_lower_ones_do_not_take_the_way_over(clock: Clock) -> None:
    """A block that one of them still brings changes nothing; one of a higher one does."""
    way = RightOfWay()
    way.moved(1, FAST)
    way.moved(0, FAST)
    assert way.pause(0, EVER) > 0
    way.moved(2, FAST)
    assert way.pause(1, EVER) > 0


def test_nobody_is_held_back_by_what_has_ended(clock: Clock) -> None:
    """The next priority has the way then."""
    way = RightOfWay()
    way.moved(1, FAST)
    clock.now += config.HOLD
    assert way.pause(0, EVER) == 0.0
    way.moved(0, FAST)
    assert way.pause(-1, EVER) > 0


def test_who_has_been_held_back_for_long_goes_on(clock: Clock) -> None:
    """FAULTS 31: its pause ends at the instant that it was promised."""
    way = RightOfWay()
    way.moved(1, FAST)
    assert way.pause(0, clock.now + config.HOLD / 2) == pytest.approx(config.HOLD / 2)
    assert way.pause(0, clock.now) == 0.0


@pytest.mark.parametrize(("rate", "part"), [(2.0, 1.0), (1.0, 1.0), (0.25, 0.25), (0.01, 0.01)])
def test_a_slow_transfer_holds_the_others_back_in_proportion(
    clock: Clock, rate: float, part: float
) -> None:
    """What comes over a slow link does not keep a fast one waiting, block after block."""
    way, block, held = RightOfWay(), 200 * config.KB, 0.0
    gap = block / (rate * config.HOLD_RATE)
    for _ in range(100):
        way.moved(1, block)
        held += min(gap, way.pause(0, EVER))
        clock.now += gap
    assert held / (100 * gap) == pytest.approx(part, rel=0.01)
