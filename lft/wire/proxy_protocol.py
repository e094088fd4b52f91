"""The PROXY protocol, versions 1 and 2: a balancer says from where a connection comes.

Its specification is HAProxy's ``doc/proxy-protocol.txt``; section 2 has both headers. The header is
the first thing on a connection, before TLS.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import NamedTuple

from lft.wire.sockets import Socket, lost, peer_address, peer_name
from protocol import ConnectionLostError, RemoteProtocolError

MOST = 4096  # bytes of a header: addresses have 216, the rest is for what a balancer may add
_LINE = b"PROXY "  # version 1 begins so
_LONGEST_LINE = 107  # bytes, with its end
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # version 2 begins so
_HEAD = struct.Struct("!12sBBH")  # signature, version and command, family and transport, length
_LOCAL, _PROXY = 0x20, 0x21  # commands of version 2
_TCP4, _TCP6 = 0x11, 0x21
_NAMELESS = (0x00, 0x31)  # unspecified, or a Unix socket
_FAMILIES = {"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6}


class Origin(NamedTuple):
    """From where a connection comes that a balancer hands on."""

    address: str
    port: int


# of a client whose address the balancer does not know: none that could be trusted
UNKNOWN = Origin("0.0.0.0", 0)  # noqa: S104  (nothing is bound to it)


class HeaderReader:
    """Takes one header from a socket, and not a byte of what follows. One thread's own."""

    def __init__(self) -> None:
        self._data = b""

    def read(self, sock: Socket) -> bool:
        """Take what has come of the header, without waiting; return whether it is complete.

        Raises ``RemoteProtocolError`` for what is no header, ``ConnectionLostError`` at the end.
        """
        try:
            return self._read(sock)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            raise lost(peer_name(peer_address(sock)), error) from error

    def _read(self, sock: Socket) -> bool:
        while True:
            seen = self._data + sock.recv(MOST - len(self._data), socket.MSG_PEEK)
            if len(seen) == len(self._data):
                raise ConnectionLostError("closed within the PROXY header")
            length = header_length(seen)
            own = len(seen) if length is None else min(length, len(seen))
            self._data += sock.recv(own - len(self._data))
            if length == len(self._data):
                return True

    @property
    def origin(self) -> Origin | None:
        """What the complete header says; ``None`` for the balancer's own connection."""
        return parse(self._data)


def header_length(data: bytes) -> int | None:
    """Return how many bytes the header has that ``data`` begins with; ``None``: not known yet.

    Raises ``RemoteProtocolError`` for what is no header, or is too long for one.
    """
    if _same_start(data, _LINE):
        end = data.find(b"\n", 0, _LONGEST_LINE)
        if end < 0 and len(data) >= _LONGEST_LINE:
            raise RemoteProtocolError("a PROXY line without an end")
        return end + 1 or None
    if not _same_start(data, _SIGNATURE):
        raise RemoteProtocolError("what comes first is no PROXY header")
    if len(data) < _HEAD.size:
        return None
    length = _HEAD.size + int(_HEAD.unpack_from(data)[3])
    if length > MOST:
        raise RemoteProtocolError(f"a PROXY header of {length} bytes")
    return length


def _same_start(data: bytes, start: bytes) -> bool:
    return start.startswith(data[: len(start)])


def parse(header: bytes) -> Origin | None:
    """Return what a complete header says; ``None`` for the balancer's own connection.

    Raises ``RemoteProtocolError``.
    """
    if header.startswith(_LINE):
        return _parse_line(header)
    _, command, family, _ = _HEAD.unpack_from(header)
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise RemoteProtocolError("a PROXY header of an unknown version or command")
    if family in _NAMELESS:
        return UNKNOWN
    if family not in (_TCP4, _TCP6):
        raise RemoteProtocolError("a PROXY header of a connection that is not TCP")
    return _parse_addresses(header[_HEAD.size :], family)


def _parse_addresses(data: bytes, family: int) -> Origin:
    """Read source, target and their ports; what stands behind them does not concern us."""
    size = 4 if family == _TCP4 else 16
    if len(data) < 2 * size + 4:
        raise RemoteProtocolError("a PROXY header without room for its addresses")
    (port,) = struct.unpack_from("!H", data, 2 * size)
    kind = socket.AF_INET if family == _TCP4 else socket.AF_INET6
    return Origin(socket.inet_ntop(kind, data[:size]), port)


_WORDS = re.compile(r"PROXY (TCP[46]) ([0-9a-fA-F.:]+) ([0-9a-fA-F.:]+) (\d+) (\d+)\r\n", re.ASCII)


def _parse_line(line: bytes) -> Origin:
    text = line.decode("latin-1")
    if re.match(r"PROXY UNKNOWN[ \r].*\n", text, re.DOTALL) and text.endswith("\r\n"):
        return UNKNOWN
    found = _WORDS.fullmatch(text)
    if not found or not all(_is_port(one) for one in found.group(4, 5)):
        raise RemoteProtocolError("a PROXY line that is not as it should be")
    try:
        for address in found.group(2, 3):
            socket.inet_pton(_FAMILIES[found[1]], address)
    except OSError:
        raise RemoteProtocolError("a PROXY line with an address that there cannot be") from None
    return Origin(found[2].lower(), int(found[4]))


def _is_port(digits: str) -> bool:
    return len(digits) <= 5 and int(digits) <= 65535 and digits == str(int(digits))
