"""Blocks of zeros in part files: they take no room, and what is read there is right."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Callable

import pytest

from config import KB, MB
from lft import holes
from lft.holes import is_zero, make_hole, next_data
from lft.store.partfile import PartFile
from tests.support.files import part_files
from tests.support.partfiles import facts_of

BLOCK = 200 * KB
SIZE = 10 * BLOCK + 77


def used(path: Path) -> int:
    """Return the bytes of the disk that a file takes."""
    return path.stat().st_blocks * 512


@pytest.fixture
def part(output: Path) -> PartFile:
    """A part file of ten blocks and a short one, with all of its space reserved."""
    one = PartFile.create(output, facts_of(SIZE, block=BLOCK))
    while one.reserve_some(1.0):
        pass
    return one


def content(part: PartFile, size: int = SIZE) -> bytes:
    """Read a part file."""
    view = memoryview(bytearray(size))
    part.read(view, 0)
    return bytes(view)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 4096, BLOCK])
def test_a_block_is_zero_only_if_every_byte_is(size: int) -> None:
    """The quick looks at some of them decide nothing but that it is not."""
    data = bytearray(size)
    assert is_zero(memoryview(data))
    for at in {0, 1, 63, 64, size // 2, size // 3, size - 2, size - 1} & set(range(size)):
        data[at] = 1
        assert not is_zero(memoryview(data))
        data[at] = 0
    assert not is_zero(memoryview(b""))


def test_zeros_give_their_space_back(part: PartFile, output: Path) -> None:
    """Those of a block in the middle and of the short one at the end."""
    (path,) = part_files(output)
    assert used(path) >= SIZE
    part.write_run([memoryview(b"x" * BLOCK)], 0)
    for block in range(1, 11):
        part.write_run([memoryview(bytes(min(BLOCK, SIZE - block * BLOCK)))], block * BLOCK)
    assert content(part) == b"x" * BLOCK + bytes(SIZE - BLOCK)
    part.flush()
    assert used(path) <= BLOCK + 16 * KB
    part.remove()


def test_zeros_take_the_place_of_other_bytes(part: PartFile) -> None:
    """A resumed file had something else there, on the disk or on its way to it."""
    part.write_run([memoryview(b"x" * 3 * BLOCK)], 0)
    part.flush()
    part.write_run([memoryview(b"y" * BLOCK)], BLOCK)
    part.write_run([memoryview(bytes(BLOCK))], BLOCK)
    assert content(part, 3 * BLOCK) == b"x" * BLOCK + bytes(BLOCK) + b"x" * BLOCK
    part.write_run([memoryview(b"z" * BLOCK)], BLOCK)
    assert content(part, 3 * BLOCK) == b"x" * BLOCK + b"z" * BLOCK + b"x" * BLOCK
    part.remove()


@pytest.mark.parametrize("seeks", [True, False])
def test_without_holes_zeros_are_written(
    part: PartFile, monkeypatch: pytest.MonkeyPatch, seeks: bool
) -> None:
    """A file system may have none, a system no call for it: the content is right all the same."""
    part.write_run([memoryview(b"x" * BLOCK)], 0)
    monkeypatch.setattr("lft.holes._puncher", lambda: None)
    if not seeks:
        monkeypatch.delattr(os, "SEEK_DATA")
    written, pwritev = [], os.pwritev

    def write(descriptor: int, data: list[memoryview], offset: int) -> int:
        written.append(offset)
        return pwritev(descriptor, data, offset)

    monkeypatch.setattr(os, "pwritev", write)
    part.write_run([memoryview(bytes(BLOCK))], 0)
    assert len(written) == 1
    part.write_run([memoryview(bytes(BLOCK))], BLOCK)
    assert len(written) == (1 if seeks else 2)  # reserved space reads as zeros
    assert content(part, 2 * BLOCK) == bytes(2 * BLOCK)
    part.remove()


def test_a_call_that_fails_leaves_the_zeros_to_be_written(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EOPNOTSUPP, say."""
    monkeypatch.setattr("lft.holes._puncher", lambda: lambda *_: -1)
    part.write_run([memoryview(b"x" * BLOCK)], 0)
    part.write_run([memoryview(bytes(BLOCK))], 0)
    assert content(part, BLOCK) == bytes(BLOCK)
    part.remove()


@pytest.mark.parametrize("punch", [True, False])
def test_a_hole_makes_no_file_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, punch: bool
) -> None:
    """Beyond the end zeros have to be written."""
    if not punch:
        monkeypatch.setattr("lft.holes._puncher", lambda: None)
    with open(tmp_path / "x", "w+b") as file:
        assert not make_hole(file.fileno(), 0, BLOCK)
        file.truncate(BLOCK)
        assert make_hole(file.fileno(), 0, BLOCK)
        assert not make_hole(file.fileno(), 1, BLOCK)


def test_data_is_found_where_it_is(tmp_path: Path) -> None:
    """From anywhere in the hole before it, and none after it."""
    with open(tmp_path / "x", "w+b") as file:
        os.truncate(file.fileno(), 4 * MB)
        os.pwrite(file.fileno(), b"data", MB)
        assert next_data(file.fileno(), 0) == next_data(file.fileno(), MB) == MB
        assert next_data(file.fileno(), 2 * MB) is None


def test_a_file_that_cannot_be_looked_through_is_all_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that is always right."""

    def refuse(*_: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with open(tmp_path / "x", "w+b") as file:
        file.truncate(MB)
        monkeypatch.setattr(os, "lseek", refuse)
        assert next_data(file.fileno(), 77) == 77


@pytest.mark.parametrize("library", ["no ctypes", "no fallocate"])
def test_a_system_without_the_call_has_no_holes_to_make(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """Some builds of Python lack ctypes; macOS lacks the function."""
    if library == "no ctypes":
        monkeypatch.setitem(sys.modules, "ctypes", None)
    else:
        monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    find: Callable[[], object] = holes._puncher.__wrapped__
    assert find() is None


def test_a_published_file_is_left_as_it_is(part: PartFile, output: Path) -> None:
    """It is the user's; its holes are no matter of ours."""
    part.write_run([memoryview(b"x" * BLOCK)], 0)
    part.publish()
    part.dig(memoryview(bytes(BLOCK)), 0)
    assert content(part, BLOCK) == b"x" * BLOCK
    part.remove()
