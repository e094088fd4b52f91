"""One limit for all users: equal parts, all of it used, and no user kept that owes nothing."""

from __future__ import annotations

import heapq

import pytest

import config
from lft.server.shared_limit import SharedLimit
from tests.support.waiting import Clock

RATE, BLOCK = 1000.0, 20.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until a test moves it."""
    one = Clock()
    monkeypatch.setattr("lft.server.shared_limit.time", one)
    return one


class Stream:
    """A connection that brings blocks as fast as the limit allows, or each ``every`` seconds."""

    def __init__(self, user: str, streams: int, size: float = BLOCK, every: float = 0.0) -> None:
        self.user, self.streams, self.size, self.every = user, streams, size, every
        self.owed = self.due = self.brought = 0.0

    def go_on(self, limit: SharedLimit, now: float) -> float:
        """Bring a block if the last one is paid for; return the instant to come back at."""
        pause = limit.wait(self.owed)
        if not pause and now >= self.due:
            self.due = now + self.every
            self.brought += self.size
            self.owed = limit.take(self.user, self.size, self.streams)
            pause = limit.wait(self.owed)
        return max(now + pause, self.due)


def send(clock: Clock, limit: SharedLimit, streams: list[Stream], seconds: float = 60) -> float:
    """Let the streams send for so long; return the bytes that all together brought."""
    before, end = sum(one.brought for one in streams), clock.now + seconds
    visits = [(clock.now, number) for number in range(len(streams))]
    while visits[0][0] < end:
        at, number = heapq.heappop(visits)
        clock.now = max(clock.now, at)
        heapq.heappush(visits, (streams[number].go_on(limit, clock.now), number))
    clock.now = end
    return sum(one.brought for one in streams) - before


def test_each_user_has_an_equal_part_however_many_streams_it_has(clock: Clock) -> None:
    """Sixty-four, four and one: a third for each, and the rate for all together."""
    limit = SharedLimit(RATE)
    crowds = [[Stream(str(count), count) for _ in range(count)] for count in (64, 4, 1)]
    streams = [one for crowd in crowds for one in crowd]
    send(clock, limit, streams, 10)  # at first each stream brings a block that is not paid for
    began = [sum(one.brought for one in crowd) for crowd in crowds]
    passed = send(clock, limit, streams)
    assert passed == pytest.approx(60 * RATE, rel=0.03)
    for crowd, before in zip(crowds, began):
        part = sum(one.brought for one in crowd) - before
        assert part == pytest.approx(20 * RATE, rel=0.08)


@pytest.mark.parametrize("count", [1, 4, 64])
def test_a_user_alone_has_the_whole_rate_and_no_more(clock: Clock, count: int) -> None:
    """With one stream, or with many: each brings one block that is paid for later."""
    passed = send(clock, SharedLimit(RATE), [Stream("u", count) for _ in range(count)])
    assert 60 * RATE * 0.98 <= passed <= 60 * RATE + RATE * config.BURST + count * BLOCK


def test_what_a_slow_user_leaves_the_others_have(clock: Clock) -> None:
    """A tenth of the rate is less than its part: it gets all of it, and the other the rest."""
    slow, fast = Stream("slow", 1, every=0.2), [Stream("fast", 8) for _ in range(8)]
    passed = send(clock, SharedLimit(RATE), [slow, *fast])
    assert slow.brought == pytest.approx(60 * RATE / 10, rel=0.03)
    assert passed == pytest.approx(60 * RATE, rel=0.03)


def test_who_leaves_gives_its_part_back_at_once(clock: Clock) -> None:
    """The streams that remain have what they waited for as soon as the rate allows it."""
    limit, stays = SharedLimit(RATE), [Stream("stays", 16) for _ in range(16)]
    send(clock, limit, [*stays, *(Stream("leaves", 4) for _ in range(4))], 10)
    assert send(clock, limit, stays, 10) == pytest.approx(10 * RATE, rel=0.03 + 4 * BLOCK / RATE)


def test_whoever_brings_the_most_at_once_waits_the_longest(clock: Clock) -> None:
    """Of two streams of a user, one with large blocks does not keep one with small ones waiting."""
    limit = SharedLimit(RATE)
    large, small = Stream("u", 2, size=100 * BLOCK), Stream("u", 2)
    send(clock, limit, [large, small])
    assert small.brought > 60 * RATE / 4
    assert limit.wait(large.owed) > limit.wait(small.owed)


def test_a_silence_is_made_up_for_only_in_part(clock: Clock) -> None:
    """After an hour of silence the bytes of an hour do not pass at once."""
    limit = SharedLimit(RATE)
    clock.now += 3600
    assert limit.wait(limit.take("u", RATE * config.BURST, 1)) == pytest.approx(0.0)
    assert limit.wait(limit.take("u", RATE, 1)) == pytest.approx(1.0)


def test_users_that_owe_nothing_are_forgotten(clock: Clock) -> None:
    """A thousand came; when all is paid for none of them is remembered."""
    limit = SharedLimit(RATE)
    for number in range(1000):
        limit.take(str(number), RATE, 1)
    assert limit.users == 1000
    clock.now += 999
    assert limit.users > 0
    clock.now += 1.1
    assert limit.users == 0
