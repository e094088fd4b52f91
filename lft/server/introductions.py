"""Connections of balancers, until the PROXY header has said whose each is."""

from __future__ import annotations

import logging
import selectors
import time
from functools import partial
from typing import Callable, NamedTuple

import config
from lft.addresses import Networks, network_of
from lft.server.connections import Greeter
from lft.server.event_loop import EventLoop
from lft.server.log_limit import speaking_for
from lft.wire.proxy_protocol import HeaderReader, Origin
from lft.wire.sockets import Socket, peer_address, peer_name
from protocol import ConnectionLostError, RemoteProtocolError

log = logging.getLogger("server")

# of a connection: its greeter, its address, and its origin or the reason
Welcome = Callable[[Socket, Greeter, str, "Origin | None"], None]
TurnAway = Callable[[Socket, Greeter, str, str], None]

NO_HEADER = "this server expects a PROXY header from your address (--proxy-from)"


class _Newcomer(NamedTuple):
    """A connection of a balancer that has not said yet from where it comes."""

    greeter: Greeter
    address: str  # of the balancer
    header: HeaderReader
    deadline: float


class Introductions:
    """Asks connections of ``balancers`` for their PROXY header; all others pass at once.

    ``welcome`` takes a connection in. ``turn_away`` ends one that begins otherwise. Main's own.
    """

    def __init__(
        self, balancers: Networks, loop: EventLoop, welcome: Welcome, turn_away: TurnAway
    ) -> None:
        self._balancers = balancers
        self._loop = loop
        self._welcome = welcome
        self._turn_away = turn_away
        self._newcomers: dict[Socket, _Newcomer] = {}  # the oldest first

    def take(self, greeter: Greeter, sock: Socket, address: str) -> None:
        """Take a new connection; of a balancer's, what follows the header is not touched."""
        if address not in self._balancers:
            self._welcome(sock, greeter, address, None)
            return
        if len(self._newcomers) >= config.MAX_NEWCOMERS:
            self.drop_oldest()
        sock.setblocking(False)
        try:
            self._loop.watch(sock, selectors.EVENT_READ, partial(self._read, sock))
        except OSError as error:  # the system watches no more descriptors
            log.error("%s: %s", address, error.strerror)
            sock.close()
        else:
            deadline = time.monotonic() + config.PROXY_TIMEOUT
            self._newcomers[sock] = _Newcomer(greeter, address, HeaderReader(), deadline)

    def _read(self, sock: Socket) -> None:
        """Go on with a header; an earlier event of the same round may have closed the socket."""
        newcomer = self._newcomers.get(sock)
        if newcomer is None:
            return
        try:
            complete = newcomer.header.read(sock)
            origin = newcomer.header.origin if complete else None
        except ConnectionLostError as error:  # a balancer that looks whether the port is open
            log.debug("%s: %s", newcomer.address, error)
            self._let_go(sock).close()
        except RemoteProtocolError as error:
            self._refuse(sock, newcomer, str(error))
        else:
            if complete:
                address = origin.address if origin else newcomer.address
                self._welcome(self._let_go(sock), newcomer.greeter, address, origin)

    def _refuse(self, sock: Socket, newcomer: _Newcomer, why: str) -> None:
        with speaking_for(network_of(newcomer.address)):
            log.warning("%s: %s; --proxy-from asks for one from there",
                        peer_name(peer_address(sock)), why)  # fmt: skip
        self._turn_away(self._let_go(sock), newcomer.greeter, newcomer.address, NO_HEADER)

    def _let_go(self, sock: Socket) -> Socket:
        del self._newcomers[sock]
        self._loop.unwatch(sock)
        return sock

    def drop_oldest(self) -> bool:
        """Close the connection that has waited for the longest time; return whether one did."""
        for sock in self._newcomers:
            self._let_go(sock).close()
            return True
        return False

    def look_at_deadlines(self, now: float) -> None:
        """Close what did not say in time from where it comes."""
        late = [sock for sock, one in self._newcomers.items() if now >= one.deadline]
        for sock in late:
            self._refuse(sock, self._newcomers[sock], "no whole PROXY header in time")

    def close(self) -> None:
        """Close what still waits."""
        while self.drop_oldest():
            pass
