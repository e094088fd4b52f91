"""Compressed blocks at a server: unpacked, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from config import KB
from lft.server.receiving import Receiving
from lft.wire.blocks import decode_header, encode_header
from lft.wire.connection import Connection
from protocol import Error, IntegrityOk, Missing, RemoteProtocolError, Why
from tests.support.compressed import BLOCK, BOMB, CODECS, SPOILERS, packed, shrunk, text, zeros
from tests.support.files import received
from tests.support.local import ServerThread
from tests.support.processes import StartServer, peak_memory
from tests.support.rawpeer import HEADER, RawClient, hear, push
from tests.support.waiting import PATIENCE


def refusal(connection: Connection) -> Error:
    """Wait for the error that ends a connection."""
    message = connection.receive()
    while message is None:
        assert connection.wait(PATIENCE), "no answer"
        message = connection.receive()
    assert isinstance(message, Error)
    return message


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_and_raw_blocks_make_the_file(local: ServerThread, codec: int) -> None:
    """Each block in its own way; the last one is short."""
    content = text(9 * BLOCK + 1000)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", content, BLOCK)
        data = client.attach()
        for index in range(10):
            push(data, shrunk(upload, index, codec) if index % 3 else upload.frame(index))
        upload.await_acks(data, 10)
        assert isinstance(upload.complete(), IntegrityOk)
    assert received(local.output)[0].read_bytes() == content


@pytest.mark.parametrize("how", SPOILERS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_block_that_does_not_unpack_ends_its_connection_only(
    local: ServerThread, codec: int, how: str
) -> None:
    """19: the peer is told why; another connection brings the block."""
    payload = SPOILERS[how](codec)[: BLOCK - 1]  # what is left of a long one is no better
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(3 * BLOCK), BLOCK)
        good, bad = client.attach(), client.attach()
        push(bad, shrunk(upload, 1, codec, payload))
        assert refusal(bad).code == "codec"
        upload.send(good, 0)
        push(good, shrunk(upload, 1, codec))
        upload.await_acks(good, 1)
        upload.send(client.attach(), 2)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize(
    "changes",
    [{"wire_length": 0}, {"wire_length": BLOCK}, {"wire_length": BLOCK + 1},
     {"wire_length": 2**32 - 1}, {"raw_length": BLOCK - 1}, {"raw_length": BLOCK + 1},
     {"raw_length": 2**32 - 1}, {"codec": 4}, {"codec": 255}],
)  # fmt: skip
@pytest.mark.parametrize("codec", CODECS)
def test_a_header_that_cannot_be_is_refused_before_its_payload_comes(
    local: ServerThread, codec: int, changes: dict[str, Any]
) -> None:
    """19: lengths that no codec makes, and a codec that nobody knows."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(BLOCK), BLOCK)
        data = client.attach()
        header = decode_header(shrunk(upload, 0, codec)[:HEADER])._replace(**changes)
        push(data, encode_header(header))
        assert refusal(data).code == ("codec" if "codec" in changes else "protocol")
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("codec", CODECS)
def test_what_came_before_a_bad_block_is_acknowledged(local: ServerThread, codec: int) -> None:
    """So the client sees progress, and does not give up for a few damaged blocks."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(3 * BLOCK), BLOCK)
        data = client.attach()
        bad = shrunk(upload, 2, codec, b"garbage")
        push(data, upload.frame(0) + shrunk(upload, 1, codec) + bad)
        heard: list[int] = []
        with pytest.raises(RemoteProtocolError, match="does not unpack"):
            hear(data, heard)
        assert heard == [0, 1]


@pytest.mark.parametrize("codec", CODECS)
def test_a_block_that_unpacks_to_other_bytes_is_repaired(local: ServerThread, codec: int) -> None:
    """15: the digest is of the file, not of what is on the wire."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(10 * BLOCK), BLOCK)
        data = client.attach()
        for index in range(10):
            other = packed(codec, text(BLOCK, seed=9)) if index == 3 else b""
            push(data, shrunk(upload, index, codec, other))
        upload.await_acks(data, 10)
        assert client.answer() == Missing(upload.number, ((3, 4),), Why.DAMAGED)
        push(data, shrunk(upload, 3, codec))
        upload.await_acks(data, 1)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_block_that_comes_twice_is_harmless(local: ServerThread, codec: int) -> None:
    """16: on two connections, compressed and raw."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(BLOCK), BLOCK)
        for frame in (shrunk(upload, 0, codec), upload.frame(0), shrunk(upload, 0, codec)):
            data = client.attach()
            push(data, frame)
            upload.await_acks(data, 1)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("codec", CODECS)
def test_bombs_do_not_fill_the_servers_memory(start_server: StartServer, codec: int) -> None:
    """19: twenty of them, each of 64 MB, at a real server."""
    server = start_server()
    bomb = zeros(codec, BOMB)
    with RawClient(server.port).log_in() as client:
        upload = client.start("x", text(200 * KB))
        upload.send(client.attach(), 0)
        before = peak_memory(server.process.pid)
        for _ in range(20):
            data = client.attach()
            push(data, shrunk(upload, 0, codec, bomb))
            assert refusal(data).code == "codec"
        assert isinstance(upload.complete(), IntegrityOk)
    assert peak_memory(server.process.pid) - before < 16 * KB  # in KB
    assert "Traceback" not in server.log


@pytest.mark.parametrize("codec", CODECS)
def test_a_limit_of_the_server_counts_what_is_on_the_wire(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, codec: int
) -> None:
    """What was not sent is not paid for."""
    counted: list[int] = []

    def count(_peer: object, _transfer: object, length: int) -> bool:
        counted.append(length)
        return False

    monkeypatch.setattr(Receiving, "_charge", staticmethod(count))
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(2 * BLOCK), BLOCK)
        data = client.attach()
        frame = shrunk(upload, 0, codec)
        push(data, frame + upload.frame(1))
        upload.await_acks(data, 2)
        upload.complete()
    assert sum(counted) == len(frame) - HEADER + BLOCK
