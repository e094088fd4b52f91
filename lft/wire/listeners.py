"""Listening on each address of several hosts, on one port."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from typing import Any, Iterator, NamedTuple, Sequence

import config
from lft.addresses import look_up, place
from lft.terminal import printable
from protocol import UsageError

log = logging.getLogger("server")

_LOOPBACK = ("127.0.0.1", "::1")  # localhost (RFC 6761), whatever the file of hosts says
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # IPv6 that is switched off, for example


class _Place(NamedTuple):
    """An address to listen on, of a host as it was asked for."""

    host: str
    family: int
    address: Any  # as bind takes it


def listen(hosts: Sequence[str], port: int, option: str = "--port") -> list[socket.socket]:
    """Open a listener on each address of ``hosts``, all with the same port, also if it is 0.

    An address that this machine does not have is left out, and logged, where its host has another
    one that can be used. Raises ``UsageError``, which names the ``option`` for another port.
    """
    places = list({one.address: one for host in hosts for one in _places(host, port)}.values())
    for left in reversed(range(config.PORT_TRIES)):
        try:
            return _open_all(places)
        except _PortTakenError as error:
            if not left or port:
                hint = f"; choose another with {option}"
                raise UsageError(f"{error}{hint}") from None
    raise AssertionError("the last try returns or raises")


class _PortTakenError(UsageError):
    """A port is in use; if it was chosen by the system, another one may not be."""


def _places(host: str, port: int) -> Iterator[_Place]:
    """Give the addresses of ``host``. Raises ``UsageError`` if there are none."""
    for name in _LOOPBACK if host.lower() == "localhost" else (host,):
        try:
            found = look_up(name, port, socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "not a host name"
            raise UsageError(f"cannot listen on {printable(host)}: {reason}") from None
        for family, _, _, _, address in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
            yield _Place(host, family, address)


def _open_all(places: list[_Place]) -> list[socket.socket]:
    """Open a listener for each place; where the first got its port from the system, on that."""
    alone = all(one.family != socket.AF_INET for one in places)  # then :: is for IPv4 as well
    missing: list[tuple[_Place, OSError]] = []
    with contextlib.ExitStack() as undo:
        opened: dict[_Place, socket.socket] = {}
        for one in places:
            port = next((sock.getsockname()[1] for sock in opened.values()), one.address[1])
            try:
                opened[one] = undo.enter_context(_open(one, port, six_only=not alone))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise _cannot(one, port, error) from None
                missing.append((one, error))
        _check_missing(missing, {one.host for one in opened})
        undo.pop_all()
    return list(opened.values())


def _check_missing(missing: list[tuple[_Place, OSError]], served: set[str]) -> None:
    """Log the addresses that are left out. Raises ``UsageError`` if a host has no other one."""
    for one, error in missing:
        if one.host not in served:
            raise _cannot(one, one.address[1], error)
        usual = one.address[0] in _LOOPBACK  # a machine without IPv6 is no news
        level = logging.DEBUG if usual else logging.INFO
        log.log(level, "not listening on %s: %s", one.address[0], error.strerror)


class Listening(NamedTuple):
    """Where a listener is bound, for opening it again."""

    family: int
    address: Any  # as bind takes it
    six_only: bool  # of IPv6: IPv4 does not come here

    @classmethod
    def of(cls, listener: socket.socket) -> Listening:
        """Return where ``listener`` is bound."""
        six = listener.family == socket.AF_INET6
        only = six and bool(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        return cls(listener.family, listener.getsockname(), only)

    def open(self) -> socket.socket:
        """Listen there. Raises ``OSError``."""
        listener = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.six_only:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(self.address)
            listener.listen(config.LISTEN_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener


def _open(one: _Place, port: int, *, six_only: bool) -> socket.socket:
    """Open one listener. Raises ``OSError``."""
    address = (one.address[0], port, *one.address[2:])
    return Listening(one.family, address, six_only and one.family == socket.AF_INET6).open()


def _cannot(one: _Place, port: int, error: OSError) -> UsageError:
    taken = error.errno == errno.EADDRINUSE
    kind = _PortTakenError if taken else UsageError
    return kind(f"cannot listen on {place(one.host, port)}: {error.strerror}")
