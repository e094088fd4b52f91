"""The walk through a directory: what it finds, what it leaves out."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Iterator, Sequence

import pytest

import config
from lft.client.exclusion import Exclusion
from lft.client.walk import DIRECTORY, TooLargeError, Walk
from tests.support.directories import as_nobody, make_tree, paths_of


@pytest.fixture(autouse=True)
def _open_to_all(tmp_path: Path) -> None:
    """The directories of pytest are for their owner alone."""
    tmp_path.chmod(0o755)


def walk_through(top: Path, patterns: Sequence[str] = ()) -> Walk:
    """Return a walk through ``top``, by a user who has no right to read everything."""
    descriptor = os.open(top, DIRECTORY)
    try:
        with as_nobody():
            return Walk(descriptor, Exclusion(patterns))
    finally:
        os.close(descriptor)


def test_all_is_found_in_the_order_of_the_paths_as_bytes(tmp_path: Path) -> None:
    """A directory comes before what is in it; no order of the file system or the locale counts."""
    make_tree(tmp_path, ["b/x", "b.c", "b-", "Z", "ä/ö", "empty/", "b/y/z", "😀", "\uffee"])
    found = paths_of(walk_through(tmp_path).manifest)
    assert found == sorted(found, key=str.encode)
    assert set(found) >= {"b", "b/x", "b/y", "b/y/z", "empty", "ä/ö", "😀"}
    assert len(found) == 12


def test_sizes_bits_and_times_are_those_of_the_files(tmp_path: Path) -> None:
    """Set-uid, set-gid and sticky bit have no form in a manifest; a time before 1970 has one."""
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    path.chmod(0o7751)
    os.utime(path, ns=(1, 981_173_106_123_456_789))
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", ns=(-5, -5))
    old, entry = walk_through(tmp_path).manifest
    assert (entry.size, entry.mode, entry.mtime) == (5, 0o751, 981_173_106_123_456_789)
    assert old.mtime == -5


def test_links_within_the_tree_are_kept_and_never_followed(tmp_path: Path) -> None:
    """Also those that lead nowhere, or in a circle."""
    make_tree(tmp_path, ["a/x"])
    for name, target in (("l", "a/x"), ("a/up", "../l"), ("nowhere", "b"), ("a/loop", "..")):
        (tmp_path / name).symlink_to(target)
    walk = walk_through(tmp_path)
    assert paths_of(walk.manifest) == ["a", "a/loop", "a/up", "a/x", "l", "nowhere"]
    assert walk.left_out == {}


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", "a/../x", "a/bell\a"])
def test_a_link_that_may_lead_out_is_left_out(tmp_path: Path, target: str) -> None:
    """By its text alone: what is behind it may change."""
    (tmp_path / "l").symlink_to(target)
    walk = walk_through(tmp_path)
    assert walk.left_out == {"outside link": ["l"]}
    assert len(walk.manifest) == 0


def test_what_is_no_file_is_left_out_by_its_kind(tmp_path: Path) -> None:
    """Nothing waits for the other end of a pipe."""
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe2")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
    make_tree(tmp_path, ["file"])
    walk = walk_through(tmp_path)
    found = {reason: sorted(paths) for reason, paths in walk.left_out.items()}
    assert found == {"pipe": ["pipe", "pipe2"], "socket": ["sock"]}
    assert paths_of(walk.manifest) == ["file"]


def test_a_file_of_the_system_that_hides_its_size_is_left_out() -> None:
    """Those of /proc have no size and yet bytes: they would arrive empty."""
    walk = walk_through(Path("/proc/self/net/stat"))
    assert set(walk.left_out) == {"virtual file"}
    assert walk.manifest.files == 0


@pytest.mark.parametrize("name", [b"new\nline", b"\xff", "\u202egpj".encode(), b"esc\x1b[31m"])
def test_a_name_that_a_terminal_would_obey_is_left_out(tmp_path: Path, name: bytes) -> None:
    """With all that is in it: nothing is renamed, since names are part of the proof."""
    below = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(below)
    open(os.path.join(below, b"x"), "wb").close()
    walk = walk_through(tmp_path)
    assert walk.left_out == {"bad name": [os.fsdecode(name)]}
    assert len(walk.manifest) == 0


def test_what_is_too_deep_is_left_out(tmp_path: Path) -> None:
    """What the server would refuse is told by the client, by name."""
    deepest = "/".join("d" * config.MAX_DEPTH)
    make_tree(tmp_path, [f"{deepest}/x"])
    walk = walk_through(tmp_path)
    assert walk.left_out == {"bad name": [f"{deepest}/x"]}
    assert len(walk.manifest) == config.MAX_DEPTH


def test_excluded_directories_are_not_entered(tmp_path: Path) -> None:
    """What cannot be read there is nobody's business."""
    make_tree(tmp_path, ["build/x", "src/build/y", "src/a.o", "src/a.c"])
    (tmp_path / "build").chmod(0)
    walk = walk_through(tmp_path, ["build/", "*.o"])
    (tmp_path / "build").chmod(0o755)
    assert paths_of(walk.manifest) == ["src", "src/a.c"]
    assert (walk.excluded, walk.unreadable) == (3, {})


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file and a directory that we may not read."""
    make_tree(tmp_path, ["open", "secret", "locked/x"])
    (tmp_path / "secret").chmod(0o200)
    (tmp_path / "locked").chmod(0)
    yield tmp_path
    (tmp_path / "locked").chmod(0o700)


def test_what_cannot_be_read_is_found_by_the_walk(closed: Path) -> None:
    """Before a byte is sent, and not when its turn comes."""
    walk = walk_through(closed)
    assert {reason: sorted(paths) for reason, paths in walk.unreadable.items()} == {
        "Permission denied": ["locked", "secret"]
    }


def test_a_walk_ends_where_a_tree_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when memory has run out."""
    monkeypatch.setattr(config, "MAX_TREE_ENTRIES", 3)
    make_tree(tmp_path, ["a", "b", "c", "d"])
    with pytest.raises(TooLargeError, match="more than 3 entries"):
        walk_through(tmp_path)


def test_nothing_stays_open(tmp_path: Path) -> None:
    """Also where directories lie within each other."""
    make_tree(tmp_path, ["a/b/c/d/x"])
    before = len(os.listdir("/dev/fd"))
    walk_through(tmp_path)
    assert len(os.listdir("/dev/fd")) == before
