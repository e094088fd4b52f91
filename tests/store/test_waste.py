"""What takes long to remove goes in slices, and the rest at the next start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import config
from lft.manifest import Manifest
from lft.store.journal import TREE, Facts
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL
from lft.store.removal import remove_tree
from lft.store.trees import PartTree
from tests.support.rawtrees import directory, file

FILES = 300


def facts_of(files: int) -> Facts:
    """Return the facts of a directory of empty files in two others."""
    names = [directory(name) for name in "ab"]
    names += [file(f"{'ab'[number % 2]}/{number:05}") for number in range(files)]
    manifest = Manifest(sorted(names, key=lambda entry: entry.path))
    return Facts("u", "t", 0, 4, "md5", "s_t", "", TREE, mode=0o755, manifest=manifest)


def made(store: PartStore, files: int = FILES) -> PartTree:
    """Return a tree of a store with all of its files."""
    part = store.create(facts_of(files))
    assert isinstance(part, PartTree)
    while part.reserve_some(1.0):
        continue
    return part


def left(output: Path) -> int:
    """Return how much there is below ``.partial``."""
    return sum(1 for _ in (output / PARTIAL).rglob("*"))


@pytest.fixture
def _nothing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing go at once."""
    monkeypatch.setattr(config, "REMOVE_AT_ONCE", 1)


@pytest.mark.usefixtures("_nothing_at_once")
def test_a_large_tree_goes_in_slices(output: Path) -> None:
    """Dropping it only begins; each slice takes one entry here, until nothing is left of it."""
    store = PartStore(output)
    store.drop(made(store))
    assert left(output) > FILES
    slices = 0
    while store.waste:
        store.waste.remove_some(0.0)
        slices += 1
    assert slices > FILES
    assert left(output) == 0


def test_a_small_tree_goes_at_once(output: Path) -> None:
    """Nothing of it is left to others."""
    store = PartStore(output)
    store.drop(made(store, 20))
    assert not store.waste
    assert left(output) == 0


@pytest.mark.usefixtures("_nothing_at_once")
def test_the_next_start_goes_on_with_what_a_stop_leaves(output: Path) -> None:
    """It has no journal, so it is of no use: it goes in slices, too."""
    store = PartStore(output)
    store.drop(made(store))
    for _ in range(100):
        store.waste.remove_some(0.0)
    assert 0 < left(output) < FILES
    after = PartStore(output)
    after.scan()
    assert left(output) > 0
    while after.waste:
        after.waste.remove_some(0.01)
    assert left(output) == 0


@pytest.mark.usefixtures("_nothing_at_once")
def test_what_cannot_be_removed_keeps_nothing_else(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk with an error: it is said, and the next tree goes."""
    store, unlink = PartStore(output), os.unlink
    bad, good = made(store, 20), made(store, 30)

    def fail(path: bytes, *, dir_fd: int | None = None) -> None:
        if os.fsencode(path).startswith(bad.stem.encode()) and dir_fd is not None:
            raise OSError(5, "Input/output error")
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", fail)
    store.drop(bad)
    store.drop(good)
    while store.waste:
        store.waste.remove_some(0.01)
    assert f"cannot remove {bad.stem}.tree: Input/output error" in caplog.text
    assert [path.name for path in (output / PARTIAL).iterdir()] == [f"{bad.stem}.tree"]


@pytest.mark.usefixtures("_nothing_at_once")
def test_what_another_server_has_is_left_alone(output: Path) -> None:
    """A tree with a journal is in use: only one without it is waste."""
    store = PartStore(output)
    part = made(store, 20)
    store.waste.note(part.stem)
    assert not store.waste
    store.drop(part)
    assert store.waste


def test_two_may_remove_the_same_tree(tmp_path: Path) -> None:
    """Two servers may find it of no use: what is gone already is no error."""
    for number in range(100):
        folder = tmp_path / "t" / f"d{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).touch()
    folder_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        removals = [remove_tree(b"t", folder_fd) for _ in range(2)]
        while removals:
            removals = [one for one in removals if next(one, 0) is None]
    finally:
        os.close(folder_fd)
    assert list(tmp_path.iterdir()) == []
