"""The limits of a user: size, extension, quota, and content that fits the name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import config
from client import send_files
from config import KB
from lft.accounts.account import parse_extensions
from protocol import Rejected, RejectedError
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.files import part_files, random_file, received
from tests.support.local import ServerThread
from tests.support.processes import StartServer, run_client
from tests.support.rawpeer import Peer, push

# --- extensions ---------------------------------------------------------------------------------


def test_extensions_may_be_written_with_and_without_a_dot() -> None:
    """In capitals and with spaces as well."""
    assert parse_extensions("pdf, .TXT,tar.gz") == (".pdf", ".txt", ".tar.gz")
    for text in ("", ",", "a,,b", ".", "a/b", "a b"):
        with pytest.raises(ValueError, match="not extensions"):
            parse_extensions(text)


PNG = b"\x89PNG\r\n\x1a\n"


# --- what a user may send -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "options", "code", "words"),
    [
        ({"allow_ext": (".pdf",)}, {}, "extension", "only .pdf may be sent here"),
        ({}, {"allow_ext": (".pdf", ".zip")}, "extension", "only .pdf, .zip may be sent here"),
        ({"allow_ext": (".txt",)}, {"allow_ext": (".pdf",)}, "extension", "only .pdf"),
        ({"max_file_size": 9}, {}, "size", "10 bytes is more than 9 bytes, the most here"),
        ({"quota": 4095}, {}, "quota", "4096 bytes is more than the 4095 bytes left of the quota"),
        ({}, {"max_file_size": 9}, "size", "10 bytes is more than 9 bytes, the most here"),
        ({"max_file_size": 99}, {"max_file_size": 9}, "size", "9 bytes"),
        ({"max_file_size": 9}, {"max_file_size": 99}, "size", "9 bytes"),
        ({"quota": 9}, {}, "quota", "4.0 KB is more than the 9 bytes left of the quota"),
    ],
)
def test_what_a_user_may_not_send_is_rejected_with_the_reason(
    serve: Serve,
    tmp_path: Path,
    limits: dict[str, Any],
    options: dict[str, Any],
    code: str,
    words: str,
) -> None:
    """13: the server's own limits hold for everyone, of two limits the stricter one."""
    local = serve({"alice": account(**limits)}, **options)
    settings = local.client(user="alice", password=PASSWORD)
    with pytest.raises(RejectedError) as caught:
        send_files([random_file(tmp_path / "x.txt", 10)], settings)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.exit_code == 4
    assert part_files(local.output) == []


def test_what_is_just_allowed_is_taken(serve: Serve, tmp_path: Path) -> None:
    """13: limits that are exactly reached, an extension in capitals."""
    local = serve({"alice": account(max_file_size=10, quota=4 * KB, allow_ext=(".txt", ".log"))})
    settings = local.client(user="alice", password=PASSWORD)
    (receipt,) = send_files([random_file(tmp_path / "X.TXT", 10)], settings)
    assert receipt.verdict == "INTEGRITY_OK"


def test_the_limits_on_the_command_line_are_exit_4(
    start_server: StartServer, tmp_path: Path
) -> None:
    """13: two real processes; a file that may be sent goes on after one that may not."""
    server = start_server("--max-file-size", "1K", "--allow-ext", ".TXT,log")
    large, other = random_file(tmp_path / "l.txt", 2000), random_file(tmp_path / "o.exe", 10)
    done = run_client(server.port, large, other, random_file(tmp_path / "s.log", 10))
    assert done.returncode == 4
    assert "l.txt: rejected: 2.0 KB is more than 1.0 KB, the most here" in done.stderr
    assert "o.exe: rejected: only .txt, .log may be sent here" in done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "REJECTED 2.0 KB is more than 1.0 KB, the most here  l.txt"
    assert second == "REJECTED only .txt, .log may be sent here  o.exe"
    assert third.startswith("INTEGRITY_OK")


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.png", b"no picture"), ("x.PNG", b""), ("x.png", PNG[:7]), ("x.jpg", PNG)],
)
def test_a_file_that_is_not_what_it_says_is_rejected(
    serve: Serve, tmp_path: Path, name: str, content: bytes
) -> None:
    """13: where extensions are restricted, the content has to be what the extension says."""
    local = serve({"alice": account(allow_ext=(".png", ".jpg"))})
    source = tmp_path / name
    source.write_bytes(content)
    with pytest.raises(RejectedError) as caught:
        send_files([source], local.client(user="alice", password=PASSWORD))
    assert caught.value.code == "content"
    assert caught.value.exit_code == 4
    assert received(local.output) == part_files(local.output) == []


def test_a_large_file_that_is_not_what_it_says_is_rejected_early(serve: Serve) -> None:
    """13: its first blocks are enough to refuse it; the rest is never sent."""
    local = serve({"alice": account(allow_ext=(".png",))})
    with Peer(local.port).log_in() as peer:
        upload = peer.start("x.png", bytes(3_000_000))
        data = peer.attach()
        push(data, b"".join(upload.frame(block) for block in range(config.HASH_BATCH)))
        answer = peer.answer()
    assert isinstance(answer, Rejected)
    assert answer.code == "content"


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.png", PNG + b"..."), ("x.dat", b"anything"), ("x.dat", b""), ("x.tar.gz", b"\x1f\x8b")],
)
def test_a_file_that_is_what_it_says_is_taken(
    serve: Serve, tmp_path: Path, name: str, content: bytes
) -> None:
    """13: kinds without a known beginning are taken as well."""
    local = serve({"alice": account(allow_ext=(".png", ".dat", ".tar.gz"))})
    source = tmp_path / name
    source.write_bytes(content)
    (receipt,) = send_files([source], local.client(user="alice", password=PASSWORD))
    assert receipt.verdict == "INTEGRITY_OK"


def test_without_restrictions_a_name_promises_nothing(local: ServerThread, tmp_path: Path) -> None:
    """13: without a restriction, a .png may contain anything."""
    source = random_file(tmp_path / "x.png", 10)
    (receipt,) = send_files([source], local.client())
    assert receipt.verdict == "INTEGRITY_OK"
