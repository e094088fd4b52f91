"""An upload and a link for the client's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from config import ClientSettings
from lft.client.link import Link
from lft.client.source import Source
from lft.client.upload import Upload
from protocol import FileReady
from tests.support.client import link_of
from tests.support.files import random_file


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[Upload]:
    """An upload of three blocks of 4 KB."""
    source = Source(random_file(tmp_path / "x", 3 * 4096))
    yield Upload(source, "md5", 4096, FileReady(7, ()), lambda: None)
    source.close()


@pytest.fixture
def link() -> Link:
    """What a sender shares with others, with a timeout of 30 s; one may send."""
    one = link_of(ClientSettings(timeout=30, streams=1))
    one.streams = 1
    return one
