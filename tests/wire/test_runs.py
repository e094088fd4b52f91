"""Runs of blocks over a connection, however they are cut, with and without TLS."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from lft.wire.blocks import BlockHeader, BlockReader, encode_header
from lft.wire.connection import Connection
from protocol import CODEC_HELD, CODEC_RAW, CODEC_ZLIB, Side
from tests.support.certificates import Pki
from tests.support.generated import quick
from tests.support.key_updates import key_update
from tests.support.waiting import PATIENCE
from tests.wire.test_tls_stream import secure_pair

MOST = 3000  # bytes of a block; a run has about twice as many here


@contextlib.contextmanager
def plain_pair() -> Iterator[tuple[Connection, Connection]]:
    """Give both ends of one connection: client, server."""
    far, near = socket.socketpair()
    client, server = Connection(far, Side.CLIENT), Connection(near, Side.SERVER)
    with contextlib.closing(client), contextlib.closing(server):
        yield client, server


def make_room(header: BlockHeader) -> tuple[memoryview, memoryview]:
    """Take any block."""
    view = memoryview(bytearray(header.wire_length))
    return view, view


def frame_of(index: int, length: int, codec: int) -> tuple[BlockHeader, bytes]:
    """Return a header, and what comes behind it."""
    wire = {CODEC_RAW: length, CODEC_HELD: 0}.get(codec, max(1, length - 1))
    header = BlockHeader(7, index, length, wire, codec, bytes([index]) * 32)
    return header, bytes([index]) * wire


blocks = st.lists(
    st.tuples(
        st.integers(2, MOST), st.sampled_from([CODEC_RAW, CODEC_RAW, CODEC_HELD, CODEC_ZLIB])
    ),
    max_size=20,
)
cuts = st.lists(st.tuples(st.integers(1, 5 * MOST), st.integers(1, 16), st.booleans()), min_size=1)


def take(
    reader: BlockReader[memoryview], server: Connection, most: int
) -> list[tuple[BlockHeader, bytes]]:
    """Take one run, which is bounded; return its blocks."""
    run = reader.receive(server, most)
    assert len(run) <= most
    assert sum(header.raw_length for header, _ in run[:-1]) < config.RUN_SIZE
    return [(header, bytes(room)) for header, room in run]


@pytest.mark.parametrize("secure", [False, True])
def test_runs_bring_each_block_once_and_in_order(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    """FAULTS 2: cut anywhere, with KeyUpdates between the pieces, blocks come as they were sent."""
    monkeypatch.setattr(config, "RUN_SIZE", 2 * MOST)

    @quick
    @given(blocks, cuts, st.integers(1, 2 * MOST))
    def property_holds(
        shapes: list[tuple[int, int]], pieces: list[tuple[int, int, bool]], chunk: int
    ) -> None:
        frames = [frame_of(index, *shape) for index, shape in enumerate(shapes)]
        data = b"".join(encode_header(header) + payload for header, payload in frames)
        reader: BlockReader[Any] = BlockReader(make_room, chunk)
        found: list[tuple[BlockHeader, bytes]] = []
        while data:
            for size, most, update in pieces:
                if secure and update:
                    key_update(client)
                client.push(data[:size])
                data = data[size:]
                found += take(reader, server, most)
        while len(found) < len(frames):
            assert server.wait(PATIENCE)
            found += take(reader, server, pieces[0][1])
        assert found == frames
        assert not reader.mid_block

    with secure_pair(pki) if secure else plain_pair() as (client, server):
        property_holds()
