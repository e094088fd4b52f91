"""The registry: which transfers are admitted, and which wait."""

from __future__ import annotations

import pytest

import config
from lft.server.buffers import BufferPool
from lft.server.sessions import Registry, Session
from lft.server.transfer import Transfer
from protocol import FileStart, RejectedError
from tests.support.transfers import BLOCK, idle_peer


def _transfer(priority: int = 0) -> Transfer:
    session = Session("u", priority, idle_peer())
    start = FileStart("x", 1, BLOCK, "md5", "0" * 32, False)
    return Transfer(session, start, "x", BufferPool(BLOCK), lambda _transfer, _part: None)


def test_further_transfers_wait_and_are_admitted_as_others_leave() -> None:
    """Positions count from 1 and move up."""
    registry = Registry(max_active=1)
    first, second, third = (_transfer() for _ in range(3))
    assert [registry.enter(one) for one in (first, second, third)] == [0, 1, 2]
    assert registry.leave(first) == [second]
    assert registry.waiting() == [third]
    assert registry.leave(third) == []
    assert registry.leave(second) == []


def test_an_urgent_transfer_waits_before_the_others() -> None:
    """Higher number first."""
    registry = Registry(max_active=1)
    registry.enter(_transfer(1))
    low, high = _transfer(0), _transfer(1)
    assert registry.enter(low) == 1
    assert registry.enter(high) == 1
    assert registry.positions() == [(high, 1), (low, 2)]


def test_lower_priorities_take_no_room_from_a_transfer() -> None:
    """FAULTS 31: an urgent one begins beside all the others there may be; not the reverse."""
    registry = Registry(max_active=2)
    assert [registry.enter(_transfer(0)) for _ in range(3)] == [0, 0, 1]
    assert [registry.enter(_transfer(1)) for _ in range(3)] == [0, 0, 1]
    assert registry.enter(_transfer(2)) == 0
    assert registry.enter(_transfer(0)) == 3


def test_a_position_counts_only_those_that_may_be_before() -> None:
    """One that has waited for long is first in the line, but takes nothing from higher ones."""
    registry = Registry(max_active=1)
    registry.enter(_transfer(1))
    old, high = _transfer(0), _transfer(1)
    old.asked_at -= 2 * config.URGENCY
    registry.enter(old)
    assert registry.enter(high) == 1
    assert registry.positions() == [(old, 1), (high, 1)]


@pytest.mark.parametrize(("waited", "admitted"), [(2.0, 2), (0.0, 1)])
def test_waiting_raises_the_urgency_of_a_transfer(waited: float, admitted: int) -> None:
    """FAULTS 31: while urgent ones come and go, who has waited for long gets the next place."""
    registry = Registry(max_active=1)
    first, low, high = _transfer(1), _transfer(0), _transfer(1)
    low.asked_at -= waited * config.URGENCY
    for one in (first, low, high):
        registry.enter(one)
    assert registry.leave(first) == [low, high][-admitted:]
    assert (low in registry.active()) == (waited > 0)


def test_a_place_goes_to_the_first_that_has_room() -> None:
    """Who has none lets those behind go first, and keeps its place in the line."""
    registry = Registry(max_active=1)
    bulk, urgent = _transfer(0), _transfer(1)
    registry.enter(bulk)
    registry.enter(urgent)
    old, high = _transfer(0), _transfer(1)
    old.asked_at -= 2 * config.URGENCY
    registry.enter(old)
    registry.enter(high)
    assert registry.leave(urgent) == [high]
    assert registry.leave(high) == []
    assert registry.leave(bulk) == [old]


def test_too_many_waiting_transfers_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 30: the queue is bounded."""
    monkeypatch.setattr(config, "MAX_WAITING_TRANSFERS", 1)
    registry = Registry(max_active=0)
    registry.enter(_transfer())
    with pytest.raises(RejectedError, match="try again"):
        registry.enter(_transfer())


def test_a_token_finds_its_session_until_that_ends() -> None:
    """FAULTS 17: an unknown token and one of a past session find nothing."""
    registry = Registry(max_active=1)
    session, peer = Session("u", 0, idle_peer()), idle_peer()
    registry.add(session)
    assert registry.attach(session.token, peer) is session
    assert registry.attach("guess", peer) is None
    assert registry.remove(session) == [peer]
    assert registry.attach(session.token, peer) is None
