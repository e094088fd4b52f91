"""Users' directories: files arrive there, and links lead nowhere else."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from client import send_files
from config import KB
from protocol import FileReady, IntegrityOk, Rejected, RejectedError
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.files import md5, part_files, random_file, received
from tests.support.outputs import lines
from tests.support.processes import StartServer
from tests.support.rawpeer import Peer, RawClient, interrupted


def test_a_user_with_a_directory_writes_there(serve: Serve, tmp_path: Path) -> None:
    """13: the receipt says so, and nothing appears elsewhere."""
    local = serve({"alice": account(directory="team/alice")})
    source = random_file(tmp_path / "x", 10)
    (receipt,) = send_files([source], local.client(user="alice", password=PASSWORD))
    assert receipt.saved_as.startswith("team/alice/server_received_")
    assert md5(local.output / receipt.saved_as) == md5(source)
    assert received(local.output) == []


@pytest.mark.parametrize("directory", ["alice", "alice/deep"])
def test_a_symlink_below_the_output_directory_is_not_followed(
    serve: Serve, tmp_path: Path, directory: str
) -> None:
    """11: a user's directory that leads somewhere else is an error of the disk."""
    local = serve({"alice": account(directory=directory)})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (local.output / "alice").symlink_to(elsewhere)
    settings = local.client(user="alice", password=PASSWORD)
    with pytest.raises(RejectedError) as caught:
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert caught.value.code == "disk"
    assert str(tmp_path) not in str(caught.value)
    assert list(elsewhere.iterdir()) == []


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount file systems; they are gone at the end."""
    mounted: list[Path] = []

    def mounts(place: Path, *options: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *options, str(place)], check=True)
        mounted.append(place)

    yield mounts
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("kind", ["another file system", "bind", "read-only"])
def test_a_directory_that_takes_no_file_is_refused_before_a_byte_is_sent(
    serve: Serve, tmp_path: Path, mount: Callable[..., None], kind: str
) -> None:
    """33: with its name, on both sides; a file sent in full would be refused each time."""
    local = serve({"alice": account(directory="team/alice")})
    (tmp_path / "elsewhere").mkdir()
    options = {
        "another file system": ("-t", "tmpfs", "tmpfs"),
        "bind": ("--bind", str(tmp_path / "elsewhere")),
        "read-only": ("-o", "ro", "-t", "tmpfs", "tmpfs"),
    }
    mount(local.output / "team" / "alice", *options[kind])
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", 10)
    assert isinstance(answer, Rejected)
    assert answer.code == "disk"
    assert "directory team/alice" in answer.reason
    assert part_files(local.output) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EXDEV, "another file system or quota begins at directory alice"),
        (errno.EROFS, "directory alice is read-only"),
        (errno.ENAMETOOLONG, "the name is too long for the file system of directory alice"),
        (errno.EINVAL, "the file system of directory alice does not take the name"),
        (errno.EILSEQ, "the file system of directory alice does not take the name"),
    ],
)
def test_what_a_file_system_refuses_is_said_before_a_byte_is_sent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """33: a project quota, exFAT, an encrypted file system; with the directory's name."""

    opens = os.open

    def refuse_link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def refuse_name(path: Any, *given: Any, **more: Any) -> int:  # where there are no links
        if "erver_received" in str(path):
            refuse_link()
        return opens(path, *given, **more)

    local = serve({"alice": account(directory="alice")})
    monkeypatch.setattr(os, "link", refuse_link)
    monkeypatch.setattr(os, "open", refuse_name)
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", 10)
    assert isinstance(answer, Rejected)
    assert (answer.code, answer.reason) == ("disk", words)
    assert part_files(local.output) == []


def test_a_name_is_as_short_as_its_file_system_wants(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10: an encrypted one takes 143 bytes; the extension is kept."""
    monkeypatch.setattr(os, "pathconf", lambda *_: 143)
    local = serve({"alice": account()})
    source = random_file(tmp_path / f"{'long ' * 40}.mkv", 10)
    (receipt,) = send_files([source], local.client(user="alice", password=PASSWORD))
    assert len(receipt.saved_as) == 143
    assert receipt.saved_as.endswith(".mkv")


def test_a_server_in_an_ascii_locale_takes_any_name(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10: a service has often no locale; the name on the disk is UTF-8 all the same."""
    for variable in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.setenv(variable, "C")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    monkeypatch.setenv("PYTHONUTF8", "0")
    server = start_server()
    with RawClient(server.port).log_in() as client:
        upload = client.start("отчёт.txt", b"x" * 10)
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)
    (saved,) = received(server.output)
    assert os.fsencode(saved.name).endswith("_отчёт.txt".encode())


def test_looking_for_a_bind_mount_leaves_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    """11: the only thing in the user's directory is his file."""
    local = serve({"alice": account(directory="alice")})
    source = random_file(tmp_path / "x", 10)
    send_files([source], local.client(user="alice", password=PASSWORD))
    (only,) = (local.output / "alice").iterdir()
    assert md5(only) == md5(source)


def test_a_users_directory_that_is_a_file_is_a_rejection(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """11 and 13: also where its quota is to be counted; no internal error."""
    local = serve({"alice": account(directory="alice", quota=10 * KB)})
    (local.output / "alice").write_bytes(b"in the way")
    settings = local.client(user="alice", password=PASSWORD)
    with pytest.raises(RejectedError) as caught:
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert caught.value.code == "disk"
    assert lines(caplog, "internal error") == []


def test_nobody_goes_on_with_another_users_file(serve: Serve) -> None:
    """13: the same name and content, and not even the same directory helps."""
    local = serve({"alice": account(directory="both"), "bob": account(directory="both")})
    data = os.urandom(400 * KB)
    interrupted(local, "x", data)
    with Peer(local.port).log_in("bob") as bob:
        answer = bob.ask("x", len(data), head=data[: 200 * KB], resume=True)
    assert isinstance(answer, FileReady)
    assert answer.have == ()
