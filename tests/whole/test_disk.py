"""A disk that is full, broken or read-only."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from client import send_files
from lft.store import attributes, partfile
from lft.store.journal import Journal
from lft.store.paths import PARTIAL
from protocol import Cancel, Rejected, RejectedError
from tests.support.files import md5, part_files, random_file, received, strays
from tests.support.local import ServerThread, StartLocal
from tests.support.processes import still_serves
from tests.support.rawpeer import RawClient, two_blocks_left
from tests.support.waiting import PATIENCE, eventually


def test_a_part_file_that_cannot_be_removed_blocks_nobody(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33: the transfer ends, is answered, and its place goes to the next."""
    local = start_local(max_active=1)
    with RawClient(local.port).log_in() as client:
        client.start("x", b"x" * 10)
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", _read_only)
            assert isinstance(client.control.call(Cancel(), PATIENCE), Rejected)
        client.start("y", b"y" * 10)
    eventually(lambda: len(part_files(local.output)) == 1)
    for path in strays(local.output) + part_files(local.output):
        path.with_suffix(".journal").unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


# --- a broken disk ------------------------------------------------------------------------------


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _broken(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    ("call", "failure", "code"),
    [
        ("posix_fallocate", _full, "space"),
        ("pwritev", _full, "space"),
        ("pwritev", _broken, "disk"),
        ("fdatasync", _broken, "disk"),
        ("fsync", _broken, "disk"),
        ("link", _full, "space"),
        ("link", _read_only, "disk"),
    ],
)
def test_a_disk_error_is_a_clean_rejection(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: Callable[..., None],
    code: str,
) -> None:
    """33 and 34: whatever call fails, the client is told and the next file works."""
    source = random_file(tmp_path / "x", 1_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failure)
        patch.setattr("lft.store.partfile.sync_data", os.fdatasync)
        patch.setattr("lft.store.journal.sync_data", os.fdatasync)
        with pytest.raises(RejectedError) as caught:
            send_files([source], local.client())
    assert caught.value.code == code
    assert caught.value.exit_code == 4
    eventually(lambda: local.server.parts.in_use == 0)
    assert part_files(local.output) == []
    assert received(local.output) == []
    still_serves(local.port, tmp_path)


def test_a_whole_file_that_does_not_get_its_name_stays_for_a_resume(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33: the disk filled up with the last byte; the same command publishes it later."""
    source = random_file(tmp_path / "x", 1_000_000)
    link, calls = os.link, itertools.count()

    def full_later(*arguments: Any, **options: Any) -> None:
        (_full if next(calls) else link)(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full_later)
        with pytest.raises(RejectedError):
            send_files([source], local.client())
    eventually(lambda: local.server.parts.in_use == 0)
    assert len(part_files(local.output)) == 1
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 1_000_000
    assert md5(local.output / receipt.saved_as) == md5(source)


# --- a disk with something on it ----------------------------------------------------------------


def _quota(*_: object, **__: object) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


FAILURES = [(_full, "space"), (_quota, "space"), (_broken, "disk"), (_read_only, "disk")]


@contextlib.contextmanager
def _no_records(monkeypatch: pytest.MonkeyPatch, failure: Callable[..., None]) -> Iterator[None]:
    """Have journals begin, but claim no block."""
    append = Journal.append

    def fail(journal: Journal, records: bytes) -> None:
        (append if records.endswith(b"}\n") else failure)(journal, records)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fail)
        yield


@pytest.mark.parametrize("failure", [_broken, _read_only])
def test_a_journal_that_cannot_be_written_is_a_clean_rejection(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[..., None],
) -> None:
    """33: at the first block; what was written before stays, and the same command goes on."""
    source = random_file(tmp_path / "x", 1_000_000)
    with _no_records(monkeypatch, failure), pytest.raises(RejectedError) as caught:
        send_files([source], local.client())
    assert caught.value.code == "disk"
    eventually(lambda: local.server.parts.in_use == 0)
    (receipt,) = send_files([source], local.client())
    assert [md5(path) for path in received(local.output)] == [receipt.digest]


@pytest.mark.parametrize("failure", [_full, _quota])
def test_a_file_whose_room_is_reserved_arrives_on_a_disk_too_full_for_its_journal(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Callable[..., None],
) -> None:
    """33: it cannot be resumed, and that is said once; nothing of it stays behind."""
    source = random_file(tmp_path / "x", 3_000_000)
    with _no_records(monkeypatch, failure):
        (receipt,) = send_files([source], local.client())
    assert [md5(path) for path in received(local.output)] == [receipt.digest]
    assert sum("disk full" in record.message for record in caplog.records) == 1
    eventually(lambda: part_files(local.output) == [])


def test_what_a_full_disk_did_not_let_the_journal_claim_is_sent_again(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33: who breaks off meanwhile begins anew, and the right file arrives."""
    source = random_file(tmp_path / "x", 1_000_000)
    with _no_records(monkeypatch, _full):
        two_blocks_left(local, source)
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 0
    assert [md5(path) for path in received(local.output)] == [receipt.digest]


@pytest.mark.parametrize("call", ["open_regular", "posix_fallocate"])
@pytest.mark.parametrize(("failure", "code"), FAILURES)
def test_a_part_file_that_cannot_be_opened_again_is_a_clean_rejection(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: Callable[..., None],
    code: str,
) -> None:
    """33: what is there is kept; when the disk works again the same command goes on."""
    source = random_file(tmp_path / "x", 1_000_000)
    two_blocks_left(local, source)
    with monkeypatch.context() as patch:
        for place in (attributes, partfile) if call == "open_regular" else (os,):
            patch.setattr(place, call, failure)
        if (call, failure) == ("open_regular", _broken):  # set aside: another one may go better
            assert send_files([source], local.client())[0].resumed_bytes == 0
            received(local.output)[0].unlink()
        else:
            with pytest.raises(RejectedError) as caught:
                send_files([source], local.client())
            assert caught.value.code == code
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 2 * 200 * 1024
    assert [md5(path) for path in received(local.output)] == [receipt.digest]


def test_a_partial_folder_that_is_deleted_meanwhile_is_a_clean_rejection(
    local: ServerThread, tmp_path: Path
) -> None:
    """33: the transfer that runs is not published; when the folder is back, all is well."""
    partial = local.output / PARTIAL
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(300_000))
        data = client.attach()
        upload.send(data, 0)
        shutil.rmtree(partial)
        upload.send(data, 1)
        answer = upload.complete()
        assert isinstance(answer, Rejected)
        assert answer.code == "disk"
    assert received(local.output) == []
    partial.mkdir()
    still_serves(local.port, tmp_path)


@pytest.mark.parametrize("what", ["moved", "copied"])
def test_an_output_directory_that_is_moved_meanwhile_is_a_clean_rejection(
    local: ServerThread, tmp_path: Path, what: str
) -> None:
    """33: no INTEGRITY_OK for a file that is where no user looks, or for a copy of half of it."""
    data = os.urandom(400_000)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", data)
        upload.send(client.attach(), 0)
        local.output.rename(tmp_path / "old")
        if what == "copied":
            shutil.copytree(tmp_path / "old", local.output)
        upload.send(client.attach(), 1)
        answer = upload.complete()
    assert isinstance(answer, Rejected)
    assert "moved" in answer.reason
    assert received(local.output) == received(tmp_path / "old") == []
    shutil.rmtree(local.output, ignore_errors=True)
    (tmp_path / "old").rename(local.output)
    still_serves(local.port, tmp_path)
