"""Which priority may send, and which is held back meanwhile."""

from __future__ import annotations

import pytest

import config
from lft.server.right_of_way import RightOfWay
from tests.support.waiting import Clock

FAST = 10 * config.MB  # more than holds the others back for as long as may be
EVER = float("inf")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until somebody moves it."""
    one = Clock()
    monkeypatch.setattr("lft.server.right_of_way.time", one)
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


def test_a_priority_is_overtaken_for_a_while_after_a_higher_one_moved(clock: Clock) -> None:
    """FAULTS 31: also in the gaps of the higher one, in which the lower ones have the way."""
    way = RightOfWay()
    assert not way.is_overtaken(-1)
    way.moved(1, FAST)
    clock.now += 2 * config.HOLD
    way.moved(0, FAST)
    assert [way.is_overtaken(priority) for priority in (0, 1, 2)] == [True, False, False]
    clock.now += config.LONGEST_HOLD
    assert not way.is_overtaken(0)
    way.moved(0, FAST)
    assert way.is_overtaken(-1)
