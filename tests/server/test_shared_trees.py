"""Several servers share an output directory, and the directories that clients send to them."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from config import KB
from lft.wire.codecs import FEATURES
from protocol import WAITING, FileReady, IntegrityOk, Queued, Rejected
from tests.support.accounts import Serve, account
from tests.support.files import part_files, received
from tests.support.local import ServerThread, StartLocal
from tests.support.races import race
from tests.support.rawpeer import Peer, RawClient
from tests.support.rawtrees import (
    announce,
    file,
    go_on,
    interrupted,
    manifest_of,
    refused,
    same,
    sample,
    send_tree,
    start_tree,
)
from tests.support.waiting import PATIENCE, eventually

ENTRIES = [file("a", 100 * KB), file("b", 100 * KB)]


@pytest.fixture
def pair(start_local: StartLocal) -> tuple[ServerThread, ServerThread]:
    """Two servers on one directory."""
    return start_local(shared=True), start_local(shared=True)


def trees_of(output: Path) -> list[Path]:
    """Return the published directories."""
    return list(filter(Path.is_dir, received(output)))


@pytest.mark.parametrize("changed", [False, True])
def test_a_directory_goes_on_at_another_server(
    pair: tuple[ServerThread, ServerThread], tmp_path: Path, changed: bool
) -> None:
    """With what the first one has; where it has changed since, with what is left of that."""
    source = sample(tmp_path / "t")
    interrupted(pair[0], source, 60)
    if changed:
        (source / "a new one").write_bytes(bytes(5 * KB))
        (source / "d0-beside").unlink()
    blocks, held = go_on(pair[1], source)
    assert (20 if changed else 59) < held < blocks
    assert len(trees_of(pair[0].output)) == 1


def test_a_directory_waits_for_the_server_that_has_it(
    pair: tuple[ServerThread, ServerThread], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """43: QUEUED says why, and it goes on once it is free."""
    monkeypatch.setattr("tests.support.rawpeer.FEATURES", (*FEATURES, WAITING))
    source = sample(tmp_path / "t")
    owner = RawClient(pair[0].port).log_in()
    upload, _ = start_tree(owner, source, 4 * KB)
    upload.send(owner.attach(), *range(10))
    with RawClient(pair[1].port).log_in() as client:
        announce(client, "t", manifest_of(source), 4 * KB, resume=True)
        queued = client.control.answer(PATIENCE)
        assert isinstance(queued, Queued)
        assert queued.reason == "another server has not let go of the unfinished directory yet"
        owner.__exit__()
        ready = client.answer()
        assert isinstance(ready, FileReady)
        assert ready.have == ((0, 10),)


def test_a_directory_that_another_server_keeps_begins_anew_beside_it(
    pair: tuple[ServerThread, ServerThread], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """43: that server may stand still for ever; both directories are right."""
    monkeypatch.setattr(config, "HELD_LEAST", 0.3)
    source = sample(tmp_path / "t")
    with RawClient(pair[0].port).log_in() as owner:
        upload, _ = start_tree(owner, source, 4 * KB)
        stream = owner.attach()
        upload.send(stream, *range(10))
        with RawClient(pair[1].port).log_in() as client:
            second, ready = start_tree(client, source, 4 * KB, resume=True)
            assert ready.have == ()
            second.send(client.attach(), *range(len(second.blocks)))
            assert isinstance(second.complete(), IntegrityOk)
        upload.send(stream, *range(10, len(upload.blocks)))
        assert isinstance(upload.complete(), IntegrityOk)
    assert len(trees_of(pair[0].output)) == 2
    for tree in trees_of(pair[0].output):
        same(source, tree)


def test_a_verdict_that_one_server_did_not_get_out_another_one_gives(
    pair: tuple[ServerThread, ServerThread], tmp_path: Path
) -> None:
    """37: published, and the client gone before it heard of it: one directory."""
    source = sample(tmp_path / "t")
    with RawClient(pair[0].port).log_in() as client:
        receipt = send_tree(client, source, 4 * KB)
    eventually(lambda: pair[0].server.parts.in_use == 0, "the tree to rest")
    blocks, held = go_on(pair[1], source)
    assert held == blocks
    assert [tree.name for tree in trees_of(pair[0].output)] == [receipt.saved_as]


def test_servers_alone_and_shared_take_turns_on_a_directory(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """What either has left the other goes on with."""
    for kinds in ((True, False), (False, True)):
        source = sample(tmp_path / str(kinds[0]) / "t")
        first = start_local(shared=kinds[0])
        interrupted(first, source, 20)
        first.stop()
        second = start_local(shared=kinds[1])
        assert go_on(second, source)[1] == 20
        second.stop()


# --- quotas


def test_of_directories_that_race_for_a_quota_one_gets_it(serve: Serve) -> None:
    """13: at two servers, which know nothing of each other except by the disk."""
    servers = [serve({"alice": account(quota=300 * KB)}, shared=True) for _ in range(2)]
    kinds = race(servers, lambda peer: refused(peer, ENTRIES), rounds=20)
    assert kinds == [["FileReady", "Rejected"]] * 20
    assert part_files(servers[0].output) == []


def test_a_directory_counts_at_the_other_server_until_something_of_it_is_removed(
    serve: Serve, tmp_path: Path
) -> None:
    """13: what changes in it does not change the directory that it is in."""
    servers = [serve({"alice": account(quota=300 * KB)}, shared=True) for _ in range(2)]
    source = tmp_path / "t"
    source.mkdir()
    (source / "large").write_bytes(bytes(200 * KB))
    with Peer(servers[0].port).log_in() as first, Peer(servers[1].port).log_in() as second:
        receipt = send_tree(first, source)
        answer = second.ask("y", 200 * KB)
        assert isinstance(answer, Rejected)
        assert answer.code == "quota"
        (servers[0].output / receipt.saved_as / "large").unlink()
        assert isinstance(second.ask("y", 200 * KB), FileReady)
