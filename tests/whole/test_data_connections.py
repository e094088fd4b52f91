"""Data connections: attaching, acknowledging, and the verdict."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, Sequence

import pytest

import config
from client import send_files
from config import MB
from lft.server.receiving import Receiving
from lft.server.sessions import Peer, Session
from lft.server.transfer import Transfer
from lft.server.work_queue import WorkQueue
from lft.store.partfile import PartFile
from lft.wire.blocks import BlockHeader
from lft.wire.frames import encode, encode_ack
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    Attach,
    Cancel,
    ConnectionLostError,
    Goodbye,
    IntegrityOk,
    Missing,
    Rejected,
    RemoteProtocolError,
    TransferComplete,
)
from tests.support.files import random_file
from tests.support.local import ServerThread, wire_peers
from tests.support.rawpeer import HELLO, RawClient, push, raw_socket
from tests.support.transfers import idle_peer as peer
from tests.support.waiting import PATIENCE, eventually


def test_a_data_connection_need_not_wait_before_its_first_block(local: ServerThread) -> None:
    """2: HELLO, ATTACH and two blocks in one segment do what they do one by one."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(2 * 4096), block_size=4096)
        start = HELLO + encode(Attach(client.token))
        with raw_socket(local.port, start + upload.frame(0) + upload.frame(1)) as data:
            answers = encode_ack(upload.number, 0), encode_ack(upload.number, 1)
            said = b""
            while not all(answer in said for answer in answers):
                said += data.recv(4096)
            assert isinstance(upload.complete(), IntegrityOk)


def test_blocks_that_came_with_attach_are_not_forgotten_when_others_wait(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """28: the worker leaves after each block; no selector tells of what is in memory already."""
    monkeypatch.setattr(WorkQueue, "pressed", True)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(2 * 4096), block_size=4096)
        start = HELLO + encode(Attach(client.token))
        with raw_socket(local.port, start + upload.frame(0) + upload.frame(1)) as data:
            said = b""
            while encode_ack(upload.number, 1) not in said:
                said += data.recv(4096)


def test_acknowledgements_that_the_system_did_not_take_follow_when_it_does(
    local: ServerThread,
) -> None:
    """41: a peer that reads late is told everything all the same."""
    count = 20_000  # acknowledgements: more than the smallest buffers hold
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(2 * 4096), block_size=4096)
        held = upload.frame(0, payload=b"", codec=CODEC_HELD, raw_length=4096)
        data = socket.socket()
        data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        data.settimeout(PATIENCE)
        with data:
            data.connect(("127.0.0.1", local.port))
            data.sendall(HELLO + encode(Attach(client.token)))
            (server_side,) = _data_connections(local)
            server_side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            data.sendall(count * held)
            said = 0
            while said < count * len(encode_ack(0, 0)):
                said += len(data.recv(1 << 20))


def _data_connections(local: ServerThread) -> list[socket.socket]:
    """Wait for data connections of the only session; return the server's sockets."""
    (session,) = local.server.registry._sessions.values()
    eventually(lambda: session.streams)
    return [peer.connection._socket for peer in session.streams]


def test_the_verdict_does_not_wait_for_a_second_complete(local: ServerThread) -> None:
    """18: said when all is read, it asks for nothing and holds for what is still on its way."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(2 * 4096), block_size=4096)
        client.control.send(TransferComplete(upload.number, upload.digest, delivered=False))
        upload.send(client.attach(), 0, 1)
        assert isinstance(client.answer(), IntegrityOk)


def test_a_missing_that_crossed_complete_does_not_stop_the_verdict(local: ServerThread) -> None:
    """15: the repaired block may be faster than the client's reading of MISSING."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(20 * 4096), block_size=4096)
        data = client.attach()
        push(data, upload.frame(0, payload=bytes(4096)))
        upload.await_acks(data, 1)
        upload.send(data, *range(1, 20))
        assert client.control.wait(PATIENCE)  # the MISSING is here, unread
        upload.send(data, 0)
        client.control.send(TransferComplete(upload.number, upload.digest))
        assert isinstance(client.answer(), Missing)
        assert isinstance(client.answer(), IntegrityOk)


def test_acknowledgements_do_not_wait_for_a_pause_in_the_blocks(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk slower than the network must not look like a dead server."""
    allowed = threading.Semaphore(8)
    write = PartFile.write_run

    def slow(part: PartFile, views: Sequence[memoryview], offset: int) -> None:
        for _ in views:
            allowed.acquire()
        write(part, views, offset)

    monkeypatch.setattr(PartFile, "write_run", slow)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(20 * 4096), block_size=4096)
        data = client.attach()
        push(data, b"".join(upload.frame(index) for index in range(20)))
        upload.await_acks(data, 4)
        for _ in range(20):
            allowed.release()


def test_a_session_has_its_fill_of_data_connections(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may hold a block in memory, so there is a limit for one session."""
    monkeypatch.setattr(config, "MAX_STREAMS", 3)
    with RawClient(local.port).log_in() as client:
        for _ in range(3):
            client.attach()
        with pytest.raises(ConnectionLostError, match="too many data connections"):
            client.attach()


def test_complete_without_what_is_missing_is_not_answered_twice(
    local: ServerThread,
) -> None:
    """18: it counts as one that crossed the MISSING; CANCEL still ends the transfer."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(100))
        assert isinstance(upload.complete(), Missing)
        client.control.send(TransferComplete(upload.number, upload.digest))
        client.control.send(Cancel())
        assert isinstance(client.answer(), Rejected)


def test_a_block_that_was_under_way_when_its_session_ended_is_nobodys_fault(
    local: ServerThread,
) -> None:
    """36: after a ``kill -9`` of a client the server has nothing to warn of."""
    stream = peer()
    stream.session = Session("u", 0, peer())
    stream.session.closed = True
    header = BlockHeader(1, 0, 10, 10, CODEC_RAW, bytes(32))
    with pytest.raises(ConnectionLostError, match="its session has ended"):
        local.server.receiving._make_room(stream, header)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Let nothing be freed that other objects still refer to, in a circle too."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("cancels", [False, True])
def test_a_client_that_dies_in_mid_block_leaves_nothing_in_memory(
    local: ServerThread, *, cancels: bool
) -> None:
    """Neither block nor connection nor transfer waits for the garbage collector."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", bytes(8192), block_size=4096)
        push(client.attach(), upload.frame(0)[:1000])
        streams = (peer for peer in wire_peers(local.server) if peer.mid_frame)
        eventually(lambda: any(peer.mid_frame for peer in wire_peers(local.server)))
        stream = next(streams)
        assert stream.blocks is not None
        assert stream.session is not None
        transfer = local.server.lifecycle.current(stream.session, upload.number)
        owners = (stream, stream.connection, stream.blocks, stream.session, transfer)
        left = [weakref.ref(one) for one in owners]
        del stream, streams, transfer, owners
        if cancels:
            client.control.send(Cancel())
            assert isinstance(client.answer(), Rejected)
    eventually(lambda: not any(one() for one in left), "all of it to be freed")


def test_a_client_whose_user_has_no_more_data_connections_sends_with_those_it_has(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is busy for the others: they come again."""
    monkeypatch.setattr(config, "MAX_STREAMS_OF_USER", 1)
    (receipt,) = send_files([random_file(tmp_path / "x", MB)], local.client())
    assert receipt.verdict == "INTEGRITY_OK"


def test_a_client_whose_user_has_no_more_sessions_waits_for_one(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server is busy: the client logs in again until another session has ended."""
    monkeypatch.setattr(config, "MAX_SESSIONS_OF_USER", 1)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(RawClient(local.port).log_in())
        path = random_file(tmp_path / "x", 10)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        sending = pool.submit(send_files, [path], local.client(timeout=PATIENCE))
        eventually(lambda: "too many sessions of this user" in caplog.text, "a refusal")
        other.control.send(Goodbye())
        (receipt,) = sending.result()
    assert receipt.verdict == "INTEGRITY_OK"


def test_a_connection_that_breaks_while_it_is_told_of_blocks_ends_no_transfer(
    local: ServerThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FAULTS 27: TLS that ends in the middle is the connection's trouble alone."""
    send, verify, broken = Receiving._send_acks, Receiving._see_to, threading.Event()
    inside, take = threading.local(), Transfer.take_hashing_turn

    def see_to(receiving: Receiving, *facts: Any) -> None:
        inside.now = True
        try:
            verify(receiving, *facts)
        finally:
            inside.now = False

    def fail_once(receiving: Receiving, peer: Peer) -> None:
        if peer.acks and getattr(inside, "now", False) and not broken.is_set():
            broken.set()
            raise RemoteProtocolError("TLS: broken")
        send(receiving, peer)

    def take_later(transfer: Transfer) -> bool:
        return broken.is_set() and take(transfer)  # nobody but who receives hashes before that

    monkeypatch.setattr(Receiving, "_see_to", see_to)
    monkeypatch.setattr(Receiving, "_send_acks", fail_once)
    monkeypatch.setattr(Transfer, "take_hashing_turn", take_later)
    (receipt,) = send_files([random_file(tmp_path / "x", 3 * MB)], local.client(streams=1))
    assert broken.is_set()
    assert receipt.verdict == "INTEGRITY_OK"
    assert "internal error" not in caplog.text
