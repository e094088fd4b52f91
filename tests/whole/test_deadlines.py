"""Peers that are silent or slow, and when the server ends them."""

from __future__ import annotations

import os
import socket
import time

import pytest

import config
from lft.server.guests import Next
from lft.server.sessions import Peer
from lft.wire.connection import Connection
from protocol import ConnectionLostError, IntegrityOk, Rejected, TransferError
from server import Answers
from tests.support.files import part_files
from tests.support.local import StartLocal
from tests.support.rawpeer import HELLO, RawClient, last_words, push, raw_socket
from tests.support.waiting import PATIENCE, eventually


def test_a_peer_that_says_nothing_is_closed_at_the_deadline(start_local: StartLocal) -> None:
    """1: it is told why and the connection ends."""
    local = start_local(login_timeout=0.3)
    with raw_socket(local.port) as sock:
        assert b'"code": "timeout"' in last_words(sock)


def test_trickling_bytes_do_not_put_the_login_deadline_off(start_local: StartLocal) -> None:
    """4: one deadline for the whole login, however slowly it comes."""
    local = start_local(login_timeout=0.5)
    with raw_socket(local.port) as sock:
        began = time.monotonic()
        sock.settimeout(0.05)
        words = b""
        for byte in HELLO * 100:
            sock.sendall(bytes([byte]))
            try:
                words = sock.recv(100)
            except socket.timeout:
                continue
            break
        assert b"timeout" in words
        assert time.monotonic() - began < PATIENCE


def test_a_trickling_block_expires(start_local: StartLocal) -> None:
    """4: a byte now and then does not put the end of a block off."""
    local = start_local(block_timeout=0.3)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(1_000_000), block_size=1_000_000)
        data = client.attach()
        push(data, upload.frame(0)[:100])
        with pytest.raises(ConnectionLostError):
            _trickle(data, upload.frame(0)[100:5000])


def test_a_block_that_expires_costs_no_processor_time(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4: what is too late is not handed to and fro, unread, until main looks at the clocks."""
    monkeypatch.setattr(config, "TICK", 2.0)
    local = start_local(block_timeout=0.3)
    served, serve = [], Answers.serve

    def count(answers: Answers, peer: Peer) -> Next:
        served.append(peer)
        return serve(answers, peer)

    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(1_000_000), block_size=1_000_000)
        data = client.attach()
        push(data, upload.frame(0)[:100])
        monkeypatch.setattr(Answers, "serve", count)
        with pytest.raises(ConnectionLostError):
            _trickle(data, upload.frame(0)[100:5000])
    assert len(served) < 500


def _trickle(connection: Connection, data: bytes) -> None:
    """Send a byte now and then, and listen in between. Raises when the server has had enough."""
    for byte in data:
        push(connection, bytes([byte]))
        connection.wait(0.01)
        list(connection.receive_acks())


def test_a_transfer_in_which_nothing_moves_expires(start_local: StartLocal) -> None:
    """30: its space is given back and the client is told."""
    local = start_local(stall_timeout=0.3)
    with RawClient(local.port).log_in() as client:
        client.start("x", os.urandom(100))
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "timeout"
        eventually(lambda: part_files(local.output) == [])


@pytest.mark.parametrize("size", [0, 100])
def test_a_transfer_that_nobody_completes_expires(start_local: StartLocal, size: int) -> None:
    """30: who has sent all blocks and never says so takes no place from others for ever."""
    local = start_local(stall_timeout=0.3)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(size))
        upload.send(client.attach(), *range(len(upload.blocks)))
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "timeout"
    eventually(lambda: local.server.admission.active() == [])


def test_a_session_that_does_nothing_expires(start_local: StartLocal) -> None:
    """Idle sessions do not pile up."""
    local = start_local(idle_timeout=0.3)
    with RawClient(local.port).log_in() as client, pytest.raises(ConnectionLostError):
        client.answer()


def test_a_half_sent_block_expires(start_local: StartLocal) -> None:
    """4: the connection that owes the rest of a block is closed, not the session."""
    local = start_local(block_timeout=0.3)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(100))
        data = client.attach()
        push(data, upload.frame(0)[:70])
        with pytest.raises(TransferError):
            upload.await_acks(data, 1)
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)
