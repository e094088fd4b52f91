"""Permission bits and times that are kept."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Callable, Iterator

import pytest

from lft.store.partfile import PartFile
from lft.store.paths import PARTIAL
from tests.support.files import part_files, received, strays
from tests.support.partfiles import (
    DATA,
    broken_disk,
    facts_of,
    found_again,
    leave_part,
    leave_published,
)
from tests.support.partfiles import (
    open_again as open_part,
)

KEPT = facts_of(39)._replace(mode=0o751, mtime=981_173_106_123_456_789)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask; put back what it was."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def facts(path: Path) -> tuple[int, int]:
    """Return permission bits and time of a file."""
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_mtime_ns


def published(output: Path, part: PartFile) -> Path:
    """Publish a part file; return where it is."""
    part.publish()
    part.remove()
    (path,) = received(output)
    assert path.read_bytes() == DATA
    assert strays(output) == []
    return path


@pytest.mark.parametrize(("mask", "mode"), [(0, 0o751), (0o022, 0o751), (0o077, 0o700)])
def test_bits_and_time_are_kept_as_far_as_the_umask_allows(
    output: Path, umask: Callable[[int], int], mask: int, mode: int
) -> None:
    """The time to the nanosecond; bits that the umask takes from new files are taken."""
    umask(mask)
    part = PartFile.create(output, KEPT)
    part.write_run([memoryview(DATA)], 0)
    assert facts(published(output, part)) == (mode, KEPT.mtime)
    assert part.kept is True


@pytest.mark.parametrize("name", ["mode", "mtime"])
def test_each_of_the_two_can_be_kept_alone(output: Path, name: str) -> None:
    """To a server that knows no time before 1970 such a file goes without one."""
    part = leave_part(output)
    left_out = {"mode": KEPT._replace(mode=None), "mtime": KEPT._replace(mtime=None)}
    open_part(part, left_out[name])
    mode, mtime = facts(published(output, part))
    assert (mode == 0o751) == (name != "mode")
    assert (mtime == KEPT.mtime) == (name != "mtime")


def test_without_the_wish_nothing_is_kept_or_said(
    output: Path, umask: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's usual rights, the time of arrival, and no flush more than before."""
    umask(0o027)
    part = PartFile.create(output, facts_of(39))
    part.write_run([memoryview(DATA)], 0)
    flushed, fsync = [], os.fsync

    def flush(descriptor: int) -> None:
        flushed.append(stat.S_ISREG(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr("lft.store.attributes.os.fsync", flush)
    mode, mtime = facts(published(output, part))
    assert flushed == [False]  # the directory
    assert (mode, part.kept) == (0o640, None)
    assert mtime > 10**18


def test_they_are_kept_after_a_resume(output: Path) -> None:
    """The journal says nothing of them: the client says them again."""
    part = found_again(output, leave_part(output))
    open_part(part, KEPT)
    assert facts(published(output, part)) == (0o751, KEPT.mtime)


@pytest.mark.parametrize("how", ["link", "rename"])
def test_they_are_kept_by_a_file_that_is_published_twice(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """FAULTS 37: the verdict that is asked for again is true for them, too."""
    part = leave_published(output, monkeypatch, how)
    open_part(part, KEPT)
    assert facts(published(output, part)) == (0o751, KEPT.mtime)


def test_a_published_file_that_changed_hands_is_left_alone(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the wish, asking for the verdict again does not undo what its user did."""
    part = leave_published(output, monkeypatch, "link")
    os.chmod(received(output)[0], 0o604)
    open_part(part, facts_of(39))
    assert facts(published(output, part))[0] == 0o604


def test_they_are_on_the_disk_before_the_file_has_its_name(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that fails is final: no name, and nothing to go on with."""
    part = PartFile.create(output, KEPT)
    part.write_run([memoryview(DATA)], 0)
    monkeypatch.setattr("lft.store.attributes.os.fsync", broken_disk)
    with pytest.raises(OSError, match="Input/output"):
        part.publish()
    assert received(output) == []
    assert not part.worth_keeping
    part.remove()


def test_a_file_system_without_such_bits_takes_the_file_all_the_same(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """FAT has none: the file is there, and the client will hear that they are not."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    part = PartFile.create(output, KEPT)
    part.write_run([memoryview(DATA)], 0)
    monkeypatch.setattr("lft.store.attributes.os.fchmod", refuse)
    published(output, part)
    assert part.kept is False
    assert "permission bits or time are not kept" in caplog.text


def test_a_default_acl_bounds_the_bits(output: Path, umask: Callable[[int], int]) -> None:
    """As for a file that is made in that directory: the umask has no say, the ACL has."""
    umask(0o077)
    entries = [(1, 7), (4, 7), (0x20, 0)]  # the owner, the group, all others
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, 2**32 - 1) for tag, rights in entries
    )
    os.setxattr(output, "system.posix_acl_default", acl)
    part = PartFile.create(output, KEPT)
    part.write_run([memoryview(DATA)], 0)
    assert facts(published(output, part))[0] == 0o750


def test_bits_that_shut_the_server_out_keep_no_file_from_going_on(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after the bits and before the name: the part file is read-only, and its own."""
    part = leave_part(output)
    (path,) = part_files(output)
    path.chmod(0)
    real, said = os.open, []

    def shut_out(name: str, *arguments: int, **named: int) -> int:
        if name == str(path) and not stat.S_IMODE(path.stat().st_mode) & 0o200:
            said.append(name)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # root is never
        return real(name, *arguments, **named)

    monkeypatch.setattr("lft.store.paths.os.open", shut_out)
    part = found_again(output, part)
    open_part(part, KEPT)
    assert said == [str(path)]
    assert facts(published(output, part)) == (0o751, KEPT.mtime)


def test_the_name_that_shows_the_umask_is_gone_after_a_kill(output: Path) -> None:
    """It is one of the names of a part file: whatever removes that removes it."""
    part = leave_part(output)
    (output / PARTIAL / f"{part.stem}.new").touch()
    assert strays(output) != []
    part.remove()
    assert strays(output) == []
