"""The manifest of a directory: what it takes and refuses, and where each of its files lies."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from lft.manifest import Entry, Kind, Manifest, entry_of, parts_of
from lft.wire.frames import encode
from protocol import MAX_CONTROL_FRAME, MAX_FILE_SIZE
from tests.support.generated import quick

FILE, DIRECTORY, LINK = Kind.FILE, Kind.DIRECTORY, Kind.LINK


def directory(path: str) -> Entry:
    return Entry(DIRECTORY, path, mode=0o755, mtime=1)


def file(path: str, size: int = 0) -> Entry:
    return Entry(FILE, path, size, 0o644, 2)


def link(path: str, target: str, mtime: int = 3) -> Entry:
    return Entry(LINK, path, target=target, mtime=mtime)


def test_a_manifest_gives_back_what_it_was_given() -> None:
    """Entries of each kind come back with all that was said of them."""
    entries = [directory("a"), file("a-b", 3), link("a/l", "../a-b"), file("ä", 7)]
    manifest = Manifest(entries)
    assert list(manifest) == entries
    assert (len(manifest), manifest.files, manifest.size) == (4, 2, 10)
    assert [manifest.path(index) for index in manifest.of_kind(LINK)] == [b"a/l"]
    assert [manifest.find(path) for path in (b"a/l", b"a/m", b"")] == [2, None, None]


REFUSED = [
    ([file("../x")], "no name of a file"),
    ([file("a/../b")], "no name of a file"),
    ([file("/x")], "no name of a file"),
    ([file("x/")], "no name of a file"),
    ([file("")], "has 1 to 3,000 bytes"),
    ([file(".")], "no name of a file"),
    ([file("a\0b")], "a terminal hides or obeys"),
    ([file("a\nb")], "a terminal hides or obeys"),
    ([file("a\x1b[2J")], "a terminal hides or obeys"),
    ([file("\u202egpj.exe")], "a terminal hides or obeys"),
    ([file("\udcff")], "a terminal hides or obeys"),
    ([file("n" * 256)], "no name of a file"),
    ([file("ä" * 128)], "no name of a file"),
    ([directory("a"), directory("a")], "it is there twice"),
    ([file("b"), file("a")], "it is out of order"),
    ([directory("a"), file("a/b"), file("a-b")], "it is out of order"),
    ([file("a/b")], "no directory of this tree"),
    ([file("a"), file("a/b")], "no directory of this tree"),
    ([directory("d"), link("l", "d"), file("l/x")], "no directory of this tree"),
    ([link("l", "/etc/passwd")], "leads out of the tree"),
    ([link("l", "..")], "leads out of the tree"),
    ([directory("a"), link("a/l", "../../x")], "leads out of the tree"),
    ([directory("a"), link("a/l", "b/../../..")], "leads out of the tree"),
    ([directory("a"), link("a/l", "."), link("a/m", "l/..")], "leads out of the tree"),
    ([link("l", "")], "a link to no path"),
    ([link("l", "a\0")], "a link to no path"),
    ([link("l", "a/" * 1501)], "a link to no path"),
    ([file("a", MAX_FILE_SIZE), file("b", 1)], "larger together than a file can be"),
    ([file("a", -1)], "larger together than a file can be"),
    ([Entry(FILE, "a", 0, 0o4755)], "such permission bits"),
    ([Entry(DIRECTORY, "a", 0, 0o755, -(2**63) - 1)], "such permission bits, or such a time"),
]


@pytest.mark.parametrize(("entries", "reason"), REFUSED)
def test_what_no_tree_can_have_is_refused_by_name(entries: list[Entry], reason: str) -> None:
    """The reason names the entry, in characters that are safe to show."""
    with pytest.raises(ValueError, match=reason) as caught:
        Manifest(entries)
    assert str(caught.value).isprintable()


TAKEN = [
    "a:b",
    "a\\b",
    "CON",
    ".hidden",
    "-rf",
    "end.",
    "end ",
    "\u00a0",
    "日本語",
    "😀",
    "a" * 255,
]


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_that_is_only_odd_is_taken_as_it_is(name: str) -> None:
    """The proof is about names as well: none is changed to make it harmless."""
    assert [entry.path for entry in Manifest([file(name)])] == [name]


LINKS = [("l", "."), ("l", "x"), ("a/l", ".."), ("a/l", "../x/y"), ("a/l", "./b//c/"), ("l", "...")]


@pytest.mark.parametrize(("path", "target"), LINKS)
def test_a_link_to_a_place_in_the_tree_is_taken(path: str, target: str) -> None:
    """Whether anything is there does not matter."""
    assert Manifest([directory("a"), link(path, target)])[1].target == target


def test_depth_and_number_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 levels are refused at the first that is too deep, and one entry too many by number."""
    deep = [directory("/".join("d" * depth)) for depth in range(1, 2001)]
    assert len(Manifest(deep[: config.MAX_DEPTH])) == config.MAX_DEPTH
    with pytest.raises(ValueError, match="deeper than 128"):
        Manifest(deep)
    monkeypatch.setattr(config, "MAX_TREE_ENTRIES", 2)
    with pytest.raises(ValueError, match="'c': more than 2 entries"):
        Manifest([file("a"), file("b"), file("c")])


def test_the_bytes_of_all_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets of links count as well."""
    monkeypatch.setattr(config, "MAX_MANIFEST_BYTES", 10)
    with pytest.raises(ValueError, match="'c': the names have more than 10 bytes"):
        Manifest([link("a", "x" * 5), link("b", "x" * 5), file("c")])


def test_a_hundred_thousand_entries_take_no_quadratic_time() -> None:
    """All in one directory, each is looked up and made in a moment: about 1 s in all."""
    began = time.process_time()
    manifest = Manifest([directory("d"), *(file(f"d/{n:06}", 1) for n in range(100_000))])
    assert sum(1 for _ in manifest.segments(0, manifest.size)) == 100_000
    assert time.process_time() - began < 20


@quick
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 60), st.integers(0, 60))
def test_any_stretch_falls_into_the_files_that_it_touches(
    sizes: list[int], offset: int, length: int
) -> None:
    """Each byte of a stretch is in the file, and at the place, where the whole has it."""
    manifest = Manifest(file(f"{n:02}", size) for n, size in enumerate(sizes))
    whole = [(n, at) for n, size in enumerate(sizes) for at in range(size)]
    found = [
        (part.entry, part.offset + at)
        for part in manifest.segments(offset, length)
        for at in range(part.length)
    ]
    assert found == whole[offset : offset + length]
    assert all(part.length for part in manifest.segments(offset, length))


def test_entries_cross_the_wire_in_frames_that_fit() -> None:
    """The longest paths there are, and many short ones: in order, in frames that fit."""
    long = "/".join(["\\" * 250] * 11)
    entries = [directory("/".join(["\\" * 250] * n)) for n in range(1, 12)]
    entries += [link(f"{long}/{n}", "ä" * 1500) for n in range(9)]
    entries += [file(f"{n:05}", n) for n in range(3000)]
    entries.sort(key=lambda entry: entry.path.encode())
    parts = list(parts_of(Manifest(entries)))
    assert [entry_of(raw) for part in parts for raw in part.entries] == entries
    assert max(len(encode(part)) for part in parts) <= MAX_CONTROL_FRAME
    assert 2 < len(parts) < 12
