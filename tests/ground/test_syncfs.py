"""Many files flushed with one call, where that pays."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from lft import syncfs
from lft.syncfs import dirty_bytes, flush_together

GB = 1024**3


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have a calm machine with ext4; note the descriptors that are given to syncfs."""
    heard: list[int] = []

    class Libc:
        result = 0

        def fstatfs(self, _descriptor: int, facts: ctypes.Array[ctypes.c_char]) -> int:
            ctypes.c_long.from_buffer(facts).value = 0xEF53
            return 0

        def syncfs(self, descriptor: int) -> int:
            heard.append(descriptor)
            return self.result

    monkeypatch.setattr(syncfs, "_libc", Libc())
    monkeypatch.setattr(syncfs, "dirty_bytes", lambda: 1000)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "x", "6.1.0-9", "", "")))
    return heard


def test_files_are_flushed_with_one_call(calls: list[int]) -> None:
    """A group of files costs about as much as one."""
    assert flush_together(5, files=2)
    assert calls == [5]


def test_one_file_is_left_to_its_own_flush(calls: list[int]) -> None:
    """To flush all of a file system for one file would take longer."""
    assert not flush_together(5, files=1)
    assert calls == []


def test_the_data_of_other_programs_is_not_waited_for(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where much is unwritten, each file is flushed by itself: with 100 MB, up to 100 of them."""
    monkeypatch.setattr(syncfs, "dirty_bytes", lambda: 100 * 1024**2)
    assert not flush_together(5, files=99)
    assert flush_together(5, files=100)
    assert calls == [5]


@pytest.mark.parametrize("release", ["5.7.19-generic", "4.19.0", "none"])
def test_a_system_that_tells_no_errors_is_not_believed(
    calls: list[int], monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    """Before Linux 5.8 syncfs succeeds where the disk has failed."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "x", release, "", "")))
    assert not flush_together(5, files=9)
    assert calls == []


def test_an_unknown_file_system_is_not_believed(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system of another program, say, may take it for nothing."""
    monkeypatch.setattr(syncfs, "_kind_of", lambda _descriptor: 0x65735546)
    assert not flush_together(5, files=9)
    assert calls == []


def test_a_disk_that_fails_is_told(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of the whole group."""
    monkeypatch.setattr(syncfs._libc, "result", -1, raising=False)
    monkeypatch.setattr(ctypes, "get_errno", lambda: 5)
    with pytest.raises(OSError, match="Input/output error"):
        flush_together(5, files=2)
    assert calls == [5]


def test_the_real_system_takes_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above replace is there: a call that the system refuses would raise."""
    monkeypatch.setattr(syncfs, "dirty_bytes", lambda: 0)
    with open(tmp_path / "x", "wb") as file:
        file.write(b"x")
        file.flush()
        flush_together(file.fileno(), files=2)  # False on a file system that is not believed
    assert 0 <= dirty_bytes() < 10_000 * GB
