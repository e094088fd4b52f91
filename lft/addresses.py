"""Host names and addresses: whether they are loopback, their network, resolving them."""

from __future__ import annotations

import socket
from typing import Any

from lft.terminal import printable
from protocol import ConnectionLostError


def is_loopback(host: str) -> bool:
    """Whether every address of ``host`` is a loopback address."""
    try:
        found = look_up(host or "0.0.0.0", 0)  # noqa: S104
    except (OSError, UnicodeError):
        return False
    return all(_loops_back(str(entry[4][0])) for entry in found)


def _loops_back(address: str) -> bool:
    """Judge an address in the form in which the system writes it. A client needs no more."""
    return address.partition("%")[0] == "::1" or address.startswith(("127.", "::ffff:127."))


def network_of(address: str) -> str:
    """Return what one household has: an IPv4 address, or the first address of a /64 of IPv6.

    A listener for both IP versions sees IPv4 clients as ``::ffff:192.0.2.1``: they are IPv4.
    """
    import ipaddress  # noqa: PLC0415  (3 ms, and no client needs it)

    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    found = getattr(found, "ipv4_mapped", None) or found
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False).network_address)


def plain_address(address: str) -> str:
    """Return an address of the system's without its zone, and an IPv4 address in its own form."""
    bare = address.partition("%")[0]
    return bare[7:] if bare.startswith("::ffff:") and "." in bare else bare


def look_up(host: str, port: int, flags: int = 0) -> list[Any]:
    """Ask the system for addresses. Raises ``OSError`` and ``UnicodeError``.

    A name in ASCII is handed on as bytes: for text Python loads Unicode's tables first, 3 ms.
    """
    name = host.encode() if host.isascii() else host
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)


class UnknownHostError(ConnectionLostError):
    """There is no host of that name; trying again would not help."""


def resolve(host: str, port: int) -> list[Any]:
    """Return the addresses of ``host``. Raises ``ConnectionLostError`` if there are none."""
    try:
        return look_up(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        later = getattr(error, "errno", None) == socket.EAI_AGAIN  # the name service is away
        kind = ConnectionLostError if later else UnknownHostError
        raise kind(f"{printable(host)}: {reason}") from None
