"""Files and directories by descriptors, without a server."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Iterator

import pytest

from lft.web.folders import (
    AbsentError,
    Listing,
    Order,
    Page,
    is_within,
    open_file,
    open_folder,
    split_path,
)


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def list_page(folder: int, after: str, limit: int, order: Order) -> Page:
    """Return a page, however many steps that takes."""
    listing = Listing(folder, after, limit, order)
    try:
        return next(page for page in iter(listing.go_on, 0) if isinstance(page, Page))
    finally:
        listing.close()


def names(root: int, *parts: str, limit: int = 100, order: str = "name") -> list[str]:
    """Return all names of a directory, page by page."""
    found, after = [], ""
    with open_folder(root, parts) as folder:
        while True:
            page = list_page(folder, after, limit, Order.parse(order))
            found += [entry.name for entry in page.entries]
            if page.next is None:
                return found
            after = page.next


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", ".partial/x", "a/.hidden", "x\0",
             ".", "a/./b", "a/" * 200 + "b"],
)  # fmt: skip
def test_ways_out_of_the_directory_are_no_paths(path: str) -> None:
    """Nor are the server's own files; the answer is that of a file that is not there."""
    with pytest.raises(AbsentError):
        split_path(path)


def test_a_directory_is_not_one_that_begins_alike() -> None:
    """/ann is not /annex."""
    assert is_within(("ann", "x"), ("ann",))
    assert is_within(("ann",), ("ann",))
    assert not is_within(("annex", "x"), ("ann",))
    assert not is_within((), ("ann",))


def test_a_symlink_as_leaf_is_neither_listed_nor_opened(tmp_path: Path, root: int) -> None:
    """Even one that leads to a file of the same directory."""
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    assert names(root) == ["real"]
    with pytest.raises(AbsentError):
        open_file(root, ("link",))


def test_a_symlink_as_ancestor_is_neither_listed_nor_opened(tmp_path: Path, root: int) -> None:
    """A directory that is a link may lead anywhere."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    assert names(root) == ["real"]
    with pytest.raises(AbsentError):
        open_file(root, ("link", "x"))
    with pytest.raises(AbsentError), open_folder(root, ("link",)):
        pass


def test_only_files_and_directories_are_listed_and_opened(tmp_path: Path, root: int) -> None:
    """A FIFO, a socket and what is hidden are left alone, and none is waited for."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / ".partial").mkdir()
    (tmp_path / "dir").mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(tmp_path)
        try:
            sock.bind("socket")
        finally:
            os.chdir(here)
        assert names(root) == ["dir"]
        for name in ("fifo", "socket", "dir", "absent", "x" * 300, "bad\udcff"):
            with pytest.raises(AbsentError):
                open_file(root, (name,))


def test_no_descriptor_is_left_open(tmp_path: Path, root: int) -> None:
    """Not of a path that ends early either."""
    (tmp_path / "a").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for parts in ((), ("a",), ("a", "b", "c"), ("x",)):
        with pytest.raises(AbsentError):
            open_file(root, parts)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("order", ["name", "-name", "size", "-size", "time", "-time"])
def test_pages_have_each_entry_once_in_order(tmp_path: Path, root: int, order: str) -> None:
    """However many have the same size or time, and although files come meanwhile."""
    for number in range(23):
        path = tmp_path / f"f{number:02}"
        path.write_bytes(bytes(number % 3))
        os.utime(path, ns=(0, 10**18 + number % 4))
    (tmp_path / "dir").mkdir()
    os.utime(tmp_path / "dir", ns=(0, 10**18))
    found = names(root, limit=5, order=order)
    assert len(found) == len(set(found)) == 24

    def key(name: str) -> tuple[int, str]:
        facts = (tmp_path / name).stat()
        size = 0 if name == "dir" else facts.st_size
        return {"n": 0, "s": size, "t": facts.st_mtime_ns}[order.lstrip("-")[0]], name

    assert found == sorted(found, key=key, reverse=order.startswith("-"))


def test_names_that_no_url_can_say_are_left_out(tmp_path: Path, root: int) -> None:
    """No name that this server gives is like that."""
    for name in (os.fsdecode(b"a\xff"), "a\nb", "\x7f", "\u202e", "na\u00efve"):
        (tmp_path / name).touch()
    assert names(root, limit=1) == ["na\u00efve", "\u202e"]


@pytest.mark.parametrize(
    "after", ["x", "bnVsbA", "W10", "WzEsMl0", "\u00e4", "Ilx1ZDgwMCI", "WzFd", "MQ"]
)
def test_a_cursor_that_is_none_is_refused(root: int, after: str) -> None:
    """And raises nothing but ``ValueError``."""
    with open_folder(root, ()) as folder, pytest.raises(ValueError, match="after must"):
        list_page(folder, after, 1, Order())


def test_a_page_of_a_directory_with_many_entries_is_quick(tmp_path: Path, root: int) -> None:
    """Only the page's own files are looked at one by one; no step takes long."""
    first = tmp_path / "f000000"
    first.touch()
    for number in range(1, 20_000):
        os.link(first, tmp_path / f"f{number:06}")
    with open_folder(root, ()) as folder:
        page, steps = None, []
        listing = Listing(folder, "", 200, Order())
        while page is None:
            began = time.thread_time()
            page = listing.go_on()
            steps.append(time.thread_time() - began)
        listing.close()
    assert [entry.name for entry in page.entries] == [f"f{number:06}" for number in range(200)]
    assert sum(steps) < 1.0
    assert max(steps) < 0.1
