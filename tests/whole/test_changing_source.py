"""Sources that change or fail while they are sent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import config
from client import send_files
from lft.client.source import Source
from protocol import SourceError
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread
from tests.support.relays import StartProxy, once


@pytest.mark.parametrize("change", ["truncate", "rewrite and grow", "rewrite"])
def test_a_source_changed_while_it_is_sent_is_said_as_such(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy, change: str
) -> None:
    """20: never a verdict on a mixture, and the session goes on with the next file."""
    source = random_file(tmp_path / "x", 30_000_000)
    good = random_file(tmp_path / "good", 1000)

    def alter(data: bytes) -> bytes:
        if change == "truncate":
            os.truncate(source, 10_000)
        with open(source, "r+b") as file:
            file.write(b"changed")
            file.seek(0, os.SEEK_END)
            file.write(b"and more" if change == "rewrite and grow" else b"")
        return data

    proxy = start_proxy(local.port, once(alter))
    outcomes: list[object] = []
    with pytest.raises(SourceError, match=r"changed|shorter"):
        send_files(
            [source, good],
            local.client(port=proxy.port),
            report=lambda path, outcome: outcomes.append(type(outcome).__name__),
        )
    assert outcomes == ["SourceError", "Receipt"]
    (saved,) = received(local.output)
    assert saved.name.endswith("_good")


@pytest.mark.parametrize("change", ["rewrite", "replace"])
def test_a_change_is_said_while_the_file_is_sent(
    local: ServerThread,
    tmp_path: Path,
    start_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """20: after the last byte of a large file it would cost an hour; what follows is worthless."""
    source, reads, read = random_file(tmp_path / "x", 20_000_000), [], Source.read

    def alter(data: bytes) -> bytes:
        other = random_file(tmp_path / "other", 20_000_000)
        if change == "replace":
            other.replace(source)
        else:
            with open(source, "r+b") as file:
                file.write(b"changed")
        return data

    def note(self: Source, view: memoryview, offset: int) -> None:
        reads.append(offset)
        read(self, view, offset)

    monkeypatch.setattr(Source, "read", note)
    monkeypatch.setattr(config, "LOOK_AT_SOURCE", 0.0)
    proxy = start_proxy(local.port, once(alter))
    with pytest.raises(SourceError, match="changed while it was sent"):
        send_files([source], local.client(port=proxy.port, limit=2_000_000))
    assert max(reads) < 15_000_000


def test_a_log_that_grows_while_it_is_sent_arrives_as_it_was(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """20: the bytes that were there at the start, with a verdict for them, and it is said."""
    source = random_file(tmp_path / "x", 30_000_000)
    before = md5(source)

    def add(data: bytes) -> bytes:
        with open(source, "ab") as log:
            log.write(b"one more line")
        return data

    proxy = start_proxy(local.port, once(add))
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert (receipt.bytes, receipt.digest) == (30_000_000, before)
    assert md5(local.output / receipt.saved_as) == before
    assert "x grew while it was sent: its first 28.6 MB arrived" in caplog.text


def test_sources_that_fail_do_not_use_up_the_buffers(local: ServerThread, tmp_path: Path) -> None:
    """20: after more failures than there are buffers, a good file is still sent."""
    bad = Path("/sys/class/net/lo/mtu")  # says 4096 bytes, has five
    good = random_file(tmp_path / "good", 1_000_000)
    with pytest.raises(SourceError):
        send_files([bad] * 6 + [good], local.client(streams=1))
    assert [md5(path) for path in received(local.output)] == [md5(good)]


def test_a_sparse_file_arrives_with_its_zeros(local: ServerThread, tmp_path: Path) -> None:
    """21: holes are bytes like others."""
    source = tmp_path / "sparse"
    source.write_bytes(b"head")
    os.truncate(source, 5_000_000)
    (receipt,) = send_files([source], local.client())
    assert receipt.digest == hashlib.md5(b"head" + bytes(4_999_996)).hexdigest()
