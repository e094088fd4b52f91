"""What is too old goes from a shared directory, and nothing that a server has."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable

import pytest

import config
from lft.store.fenced import FencedPartFile
from lft.store.fencedtree import FencedTree
from lft.store.paths import PARTIAL
from tests.support.files import part_files
from tests.support.partfiles import DATA, facts_of
from tests.support.parttrees import shared_tree
from tests.support.shared import killed, shared_part, shared_store

HOUR = 3600


def age(path: Path, hours: float) -> None:
    """Have a file changed so many hours ago."""
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))


def age_journal(output: Path, stem: str, hours: float) -> None:
    """Have a part file rest for so long, says the disk."""
    age(output / PARTIAL / f"{stem}.journal", hours)


@pytest.mark.parametrize("suffix", [".part", ".journal", ".new"])
@pytest.mark.parametrize(("hours", "stays"), [(0.9, True), (1.1, False)])
def test_half_of_a_part_file_goes_after_an_hour(
    output: Path, suffix: str, hours: float, stays: bool
) -> None:
    """Another server may be about to make the other half."""
    path = output / PARTIAL / f"0123456789abcdef01234567-0123456789abcdef{suffix}"
    path.write_bytes(b"")
    age(path, hours)
    shared_store(output)
    assert path.exists() == stays


def test_what_nfs_keeps_of_a_removed_file_goes_after_an_hour(output: Path) -> None:
    """The machine that had it open is dead."""
    old, new = (output / PARTIAL / f".nfs00000000000{n}" for n in range(2))
    for path, hours in ((old, 1.1), (new, 0.9)):
        path.write_bytes(b"")
        age(path, hours)
    shared_store(output)
    assert not old.exists()
    assert new.exists()


def test_a_new_part_file_without_journal_that_a_server_has_stays(output: Path) -> None:
    """One of unknown size never gets a journal, and may take days."""
    facts = facts_of(4)._replace(unsized=True)
    part = shared_part(output, facts)
    age(output / PARTIAL / f"{part.stem}.part", 30)
    shared_store(output)
    assert len(part_files(output)) == 1
    killed(part)
    shared_store(output)
    assert part_files(output) == []


@pytest.mark.parametrize(("hours", "stays"), [(0.9, True), (1.1, False)])
def test_a_directory_without_journal_goes_after_an_hour(
    output: Path, hours: float, stays: bool
) -> None:
    """Another server may be about to make it, or to remove it."""
    part = shared_tree(output)
    part.close()
    path = output / PARTIAL / f"{part.stem}.tree"
    path.with_suffix(".journal").unlink()
    age(path, hours)
    shared_store(output)
    assert path.exists() == stays


@pytest.mark.parametrize("kind", [shared_part, shared_tree])
@pytest.mark.parametrize("held", [False, True])
def test_what_rests_for_too_long_goes_unless_a_server_has_it(
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: bool,
    kind: Callable[[Path], FencedPartFile | FencedTree],
) -> None:
    """Nothing in it moves: it may be that of a client that goes on just now."""
    monkeypatch.setattr(config, "KEEP_PARTIAL", 0.0)
    part = kind(output)
    if not held:
        part.close()
    shared_store(output)
    assert bool(part_files(output)) == held
    part.remove()


def test_a_step_of_the_clock_removes_nothing_at_once(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part file has to be seen for an hour, however old the disk says it is."""
    part = shared_part(output)
    part.close()
    age_journal(output, part.stem, 24 * 365)
    store = shared_store(output)
    assert len(part_files(output)) == 1
    monkeypatch.setattr(config, "KEEP_AFTER_START", 0.0)
    store.expire()
    assert part_files(output) == []


def test_what_a_client_has_gone_on_with_is_new_again(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server has written to its journal since the last look."""
    monkeypatch.setattr(config, "KEEP_AFTER_START", 0.0)
    part = shared_part(output)
    part.close()
    age_journal(output, part.stem, 24)
    store = shared_store(output)
    age_journal(output, part.stem, 0)
    store.expire()
    assert len(part_files(output)) == 1
    age_journal(output, part.stem, 24 * 8)
    store.expire()
    assert part_files(output) == []


def test_an_answer_is_kept_for_an_hour(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published file stays."""
    monkeypatch.setattr(config, "KEEP_AFTER_START", 0.0)
    part = shared_part(output)
    place = part.publish()
    part.close()
    store = shared_store(output)
    assert len(part_files(output)) == 1
    age_journal(output, part.stem, 1.1)
    store.expire()
    assert part_files(output) == []
    assert (output / place).read_bytes() == DATA


def test_of_too_many_unfinished_files_of_a_user_the_oldest_go(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of other users, and what a server has, stay."""
    monkeypatch.setattr(config, "MAX_PARTS_OF_USER", 2)
    parts = [shared_part(output, facts_of(len(DATA), name=f"x{n}")) for n in range(5)]
    other = shared_part(output, facts_of(len(DATA))._replace(user="other"))
    for number, part in enumerate([*parts, other]):
        age_journal(output, part.stem, 10 - number)
    for part in [*parts[1:], other]:
        part.close()
    shared_store(output)
    left = {path.stem for path in part_files(output)}
    assert left == {part.stem for part in (parts[0], *parts[3:], other)}
    parts[0].remove()
