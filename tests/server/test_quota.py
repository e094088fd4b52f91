"""Quotas: which bytes count, and for how long."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import config
from client import send_files
from config import KB
from lft.server.guests import Place
from lft.server.quota import Quota
from lft.server.transfer import Transfer
from lft.store.partstore import PartStore
from protocol import (
    Cancel,
    FileReady,
    FileStart,
    IntegrityOk,
    Ping,
    Pong,
    Queued,
    Rejected,
    RejectedError,
)
from tests.support.accounts import PASSWORD, VERIFIER, Serve, account
from tests.support.files import part_files, random_file, received
from tests.support.local import wire_peers
from tests.support.rawpeer import Peer, interrupted
from tests.support.waiting import PATIENCE, eventually


def test_a_file_that_arrives_counts_from_its_beginning(serve: Serve) -> None:
    """13: the second of two that race for a quota is rejected, the first one is right."""
    local = serve({"alice": account(quota=300 * KB)})
    data = os.urandom(200 * KB)
    with Peer(local.port).log_in() as first, Peer(local.port).log_in() as second:
        upload = first.start("first", data)
        answer = second.ask("second", 200 * KB)
        assert isinstance(answer, Rejected)
        assert answer.code == "quota"
        upload.send(first.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)


def test_of_two_that_race_for_a_quota_one_gets_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13: also when the later one overtakes the earlier one within the server."""
    local = serve({"alice": account(quota=300 * KB)})
    admission = local.server.admission
    begun, overtaken = threading.Event(), threading.Event()
    enter = admission.enter

    def slow(transfer: Transfer) -> int:
        if transfer.name == "first":
            begun.set()
            assert overtaken.wait(PATIENCE)
        return enter(transfer)

    monkeypatch.setattr(admission, "enter", slow)
    with Peer(local.port).log_in() as first, Peer(local.port).log_in() as second:
        head = hashlib.md5(b"").hexdigest()
        first.control.send(FileStart("first", 200 * KB, 200 * KB, "md5", head, False))
        assert begun.wait(PATIENCE)
        answers = [second.ask("second", 200 * KB)]
        overtaken.set()
        answers.append(first.answer())
        assert sorted(type(answer).__name__ for answer in answers) == ["FileReady", "Rejected"]


def test_a_transfer_that_waits_counts_as_well(serve: Serve) -> None:
    """13: what is admitted later has its share of the quota already."""
    local = serve({"alice": account(quota=500 * KB)}, max_active=1)
    with Peer(local.port).log_in() as one, Peer(local.port).log_in() as two:
        one.start("one", bytes(200 * KB))
        two.control.send(FileStart("two", 200 * KB, 200 * KB, "md5", "0" * 32, False))
        assert isinstance(two.control.answer(PATIENCE), Queued)
        with Peer(local.port).log_in() as three:
            answer = three.ask("three", 200 * KB)
    assert isinstance(answer, Rejected)
    assert answer.code == "quota"


def test_a_cancelled_transfer_gives_its_share_back(serve: Serve) -> None:
    """13: nothing stays reserved for a file that nobody sends."""
    local = serve({"alice": account(quota=300 * KB)})
    with Peer(local.port).log_in() as peer:
        peer.start("x", bytes(200 * KB))
        assert isinstance(peer.control.call(Cancel(), PATIENCE), Rejected)
        assert isinstance(peer.ask("y", 200 * KB), FileReady)


def test_an_unfinished_file_counts_against_the_quota(serve: Serve) -> None:
    """13: it takes room on the disk until somebody goes on with it."""
    local = serve({"alice": account(quota=500 * KB)})
    interrupted(local, "x", os.urandom(400 * KB))
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("y", 200 * KB)
    assert isinstance(answer, Rejected)
    assert answer.code == "quota"


def test_what_comes_to_rest_after_its_successor_looked_counts(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13: a session that ends just then leaves a part file which --no-resume does not replace."""
    local = serve({"alice": account(quota=500 * KB)})
    data = os.urandom(400 * KB)
    interrupted(local, "x", data)
    monkeypatch.setattr(PartStore, "forget", lambda *_: None)  # as if it had not rested yet
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", 400 * KB, head=data[: 200 * KB])
    assert isinstance(answer, Rejected)
    assert answer.code == "quota"


def test_a_resumed_file_does_not_count_against_itself(serve: Serve) -> None:
    """13: what fitted when it began fits when it goes on."""
    local = serve({"alice": account(quota=500 * KB)})
    data = os.urandom(400 * KB)
    interrupted(local, "x", data)
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", len(data), head=data[: 200 * KB], resume=True)
    assert isinstance(answer, FileReady)
    assert answer.have == ((0, 1),)


def test_a_resumed_file_counts_once(serve: Serve) -> None:
    """13: it keeps the name that it was to get at first, and has no second one beside it."""
    local = serve({"alice": account(quota=500 * KB)})
    data = os.urandom(400 * KB)
    interrupted(local, "x", data)
    with Peer(local.port).log_in() as first, Peer(local.port).log_in() as second:
        first.start("x", data, resume=True)
        assert isinstance(second.ask("y", 60 * KB), FileReady)


def test_a_verdict_that_was_lost_can_be_asked_for_again_within_the_quota(serve: Serve) -> None:
    """13 and 37: the published file is not counted against itself."""
    local = serve({"alice": account(quota=300 * KB)})
    data = os.urandom(200 * KB)
    with Peer(local.port).log_in() as peer:
        upload = peer.start("x", data, resume=True)
        upload.send(peer.attach(), 0)
        first = upload.complete()
        assert isinstance(first, IntegrityOk)
    eventually(lambda: local.server.parts.in_use == 0, "the part file to rest")
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", len(data), head=data, resume=True)
    assert isinstance(answer, FileReady)
    assert answer.have == ((0, 1),)


def test_a_file_that_has_grown_does_not_go_on_beyond_the_quota(serve: Serve) -> None:
    """13: of two attempts at one file, what the other reserves still counts; both are kept."""
    local = serve({"alice": account(quota=800 * KB)})
    data = os.urandom(800 * KB)
    with Peer(local.port).log_in() as first, Peer(local.port).log_in() as second:
        for peer in (first, second):
            peer.start("x", data[: 400 * KB]).send(peer.attach(), 0)
    eventually(lambda: local.server.parts.in_use == 0, "the part files to rest")
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", len(data), head=data[: 200 * KB], resume=True)
        assert isinstance(answer, Rejected)
        assert answer.code == "quota"
        assert [part.stat().st_size for part in part_files(local.output)] == [400 * KB] * 2
        answer = peer.ask("x", 400 * KB, head=data[: 200 * KB], resume=True)
    assert isinstance(answer, FileReady)
    assert answer.have == ((0, 1),)


def test_a_part_file_counts_until_its_last_user_has_left(serve: Serve) -> None:
    """13: who leaves while the disk is busy has no second quota meanwhile."""
    local = serve({"alice": account(quota=500 * KB)})
    with Peer(local.port).log_in() as peer:
        peer.start("x", bytes(400 * KB))
        (transfer,) = local.server.admission.active()
        with transfer.life.use():  # as a worker does that writes or flushes
            assert isinstance(peer.control.call(Cancel(), PATIENCE), Rejected)
            answer = peer.ask("y", 400 * KB)
            assert isinstance(answer, Rejected)
            assert answer.code == "quota"
        assert isinstance(peer.ask("y", 400 * KB), FileReady)


@pytest.mark.parametrize("lives", [True, False])
def test_a_dead_attempt_at_the_same_file_does_not_count_against_its_successor(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """13 and 40: whose link is cut goes on with what it has; beside one that lives is no room."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", PATIENCE if lives else 0.6)
    local = serve({"alice": account(quota=500 * KB)})
    data = os.urandom(400 * KB)
    with Peer(local.port).log_in() as first, Peer(local.port).log_in() as second:
        first.start("x", data, resume=True).send(first.attach(), 0)
        head = hashlib.md5(data[: 200 * KB]).hexdigest()
        second.control.send(FileStart("x", len(data), 200 * KB, "md5", head, resume=True))
        if lives:
            assert isinstance(first.answer(), Ping)
            first.control.send(Pong())
        answer = second.answer()
        if lives:
            assert isinstance(answer, Rejected)
            assert answer.code == "quota"
        else:
            assert isinstance(answer, FileReady)
            assert answer.have == ((0, 1),)


@pytest.mark.parametrize("whose", ["user's", "server's"])
def test_a_new_session_is_no_way_around_a_limit(serve: Serve, whose: str) -> None:
    """What was brought by a connection that left early is paid for by the next of that user."""
    local = (
        serve({"alice": account(limit=10 * KB)})
        if whose == "user's"
        else serve({"alice": VERIFIER}, limit=10 * KB)
    )
    data = os.urandom(400 * KB)
    interrupted(local, "x", data)
    with Peer(local.port).log_in() as peer:
        peer.start("x", data, resume=True)
        peer.attach()
        (it,) = (one for one in wire_peers(local.server) if one.blocks)
        eventually(lambda: it.place is Place.RESTING, "it to wait for its turn")
        assert (it.owed > 0) == (whose == "server's")


def test_large_blocks_of_one_user_do_not_use_up_the_time_of_another(serve: Serve) -> None:
    """A limit is shared by bytes: who brings 40 MB at once waits for that, and he alone."""
    local = serve({"alice": VERIFIER, "bob": VERIFIER}, limit=1024 * KB)
    large, small = bytes(40 * 1024 * KB), bytes(1000 * KB)
    with Peer(local.port).log_in() as alice, Peer(local.port).log_in("bob") as bob:
        upload = alice.start("large", large, 4096 * KB)
        for block in range(len(upload.blocks)):
            upload.send(alice.attach(), block)
        bob.start("small", small).send(bob.attach(), 0)
        (transfer,) = (one for one in local.server.admission.active() if one.facts.user == "bob")
        (his,) = transfer.session.streams
        assert his.paused_until - time.monotonic() < 10


def test_a_quota_is_that_of_the_users_directory(serve: Serve, tmp_path: Path) -> None:
    """13: what others have elsewhere does not count, what stands there does."""
    users = {"alice": account(directory="alice", quota=5000), "bob": account(directory="bob")}
    local = serve(users)
    source = random_file(tmp_path / "x", 4500)
    send_files([source], local.client(user="bob", password=PASSWORD))
    settings = local.client(user="alice", password=PASSWORD)
    send_files([source], settings)
    with pytest.raises(RejectedError, match=r"4.4 KB is more than the 500 bytes left"):
        send_files([source], settings)


def test_empty_files_do_not_escape_a_quota(serve: Serve, tmp_path: Path) -> None:
    """13: each counts as a block of the disk, published or not, or there could be millions."""
    local = serve({"alice": account(quota=10 * KB)})
    settings = local.client(user="alice", password=PASSWORD)
    sources = [random_file(tmp_path / name, 0) for name in "abc"]
    with pytest.raises(RejectedError, match=r"4.0 KB is more than the 2.0 KB left .*at least"):
        send_files(sources, settings)
    assert len(received(local.output)) == 2


def test_empty_files_under_way_do_not_escape_a_quota(serve: Serve) -> None:
    """13: nor do those that nobody finishes."""
    local = serve({"alice": account(quota=6 * KB)})
    with Peer(local.port).log_in() as one, Peer(local.port).log_in() as two:
        assert isinstance(one.ask("x", 0), FileReady)
        answer = two.ask("y", 0)
    assert isinstance(answer, Rejected)
    assert answer.code == "quota"


def test_a_file_that_is_about_to_be_refused_takes_no_room(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came first, over another connection, and does not fit; the one that came later does."""
    local = serve({"alice": account(quota=600 * KB)})
    judged, answered = threading.Event(), threading.Event()
    check = Quota.check

    def late(quota: Quota, transfer: Transfer, *rest: Any, **named: Any) -> None:
        if transfer.name == "large":
            judged.set()
            assert answered.wait(PATIENCE)
        check(quota, transfer, *rest, **named)

    monkeypatch.setattr(Quota, "check", late)
    with Peer(local.port).log_in() as one, Peer(local.port).log_in() as two:
        one.announce("large", 700 * KB)
        assert judged.wait(PATIENCE)
        answer = two.ask("small", KB)
        answered.set()
        assert isinstance(answer, FileReady)
        assert isinstance(one.answer(), Rejected)
