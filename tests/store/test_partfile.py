"""A part file: writing it, opening it again, flushing it."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Callable, Sequence

import pytest

from lft.store.journal import Journal, record
from lft.store.partfile import PartFile
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL
from tests.support.files import part_files, received, strays
from tests.support.partfiles import (
    DATA,
    broken_disk,
    claimed,
    facts_of,
    found_again,
    journal_file,
    leave_part,
    open_again,
    running,
)
from tests.support.transfers import resumed, transfer_of

# --- a new part file ----------------------------------------------------------------------------


def test_a_part_file_is_published_with_its_bytes(output: Path) -> None:
    """What was written at its offsets stands under the final name, and nothing else is left."""
    part = PartFile.create(output, facts_of(6))
    part.write_run([memoryview(b"def")], 3)
    part.write_run([memoryview(b"abc")], 0)
    part.flush()
    name = part.publish()
    part.remove()
    assert (output / name).read_bytes() == b"abcdef"
    assert part_files(output) == []


def test_without_room_nothing_is_left_behind(output: Path) -> None:
    """FAULTS 12: a file larger than the disk is refused before a byte is written."""
    with pytest.raises(OSError, match=r"space|large"):
        PartFile.create(output, facts_of(2**62))
    assert part_files(output) == []


def test_a_part_file_cut_short_by_somebody_else_is_noticed(output: Path) -> None:
    """Reading back what is gone is an error, not zeros."""
    part = PartFile.create(output, facts_of(4))
    os.truncate(part_files(output)[0], 2)
    with pytest.raises(OSError, match="truncated"):
        part.read(memoryview(bytearray(4)), 0)
    part.remove()


# --- a part file that is opened again -----------------------------------------------------------


def test_a_part_file_is_opened_again_with_what_it_has(output: Path) -> None:
    """Claims and bytes are those that were left, and more can be written."""
    part = found_again(output, leave_part(output))
    assert claimed(open_again(part, facts_of(39))) == list(range(10))
    view = memoryview(bytearray(39))
    part.read(view, 0)
    assert view == DATA
    part.write_run([memoryview(b"xyz")], 36)
    part.remove()
    assert strays(output) == part_files(output) == []


def test_a_file_that_has_no_room_on_the_disk_takes_none_in_memory(output: Path) -> None:
    """FAULTS 12 and 32: one that begins like a part file and claims to be huge by now."""
    part = found_again(output, leave_part(output))
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="No space"):
            open_again(part, facts_of(2**45, block=2**21))  # 2**24 blocks
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    part.close()
    assert part_files(output)[0].read_bytes() == DATA


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_what_took_the_place_of_a_part_file_is_not_opened(output: Path, kind: str) -> None:
    """FAULTS 11: nothing is followed, written to or waited for."""
    part = leave_part(output)
    path = part_files(output)[0]
    path.unlink()
    victim = output / "victim"
    victim.write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "symlink": lambda: path.symlink_to(victim),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    with pytest.raises(ValueError, match="not a regular file"):
        open_again(part, facts_of(39))
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("length", [0, 5, 38, 40, 5000])
def test_a_part_file_of_another_length_gets_its_own(output: Path, length: int) -> None:
    """FAULTS 35: too short or too long, its blocks are where they should be."""
    part = leave_part(output)
    os.truncate(part_files(output)[0], length)
    open_again(part, facts_of(39))
    assert part_files(output)[0].stat().st_size == 39
    view = memoryview(bytearray(39))
    part.read(view, 0)
    assert view == DATA[:length].ljust(39, b"\0")
    part.remove()


def test_a_part_file_with_another_head_is_not_touched(output: Path) -> None:
    """It is for another file, whose client may still come."""
    leave_part(output)
    before = journal_file(output).read_bytes()
    store = PartStore(output)
    store.scan()
    assert resumed(store, transfer_of(b"other" + DATA).facts) is None
    assert journal_file(output).read_bytes() == before
    assert part_files(output)[0].read_bytes() == DATA


def test_a_part_file_goes_on_for_a_file_that_has_grown(output: Path) -> None:
    """The journal then says the new size, and the file has it."""
    part = leave_part(output)
    assert claimed(open_again(part, facts_of(50, unique="other"))) == list(range(9))
    part.close()
    assert found_again(output, part).facts == facts_of(50)  # the name it would get stays
    assert part_files(output)[0].stat().st_size == 50


def test_what_is_flushed_and_proven_is_given_back_to_the_system(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That and no more: what may have to be read back stays in memory."""
    advice: list[tuple[int, ...]] = []
    part = PartFile.create(output, facts_of(39))
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, *what: advice.append(what))
    part.flush()
    part.flush(proven=20)
    assert advice == [(0, 20, os.POSIX_FADV_DONTNEED)]
    part.remove()


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_space_cannot_be_reserved_files_are_taken_all_the_same(
    output: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """FAULTS 33: some file systems have no such call; whether there is room was looked at."""

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    PartFile.create(output, facts_of(39)).remove()


def test_a_file_whose_name_cannot_be_flushed_for_want_of_a_descriptor_is_not_lost(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: all of it is on the disk; the same command publishes it later."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    open_ = os.open

    def no_directories(path: object, flags: int, *more: int) -> int:
        if flags & os.O_DIRECTORY:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_(path, flags, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_directories)
        with pytest.raises(OSError, match="Too many open files"):
            part.publish()
    assert received(output) == []
    assert part.worth_keeping
    assert part.publish() == "server_received_taken_x"
    part.remove()


def test_a_failed_flush_is_final(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 34: what the disk lost stays lost, though a second flush would say all is well."""
    store = PartStore(output)
    part = store.create(transfer_of(DATA).facts)
    part.note(record(0, running(DATA, 0)))
    with monkeypatch.context() as patch:
        patch.setattr("lft.store.partfile.sync_data", broken_disk)
        patch.setattr("lft.store.journal.sync_data", broken_disk)
        with pytest.raises(OSError, match="Input/output"):
            part.flush()
    part.flush()
    assert not part.trusted
    store.rest(part)
    assert resumed(store, transfer_of(DATA).facts) is None
    assert part_files(output) == strays(output) == []


def test_the_journal_is_flushed_with_the_data(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 37: else a power cut after publishing forgets whose file it was: it comes twice."""
    flushed = []
    part = PartFile.create(output, facts_of(6))
    with monkeypatch.context() as patch:
        patch.setattr(
            "lft.store.partfile.sync_data", lambda file: flushed.append(os.fstat(file).st_ino)
        )
        patch.setattr(
            "lft.store.journal.sync_data", lambda file: flushed.append(os.fstat(file).st_ino)
        )
        part.flush()
    inodes = [path.stat().st_ino for path in (*part_files(output), *_journals(output))]
    assert flushed == inodes
    part.remove()


def test_a_journal_that_cannot_be_flushed_spoils_nothing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 34: it is a claim; the data is on the disk."""
    part = PartFile.create(output, facts_of(6))
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "flush", broken_disk)
        part.flush()
    assert part.trusted
    part.publish()
    assert received(output)
    part.remove()


def _journals(output: Path) -> list[Path]:
    return list((output / PARTIAL).glob("*.journal"))


def test_blocks_that_are_written_together_lie_one_behind_the_other(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: also where the system writes less than was asked for, within a block or not."""
    part, pwritev = PartFile.create(output, facts_of(9)), os.pwritev

    def short(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        return pwritev(descriptor, [b"".join(views)[:4]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    part.write_run([memoryview(b"bcd"), memoryview(b""), memoryview(b"efgh")], 1)
    assert part_files(output)[0].read_bytes() == b"\0bcdefgh\0"
    part.remove()


def test_space_that_is_reserved_late_makes_a_file_no_longer(output: Path) -> None:
    """16: one worker reserves for a block that comes again, another has just set the end."""
    part = PartFile.create(output, facts_of(0)._replace(unsized=True))
    part.reserve_to(100)
    part.ends_at = 39
    part.set_size(39)
    part.reserve_to(200)
    (path,) = output.glob(".partial/*.part")
    assert path.stat().st_size == 39
    part.remove()


def test_a_name_that_was_tried_when_the_server_was_killed_goes_at_the_next_start(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hide the file, and keep its space, once the user has removed the published one."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed_there)
        with pytest.raises(KeyboardInterrupt):
            part.try_name()
    part.close()
    assert list(output.glob(".erver_received_*"))
    found_again(output, part).recover()
    assert not list(output.glob(".erver_received_*"))


def killed_there(*_: object, **__: object) -> None:
    """Go no further, as if the process were killed here."""
    raise KeyboardInterrupt
