"""Connections on real sockets: messages, acknowledgements, ends."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
from typing import Any, Callable

import pytest

from lft.wire.connection import Connection
from lft.wire.frames import Ack, encode, encode_ack
from protocol import (
    Attach,
    Attached,
    AuthenticationError,
    Cancel,
    ConnectionLostError,
    Error,
    FileStart,
    Goodbye,
    Hello,
    LocalProtocolError,
    RemoteProtocolError,
    Side,
    State,
)
from tests.support.dialogue import WAYS, example_of
from tests.support.files import open_descriptors
from tests.support.messages import EXAMPLES, VERBS, at_every_byte, frame, read, short_message
from tests.support.processes import ROOT
from tests.support.sockets import Helper, SocketPair
from tests.support.waiting import PATIENCE


def reset(sock: socket.socket) -> None:
    """Close a TCP connection with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def lead(connection: Connection, theirs: socket.socket, state: State) -> None:
    """Bring the dialogue of ``connection`` to ``state``, with real frames."""
    for speaker, verb in WAYS[state]:
        if speaker is connection.dialogue.side:
            connection.send(example_of(verb))
            assert read(theirs.recv(65536)) == [example_of(verb)]
        else:
            theirs.sendall(encode(example_of(verb)))
            assert connection.receive() == example_of(verb)


@pytest.fixture
def data_pair(pair: SocketPair) -> SocketPair:
    """Give a client's data connection and the bare socket at its other end."""
    lead(*pair, State.STREAMING)
    return pair


def read_all(sock: socket.socket, into: io.BytesIO) -> None:
    """Read until the other side closes."""
    part = sock.recv(65536)
    while part:
        into.write(part)
        part = sock.recv(65536)


def test_a_message_goes_out_and_the_answer_comes_in(pair: SocketPair) -> None:
    """Both are noted in the dialogue."""
    connection, theirs = pair
    connection.send(EXAMPLES[Hello])
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])
    assert connection.receive() is None
    theirs.sendall(encode(EXAMPLES[Hello]))
    assert connection.receive() == EXAMPLES[Hello]
    assert connection.state is State.OPEN


def test_a_message_that_comes_byte_by_byte_is_received_whole(server_pair: SocketPair) -> None:
    """FAULTS 2: before the last byte there is neither a message nor an error."""
    connection, theirs = server_pair
    data = encode(EXAMPLES[Hello])
    assert not connection.mid_frame
    for byte in data[:-1]:
        theirs.sendall(bytes([byte]))
        assert connection.receive() is None
        assert connection.mid_frame
    theirs.sendall(data[-1:])
    assert connection.receive() == EXAMPLES[Hello]
    assert not connection.mid_frame


def test_messages_that_come_together_are_received_one_by_one(server_pair: SocketPair) -> None:
    """FAULTS 2: what came in one segment is not lost."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[Hello]) + encode(Goodbye()))
    assert connection.receive() == EXAMPLES[Hello]
    assert connection.receive() == Goodbye()
    assert connection.receive() is None


def test_a_message_we_may_not_send_is_not_sent(pair: SocketPair) -> None:
    """A bug of ours is raised here, and the peer is sent nothing."""
    connection, theirs = pair
    with pytest.raises(LocalProtocolError):
        connection.send(Cancel())
    connection.send(EXAMPLES[Hello])
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])


def test_a_message_out_of_place_is_the_peers_fault(server_pair: SocketPair) -> None:
    """FAULTS 7: the connection raises what the dialogue raises."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[FileStart]))
    with pytest.raises(RemoteProtocolError, match="the client sent FILE_START in state new"):
        connection.receive()


def test_a_stranger_is_the_peers_fault(server_pair: SocketPair) -> None:
    """FAULTS 5: the connection raises what the frame reader raises."""
    connection, theirs = server_pair
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="HTTP"):
        connection.receive()


def test_what_the_socket_does_not_take_is_sent_later(pair: SocketPair) -> None:
    """FAULTS 41: sending to a peer that does not read never waits; once it reads, all comes."""
    connection, theirs = pair
    data = os.urandom(4 << 20)
    connection.push(data[:100], data[100 : 3 << 20], data[3 << 20 :])
    assert 0 < connection.unsent < len(data)
    assert not connection.flush()
    assert not connection.wait(0, write=True)
    got = io.BytesIO()
    reader = Helper(lambda: read_all(theirs, got))
    while not connection.flush():
        assert connection.wait(PATIENCE, write=True)
    assert connection.unsent == 0
    connection.finish()
    reader.result()
    assert got.getvalue() == data


def test_thousands_of_small_parts_may_wait_for_a_slow_peer(pair: SocketPair) -> None:
    """The system takes at most 1024 parts in one call; more of them are sent in several."""
    connection, theirs = pair
    connection.push(bytes(4 << 20))
    for number in range(3000):
        connection.push(struct.pack("!I", number))
    got = io.BytesIO()
    reader = Helper(lambda: read_all(theirs, got))
    while not connection.flush():
        assert connection.wait(PATIENCE, write=True)
    connection.finish()
    reader.result()
    assert got.getvalue() == bytes(4 << 20) + struct.pack("!3000I", *range(3000))


def test_sending_nothing_is_done_at_once(pair: SocketPair) -> None:
    """An empty part is neither sent nor kept."""
    connection, theirs = pair
    connection.push(b"", b"")
    connection.push(b"head", b"", b"tail")
    assert connection.flush()
    assert connection.unsent == 0
    assert theirs.recv(100) == b"headtail"


@pytest.mark.parametrize("parts", [(b"", b""), (b"tail", b""), (b"", b"tail")])
def test_an_empty_part_that_waits_does_not_keep_the_rest_from_being_out(
    pair: SocketPair, parts: tuple[bytes, bytes]
) -> None:
    """Once the system has every byte, ``flush`` is done."""
    connection, theirs = pair
    connection.push(bytes(4 << 20))
    connection.push(*parts)
    got = io.BytesIO()
    reader = Helper(lambda: read_all(theirs, got))
    while connection.unsent:
        assert connection.wait(PATIENCE, write=True)
        connection.flush()
    assert connection.flush()
    connection.finish()
    reader.result()
    assert got.getvalue() == bytes(4 << 20) + b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\x2f", encode(Hello(1, ()))[:-1]], ids=short_message)
def test_the_end_of_the_stream_is_a_lost_connection(server_pair: SocketPair, sent: bytes) -> None:
    """FAULTS 1 and 2: closed before, within and after the length of a frame."""
    connection, theirs = server_pair
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        connection.receive()
    assert connection.mid_frame == bool(sent)


def test_what_came_before_the_end_is_still_received(server_pair: SocketPair) -> None:
    """A peer may say its last words and close."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[Hello]) + encode(Goodbye()))
    theirs.close()
    assert [connection.receive(), connection.receive()] == [EXAMPLES[Hello], Goodbye()]
    with pytest.raises(ConnectionLostError):
        connection.receive()


def receive_bytes(connection: Connection) -> int:
    """Receive into a buffer."""
    return connection.receive_into(memoryview(bytearray(10)))


def receive_acks(connection: Connection) -> list[Ack]:
    """Receive all acks that are here."""
    return list(connection.receive_acks())


WAYS_TO_RECEIVE = [Connection.receive, receive_bytes, receive_acks]


@pytest.mark.parametrize("receive", WAYS_TO_RECEIVE)
def test_a_reset_is_a_lost_connection(
    tcp_pair: SocketPair, receive: Callable[[Connection], Any]
) -> None:
    """FAULTS 39: in the project's own words, with the peer's address."""
    connection, theirs = tcp_pair
    reset(theirs)
    assert connection.wait(PATIENCE)
    with pytest.raises(ConnectionLostError, match=r"^127\.0\.0\.1:\d+: the connection was reset$"):
        receive(connection)


@pytest.mark.parametrize("receive", WAYS_TO_RECEIVE)
def test_an_end_is_a_lost_connection(
    pair: SocketPair, receive: Callable[[Connection], Any]
) -> None:
    """Every way to receive reports the end of the stream."""
    connection, theirs = pair
    theirs.close()
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        receive(connection)


def test_sending_to_a_peer_that_has_gone_is_a_lost_connection(tcp_pair: SocketPair) -> None:
    """FAULTS 39: the same error as when receiving."""
    connection, theirs = tcp_pair
    reset(theirs)
    assert connection.wait(PATIENCE)
    with pytest.raises(ConnectionLostError, match=r"the connection was (reset|closed)"):
        connection.push(b"x")


def test_receiving_nothing_yet_is_no_bytes(pair: SocketPair) -> None:
    """Receiving never waits."""
    connection, theirs = pair
    assert receive_bytes(connection) == 0
    assert receive_acks(connection) == []
    theirs.sendall(b"some")
    assert receive_bytes(connection) == 4


def test_a_flood_of_messages_takes_no_memory(server_pair: SocketPair) -> None:
    """FAULTS 3: what the peer sends faster than we read stays in the system's buffers."""
    connection, theirs = server_pair
    lead(connection, theirs, State.READY)
    theirs.setblocking(False)
    flood = memoryview(frame(b"CANCEL@{" + b" " * 60_000 + b"}") * 100)
    tracemalloc.start()
    try:
        received = sent = 0
        while received < 100:
            if sent < len(flood):
                with contextlib.suppress(BlockingIOError):
                    sent += theirs.send(flood[sent:])
            received += connection.receive() is not None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- acks ---------------------------------------------------------------------------------------


def test_acks_and_the_error_behind_them_are_received(data_pair: SocketPair) -> None:
    """The acknowledgements are given first, then the error is raised."""
    connection, theirs = data_pair
    theirs.sendall(encode_ack(7, 0) + encode_ack(7, 1) + encode(Error("session", "it is over")))
    got: list[Ack] = []
    with pytest.raises(ConnectionLostError, match=r"^it is over$"):
        got.extend(connection.receive_acks())
    assert got == [Ack(7, 0), Ack(7, 1)]
    assert connection.state is State.CLOSED


def test_acks_cut_at_every_byte_are_received_once(make_pair: Callable[[Side], SocketPair]) -> None:
    """FAULTS 2: half an acknowledgement waits for its other half."""
    data = encode_ack(7, 0) + encode_ack(7, 1)
    for start, rest in at_every_byte(data):
        connection, theirs = make_pair(Side.CLIENT)
        got = []
        for part in (start, rest):
            theirs.sendall(part)
            got += receive_acks(connection)
        assert got == [Ack(7, 0), Ack(7, 1)]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "ERROR"])
def test_nothing_but_acks_and_errors_comes_on_a_data_connection(
    data_pair: SocketPair, verb: str
) -> None:
    """FAULTS 7: every other message is out of place there."""
    connection, theirs = data_pair
    theirs.sendall(encode_ack(7, 0) + encode(example_of(verb)))
    with pytest.raises(RemoteProtocolError, match=f"server sent {verb} in state"):
        receive_acks(connection)


def test_an_ack_is_not_a_message(data_pair: SocketPair) -> None:
    """Where a message must come, an acknowledgement is refused."""
    connection, theirs = data_pair
    assert receive_acks(connection) == []
    theirs.sendall(encode_ack(7, 0))
    with pytest.raises(RemoteProtocolError, match="an acknowledgement out of place"):
        connection.receive()


# --- questions and answers ----------------------------------------------------------------------


def test_a_call_gives_the_answer(pair: SocketPair) -> None:
    """One message out, one in."""
    connection, theirs = pair
    calling = Helper(lambda: connection.call(EXAMPLES[Hello], PATIENCE))
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])
    theirs.sendall(encode(Hello(2, ())))
    assert calling.result() == Hello(2, ())


def test_a_question_that_does_not_fit_the_socket_is_still_sent_whole(pair: SocketPair) -> None:
    """While it waits for the answer, it sends what is unsent."""
    connection, theirs = pair
    data = bytes(4 << 20)
    connection.push(data)
    calling = Helper(lambda: connection.call(EXAMPLES[Hello], PATIENCE))
    left = len(data) + len(encode(EXAMPLES[Hello]))
    while left:
        left -= len(theirs.recv(65536))
    theirs.sendall(encode(EXAMPLES[Hello]))
    assert calling.result() == EXAMPLES[Hello]


def test_an_error_in_answer_is_raised(pair: SocketPair) -> None:
    """The error's code decides the exception."""
    connection, theirs = pair
    calling = Helper(lambda: connection.call(EXAMPLES[Hello], PATIENCE))
    theirs.sendall(encode(Error("authentication", "no")))
    answer = calling.result()
    assert (type(answer), str(answer)) == (AuthenticationError, "no")


def test_silence_is_a_lost_connection(pair: SocketPair) -> None:
    """FAULTS 26: a server that reads everything and answers nothing."""
    connection, _ = pair
    with pytest.raises(ConnectionLostError, match=r"the peer did not answer for 0\.01 s"):
        connection.call(EXAMPLES[Hello], 0.01)


def test_half_an_answer_is_silence(pair: SocketPair) -> None:
    """FAULTS 4: bytes that do not complete a message do not extend the deadline."""
    connection, theirs = pair
    theirs.sendall(encode(EXAMPLES[Hello])[:-1])
    with pytest.raises(ConnectionLostError, match="did not answer"):
        connection.call(EXAMPLES[Hello], 0.01)


# --- ending -------------------------------------------------------------------------------------


def test_finishing_lets_the_peer_answer(pair: SocketPair) -> None:
    """The peer sees the end of our stream, and its answer still comes."""
    connection, theirs = pair
    connection.send(EXAMPLES[Hello])
    connection.finish()
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])
    assert theirs.recv(1) == b""
    theirs.sendall(encode(EXAMPLES[Hello]))
    assert connection.receive() == EXAMPLES[Hello]


def test_discarding_says_when_the_peer_has_closed(pair: SocketPair) -> None:
    """Everything that has come is thrown away."""
    connection, theirs = pair
    assert not connection.discard()
    theirs.sendall(bytes(100_000))
    assert not connection.discard()
    assert not connection.wait(0)
    theirs.close()
    assert connection.discard()


@pytest.mark.parametrize("end", [Connection.finish, Connection.cut, Connection.close])
def test_ending_a_connection_twice_is_no_error(
    tcp_pair: SocketPair, end: Callable[[Connection], None]
) -> None:
    """The peer may be faster, or another thread; a second time does nothing."""
    connection, theirs = tcp_pair
    reset(theirs)
    assert connection.wait(PATIENCE)
    end(connection)
    end(connection)


def test_closing_gives_the_descriptor_back() -> None:
    """A closed connection has none."""
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours, Side.CLIENT)
        assert connection.fileno() == ours.fileno()
        connection.close()
        assert connection.fileno() == -1
    assert open_descriptors() == before


# --- what a connection knows of itself ----------------------------------------------------------


def test_a_connection_shows_peer_state_and_what_is_unsent(tcp_pair: SocketPair) -> None:
    """A debugger shows them."""
    connection, theirs = tcp_pair
    host, port = theirs.getsockname()
    assert connection.peer == f"{host}:{port}"
    assert repr(connection) == f"<Connection to {host}:{port}, new, 0 bytes unsent>"


def test_blocks_may_come_in_one_piece_with_what_is_before_them(server_pair: SocketPair) -> None:
    """The first bytes of a block, received together with ATTACH, are not lost."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[Hello]) + encode(EXAMPLES[Attach]) + b"block" * 10)
    assert connection.receive() == EXAMPLES[Hello]
    connection.send(EXAMPLES[Hello])
    assert connection.receive() == EXAMPLES[Attach]
    connection.send(EXAMPLES[Attached])
    room = bytearray(30)
    assert connection.receive_into(memoryview(room)) == 30
    assert room == b"block" * 6
    assert connection.receive_into(memoryview(room)) == 20
    theirs.sendall(b"more")
    assert connection.receive_into(memoryview(room)) == 4


def test_a_connection_knows_where_to_connect_again(tcp_pair: SocketPair) -> None:
    """Family and address lead to the peer."""
    connection, theirs = tcp_pair
    assert connection.address == (socket.AF_INET, theirs.getsockname())


def test_a_peer_that_has_gone_already_is_no_error() -> None:
    """FAULTS 1: a connection that is dead already can be made, shown and closed all the same."""
    with socket.socket(socket.AF_UNIX) as never_connected:
        connection = Connection(never_connected, Side.SERVER)
        assert connection.peer in repr(connection)
        connection.close()


def test_a_connection_without_tls_does_not_load_ssl() -> None:
    """It is slow to load, and most runs do without."""
    code = "import sys, lft.wire.connection, lft.wire.blocks; sys.exit('ssl' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
