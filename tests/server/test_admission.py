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


def _transfer(priority: int = 0) -> Transfer:
    session = Session("u", priority, idle_peer())
    facts = Facts("u", "x", 1, BLOCK, "md5", "server_received_1_x")
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


def test_too_many_waiting_transfers_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 30: the queue is bounded."""
    monkeypatch.setattr(config, "MAX_WAITING_TRANSFERS", 1)
    admission = Admission(max_active=0)
    admission.enter(_transfer())
    with pytest.raises(RejectedError, match="try again"):
        admission.enter(_transfer())
