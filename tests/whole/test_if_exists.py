"""``--if-exists skip``: what is published already is proven to be the same, and not sent."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Callable

import pytest

from client import send_files
from config import ClientSettings
from lft.client.receipt import Receipt
from lft.server.transfer import Transfer
from lft.store.part import Part
from lft.store.partfile import PartFile
from lft.store.trees import PartTree
from lft.wire.codecs import FEATURES
from protocol import ConnectionLostError
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.directories import make_tree
from tests.support.files import part_files, random_file, received
from tests.support.history import noted
from tests.support.impostor import Impostor
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.processes import ServerProcess, run_client

SIZE = 700_001


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with files, an empty one of each kind, and a link."""
    top = make_tree(tmp_path / "top", ["a/b/", "a/empty", "z"])
    random_file(top / "a/file", SIZE)
    (top / "link").symlink_to("a/file")
    return top


def send(local: ServerThread, path: Path, **options: object) -> Receipt:
    """Send a file or directory, unless it is there."""
    (receipt,) = send_files([path], local.client(if_exists="skip", **options))
    return receipt


@pytest.mark.parametrize("kind", ["file", "empty", "directory"])
def test_what_is_there_is_not_sent(local: ServerThread, tree: Path, kind: str) -> None:
    """Also by another digest and in other blocks; nothing is made or changed there."""
    path = {"file": tree / "a/file", "empty": tree / "a/empty", "directory": tree}[kind]
    first = send(local, path)
    before = os.lstat(local.output / first.saved_as)
    again = send(local, path, digest="sha256", block_size=50_000)
    assert (first.skipped, again.skipped) == (False, True)
    assert (again.saved_as, again.sent_bytes) == (first.saved_as, 0)
    after = os.lstat(local.output / first.saved_as)
    assert (after.st_mtime_ns, after.st_mode, after.st_nlink) == (
        before.st_mtime_ns, before.st_mode, after.st_nlink
    )  # fmt: skip
    assert sum(not path.name.endswith(".md5") for path in received(local.output)) == 1
    assert part_files(local.output) == []


def test_without_the_option_it_is_sent_again(local: ServerThread, tree: Path) -> None:
    """The default is to keep both."""
    first = send(local, tree / "a/file")
    (second,) = send_files([tree / "a/file"], local.client())
    assert second.saved_as != first.saved_as
    assert not second.skipped


def test_an_older_copy_is_found_behind_a_newer_one_that_begins_otherwise(
    local: ServerThread, tmp_path: Path
) -> None:
    """The first block tells them apart, where name and size do not."""
    source, was = random_file(tmp_path / "x", SIZE), []
    for first in (b"old", b"new"):
        with open(source, "r+b") as opened:
            opened.write(first)
        was.append(send(local, source))
    with open(source, "r+b") as opened:
        opened.write(b"old")
    again = send(local, source)
    assert (again.skipped, again.saved_as) == (True, was[0].saved_as)


def file_in(place: Path) -> Path:
    """Return the file, or the large one in the directory."""
    return place if place.is_file() else place / "a/file"


def alter(place: Path) -> None:
    """Change a byte of what is there, and not its size."""
    with open(file_in(place), "r+b") as opened:
        opened.seek(SIZE // 2)
        opened.write(b"?")


def replace_by_a_link(place: Path) -> None:
    """Put a link to the very same thing in its place."""
    aside = place.with_name("aside")
    place.rename(aside)
    place.symlink_to(aside)


def remove(place: Path) -> None:
    """Remove it."""
    shutil.rmtree(place) if place.is_dir() else place.unlink()


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("change", [alter, replace_by_a_link, remove])
def test_what_is_not_there_as_it_was_is_sent(
    local: ServerThread, tree: Path, kind: str, change: Callable[[Path], object]
) -> None:
    """In the same run; what was changed stays as it is."""
    path = tree if kind == "directory" else tree / "a/file"
    place = local.output / send(local, path).saved_as
    change(place)
    again = send(local, path)
    assert not again.skipped
    assert again.saved_as != place.name
    file = local.output / again.saved_as / ("a/file" if kind == "directory" else "")
    assert file.read_bytes() == (tree / "a/file").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "new").write_text(""),
        lambda top: (top / "z").unlink(),
        lambda top: ((top / "link").unlink(), (top / "link").symlink_to("z")),
        lambda top: ((top / "z").unlink(), (top / "z").mkdir()),
        lambda top: (top / "a/empty").write_text("x"),
    ],
)
def test_a_directory_in_which_other_things_are_is_sent(
    local: ServerThread, tree: Path, change: Callable[[Path], object]
) -> None:
    """Names, kinds, sizes and targets have to be the same before a byte is compared."""
    first = send(local, tree)
    change(local.output / first.saved_as)
    assert not send(local, tree).skipped


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("change", [alter, lambda place: os.truncate(file_in(place), 5)])
def test_what_changes_while_it_is_compared_is_sent(
    local: ServerThread, tree: Path, kind: str, change: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What was compared first may be other bytes by the end."""
    path = tree if kind == "directory" else tree / "a/file"
    place = local.output / send(local, path).saved_as
    flush_last = Transfer.flush_last

    def flush(transfer: Transfer, part: Part) -> None:
        if part.found:
            change(place)
        flush_last(transfer, part)

    monkeypatch.setattr(Transfer, "flush_last", flush)
    again = send(local, path)
    assert not again.skipped
    assert file_in(local.output / again.saved_as).read_bytes() == file_in(path).read_bytes()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_the_disk_does_not_give_is_sent(
    local: ServerThread, tree: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no reason to refuse the file."""
    path = tree if kind == "directory" else tree / "a/file"
    send(local, path)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for kind_of_part in (PartFile, PartTree):
        monkeypatch.setattr(kind_of_part, "read", fail)
    assert not send(local, path).skipped


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_servers_that_share_a_directory_skip_too(
    start_local: StartLocal, tree: Path, kind: str
) -> None:
    """What one of them has received, another one finds."""
    path = {"file": tree / "a/file", "directory": tree}[kind]
    one, other = start_local(shared=True), start_local(shared=True)
    first = send(one, path)
    noted(one.output)
    again = send(other, path)
    assert (again.skipped, again.saved_as) == (True, first.saved_as)


def test_a_file_of_another_user_will_not_do(start_local: StartLocal, tmp_path: Path) -> None:
    """Whether someone else has it is not for this user to know."""
    local = start_local()
    path = random_file(tmp_path / "file", 1000)
    (first,) = send_files([path], local.client(user="admin"))
    again = send(local, path)
    assert not again.skipped
    assert again.saved_as != first.saved_as


def test_a_quota_that_is_used_up_keeps_nobody_from_what_is_there(
    serve: Serve, tmp_path: Path
) -> None:
    """Nothing is written, so nothing is counted."""
    local = serve({"alice": account(directory="alice", quota=100_000)})
    path = random_file(tmp_path / "file", 60_000)
    first = send(local, path, user="alice", password=PASSWORD)
    again = send(local, path, user="alice", password=PASSWORD)
    assert (again.saved_as, again.skipped) == (first.saved_as, True)


def test_a_server_that_is_too_old_is_sent_all(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """And the user is told."""
    old = Impostor(lambda server: server.let_in(), FEATURES)
    settings = ClientSettings(port=old.port, timeout=0.5, if_exists="skip")
    with pytest.raises(ConnectionLostError):
        send_files([random_file(tmp_path / "file", 10)], settings)
    old.close()
    assert lines(caplog, "too old for --if-exists skip")


def test_the_line_and_the_object_say_so(server: ServerProcess, tmp_path: Path) -> None:
    """On the command line."""
    path = random_file(tmp_path / "file", 1000)
    assert run_client(server.port, path, "--if-exists", "skip").returncode == 0
    again = run_client(server.port, path, "--if-exists", "skip")
    assert "already there" in again.stdout
    told = json.loads(run_client(server.port, path, "--if-exists", "skip", "--json").stdout)
    assert (told["skipped"], told["verdict"]) == (True, "INTEGRITY_OK")


def test_standard_input_is_sent_as_ever_and_the_user_is_told(server: ServerProcess) -> None:
    """What it brings is not known before it is read."""
    done = run_client(server.port, "-", "--if-exists", "skip")
    assert (done.returncode, done.stdout[:12]) == (0, "INTEGRITY_OK")
    assert "--if-exists skip is for files and directories: all of it is sent" in done.stderr
