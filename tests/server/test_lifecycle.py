"""A transfer from admission to its end, whatever happens to its client."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

import config
from client import send_files
from config import KB
from lft.server.lifecycle import rejection
from lft.server.receiving import Receiving
from lft.server.transfer import Transfer
from lft.server.verification import Verification
from protocol import (
    Cancel,
    FileReady,
    FileStart,
    IntegrityOk,
    Message,
    Queued,
    Rejected,
    TransferError,
)
from tests.support.accounts import VERIFIER, Serve
from tests.support.files import part_files, random_file
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.processes import still_serves
from tests.support.rawpeer import ANY_MD5, Peer, RawClient, interrupted
from tests.support.waiting import PATIENCE, eventually


def test_a_stopping_server_turns_waiting_transfers_away(start_local: StartLocal) -> None:
    """38: only what runs may use the grace period."""
    local = start_local(max_active=1, grace=3600.0)
    with RawClient(local.port).log_in() as client, RawClient(local.port).log_in() as waiting:
        upload = client.start("x", b"x" * 10)
        assert isinstance(
            waiting.control.call(FileStart("y", 1, 4096, "md5", ANY_MD5, False), PATIENCE), Queued
        )
        local.server.stop()
        answer = waiting.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "shutdown"
        assert isinstance(client.control.call(Cancel(), PATIENCE), Rejected)
        assert upload.number


def test_what_a_vanished_client_sent_is_kept(local: ServerThread) -> None:
    """39: without the coordinator the transfer ends; its part file rests for a resume."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(500_000))
        upload.send(client.attach(), 1)
    eventually(lambda: local.server.parts.in_use == 0)
    assert len(part_files(local.output)) == 1


def test_a_client_that_vanishes_before_its_first_block_leaves_nothing(local: ServerThread) -> None:
    """39: reserved space that holds nothing is given back."""
    with RawClient(local.port).log_in() as client:
        client.start("x", os.urandom(500_000))
        assert len(part_files(local.output)) == 1
    eventually(lambda: part_files(local.output) == [])


def test_a_file_that_the_file_system_cannot_hold_is_not_a_full_disk() -> None:
    """FAULTS 12: to make room would not help."""
    answer = rejection(OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
    assert (answer.code, answer.reason) == (
        "size", "the file is too large for the server's file system"
    )  # fmt: skip


def test_the_log_names_a_saved_file_before_its_client_hears_of_it(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that reads the log finds the line when the client has its verdict."""
    logged, tell = [], local.server.lifecycle._tell

    def note(transfer: Transfer, message: Message) -> None:
        if isinstance(message, IntegrityOk):
            logged.append(f"saved {message.saved_as}" in caplog.text)
        tell(transfer, message)

    caplog.set_level("INFO")
    monkeypatch.setattr(local.server.lifecycle, "_tell", note)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", b"x" * 10)
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)
    assert logged == [True]


@pytest.mark.parametrize("method", ["_store", "complete", "verify_blocks"])
def test_a_bug_in_a_worker_hurts_only_its_transfer(
    start_local: StartLocal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    """45: logged, answered or timed out, nothing leaked; later transfers work."""
    source = random_file(tmp_path / "x", 1_000_000)
    local = start_local()
    with monkeypatch.context() as patch:
        kind = Receiving if method == "_store" else Verification
        patch.setattr(kind, method, lambda *_, **__: 1 / 0)
        patch.setattr(config, "RETRY_LONGEST", 0.1)
        patch.setattr(config, "PATIENCE", 2)
        with pytest.raises(TransferError):
            send_files([source], local.client(timeout=1.0))
    assert "ZeroDivisionError" in caplog.text
    eventually(lambda: local.server.parts.in_use == 0)
    still_serves(local.port, tmp_path)


def test_one_user_cannot_fill_the_queue(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """30: further transfers of that user are rejected, others are taken."""
    monkeypatch.setattr(config, "MAX_TRANSFERS_OF_USER", 2)
    local = serve({"alice": VERIFIER, "bob": VERIFIER}, max_active=1)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(local.port)).log_in() for _ in range(3)]
        peers[0].start("receives", b"x")
        peers[1].control.send(FileStart("waits", 1, 200 * KB, "md5", "0" * 32, False))
        assert isinstance(peers[1].control.answer(PATIENCE), Queued)
        answer = peers[2].ask("is too many", 1)
        assert isinstance(answer, Rejected)
        assert answer.code == "busy"
        bob = stack.enter_context(Peer(local.port)).log_in("bob")
        bob.control.send(FileStart("bob's", 1, 200 * KB, "md5", "0" * 32, False))
        assert isinstance(bob.control.answer(PATIENCE), Queued)


def test_of_too_many_unfinished_files_the_oldest_goes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """30: of that user only; the newer ones can still be resumed."""
    monkeypatch.setattr(config, "MAX_PARTS_OF_USER", 2)
    local = serve({"alice": VERIFIER, "bob": VERIFIER})
    data = os.urandom(400 * KB)
    interrupted(local, "bob's", data, "bob")
    interrupted(local, "oldest", data)
    interrupted(local, "older", data)
    with Peer(local.port).log_in() as peer:
        upload = peer.start("newest", data)
        upload.send(peer.attach(), 0)
    eventually(lambda: lines(caplog, "removing oldest of alice"), "the oldest to go")
    for user, name, have in (
        ("bob", "bob's", ((0, 1),)),
        ("alice", "oldest", ()),
        ("alice", "older", ((0, 1),)),
        ("alice", "newest", ((0, 1),)),
    ):
        with Peer(local.port).log_in(user) as peer:
            answer = peer.ask(name, len(data), head=data[: 200 * KB], resume=True)
            assert isinstance(answer, FileReady)
            assert (name, answer.have) == (name, have)
            peer.control.call(Cancel(), PATIENCE)
