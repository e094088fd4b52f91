"""How long a lost connection is tried again, and when a file counts as standing still."""

from __future__ import annotations

import itertools

import pytest

import config
from config import ClientSettings
from lft.addresses import NoNameServiceError, UnknownHostError
from lft.client.patience import Patience, Watch
from protocol import ConnectionLostError
from tests.support.waiting import SleepClock

LOST = ConnectionLostError("lost")


def _attempts(
    patience: Patience, clock: SleepClock, error: ConnectionLostError, each: float, again: int = 0
) -> int:
    """Have attempts fail that take ``each`` seconds; return how many were made.

    Each of them brings ``again`` bytes across.
    """
    for attempt in itertools.count(1):
        clock.now += each
        if again:
            patience.course(0).note_progress(again, 0)
        try:
            patience.wait(error)
        except ConnectionLostError:
            return attempt
    raise AssertionError


def test_a_server_never_reached_is_tried_for_the_timeout_in_all(clock: SleepClock) -> None:
    """DESIGN 9: pauses included, whatever one attempt takes."""
    patience = Patience(ClientSettings(timeout=30))
    _attempts(patience, clock, LOST, 0.0)
    assert 1030 <= clock.now <= 1030 + config.RETRY_FIRST


def test_once_a_session_stood_it_is_tried_for_ten_times_as_long(clock: SleepClock) -> None:
    """DESIGN 9: an outage of minutes costs patience, not the transfer."""
    patience = Patience(ClientSettings(timeout=30))
    patience.note_session()
    _attempts(patience, clock, LOST, 0.0)
    assert 1300 <= clock.now <= 1300 + config.RETRY_FIRST


def test_progress_puts_the_end_of_patience_off(clock: SleepClock) -> None:
    """FAULTS 40: outages without end are survived as long as something arrives in between."""
    patience = Patience(ClientSettings(timeout=30))
    patience.note_session()
    for more in range(1, 26):
        clock.now += 299
        patience.course(0).note_progress(more, 0)
        patience.wait(LOST)
    began = clock.now
    _attempts(patience, clock, LOST, 0.0)
    assert clock.now >= began + 250


def test_sessions_that_get_no_further_are_not_repeated_for_ever(clock: SleepClock) -> None:
    """A server that loses us at the same place each time has what patience does not cure."""
    patience = Patience(ClientSettings(timeout=30))

    def session() -> None:
        patience.note_session()
        patience.course(0).note_progress(50, 0)
        patience.wait(LOST)

    for _ in range(config.RETRY_MOST + 2):  # the first one got further than none
        session()
    with pytest.raises(ConnectionLostError):
        session()


def test_waiting_in_the_queue_is_not_silence(clock: SleepClock) -> None:
    """A server that says how many are before us is there: the patience begins anew."""
    patience = Patience(ClientSettings(timeout=30))
    patience.note_session()
    for _ in range(10):
        clock.now += 299
        patience.note_progress()
    patience.wait(LOST)


def test_a_first_attempt_that_takes_too_long_is_the_last(clock: SleepClock) -> None:
    """As long as no session stood, the timeout is all there is."""
    assert _attempts(Patience(ClientSettings(timeout=30)), clock, LOST, 31.0) == 1


def test_an_unknown_host_is_final_at_the_start_only(clock: SleepClock) -> None:
    """A typing error at first; later the name service is away with the rest of the network."""
    patience, unknown = Patience(ClientSettings(timeout=30)), UnknownHostError("no such host")
    assert _attempts(patience, clock, unknown, 0.0) == 1
    patience.note_session()
    assert _attempts(patience, clock, unknown, 0.0) > 5


def test_a_silent_name_service_is_tried_for_three_seconds_at_the_start(clock: SleepClock) -> None:
    """It may miss a beat; a host that is not known after that is not known."""
    patience, silent = Patience(ClientSettings(timeout=30)), NoNameServiceError("nobody answers")
    assert 1 < _attempts(patience, clock, silent, 0.0) < 10
    assert clock.now == pytest.approx(1000 + config.NAME_PATIENCE, abs=0.01)
    patience.note_session()
    _attempts(patience, clock, silent, 0.0)
    assert clock.now > 1300


def test_pauses_grow_up_to_a_limit_and_begin_anew_after_progress(clock: SleepClock) -> None:
    """A server that is down is not asked all the time, one that is back is found soon."""
    patience = Patience(ClientSettings(timeout=300))
    patience.note_session()
    for _ in range(12):
        patience.wait(LOST)
    assert clock.slept[0] <= config.RETRY_FIRST
    assert config.RETRY_LONGEST / 2 <= clock.slept[-1] <= config.RETRY_LONGEST
    patience.course(0).note_progress(1, 0)
    patience.wait(LOST)
    assert clock.slept[-1] <= config.RETRY_FIRST


def test_a_reason_is_told_once_until_a_session_stands(
    clock: SleepClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty equal lines say no more than one; another reason is news."""
    patience = Patience(ClientSettings(timeout=300))
    for error in (LOST, LOST, ConnectionLostError("refused"), LOST):
        patience.wait(error)
    patience.note_session()
    patience.wait(LOST)
    told = [record.getMessage().split(":")[0] for record in caplog.records]
    assert told == ["lost", "refused", "lost", "lost"]


def test_an_attempt_has_the_timeout_or_what_is_left(clock: SleepClock) -> None:
    """The last attempt does not go beyond the end; a moment is always left to try."""
    patience = Patience(ClientSettings(timeout=30))
    assert patience.left() == 30
    clock.now += 20
    assert patience.left() == 10
    clock.now += 20
    assert patience.left() == 0.1
    patience.note_session()
    assert patience.left() == 30


def test_a_file_that_moves_is_watched_on(clock: SleepClock) -> None:
    """Bytes acknowledged or verified are progress, also fewer of them: a block was damaged."""
    watch = Watch(30)
    for acknowledged, verified in ((10, 0), (10, 5), (5, 5)):
        clock.now += 299
        watch.note_sign()
        assert watch.note(acknowledged, verified)
        assert not watch.stalled
    assert not watch.note(5, 0)  # a message that says nothing of it
    clock.now += 2
    watch.note_sign()
    assert not watch.stalled
    clock.now += 299
    watch.note_sign()
    assert watch.stalled


def test_a_server_whose_turn_it_is_must_give_a_sign_within_the_timeout(clock: SleepClock) -> None:
    """While it verifies it says so once a second."""
    watch = Watch(30)
    clock.now += 29
    watch.note_sign()
    clock.now += 29
    assert not watch.stalled
    clock.now += 2
    assert watch.stalled


def test_a_directory_may_take_longer_at_its_end(clock: SleepClock) -> None:
    """Its entries get bits and times, each of them, while the server says that it lives."""
    watch = Watch(30, 1000)
    clock.now += 399
    watch.note_sign()
    assert not watch.stalled
    clock.now += 2
    watch.note_sign()
    assert watch.stalled


def _run_for(patience: Patience, clock: SleepClock, seconds: int) -> None:
    """Let the main loop have its turns."""
    for _ in range(10 * seconds):
        clock.now += 0.1
        patience.check()


@pytest.mark.parametrize("suspended", [True, False])
def test_a_client_that_was_suspended_has_all_its_patience(
    clock: SleepClock, suspended: bool
) -> None:
    """After Ctrl-Z and fg the server may have gone; that is no reason to give up."""
    patience = Patience(ClientSettings(timeout=30))
    patience.note_session()
    _run_for(patience, clock, 1)
    if suspended:
        clock.now += 3600
    else:
        _run_for(patience, clock, 300)
    assert (_attempts(patience, clock, LOST, 1.0) > 2) is suspended


def test_a_watch_begins_anew_after_a_suspension(clock: SleepClock) -> None:
    """The server had no chance to give a sign that was seen."""
    watch = Watch(30)
    for _ in range(100):
        clock.now += 0.1
        watch.note(0, 0)
    clock.now += 3600
    watch.note(0, 0)
    assert not watch.stalled
    for _ in range(310):
        clock.now += 0.1
        watch.note(0, 0)
    assert watch.stalled


def test_a_file_that_is_another_there_counts_as_not_begun() -> None:
    """Its bytes are sent: none of them were there, and each one brings the file further."""
    course = Patience(ClientSettings(if_exists="skip")).course(0)
    course.note_there(1000)
    course.note_progress(1000, 500)
    course.stop_skipping()
    course.note_there(0)
    assert (course.skips, course.there, course.achieved) == (False, 0, False)
