"""PROXY headers, and clients whose connections begin with one."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from tests.support.rawpeer import Peer

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
CLIENT = "198.51.100.7"  # an address that is no machine's (RFC 5737)


def line(client: str = CLIENT, port: int = 5678) -> bytes:
    """Return a header of version 1."""
    family, server = ("TCP6", "::1") if ":" in client else ("TCP4", "127.0.0.1")
    return f"PROXY {family} {client} {server} {port} 4455\r\n".encode()


def binary(client: str = CLIENT, port: int = 5678, *, more: bytes = b"") -> bytes:
    """Return a header of version 2; ``more`` stands behind the addresses."""
    six = ":" in client
    family, server = (socket.AF_INET6, "::1") if six else (socket.AF_INET, "127.0.0.1")
    places = socket.inet_pton(family, client) + socket.inet_pton(family, server)
    return header(0x21, 0x21 if six else 0x11, places + struct.pack("!HH", port, 4455) + more)


def header(command: int, family: int, rest: bytes = b"") -> bytes:
    """Return any header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


LOCAL = header(0x20, 0x00)


class Behind(Peer):
    """A raw client behind a balancer, which comes from 127.0.0.1."""

    def __init__(self, port: int, greeting: bytes = b"", *, ca: Path | None = None) -> None:
        self.greeting = greeting or binary()
        super().__init__(port, ca=ca)

    def __enter__(self) -> Behind:
        return self
