"""Which acknowledgements are owed, and how long they usually take."""

from __future__ import annotations

import pytest

import config
from lft.client.acknowledgements import MOST_OWED, Acknowledgements
from protocol import RemoteProtocolError
from tests.support.waiting import SleepClock


@pytest.fixture
def acks(clock: SleepClock) -> Acknowledgements:
    """Acknowledgements of a file of which nothing was sent."""
    return Acknowledgements()


def test_a_block_is_owed_as_many_as_were_expected(acks: Acknowledgements) -> None:
    """The last of them settles it; one more is no news."""
    acks.expect(3)
    acks.expect(3)
    assert [acks.take(3), 3 in acks, acks.take(3), 3 in acks, acks.take(3)] == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert not acks


def test_no_block_is_owed_without_end(acks: Acknowledgements) -> None:
    """A server that asks for one over and over is not to be remembered each time."""
    for _ in range(MOST_OWED + 1):
        acks.expect(0)
    with pytest.raises(RemoteProtocolError, match="without end"):
        acks.expect(0)


def test_on_a_slow_link_a_stream_is_stuck_later(acks: Acknowledgements, clock: SleepClock) -> None:
    """What is usual is learned from the acknowledgements themselves."""
    assert acks.stuck == config.STUCK
    for block in range(3):
        acks.expect(block)
        acks.note_sent(block)
        clock.now += 20
        acks.take(block)
    assert acks.stuck == config.STUCK_TIMES * 20


def test_a_block_that_was_acknowledged_before_it_went_again_lags_no_more(
    acks: Acknowledgements, clock: SleepClock
) -> None:
    """Otherwise it would go out once more every time that one is stuck, until the verdict."""
    acks.expect(0)
    acks.note_sent(0)
    clock.now += 100
    assert acks.resend_late(1, hasty=False) == [0]
    assert acks.take(0)
    acks.note_sent(0)
    clock.now += 100
    assert acks.resend_late(1, hasty=False) == []


def test_rounds_count_only_when_all_of_them_are_recent(
    acks: Acknowledgements, clock: SleepClock
) -> None:
    """So many for each stream, within the time that one heard nothing."""
    for block in range(2 * config.STUCK_ROUNDS):
        acks.expect(block)
        assert not acks.rounds_within(100, streams=2)
        acks.take(block)
        clock.now += 1
    assert acks.rounds_within(100, streams=2)
    assert not acks.rounds_within(2 * config.STUCK_ROUNDS, streams=2)
    assert not acks.rounds_within(100, streams=3)
