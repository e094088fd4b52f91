"""How fast a file goes, and when it will be there."""

from __future__ import annotations

import pytest

from config import MB
from lft.client.progress import Journey, Pace
from tests.support.waiting import SleepClock


def _send(one: Journey, clock: SleepClock, seconds: int, rate: int) -> None:
    """Let ``rate`` bytes a second be sent for a while, told ten times a second."""
    for _ in range(10 * seconds):
        clock.now += 0.1
        one.move(one.at + rate // 10, one.sent + rate // 10, 0, sending=True)


def test_the_rate_is_right_from_the_start(clock: SleepClock) -> None:
    """A mean that begins at zero would need many seconds."""
    one = Journey("x", 1000 * MB)
    _send(one, clock, 1, 4 * MB)
    assert one.rate == pytest.approx(4 * MB, rel=0.01)
    assert one.seconds_left == pytest.approx(249, rel=0.01)


def test_only_what_this_run_sends_counts_for_the_rate(clock: SleepClock) -> None:
    """What an earlier attempt has left is there at once; it says nothing of the link."""
    one = Journey("x", 1000 * MB)
    for step in range(10):
        clock.now += 1
        one.move(step * 60 * MB, 0, 0, sending=False)
    assert (one.rate, one.seconds_left) == (0, None)
    _send(one, clock, 1, 2 * MB)
    assert one.rate == pytest.approx(2 * MB, rel=0.01)


def test_the_time_left_is_steadier_than_the_rate(clock: SleepClock) -> None:
    """A burst of a second is no reason to promise an early end."""
    one = Journey("x", 1000 * MB)
    _send(one, clock, 30, 2 * MB)
    before, rate = one.seconds_left, one.rate
    _send(one, clock, 1, 8 * MB)
    assert before is not None
    assert one.seconds_left is not None
    assert one.rate > 1.4 * rate
    assert one.seconds_left > before * 0.8


def test_time_in_which_the_process_was_suspended_does_not_count(clock: SleepClock) -> None:
    """After Ctrl-Z and fg the link is as fast as before, and nothing stood still."""
    one = Journey("x", 1000 * MB)
    _send(one, clock, 5, 2 * MB)
    clock.now += 600
    one.move(one.at, one.sent, 0, sending=True)
    assert one.still_for < 1
    assert one.rate == pytest.approx(2 * MB, rel=0.1)


def test_what_stands_still_is_known(clock: SleepClock) -> None:
    """A byte that the server verifies is progress, too."""
    one = Journey("x", 1000 * MB)
    _send(one, clock, 5, 2 * MB)
    for _ in range(70):
        clock.now += 0.1
        one.move(one.at, one.sent, 0, sending=True)
    assert one.still_for == pytest.approx(7.0)
    one.move(one.at, one.sent, 1, sending=True)
    assert one.still_for == 0


def test_a_pace_forgets() -> None:
    """Only so does it follow a link that became slower."""
    pace = Pace(4.0)
    for rate in [10.0] * 20 + [1.0] * 20:
        pace.note(rate, 1.0)
    assert pace.rate == pytest.approx(1.0, rel=0.1)
