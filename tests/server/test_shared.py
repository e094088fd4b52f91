"""Several servers share an output directory, its quotas, and the files that clients go on with."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

import pytest

import config
from client import send_files
from config import KB
from lft.server.opening import Opening
from lft.store.locks import HeldElsewhereError
from lft.wire.codecs import FEATURES
from protocol import (
    WAITING,
    FileReady,
    FileStart,
    Goodbye,
    IntegrityOk,
    Queued,
    Rejected,
)
from tests.support.accounts import Serve, account
from tests.support.files import md5, part_files, random_file, received
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.races import race
from tests.support.rawpeer import Peer, RawClient, RawUpload, two_blocks_left
from tests.support.transfers import transfer_of
from tests.support.waiting import PATIENCE, SleepClock, eventually

DATA = os.urandom(600 * KB)
HEAD = hashlib.md5(DATA[: 200 * KB]).hexdigest()


@pytest.fixture
def pair(start_local: StartLocal) -> tuple[ServerThread, ServerThread]:
    """Two servers on one directory."""
    return start_local(shared=True), start_local(shared=True)


def test_a_client_goes_on_at_another_server(
    pair: tuple[ServerThread, ServerThread], tmp_path: Path
) -> None:
    """The blocks that one server has are not sent again to the other."""
    source = random_file(tmp_path / "x.bin", 600 * KB)
    two_blocks_left(pair[0], source)
    (receipt,) = send_files([source], pair[1].client())
    assert receipt.resumed_bytes == 400 * KB
    assert [md5(path) for path in received(pair[0].output)] == [md5(source)]


def test_a_file_waits_for_the_server_that_has_it(
    pair: tuple[ServerThread, ServerThread], caplog: pytest.LogCaptureFixture
) -> None:
    """43: QUEUED says why, and the file goes on once it is free."""
    caplog.set_level("INFO")
    owner = RawClient(pair[0].port).log_in()
    owner.start("x", DATA, resume=True).send(owner.attach(), 0, 1)
    with RawClient(pair[1].port).log_in() as client:
        start = FileStart("x", len(DATA), 200 * KB, "md5", HEAD, True)
        client.control.send(start)
        assert client.control.answer(PATIENCE) == Queued(1)  # it did not say that it knows more
        owner.__exit__()
        ready = client.answer()
        assert isinstance(ready, FileReady)
        assert ready.have == ((0, 2),)
    assert len(lines(caplog, "another server has not let go")) == 1


def test_a_client_that_understands_it_hears_what_it_waits_for(
    pair: tuple[ServerThread, ServerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown to the user."""
    monkeypatch.setattr("tests.support.rawpeer.FEATURES", (*FEATURES, WAITING))
    with RawClient(pair[0].port).log_in() as owner, RawClient(pair[1].port).log_in() as client:
        owner.start("x", DATA, resume=True)
        client.control.send(FileStart("x", len(DATA), 200 * KB, "md5", HEAD, True))
        queued = client.control.answer(PATIENCE)
        assert isinstance(queued, Queued)
        assert queued.reason == "another server has not let go of the unfinished file yet"


def test_a_file_that_another_server_keeps_begins_anew_beside_it(
    pair: tuple[ServerThread, ServerThread],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """43: that server may stand still for ever; both files are right."""
    caplog.set_level("INFO")
    monkeypatch.setattr(config, "HELD_LEAST", 2.0)
    source = random_file(tmp_path / "x.bin", 600 * KB)
    with RawClient(pair[0].port).log_in() as owner:
        upload = owner.start(source.name, source.read_bytes(), resume=True)
        stream = owner.attach()
        upload.send(stream, 0, 1)
        (receipt,) = send_files([source], pair[1].client())
        assert receipt.resumed_bytes == 0
        upload.send(stream, 2)
        assert isinstance(upload.complete(), IntegrityOk)
        owner.control.send(Goodbye())
        eventually(lambda: pair[0].server.parts.in_use == 0)
    assert lines(caplog, "begins anew: another server")
    assert lines(caplog, "waiting: another server has not let go")
    assert [md5(path) for path in received(tmp_path / "output")] == [md5(source)] * 2


@pytest.mark.parametrize(
    ("size", "seconds"), [(0, 10), (150 * config.MB, 15), (config.GB, 102.4), (2**50, 150)]
)
def test_a_file_waits_no_longer_than_it_takes_to_send_it(
    size: int, seconds: float, clock: SleepClock
) -> None:
    """NFS keeps the lock of a dead machine for 90 s: what is large is worth that."""
    opening, held = Opening(transfer_of(b"x")), HeldElsewhereError(size)
    assert opening.begin_to_wait(held)
    clock.sleep(seconds - 0.1)
    assert opening.begin_to_wait(held)
    clock.sleep(0.2)
    assert not opening.begin_to_wait(held)


def test_a_verdict_that_one_server_did_not_get_out_another_one_gives(
    pair: tuple[ServerThread, ServerThread], tmp_path: Path
) -> None:
    """37: published, and the client gone before it heard of it: one file."""
    source = random_file(tmp_path / "x.bin", 400 * KB)
    with RawClient(pair[0].port).log_in() as client:
        upload = client.start(source.name, source.read_bytes(), resume=True)
        upload.send(client.attach(), 0, 1)
        verdict = upload.complete()  # as far as the client knows, it never came
        assert isinstance(verdict, IntegrityOk)
        (receipt,) = send_files([source], pair[1].client())  # while the other one has it still
    assert receipt.saved_as == verdict.saved_as
    eventually(lambda: pair[0].server.parts.in_use == 0)
    (receipt,) = send_files([source], pair[1].client())
    assert receipt.saved_as == verdict.saved_as
    assert len(received(pair[0].output)) == 1
    eventually(lambda: part_files(pair[0].output) == [], "the second name to go")


# --- quotas


def test_of_a_hundred_pairs_that_race_for_a_quota_one_gets_it(serve: Serve) -> None:
    """13: at two servers, which know nothing of each other except by the disk."""
    servers = [serve({"alice": account(quota=300 * KB)}, shared=True) for _ in range(2)]
    names = map(str, itertools.count())
    kinds = race(servers, lambda peer: peer.ask(next(names), 200 * KB), rounds=100)
    assert kinds == [["FileReady", "Rejected"]] * 100


def test_what_is_published_at_one_server_counts_at_the_other(serve: Serve) -> None:
    """13: as soon as its client has the verdict."""
    servers = [serve({"alice": account(quota=500 * KB)}, shared=True) for _ in range(2)]
    with Peer(servers[0].port).log_in() as first, Peer(servers[1].port).log_in() as second:
        upload = first.start("x", DATA[: 400 * KB])
        upload.send(first.attach(), 0, 1)
        assert isinstance(upload.complete(), IntegrityOk)
        answer = second.ask("y", 200 * KB)
        assert isinstance(answer, Rejected)
        assert answer.code == "quota"
        assert isinstance(second.ask("z", 90 * KB), FileReady)


def test_a_file_that_goes_on_at_another_server_counts_once(serve: Serve) -> None:
    """13: its part file is counted already."""
    servers = [serve({"alice": account(quota=700 * KB)}, shared=True) for _ in range(2)]
    with Peer(servers[0].port).log_in() as peer:
        peer.start("x", DATA, resume=True).send(peer.attach(), 0)
    eventually(lambda: servers[0].server.parts.in_use == 0)
    with Peer(servers[1].port).log_in() as peer:
        answer = peer.ask("x", len(DATA), head=DATA[: 200 * KB], resume=True)
        assert isinstance(answer, FileReady)
        assert answer.have == ((0, 1),)


def test_a_file_of_unknown_size_grows_within_the_quota_of_all_servers(serve: Serve) -> None:
    """13: what it takes at one server is not there for the other."""
    servers = [serve({"alice": account(quota=1000 * KB)}, shared=True) for _ in range(2)]
    with Peer(servers[0].port).log_in() as first, Peer(servers[1].port).log_in() as second:
        empty = hashlib.md5(b"").hexdigest()
        first.control.send(FileStart("x", 0, 200 * KB, "md5", empty, False, unsized=True))
        ready = first.answer()
        assert isinstance(ready, FileReady)
        upload = RawUpload(first, ready.transfer, DATA, 200 * KB)
        upload.send(first.attach(), 0, 1, 2)
        answer = second.ask("y", 500 * KB)
        assert isinstance(answer, Rejected)
        assert isinstance(second.ask("z", 400 * KB), FileReady)


def stop_once_idle(local: ServerThread) -> None:
    """Stop a server once it knows that the verdict was read; otherwise the next gives it again."""
    eventually(lambda: part_files(local.output) == [])
    local.stop()


def test_servers_alone_and_shared_take_turns_on_a_directory(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """What either has left the other goes on with."""
    source = random_file(tmp_path / "x.bin", 600 * KB)
    for kinds in ((True, False), (False, True)):
        first = start_local(shared=kinds[0])
        two_blocks_left(first, source)
        first.stop()
        second = start_local(shared=kinds[1])
        (receipt,) = send_files([source], second.client())
        assert receipt.resumed_bytes == 400 * KB
        stop_once_idle(second)
