"""Connecting to whichever address answers first."""

from __future__ import annotations

import errno
import socket
import time
from typing import Iterator

import pytest

import config
from lft.addresses import Address
from lft.wire.happy_eyeballs import interleave, open_first
from tests.support.files import open_descriptors
from tests.support.sockets import DeadAddress
from tests.support.waiting import PATIENCE
from tests.tools.proxy import reserve_port

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listener on an address of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


@pytest.fixture
def dead() -> Iterator[Address]:
    """An address that never answers."""
    with DeadAddress("127.0.0.2") as one:
        yield Address(V4, one.address)


@pytest.fixture
def closed() -> Iterator[Address]:
    """An address at which nothing listens."""
    with reserve_port() as one:
        yield Address(V4, one.getsockname())


def of(listener: socket.socket) -> Address:
    """Return a listener's address."""
    return Address(listener.family, listener.getsockname())


def test_a_dead_first_address_costs_less_than_two_seconds(
    listener: socket.socket, dead: Address
) -> None:
    """RFC 8305: the next one is tried a quarter of a second later, and wins."""
    began = time.monotonic()
    with open_first([dead, of(listener)], 60) as sock:
        assert time.monotonic() - began < 2
        assert sock.getpeername() == listener.getsockname()


def test_an_address_that_answers_is_not_overtaken(listener: socket.socket, closed: Address) -> None:
    """The others are never tried: a server sees one connection from one client."""
    with socket.create_server(("127.0.0.1", 0)) as second:
        second.setblocking(False)
        open_first([of(listener), of(second)], PATIENCE, delay=PATIENCE).close()
        with pytest.raises(BlockingIOError):
            second.accept()


def test_a_refusal_brings_the_next_address_at_once(
    listener: socket.socket, closed: Address
) -> None:
    """Section 5: a failed attempt is not waited for."""
    with open_first([closed, of(listener)], PATIENCE, delay=10 * PATIENCE) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_a_slow_address_may_still_win(listener: socket.socket, closed: Address) -> None:
    """The first attempt goes on beside the later ones; here they fail before it is looked at."""
    with open_first([of(listener), closed, closed], PATIENCE, delay=0) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_when_no_address_answers_the_timeout_is_that_of_all(dead: Address) -> None:
    """DESIGN 9: three silent addresses have together what one would have."""
    began = time.monotonic()
    with pytest.raises(OSError, match="timed out") as caught:
        open_first([dead] * 3, 0.3, delay=0.1)
    assert caught.value.errno == errno.ETIMEDOUT
    assert 0.3 <= time.monotonic() - began < 0.3 + PATIENCE / 4


def test_the_error_is_that_of_a_server_rather_than_that_of_a_missing_way(closed: Address) -> None:
    """``localhost`` without IPv6: that nothing listens there is what helps."""
    wayless = Address(V4, ("255.255.255.255", 9))  # refused by the system
    for addresses in ([closed, wayless], [wayless, closed]):
        with pytest.raises(ConnectionRefusedError):
            open_first(addresses, PATIENCE)
    with pytest.raises(OSError, match=r"denied|unreachable"):
        open_first([wayless], PATIENCE)


def test_nothing_stays_open_of_a_race(listener: socket.socket, dead: Address) -> None:
    """Neither after a win nor after a defeat."""
    before = open_descriptors()
    open_first([dead, of(listener)], PATIENCE, delay=0).close()
    with pytest.raises(OSError, match="timed out"):
        open_first([dead, dead], 0.01, delay=0)
    assert open_descriptors() == before


def test_families_take_turns() -> None:
    """Section 4: six addresses of a dead IPv6 do not come before the first one of IPv4."""
    six = [Address(V6, (f"2001:db8::{number}", 1, 0, 0)) for number in range(3)]
    four = [Address(V4, ("192.0.2.1", 1))]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], six[2]]
    assert interleave([*four, *six]) == [four[0], *six]
    assert interleave([]) == []


def test_the_pause_between_attempts_is_that_of_the_standard() -> None:
    """Section 8: 250 ms, at least 10 ms, at most 2 s."""
    assert config.ATTEMPT_DELAY == 0.25
