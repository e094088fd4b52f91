"""Files that are published together: one flush for all that have waited for the same place."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Iterator

import pytest

import config
import lft.syncfs
from client import send_files
from lft.client.receipt import Receipt
from lft.store.partfile import PartFile
from protocol import RejectedError, TransferError
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread
from tests.support.partfiles import facts_of
from tests.support.waiting import eventually

FILES = 6


class Gate:
    """Holds the flush of the first file until all others wait for its place."""

    def __init__(self, server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alone: list[str] = []  # names of files that were flushed by themselves
        self.together: list[int] = []  # how many files each common flush was for
        self.error: OSError | None = None
        self._places = server.server.verification._publishing._places
        self._lock = threading.Lock()
        self._flush, self._flush_together = PartFile.flush, lft.syncfs.flush_together
        monkeypatch.setattr(PartFile, "flush", lambda part, *rest: self.flush(part, *rest))  # noqa: PLW0108  (it binds the part)
        monkeypatch.setattr(lft.syncfs, "flush_together", self.flush_together)

    def flush(self, part: PartFile, proven: int = 0) -> None:
        """Flush one file; the first one only when all others wait."""
        with self._lock:
            self.alone.append(part.facts.name)
            first = len(self.alone) == 1
        if first:
            eventually(lambda: len(self._places._waiting) == FILES - 1)
        self._flush(part, proven)

    def flush_together(self, descriptor: int, files: int) -> bool:
        """Flush many, or fail."""
        self.together.append(files)
        if self.error:
            raise self.error
        return self._flush_together(descriptor, files)


@pytest.fixture
def gate(local: ServerThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A server that publishes in one place, and holds the first file there."""
    places = local.server.verification._publishing._places
    monkeypatch.setattr(places, "_free", 1)
    monkeypatch.setattr(config, "DIRTY_FOR_FILE", 2**40)
    yield Gate(local, monkeypatch)
    eventually(lambda: places._free == 1, "the place to be given back")


def test_small_files_that_wait_are_flushed_with_one_call(
    gate: Gate, local: ServerThread, tmp_path: Path
) -> None:
    """All arrive; only the first one is flushed by itself."""
    sources = [random_file(tmp_path / f"{number}", 10_000) for number in range(FILES)]
    send_files(sources, local.client())
    assert gate.together == [FILES - 1]
    assert len(gate.alone) == 1
    assert sorted(map(md5, received(local.output))) == sorted(map(md5, sources))


def test_large_files_are_flushed_by_themselves(
    gate: Gate, local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No small file waits for the megabytes of others."""
    monkeypatch.setattr(config, "SHARES_FLUSH", 9_999)
    sources = [random_file(tmp_path / f"{number}", 10_000) for number in range(FILES)]
    send_files(sources, local.client())
    assert gate.together == []
    assert len(gate.alone) == FILES


def test_an_error_of_a_common_flush_ends_all_of_its_files(
    gate: Gate, local: ServerThread, tmp_path: Path
) -> None:
    """The system does not say which it was about; none is published, and all come anew."""
    sources = [random_file(tmp_path / f"{number}", 10_000) for number in range(FILES)]
    gate.error = OSError(errno.EIO, os.strerror(errno.EIO))
    outcomes: list[Receipt | TransferError] = []
    with pytest.raises(RejectedError, match="cannot write"):
        send_files(sources, local.client(), report=lambda _path, one: outcomes.append(one))
    assert sum(isinstance(one, RejectedError) for one in outcomes) == FILES - 1
    assert len(received(local.output)) == 1
    gate.error = None
    gate.alone.append("so that none is held")
    send_files(sources, local.client())
    assert len(received(local.output)) == 1 + FILES


def test_a_file_that_goes_on_is_flushed_by_itself(output: Path) -> None:
    """No descriptor of ours would tell the errors of what an earlier attempt wrote."""
    facts = facts_of(10_000)
    part = PartFile.create(output, facts)
    assert part.made_at > 0
    part.close()
    part.reopen(facts)
    assert part.made_at == 0
    part.remove()
