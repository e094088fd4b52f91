"""An output directory has one owner at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from lft.store.ownership import OutputDirectory
from protocol import UsageError


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    """FAULTS 44: two servers would take each other's part files for their own."""
    first = OutputDirectory(tmp_path)
    with pytest.raises(UsageError, match="another server"):
        OutputDirectory(tmp_path)
    first.release()
    OutputDirectory(tmp_path).release()
