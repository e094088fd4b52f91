"""What the history says of each way in which a file can end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import config
from client import send_files
from config import KB
from lft.server.ledger import Ledger
from lft.store.history import Outcome
from lft.store.paths import PARTIAL
from protocol import (
    Cancel,
    FileStart,
    IntegrityFailed,
    IntegrityOk,
    Queued,
    Rejected,
)
from tests.support.accounts import VERIFIER, Serve
from tests.support.files import md5, random_file, received
from tests.support.history import entries, noted
from tests.support.local import ServerThread, StartLocal
from tests.support.programs import script
from tests.support.rawpeer import ANY_MD5, Peer, RawClient, interrupted
from tests.support.waiting import PATIENCE


def test_a_file_that_arrived_is_noted_with_all_that_is_known_of_it(
    local: ServerThread, tmp_path: Path
) -> None:
    """Who, what, where it stands, how long it took, and what came over the wire."""
    source = random_file(tmp_path / "x.bin", 500_000)
    send_files([source], local.client())
    (one,) = noted(local.output)
    (place,) = received(local.output)
    assert one == Outcome(
        one.ended, "received", "user1", "x.bin", 500_000, place.name, md5(source), "md5",
        one.seconds, 500_000, address="127.0.0.1", door="wire", proof="client-digest",
    )  # fmt: skip
    assert 0 <= one.seconds < PATIENCE
    assert place.stat().st_mtime == pytest.approx(one.ended / 1e6, abs=PATIENCE)


def test_what_an_earlier_attempt_left_is_noted_as_resumed(serve: Serve) -> None:
    """The second attempt brings the rest; the first one is noted as interrupted."""
    local = serve({"alice": VERIFIER})
    data = os.urandom(400 * KB)
    interrupted(local, "x", data)
    noted(local.output)
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", len(data), head=data[: 200 * KB], resume=True)
        assert not isinstance(answer, Rejected)
    last, first = noted(local.output, 2)
    assert (first.outcome, first.code, first.wire_bytes) == ("interrupted", "lost", 200 * KB)
    assert first.reason == "the client went away"
    assert (last.resumed_bytes, last.wire_bytes) == (200 * KB, 0)


def test_a_file_that_never_gets_right_is_noted_as_failed(local: ServerThread) -> None:
    """With the digest that came out, and the reason."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", b"x" * 10)
        upload.send(client.attach(), 0)
        answer = upload.complete(digest="0" * 32)
        assert isinstance(answer, IntegrityFailed)
    (one,) = noted(local.output)
    assert (one.outcome, one.code, one.saved_as) == ("failed", "digest", "")
    assert one.reason.startswith("the digest of the file is not")
    assert one.digest == answer.digest


def test_a_file_that_is_refused_at_once_is_noted_with_its_reason(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """Before a transfer was made of it; hidden characters of its name are shown as such."""
    local = start_local(max_file_size=10)
    with RawClient(local.port).log_in() as client:
        start = FileStart("x\x1b\u202e", 11, 4096, "md5", ANY_MD5, False)
        assert isinstance(client.control.call(start, PATIENCE), Rejected)
    (one,) = noted(local.output)
    assert (one.outcome, one.code, one.size) == ("refused", "size", 11)
    assert one.name == "x\\x1b\\u202e"
    assert (one.user, one.address) == ("user1", "127.0.0.1")
    assert one.reason


def test_a_file_that_finds_no_place_is_noted_as_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transfer ends before it has begun."""
    monkeypatch.setattr(config, "MAX_TRANSFERS_OF_USER", 1)
    local = serve({"alice": VERIFIER})
    with Peer(local.port).log_in() as first, Peer(local.port).log_in() as second:
        first.start("receives", b"x")
        assert isinstance(second.ask("is too many", 1), Rejected)
        (one,) = noted(local.output)
    assert (one.name, one.outcome, one.code) == ("is too many", "refused", "busy")


def test_a_quota_that_is_used_up_is_noted(serve: Serve) -> None:
    """It is found on the way to the part file."""
    local = serve({"alice": VERIFIER.replace(quota=4096)})
    with Peer(local.port).log_in() as peer:
        assert isinstance(peer.ask("x", 100_000), Rejected)
    (one,) = noted(local.output)
    assert (one.outcome, one.code) == ("refused", "quota")


def test_what_its_client_cancels_is_noted_as_interrupted(local: ServerThread) -> None:
    """It may go on later."""
    with RawClient(local.port).log_in() as client:
        client.start("x", b"x" * 10)
        assert isinstance(client.control.call(Cancel(), PATIENCE), Rejected)
    (one,) = noted(local.output)
    assert (one.outcome, one.code, one.reason) == (
        "interrupted", "cancelled", "cancelled by the client"
    )  # fmt: skip


def test_what_waits_when_the_server_stops_is_noted(start_local: StartLocal) -> None:
    """Also in the last moment before the end."""
    local = start_local(max_active=1)
    with RawClient(local.port).log_in() as client, RawClient(local.port).log_in() as waiting:
        client.start("runs", b"x" * 10)
        start = FileStart("waits", 1, 4096, "md5", ANY_MD5, False)
        assert isinstance(waiting.control.call(start, PATIENCE), Queued)
        local.stop()
    assert {(one.name, one.outcome) for one in entries(local.output)} == {
        ("waits", "interrupted"), ("runs", "interrupted")
    }  # fmt: skip


def test_an_announcement_that_is_repeated_in_other_blocks_is_noted_once(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``REJECTED earlier`` is no outcome: the same client comes again at once."""
    source = random_file(tmp_path / "x", 900_000)
    data = source.read_bytes()
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", data)
        upload.send(client.attach(), 0)
    noted(local.output)
    send_files([source], local.client(block_size=64 * KB))
    kinds = [(one.outcome, one.code) for one in noted(local.output, 2)]
    assert kinds == [("received", ""), ("interrupted", "lost")]


def test_a_client_finds_the_file_in_the_history_that_it_has_just_sent(
    local: ServerThread,
) -> None:
    """Noted before the verdict: a client that asks at once is not told of an older file."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", b"x" * 10)
        upload.send(client.attach(), 0)
        verdict = upload.complete()
    assert isinstance(verdict, IntegrityOk)
    found = local.server.ledger.published("user1", "x")
    assert [one.saved_as for one in found] == [verdict.saved_as]


def test_a_verdict_does_not_wait_for_the_history(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread does nothing at all here."""
    monkeypatch.setattr(Ledger, "start", lambda _: None)
    monkeypatch.setattr(config, "HISTORY_GATHER", 3600.0)
    for name in ("a", "b"):
        with RawClient(local.port).log_in() as client:
            upload = client.start(name, b"x" * 10)
            upload.send(client.attach(), 0)
            assert isinstance(upload.complete(), IntegrityOk)
    assert entries(local.output) == []


def test_servers_that_share_a_directory_have_databases_and_notes_of_their_own(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """Read together; no server runs a program for what another is about to publish."""
    hook = script(tmp_path / "hook", "sleep 1000")
    servers = [start_local(shared=True, on_received=hook) for _ in range(2)]
    for number, local in enumerate(servers):
        send_files([random_file(tmp_path / f"{number}.bin", 5000)], local.client())
    assert {one.name for one in noted(servers[0].output, 2)} == {"0.bin", "1.bin"}
    folder = servers[0].output / PARTIAL
    assert len(list(folder.glob("history-*.sqlite"))) == 2
    assert [len(list(path.glob("[!.]*"))) for path in folder.glob("received-*")] == [1, 1]
    assert not list(folder.glob("history*-wal"))
