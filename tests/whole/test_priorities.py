"""Priorities on real connections: which transfers wait, and for how long."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

import config
from client import send_files
from config import KB
from lft.accounts.account import DEMO_ACCOUNTS, Accounts
from lft.wire.connection import Connection
from protocol import IntegrityOk, TransferComplete
from tests.support.files import md5, random_file
from tests.support.local import DEMO, ServerThread, StartLocal
from tests.support.rawpeer import RawClient, RawUpload, push
from tests.support.waiting import eventually

BLOCK = 4 * KB
BLOCKS = 12


class Sending:
    """A client of the given user with one data connection, and a file of twelve blocks."""

    def __init__(self, local: ServerThread, user: str) -> None:
        self.client = RawClient(local.port)
        self.client.log_in(user, DEMO_ACCOUNTS[user][0])
        self.upload: RawUpload = self.client.start(user, os.urandom(BLOCKS * BLOCK), BLOCK)
        self.data: Connection = self.client.attach()

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.__exit__()

    def send(self, *blocks: int) -> None:
        """Send blocks and wait for their acknowledgements."""
        self.upload.send(self.data, *blocks)

    def push(self, block: int) -> None:
        """Send a block and do not wait."""
        push(self.data, self.upload.frame(block))


def _hold(monkeypatch: pytest.MonkeyPatch, longest: float = 3600.0) -> None:
    """Let one block hold the others back for an hour, but no connection longer than ``longest``."""
    monkeypatch.setattr(config, "HOLD", 3600.0)
    monkeypatch.setattr(config, "HOLD_RATE", 1.0)
    monkeypatch.setattr(config, "LONGEST_HOLD", longest)


def _resting(local: ServerThread) -> list[object]:
    """Return what the server does when the pauses there are have ended."""
    return [unit.func for *_, unit in local.server._loop._timers._heap if isinstance(unit, partial)]


def test_an_urgent_transfer_goes_on_while_others_are_held_back(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """31: as soon as it moves, theirs are not received any more, and nothing is cancelled."""
    _hold(monkeypatch)
    with Sending(local, "user1") as bulk, Sending(local, "admin") as urgent:
        bulk.send(0)
        urgent.send(0)
        bulk.push(1)
        eventually(lambda: _resting(local), "the bulk connection to be held back")
        urgent.send(*range(1, BLOCKS))
        assert isinstance(urgent.upload.complete(), IntegrityOk)
        assert list(bulk.data.receive_acks()) == []


def test_who_was_held_back_goes_on_where_it_was(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """31: once the urgent one is silent, it has finished or not, all blocks of the others come."""
    monkeypatch.setattr(config, "LONGEST_HOLD", 3600.0)
    with Sending(local, "user1") as bulk, Sending(local, "admin") as urgent:
        bulk.send(0)
        urgent.send(*range(BLOCKS - 1))
        bulk.send(*range(1, BLOCKS))
        assert isinstance(bulk.upload.complete(), IntegrityOk)


def test_a_connection_that_is_held_back_brings_a_block_now_and_then(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """31: high priority does not starve a low one, however long it goes on."""
    _hold(monkeypatch, longest=0.02)
    with Sending(local, "user1") as bulk, Sending(local, "admin") as urgent:
        urgent.send(0)
        bulk.send(*range(BLOCKS))
        assert isinstance(bulk.upload.complete(), IntegrityOk)
        assert local.server.receiving._way.pause(0, float("inf")) > 0


def test_a_client_with_the_shortest_timeout_survives_being_held_back(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """31: it hears an acknowledgement on each connection before it gives that up."""
    _hold(monkeypatch, longest=config.LONGEST_HOLD)
    source = random_file(tmp_path / "bulk", 3 * BLOCK)
    with Sending(local, "admin") as urgent:
        urgent.send(0)
        settings = local.client(timeout=2.0, streams=1, block_size=BLOCK)
        (receipt,) = send_files([source], settings)
    assert md5(local.output / receipt.saved_as) == md5(source)
    assert "lost" not in caplog.text


def test_a_connection_that_is_held_back_and_closes_is_released(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is seen when its turn comes."""
    _hold(monkeypatch, longest=0.1)
    with Sending(local, "admin") as urgent:
        with Sending(local, "user1") as bulk:
            bulk.send(0)
            urgent.send(0)
            bulk.push(1)
            eventually(lambda: _resting(local), "the bulk connection to be held back")
        eventually(
            lambda: len(local.server.connections.peers) == 2, "its connections to be forgotten"
        )


def test_a_connection_that_rests_and_is_gone_does_not_hold_up_the_end(
    start_local: StartLocal,
) -> None:
    """38: nobody is left to wait for, however long a limit keeps it from being received from."""
    local = start_local(limit=16 * config.KB, grace=600.0)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(2 * config.MB), config.MB)
        upload.send(client.attach(), 0)  # which takes a minute
    eventually(lambda: not local.server.registry._sessions, "the session to end")
    local.stop()


def test_a_limit_holds_for_a_connection_whose_turn_has_come(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Being held back is no way around a limit: the longer pause counts."""
    slow = DEMO["user1"].replace(limit=1)
    _hold(monkeypatch, longest=0.0)
    accounts = Accounts({**DEMO, "user1": slow})
    local = start_local(lambda: accounts)
    with Sending(local, "user1") as bulk, Sending(local, "admin") as urgent:
        urgent.send(0)
        push(bulk.data, bulk.upload.frame(0) + bulk.upload.frame(1))
        bulk.upload.await_acks(bulk.data, 1)
        eventually(lambda: _resting(local), "the limit")
        (paused,) = (
            peer for peer in local.server.connections.peers if peer.paused_until > time.monotonic()
        )
        assert paused.paused_until > time.monotonic() + BLOCK / 2  # at a byte a second
        assert list(bulk.data.receive_acks()) == []


@pytest.mark.parametrize("longest", [3600.0, 0.02])
def test_hashing_gives_way_and_goes_on(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, longest: float
) -> None:
    """31: what has been received is hashed a stretch at a time while something urgent moves."""
    _hold(monkeypatch, longest)
    monkeypatch.setattr(config, "HASH_STRETCH", 1)
    monkeypatch.setattr(config, "HASH_BATCH", 2 * BLOCKS)  # not before all is sent
    with Sending(local, "user1") as bulk, Sending(local, "admin") as urgent:
        bulk.send(*range(BLOCKS))
        urgent.send(0)
        (transfer,) = (t for t in local.server.admission.active() if t.priority == 0)
        if longest < 1:
            assert isinstance(bulk.upload.complete(), IntegrityOk)
        else:
            bulk.client.control.send(TransferComplete(bulk.upload.number, bulk.upload.digest))
            rests = local.server.verification._go_on_hashing
            eventually(lambda: rests in _resting(local), "hashing to be held back")
            assert transfer.verified_bytes == BLOCK


def test_an_urgent_transfer_is_admitted_beside_as_many_others_as_there_may_be(
    start_local: StartLocal,
) -> None:
    """31: it does not wait in the queue for one of them to end."""
    local = start_local(max_active=1)
    with Sending(local, "user1") as bulk, Sending(local, "admin") as urgent:
        bulk.send(0)
        urgent.send(*range(BLOCKS))
        assert isinstance(urgent.upload.complete(), IntegrityOk)
