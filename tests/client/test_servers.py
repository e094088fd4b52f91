"""Several servers behind one name: which of them is tried first."""

from __future__ import annotations

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Tuple

import pytest

from client import send_files
from config import MB
from lft.addresses import Address, shuffled
from lft.client.receipt import Receipt
from lft.client.rejected import raise_rejected
from lft.client.servers import Servers
from lft.wire.connection import raise_error
from protocol import (
    ConnectionLostError,
    Error,
    Rejected,
    SentAwayError,
    SessionLostError,
    SilenceError,
)
from tests.support.files import journal_bytes, random_file, received
from tests.support.local import ServerThread, StartLocal, wire_peers
from tests.support.network import check_one
from tests.support.rawpeer import RawClient
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import FaultProxy

V4, V6 = socket.AF_INET, socket.AF_INET6
A, B, C = (Address(V4, (f"203.0.112.{number}", 4455)) for number in (1, 2, 3))
SIX = [Address(V6, (f"2001:db9::{number}", 4455, 0, 0)) for number in (1, 2)]


def drawn(addresses: list[Address], times: int = 3000) -> Counter[Address]:
    """Return how often each address came first."""
    return Counter(shuffled(addresses)[0] for _ in range(times))


# --- the order ------------------------------------------------------------------------------------


def test_each_of_three_servers_is_first_as_often_as_the_others() -> None:
    """A thousand of three thousand, within six standard deviations."""
    counts = drawn([A, B, C])
    assert set(counts) == {A, B, C}
    assert all(845 <= count <= 1155 for count in counts.values())


def test_the_systems_order_of_families_and_of_kinds_of_address_stays() -> None:
    """RFC 6724: it knows which way works; chance decides between equals only."""
    private, link = Address(V4, ("10.0.0.1", 1)), Address(V6, ("fe80::1", 1, 0, 2))
    local, tunnel = Address(V6, ("::1", 1, 0, 0)), Address(V6, ("2002::1", 1, 0, 0))
    order = [SIX[0], link, A, SIX[1], private, B, local, tunnel]
    for _ in range(50):
        found = shuffled(order)
        assert sorted(found) == sorted(order)
        assert [one in SIX for one in found] == [one in SIX for one in order]
        assert [one in (A, B) for one in found] == [one in (A, B) for one in order]
        for one in (link, private, local, tunnel):
            assert found.index(one) == order.index(one)


def test_a_name_with_one_address_of_a_family_costs_no_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``localhost``, say: nothing has to be loaded for it."""
    monkeypatch.setitem(__import__("sys").modules, "random", None)
    assert shuffled([SIX[0], A]) == [SIX[0], A]
    assert shuffled([]) == []


@pytest.fixture
def servers() -> Servers:
    """Servers of which nothing is known."""
    return Servers()


def end_session(servers: Servers, address: Address, error: ConnectionLostError) -> None:
    """Have a session with ``address`` end with ``error``."""
    servers.note_connected(*address)
    servers.note_session()
    servers.note_lost(error)


@pytest.mark.parametrize("error", [ConnectionLostError("reset"), SessionLostError("unknown")])
def test_the_server_of_a_lost_session_comes_first(
    servers: Servers, error: ConnectionLostError
) -> None:
    """It has the transfer, and its lock; elsewhere the file would have to wait for that."""
    end_session(servers, B, error)
    assert {servers.order([A, B, C])[0] for _ in range(20)} == {B}
    assert servers.order([C]) == [C]


@pytest.mark.parametrize("error", [SentAwayError("busy"), SilenceError("silent")])
def test_a_server_that_sent_us_away_or_is_silent_comes_last(
    servers: Servers, error: ConnectionLostError
) -> None:
    """It would do so again, while another one takes us at once."""
    end_session(servers, A, ConnectionLostError("reset"))
    end_session(servers, B, error)
    orders = [servers.order([A, B, C]) for _ in range(40)]
    assert {order[-1] for order in orders} == {B}
    assert {order[0] for order in orders} == {A, C}


def test_a_server_at_which_no_session_came_about_comes_last(servers: Servers) -> None:
    """It accepts connections and drops them: otherwise it would keep us for ever."""
    servers.note_connected(*A)
    servers.note_lost(ConnectionLostError("closed"))
    assert servers.order([A, B]) == [B, A]


def test_of_servers_that_sent_us_away_the_first_one_has_the_first_turn(servers: Servers) -> None:
    """They take turns, for as long as none has room."""
    for address in (A, B, A):
        end_session(servers, address, SentAwayError("busy"))
    assert servers.order([A, B]) == [B, A]


def test_when_none_answers_all_have_been_tried(servers: Servers) -> None:
    """Nothing is learned of any single one."""
    end_session(servers, A, SentAwayError("busy"))
    servers.note_lost(ConnectionLostError("nothing listens there"))
    assert servers.order([A, B]) == [B, A]


@pytest.mark.parametrize("code", ["busy", "shutdown"])
def test_these_answers_send_us_away(code: str) -> None:
    """Whether they are about the connection or about the file."""
    with pytest.raises(SentAwayError):
        raise_error(Error(code, "x"))
    with pytest.raises(SentAwayError):
        raise_rejected("x", Rejected(code, "x"))


# --- real servers ---------------------------------------------------------------------------------


@pytest.fixture
def pair(start_local: StartLocal, tmp_path: Path) -> tuple[ServerThread, ServerThread]:
    """Two servers with one port, on two addresses of this machine."""
    first = start_local(hosts=("127.0.0.1",), output=tmp_path / "one")
    second = start_local(hosts=("127.0.0.2",), port=first.port, output=tmp_path / "two")
    return first, second


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``two.example`` have both addresses; chance changes their order after the first time."""
    real, drawn_before = socket.getaddrinfo, []

    def look_up(host: Any, port: int, *rest: Any, **options: Any) -> list[Any]:
        if host != b"two.example":
            return real(host, port, *rest, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return [(V4, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2)]

    def sample(population: list[int], _: int) -> list[int]:
        drawn_before.append(True)
        return population if len(drawn_before) == 1 else population[::-1]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("random.sample", sample)


def send(local: ServerThread, source: Path, **changes: Any) -> Receipt:
    """Send a file to whichever server of the name takes it."""
    settings = local.client(server="two.example", password="password1", **changes)
    (receipt,) = send_files([source], settings)
    return receipt


Pair = Tuple[ServerThread, ServerThread]


@pytest.mark.usefixtures("two_addresses")
def test_a_busy_server_is_left_for_another(pair: Pair, tmp_path: Path) -> None:
    """It would send us away for as long as it is full."""
    first, second = pair
    first.server.registry.places = 1  # room for one session of each user
    with RawClient(first.port).log_in():
        receipt = send(first, random_file(tmp_path / "x", 1000))
    assert receipt.verdict == "INTEGRITY_OK"
    assert (received(first.output), len(received(second.output))) == ([], 1)


@pytest.mark.usefixtures("two_addresses")
def test_a_server_that_is_gone_is_left_for_another_at_once(pair: Pair, tmp_path: Path) -> None:
    """A refused connection costs no time."""
    first, second = pair
    first.stop()
    began = time.monotonic()
    assert send(first, random_file(tmp_path / "x", 1000)).verdict == "INTEGRITY_OK"
    assert time.monotonic() - began < PATIENCE / 2
    assert len(received(second.output)) == 1


@pytest.mark.usefixtures("two_addresses")
def test_a_machine_that_vanishes_in_a_transfer_is_left_for_another(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """It lost its power, so it resets nothing: its connections would stand for ever."""
    first = start_local(hosts=("127.0.0.1",), output=tmp_path / "one")
    source = random_file(tmp_path / "x", 3 * MB)
    with FaultProxy(first.port) as proxy, ThreadPoolExecutor(1) as pool:
        second = start_local(hosts=("127.0.0.2",), port=proxy.port, output=tmp_path / "two")
        sending = pool.submit(send, second, source, limit=2 * MB, timeout=1)
        eventually(lambda: journal_bytes(first.output) > 500, "the first blocks")
        proxy.outage()
        assert sending.result(2 * PATIENCE).verdict == "INTEGRITY_OK"
    check_one(second.output, source)


@pytest.mark.usefixtures("two_addresses")
def test_after_a_lost_session_a_file_goes_on_where_it_was(pair: Pair, tmp_path: Path) -> None:
    """Whatever chance says: the other server would begin anew, or have to wait for the lock."""
    first, second = pair
    source = random_file(tmp_path / "x", 5 * MB)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, first, source, limit=2 * MB)
        eventually(lambda: journal_bytes(first.output) > 500, "the first blocks")
        for peer in list(wire_peers(first.server)):
            peer.connection.cut()
        receipt = sending.result(2 * PATIENCE)
    assert receipt.verdict == "INTEGRITY_OK"
    check_one(first.output, source)
    assert received(second.output) == []
