"""Connections while no worker serves them: take in, watch, hand over, see off."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Callable, Sequence

import config
from lft.addresses import network_of
from lft.server.event_loop import EventLoop
from lft.server.guests import TOO_SLOW, Guest, Next, Place
from lft.server.log_limit import speaking_for
from lft.server.right_of_way import RightOfWay
from lft.server.sessions import Correspondent, Peer
from lft.server.work_queue import WorkQueue
from lft.wire.proxy_protocol import Origin
from lft.wire.sockets import Socket
from protocol import ConnectionLostError, Message

if TYPE_CHECKING:
    from lft.wire.tls import Tls

log = logging.getLogger("server")

# Makes a guest of a new connection, with the server's certificate if it has one; an ``OSError``
# says that the connection has gone already.
Greeter = Callable[[Socket, "Tls | None"], Guest]


class Connections:
    """Every connection of the server; only here their ``place`` changes.

    A ``Greeter`` says what is spoken on a new one. ``end_session`` ends what belongs to a guest
    that leaves, on main, and returns the connections that end with it.
    All methods run on main, except ``post`` and ``nudge`` (any thread).
    """

    def __init__(
        self,
        loop: EventLoop,
        work: WorkQueue,
        way: RightOfWay,
        end_session: Callable[[Guest], Sequence[Guest]],
    ) -> None:
        self.tls: Tls | None = None  # what new connections are shown
        self.most = config.MAX_CONNECTIONS  # that there are descriptors for
        self.peers: set[Guest] = set()
        self._loop = loop
        self._work = work
        self._way = way
        self._end_session = end_session
        self._neighbours: Counter[str] = Counter()  # connections of each network
        self._strangers: dict[Guest, None] = {}  # have not logged in, the oldest first

    # -- coming

    def welcome(
        self, sock: Socket, greeter: Greeter, address: str = "", origin: Origin | None = None
    ) -> None:
        """Take a new connection in, or close it where there is no room.

        ``address`` is what limits go by. ``origin`` is that address and port where the connection
        comes by a balancer.
        """
        peer = self._take_in(sock, greeter, address, origin)
        if peer:
            self._watch(peer)

    def turn_away(self, sock: Socket, greeter: Greeter, address: str, reason: str) -> None:
        """End a new connection that has broken the protocol; without TLS it is told the reason."""
        peer = self._take_in(sock, greeter, address, None)
        if peer:
            peer.refuse("protocol", reason)
            self._see_off(peer)

    def _take_in(
        self, sock: Socket, greeter: Greeter, address: str, origin: Origin | None
    ) -> Guest | None:
        """Make a guest of a new connection, if there is room."""
        if not self._make_room(address):
            sock.close()
            return None
        try:
            peer = greeter(sock, self.tls)
        except OSError:  # it has gone already
            sock.close()
            return None
        if origin:
            peer.introduce(origin)
        self.peers.add(peer)
        self._strangers[peer] = None
        self._neighbours[peer.network] += 1
        return peer

    def _make_room(self, address: str) -> bool:
        """Have room for one more connection, if need be in place of a stranger; return whether.

        A newcomer is more likely to have a file to send than the connection that has said nothing
        for the longest time.
        """
        network = network_of(address)
        if self._neighbours[network] >= config.MAX_OF_ADDRESS:
            return self._drop_first(self._unknown(network))
        if len(self.peers) >= min(config.MAX_CONNECTIONS, self.most):
            return self._drop_first(self._unknown())
        most_strangers = min(config.MAX_STRANGERS, self.most // 2)
        if len(self._strangers) < most_strangers:
            return True
        strangers, own = self._unknown(), self._unknown(network)
        crowd = own if 2 * len(own) > len(strangers) else strangers  # no network pushes all out
        return len(strangers) < most_strangers or self._drop_first(crowd)

    def _unknown(self, network: str | None = None) -> list[Guest]:
        """Return the peers (of one network) that have not logged in, the oldest first."""
        gone = (Place.CUT, Place.LEAVING, Place.CLOSED)
        return [
            peer for peer in self._strangers
            if network in (None, peer.network)
            and not (peer.user is not None or peer.done or peer.place in gone)
        ]  # fmt: skip

    def drop_stranger(self) -> bool:
        """End the connection that has said nothing for the longest time; return whether one did."""
        return self._drop_first(self._unknown())

    def _drop_first(self, strangers: list[Guest]) -> bool:
        if strangers:
            self._drop(strangers[0])
        return bool(strangers)

    # -- with main

    def _watch(self, peer: Guest, place: Place = Place.WATCHED) -> None:
        """Own ``peer`` until something comes."""
        try:
            self._loop.watch(peer.connection, peer.events, partial(self._on_ready, peer))
        except OSError as error:  # the system watches no more descriptors
            log.error("%s: %s", peer.name, error.strerror)
            self._forget(peer)
        else:
            peer.place = place

    def _on_ready(self, peer: Guest) -> None:
        """Go on with a peer; an earlier event of the same round may have moved it elsewhere."""
        if peer.place is Place.WATCHED:
            self._hand_over(peer)
        elif peer.place is Place.LEAVING and peer.connection.discard():
            self._forget(peer)
        elif peer.place is Place.LEAVING and peer.connection.unsent:
            self._loop.unwatch(peer.connection)
            self._say_rest(peer)

    def post(self, peer: Peer | Correspondent, message: Message) -> None:
        """Have ``message`` sent by the owner of ``peer`` (any)."""
        if isinstance(peer, Correspondent):
            peer.hear(message)
            return
        peer.mailbox.append(message)
        self.nudge(peer)

    def nudge(self, peer: Guest) -> None:
        """Have a worker look at ``peer``, for which there is news (any)."""
        self._loop.call(partial(self._nudge, peer))

    def nudge_all(self) -> None:
        """Have workers look at all for which there is news."""
        for peer in list(self.peers):
            if peer.place is Place.WATCHED and peer.has_news:
                self._hand_over(peer)

    def _nudge(self, peer: Guest) -> None:
        if peer.place is Place.WATCHED:
            self._hand_over(peer)

    def _go_on(self, peer: Guest) -> None:
        """End the pause of ``peer``, unless it has to give way: that needs no worker to see."""
        if peer.place is not Place.RESTING:
            return
        if peer.pause(self._way.pause(peer.priority, peer.held_until)):
            self._rest(peer)
        else:
            self._hand_over(peer)

    def _rest(self, peer: Guest) -> None:
        peer.place = Place.RESTING
        self._loop.at(peer.paused_until, partial(self._go_on, peer))

    # -- to a worker and back

    def _hand_over(self, peer: Guest) -> None:
        """Give ``peer`` to a worker."""
        if peer.place is Place.WATCHED:
            self._loop.unwatch(peer.connection)
        peer.place = Place.SERVED
        serve, user = partial(self._serve, peer), peer.user
        owner = peer.network if user is None else user
        self._work.put(serve, peer.priority, owner, login=user is None)

    def _serve(self, peer: Guest) -> None:
        """Serve ``peer`` and give it back to main (a worker)."""
        after = Next.LOST
        try:
            after = peer.serve()
        finally:
            self._loop.call(partial(self._take_back, peer, after))

    def _take_back(self, peer: Guest, after: Next) -> None:
        if peer.user is not None:
            self._strangers.pop(peer, None)
        if peer.place is Place.CUT or after is Next.LOST:
            self._forget(peer)
        elif peer.done:
            self._see_off(peer)
        elif peer.paused_until > time.monotonic():
            self._rest(peer)
        elif after is Next.AGAIN or peer.has_news or peer.connection.pending:
            self._hand_over(peer)
        else:
            self._watch(peer)

    # -- going

    def _see_off(self, peer: Guest) -> None:
        """Let a peer read our last words before its connection closes.

        Closing while its bytes are unread would reset the connection and destroy those words.
        """
        self._drop_session(peer)
        peer.deadline = time.monotonic() + config.CLOSING_TIMEOUT
        self._say_rest(peer)

    def _say_rest(self, peer: Guest) -> None:
        with contextlib.suppress(ConnectionLostError):  # the selector tells of that as well
            if peer.connection.flush():
                peer.connection.finish()
        self._watch(peer, Place.LEAVING)

    def _forget(self, peer: Guest) -> None:
        """Close a connection and what depends on it."""
        if peer.place in (Place.WATCHED, Place.LEAVING):
            self._loop.unwatch(peer.connection)
        peer.place = Place.CLOSED
        self._drop_session(peer)
        if peer in self.peers:
            self.peers.remove(peer)
            self._strangers.pop(peer, None)
            self._neighbours[peer.network] -= 1
            if not self._neighbours[peer.network]:
                del self._neighbours[peer.network]
        peer.release()
        peer.connection.close()

    def _drop_session(self, peer: Guest) -> None:
        for stream in self._end_session(peer):
            self._drop(stream)

    def _drop(self, peer: Guest) -> None:
        """Close a connection that a worker may be busy with."""
        if peer.place in (Place.SERVED, Place.CUT):
            peer.place = Place.CUT  # whatever its worker still finds
            peer.connection.cut()
        else:
            self._forget(peer)

    # -- clocks and the end

    def look_at_deadlines(self, now: float) -> None:
        """End peers that are too slow; hand over those at which a worker is to look now."""
        for peer in list(self.peers):  # one that ends another's session closes it
            if peer.place is Place.LEAVING and now >= peer.deadline:
                self._forget(peer)
            elif peer.place is Place.SERVED and now >= peer.deadline + config.CLOSING_TIMEOUT:
                self._drop(peer)  # its worker should have seen that: a peer that is never silent
            elif peer.place is Place.WATCHED and now >= peer.deadline:
                self._time_out(peer)
            elif peer.place is Place.WATCHED and now >= peer.due_at:
                self._hand_over(peer)

    def _time_out(self, peer: Guest) -> None:
        with speaking_for(peer.network):
            log.info("%s: closed after too long a silence", peer.name)
        self._loop.unwatch(peer.connection)
        peer.refuse("timeout", TOO_SLOW)
        self._see_off(peer)

    @property
    def at_rest(self) -> bool:
        """Whether no worker serves a peer, and all answers have left."""
        served = (Place.SERVED, Place.CUT)
        return not any(peer.place in served or peer.busy for peer in self.peers)

    def say_goodbye(self) -> None:
        """Say the last words to all peers, stop the workers' waiting."""
        for peer in self.peers:
            if peer.place in (Place.WATCHED, Place.LEAVING):
                peer.refuse("shutdown", "the server is shutting down")
                peer.connection.finish()
            else:
                peer.connection.cut()

    def close(self) -> None:
        """Close every connection, once the workers have ended."""
        for peer in self.peers:
            peer.release()
            peer.connection.close()
        self.peers.clear()
