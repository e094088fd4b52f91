"""A directory as a source: what is read, and how a change is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest

import config
from config import ClientSettings
from lft.client.trees import ChangedTreeError, Tree
from protocol import SourceError
from tests.support.directories import make_tree
from tests.support.files import open_descriptors, random_file

SETTINGS = ClientSettings()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory with files of all kinds of sizes."""
    made = make_tree(tmp_path / "top", ["a/b/", "a/empty", "z\\w", "tail"])
    (made / "a/empty").write_bytes(b"")
    for number, size in enumerate([0, 1, 4095, 4096, 4097, 300_000, 0, 7]):
        random_file(made / "a" / f"f{number}", size, seed=number)
    return made


@pytest.fixture
def tree(top: Path) -> Iterator[Tree]:
    """That directory, open."""
    with contextlib.closing(Tree(top, SETTINGS)) as one:
        yield one


def whole(tree: Tree) -> bytes:
    """Return what its files should be, one behind the other."""
    top = tree._path
    files = sorted(
        (p for p in top.rglob("*") if p.is_file()), key=lambda p: bytes(p.relative_to(top))
    )
    return b"".join(path.read_bytes() for path in files)


def read(tree: Tree, offset: int, *lengths: int) -> bytes:
    """Read some of it into views of these lengths."""
    views = [memoryview(bytearray(length)) for length in lengths]
    tree.read_run(views, offset)
    return b"".join(views)


def prove(tree: Tree) -> None:
    """Look at all of it again."""
    while not tree.prove_unchanged("md5", ""):
        pass


def test_its_files_are_read_as_one(tree: Tree) -> None:
    """In the order of their paths, wherever a read begins and ends."""
    expected = whole(tree)
    assert tree.size == len(expected)
    chance = random.Random(1)
    for _ in range(200):
        offset = chance.randrange(tree.size)
        lengths = [min(chance.choice([1, 7, 4096, 50_000]), tree.size - offset)]
        while sum(lengths) < tree.size - offset and chance.random() < 0.7:
            lengths.append(min(1000, tree.size - offset - sum(lengths)))
        assert read(tree, offset, *lengths) == expected[offset : offset + sum(lengths)]
        view = memoryview(bytearray(lengths[0]))
        tree.read(view, offset)
        assert view == expected[offset : offset + lengths[0]]
    prove(tree)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_its_hash_is_that_of_what_md5sum_prints(tree: Tree, top: Path, algorithm: str) -> None:
    """So anyone can check it: the files sorted by their paths as bytes."""
    state = tree.new_hash(algorithm)
    state.update(read(tree, 0, tree.size))
    find = f"find * -type f -print0 | LC_ALL=C sort -z | xargs -0 {algorithm}sum"
    sums = subprocess.run(find, shell=True, cwd=top, capture_output=True, check=True).stdout
    assert state.hexdigest() == hashlib.new(algorithm, sums).hexdigest()


def test_only_the_last_file_stays_open(tree: Tree) -> None:
    """Thousands of files need no thousands of descriptors."""
    before = open_descriptors()
    read(tree, 0, tree.size)
    assert open_descriptors() <= before + 1


def _touch(path: Path) -> None:
    os.utime(path, ns=(5, 5))


def _grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def _replace(path: Path) -> None:
    facts = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(bytes(facts.st_size))
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    copy.replace(path)


def _become_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("tail")


@pytest.mark.parametrize("change", [_touch, _grow, _replace, _become_link, Path.unlink])
@pytest.mark.parametrize("first", [True, False])
def test_a_change_is_found_at_the_end_and_named(
    tree: Tree, top: Path, change: Callable[[Path], None], first: bool
) -> None:
    """Whether the file had been read by then or not; what can be read is still read."""
    if first:
        read(tree, 0, tree.size)
    change(top / "a/f5")
    read(tree, 0, tree.size)
    with pytest.raises(ChangedTreeError, match=r"1 entry changed while it was sent: a/f5 \("):
        prove(tree)


def test_what_vanished_is_read_as_zeros_and_the_rest_as_it_is(tree: Tree, top: Path) -> None:
    """So all that changed is known at the end."""
    expected = whole(tree)
    (top / "a/f5").unlink()
    (top / "a/f2").unlink()
    found = read(tree, 0, tree.size)
    assert found != expected
    assert found[-7:] == expected[-7:]
    with pytest.raises(
        ChangedTreeError, match=r"2 entries .* a/f2 \(vanished\), a/f5 \(vanished\)"
    ):
        prove(tree)


def test_a_directory_and_a_link_that_are_gone_are_a_change(tmp_path: Path) -> None:
    """They are a part of what is proven, too."""
    top = make_tree(tmp_path / "top", ["a/"])
    (top / "l").symlink_to("a")
    with contextlib.closing(Tree(top, SETTINGS)) as tree:
        (top / "a").rmdir()
        (top / "l").unlink()
        (top / "l").symlink_to("b")
        with pytest.raises(ChangedTreeError, match=r"a \(vanished\), l \(replaced\)"):
            prove(tree)


def test_what_comes_or_goes_beside_its_entries_is_no_change(tree: Tree, top: Path) -> None:
    """A new file is none of the tree that was announced."""
    (top / "a/new").touch()
    (top / "a/b/new").mkdir()
    prove(tree)


def test_after_a_change_it_is_walked_again(tree: Tree, top: Path) -> None:
    """What is announced then is what there is now."""
    (top / "a/f5").unlink()
    with pytest.raises(ChangedTreeError) as caught:
        prove(tree)
    tree.begin_again(caught.value)
    assert read(tree, 0, tree.size) == whole(tree)
    prove(tree)


def test_what_changes_all_the_time_is_given_up(tree: Tree, top: Path) -> None:
    """After some rounds; the same command goes on later."""
    for _ in range(config.TREE_ROUNDS):
        _grow(top / "tail")
        with pytest.raises(ChangedTreeError) as caught:
            prove(tree)
        tree.begin_again(caught.value)
    _grow(top / "tail")
    with pytest.raises(ChangedTreeError) as caught:
        prove(tree)
    with pytest.raises(SourceError, match=r"tail \(changed\); the same command goes on"):
        tree.begin_again(caught.value)


def test_too_large_a_change_is_given_up_at_once(
    tree: Tree, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To send zeros in place of all that is gone would help nobody."""
    monkeypatch.setattr(config, "TREE_LITTLE", 100_000)
    (top / "a/f5").unlink()
    read(tree, 0, tree.size)
    with pytest.raises(SourceError, match="a/f5"):
        tree.look()


def test_another_error_is_no_reason_to_begin_again(tree: Tree) -> None:
    """It stays what it is."""
    error = SourceError("the disk is broken")
    with pytest.raises(SourceError, match="broken"):
        tree.begin_again(error)


def test_a_sparse_file_in_it_has_its_zeros(tmp_path: Path) -> None:
    """Its holes are not read."""
    top = make_tree(tmp_path / "top", ["a"])
    with open(top / "b", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    with contextlib.closing(Tree(top, SETTINGS)) as tree:
        assert read(tree, 0, *[500_000] * 10, 4) == b"a" + bytes(5_000_000) + b"end"


@pytest.mark.parametrize("path", [".", "../top", "a/.."])
def test_it_has_a_name_of_its_own(top: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the path says."""
    monkeypatch.chdir(top)
    with contextlib.closing(Tree(Path(path), SETTINGS)) as tree:
        assert tree.name == "top"


def test_it_can_be_given_another_name(top: Path) -> None:
    """As a file can."""
    with contextlib.closing(Tree(top, ClientSettings(name="other"))) as tree:
        assert tree.name == "other"


def test_what_cannot_be_sent_is_named_with_its_number(
    top: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line; with ``strict`` that is an error."""
    for number in range(5):
        os.mkfifo(top / f"pipe{number}")
    (top / "l").symlink_to("/")
    with contextlib.closing(Tree(top, SETTINGS)) as tree:
        assert tree.contents.left_out == 6
    (line,) = caplog.messages
    assert "left out, since 6 entries cannot be sent: " in line
    assert "5 pipes (" in line
    assert " and 2 more)" in line
    assert "1 outside link (l)" in line
    with pytest.raises(SourceError, match="6 entries cannot be sent"):
        Tree(top, ClientSettings(strict=True))


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    """A directory that vanished meanwhile, say."""
    with pytest.raises(SourceError, match="No such file"):
        Tree(tmp_path / "gone", SETTINGS)
