"""Blocks that are wrong, damaged, repeated or not the sender's own."""

from __future__ import annotations

import os
import time

import pytest

from protocol import (
    Cancel,
    ConnectionLostError,
    IntegrityFailed,
    IntegrityOk,
    Missing,
    Rejected,
    RemoteProtocolError,
    TransferError,
    Why,
)
from tests.support.files import md5, received
from tests.support.local import ServerThread
from tests.support.rawpeer import RawClient, hear, push
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (3, {}),
        (2**32 - 1, {}),
        (0, {"raw_length": 4095}),
        (0, {"wire_length": 4095}),
        (0, {"raw_length": 2**32 - 1, "wire_length": 2**32 - 1}),
        (2, {"payload": bytes(4096)}),
        (0, {"codec": 9}),
    ],
)
def test_a_block_that_does_not_fit_is_refused(
    local: ServerThread, index: int, changes: dict[str, object]
) -> None:
    """14: only that data connection ends; the transfer can be finished on another."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(2 * 4096 + 100), block_size=4096)
        data = client.attach()
        push(data, upload.frame(index, **dict(changes)))
        with pytest.raises(RemoteProtocolError):
            upload.await_acks(data, 1)
        upload.send(client.attach(), 0, 1, 2)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("changes", [{"raw_length": 4095}, {"transfer": 4_000_000_000}])
def test_blocks_before_one_that_is_refused_are_acknowledged(
    local: ServerThread, changes: dict[str, object]
) -> None:
    """14: so the client sees progress, and sends only the others again."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(3 * 4096), block_size=4096)
        data = client.attach()
        push(data, upload.frame(0) + upload.frame(1) + upload.frame(2, **changes))
        heard: list[int] = []
        with pytest.raises(TransferError):
            hear(data, heard)
        assert heard == [0, 1]


@pytest.mark.parametrize("damage", ["payload", "digest"])
def test_a_damaged_block_is_asked_for_again_and_repaired(local: ServerThread, damage: str) -> None:
    """15: found by its running digest before the file is complete; exactly it is asked for."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(20 * 4096), block_size=4096)
        data = client.attach()
        for index in range(20):
            changes: dict[str, object] = {damage: bytes(4096 if damage == "payload" else 16)}
            push(data, upload.frame(index, **(changes if index == 3 else {})))
        upload.await_acks(data, 20)
        assert client.answer() == Missing(upload.number, ((3, 4),), Why.DAMAGED)
        upload.send(data, 3)
        answer = upload.complete()
        assert isinstance(answer, IntegrityOk)
        assert answer.resent_blocks == 1
    assert md5(received(local.output)[0]) == upload.digest


def test_a_block_damaged_every_time_is_integrity_failed(local: ServerThread) -> None:
    """15: rounds without progress are bounded, nothing is published."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(100))
        data = client.attach()
        answers = []
        for _ in range(20):
            push(data, upload.frame(0, payload=bytes(100)))
            upload.await_acks(data, 1)
            answers.append(upload.complete())
            if isinstance(answers[-1], IntegrityFailed):
                break
        assert isinstance(answers[-1], IntegrityFailed)
        assert set(map(type, answers[:-1])) == {Missing}
        client.start("y", b"the session goes on")
    assert received(local.output) == []


def test_a_block_sent_twice_on_two_connections_is_harmless(local: ServerThread) -> None:
    """16: both are acknowledged, the file is right."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(3 * 4096), block_size=4096)
        one, two = client.attach(), client.attach()
        upload.send(one, 0, 1, 0)
        upload.send(two, 1, 0, 2)
        assert isinstance(upload.complete(), IntegrityOk)
    assert md5(received(local.output)[0]) == upload.digest


def _unknown(client: RawClient, other: RawClient) -> int:
    return 4_000_000_000


def _foreign(client: RawClient, other: RawClient) -> int:
    return other.start("other", b"x" * 10).number


def _finished(client: RawClient, other: RawClient) -> int:
    upload = client.start("x", b"x" * 10)
    upload.send(client.attach(), 0)
    assert isinstance(upload.complete(), IntegrityOk)
    return upload.number


def _cancelled(client: RawClient, other: RawClient) -> int:
    upload = client.start("x", b"x" * 10)
    assert isinstance(client.control.call(Cancel(), PATIENCE), Rejected)
    return upload.number


def test_blocks_for_what_is_not_ones_own_get_one_identical_refusal(local: ServerThread) -> None:
    """17: unknown, foreign, finished and given-up transfers cannot be told apart."""
    refusals = set()
    for number in (_unknown, _foreign, _finished, _cancelled):
        with RawClient(local.port).log_in() as client, RawClient(local.port).log_in() as other:
            transfer = number(client, other)
            upload = client.start("mine", b"x" * 10)
            data = client.attach()
            push(data, upload.frame(0, transfer=transfer))
            with pytest.raises(ConnectionLostError) as caught:
                upload.await_acks(data, 1)
            refusals.add(str(caught.value))
    assert len(refusals) == 1


def test_wrong_tokens_get_one_identical_refusal(local: ServerThread) -> None:
    """17: guessed, truncated, of a past session: the same words."""
    with RawClient(local.port).log_in() as past:
        old = past.token
    refusals = set()
    with RawClient(local.port).log_in() as client:
        for token in ("guess", client.token[:-1], client.token + "x", old):
            with pytest.raises(ConnectionLostError) as caught:
                _attach_until_refused(client, token, old)
            refusals.add(str(caught.value))
    assert len(refusals) == 1


def _attach_until_refused(client: RawClient, token: str, old: str) -> None:
    """Attach; the server may need a moment to notice that a past session is past."""
    deadline = time.monotonic() + (PATIENCE if token == old else 0)
    client.attach(token)
    while time.monotonic() < deadline:
        client.attach(token)


def test_complete_with_gaps_is_answered_with_missing(local: ServerThread) -> None:
    """18: exactly the gaps; when they are filled the file is published."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(9 * 4096), block_size=4096)
        data = client.attach()
        upload.send(data, 0, 1, 4, 8)
        assert upload.complete() == Missing(upload.number, ((2, 4), (5, 8)), Why.LOST)
        upload.send(data, 2, 3, 5, 6, 7)
        assert isinstance(upload.complete(), IntegrityOk)


def test_complete_with_a_wrong_digest_is_integrity_failed(local: ServerThread) -> None:
    """18: every block fits its running digest, but the client means another file."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(100))
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete("0" * 32), IntegrityFailed)
    assert received(local.output) == []
