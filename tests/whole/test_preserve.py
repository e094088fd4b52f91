"""Permission bits and times, from the source to the output directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from client import send_files
from config import ClientSettings
from lft.wire.codecs import FEATURES
from protocol import (
    PRESERVE,
    TREES,
    FileStart,
    IntegrityOk,
    ManifestPart,
    Message,
    Rejected,
    RejectedError,
    TransferComplete,
)
from tests.support.directories import make_tree
from tests.support.files import md5, random_file, received
from tests.support.impostor import Impostor
from tests.support.local import ServerThread
from tests.support.processes import ServerProcess, run_client
from tests.support.rawpeer import two_blocks_left
from tests.support.waiting import PATIENCE

TIME = 981_173_106_123_456_789


def special_file(path: Path, size: int = 1000) -> Path:
    """Make a file with set-uid, set-gid and sticky bit and an old time."""
    random_file(path, size)
    os.chmod(path, 0o7755)
    os.utime(path, ns=(TIME, TIME))
    return path


def test_a_file_keeps_its_bits_and_time_and_no_privilege(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Set-uid, set-gid and sticky never travel; sent twice, both files have the rest."""
    source = special_file(tmp_path / "tool.sh")
    for _ in range(2):
        done = run_client(server.port, source, "--preserve", "--json")
        assert done.returncode == 0, done.stderr
        assert '"preserved": true' in done.stdout
    found = [path.stat() for path in received(server.output)]
    assert [(stat.S_IMODE(one.st_mode), one.st_mtime_ns) for one in found] == [(0o755, TIME)] * 2


def test_without_the_option_a_file_is_new(server: ServerProcess, tmp_path: Path) -> None:
    """It has the server's usual rights, is never executable, and has the time of its arrival."""
    done = run_client(server.port, special_file(tmp_path / "tool.sh"), "--json")
    assert '"preserved": false' in done.stdout
    (saved,) = received(server.output)
    assert not saved.stat().st_mode & 0o111
    assert saved.stat().st_mtime_ns != TIME


def test_a_resumed_file_keeps_them(local: ServerThread, tmp_path: Path) -> None:
    """The attempt that ends counts, not the one that began."""
    source = special_file(tmp_path / "x", 1_000_000)
    two_blocks_left(local, source)
    (receipt,) = send_files([source], local.client(preserve=True))
    assert (receipt.resumed_bytes, receipt.preserved) == (2 * 204800, True)
    (saved,) = received(local.output)
    assert md5(saved) == md5(source)
    assert (stat.S_IMODE(saved.stat().st_mode), saved.stat().st_mtime_ns) == (0o755, TIME)


@pytest.mark.parametrize("time", [-1, 0, -1_234_567_890_123_456_789])
def test_a_time_before_1970_is_kept(local: ServerThread, tmp_path: Path, time: int) -> None:
    """To the nanosecond, of a file and of all that is in a directory."""
    top = make_tree(tmp_path / "top", ["a/"])
    (top / "link").symlink_to("x")
    for path in (special_file(top / "x"), top / "link", top / "a", top):
        os.utime(path, ns=(time, time), follow_symlinks=False)
    file, tree = send_files([top / "x", top], local.client(preserve=True))
    assert file.preserved
    assert tree.preserved
    there = local.output / tree.saved_as
    for saved in (local.output / file.saved_as, there, there / "a", there / "x", there / "link"):
        assert saved.lstat().st_mtime_ns == time


def first_words(path: Path, count: int) -> list[Message | None]:
    """Return what a client says first of ``path`` to a server that knows no time before 1970."""
    said: list[Message | None] = []

    def hear(server: Impostor) -> None:
        server.let_in()
        said.extend(server.control.answer(PATIENCE) for _ in range(count))
        server.control.send(Rejected("quota", "enough"))

    impostor = Impostor(hear, [*FEATURES, TREES, PRESERVE])
    with pytest.raises(RejectedError, match="enough"):
        send_files([path], ClientSettings(port=impostor.port, preserve=True))
    impostor.close()
    return said


def test_an_older_server_is_told_no_time_before_1970(tmp_path: Path) -> None:
    """It would refuse it. In a directory, where all has a time, it is 1970."""
    top = make_tree(tmp_path / "top", [])
    for path in (special_file(top / "x"), top):
        os.utime(path, ns=(-1, -1))
    (file,) = first_words(top / "x", 1)
    tree, entries = first_words(top, 2)
    assert isinstance(file, FileStart)
    assert (file.mode, file.mtime) == (0o755, None)
    assert isinstance(tree, FileStart)
    assert tree.mtime == 0
    assert entries == ManifestPart((("f", "x", 1000, 0o755, 0),))


def test_an_old_server_gets_the_file_as_ever_and_the_user_a_warning(tmp_path: Path) -> None:
    """It would refuse a FILE_START with words that it does not know."""
    source, starts = special_file(tmp_path / "x", 0), []

    def old(server: Impostor) -> None:
        starts.append(server.ready())
        said = server.control.answer(PATIENCE)
        assert isinstance(said, TransferComplete)
        server.control.send(IntegrityOk("x", 0, said.digest, 0, True))

    impostor = Impostor(old)
    done = run_client(impostor.port, source, "--preserve")
    impostor.close()
    assert done.returncode == 0, done.stderr
    assert "the server is too old to keep permission bits and times" in done.stderr
    (start,) = starts
    assert isinstance(start, FileStart)
    assert (start.mode, start.mtime) == (None, None)
    assert PRESERVE not in vars(start)
