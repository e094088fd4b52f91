"""Giving a part file its final name, once and without replacing anything."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Callable

import pytest

from lft.store.journal import Journal, record
from lft.store.part import StaleError
from lft.store.partfile import PartFile
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL
from tests.support.files import part_files, received, strays
from tests.support.partfiles import (
    DATA,
    RECORD,
    broken_disk,
    claimed,
    facts_of,
    found_again,
    journal_file,
    leave_part,
    leave_published,
    no_links,
    open_again,
)


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "fifo"])
def test_publishing_never_replaces_or_follows_what_is_there(
    output: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """FAULTS 11: a taken name is left alone, whatever it is, and another one is found."""
    taken = output / "server_received_taken_x"
    victim = output / "victim"
    victim.write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "file": lambda: taken.write_text("precious"),
        "folder": taken.mkdir,
        "symlink": lambda: taken.symlink_to(victim),
        "fifo": lambda: os.mkfifo(taken),
    }
    make[kind]()
    before = taken.lstat()
    monkeypatch.setattr("lft.store.partfile.unique", lambda: "free")
    part = PartFile.create(output, facts_of(1))
    part.write_run([memoryview(b"x")], 0)
    assert part.publish() == "server_received_free_x"
    part.remove()
    assert stat.S_IFMT(taken.lstat().st_mode) == stat.S_IFMT(before.st_mode)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_published_file_is_recognised_and_keeps_its_name(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """FAULTS 37: publishing it again gives the same answer and no second file."""
    part = leave_published(output, monkeypatch, how)
    assert claimed(open_again(part, facts_of(39, unique="other"))) == list(range(10))
    assert not part.reserve_some(1.0)
    assert part.published
    assert part.publish() == "server_received_taken_x"
    part.remove()
    assert [path.read_bytes() for path in received(output)] == [DATA]


@pytest.mark.parametrize("size", [38, 40])
def test_a_file_of_another_size_than_was_hashed_gets_no_name(output: Path, size: int) -> None:
    """Whoever changed it: what is published is what was proven, not one byte more."""
    part = PartFile.create(output, facts_of(39))
    part.write_run([memoryview(DATA)], 0)
    (name,) = output.glob(".partial/*.part")
    os.truncate(name, size)
    with pytest.raises(OSError, match="longer or shorter"):
        part.publish()
    assert not part.trusted
    part.remove()
    assert not received(output)


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_published_file_is_never_written_to(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is the user's; neither bytes nor claims change any more."""
    part = leave_published(output, monkeypatch, how)
    open_again(part, facts_of(39))
    before = journal_file(output).read_bytes()
    with pytest.raises(StaleError):
        part.write_run([memoryview(b"xyz")], 0)
    part.note(record(0, bytes(16)))
    part.close()
    assert journal_file(output).read_bytes() == before
    assert [path.read_bytes() for path in received(output)] == [DATA]


def test_a_published_file_takes_blocks_that_its_journal_did_not_claim(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 37: published before another worker had its blocks claimed; they come again."""
    part = leave_published(output, monkeypatch, "link")
    line, _, records = journal_file(output).read_bytes().partition(b"\n")
    journal_file(output).write_bytes(line + b"\n" + records[2 * RECORD :])
    assert claimed(open_again(part, facts_of(39))) == list(range(2, 10))
    part.write_run([memoryview(DATA[:4]), memoryview(DATA[4:8])], 0)
    with pytest.raises(StaleError):
        part.write_run([memoryview(b"one more")], 39)
    part.close()
    assert [path.read_bytes() for path in received(output)] == [DATA]


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_published_file_that_was_moved_away_is_left_alone(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What the user has put elsewhere is not written to through its other name."""
    part = leave_published(output, monkeypatch, how)
    received(output)[0].rename(output / "elsewhere")
    with pytest.raises((FileNotFoundError, ValueError)):
        open_again(part, facts_of(39))
    part.remove()
    assert (output / "elsewhere").read_bytes() == DATA


@pytest.mark.parametrize("size", [38, 40, 0])
def test_a_published_file_is_no_beginning_of_another(
    output: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The source has another size by now: the published file stays, the new one begins anew."""
    part = leave_published(output, monkeypatch, "link")
    with pytest.raises(ValueError, match="another size"):
        open_again(part, facts_of(size))
    part.remove()
    assert [path.read_bytes() for path in received(output)] == [DATA]


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_name_that_the_disk_may_not_have_is_taken_back(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """FAULTS 34: without INTEGRITY_OK there is no file under a final name."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    monkeypatch.setattr(os, "fsync", broken_disk)
    if how == "rename":
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OSError, match="Input/output"):
        part.publish()
    assert received(output) == []
    assert not part.worth_keeping
    part.remove()
    assert part_files(output) == strays(output) == []


def test_a_journal_knows_the_other_name_before_the_file_gets_it(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 37: killed right after publishing, the next server recognises it all the same."""
    (output / "server_received_taken_x").write_text("precious")
    monkeypatch.setattr("lft.store.partfile.unique", lambda: "free")
    part = leave_part(output)
    open_again(part, facts_of(39))
    part.publish()
    part.close()
    found = found_again(output, part)
    found.look()
    assert found.published
    assert found.facts.saved_as == "server_received_free_x"
    found.remove()


def test_a_full_disk_does_not_take_back_what_is_published(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: the file and its name are on the disk; a journal's last record is not worth it."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    monkeypatch.setattr(Journal, "append", broken_disk)
    part.publish()
    assert part.published
    assert part.trusted
    part.remove()
    assert [path.read_bytes() for path in received(output)] == [DATA]


def test_a_published_file_that_was_removed_is_not_kept_a_second_time(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its second name would hold the space of a file that somebody has deleted."""
    leave_published(output, monkeypatch, "link")
    received(output)[0].unlink()
    PartStore(output).scan()
    assert part_files(output) == strays(output) == []
    assert "removed since" in caplog.text


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "gone before the answer"])
def test_a_verdict_asked_for_again_is_still_that_of_a_published_file(
    output: Path, monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    """Its journal says so for ever: what is removed then is not taken for unfinished."""
    part = leave_published(output, monkeypatch, "link")
    open_again(part, facts_of(39))
    if answered:
        part.publish()
    part.close()
    received(output)[0].unlink()
    PartStore(output).scan()
    assert part_files(output) == strays(output) == []


def test_what_a_kill_kept_from_being_noted_as_published_is_noted_at_the_start(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 36: or who removes the file later leaves a hidden copy of it for a week."""
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note_published", lambda *_: None)
        leave_published(output, monkeypatch, "link")
    PartStore(output).scan()
    received(output)[0].unlink()
    PartStore(output).scan()
    assert part_files(output) == strays(output) == []


def test_the_file_that_was_written_gets_the_name_whatever_stands_at_its_path(
    output: Path,
) -> None:
    """FAULTS 33: a stale copy of the part file, restored there meanwhile, is not vouched for."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    path = part_files(output)[0]
    path.rename(output / "elsewhere")
    path.write_bytes(bytes(39))
    assert (output / part.publish()).read_bytes() == DATA
    part.remove()


def test_without_links_a_file_that_was_replaced_at_its_path_is_not_published(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: a rename goes by the path, so the path must still lead to the open file."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    path = part_files(output)[0]
    path.unlink()
    path.write_bytes(bytes(39))
    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OSError, match="moved or replaced"):
        part.publish()
    assert received(output) == []
    part.remove()


def test_a_name_is_tried_without_leaving_anything(output: Path) -> None:
    """FAULTS 33: what a directory refuses is known before a byte is sent."""
    part = PartFile.create(output, facts_of(4))
    part.try_name()
    assert received(output) == []
    assert [path.name for path in output.iterdir()] == [PARTIAL]
    part.remove()


def test_a_name_is_tried_where_there_are_no_links(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part file stays where it is."""
    part = PartFile.create(output, facts_of(4))
    monkeypatch.setattr(os, "link", no_links)
    part.try_name()
    assert [path.name for path in output.iterdir()] == [PARTIAL]
    assert len(part_files(output)) == 1
    part.remove()


def test_a_directory_that_cannot_be_flushed_takes_files_all_the_same(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: some file systems say EINVAL to that; there is nothing more to be done."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    fsync = os.fsync

    def no_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_directories)
    assert (output / part.publish()).read_bytes() == DATA
    part.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another group")
def test_a_file_gets_the_group_of_a_set_gid_directory(output: Path) -> None:
    """Its members expect that of every file there, wherever it was made."""
    os.chown(output, -1, 4711)
    output.chmod(0o2775)
    part = leave_part(output)
    os.chown(part_files(output)[0], -1, 0)
    open_again(part, facts_of(39))
    assert (output / part.publish()).stat().st_gid == 4711
    part.remove()


def test_a_file_gets_the_default_acl_of_its_directory(output: Path) -> None:
    """A group that may write to files there may write to this one; nothing may run it."""
    entry = struct.Struct("<HHI")
    tags = ((1, 7, -1), (4, 5, -1), (8, 7, 4711), (16, 7, -1), (32, 0, -1))  # acl(5), binary form
    acl = struct.pack("<I", 2) + b"".join(entry.pack(t, p, i & 0xFFFFFFFF) for t, p, i in tags)
    os.setxattr(output, "system.posix_acl_default", acl)
    part = PartFile.create(output, facts_of(4))
    name = part.publish()
    assert b"\x08\x00\x07\x00" in os.getxattr(output / name, "system.posix_acl_access")
    assert not (output / name).stat().st_mode & 0o111
    part.remove()
