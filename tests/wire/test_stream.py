"""Streams: the bytes of one socket, without a dialogue."""

from __future__ import annotations

import socket
from typing import Iterator, Tuple

import pytest

from lft.wire.stream import Stream, scratch
from protocol import ConnectionLostError
from tests.support.waiting import PATIENCE

StreamPair = Tuple[Stream, socket.socket]


@pytest.fixture
def ends() -> Iterator[StreamPair]:
    """Give a stream and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(PATIENCE)
        yield Stream(ours, "the peer"), theirs


def test_bytes_go_both_ways(ends: StreamPair) -> None:
    """In the order in which they were sent, whatever parts they were sent in."""
    stream, theirs = ends
    stream.push(b"one", bytearray(b"two"), memoryview(b"three"))
    assert theirs.recv(100) == b"onetwothree"
    theirs.sendall(b"four")
    assert stream.receive(3) == b"fou"
    assert stream.receive_into(memoryview(bytearray(3))) == 1


def test_where_nothing_has_come_there_are_no_bytes(ends: StreamPair) -> None:
    """A stream never waits."""
    stream, _ = ends
    assert stream.receive(100) == b""
    assert stream.receive_into(memoryview(bytearray(100))) == 0
    assert not stream.pending


def test_a_plain_stream_has_no_handshake(ends: StreamPair) -> None:
    """It is over at once, proves nothing, and sends nothing."""
    stream, theirs = ends
    assert stream.shake_hands()
    assert not stream.secure
    assert stream.certificate is None
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_the_end_of_a_stream_names_the_peer(ends: StreamPair) -> None:
    """Both ways to receive report it, every time."""
    stream, theirs = ends
    theirs.close()
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=r"^the peer closed the connection$"):
            stream.receive(100)
        with pytest.raises(ConnectionLostError, match=r"^the peer closed the connection$"):
            stream.receive_into(memoryview(bytearray(100)))


def test_a_stream_does_not_end_before_its_last_byte_is_out(ends: StreamPair) -> None:
    """FAULTS 41: asked to finish too early it goes on, and finishes when it is asked again."""
    stream, theirs = ends
    data = bytes(4 << 20)
    stream.push(data)
    stream.finish()
    left = len(data)
    while not stream.flush():
        left -= len(theirs.recv(1 << 20))
    stream.finish()
    while left:
        left -= len(theirs.recv(1 << 20))
    assert theirs.recv(1) == b""


def test_a_flood_does_not_keep_the_discarding_thread(
    ends: StreamPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 3: after some reads it returns, although more has come."""
    stream, theirs = ends
    theirs.sendall(bytes(17))
    monkeypatch.setattr("lft.wire.stream.scratch", lambda: memoryview(bytearray(1)))
    assert not stream.discard()
    assert stream.receive(100) == b"\0"


def test_a_thread_has_one_scratch_buffer() -> None:
    """However many connections it serves."""
    assert scratch() is scratch()


def test_what_is_held_leaves_with_the_next_flush(ends: StreamPair) -> None:
    """In one call, behind what was held before; what is pushed then keeps the order."""
    stream, theirs = ends
    stream.hold(b"one", b"", memoryview(b"two"))
    assert stream.unsent == 6
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    stream.push(b"three")
    assert stream.flush()
    assert theirs.recv(100) == b"onetwothree"
    assert not stream.unsent
