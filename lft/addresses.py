"""Host names and addresses: whether they are loopback, their network, resolving them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from lft.terminal import printable
from protocol import ConnectionLostError


def is_loopback(host: str) -> bool:
    """Whether every address of ``host`` is a loopback address."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", 0, type=socket.SOCK_STREAM)  # noqa: S104
    except (OSError, UnicodeError):
        return False
    return all(_parse(str(entry[4][0])).is_loopback for entry in found)


def network_of(address: str) -> str:
    """Return what one household has: an IPv4 address, or the first address of a /64 of IPv6."""
    try:
        found = _parse(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False).network_address)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address without its zone. Raises ``ValueError``.

    A listener for both IP versions sees IPv4 clients as ``::ffff:192.0.2.1``: they are IPv4.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


class UnknownHostError(ConnectionLostError):
    """There is no host of that name; trying again would not help."""


def resolve(host: str, port: int) -> list[Any]:
    """Return the addresses of ``host``. Raises ``ConnectionLostError`` if there are none."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        later = getattr(error, "errno", None) == socket.EAI_AGAIN  # the name service is away
        kind = ConnectionLostError if later else UnknownHostError
        raise kind(f"{printable(host)}: {reason}") from None
