"""A large tree is removed while others are served, and a stop does not wait for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import config
from client import send_files
from lft.manifest import Entry
from lft.store.paths import PARTIAL, NoSpaceError
from protocol import Cancel, FileReady, IntegrityOk, Rejected
from tests.support.files import random_file
from tests.support.local import ServerThread, StartLocal
from tests.support.rawpeer import RawClient
from tests.support.rawtrees import directory, file, refused
from tests.support.waiting import eventually

FILES = 200
WHOLE = [directory("d"), *(file(f"d/{number:05}") for number in range(FILES))]


@pytest.fixture
def _slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a disk take five milliseconds for each file that it removes; few of a tree go at once."""
    unlink = os.unlink
    monkeypatch.setattr(config, "REMOVE_AT_ONCE", 10)

    def slow(path: bytes, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None:
            time.sleep(0.005)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", slow)


def give_up(local: ServerThread, entries: list[Entry]) -> None:
    """Have a tree made, and cancel it."""
    with RawClient(local.port).log_in() as client:
        assert isinstance(refused(client, entries), FileReady)
        client.control.send(Cancel())
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "cancelled"


def left(output: Path) -> int:
    """Return how many files of trees are still there."""
    return sum(1 for _ in (output / PARTIAL).glob("*.tree/tree/d/*"))


def removed_by_the_next(start_local: StartLocal) -> None:
    """Start another server and see it remove what is left."""
    after = start_local()
    eventually(lambda: not list((after.output / PARTIAL).glob("*.tree")), "the tree to go")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("_slow_disk")
def test_others_are_served_while_a_large_tree_is_removed(
    start_local: StartLocal, tmp_path: Path, *, shared: bool
) -> None:
    """By the only worker: another client logs in and sends, and the tree goes all the same."""
    local = start_local(workers=1, shared=shared)
    give_up(local, WHOLE)
    assert left(local.output) > FILES / 2
    (receipt,) = send_files([random_file(tmp_path / "x", 500_000)], local.client())
    assert receipt.verdict == IntegrityOk.VERB
    assert left(local.output) > 0
    eventually(lambda: not list((local.output / PARTIAL).glob("*.tree")), "the tree to go")


@pytest.mark.usefixtures("_slow_disk")
def test_a_stop_leaves_the_rest_of_a_tree_to_the_next_start(start_local: StartLocal) -> None:
    """It does not wait for its files, and the next server removes them."""
    local = start_local(workers=1)
    give_up(local, WHOLE)
    local.stop()
    assert left(local.output) > FILES / 2
    removed_by_the_next(start_local)


@pytest.mark.usefixtures("_slow_disk")
def test_a_stop_in_the_middle_of_a_tree_waits_for_no_removal(start_local: StartLocal) -> None:
    """Its transfer is cut by the stop itself, so main has to let it go."""
    local = start_local(workers=1, grace=0.0)
    with RawClient(local.port).log_in() as client:
        assert isinstance(refused(client, WHOLE), FileReady)
        local.stop()
    assert left(local.output) > FILES / 2
    removed_by_the_next(start_local)


@pytest.mark.usefixtures("_slow_disk")
def test_a_disk_is_busy_rather_than_full_while_a_tree_is_removed(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client comes again, and does not give up."""
    local = start_local()
    give_up(local, WHOLE)

    def full(*_: object, **__: object) -> None:
        raise NoSpaceError(10, 5)

    monkeypatch.setattr("lft.store.trees.check_room", full)
    with RawClient(local.port).log_in() as client:
        answer = refused(client, [file("a", 1)])
        assert isinstance(answer, Rejected)
        assert answer.code == "busy"
        eventually(lambda: not local.server.parts.waste, "the tree to go")
        answer = refused(client, [file("a", 1)])
        assert isinstance(answer, Rejected)
        assert answer.code == "space"
