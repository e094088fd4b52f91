"""The input file: which ones are refused, and how a change is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from pathlib import Path
from typing import Callable, Iterator

import pytest

import config
from config import KB
from lft.client.source import Source
from protocol import SourceError
from tests.support.files import md5, open_descriptors, random_file


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.mkdir, "is not a regular file"),
        (_fifo, "is a pipe; to send what comes out of it, name -"),
        (_socket, "not a regular file"),
        (lambda path: None, "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
)
def test_what_is_not_a_file_is_refused_and_named(
    tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    """FAULTS 21: a clear error at once; a FIFO without a writer does not hang."""
    path = tmp_path / "x"
    make(path)
    with pytest.raises(SourceError, match=why):
        Source(path)


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Give up root's right to read everything, if we have it."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_cannot_be_looked_into_is_closed_again() -> None:
    """It says it is empty, and reading the first byte of it is an error."""
    before = open_descriptors()
    with pytest.raises(SourceError, match="Input/output error"):
        Source(Path("/proc/self/mem"))
    assert open_descriptors() == before


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    """FAULTS 21: the reason is the system's."""
    path = random_file(tmp_path / "x", 1)
    path.chmod(0)
    with _as_nobody(), pytest.raises(SourceError, match="Permission denied"):
        Source(path)


def test_a_file_that_only_claims_to_be_empty_is_refused() -> None:
    """FAULTS 21: files of /proc have size 0 and content; silence would lose the content."""
    with pytest.raises(SourceError, match="says it is empty"):
        Source(Path("/proc/self/status"))


def _replace(path: Path) -> None:
    random_file(path.with_name("new"), 10, seed=2).replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, 5),
        lambda path: path.write_bytes(bytes(15)),
        lambda path: os.utime(path, ns=(1, 1)),
        _replace,
    ],
)
def test_a_source_that_changed_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """FAULTS 20: shorter, longer, touched or another file: said as such."""
    path = random_file(tmp_path / "x", 10)
    source, digest = Source(path), md5(path)
    assert source.prove_unchanged("md5", digest)
    change(path)
    with pytest.raises(SourceError, match="changed"):
        source.prove_unchanged("md5", digest)
    source.close()


def test_a_source_to_which_bytes_were_added_has_only_grown(tmp_path: Path) -> None:
    """FAULTS 20: a log can be sent: what was there at the start is proven once more."""
    path = random_file(tmp_path / "x", 10)
    source, digest = Source(path), md5(path)
    for _ in range(2):
        with open(path, "ab") as log:
            log.write(b"one more line")
        assert source.prove_unchanged("md5", digest)
    assert source.grew
    os.truncate(path, 5)
    with pytest.raises(SourceError, match="changed"):
        source.prove_unchanged("md5", digest)
    source.close()


def test_a_large_source_that_grew_is_proven_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 20: between two of them the server is answered, which else takes us for dead."""
    monkeypatch.setattr(config, "PROVE_STRETCH", 4)
    path = random_file(tmp_path / "x", 10)
    source, digest = Source(path), md5(path)
    with open(path, "ab") as log:
        log.write(b"one more line")
    assert [source.prove_unchanged("md5", digest) for _ in range(4)] == [False, False, True, True]
    source.close()


def test_a_source_that_grew_and_changed_is_noticed(tmp_path: Path) -> None:
    """FAULTS 20: of a file that was rewritten, and is longer, nothing is vouched for."""
    path = random_file(tmp_path / "x", 10)
    source, digest = Source(path), md5(path)
    with open(path, "r+b") as file:
        file.write(bytes(15))
    with pytest.raises(SourceError, match="changed"):
        source.prove_unchanged("md5", digest)
    source.close()


def test_a_source_that_was_deleted_is_still_sent(tmp_path: Path) -> None:
    """FAULTS 20: what was opened stays readable, and it is what was asked for."""
    path = random_file(tmp_path / "x", 10)
    source = Source(path)
    content = path.read_bytes()
    path.unlink()
    view = bytearray(10)
    source.read(memoryview(view), 0)
    assert source.prove_unchanged("md5", hashlib.md5(content).hexdigest())
    source.close()
    assert view == content


def test_reading_past_a_truncation_is_an_error(tmp_path: Path) -> None:
    """FAULTS 20: never send what is not there."""
    path = random_file(tmp_path / "x", 10)
    source = Source(path)
    os.truncate(path, 5)
    with pytest.raises(SourceError, match="shorter"):
        source.read(memoryview(bytearray(10)), 0)
    source.close()


def test_a_name_that_is_not_utf_8_gets_a_form_that_is(tmp_path: Path) -> None:
    """FAULTS 9: the wire carries UTF-8 only."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.bin"))
    path.write_bytes(b"x")
    source = Source(path)
    assert source.name == "bad\ufffd.bin"
    source.close()


def test_neighbouring_views_are_filled_in_order(tmp_path: Path) -> None:
    """Also where the system reads less than was asked for; a file that ends in them is shorter."""
    data = random_file(tmp_path / "x", 10_000).read_bytes()
    source = Source(tmp_path / "x")
    views = [memoryview(bytearray(size)) for size in (3000, 1, 4000)]
    source.read_run(views, 500)
    assert b"".join(views) == data[500:7501]
    with pytest.raises(SourceError, match="became shorter"):
        source.read_run(views, 4000)
    source.close()


def test_a_read_that_stops_early_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems return what they have; the rest of the run follows."""
    data = random_file(tmp_path / "x", 10_000).read_bytes()
    preadv = os.preadv

    def short(descriptor: int, views: list[memoryview], offset: int) -> int:
        return preadv(descriptor, [view[:1000] for view in views[:1]], offset)

    monkeypatch.setattr(os, "preadv", short)
    source = Source(tmp_path / "x")
    views = [memoryview(bytearray(size)) for size in (2500, 1, 4000)]
    source.read_run(views, 7)
    assert b"".join(views) == data[7:6508]
    source.close()


def test_the_system_is_asked_once_for_each_byte_well_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is busy with writing answers late; nothing is asked for behind the end."""
    path, step, read, asked = tmp_path / "x", 64 * KB, 0, 0
    path.write_bytes(bytes(range(256)) * 8 * KB)  # a hole would not be read
    monkeypatch.setattr(config, "FETCH_AHEAD", 4 * step)
    monkeypatch.setattr(config, "FETCH_STEP", step)

    def fetch(_descriptor: int, offset: int, size: int) -> None:
        nonlocal asked
        assert offset == max(asked, read + step)
        asked = offset + size

    monkeypatch.setattr("lft.client.source.fetch", fetch)
    with contextlib.closing(Source(path)) as source:
        while read < source.size:
            source.read(memoryview(bytearray(step)), read)
            read += step
            assert asked >= min(source.size, read + 3 * step)
        source.read(memoryview(bytearray(step)), 0)  # once more: that is in memory
    assert asked == source.size


def test_a_file_of_one_read_is_not_fetched_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for each of many small files would be for nothing."""
    path = random_file(tmp_path / "x", 10 * KB)
    monkeypatch.setattr("lft.client.source.fetch", pytest.fail)
    with contextlib.closing(Source(path)) as source:
        source.read(memoryview(bytearray(10 * KB)), 0)
