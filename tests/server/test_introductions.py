"""Connections that a balancer hands on: whose each is, and what goes by that."""

from __future__ import annotations

import contextlib
import socket

import pytest

import config
from lft.accounts.account import Accounts
from lft.server.introductions import NO_HEADER
from protocol import AuthenticationError, AuthOk
from tests.support.accounts import ALICE_ALONE, VERIFIER, Serve, token
from tests.support.balancer import CLIENT, LOCAL, Behind, binary, line
from tests.support.certificates import Pki, tls
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.rawpeer import HELLO, Peer, is_open, last_words, raw_socket
from tests.support.waiting import eventually
from tests.support.web import Browser, basic, web_port

HERE = ("127.0.0.1",)
OTHER = "203.0.113.9"


def await_log(caplog: pytest.LogCaptureFixture, words: str) -> str:
    """Wait for the line of the log that has ``words`` in it; return it."""
    eventually(lambda: lines(caplog, words), words)
    return lines(caplog, words)[0]


@pytest.mark.parametrize("greeting", [line(), binary()])
def test_the_log_names_the_client_and_not_the_balancer(
    serve: Serve, caplog: pytest.LogCaptureFixture, greeting: bytes
) -> None:
    """Whether a login succeeds or fails; a program such as fail2ban would ban the balancer."""
    caplog.set_level("INFO")
    local = serve(ALICE_ALONE, proxy_from=HERE)
    with Behind(local.port, greeting).log_in():
        assert await_log(caplog, "logged in").startswith(f"{CLIENT}:5678 logged in as alice")
    with Behind(local.port, greeting) as guesser, pytest.raises(AuthenticationError):
        guesser.log_in(password="wrong")
    assert await_log(caplog, "login failed").startswith(f"login failed from {CLIENT} port 5678,")


def test_sixteen_wrong_guesses_from_one_client_do_not_delay_another(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 23: behind a balancer all clients had one address, and one guesser slowed all."""
    users = Accounts({"alice": VERIFIER, "bob": VERIFIER})
    local = serve(users, proxy_from=HERE)
    with contextlib.ExitStack() as stack:
        for number in range(16):
            guesser = stack.enter_context(Behind(local.port, binary(OTHER)))
            guesser.prove(f"user{number}", "wrong")
        delayed = 16 - config.FREE_ADDRESS
        eventually(lambda: len(lines(caplog, "its login waits")) == delayed, "the delays")
        stack.enter_context(Behind(local.port)).log_in("bob")
        assert len(lines(caplog, "its login waits")) == delayed
        stack.enter_context(Behind(local.port, binary(OTHER))).prove("alice")
        eventually(lambda: len(lines(caplog, "its login waits")) == delayed + 1, "one more")


def test_the_balancer_itself_is_no_clients_address(serve: Serve) -> None:
    """Its own connections and those of its clients have limits of their own."""
    local = serve(ALICE_ALONE, proxy_from=HERE)
    with Behind(local.port).log_in(), Behind(local.port, LOCAL):
        peers = local.server.connections.peers
        eventually(lambda: len(peers) == 2, "both")
        assert {peer.network for peer in peers} == {CLIENT, "127.0.0.1"}


@pytest.mark.parametrize("begin", [HELLO, b"GET / HTTP/1.1\r\n\r\n", b"P", b"\r\n\r\n\0"])
def test_a_connection_of_the_balancer_needs_a_header(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """Otherwise clients that go around its rules would have its address."""
    monkeypatch.setattr(config, "PROXY_TIMEOUT", 0.2)
    monkeypatch.setattr(config, "TICK", 0.1)
    local = start_local(proxy_from=HERE)
    with raw_socket(local.port, begin) as sock:
        assert NO_HEADER.encode() in last_words(sock)


def test_a_header_from_a_stranger_ends_that_connection(
    start_local: StartLocal, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise anyone could come from any address; other connections of it are served."""
    local = start_local(proxy_from=("127.0.0.9", "192.0.2.0/24", "2001:db8::/32"))
    for greeting in (line(), binary(), LOCAL):
        with raw_socket(local.port, greeting + HELLO) as sock:
            assert b"PROXY header from an address that --proxy-from does not" in last_words(sock)
    with Peer(local.port) as peer:
        peer.log_in("user1", "password1")
    assert len(lines(caplog, "PROXY header from an address")) == 3


def test_a_header_from_a_stranger_ends_a_connection_with_tls(serve: Serve, pki: Pki) -> None:
    """It is no TLS, whatever else it may be."""
    local = serve(ALICE_ALONE, proxy_from=("127.0.0.9",), **tls(pki.server))
    with raw_socket(local.port, binary() + HELLO) as sock:
        assert b'"plain"' in last_words(sock)


def test_the_header_stands_before_tls(serve: Serve, pki: Pki) -> None:
    """The balancer hands bytes on and sees no more; the login is bound to the certificate."""
    local = serve(ALICE_ALONE, proxy_from=HERE, **tls(pki.server))
    with Behind(local.port, ca=pki.ca).log_in() as peer:
        assert peer.control.secure
        peer.start("x", bytes(10))


def test_without_a_header_there_is_no_tls(serve: Serve, pki: Pki) -> None:
    """The balancer's address needs one with TLS, too."""
    local = serve(ALICE_ALONE, proxy_from=HERE, **tls(pki.server))
    with raw_socket(local.port, b"\x16\x03\x01\x02\x00") as sock:
        assert last_words(sock) == b""


@pytest.mark.parametrize("greeting", [binary(more=b"\x04\0\x01x"), line(), LOCAL])
def test_a_header_that_comes_in_two_pieces_ends_where_it_ends(
    start_local: StartLocal, greeting: bytes
) -> None:
    """FAULTS 2: cut at every byte, the second piece glued to HELLO."""
    local = start_local(proxy_from=HERE)
    with contextlib.ExitStack() as stack:
        socks = []
        for place in range(1, len(greeting) + 1):
            sock = stack.enter_context(raw_socket(local.port, greeting[:place]))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socks.append(sock)
        eventually(lambda: len(local.server.connections.peers) == 1, "the whole one")
        for place, sock in enumerate(socks, 1):
            sock.sendall(greeting[place:] + HELLO)
        for sock in socks:
            assert b"HELLO@" in sock.recv(1000)


def test_a_connection_that_only_looks_whether_the_port_is_open_is_no_news(
    start_local: StartLocal, caplog: pytest.LogCaptureFixture
) -> None:
    """A balancer may do so every second, for weeks."""
    caplog.set_level("INFO")
    local = start_local(proxy_from=HERE)
    caplog.clear()
    for _ in range(3):
        raw_socket(local.port).close()
    with Behind(local.port):
        eventually(lambda: local.server.connections.peers, "the next one")
    assert caplog.messages == []


def test_the_oldest_newcomer_makes_way(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: headers that never come fill nothing."""
    monkeypatch.setattr(config, "MAX_NEWCOMERS", 2)
    local = start_local(proxy_from=HERE)
    with contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(raw_socket(local.port, b"PROXY")) for _ in range(3)]
        assert last_words(first) == b""
        assert all(is_open(one) for one in others)


# --- what holds for this machine alone ------------------------------------------------------------


def test_a_token_of_a_client_elsewhere_needs_tls(serve: Serve) -> None:
    """A balancer on loopback made tokens pass in the clear."""
    local = serve(ALICE_ALONE, proxy_from=HERE)
    with Behind(local.port, binary("127.0.0.1")) as here:
        assert isinstance(here.show(token()), AuthOk)
    for greeting in (binary(), b"PROXY UNKNOWN\r\n"):
        with Behind(local.port, greeting) as there, pytest.raises(AuthenticationError, match="TLS"):
            there.show(token())


def test_loopback_at_another_machine_is_elsewhere(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is on the balancer's machine; between that and ours there is a network."""
    local = serve(ALICE_ALONE, proxy_from=HERE)
    monkeypatch.setattr("lft.wire.channel.peer_address", lambda _: ("192.0.2.1", 1))
    there = Behind(local.port, binary("127.0.0.1"))
    with there, pytest.raises(AuthenticationError, match="TLS"):
        there.show(token())


def test_the_demo_accounts_are_for_clients_on_this_machine(local_behind: ServerThread) -> None:
    """The server listens on loopback alone, but a balancer there hands on who comes to it."""
    with Behind(local_behind.port, binary("127.0.0.1")) as here:
        here.log_in("user1", "password1")
    with Behind(local_behind.port) as there, pytest.raises(AuthenticationError, match="demo"):
        there.log_in("user1", "password1")


def test_browsers_come_from_where_the_balancer_says(start_local: StartLocal) -> None:
    """Passwords without TLS, the demo accounts, limits and the log go by that, as on the wire."""
    local = start_local(proxy_from=HERE, http=("localhost", 0))
    statuses = []
    for greeting in (binary("127.0.0.1"), binary()):
        with Browser(web_port(local)) as browser:
            browser.send(greeting)
            statuses.append(browser.get("/api/v1/server", basic()).status)
    assert statuses == [200, 403]
    with Browser(web_port(local)) as browser:
        browser.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert last_words(browser.sock) == b""


@pytest.fixture
def local_behind(start_local: StartLocal) -> ServerThread:
    """One server in a thread, behind a balancer."""
    return start_local(proxy_from=HERE)
