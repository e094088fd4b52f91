"""Which transfers are admitted, and which wait."""

from __future__ import annotations

import pytest

import config
from lft.server.admission import Admission
from lft.server.buffers import BufferPool
from lft.server.sessions import Session
from lft.server.transfer import Transfer
from lft.store.journal import Facts
from protocol import RejectedError
from tests.support.transfers import BLOCK, idle_peer


def _transfer(priority: int = 0, user: str = "u") -> Transfer:
    session = Session(user, priority, idle_peer())
    facts = Facts(user, "x", 1, BLOCK, "md5", "server_received_1_x")
    return Transfer(session, facts, BufferPool(BLOCK), lambda _transfer, _part: None)


def test_further_transfers_wait_and_are_admitted_as_others_leave() -> None:
    """Positions count from 1 and move up."""
    admission = Admission(max_active=1)
    first, second, third = (_transfer() for _ in range(3))
    assert [admission.enter(one) for one in (first, second, third)] == [0, 1, 2]
    assert admission.leave(first) == [second]
    assert admission.waiting() == [third]
    assert admission.leave(third) == []
    assert admission.leave(second) == []


def test_an_urgent_transfer_waits_before_the_others() -> None:
    """Higher number first."""
    admission = Admission(max_active=1)
    admission.enter(_transfer(1))
    low, high = _transfer(0), _transfer(1)
    assert admission.enter(low) == 1
    assert admission.enter(high) == 1
    assert admission.positions() == [(high, 1), (low, 2)]


def test_lower_priorities_take_no_room_from_a_transfer() -> None:
    """FAULTS 31: an urgent one begins beside all the others there may be; not the reverse."""
    admission = Admission(max_active=2)
    assert [admission.enter(_transfer(0)) for _ in range(3)] == [0, 0, 1]
    assert [admission.enter(_transfer(1)) for _ in range(3)] == [0, 0, 1]
    assert admission.enter(_transfer(2)) == 0
    assert admission.enter(_transfer(0)) == 3


def test_a_position_counts_only_those_that_may_be_before() -> None:
    """One that has waited for long is first in the line, but takes nothing from higher ones."""
    admission = Admission(max_active=1)
    admission.enter(_transfer(1))
    old, high = _transfer(0), _transfer(1)
    old.asked_at -= 2 * config.URGENCY
    admission.enter(old)
    assert admission.enter(high) == 1
    assert admission.positions() == [(old, 1), (high, 1)]


@pytest.mark.parametrize(("waited", "admitted"), [(2.0, 2), (0.0, 1)])
def test_waiting_raises_the_urgency_of_a_transfer(waited: float, admitted: int) -> None:
    """FAULTS 31: while urgent ones come and go, who has waited for long gets the next place."""
    admission = Admission(max_active=1)
    first, low, high = _transfer(1), _transfer(0), _transfer(1)
    low.asked_at -= waited * config.URGENCY
    for one in (first, low, high):
        admission.enter(one)
    assert admission.leave(first) == [low, high][-admitted:]
    assert (low in admission.active()) == (waited > 0)


def test_a_place_goes_to_the_first_that_has_room() -> None:
    """Who has none lets those behind go first, and keeps its place in the line."""
    admission = Admission(max_active=1)
    bulk, urgent = _transfer(0), _transfer(1)
    admission.enter(bulk)
    admission.enter(urgent)
    old, high = _transfer(0), _transfer(1)
    old.asked_at -= 2 * config.URGENCY
    admission.enter(old)
    admission.enter(high)
    assert admission.leave(urgent) == [high]
    assert admission.leave(high) == []
    assert admission.leave(bulk) == [old]


def test_one_user_alone_fills_all_places() -> None:
    """Where no other user waits, nothing is kept back."""
    admission = Admission(max_active=3)
    assert [admission.enter(_transfer()) for _ in range(4)] == [0, 0, 0, 1]


def test_no_user_who_fills_all_places_keeps_another_waiting() -> None:
    """A transfer may last for ever, a block each 119 s: the first one of another user begins."""
    admission = Admission(max_active=2)
    for _ in range(4):
        admission.enter(_transfer())
    assert admission.enter(_transfer(user="v")) == 0
    assert admission.enter(_transfer(user="v")) == 1  # before the third one of the other
    assert admission.enter(_transfer(user="w")) == 1  # the two places have users


def test_places_for_first_transfers_are_bounded_by_the_number_of_users() -> None:
    """Users with one transfer each wait as they always did."""
    admission = Admission(max_active=2)
    users = [admission.enter(_transfer(user=name)) for name in "abc"]
    assert users == [0, 0, 1]


def test_waiting_users_of_one_priority_take_turns() -> None:
    """A user who announces many files first is not served first with all of them."""
    admission = Admission(max_active=1)
    first = _transfer()
    admission.enter(first)
    many, other = [_transfer() for _ in range(3)], [_transfer(user="v") for _ in range(2)]
    for one in (*many, *other):
        admission.enter(one)
    assert admission.waiting() == [other[0], many[0], other[1], many[1], many[2]]
    left = (first, other[0], many[0], other[1])
    assert [admission.leave(one) for one in left] == [[other[0]], [many[0]], [other[1]], [many[1]]]


def test_waiting_transfers_are_told_places_in_which_they_come() -> None:
    """The position that a client hears is the one at which its transfer begins."""
    admission = Admission(max_active=1)
    for one in (_transfer(), _transfer(), _transfer(), _transfer(user="v")):
        admission.enter(one)
    positions = admission.positions()
    assert [place for _, place in positions] == [1, 2, 3]
    assert positions[0][0].facts.user == "v"


def test_too_many_waiting_transfers_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 30: the queue is bounded."""
    monkeypatch.setattr(config, "MAX_WAITING_TRANSFERS", 1)
    admission = Admission(max_active=0)
    admission.enter(_transfer())
    with pytest.raises(RejectedError, match="try again"):
        admission.enter(_transfer())
