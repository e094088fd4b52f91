"""Directories on a file system that folds names and has no links: a real exFAT."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from client import send_files
from config import KB, MB
from lft.manifest import Entry
from protocol import FileReady, IntegrityOk, Rejected
from tests.support.files import part_files, received
from tests.support.local import ServerThread, StartLocal
from tests.support.rawpeer import RawClient
from tests.support.rawtrees import directory, file, link, refused, start_tree
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def tool(*command: str | Path) -> str:
    """Run a program; return what it says."""
    sbin = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        ["env", f"PATH={sbin}", *command], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """Mount an exFAT of some MB; it is gone at the end."""
    image, place = tmp_path / "image", tmp_path / "exfat"
    place.mkdir()
    with open(image, "wb") as made:
        made.truncate(16 * MB)
    tool("mkfs.exfat", image)
    device = tool("losetup", "--find", "--show", image)
    try:
        tool("mount.exfat-fuse", device, place)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
        eventually(lambda: tool("losetup", "--detach", device) == "", "the device to be free")


@pytest.fixture
def folding(start_local: StartLocal, exfat: Path) -> ServerThread:
    """Give a server whose output directory is on it."""
    return start_local(output=exfat / "output")


TWINS: list[tuple[list[Entry], str]] = [
    ([file("Name", 1), file("name", 1)], "'Name' and 'name'"),
    ([directory("\u00c4"), directory("\u00e4")], "'\u00c4' and '\u00e4'"),
    ([directory("D"), file("d", 1)], "'D' and 'd'"),
    ([directory("d"), directory("d/B"), file("d/B/x"), file("d/b")], "'B' and 'b'"),
]


@pytest.mark.parametrize(("entries", "both"), TWINS)
def test_names_that_a_real_file_system_takes_for_one_are_refused(
    folding: ServerThread, entries: list[Entry], both: str
) -> None:
    """Files, directories, and one of each, before a byte is asked for; nothing is left."""
    with RawClient(folding.port).log_in() as client:
        answer = refused(client, entries)
        assert isinstance(answer, Rejected)
        assert answer.reason == f"{both} are one to the server's file system"
        assert part_files(folding.output) == []
        assert isinstance(refused(client, [file("Name"), file("other")]), FileReady)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (link("l", "x"), "'l' is a symbolic link, and the server's file system has none"),
        (file("a:b"), "the server cannot make 'a:b'"),
    ],
)
def test_what_a_real_file_system_cannot_hold_is_refused_by_name(
    folding: ServerThread, entry: Entry, reason: str
) -> None:
    """Before a byte is asked for; a manifest without it is taken."""
    with RawClient(folding.port).log_in() as client:
        answer = refused(client, [entry, file("z")])
        assert isinstance(answer, Rejected)
        assert (answer.code, answer.reason[: len(reason)]) == ("name", reason)
        eventually(lambda: part_files(folding.output) == [], "what was made to go")
        assert isinstance(refused(client, [file("z")]), FileReady)


def test_a_directory_goes_on_there_and_is_published(folding: ServerThread, tmp_path: Path) -> None:
    """Its earlier half is found under the names that the file system shows."""
    source = tmp_path / "Photos"
    (source / "Sub").mkdir(parents=True)
    for number in range(4):
        (source / "Sub" / f"File{number}").write_bytes(os.urandom(10 * KB))
    with RawClient(folding.port).log_in() as client:
        upload, _ = start_tree(client, source, 4 * KB)
        upload.send(client.attach(), *range(6))
    eventually(lambda: folding.server.parts.in_use == 0, "the tree to rest")
    (receipt,) = send_files([source], folding.client(block_size=4 * KB))
    assert receipt.verdict == IntegrityOk.VERB
    assert receipt.resumed_bytes == 6 * 4 * KB
    tree, sums = received(folding.output)
    subprocess.run(["diff", "-r", source, tree], check=True)
    subprocess.run(["md5sum", "--check", "--strict", "--quiet", sums], cwd=tree, check=True)
