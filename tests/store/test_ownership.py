"""An output directory has one owner at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest

import config
from lft.store.ownership import OutputDirectory
from lft.store.paths import COUNTERS, PARTIAL
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


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_a_server_that_shares_and_one_that_does_not_never_run_together(
    tmp_path: Path, first: bool, second: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only servers that lock part files may see each other's."""
    monkeypatch.setattr(config, "ALONE_FOR", 0.0)
    owned = OutputDirectory(tmp_path, shared=first)
    with pytest.raises(UsageError, match="another server"):
        OutputDirectory(tmp_path, shared=second)
    owned.release()
    OutputDirectory(tmp_path, shared=second).release()


def test_servers_that_share_run_together(tmp_path: Path) -> None:
    """Each of them keeps out one that does not share, also when the others have ended."""
    servers = [OutputDirectory(tmp_path, shared=True) for _ in range(3)]
    for one in servers[:2]:
        one.release()
    with pytest.raises(UsageError, match="another server"):
        OutputDirectory(tmp_path)
    servers[2].release()


def test_two_that_start_at_the_same_time_both_start(tmp_path: Path) -> None:
    """The first one is alone for a moment, in which it has the directory for itself."""
    (tmp_path / PARTIAL).mkdir()
    lock = os.open(tmp_path / PARTIAL / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    timer = threading.Timer(0.1, fcntl.flock, (lock, fcntl.LOCK_SH))
    timer.start()
    OutputDirectory(tmp_path, shared=True).release()
    timer.join()
    os.close(lock)


def test_who_starts_alone_counts_anew(tmp_path: Path) -> None:
    """A server without --shared may have been there, which keeps no counters up to date."""
    counters = tmp_path / PARTIAL / COUNTERS
    counters.mkdir(parents=True)
    (counters / "x").write_text("")
    first = OutputDirectory(tmp_path, shared=True)
    assert list(counters.iterdir()) == []
    (counters / "x").write_text("")
    OutputDirectory(tmp_path, shared=True).release()
    assert list(counters.iterdir()) != []
    first.release()
