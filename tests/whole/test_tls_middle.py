"""TLS that ends between client and server: by an attacker, or on purpose."""

from __future__ import annotations

import contextlib
import select
import socket
from pathlib import Path
from typing import Callable

import pytest

from client import send_files
from lft.accounts.scram import SCRAM_PLUS, ScramClient
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.tls import client_tls, server_tls
from protocol import (
    SCRAM,
    VERSION,
    AuthenticationError,
    AuthStart,
    Hello,
    Message,
    Side,
    TransferError,
)
from tests.support.certificates import Pair, Pki
from tests.support.files import md5, random_file
from tests.support.local import ServerThread
from tests.support.rawpeer import Peer
from tests.support.relays import Relay
from tests.support.waiting import PATIENCE

Change = Callable[[Message], Message]


def interception(
    port: int, pair: Pair, ca: Path, change: Change
) -> Callable[[socket.socket], None]:
    """Return what ends TLS with ``pair`` and passes each message on over TLS of its own."""

    def handle(sock: socket.socket) -> None:
        beyond = socket.create_connection(("127.0.0.1", port))
        near = Connection(sock, Side.SERVER, server_tls(pair.cert, pair.key))
        far = Connection(beyond, Side.CLIENT, client_tls(ca), "localhost")
        with contextlib.closing(near), contextlib.closing(far), contextlib.suppress(TransferError):
            far.secure_channel(PATIENCE)
            while True:
                far.send(change(_hear(near)))
                near.send(change(_hear(far)))

    return handle


def _hear(connection: Connection) -> Message:
    """Wait for a message, an ERROR as well."""
    while True:
        message = connection.receive()
        if message:
            return message
        connection.wait(PATIENCE)


def _strip(message: Message) -> Message:
    """Make it seem that the server cannot bind a login."""
    return Hello(VERSION, FEATURES) if isinstance(message, Hello) else message


def _disguise(message: Message) -> Message:
    """Do that, and ask for the bound login in the client's name."""
    if isinstance(message, AuthStart):
        return AuthStart(SCRAM_PLUS, message.data)
    return _strip(message)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda message: message, "the login is bound to another connection"),
        (_strip, "this server wants SCRAM-SHA-256-PLUS"),
        (_disguise, "the login is not bound to this TLS connection"),
    ],
    ids=["passes on", "strips", "strips and asks"],
)
def test_a_man_in_the_middle_with_a_good_certificate_is_found_out(
    secure: ServerThread, pki: Pki, tmp_path: Path, change: Change, words: str
) -> None:
    """27: the login is bound to the certificate that the client saw: exit 3, nobody is let in."""
    handle = interception(secure.port, pki.other, pki.ca, change)
    with Relay(handle) as relay, pytest.raises(AuthenticationError, match=words) as caught:
        send_files([random_file(tmp_path / "x", 10)], secure.client(port=relay.port, ca=pki.ca))
    assert caught.value.exit_code == 3


def ending_tls(port: int, pair: Pair) -> Callable[[socket.socket], None]:
    """Return what ends TLS with ``pair`` and passes a connection on to ``port`` without it."""
    context = server_tls(pair.cert, pair.key)

    def handle(sock: socket.socket) -> None:
        near = context.wrap_socket(sock, server_side=True)
        far = socket.create_connection(("127.0.0.1", port))
        with near, far, contextlib.suppress(OSError):  # one side has gone
            data = b"both are open"
            while data:
                for ready in select.select([near, far], [], [], PATIENCE)[0]:
                    data = ready.recv(65536)  # a record has 16 KB: nothing stays behind
                    (far if ready is near else near).sendall(data)

    return handle


def test_tls_may_end_in_front_of_the_server(local: ServerThread, pki: Pki, tmp_path: Path) -> None:
    """As with stunnel: the server cannot bind the login, its HELLO says so, and we get in."""
    source = random_file(tmp_path / "x", 1_000_000)
    with Relay(ending_tls(local.port, pki.server)) as relay:
        (receipt,) = send_files([source], local.client(port=relay.port, ca=pki.ca))
    assert receipt.digest == md5(source)


def test_a_login_that_is_not_bound_is_refused_over_tls(secure: ServerThread, pki: Pki) -> None:
    """27: whoever does not say which certificate it has seen does not get in."""
    with Peer(secure.port, ca=pki.ca) as peer:
        peer.hello(peer.control)
        with pytest.raises(AuthenticationError, match="SCRAM-SHA-256-PLUS"):
            peer.control.call(AuthStart(SCRAM, ScramClient("user1", "x").first()), PATIENCE)
