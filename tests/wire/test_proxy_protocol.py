"""PROXY headers: what they say, and what is none."""

from __future__ import annotations

import socket
from typing import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lft.wire.proxy_protocol import MOST, UNKNOWN, HeaderReader, Origin, header_length, parse
from protocol import ConnectionLostError, RemoteProtocolError
from tests.support.balancer import CLIENT, LOCAL, SIGNATURE, binary, header, line

GOOD = {
    "line": (line(), Origin(CLIENT, 5678)),
    "line of IPv6": (line("2001:DB8::7"), Origin("2001:db8::7", 5678)),
    "longest line": (line("ffff:" * 7 + "ffff", 65535).replace(b"::1", b"ffff:" * 7 + b"ffff")
                     .replace(b"4455", b"65535"), Origin("ffff:" * 7 + "ffff", 65535)),
    "line without a client": (b"PROXY UNKNOWN\r\n", UNKNOWN),
    "line without a client, with words": (b"PROXY UNKNOWN ::1 ::1 1 2\r\n", UNKNOWN),
    "binary": (binary(), Origin(CLIENT, 5678)),
    "binary of IPv6": (binary("2001:db8::7", 0), Origin("2001:db8::7", 0)),
    "mapped IPv4": (binary("::ffff:192.0.2.1"), Origin("::ffff:192.0.2.1", 5678)),
    "more behind the addresses": (binary(more=b"\x04\x00\x01x" * 50), Origin(CLIENT, 5678)),
    "as long as may be": (binary(more=bytes(MOST - 28)), Origin(CLIENT, 5678)),
    "own connection": (LOCAL, None),
    "own connection, with addresses": (header(0x20, 0x11, bytes(12)), None),
    "unspecified": (header(0x21, 0x00), UNKNOWN),
    "Unix socket": (header(0x21, 0x31, bytes(216)), UNKNOWN),
}  # fmt: skip

BAD = {
    "port too large": line(port=65536),
    "port with a zero before it": line(port=1).replace(b" 1 ", b" 01 "),
    "no port": b"PROXY TCP4 192.0.2.1 192.0.2.2\r\n",
    "no address": b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
    "address of the other family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "target that is none": b"PROXY TCP4 192.0.2.1 192.0.2.999 1 2\r\n",
    "two spaces": line().replace(b" 5678", b"  5678"),
    "words behind it": line().replace(b"\r\n", b" x\r\n"),
    "other family": line().replace(b"TCP4", b"UDP4"),
    "unknown glued": b"PROXY UNKNOWNX\r\n",
    "no carriage return": line().replace(b"\r", b""),
    "UNKNOWN without one": b"PROXY UNKNOWN\n",
    "line without an end": b"PROXY TCP4 " + b"1" * 100,
    "other digits": "PROXY TCP4 192.0.2.1 192.0.2.2 ١ 2\r\n".encode(),
    "version 1 in binary": header(0x11, 0x11, bytes(12)),
    "version 3": header(0x31, 0x11, bytes(12)),
    "other command": header(0x22, 0x11, bytes(12)),
    "datagrams": header(0x21, 0x12, bytes(12)),
    "other address family": header(0x21, 0x41, bytes(216)),
    "too short for IPv4": header(0x21, 0x11, bytes(11)),
    "too short for IPv6": header(0x21, 0x21, bytes(35)),
    "too long": binary(more=bytes(MOST - 27)),
    "too long for its own connection": header(0x20, 0x00, bytes(65535)),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "a frame": b"\0\0\0\x24HELLO@{}",
    "a signature with a slip": SIGNATURE[:-1] + b"\r!\x11\x00\x0c" + bytes(12),
}


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection; the first does not wait."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


@pytest.mark.parametrize("name", GOOD)
def test_a_header_says_from_where_a_connection_comes(name: str) -> None:
    """Sections 2.1 and 2.2 of the specification."""
    data, origin = GOOD[name]
    assert header_length(data) == len(data)
    assert parse(data) == origin


@pytest.mark.parametrize("name", GOOD)
def test_a_header_may_be_cut_at_every_byte(
    ends: tuple[socket.socket, socket.socket], name: str
) -> None:
    """FAULTS 2: it is complete with its last byte and not before."""
    near, far = ends
    data, origin = GOOD[name]
    reader = HeaderReader()
    for place in range(len(data)):
        assert not reader.read(near)
        far.sendall(data[place : place + 1])
    assert reader.read(near)
    assert reader.origin == origin


@pytest.mark.parametrize("name", GOOD)
def test_what_is_glued_to_a_header_stays_in_the_socket(
    ends: tuple[socket.socket, socket.socket], name: str
) -> None:
    """FAULTS 2: it is TLS, or a HELLO, for others to read; at whatever byte the first part ends."""
    near, far = ends
    data, origin = GOOD[name]
    for place in range(0, len(data), 1 + len(data) // 40):
        reader = HeaderReader()
        far.sendall(data[:place])
        assert not reader.read(near)
        far.sendall(data[place:] + b"\x16\x03\x01 follows\r\n")
        assert reader.read(near)
        assert reader.origin == origin
        assert near.recv(100) == b"\x16\x03\x01 follows\r\n"


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_header_is_refused(ends: tuple[socket.socket, socket.socket], name: str) -> None:
    """FAULTS 5: whole or in single bytes, and before more of it is waited for than there may be."""
    for size in (1, len(BAD[name])):
        with pytest.raises(RemoteProtocolError):
            _read_whole(*ends, BAD[name][: MOST + 1], size)
        while _drained(ends[0]):
            pass


def _read_whole(near: socket.socket, far: socket.socket, data: bytes, size: int) -> None:
    """Read a header that comes in pieces of ``size`` bytes; it must not be a good one."""
    reader = HeaderReader()
    for place in range(0, len(data), size):
        far.sendall(data[place : place + size])
        assert not reader.read(near) or reader.origin


def _drained(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 17)
    except BlockingIOError:
        return b""


def test_an_end_within_a_header_is_a_lost_connection(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """A balancer that only looks whether the port is open says nothing at all."""
    near, far = ends
    reader = HeaderReader()
    far.sendall(binary()[:20])
    assert not reader.read(near)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLostError):
        reader.read(near)


@given(st.binary(max_size=200), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
@example(b"\x21\x11\xff\xff", SIGNATURE)
def test_no_bytes_raise_anything_but_remote_protocol_error(data: bytes, start: bytes) -> None:
    """FAULTS 6: a header is short, or it is none."""
    data = start + data
    if not data:
        return
    try:
        length = header_length(data)
        assert length is None or 0 < length <= MOST
        if length is not None and length <= len(data):
            parse(data[:length])
    except RemoteProtocolError:
        pass
