"""A part file passes from a dead client to a living one, never between living ones."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

import config
from client import send_files
from config import MB, STREAMS, ClientSettings
from lft.client.receipt import Receipt
from lft.store.partstore import PartStore
from protocol import FileReady, FileStart, Goodbye, IntegrityOk, Ping, Pong, Rejected
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread
from tests.support.network import SLOW, StartClient, check_one, send_file, sending_file
from tests.support.processes import client_command, environment
from tests.support.rawpeer import RawClient, two_blocks_left
from tests.support.relays import StartProxy
from tests.support.waiting import PATIENCE, SOON, eventually
from tests.tools.proxy import FaultProxy, Kind, Line, Plan


class Valve:
    """Lets so many bytes of each data connection pass, then nothing, until it is opened."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.shut = threading.Event()  # set when the first connection has had its share
        self.all_shut = False  # whether the coordinator is held, too
        self.open = threading.Event()

    def __call__(self, number: int, offset: int, data: bytes) -> bytes:
        """Hold a piece of data, or not."""
        if number > 0 and offset > self._most:
            self.shut.set()
        if (number > 0 and offset > self._most) or self.all_shut:
            self.open.wait(3 * PATIENCE)
        return data


@pytest.fixture
def valve() -> Iterator[Valve]:
    """A valve that is open at the end, whatever happens."""
    one = Valve(1_000_000)
    yield one
    one.open.set()


class Background:
    """A client in a thread; ``receipts`` is filled when it is done."""

    def __init__(self, source: Path, settings: ClientSettings) -> None:
        self.receipts: list[Receipt] = []
        self._thread = threading.Thread(target=self._run, args=(source, settings))
        self._thread.start()

    def _run(self, source: Path, settings: ClientSettings) -> None:
        self.receipts += send_files([source], settings)

    def join(self) -> Receipt:
        """Wait for its receipt."""
        self._thread.join(2 * PATIENCE)
        return self.receipts[0]


def test_a_half_open_connection_keeps_nobody_from_going_on(
    local: ServerThread,
    tmp_path: Path,
    start_proxy: StartProxy,
    valve: Valve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40: the client comes back before the server knows that its old connection is dead."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", 0.6)
    proxy = start_proxy(local.port, valve)
    source = random_file(tmp_path / "x", 10_000_000)
    old = Background(source, local.client(port=proxy.port, timeout=30.0))
    assert valve.shut.wait(PATIENCE)
    valve.all_shut = True
    began = time.monotonic()
    (receipt,) = send_files([source], local.client())
    assert time.monotonic() - began < SOON
    assert receipt.resumed_bytes > 0
    assert [md5(path) for path in received(local.output)] == [md5(source)]
    valve.all_shut = False
    valve.open.set()  # the old client learns that it was robbed, and gets a file of its own
    assert old.join().verdict == "INTEGRITY_OK"


def test_a_stopped_client_keeps_nobody_from_going_on(
    local: ServerThread,
    tmp_path: Path,
    start_proxy: StartProxy,
    valve: Valve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """43: suspended with Ctrl-Z and forgotten; the same command in another window goes on."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", 0.6)
    proxy = start_proxy(local.port, valve)
    source = random_file(tmp_path / "x", 10_000_000)
    command = client_command(proxy.port, source, "--quiet")
    with subprocess.Popen(command, env=environment()) as stopped:
        try:
            assert valve.shut.wait(PATIENCE)
            stopped.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            (receipt,) = send_files([source], local.client())
            assert time.monotonic() - began < SOON
        finally:
            stopped.kill()
    assert receipt.resumed_bytes > 0
    assert [md5(path) for path in received(local.output)] == [md5(source)]


def test_a_live_client_is_not_robbed_however_slow_it_is(
    local: ServerThread,
    tmp_path: Path,
    start_proxy: StartProxy,
    valve: Valve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """43: it answers the question whether it lives; the other one gets a file of its own."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", PATIENCE)
    proxy = start_proxy(local.port, valve)
    source = random_file(tmp_path / "x", 10_000_000)
    slow = Background(source, local.client(port=proxy.port, timeout=30.0))
    assert valve.shut.wait(PATIENCE)
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 0
    valve.open.set()
    assert slow.join().resumed_bytes == 0
    assert [md5(path) for path in received(local.output)] == 2 * [md5(source)]


@pytest.mark.parametrize("lives", [True, False])
def test_who_does_not_answer_ping_loses_its_part_file(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """43: one that answers goes on undisturbed; one that does not is told that it was taken."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", PATIENCE if lives else 0.6)
    content = os.urandom(10 * 4096)
    with RawClient(local.port).log_in() as first, RawClient(local.port).log_in() as second:
        upload = first.start("x", content, 4096, resume=True)
        data = first.attach()
        upload.send(data, *range(5))
        second.control.send(FileStart("x", len(content), 4096, "md5", _head(content), resume=True))
        assert isinstance(first.answer(), Ping)
        if lives:
            first.control.send(Pong())
        ready = second.answer()
        assert isinstance(ready, FileReady)
        assert ready.have == (() if lives else ((0, 5),))
        if lives:
            upload.send(data, *range(5, 10))
            assert isinstance(upload.complete(), IntegrityOk)
        else:
            answer = first.answer()
            while isinstance(answer, Ping):  # it is asked more than once
                answer = first.answer()
            assert isinstance(answer, Rejected)
            assert answer.code == "taken"


def _head(content: bytes) -> str:
    return hashlib.md5(content[:4096]).hexdigest()


def test_two_that_resume_at_once_get_one_part_file_and_a_new_one(
    local: ServerThread, tmp_path: Path
) -> None:
    """43: one goes on, the other starts anew, both are right."""
    source = random_file(tmp_path / "x", 1_000_000)
    two_blocks_left(local, source)
    both = [Background(source, local.client()) for _ in range(2)]
    assert sorted(one.join().resumed_bytes for one in both) == [0, 2 * 200 * 1024]
    assert [md5(path) for path in received(local.output)] == 2 * [md5(source)]


def test_a_part_file_that_rests_while_it_is_looked_for_is_found(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """43: the old attempt ends between two looks of the new one, which goes on all the same."""
    content = os.urandom(10 * 4096)
    reopen, parts = PartStore.reopen, local.server.parts

    def late(store: PartStore, *wanted: Any) -> object:
        found = reopen(store, *wanted)
        if parts.in_use and not found:
            first.control.send(Goodbye())
            eventually(lambda: parts.in_use == 0, "the old attempt to end")
        return found

    with RawClient(local.port).log_in() as first, RawClient(local.port).log_in() as second:
        first.start("x", content, 4096, resume=True).send(first.attach(), *range(5))
        monkeypatch.setattr(PartStore, "reopen", late)
        second.control.send(FileStart("x", len(content), 4096, "md5", _head(content), resume=True))
        ready = second.answer()
        assert isinstance(ready, FileReady)
        assert ready.have == ((0, 5),)


def test_a_dead_session_is_taken_over(
    local: ServerThread,
    proxy: FaultProxy,
    start_client: StartClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40: the client was killed, the server's side is open and silent: the next goes on soon."""
    monkeypatch.setattr("config.PROBE_TIMEOUT", 0.6)
    source = random_file(tmp_path / "x", 6 * MB)
    proxy.plan(SLOW)
    client = start_client(proxy, source)
    proxy.forwarded(4 * MB)
    proxy.freeze()
    client.kill()
    client.wait(PATIENCE)
    proxy.half_open()
    proxy.plan(Plan())
    began = time.monotonic()
    receipt = send_file(proxy, source)
    assert time.monotonic() - began < SOON
    assert 0 < receipt.resumed_bytes < 6 * MB
    check_one(local.output, source)


def test_a_slow_session_that_lives_is_not_taken_over(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """43: it answers, if late; the second client gets a file of its own."""
    monkeypatch.setattr("config.PROBE_TIMEOUT", PATIENCE)
    source = random_file(tmp_path / "x", 10 * MB)  # not done before the second, however busy
    slow = Plan(up=Line(delay=0.3, rate=MB // 8), down=Line(delay=0.3))
    for number in range(1 + STREAMS):
        proxy.plan(slow, number)
    with sending_file(proxy, source, timeout=10.0) as first:
        proxy.wait(lambda: len(proxy.numbers(Kind.DATA)) == STREAMS, "its data connections")
        proxy.forwarded(100_000)
        second = send_file(proxy, source)
        assert not first.done()
        for number in range(1 + STREAMS):
            proxy.plan(Plan(), number)
    assert (first.result().resumed_bytes, second.resumed_bytes) == (0, 0)
    assert [md5(path) for path in received(local.output)] == [md5(source)] * 2
