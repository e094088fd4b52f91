"""Connections: which are taken, which make way, and which worker serves them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from pathlib import Path

import pytest

import config
from config import ServerSettings
from lft.accounts.account import demo_credentials
from lft.server.guests import Place
from lft.server.right_of_way import RightOfWay
from lft.server.sessions import Session
from server import Server
from tests.support.files import random_file
from tests.support.local import ServerThread, StartLocal, wire_peers
from tests.support.processes import ServerProcess, run_client, still_serves
from tests.support.rawpeer import Peer, RawClient, is_open, last_words, raw_socket
from tests.support.transfers import idle_peer
from tests.support.waiting import eventually

# --- workers and their connections --------------------------------------------------------------


def test_strangers_whom_a_worker_serves_make_way_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: while all workers are busy there are no more of them than there may be."""
    monkeypatch.setattr(config, "MAX_STRANGERS", 2)
    server = Server(ServerSettings(port=0, output=tmp_path), demo_credentials)
    pairs = [socket.socketpair() for _ in range(6)]
    with monkeypatch.context() as patch:
        patch.setattr(server.work, "put", lambda *_, **__: None)
        for ours, _ in pairs:
            server.connections.welcome(ours, server.greet)
            for peer in [peer for peer in wire_peers(server) if peer.place is Place.WATCHED]:
                server.connections._hand_over(peer)
    for _, theirs in pairs:
        theirs.setblocking(False)
    assert sum(_is_cut(theirs) for _, theirs in pairs) == 4
    for _, theirs in pairs:
        theirs.close()
    server._close()


def _turned(server: Server) -> bool:
    server._loop.turn()
    return True


def _is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def test_an_address_is_forgotten_with_its_last_connection(tmp_path: Path) -> None:
    """FAULTS 29: who comes from a new one each time must not fill the memory."""
    server = Server(ServerSettings(port=0, output=tmp_path), demo_credentials)
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, _ in pairs:
        server.connections.welcome(ours, server.greet)
    for peer in list(server.connections.peers):
        server.connections._forget(peer)
    assert dict(server.connections._neighbours) == {}
    for _, theirs in pairs:
        theirs.close()
    server._close()


def test_a_connection_is_never_given_to_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post and the peer's own bytes in one round of the selector: the second event is stale."""
    server = Server(ServerSettings(port=0, output=tmp_path), demo_credentials)
    ours, theirs = socket.socketpair()
    server.connections.welcome(ours, server.greet)
    (peer,) = wire_peers(server)
    units: list[object] = []
    monkeypatch.setattr(server.work, "put", lambda unit, *_, **__: units.append(unit))
    server.connections._nudge(peer)
    server.connections._on_ready(peer)
    assert len(units) == 1
    theirs.close()
    server._close()


def test_a_connection_that_is_held_back_costs_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its pause ends, main sees whether the next one begins."""
    server = Server(ServerSettings(port=0, output=tmp_path), demo_credentials)
    units: list[object] = []
    pause = 0.01
    monkeypatch.setattr(server.work, "put", lambda unit, *_, **__: units.append(unit))
    monkeypatch.setattr(RightOfWay, "pause", lambda *_: pause)
    peer = idle_peer()
    peer.place = Place.RESTING
    server.connections._go_on(peer)
    assert (len(units), peer.place) == (0, Place.RESTING)
    pause = 0.0
    eventually(lambda: _turned(server) and units, "its pause to end")
    assert (len(units), peer.place) == (1, Place.SERVED)
    server._close()


def test_connections_that_time_out_together_are_closed_once(tmp_path: Path) -> None:
    """The end of a coordinator closes its data connections, whose own time may be up as well."""
    server = Server(ServerSettings(port=0, output=tmp_path), demo_credentials)
    pairs = [socket.socketpair() for _ in range(20)]
    for ours, _ in pairs:
        server.connections.welcome(ours, server.greet)
    coordinator, *streams = wire_peers(server)
    coordinator.session = Session("u", 0, coordinator)
    server.registry.add(coordinator.session)
    for stream in streams:
        stream.session = server.registry.attach(coordinator.session.token, stream)
    for peer in wire_peers(server):
        peer.deadline = 0.0
    server._tick()
    assert coordinator.place is Place.LEAVING
    assert {peer.place for peer in streams} == {Place.CLOSED}
    for _, theirs in pairs:
        theirs.close()
    server._close()


def test_a_deadline_holds_for_a_peer_that_a_worker_serves(tmp_path: Path) -> None:
    """FAULTS 4: a peer that is never silent is never with main; it is cut all the same."""
    server = Server(ServerSettings(port=0, output=tmp_path), demo_credentials)
    ours, theirs = socket.socketpair()
    server.connections.welcome(ours, server.greet)
    (peer,) = wire_peers(server)
    server.connections._loop.unwatch(peer.connection)
    peer.place, peer.deadline = Place.SERVED, 0.0
    server._tick()
    assert peer.place is Place.CUT
    assert theirs.recv(1) == b""
    theirs.close()
    server._close()


def test_hundreds_of_idle_connections_and_their_end(local: ServerThread, tmp_path: Path) -> None:
    """29: idle connections cost a descriptor each, no thread, and are all closed at the end."""
    sockets = [raw_socket(local.port) for _ in range(300)]
    assert len([t for t in threading.enumerate() if t.name.startswith("worker")]) <= 10
    still_serves(local.port, tmp_path)
    for sock in sockets:
        sock.close()


# --- how many connections, and from where -------------------------------------------------------


def test_the_oldest_stranger_makes_way_for_a_newcomer(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: silent connections cannot keep out who wants to log in."""
    monkeypatch.setattr(config, "MAX_STRANGERS", 3)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw_socket(local.port)) for _ in range(3)]
        stack.enter_context(RawClient(local.port)).log_in()
        assert last_words(silent[0]) == b""
        assert is_open(silent[1])
        assert is_open(silent[2])


def test_who_has_logged_in_is_no_stranger(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: sessions neither count nor make way."""
    monkeypatch.setattr(config, "MAX_STRANGERS", 1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(local.port)).log_in() for _ in range(3)]
        assert all(is_open(client.control) for client in clients)


@pytest.mark.parametrize("limit", ["MAX_OF_ADDRESS", "MAX_CONNECTIONS"])
def test_a_full_house_of_sessions_turns_a_newcomer_away(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """29: nobody who has logged in is thrown out for it; room that is left can be taken."""
    monkeypatch.setattr(config, limit, 2)
    with RawClient(local.port).log_in() as first, RawClient(local.port).log_in() as second:
        with raw_socket(local.port) as third:
            assert last_words(third) == b""
        assert is_open(first.control)
        second.__exit__()
        eventually(lambda: len(local.server.connections.peers) == 1, "the second one to be gone")
        with RawClient(local.port) as third_again:
            third_again.log_in()


def test_strangers_of_a_crowded_address_make_way_for_their_like(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: the oldest one of that address, and nobody from elsewhere."""
    monkeypatch.setattr(config, "MAX_OF_ADDRESS", 2)
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(Peer(local.port, source="127.0.0.2"))
        silent = [stack.enter_context(raw_socket(local.port)) for _ in range(2)]
        stack.enter_context(RawClient(local.port)).log_in()
        assert last_words(silent[0]) == b""
        assert is_open(silent[1])
        assert is_open(elsewhere.control)


def test_strangers_of_one_ipv6_network_are_of_one_address(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: who has IPv6 has 2**64 addresses, and would have as many limits."""
    monkeypatch.setattr(config, "MAX_OF_ADDRESS", 2)
    local = start_local(proxy_from=("127.0.0.1",))
    with contextlib.ExitStack() as stack:
        strangers = []
        for number in range(4):
            header = f"PROXY TCP6 2001:db8:0:{number == 0:d}::{number} ::1 1 2\r\n".encode()
            strangers.append(stack.enter_context(raw_socket(local.port, header)))
            eventually(
                lambda: len(local.server.connections.peers) == min(len(strangers), 3),
                "the next one",
            )
        assert last_words(strangers[1]) == b""
        assert [is_open(one) for one in strangers] == [True, False, True, True]


def test_an_address_that_is_crowded_keeps_no_other_out(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: the limit is each address's own."""
    monkeypatch.setattr(config, "MAX_OF_ADDRESS", 1)
    with RawClient(local.port).log_in(), Peer(local.port, source="127.0.0.2") as other:
        other.log_in("user1", "password1")


def test_a_server_out_of_descriptors_makes_room_and_recovers(
    server: ServerProcess, tmp_path: Path
) -> None:
    """29: strangers make way, it says so once, not in a loop, and takes the next client."""
    pid = server.process.pid
    most = len(os.listdir(f"/proc/{pid}/fd")) + 5
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw_socket(server.port)) for _ in range(15)]
        assert last_words(silent[0]) == b""
    assert server.log.count("cannot accept") <= 1
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--streams", "1")
    assert done.returncode == 0, done.stderr
