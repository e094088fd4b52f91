"""What the system measures of a TCP connection, and what it lets us choose."""

from __future__ import annotations

import os
import socket

from tests.support.sockets import SocketPair
from tests.support.waiting import PATIENCE, eventually


def test_a_connection_tells_what_the_system_knows_of_it(tcp_pair: SocketPair) -> None:
    """A round trip of less than a second on this machine, no queue, and time under way."""
    connection, theirs = tcp_pair
    connection.push(bytes(1000))
    assert theirs.recv(1000, socket.MSG_WAITALL) == bytes(1000)
    assert 0 < connection.tcp.round_trip < 1
    assert connection.tcp.queueing >= 1
    busy, no_room = connection.tcp.waits
    assert 0 <= no_room <= busy < PATIENCE


def test_a_peer_that_does_not_read_shows_in_what_a_connection_waits_for(
    tcp_pair: SocketPair,
) -> None:
    """The peer's window is shut: neither the network nor this side is slow."""
    connection, _ = tcp_pair
    connection.push(bytes(20_000_000))
    assert connection.unsent > 0
    eventually(lambda: connection.tcp.waits[1] > 0, "time without room")


def test_what_tcp_goes_by_can_be_chosen(tcp_pair: SocketPair) -> None:
    """Every system has reno and lets every user choose it; an unknown name changes nothing."""
    connection, _ = tcp_pair
    connection.tcp.choose_congestion("reno")
    assert connection.tcp.congestion == "reno"
    connection.tcp.choose_congestion("no such thing")
    connection.tcp.choose_congestion("")
    assert connection.tcp.congestion == "reno"


def test_a_connection_without_tcp_says_nothing_of_the_network(pair: SocketPair) -> None:
    """Zeros and an empty name, no error."""
    connection, _ = pair
    tcp = connection.tcp
    tcp.choose_congestion("reno")
    assert (tcp.round_trip, tcp.queueing, tcp.waits, tcp.congestion) == (0.0, 1.0, (0.0, 0.0), "")


def test_little_is_kept_unsent_where_that_is_wanted(tcp_pair: SocketPair) -> None:
    """The option is set, and the size of the system's buffer is not touched."""
    connection, _ = tcp_pair
    sock = connection._socket
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    connection.tcp.keep_unsent(4096)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 4096
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before


def test_a_tcp_connection_is_tuned(tcp_pair: SocketPair) -> None:
    """No delay for small frames, a watch on dead peers, and nothing ever blocks."""
    connection, _ = tcp_pair
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not os.get_blocking(connection.fileno())
