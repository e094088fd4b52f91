"""Wakers, and waiting for sockets."""

from __future__ import annotations

from typing import Iterator

import pytest

from lft.wire.sockets import Waker, wait
from protocol import ConnectionLostError
from tests.support.files import open_descriptors
from tests.support.sockets import Helper, SocketPair
from tests.support.waiting import PATIENCE

# --- wakers -------------------------------------------------------------------------------------


@pytest.fixture
def waker() -> Iterator[Waker]:
    """Give a waker."""
    one = Waker()
    yield one
    one.close()


def test_a_bell_is_quiet_until_it_is_rung(waker: Waker) -> None:
    """One call of ``quiet`` takes back any number of rings."""
    assert not waker.quiet()
    waker.ring()
    waker.ring()
    assert waker.quiet()
    assert not waker.quiet()


def test_rings_can_be_taken_back_one_by_one(waker: Waker) -> None:
    """Several waiting threads may each take theirs."""
    waker.ring()
    waker.ring()
    assert [waker.quiet(1) for _ in range(3)] == [True, True, False]


def test_ringing_never_blocks(waker: Waker) -> None:
    """FAULTS 45: with no thread waiting, any number of rings is lost without harm."""
    for _ in range(70_000):  # more than a pipe holds
        waker.ring()
    assert waker.quiet()


def test_a_bell_gives_its_descriptors_back() -> None:
    """Two while it lives, none afterwards."""
    before = open_descriptors()
    waker = Waker()
    assert open_descriptors() == before + 2
    waker.close()
    assert open_descriptors() == before


# --- waiting ------------------------------------------------------------------------------------


def test_waiting_ends_when_something_comes(pair: SocketPair) -> None:
    """The socket is ready."""
    connection, theirs = pair
    waiting = Helper(lambda: connection.wait(PATIENCE))
    theirs.sendall(b"x")
    assert waiting.result() is True


def test_waiting_ends_when_the_peer_closes(pair: SocketPair) -> None:
    """An end, too, is something to read."""
    connection, theirs = pair
    waiting = Helper(lambda: connection.wait(PATIENCE))
    theirs.close()
    assert waiting.result() is True


def test_waiting_ends_when_the_bell_rings(pair: SocketPair, waker: Waker) -> None:
    """The socket is not ready then."""
    connection, _ = pair
    waiting = Helper(lambda: connection.wait(PATIENCE, waker=waker))
    waker.ring()
    assert waiting.result() is False


def test_a_bell_that_has_rung_before_ends_the_waiting_at_once(
    pair: SocketPair, waker: Waker
) -> None:
    """No ring is lost between looking and waiting."""
    waker.ring()
    assert not pair[0].wait(PATIENCE, waker=waker)
    assert not pair[0].wait(PATIENCE, waker=waker)
    assert waker.quiet()


def test_a_socket_that_is_ready_counts_beside_a_bell_that_rings(
    pair: SocketPair, waker: Waker
) -> None:
    """The answer is about the socket."""
    connection, theirs = pair
    waker.ring()
    theirs.sendall(b"x")
    assert connection.wait(PATIENCE, waker=waker)


def test_waiting_ends_after_the_timeout(pair: SocketPair) -> None:
    """Nothing came: the socket is not ready."""
    assert not pair[0].wait(0)
    assert not pair[0].wait(0.001)


def test_waiting_for_room_ends_when_there_is_room(pair: SocketPair) -> None:
    """An empty connection takes bytes at once."""
    assert pair[0].wait(PATIENCE, write=True)


def test_waiting_works_on_a_bare_socket_too(pair: SocketPair) -> None:
    """The function does what the method of a connection does."""
    connection, theirs = pair
    assert not wait(theirs, 0)
    connection.push(b"x")
    assert wait(theirs, PATIENCE)


def test_cutting_wakes_the_owner_in_another_thread(pair: SocketPair) -> None:
    """The owner sees the end of the stream, as if the peer had closed."""
    connection, _ = pair

    def owner() -> None:
        assert connection.wait(PATIENCE)
        connection.receive()

    waiting = Helper(owner)
    connection.cut()
    assert isinstance(waiting.result(), ConnectionLostError)
