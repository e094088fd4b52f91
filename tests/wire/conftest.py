"""Connections whose other end is a bare socket."""

from __future__ import annotations

import socket
from typing import Callable, Iterator

import pytest

from lft.wire.connection import Connection
from protocol import Side
from tests.support.sockets import SocketPair
from tests.support.waiting import PATIENCE


@pytest.fixture
def make_pair() -> Iterator[Callable[[Side], SocketPair]]:
    """Give a function that makes a connection and the bare socket at its other end."""
    made: list[Connection | socket.socket] = []

    def make(side: Side) -> SocketPair:
        ours, theirs = socket.socketpair()
        theirs.settimeout(PATIENCE)
        connection = Connection(ours, side)
        made.extend((connection, theirs))
        return connection, theirs

    yield make
    for one in made:
        one.close()


@pytest.fixture
def pair(make_pair: Callable[[Side], SocketPair]) -> SocketPair:
    """Give a client's connection and the bare socket at its other end."""
    return make_pair(Side.CLIENT)


@pytest.fixture
def server_pair(make_pair: Callable[[Side], SocketPair]) -> SocketPair:
    """Give a server's connection and the bare socket at its other end."""
    return make_pair(Side.SERVER)


@pytest.fixture
def tcp_pair() -> Iterator[SocketPair]:
    """Give a client's connection over TCP and the bare socket at its other end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.create_connection(listener.getsockname(), PATIENCE)
        theirs, _ = listener.accept()
    connection = Connection(ours, Side.CLIENT)
    theirs.settimeout(PATIENCE)
    yield connection, theirs
    connection.close()
    theirs.close()
