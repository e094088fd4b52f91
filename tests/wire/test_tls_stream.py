"""Connections over TLS: handshakes, records, ends."""

from __future__ import annotations

import contextlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator

import pytest

from config import BLOCK_SIZE, CHUNK_SIZE
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.frames import encode
from lft.wire.stream import Stream
from lft.wire.tls import client_tls, server_tls
from lft.wire.tls_stream import MOST_WITHOUT_DATA, RECORD, TlsStream
from protocol import VERSION, ConnectionLostError, Error, Hello, Side
from tests.support.certificates import Pki
from tests.support.key_updates import key_update, tls_stream
from tests.support.waiting import PATIENCE, eventually


def _shaken(connection: Connection) -> bool:
    """Return whether the handshake is over on this side; on the other it may be over earlier."""
    return isinstance(connection._stream, TlsStream) and connection._stream._layer.ready


@contextlib.contextmanager
def secure_pair(pki: Pki) -> Iterator[tuple[Connection, Connection]]:
    """Give both ends of one connection after the handshake: client, server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        client = Connection(far, Side.CLIENT, client_tls(pki.ca), "localhost")
        context = server_tls(pki.server.cert, pki.server.key)
        server = Connection(listener.accept()[0], Side.SERVER, context)
    with contextlib.closing(client), contextlib.closing(server):
        with ThreadPoolExecutor(1) as pool:
            shaking = pool.submit(client.secure_channel, PATIENCE)
            while not (shaking.done() and _shaken(server)):
                server.receive()
        yield client, server


def test_last_words_before_a_close_are_heard_over_tls(pki: Pki) -> None:
    """FAULTS 27: a message, its close_notify and the end of the stream may come in one go."""
    with secure_pair(pki) as (client, server):
        server.send(Error("authentication", "no"))
        server.finish()
        server.close()
        with socket.socket(fileno=os.dup(client.fileno())) as twin:
            eventually(lambda: _has_ended(twin), "the end of the stream")
        assert client.receive() == Error("authentication", "no")


def test_a_message_that_comes_in_many_tls_records_is_waited_for(pki: Pki) -> None:
    """FAULTS 27 and 2: between the records the receiver returns, rather than try again."""
    with secure_pair(pki) as (client, server):
        message = Hello(VERSION, FEATURES)
        heard = []
        for byte in encode(message):
            client.push(bytes([byte]))
            assert server.wait(PATIENCE)
            heard.append(server.receive())
    assert heard == [None] * (len(heard) - 1) + [message]


def test_chunks_fill_whole_records(pki: Pki) -> None:
    """A short record at the end of each chunk would cost the other side as much as a full one."""
    with secure_pair(pki) as (client, _):
        size = client.whole_chunk(CHUNK_SIZE)
        block = memoryview(bytes(BLOCK_SIZE))
        layer = tls_stream(client)._layer
        layer.write(block[at : at + size] for at in range(0, BLOCK_SIZE, size))
        records, sealed = 0, layer.outgoing()
    while sealed:  # RFC 8446, 5.2: five bytes before each, the last two of them its length
        sealed = sealed[5 + int.from_bytes(sealed[3:5], "big") :]
        records += 1
    assert size >= CHUNK_SIZE
    assert records == -(-BLOCK_SIZE // RECORD)


def test_key_updates_with_a_byte_between_them_hold_no_reader(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 27: they count as data, and come for ever; a call takes a bounded part of them."""
    with secure_pair(pki) as (client, server):
        pieces = []
        for _ in range(8):
            for _ in range(2 * MOST_WITHOUT_DATA // 7 // 27):
                key_update(client)
            tls_stream(client)._layer.write([b"x"])
            pieces.append(tls_stream(client)._layer.outgoing())

        def from_pieces(_stream: Stream, view: memoryview) -> int:
            piece = pieces.pop(0) if pieces else b""
            view[: len(piece)] = piece
            return len(piece)

        monkeypatch.setattr(Stream, "receive_into", from_pieces)
        said = tls_stream(server).receive(100)
        assert said in (b"x" * 4, b"x" * 5)
        assert tls_stream(server).receive(100) == b"x" * (8 - len(said))


def _has_ended(sock: socket.socket) -> bool:
    """Return whether the end of the stream has come, behind bytes that were not read yet."""
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == 8  # TCP_CLOSE_WAIT


def test_a_goodbye_that_finds_no_room_is_said_later(pki: Pki) -> None:
    """FAULTS 27 and 41: a peer that reads late learns that the end was not a cut."""
    with secure_pair(pki) as (client, server):
        assert client.receive() is None  # what TLS itself has to say after the handshake
        filler = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filler += server._socket.send(bytes(100_000))
        server.finish()
        assert server.unsent
        while filler:
            filler -= client._socket.recv_into(bytearray(min(filler, 100_000)))
        assert server.flush()
        server.finish()
        with pytest.raises(ConnectionLostError, match="the peer closed"):
            client.answer(PATIENCE)
