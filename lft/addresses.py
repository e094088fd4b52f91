"""Host names and addresses: as they are written, whether they are loopback, resolving them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from queue import Empty, SimpleQueue
from typing import Any, Callable, Iterable, List, NamedTuple, Sequence

from lft.terminal import printable
from protocol import ConnectionLostError

MAX_PORT = 65535


def is_loopback(host: str, *, if_unknown: bool = False) -> bool:
    """Whether every address of ``host`` is a loopback address; ``if_unknown`` where it has none."""
    try:
        found = resolve(host or "0.0.0.0", 0)  # noqa: S104
    except ConnectionLostError:
        return if_unknown
    return all(_loops_back(str(one.address[0])) for one in found)


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


class Networks:
    """Addresses and networks, for asking whether an address is in one of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Take ``texts`` as ``parse_network`` returns them."""
        import ipaddress  # noqa: PLC0415  (as above)

        self._networks = [ipaddress.ip_network(text) for text in texts]

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        import ipaddress  # noqa: PLC0415  (as above)

        try:
            found = ipaddress.ip_address(plain_address(address))
        except ValueError:  # a Unix socket has none
            return False
        return any(found in network for network in self._networks)


def parse_network(text: str) -> str:
    """Return an address or a network such as ``10.0.0.0/8`` in its usual form.

    Raises ``ValueError`` with what is wrong, in words.
    """
    import ipaddress  # noqa: PLC0415  (as above)

    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        hint = f"; {printable(str(error))}" if "host bits" in str(error) else ""
        wanted = "an address such as 10.0.0.7, or a network such as 10.0.0.0/24"
        raise ValueError(f"{wanted}, not {printable(text)!r}{hint}") from None


class Address(NamedTuple):
    """Where to connect to, as ``socket.connect`` takes it."""

    family: int
    address: Any


def shuffled(addresses: Sequence[Address]) -> list[Address]:
    """Return addresses of a name so that of equal ones each has the same chance to be the first.

    The system has sorted them by how well they can be reached (RFC 6724). Equal are those of one
    family that lead equally far: which of them has more bits in common with an address of ours (its
    rule 9) says nothing about servers that share their load, and may be left out (section 6).
    """
    order = list(addresses)
    families = [one.family for one in order]
    if len(set(families)) == len(families):
        return order
    import random  # noqa: PLC0415  (5 ms, and few names have several addresses)

    groups: dict[object, list[int]] = {}
    for place, one in enumerate(order):
        groups.setdefault((one.family, _reach(str(one.address[0]))), []).append(place)
    for places in groups.values():
        chosen = random.sample(places, len(places))
        for place, other in zip(places, chosen):
            order[place] = addresses[other]
    return order


def _reach(address: str) -> object:
    """Return how far an address leads: this machine, this link, a private network, or anywhere."""
    import ipaddress  # noqa: PLC0415  (as above)

    one = ipaddress.ip_address(address.partition("%")[0])
    tunnel = isinstance(one, ipaddress.IPv6Address) and bool(one.sixtofour or one.teredo)
    return one.is_loopback, one.is_link_local, one.is_private, tunnel


def look_up(host: str, port: int, flags: int = 0) -> list[Any]:
    """Ask the system for addresses. Raises ``OSError`` and ``UnicodeError``.

    A name in ASCII is handed on as bytes: for text Python loads Unicode's tables first, 3 ms.
    """
    name = host.encode() if host.isascii() else host
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)


def place(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with an IPv6 address in brackets (RFC 3986), safe to show."""
    return f"[{printable(host)}]:{port}" if ":" in host else f"{printable(host)}:{port}"


def split_place(text: str) -> tuple[str, int | None]:
    """Take ``HOST``, ``HOST:PORT``, ``[ADDRESS]`` or ``[ADDRESS]:PORT`` apart; port ``None``: none.

    An IPv6 address may stand without brackets, too; then no port is in it. Raises ``ValueError``
    with what is wrong, in words.
    """
    bracketed = re.fullmatch(r"\[([^][]+)\](?::(.*))?", text, re.DOTALL)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, None
    if any(char in text for char in "/@") or any(char in host for char in "[]"):
        raise ValueError(f"a host name or an address alone, not {printable(text)!r}")
    if port is None:
        return host, None
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise ValueError(f"a port is a number up to {MAX_PORT}, not {printable(port)!r}")
    return host, int(port)


class HopelessError(ConnectionLostError):
    """The server cannot be reached from here at all: trying again would not help."""


class UnknownHostError(HopelessError):
    """There is no host of that name."""


class NoNameServiceError(ConnectionLostError):
    """No name service could be asked: it may be away for a moment, or for good."""


Lookup = Callable[..., List[Any]]  # as ``look_up``


def resolve(host: str, port: int, timeout: float = 30.0, lookup: Lookup = look_up) -> list[Address]:
    """Return the addresses of ``host``, the best one first, within ``timeout`` seconds.

    Raises below ``ConnectionLostError`` if there are none: ``HopelessError`` where that is final.
    """
    with contextlib.suppress(OSError, UnicodeError):  # it is no address but a name
        return _with_scope(host, lookup(host, port, socket.AI_NUMERICHOST))
    answers: SimpleQueue[Any] = SimpleQueue()
    arguments = (lookup, host, port, answers)
    # a thread of its own: the system may ask for half a minute, deaf to Ctrl-C and the timeout
    threading.Thread(target=_ask, args=arguments, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except Empty:
        raise NoNameServiceError(_NO_NAME_SERVICE.format(printable(host))) from None
    if isinstance(answer, Exception):
        raise _unresolved(host, answer)
    return _with_scope(host, answer)


_NO_NAME_SERVICE = "{}: no name service answers; is there a network?"


def _ask(lookup: Lookup, host: str, port: int, answers: SimpleQueue[Any]) -> None:
    """Put the addresses of ``host``, or why there are none, into ``answers`` (the resolver)."""
    try:
        answers.put(lookup(host, port))
    except (OSError, UnicodeError) as error:
        answers.put(error)


def _with_scope(host: str, found: list[Any]) -> list[Address]:
    """Return the addresses, without those of a link (RFC 4007) that do not name it.

    Raises ``HopelessError`` if there are no others.
    """
    addresses = [Address(entry[0], entry[4]) for entry in found]
    whole = [one for one in addresses if not _lacks_scope(one)]
    if not whole:
        raise HopelessError(
            f"{printable(host)}: an address of this link needs the network interface, such as "
            f"{addresses[0].address[0]}%eth0"
        )
    return whole


def _lacks_scope(one: Address) -> bool:
    """Whether an address holds on one link only and does not say on which."""
    is_local = one.family == socket.AF_INET6 and one.address[0][:3] in ("fe8", "fe9", "fea", "feb")
    return bool(is_local and not one.address[3])


def _unresolved(host: str, error: Exception) -> ConnectionLostError:
    """Put the resolver's error into words."""
    name, code = printable(host), getattr(error, "errno", None)
    if code == socket.EAI_AGAIN:
        return NoNameServiceError(_NO_NAME_SERVICE.format(name))
    if code == socket.EAI_NONAME and "%" in host:
        return HopelessError(f"{name}: no such network interface here")
    if code in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
        return UnknownHostError(f"{name}: there is no host of that name; check --server")
    reason = getattr(error, "strerror", None) or "not a host name"
    return UnknownHostError(f"{name}: {reason}")


def is_address(host: str) -> bool:
    """Whether ``host`` is an address and not a name."""
    try:
        return bool(look_up(host, 0, socket.AI_NUMERICHOST))
    except (OSError, UnicodeError):
        return False


def one_port(places: Iterable[tuple[str, int | None]], given: int | None, usual: int) -> int:
    """Return the port of ``HOST:PORT`` or of ``--port``. Raises ``ValueError`` if they differ."""
    said = {port: place(host, port) for host, port in places if port is not None}
    if given is not None:
        said[given] = f"--port {given}"
    if len(said) > 1:
        raise ValueError(f"{' and '.join(said.values())} are two ports; give one of them")
    return next(iter(said), usual)
