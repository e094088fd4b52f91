"""Block headers, and blocks received over a connection."""

from __future__ import annotations

import os
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.wire.blocks import HEADER_SIZE, BlockHeader, BlockReader, decode_header, encode_header
from lft.wire.connection import Connection
from lft.wire.frames import encode
from protocol import CODEC_RAW, ConnectionLostError, FileStart, RemoteProtocolError, Side
from tests.support.generated import quicker
from tests.support.messages import EXAMPLES
from tests.support.sockets import Helper, SocketPair
from tests.support.waiting import PATIENCE

# --- block headers ------------------------------------------------------------------------------


words32 = st.integers(0, 2**32 - 1)


@quicker
@given(
    st.builds(
        BlockHeader, words32, words32, words32, words32, st.just(CODEC_RAW),
        st.binary(min_size=32, max_size=32),
    )
)  # fmt: skip
def test_a_block_header_comes_back_as_it_was_sent(header: BlockHeader) -> None:
    """Encoded and decoded again it is equal."""
    assert decode_header(encode_header(header)) == header


def test_a_block_header_has_the_documented_form() -> None:
    """Every field is in its place, big-endian, the digest padded with zeros."""
    header = BlockHeader(0x01020304, 0x05060708, 0x090A0B0C, 0x0D0E0F10, CODEC_RAW, b"d" * 16)
    assert HEADER_SIZE == 52
    assert encode_header(header) == b"B\0\0\0" + bytes(range(1, 17)) + b"d" * 16 + bytes(16)


RIGHT = encode_header(BlockHeader(1, 2, 3, 3, CODEC_RAW, b"d" * 16))


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, b"A"), (0, b"b"), (0, b"\0"), (1, b"\4"), (1, b"\xff"), (2, b"\1"), (3, b"\1")],
)
def test_a_header_of_another_kind_is_refused(place: int, value: bytes) -> None:
    """Another first letter, an unknown codec, or anything where zeros should be."""
    with pytest.raises(RemoteProtocolError, match=r"not a block header|not known here"):
        decode_header(RIGHT[:place] + value + RIGHT[place + 1 :])


@quicker
@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_no_bytes_of_a_header_raise_anything_but_remote_protocol_error(data: bytes) -> None:
    """Garbage instead of a header is the peer's fault."""
    if data[:4] == RIGHT[:4]:
        assert encode_header(decode_header(data)) == data
    else:
        with pytest.raises(RemoteProtocolError):
            decode_header(data)


# --- blocks over a connection -------------------------------------------------------------------


class Inbox:
    """A block reader that takes every block and remembers the headers."""

    def __init__(self, chunk_size: int = 1000) -> None:
        self.asked: list[BlockHeader] = []
        self.reader = BlockReader(self._room, chunk_size)

    def _room(self, header: BlockHeader) -> tuple[memoryview, memoryview]:
        self.asked.append(header)
        view = memoryview(bytearray(header.wire_length))
        return view, view

    def receive(self, connection: Connection) -> list[tuple[BlockHeader, bytes]]:
        """Return all blocks that are complete now."""
        found: list[tuple[BlockHeader, bytes]] = []
        run = self.reader.receive(connection)
        while run:
            found.extend((header, bytes(view)) for header, view in run)
            run = self.reader.receive(connection)
        return found

    def receive_to_the_end(self, connection: Connection) -> None:
        """Receive until that raises; no block may be complete before."""
        while True:
            assert self.receive(connection) == []


def block(index: int, payload: bytes) -> tuple[BlockHeader, bytes]:
    """Return a block's header and its whole frame."""
    header = BlockHeader(7, index, len(payload), len(payload), CODEC_RAW, bytes([index]) * 32)
    return header, encode_header(header) + payload


def test_a_block_sliced_into_single_bytes_is_received_whole(server_pair: SocketPair) -> None:
    """FAULTS 2: no block is returned before its last byte; room is made once."""
    connection, theirs = server_pair
    header, data = block(3, b"payload")
    inbox = Inbox()
    assert not inbox.reader.mid_block
    for number, byte in enumerate(data[:-1], 1):
        theirs.sendall(bytes([byte]))
        assert inbox.receive(connection) == []
        assert inbox.reader.mid_block
        assert inbox.asked == ([header] if number >= HEADER_SIZE else [])
    theirs.sendall(data[-1:])
    assert inbox.receive(connection) == [(header, b"payload")]
    assert not inbox.reader.mid_block
    assert inbox.asked == [header]


@pytest.mark.parametrize("cut", range(HEADER_SIZE + 1))
def test_a_block_cut_in_its_header_is_a_lost_connection(server_pair: SocketPair, cut: int) -> None:
    """FAULTS 2: the stream ends at any byte of the header, and nothing is taken for a block."""
    connection, theirs = server_pair
    theirs.sendall(block(0, b"payload")[1][:cut])
    theirs.close()
    inbox = Inbox()
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        inbox.receive_to_the_end(connection)
    assert inbox.reader.mid_block == (cut > 0)
    assert len(inbox.asked) == (cut == HEADER_SIZE)


@pytest.mark.parametrize("missing", [1, 6])
def test_a_block_cut_in_its_payload_is_a_lost_connection(
    server_pair: SocketPair, missing: int
) -> None:
    """FAULTS 39: the part that was received is not returned."""
    connection, theirs = server_pair
    theirs.sendall(block(0, b"payload")[1][:-missing])
    theirs.close()
    inbox = Inbox()
    with pytest.raises(ConnectionLostError):
        inbox.receive_to_the_end(connection)
    assert inbox.reader.mid_block


@pytest.mark.parametrize("chunk_size", [1, 3, HEADER_SIZE, 1000, 100_000])
def test_blocks_in_one_segment_are_received_one_by_one(
    server_pair: SocketPair, chunk_size: int
) -> None:
    """FAULTS 2: whatever the chunk size, each block has its own header and payload."""
    connection, theirs = server_pair
    blocks = [block(index, bytes([index]) * size) for index, size in enumerate((5, 0, 3000, 1))]
    theirs.sendall(b"".join(data for _, data in blocks))
    inbox = Inbox(chunk_size)
    assert inbox.receive(connection) == [(head, data[HEADER_SIZE:]) for head, data in blocks]
    assert not inbox.reader.mid_block


def test_half_received_blocks_of_two_connections_do_not_mix(
    make_pair: Callable[[Side], SocketPair],
) -> None:
    """Each connection's reader keeps its own half until the other half comes."""
    sides = [(*make_pair(Side.SERVER), Inbox(), block(i, bytes([i]) * 100)) for i in range(2)]
    for part in (slice(0, 30), slice(30, 99), slice(99, None)):
        for _, theirs, _, (_, data) in sides:
            theirs.sendall(data[part])
        got = [inbox.receive(connection) for connection, _, inbox, _ in sides]
    assert got == [[(header, data[HEADER_SIZE:])] for _, _, _, (header, data) in sides]


def test_a_block_larger_than_the_sockets_buffers_is_received(server_pair: SocketPair) -> None:
    """While one side sends, the other waits and receives, until the block is whole."""
    connection, theirs = server_pair
    payload = os.urandom(2 << 20)
    header, data = block(1, payload)
    sending = Helper(lambda: theirs.sendall(data))
    inbox = Inbox(50 * 1024)
    got: list[tuple[BlockHeader, bytes]] = []
    while not got:
        assert connection.wait(PATIENCE)
        got = inbox.receive(connection)
    sending.result()
    assert got == [(header, payload)]


def test_what_is_not_a_header_is_refused_before_room_is_made(server_pair: SocketPair) -> None:
    """FAULTS 14: a control frame on a data connection is no block."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[FileStart]))
    inbox = Inbox()
    with pytest.raises(RemoteProtocolError, match="not a block header"):
        inbox.receive(connection)
    assert inbox.asked == []


def test_a_block_of_no_transfer_is_refused_before_its_payload(server_pair: SocketPair) -> None:
    """FAULTS 14 and 17: no buffer is made for a block of 4 GB that belongs to no transfer."""
    connection, theirs = server_pair
    header = BlockHeader(9, 0, 2**32 - 1, 2**32 - 1, CODEC_RAW, bytes(32))

    def refuse(asked: BlockHeader) -> tuple[None, memoryview]:
        assert asked == header
        raise RemoteProtocolError("no such transfer", "transfer")

    theirs.sendall(encode_header(header))
    with pytest.raises(RemoteProtocolError, match="no such transfer") as caught:
        BlockReader(refuse, 1000).receive(connection)
    assert caught.value.code == "transfer"


def test_blocks_that_are_here_are_returned_together(server_pair: SocketPair) -> None:
    """As many as were asked for; the rest of them with the next call."""
    connection, theirs = server_pair
    blocks = [block(index, bytes([index]) * 100) for index in range(5)]
    theirs.sendall(b"".join(data for _, data in blocks) + blocks[0][1][:70])
    reader = Inbox().reader
    assert [len(reader.receive(connection, 3)) for _ in range(3)] == [3, 2, 0]
    assert reader.mid_block
    theirs.sendall(blocks[0][1][70:])
    assert [header for header, _ in reader.receive(connection, 3)] == [blocks[0][0]]
    assert not reader.mid_block


def test_an_error_behind_complete_blocks_is_raised_by_the_next_call(
    server_pair: SocketPair,
) -> None:
    """FAULTS 39: what came before it counts, though nothing more will come to tell of it."""
    connection, theirs = server_pair
    header, data = block(1, b"payload")
    theirs.sendall(data + bytes(HEADER_SIZE))
    reader = Inbox().reader
    assert [found for found, _ in reader.receive(connection, 9)] == [header]
    assert reader.failed
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="not a block header"):
            reader.receive(connection, 9)


def test_a_header_comes_with_the_payload_before_it(
    server_pair: SocketPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for each block; that of a block that is not wanted yet stays in the socket."""
    connection, theirs = server_pair
    calls: list[int] = []
    receive_into = connection._stream.receive_into

    def count(*views: memoryview) -> int:
        calls.append(len(views))
        return receive_into(*views)

    monkeypatch.setattr(connection._stream, "receive_into", count)
    theirs.sendall(b"".join(block(index, bytes(100))[1] for index in range(3)))
    assert len(Inbox().reader.receive(connection, 3)) == 3
    assert calls == [1, 2, 2, 1]
