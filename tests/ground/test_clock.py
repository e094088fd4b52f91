"""Deadlines, pauses, timers, and buckets that hold a rate."""

from __future__ import annotations

import functools
import math
import time

import pytest

import config
from lft.clock import Backoff, Deadline, Pauses, Timers, TokenBucket, WakingClock
from tests.support.waiting import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until a test moves it."""
    one = Clock()
    monkeypatch.setattr("lft.clock.time", one)
    return one


def test_a_deadline_ahead_has_not_passed() -> None:
    """What is left is at most what was given."""
    deadline = Deadline(1000)
    assert not deadline.passed
    assert 990 < deadline.left() <= 1000


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_deadline_behind_has_passed(seconds: float) -> None:
    """What is left is never below zero."""
    deadline = Deadline(seconds)
    assert deadline.passed
    assert deadline.left() == 0


def test_a_deadline_comes_nearer_until_it_is_put_off(clock: Clock) -> None:
    """Putting it off gives the whole time again."""
    deadline = Deadline(1000)
    clock.now += 300
    assert deadline.left() == 700
    deadline.put_off()
    assert deadline.left() == 1000


def test_a_backoff_doubles_up_to_its_longest_pause_and_begins_anew() -> None:
    """Each pause has at least half of its full length: the rest is random."""
    backoff = Backoff(1.0, 4.0)
    for full in (1, 2, 4, 4):
        assert full / 2 <= backoff.next_pause() <= full
    backoff.reset()
    assert backoff.next_pause() <= 1


def test_pauses_that_overlap_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that pause at the same time count as one."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pauses = Pauses()
    for start, length in ((0.0, 2.0), (1.0, 0.5), (1.5, 1.5), (10.0, 1.0)):
        now = 1000.0 + start
        pauses.add(length)
    assert pauses.seconds == 4.0


def test_a_bucket_lets_its_rate_pass_however_many_take_from_it(clock: Clock) -> None:
    """Each taker waits as it is told; in ten seconds the bytes of ten seconds pass."""
    bucket, passed = TokenBucket(1000), 0
    until = [clock.now] * 8
    end = clock.now + 10
    while min(until) < end:
        who = until.index(min(until))
        clock.now = max(clock.now, until[who])
        until[who] = clock.now + bucket.take(100)
        passed += 100
    assert 10_000 <= passed <= 10_000 * 1.05 + len(until) * 100


def test_a_pause_is_made_up_for_only_in_part(clock: Clock) -> None:
    """After an hour of silence the bytes of an hour do not pass at once."""
    bucket = TokenBucket(1000)
    clock.now += 3600
    assert bucket.take(int(1000 * config.BURST)) == pytest.approx(0.0)
    assert bucket.take(1000) == pytest.approx(1.0)


def test_a_timer_is_due_at_its_instant_and_once(clock: Clock) -> None:
    """The earliest call comes first; of two for the same instant, the older one."""
    timers = Timers()
    made: list[str] = []
    for name, instant in (("late", 30), ("first", 10), ("second", 10)):
        timers.at(clock.now + instant, functools.partial(made.append, name))
    for seconds, names in ((9, []), (1, ["first", "second"]), (0, []), (1000, ["late"])):
        clock.now += seconds
        made.clear()
        for call in timers.due():
            call()
        assert made == names


def test_timers_tell_when_the_next_one_is_due(clock: Clock) -> None:
    """Never, if there is none."""
    timers = Timers()
    assert timers.next_at == math.inf
    for instant in (clock.now + 20, clock.now + 10):
        timers.at(instant, lambda: None)
        assert timers.next_at == instant
    clock.now += 15
    assert len(list(timers.due())) == 1
    assert timers.next_at == clock.now + 5


def test_a_timer_may_set_another_one(clock: Clock) -> None:
    """One that is due at once comes in the same round."""
    timers = Timers()
    made: list[str] = []
    timers.at(clock.now, lambda: timers.at(clock.now, lambda: made.append("second")))
    for call in timers.due():
        call()
    assert made == ["second"]


def test_a_clock_that_is_read_often_stands_still_while_the_process_does(
    clock: Clock,
) -> None:
    """After Ctrl-Z and fg a pause of an hour is none."""
    waking = WakingClock()
    start = waking.read()
    for _ in range(20):
        clock.now += 0.1
        waking.read()
    clock.now += 3600
    assert waking.read() - start == pytest.approx(2.0)
    assert waking.slept == pytest.approx(3600)
