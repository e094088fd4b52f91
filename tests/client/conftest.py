"""A clock and an upload for the client's parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Iterator

import pytest

from lft.client.source import Source
from lft.client.upload import Upload
from protocol import FileReady
from tests.support.files import random_file
from tests.support.waiting import SleepClock


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[Upload]:
    """An upload of three blocks of 4 KB."""
    source = Source(random_file(tmp_path / "x", 3 * 4096))
    yield Upload(source, "md5", 4096, FileReady(7, ()), lambda: None)
    source.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SleepClock:
    """A clock that nobody has to wait for."""
    one = SleepClock()
    monkeypatch.setattr(time, "monotonic", one.monotonic)
    monkeypatch.setattr(time, "sleep", one.sleep)
    return one
