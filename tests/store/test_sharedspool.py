"""Notes of servers that share a directory, and who takes them over."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable

import pytest

import config
from lft.store.paths import PARTIAL
from lft.store.sharedspool import SharedSpool
from lft.store.spool import Spool
from tests.support.history import entry


@pytest.fixture(autouse=True)
def _unfinished(output: Path) -> None:
    (output / PARTIAL / "stem.part").write_bytes(b"x")


def noted(output: Path, spool: Spool, count: int = 3) -> list[str]:
    """Write some notes."""
    return [spool.add(entry(str(n)), "stem", output / PARTIAL / "stem.part") for n in range(count)]


def running(output: Path, server: str) -> SharedSpool:
    """Return the spool of a server that runs."""
    spool = SharedSpool(output, server)
    spool.open()
    return spool


def folders(output: Path) -> list[str]:
    """Return which servers have a folder for notes."""
    return sorted(path.name for path in (output / PARTIAL).glob("received*"))


def test_what_a_server_leaves_that_runs_no_more_another_one_takes_over(output: Path) -> None:
    """In the order of the files; of the old folder nothing is left."""
    one, two = running(output, "one"), running(output, "two")
    names = noted(output, one)
    one.close()
    assert two.take_over() == names
    assert two.names() == names
    assert two.read(names[0]).entry == entry("0")
    assert folders(output) == ["received-two"]
    two.close()


def test_what_a_server_has_that_runs_stays_with_it(output: Path) -> None:
    """Its lock says so."""
    one, two = running(output, "one"), running(output, "two")
    names = noted(output, one)
    assert two.take_over() == []
    assert one.names() == names
    assert all(map(one.is_ours, names))
    one.close()
    two.close()


def test_a_server_that_was_cut_off_runs_only_what_was_not_taken_over(output: Path) -> None:
    """It gets a new folder, which others find locked."""
    one, two = running(output, "one"), running(output, "two")
    names = noted(output, one)
    lock, one._lock = one._lock, -1  # the file system has given it back
    os.close(lock)
    assert two.take_over() == names
    one._lock = os.open(output / PARTIAL / "lock-of-one", os.O_RDWR | os.O_CREAT)
    assert not any(map(one.is_ours, names))
    later = noted(output, one)
    assert one.take_over() == []
    assert two.take_over() == []
    assert one.names() == later
    one.close()
    two.close()


@pytest.mark.parametrize("shares", [False, True])
def test_servers_alone_and_shared_take_over_from_each_other(output: Path, shares: bool) -> None:
    """Where one runs the others do not."""
    before = Spool(output) if shares else SharedSpool(output, "one")
    before.open()
    names = noted(output, before)
    before.close()
    after = SharedSpool(output, "two") if shares else Spool(output)
    after.open()
    assert after.take_over() == names
    assert folders(output) == ["received-two" if shares else "received"]
    after.close()


@pytest.mark.parametrize(("hours", "taken"), [(0.9, 0), (1.1, 3)])
def test_a_folder_that_no_server_locks_is_taken_over_after_an_hour(
    output: Path, hours: float, taken: int
) -> None:
    """It is of a version that locks none, whose server may run."""
    noted(output, SharedSpool(output, "old"))
    then = time.time() - hours * 3600
    os.utime(output / PARTIAL / "received-old", (then, then))
    two = running(output, "two")
    assert len(two.take_over()) == taken
    two.close()


def test_a_server_that_starts_while_it_is_taken_over_gets_a_new_folder(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had opened is gone from there, and a lock of it would tell nobody anything."""
    one, two = running(output, "one"), running(output, "two")
    names = noted(output, one)
    one.close()
    taken: list[str] = []
    opened: Callable[..., int] = os.open

    def late(path: Path, *rest: int) -> int:
        descriptor = opened(path, *rest)
        monkeypatch.undo()
        taken.extend(two.take_over())
        return descriptor

    monkeypatch.setattr(os, "open", late)
    one.open()
    assert taken == names
    noted(output, one)
    assert two.take_over() == []
    one.close()
    two.close()


def test_two_servers_of_one_name_run_what_either_leaves(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start all the same."""
    monkeypatch.setattr(config, "ALONE_FOR", 0.0)
    one, twin = running(output, "one"), running(output, "one")
    names = noted(output, twin)
    assert one.names() == names
    one.close()
    twin.close()
