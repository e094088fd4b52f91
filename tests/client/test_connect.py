"""Reaching a server."""

from __future__ import annotations

import errno
import socket
import threading
from pathlib import Path
from typing import Callable

import pytest

from client import send_files
from config import ClientSettings
from lft.client.connect import connect
from lft.client.receipt import Receipt
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    RejectedError,
    SourceError,
    TransferError,
)
from tests.support.files import random_file
from tests.support.local import StartLocal
from tests.support.waiting import PATIENCE, SleepClock
from tests.tools.proxy import reserve_port


@pytest.mark.parametrize(
    "error", [AuthenticationError("no"), RejectedError("size", "no"), SourceError("no")]
)
def test_only_a_lost_connection_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: TransferError
) -> None:
    """A wrong password or a refusal would be the same the next time."""
    entered = []

    def enter(*_: object) -> None:
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


def test_all_addresses_of_a_server_are_tried_within_the_timeout(
    clock: SleepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 9: three addresses of which none answers have together what one would have."""
    address = socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1)
    tried = []

    def silent(_family: int, _address: object, until: Callable[[object], bool]) -> socket.socket:
        tried.append(until(None))
        raise OSError(errno.ETIMEDOUT, "no answer")

    monkeypatch.setattr("lft.client.connect.resolve", lambda *_: [address] * 3)
    monkeypatch.setattr("lft.client.connect.open_socket", silent)
    monkeypatch.setattr("lft.client.connect.wait", lambda _sock, timeout, **_: clock.sleep(timeout))
    with pytest.raises(ConnectionLostError, match="no answer"):
        connect(ClientSettings(), 30.0, None)
    assert clock.slept == pytest.approx([10, 10, 10])


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
