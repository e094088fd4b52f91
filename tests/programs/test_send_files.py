"""``send_files``, the client as a library."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

import config
from client import send_files
from lft.client.connect import log_in
from lft.client.receipt import Receipt
from protocol import AuthenticationError, ConnectionLostError, SourceError, TransferError
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread


def test_send_files_returns_a_receipt_for_each_file(local: ServerThread, tmp_path: Path) -> None:
    """The receipt names what stands in the output directory."""
    paths = [random_file(tmp_path / name, size) for name, size in (("a", 0), ("b", 500_000))]
    receipts = send_files(paths, local.client())
    assert [receipt.name for receipt in receipts] == ["a", "b"]
    for path, receipt in zip(paths, receipts):
        assert md5(local.output / receipt.saved_as) == receipt.digest == md5(path)
        assert receipt.verdict == "INTEGRITY_OK"
        assert receipt.durable


def test_one_bad_file_does_not_stop_the_others(local: ServerThread, tmp_path: Path) -> None:
    """It is reported, the rest is sent, and its error is raised at the end."""
    good = [random_file(tmp_path / name, 1000) for name in "ab"]
    bad = random_file(tmp_path / "bad", 1000)
    outcomes: list[Receipt | TransferError] = []

    def report(path: Path, outcome: Receipt | TransferError) -> None:
        outcomes.append(outcome)
        if bad.exists():
            bad.unlink()

    with pytest.raises(SourceError, match="bad"):
        send_files([good[0], bad, good[1]], local.client(), report=report)
    assert [type(outcome) for outcome in outcomes] == [Receipt, SourceError, Receipt]
    assert len(received(local.output)) == 2


def test_an_unreadable_file_is_told_before_anything_is_sent(
    local: ServerThread, tmp_path: Path
) -> None:
    """Better at the start than after an hour."""
    with pytest.raises(SourceError):
        send_files([random_file(tmp_path / "a", 10), tmp_path / "missing"], local.client())
    assert received(local.output) == []


def test_a_password_is_asked_for_once_and_while_no_server_waits_for_it(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person may take longer than the login may, and sessions may be lost."""
    peers: list[int] = []

    def ask(*_: object) -> str:
        peers.append(len(local.server.connections.peers))
        return "password1"

    monkeypatch.setattr("client.read_password", ask)
    monkeypatch.setattr(config, "RETRY_FIRST", 0.01)
    sessions = itertools.count()

    def enter(*arguments: Any) -> object:
        logged_in = log_in(*arguments)
        if next(sessions) == 0:
            raise ConnectionLostError("lost")
        return logged_in

    monkeypatch.setattr("client.log_in", enter)
    send_files([random_file(tmp_path / "x", 10)], local.client())
    assert peers == [0]
    assert next(sessions) == 2


def test_a_wrong_password_is_an_authentication_error(local: ServerThread, tmp_path: Path) -> None:
    """Login fails before any file is named."""
    path = random_file(tmp_path / "a", 10)
    with pytest.raises(AuthenticationError):
        send_files([path], local.client(password="wrong"))


def test_the_client_leaves_no_thread_and_no_file_behind(
    local: ServerThread, tmp_path: Path
) -> None:
    """After send_files, whatever its outcome, only what was there before is there."""
    path = random_file(tmp_path / "a", 500_000)
    send_files([path], local.client())
    threads = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(("sender", "reader")) for name in threads)
