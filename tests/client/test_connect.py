"""Reaching a server."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from client import send_files
from config import ClientSettings
from lft.addresses import HopelessError, Lookup
from lft.client.connect import connect
from lft.client.link import Access, Link
from lft.client.receipt import Receipt
from lft.wire.sockets import unreached, wait
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    RejectedError,
    SourceError,
    TransferError,
)
from tests.support.files import random_file
from tests.support.local import ServerThread, StartLocal
from tests.support.sockets import DeadAddress
from tests.support.waiting import PATIENCE
from tests.tools.proxy import reserve_port


@pytest.mark.parametrize(
    "error", [AuthenticationError("no"), RejectedError("size", "no"), SourceError("no")]
)
def test_only_a_lost_connection_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: TransferError
) -> None:
    """A wrong password or a refusal would be the same the next time."""
    entered = []

    def enter(*_: object, **__: object) -> None:
        entered.append(True)
        raise error

    monkeypatch.setattr("client.connect", enter)
    with pytest.raises(type(error)):
        send_files([random_file(tmp_path / "x", 10)], ClientSettings())
    assert len(entered) == 1


def test_a_server_that_is_not_there_is_tried_for_the_timeout(tmp_path: Path) -> None:
    """Exit 5's exception, not a raw OSError."""
    path = random_file(tmp_path / "a", 10)
    with reserve_port() as reserved, pytest.raises(ConnectionLostError, match="nothing listens"):
        send_files([path], ClientSettings(port=reserved.getsockname()[1], timeout=0.6))


@pytest.fixture
def beside_a_dead_address(local: ServerThread) -> Iterator[Lookup]:
    """A name whose first address never answers, while the server listens on its second."""
    with DeadAddress("127.0.0.2") as dead:

        def lookup(*_: object) -> list[Any]:
            places = dead.address, ("127.0.0.1", local.port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

        yield lookup


def test_a_dead_first_address_of_the_server_costs_less_than_two_seconds(
    local: ServerThread, beside_a_dead_address: Lookup
) -> None:
    """RFC 8305; the data connections then go to the address that answered."""
    settings = ClientSettings(server="two.example")
    began = time.monotonic()
    with contextlib.closing(connect(settings, 60, None, beside_a_dead_address)) as coordinator:
        assert time.monotonic() - began < 2
        assert coordinator.peer == f"127.0.0.1:{local.port}"
        link = Link(settings, Access(*coordinator.address, "t" * 20))
        with contextlib.closing(link.open(lambda sock: wait(sock, PATIENCE, write=True))) as data:
            assert data.peer == coordinator.peer


def test_silent_addresses_share_the_timeout() -> None:
    """DESIGN 9: two addresses of which none answers have together what one would have."""
    with DeadAddress("127.0.0.2") as dead:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", dead.address)] * 2
        began = time.monotonic()
        with pytest.raises(
            ConnectionLostError, match=r"two\.example:4455: no answer; check --server, and"
        ):
            connect(ClientSettings(server="two.example"), 0.4, None, lambda *_: found)
    assert time.monotonic() - began < 0.4 + PATIENCE / 4


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("255.255.255.255", "does not let us connect|no way to that network"),
        ("fe80::1", "needs the network interface, such as fe80::1%eth0"),
        ("fe80::1%nosuch", "no such network interface here"),
    ],
)
def test_an_address_that_leads_nowhere_is_hopeless_at_once(
    tmp_path: Path, server: str, words: str
) -> None:
    """To try it for half a minute would change nothing."""
    path, began = random_file(tmp_path / "a", 10), time.monotonic()
    with pytest.raises(HopelessError, match=words):
        send_files([path], ClientSettings(server=server, password="x", timeout=60))
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    ("code", "by_name", "final"),
    [
        (errno.EAFNOSUPPORT, True, True),
        (errno.EACCES, True, True),
        (errno.EPERM, False, True),
        (errno.ENETUNREACH, False, True),
        (errno.ENETUNREACH, True, False),
        (errno.EHOSTUNREACH, False, False),
        (errno.ECONNREFUSED, False, False),
        (errno.ETIMEDOUT, False, False),
    ],
)
def test_only_what_stays_is_final(code: int, *, by_name: bool, final: bool) -> None:
    """A name may have another address the next time, and a host or a server may still start."""
    error = unreached("x", OSError(code, os.strerror(code)), by_name=by_name)
    assert isinstance(error, HopelessError) is final


def test_a_server_that_starts_late_is_reached(start_local: StartLocal, tmp_path: Path) -> None:
    """A client that is started first sends its file all the same."""
    path = random_file(tmp_path / "a", 10)
    receipts: list[Receipt] = []
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        settings = ClientSettings(port=port, timeout=PATIENCE)
        sending = threading.Thread(target=lambda: receipts.extend(send_files([path], settings)))
        sending.start()
        start_local(port=port)
        sending.join(2 * PATIENCE)
    assert [receipt.verdict for receipt in receipts] == ["INTEGRITY_OK"]
