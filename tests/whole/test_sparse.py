"""Sparse files: sparse at the other end, too, and right in every byte."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client import send_files
from config import BLOCK_SIZE, KB, MB
from lft.client.standard_input import StandardInput
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.files import md5, received
from tests.support.local import ServerThread
from tests.support.rawpeer import RawClient
from tests.support.waiting import eventually


def sparse_file(path: Path, size: int = 100 * MB) -> Path:
    """Make a file with a megabyte in the middle of nothing, and a few bytes here and there."""
    with open(path, "wb") as file:
        file.truncate(size)
        for at, data in ((size // 2, os.urandom(MB)), (3 * BLOCK_SIZE - 1, b"x"), (0, b"start")):
            file.seek(at)
            file.write(data)
    return path


def used(path: Path) -> int:
    """Return the bytes of the disk that a file takes."""
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("options", [{}, {"compress": True}, {"block_size": 4 * MB}])
def test_a_sparse_file_stays_sparse(
    local: ServerThread, tmp_path: Path, options: dict[str, object]
) -> None:
    """The space that was reserved for its blocks of zeros is given back."""
    source = sparse_file(tmp_path / "x")
    send_files([source], local.client(**options))
    (saved,) = received(local.output)
    assert md5(saved) == md5(source)
    assert saved.stat().st_size == 100 * MB
    assert used(saved) <= 12 * MB


def test_a_sparse_file_that_is_resumed_stays_sparse(local: ServerThread, tmp_path: Path) -> None:
    """All of its space is reserved anew: zeros are found again when they are hashed."""
    source = sparse_file(tmp_path / "x", 40 * MB)
    data = source.read_bytes()
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", data, resume=True)
        upload.send(client.attach(), *range(150))
    eventually(lambda: local.server.parts.in_use == 0)
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 150 * BLOCK_SIZE
    (saved,) = received(local.output)
    assert saved.read_bytes() == data
    assert used(saved) <= 3 * MB


def test_zeros_in_place_of_what_an_earlier_attempt_left(
    local: ServerThread, tmp_path: Path
) -> None:
    """35: the source was emptied in its middle meanwhile; the old bytes must not stay."""
    source, data = tmp_path / "x", os.urandom(10 * BLOCK_SIZE)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", data, resume=True)
        upload.send(client.attach(), *range(8))
    eventually(lambda: local.server.parts.in_use == 0)
    source.write_bytes(data[: 2 * BLOCK_SIZE] + bytes(8 * BLOCK_SIZE))
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes > 0
    (saved,) = received(local.output)
    assert saved.read_bytes() == source.read_bytes()
    assert used(saved) <= 2 * BLOCK_SIZE + 64 * KB


def test_a_sparse_file_counts_with_its_size(serve: Serve, tmp_path: Path) -> None:
    """13: a quota is about what a file is, not about what one disk makes of it."""
    local = serve({"alice": account(quota=10 * MB)})
    source = sparse_file(tmp_path / "x", 20 * MB)
    with pytest.raises(Exception, match="left of the quota"):
        send_files([source], local.client(user="alice", password=PASSWORD))


def test_a_hole_that_is_filled_while_it_is_sent_is_noticed(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20: holes are not read, but a change of the file is a change."""
    source = sparse_file(tmp_path / "x", 20 * MB)

    def fill(size: int) -> bytes:
        with open(source, "r+b") as file:
            file.seek(15 * MB)
            file.write(b"changed")
        return bytes(size)

    monkeypatch.setattr("lft.client.source.zeros", fill)
    with pytest.raises(Exception, match="changed while it was sent"):
        send_files([source], local.client())
    assert received(local.output) == []


def test_a_pipe_of_zeros_ends_on_a_disk_that_became_full(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33: its blocks are holes, and the last of them is there: nothing more is needed."""
    ours, theirs = os.pipe()
    monkeypatch.setattr(
        "lft.client.delivery.open_source", lambda path, settings: StandardInput("x", ours)
    )
    real, active = os.statvfs, local.server.admission.active

    def full(path: str) -> os.statvfs_result:
        values = list(real(path))
        values[4] = 0  # f_bavail
        return os.statvfs_result(values)

    with ThreadPoolExecutor(1) as pool, os.fdopen(theirs, "wb") as pipe:
        sending = pool.submit(send_files, ["-"], local.client())
        pipe.write(bytes(100 * BLOCK_SIZE))
        pipe.flush()
        eventually(lambda: any(one.verified_bytes > 80 * BLOCK_SIZE for one in active()))
        monkeypatch.setattr(os, "statvfs", full)
        pipe.close()
        (receipt,) = sending.result()
    os.close(ours)
    (saved,) = received(local.output)
    assert (receipt.bytes, saved.read_bytes()) == (100 * BLOCK_SIZE, bytes(100 * BLOCK_SIZE))
    assert used(saved) <= 64 * KB
