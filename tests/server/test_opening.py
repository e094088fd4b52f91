"""The way to a part file: in steps, so that no worker is held for long."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Callable, Sequence

import pytest

import config
from config import KB, MB
from lft.server.opening import Opener, Opening
from lft.store.journal import Facts, record
from lft.store.leftovers import Need
from lft.store.part import Part
from lft.store.partfile import PartFile
from lft.store.partstore import PartStore
from protocol import Cancel, FileReady, FileStart, Rejected
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.files import part_files
from tests.support.local import ServerThread, StartLocal
from tests.support.rawpeer import ANY_MD5, RawClient, push
from tests.support.waiting import PATIENCE, eventually


def _announce(client: RawClient, name: str, size: int) -> None:
    client.control.send(FileStart(name, size, 200 * 1024, "md5", ANY_MD5, False))


def test_transfers_that_reserve_space_slowly_hold_few_workers(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 28: where the file system cannot reserve, a byte is written to each block."""
    held = threading.Semaphore(0)
    go_on = threading.Event()

    def slow(_descriptor: int, _start: int, length: int) -> None:
        if length == config.RESERVE_SLICE:
            held.release()
            assert go_on.wait(PATIENCE)

    monkeypatch.setattr(os, "posix_fallocate", slow)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(local.port)).log_in() for _ in range(12)]
        for number, client in enumerate(clients):
            _announce(client, f"large{number}", 2 * config.RESERVE_SLICE)
        for _ in range(config.MAX_RESERVING):
            assert held.acquire(timeout=PATIENCE)
        with RawClient(local.port).log_in() as other:
            _announce(other, "small", 10)
            assert isinstance(other.answer(), FileReady)
        go_on.set()
        assert all(isinstance(client.answer(), FileReady) for client in clients)


def test_journals_of_huge_files_are_read_by_one_worker_at_a_time(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python reads a million records in a second, in which all other threads are slower."""
    monkeypatch.setattr(config, "MANY_BLOCKS", 0)  # only an empty file has no more
    go_on, create = threading.Event(), PartStore.create
    inside: list[str] = []

    def slow(store: PartStore, facts: Facts) -> Part:
        inside.append(facts.name)
        assert not facts.size or go_on.wait(PATIENCE)
        return create(store, facts)

    monkeypatch.setattr(PartStore, "create", slow)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(local.port)).log_in() for _ in range(4)]
        for number, client in enumerate(clients[:3]):
            _announce(client, "large", number + 1)
        eventually(lambda: inside == ["large"], "the first one")
        _announce(clients[3], "empty", 0)
        assert isinstance(clients[3].answer(), FileReady)
        assert inside == ["large", "empty"]
        go_on.set()
        assert all(isinstance(client.answer(), FileReady) for client in clients[:3])


def test_space_is_reserved_a_slice_at_a_time(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a unit of work of its own; together they are the file."""
    monkeypatch.setattr(config, "RESERVE_FOR", 0.0)
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *call: calls.append(call[1:]))
    with RawClient(local.port).log_in() as client:
        _announce(client, "x", 2 * config.RESERVE_SLICE + MB)
        assert isinstance(client.answer(), FileReady)
    step = config.RESERVE_SLICE
    assert calls == [(0, step), (step, step), (2 * step, MB)]


@pytest.fixture
def slow_scan(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the look at earlier part files take until the function that is returned is called."""
    go_on, scan_some = threading.Event(), PartStore.scan_some

    def slow(store: PartStore) -> None:
        assert go_on.wait(PATIENCE)
        scan_some(store)

    monkeypatch.setattr(PartStore, "scan_some", slow)
    return go_on.set


def test_clients_log_in_while_earlier_part_files_are_looked_at(
    start_local: StartLocal, slow_scan: Callable[[], None]
) -> None:
    """FAULTS 36: a start with ten thousand of them answers at once; a file waits for the look."""
    local = start_local()
    with RawClient(local.port).log_in() as client:
        _announce(client, "x", 10)
        eventually(local.server.admission.active, "the file to be admitted")
        assert not local.server.parts.scanned
        slow_scan()
        assert isinstance(client.answer(), FileReady)


def _leave(output: Path, user: str, directory: str = "") -> None:
    """Leave a part file of ``user``, of one block of 90,000 bytes."""
    name = f"server_received_{user}_x"
    facts = Facts(user, "x", 90_000, 200 * KB, "md5", name, directory, ANY_MD5)
    part = PartFile.create(output, facts)
    part.note(record(0, bytes(16)))
    part.close()


def test_a_file_waits_for_the_part_files_of_its_own_user_alone(
    start_local: StartLocal, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 36: beside ten thousand of others a first file took seconds; its own is found."""
    for user in ("somebody", "user1"):
        _leave(output, user)
    go_on, recover = threading.Event(), PartFile.recover

    def slow(part: PartFile) -> None:
        assert part.facts.user == "user1" or go_on.wait(PATIENCE)
        recover(part)

    monkeypatch.setattr(PartFile, "recover", slow)
    local = start_local(output=output)
    with RawClient(local.port).log_in() as client:
        client.control.send(FileStart("x", 90_000, 200 * KB, "md5", ANY_MD5, True))
        ready = client.answer()
        assert isinstance(ready, FileReady)
        assert (ready.have, local.server.parts.scanned) == (((0, 1),), False)
        go_on.set()


def test_with_a_quota_a_file_waits_for_what_is_in_its_directory(
    serve: Serve, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 13: what others have left there counts as well."""
    _leave(output, "somebody", "shared")
    asked, knows, recover = threading.Event(), PartStore.knows, PartFile.recover

    def note_ignorance(store: PartStore, needed: Need) -> bool:
        known = knows(store, needed)
        if store.listed and not known:
            asked.set()
        return known

    def slow(part: PartFile) -> None:
        assert asked.wait(PATIENCE)
        recover(part)

    monkeypatch.setattr(PartStore, "knows", note_ignorance)
    monkeypatch.setattr(PartFile, "recover", slow)
    local = serve({"alice": account(directory="shared", quota=100_000)}, output=output)
    with RawClient(local.port).log_in("alice", PASSWORD) as client:
        _announce(client, "y", 20_000)
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "quota"


def test_a_look_at_part_files_that_the_disk_refused_is_tried_again(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 36: otherwise no file could begin until the server is started anew."""
    monkeypatch.setattr(config, "SCAN_AGAIN", 0.01)
    scan_some = PartStore.scan_some
    errors = [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many files")]

    def fail_first(store: PartStore) -> None:
        if errors:
            raise errors.pop()
        scan_some(store)

    monkeypatch.setattr(PartStore, "scan_some", fail_first)
    with RawClient(start_local().port).log_in() as client:
        _announce(client, "x", 10)
        assert isinstance(client.answer(), FileReady)


def test_a_part_file_on_its_way_is_let_go_when_the_server_ends(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its turn at the disk, and no client can go on with it here."""
    monkeypatch.setattr(config, "MAX_RESERVING", 0)
    local = start_local()
    with RawClient(local.port).log_in() as client:
        _announce(client, "x", 2 * config.RESERVE_SLICE)
        eventually(lambda: local.server.parts.in_use == 1, "the part file to be made")
        local.stop()
    assert local.server.parts.in_use == 0


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_that_is_given_up_and_announced_anew_is_found(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, *, resume: bool
) -> None:
    """Also while a worker still writes its last block: otherwise it would stay beside the other."""
    data, write_run = bytes(range(256)) * 3200, PartFile.write_run
    writing, go_on, looked = threading.Event(), threading.Event(), threading.Semaphore(0)
    find = Opener._find

    def look(opener: Opener, opening: Opening) -> bool:
        found = find(opener, opening)
        looked.release()
        return found

    def slow(part: PartFile, views: Sequence[memoryview], offset: int) -> None:
        if offset:
            writing.set()
            assert go_on.wait(PATIENCE)
        write_run(part, views, offset)

    monkeypatch.setattr(PartFile, "write_run", slow)
    monkeypatch.setattr(Opener, "_find", look)
    with RawClient(local.port).log_in() as client:
        upload, stream = client.start("x", data), client.attach()
        upload.send(stream, 0)
        push(stream, upload.frame(1))
        assert writing.wait(PATIENCE)
        assert isinstance(client.control.call(Cancel(), PATIENCE), Rejected)
        head = hashlib.md5(data[: 200 * KB]).hexdigest()
        client.control.send(FileStart("x", len(data), 200 * KB, "md5", head, resume))
        for _ in range(2):
            assert looked.acquire(timeout=PATIENCE)
        go_on.set()
        ready = client.answer()
        assert isinstance(ready, FileReady)
        assert bool(ready.have) == resume
        assert len(part_files(local.output)) == 1
