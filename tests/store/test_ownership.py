"""An output directory has one owner at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
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


def test_a_file_system_without_locks_is_not_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 44: the operator would look for a server that does not run."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UsageError, match="has no locks: No locks available"):
        OutputDirectory(tmp_path)


@pytest.mark.parametrize("what", ["moved", "replaced by a copy"])
def test_a_directory_that_is_not_at_its_path_any_more_is_noticed(tmp_path: Path, what: str) -> None:
    """FAULTS 33: what stands there now is not what part files are written to."""
    path = tmp_path / "out"
    owned = OutputDirectory(path)
    owned.check_in_place()
    path.rename(tmp_path / "elsewhere")
    if what == "replaced by a copy":
        shutil.copytree(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="moved, replaced or unmounted"):
        owned.check_in_place()
    owned.release()
