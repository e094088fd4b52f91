"""A transfer for the server's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from tests.support.files import part_files
from tests.support.transfers import Sample


@pytest.fixture
def sample(output: Path) -> Iterator[Sample]:
    """A transfer of ten blocks."""
    one = Sample(output, 39)
    yield one
    one.transfer.life.end()
    assert part_files(output) == []
