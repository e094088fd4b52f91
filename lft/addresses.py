"""Host names and addresses: loopback or not, whose network, which addresses a name has."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from lft.terminal import printable
from protocol import ConnectionLostError


def is_loopback(host: str) -> bool:
    """Whether everything ``host`` stands for is this machine itself."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", 0, type=socket.SOCK_STREAM)  # noqa: S104
    except (OSError, UnicodeError):
        return False
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def network_of(address: str) -> str:
    """Return what one person has: an IPv4 address, or a /64 of IPv6, free to choose from."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.IPv6Address(int(found) >> 64 << 64))


class UnknownHostError(ConnectionLostError):
    """There is no such host; trying again would not help."""


def resolve(host: str, port: int) -> list[Any]:
    """Find the addresses of ``host``. Raises ``ConnectionLostError`` when there are none."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        later = getattr(error, "errno", None) == socket.EAI_AGAIN  # the name service is away
        kind = ConnectionLostError if later else UnknownHostError
        raise kind(f"{printable(host)}: {reason}") from None
