"""Broken peers, broken bytes, broken disks: the numbers are those of the project's fault list."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import (
    HEADER,
    PATIENCE,
    ROOT,
    SOON,
    RawClient,
    RawUpload,
    ServerThread,
    StartLocal,
    client_command,
    environment,
    eventually,
    last_words,
    md5,
    part_files,
    push,
    random_file,
    raw_socket,
    received,
    still_serves,
    strays,
)
from test_server import _peer as peer

import config
from client import send_files
from config import ClientSettings
from lft.client.receipt import FailedIntegrityError, Receipt
from lft.server.service import Service
from lft.server.sessions import Peer, Session
from lft.server.work_queue import WorkQueue
from lft.store import partfile
from lft.store.journal import Journal
from lft.store.partfile import PartFile
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL
from lft.wire.blocks import BlockHeader
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.frames import encode, encode_ack
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    VERSION,
    Attach,
    Cancel,
    ConnectionLostError,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
    IntegrityFailed,
    IntegrityOk,
    Missing,
    Ping,
    Pong,
    Queued,
    Rejected,
    RejectedError,
    RemoteProtocolError,
    SourceError,
    TransferComplete,
    TransferError,
    Why,
)

HELLO = encode(Hello(VERSION, FEATURES))
MD5 = "0" * 32

# --- framing ------------------------------------------------------------------------------------


def test_a_peer_that_connects_and_closes_leaves_no_trace(
    local: ServerThread, tmp_path: Path
) -> None:
    """1: nothing is logged as an error, nothing stays open."""
    for _ in range(20):
        raw_socket(local.port).close()
    still_serves(local.port, tmp_path)


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


@pytest.mark.parametrize("cut", range(0, len(HELLO), 3))
def test_a_control_frame_cut_anywhere_is_a_clean_end(local: ServerThread, cut: int) -> None:
    """2: the server closes without a word, nothing is left."""
    with raw_socket(local.port, HELLO[:cut]) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert last_words(sock) == b""


def test_frames_sliced_to_single_bytes_work_as_whole_ones(local: ServerThread) -> None:
    """2: the result is the same as of whole frames."""
    with raw_socket(local.port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HELLO:
            sock.sendall(bytes([byte]))
        assert sock.recv(4096)[4:].startswith(b"HELLO@")


def test_a_block_sliced_to_small_pieces_is_a_block(local: ServerThread) -> None:
    """2: a half-received block stays with its connection until the rest comes."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(1000))
        data = client.attach()
        frame = upload.frame(0)
        for start in range(0, len(frame), 7):
            push(data, frame[start : start + 7])
        upload.await_acks(data, 1)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("cut", [1, 4, 20, HEADER - 1, HEADER, HEADER + 1, HEADER + 999])
def test_a_block_cut_anywhere_loses_only_its_connection(local: ServerThread, cut: int) -> None:
    """2 and 39: another data connection brings the block, the file is right."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(1000))
        broken = client.attach()
        push(broken, upload.frame(0)[:cut])
        broken.close()
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)


def test_several_frames_in_one_segment_are_several_frames(local: ServerThread) -> None:
    """2: blocks behind one another are all taken."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(50_000), block_size=4096)
        data = client.attach()
        push(data, b"".join(upload.frame(index) for index in range(13)))
        upload.await_acks(data, 13)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("length", [0, 64 * 1024 + 1, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused_at_once(local: ServerThread, length: int) -> None:
    """3: four bytes are enough to know."""
    with raw_socket(local.port, struct.pack("!I", length)) as sock:
        assert b'"code": "protocol"' in last_words(sock)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "TLS"),
    ],
)
def test_another_protocol_is_closed_at_once_with_one_log_line(
    local: ServerThread, caplog: pytest.LogCaptureFixture, words: bytes, name: str
) -> None:
    """5: the line names what was spoken."""
    with raw_socket(local.port, words) as sock:
        last_words(sock)
    lines = [record for record in caplog.records if record.levelname != "DEBUG"]
    assert [name in record.getMessage() for record in lines] == [True]


@pytest.mark.parametrize(
    "body",
    [
        b"HELLO@\xff\xfe{}",
        b"HELLO@{nonsense",
        b'HELLO@{"version":1,"version":1,"features":[]}',
        b"HELLO@" + b"[" * 60_000,
        b'HELLO@{"version":1,"features":' + b"[" * 900 + b"]" * 900 + b"}",
        b'HELLO@{"version":NaN,"features":[]}',
        b'HELLO@{"version":true,"features":[]}',
        b'HELLO@{"version":' + b"9" * 5000 + b',"features":[]}',
        b'HELLO@{"version":1}',
        b'HELLO@{"version":1,"features":[],"more":1}',
        b"NOTHING@{}",
        b"",
    ],
)
def test_a_malformed_message_gets_a_coded_error(
    local: ServerThread, tmp_path: Path, body: bytes
) -> None:
    """6: short and coded, and the server lives."""
    with raw_socket(local.port, struct.pack("!I", len(body)) + body) as sock:
        words = last_words(sock)
    assert b'ERROR@{"code": "protocol"' in words
    assert b"Traceback" not in words
    still_serves(local.port, tmp_path)


def test_a_valid_message_in_the_wrong_state_names_the_offender(local: ServerThread) -> None:
    """7: the peer is told that it was the client."""
    with raw_socket(local.port, encode(FileStart("x", 1, 4096, "md5", MD5, False))) as sock:
        assert b"the client sent FILE_START in state new" in last_words(sock)


def test_another_version_gets_a_clear_message(local: ServerThread) -> None:
    """An old or new peer learns which version is spoken here."""
    with raw_socket(local.port, encode(Hello(VERSION + 1, FEATURES))) as sock:
        assert f"this server speaks version {VERSION}".encode() in last_words(sock)


# --- metadata -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "block_size"), [(2**63 - 1, 200 * 1024), (2**62, 4 * 1024**2), (10, 1), (10, 2**30)]
)
def test_sizes_that_cannot_be_are_rejected_and_leave_nothing(
    local: ServerThread, size: int, block_size: int
) -> None:
    """12: larger than the disk, blocks too small, too large, too many; the session goes on."""
    with RawClient(local.port).log_in() as client:
        answer = client.control.call(FileStart("x", size, block_size, "md5", MD5, False), PATIENCE)
        assert isinstance(answer, Rejected)
        assert part_files(local.output) == []
        client.start("x", b"fine")


@pytest.mark.parametrize("field", [b'"size": -1', b'"size": 9223372036854775808', b'"size": 1.5'])
def test_sizes_that_are_no_sizes_are_protocol_errors(local: ServerThread, field: bytes) -> None:
    """12: refused before anything else is looked at."""
    with RawClient(local.port).log_in() as client:
        good = encode(FileStart("x", 1, 4096, "md5", MD5, False))[4:]
        bad = good.replace(b'"size": 1', field)
        client.control.push(struct.pack("!I", len(bad)) + bad)
        with pytest.raises(RemoteProtocolError):
            client.answer()


# --- blocks -------------------------------------------------------------------------------------


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
    (session,) = local.server._service.registry._sessions.values()
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
    write = PartFile.write

    def slow(part: PartFile, payload: memoryview, offset: int) -> None:
        allowed.acquire()
        write(part, payload, offset)

    monkeypatch.setattr(PartFile, "write", slow)
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
    served, serve = [], Service.serve

    def count(service: Service, peer: Peer) -> None:
        served.append(peer)
        serve(service, peer)

    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(1_000_000), block_size=1_000_000)
        data = client.attach()
        push(data, upload.frame(0)[:100])
        monkeypatch.setattr(Service, "serve", count)
        with pytest.raises(ConnectionLostError):
            _trickle(data, upload.frame(0)[100:5000])
    assert len(served) < 500


def _trickle(connection: Connection, data: bytes) -> None:
    """Send a byte now and then, and listen in between. Raises when the server has had enough."""
    for byte in data:
        push(connection, bytes([byte]))
        connection.wait(0.01)
        list(connection.receive_acks())


def test_a_stopping_server_turns_waiting_transfers_away(start_local: StartLocal) -> None:
    """38: only what runs may use the grace period."""
    local = start_local(max_active=1, grace=3600.0)
    with RawClient(local.port).log_in() as client, RawClient(local.port).log_in() as waiting:
        upload = client.start("x", b"x" * 10)
        assert isinstance(
            waiting.control.call(FileStart("y", 1, 4096, "md5", MD5, False), PATIENCE), Queued
        )
        local.server.stop()
        answer = waiting.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "shutdown"
        assert isinstance(client.control.call(Cancel(), PATIENCE), Rejected)
        assert upload.number


def test_a_part_file_that_cannot_be_removed_blocks_nobody(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33: the transfer ends, is answered, and its place goes to the next."""
    local = start_local(max_active=1)
    with RawClient(local.port).log_in() as client:
        client.start("x", b"x" * 10)
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", _read_only)
            assert isinstance(client.control.call(Cancel(), PATIENCE), Rejected)
        client.start("y", b"y" * 10)
    eventually(lambda: len(part_files(local.output)) == 1)
    for path in strays(local.output) + part_files(local.output):
        path.with_suffix(".journal").unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _read_only(*_: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


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
    eventually(lambda: local.server._service.registry.active() == [])


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


def test_what_a_vanished_client_sent_is_kept(local: ServerThread) -> None:
    """39: without the coordinator the transfer ends; its part file rests for a resume."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(500_000))
        upload.send(client.attach(), 1)
    eventually(lambda: local.server._service.parts.in_use == 0)
    assert len(part_files(local.output)) == 1


def test_a_client_that_vanishes_before_its_first_block_leaves_nothing(local: ServerThread) -> None:
    """39: reserved space that holds nothing is given back."""
    with RawClient(local.port).log_in() as client:
        client.start("x", os.urandom(500_000))
        assert len(part_files(local.output)) == 1
    eventually(lambda: part_files(local.output) == [])


# --- the network, with a real client ------------------------------------------------------------


class Proxy:
    """Sits between client and server; ``spoil`` may change or refuse each piece of data.

    ``spoil(connection number, offset in that connection's stream, data)`` returns what goes on to
    the server; ``None`` resets the connection.
    """

    def __init__(self, port: int, spoil: Callable[[int, int, bytes], bytes | None]) -> None:
        self._target = port
        self._spoil = spoil
        self.on_the_way_back: Callable[[int, bytes], None] = lambda number, data: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            self._start(self._forward, near, far, self.connections)
            self._start(self._back, far, near, self.connections)
            self.connections += 1

    def _forward(self, near: socket.socket, far: socket.socket, number: int) -> None:
        offset = 0
        try:
            while True:
                data = near.recv(65536)
                spoiled = self._spoil(number, offset, data) if data else b""
                if spoiled is None:
                    break
                offset += len(data)
                if not data:
                    far.shutdown(socket.SHUT_WR)
                    return
                far.sendall(spoiled)
        except OSError:
            pass  # one side has gone: so does the other
        for sock in (near, far):
            _reset(sock)

    def _back(self, far: socket.socket, near: socket.socket, number: int) -> None:
        try:
            while True:
                data = far.recv(65536)
                if not data:
                    break
                self.on_the_way_back(number, data)
                near.sendall(data)
        except OSError:
            pass  # as above
        with contextlib.suppress(OSError):  # it was faster
            near.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            _reset(sock)
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in self._sockets:
            sock.close()


def _reset(sock: socket.socket) -> None:
    """End a connection the hard way."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it had ended already


StartProxy = Callable[[int, Callable[[int, int, bytes], "bytes | None"]], Proxy]


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    """Start proxies; end them and their threads."""
    started: list[Proxy] = []

    def start(port: int, spoil: Callable[[int, int, bytes], bytes | None]) -> Proxy:
        started.append(Proxy(port, spoil))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


def _once(action: Callable[[bytes], bytes | None]) -> Callable[[int, int, bytes], bytes | None]:
    """Spoil one piece far into the first data connection that gets there, and nothing else."""
    lock, left = threading.Lock(), [1]

    def spoil(number: int, offset: int, data: bytes) -> bytes | None:
        if number == 0 or offset < 100_000:
            return data
        with lock:
            left[0], now = 0, left[0]
        return action(data) if now else data

    return spoil


def test_a_bit_flipped_on_the_way_is_repaired(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """15: the user gets a right file and the receipt says what happened."""
    flip = _once(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    proxy = start_proxy(local.port, flip)
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert receipt.resent_blocks >= 1
    assert md5(local.output / receipt.saved_as) == md5(source)


def test_a_missing_that_overtakes_the_acknowledgement_is_understood(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """15: the two come on different connections, in any order."""
    missing = threading.Event()

    def hold_acks(number: int, data: bytes) -> None:
        if b"MISSING" in data:
            missing.set()
        if data.startswith(b"A\0\0\0"):
            missing.wait(PATIENCE)

    flip = _once(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    proxy = start_proxy(local.port, flip)
    proxy.on_the_way_back = hold_acks
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert missing.is_set()
    assert md5(local.output / receipt.saved_as) == md5(source)


def test_a_data_connection_that_is_reset_is_replaced(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """39: what was not acknowledged goes another way."""
    proxy = start_proxy(local.port, _once(lambda data: None))
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert md5(local.output / receipt.saved_as) == md5(source)
    assert receipt.verdict == "INTEGRITY_OK"


def test_a_network_that_damages_everything_is_integrity_failed(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """15: never a wrong file under a final name, and exit 1's exception with its receipt."""

    def spoil(number: int, offset: int, data: bytes) -> bytes:
        return data if number == 0 or len(data) < 500 else data[:-1] + bytes([data[-1] ^ 1])

    proxy = start_proxy(local.port, spoil)
    source = random_file(tmp_path / "x", 1000)
    with pytest.raises(FailedIntegrityError) as caught:
        send_files([source], local.client(port=proxy.port))
    assert caught.value.exit_code == 1
    assert caught.value.receipt.verdict == "INTEGRITY_FAILED"
    assert received(local.output) == []


def test_a_lost_coordinator_is_replaced(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """39: the client logs in again and goes on where it stopped."""
    cut = threading.Event()

    def spoil(number: int, offset: int, data: bytes) -> bytes | None:
        if number > 0 and offset > 100_000:
            cut.set()
        return None if number == 0 and cut.is_set() else data

    proxy = start_proxy(local.port, spoil)
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert cut.is_set()
    assert receipt.resumed_bytes > 0
    assert md5(local.output / receipt.saved_as) == md5(source)
    assert len(received(local.output)) == 1


# --- the source ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["truncate", "grow", "rewrite"])
def test_a_source_changed_while_it_is_sent_is_said_as_such(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy, change: str
) -> None:
    """20: never a verdict on a mixture, and the session goes on with the next file."""
    source = random_file(tmp_path / "x", 30_000_000)
    good = random_file(tmp_path / "good", 1000)

    def alter(data: bytes) -> bytes:
        if change == "truncate":
            os.truncate(source, 10_000)
        with open(source, "r+b") as file:
            file.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
            file.write(b"changed")
        return data

    proxy = start_proxy(local.port, _once(alter))
    outcomes: list[object] = []
    with pytest.raises(SourceError, match=r"changed|shorter"):
        send_files(
            [source, good],
            local.client(port=proxy.port),
            report=lambda path, outcome: outcomes.append(type(outcome).__name__),
        )
    assert outcomes == ["SourceError", "Receipt"]
    (saved,) = received(local.output)
    assert saved.name.endswith("_good")


def test_sources_that_fail_do_not_use_up_the_buffers(local: ServerThread, tmp_path: Path) -> None:
    """20: after more failures than there are buffers, a good file is still sent."""
    bad = Path("/sys/class/net/lo/mtu")  # says 4096 bytes, has five
    good = random_file(tmp_path / "good", 1_000_000)
    with pytest.raises(SourceError):
        send_files([bad] * 6 + [good], local.client(streams=1))
    assert [md5(path) for path in received(local.output)] == [md5(good)]


def test_a_sparse_file_arrives_with_its_zeros(local: ServerThread, tmp_path: Path) -> None:
    """21: holes are bytes like others."""
    source = tmp_path / "sparse"
    source.write_bytes(b"head")
    os.truncate(source, 5_000_000)
    (receipt,) = send_files([source], local.client())
    assert receipt.digest == hashlib.md5(b"head" + bytes(4_999_996)).hexdigest()


# --- the server's disk and its own bugs ---------------------------------------------------------


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _broken(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    ("call", "failure", "code"),
    [
        ("posix_fallocate", _full, "space"),
        ("pwrite", _full, "space"),
        ("pwrite", _broken, "disk"),
        ("fdatasync", _broken, "disk"),
        ("fsync", _broken, "disk"),
        ("link", _full, "space"),
    ],
)
def test_a_disk_error_is_a_clean_rejection(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: Callable[..., None],
    code: str,
) -> None:
    """33 and 34: whatever call fails, the client is told and the next file works.

    Only a whole file that could not get its name stays for a resume.
    """
    source = random_file(tmp_path / "x", 1_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failure)
        patch.setattr("lft.store.partfile.sync_data", os.fdatasync)
        patch.setattr("lft.store.journal.sync_data", os.fdatasync)
        with pytest.raises(RejectedError) as caught:
            send_files([source], local.client())
    assert caught.value.code == code
    assert caught.value.exit_code == 4
    eventually(lambda: local.server._service.parts.in_use == 0)
    assert len(part_files(local.output)) == (call == "link")
    assert received(local.output) == []
    still_serves(local.port, tmp_path)


@pytest.mark.parametrize("method", ["_store_block", "_on_transfer_complete", "verify_blocks"])
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
        patch.setattr(Service, method, lambda *_: 1 / 0)
        service = local.server._service
        answers = Service._handlers(service)
        patch.setattr(service, "_answers", answers)
        patch.setattr(config, "RETRY_LONGEST", 0.1)
        patch.setattr(config, "PATIENCE", 2)
        with pytest.raises(TransferError):
            send_files([source], local.client(timeout=1.0))
    assert "ZeroDivisionError" in caplog.text
    eventually(lambda: local.server._service.parts.in_use == 0)
    still_serves(local.port, tmp_path)


def test_a_block_that_was_under_way_when_its_session_ended_is_nobodys_fault(
    local: ServerThread,
) -> None:
    """36: after a ``kill -9`` of a client the server has nothing to warn of."""
    stream = peer()
    stream.session = Session("u", 0, peer())
    stream.session.closed = True
    header = BlockHeader(1, 0, 10, 10, CODEC_RAW, bytes(32))
    with pytest.raises(ConnectionLostError, match="its session has ended"):
        local.server._service._room_for(stream, header)


def test_hundreds_of_idle_connections_and_their_end(local: ServerThread, tmp_path: Path) -> None:
    """29: idle connections cost a descriptor each, no thread, and are all closed at the end."""
    sockets = [raw_socket(local.port) for _ in range(300)]
    assert len([t for t in threading.enumerate() if t.name.startswith("worker")]) <= 10
    still_serves(local.port, tmp_path)
    for sock in sockets:
        sock.close()


# --- who may go on with a part file -------------------------------------------------------------


class Valve:
    """Lets so many bytes of each data connection pass, then nothing, until it is opened."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.shut = threading.Event()  # set when the first connection has had its share
        self.all_shut = False  # whether the coordinator is held, too
        self.open = threading.Event()

    def __call__(self, number: int, offset: int, data: bytes) -> bytes:
        """Hold a piece of data, or not."""
        if number > 0 and offset > self._most:
            self.shut.set()
        if (number > 0 and offset > self._most) or self.all_shut:
            self.open.wait(3 * PATIENCE)
        return data


@pytest.fixture
def valve() -> Iterator[Valve]:
    """A valve that is open at the end, whatever happens."""
    one = Valve(1_000_000)
    yield one
    one.open.set()


class Background:
    """A client in a thread; ``receipts`` is filled when it is done."""

    def __init__(self, source: Path, settings: ClientSettings) -> None:
        self.receipts: list[Receipt] = []
        self._thread = threading.Thread(target=self._run, args=(source, settings))
        self._thread.start()

    def _run(self, source: Path, settings: ClientSettings) -> None:
        self.receipts += send_files([source], settings)

    def join(self) -> Receipt:
        """Wait for its receipt."""
        self._thread.join(2 * PATIENCE)
        return self.receipts[0]


def test_a_half_open_connection_keeps_nobody_from_going_on(
    local: ServerThread,
    tmp_path: Path,
    start_proxy: StartProxy,
    valve: Valve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40: the client comes back before the server knows that its old connection is dead."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", 0.6)
    proxy = start_proxy(local.port, valve)
    source = random_file(tmp_path / "x", 10_000_000)
    old = Background(source, local.client(port=proxy.port, timeout=30.0))
    assert valve.shut.wait(PATIENCE)
    valve.all_shut = True
    began = time.monotonic()
    (receipt,) = send_files([source], local.client())
    assert time.monotonic() - began < SOON
    assert receipt.resumed_bytes > 0
    assert [md5(path) for path in received(local.output)] == [md5(source)]
    valve.all_shut = False
    valve.open.set()  # the old client learns that it was robbed, and gets a file of its own
    assert old.join().verdict == "INTEGRITY_OK"


def test_a_stopped_client_keeps_nobody_from_going_on(
    local: ServerThread,
    tmp_path: Path,
    start_proxy: StartProxy,
    valve: Valve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """43: suspended with Ctrl-Z and forgotten; the same command in another window goes on."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", 0.6)
    proxy = start_proxy(local.port, valve)
    source = random_file(tmp_path / "x", 10_000_000)
    command = client_command(proxy.port, source, "--quiet")
    with subprocess.Popen(command, env=environment()) as stopped:
        try:
            assert valve.shut.wait(PATIENCE)
            stopped.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            (receipt,) = send_files([source], local.client())
            assert time.monotonic() - began < SOON
        finally:
            stopped.kill()
    assert receipt.resumed_bytes > 0
    assert [md5(path) for path in received(local.output)] == [md5(source)]


def test_a_live_client_is_not_robbed_however_slow_it_is(
    local: ServerThread,
    tmp_path: Path,
    start_proxy: StartProxy,
    valve: Valve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """43: it answers the question whether it lives; the other one gets a file of its own."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", PATIENCE)
    proxy = start_proxy(local.port, valve)
    source = random_file(tmp_path / "x", 10_000_000)
    slow = Background(source, local.client(port=proxy.port, timeout=30.0))
    assert valve.shut.wait(PATIENCE)
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 0
    valve.open.set()
    assert slow.join().resumed_bytes == 0
    assert [md5(path) for path in received(local.output)] == 2 * [md5(source)]


@pytest.mark.parametrize("lives", [True, False])
def test_who_does_not_answer_ping_loses_its_part_file(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """43: one that answers goes on undisturbed; one that does not is told that it was taken."""
    monkeypatch.setattr(config, "PROBE_TIMEOUT", PATIENCE if lives else 0.6)
    content = os.urandom(10 * 4096)
    with RawClient(local.port).log_in() as first, RawClient(local.port).log_in() as second:
        upload = first.start("x", content, 4096, resume=True)
        data = first.attach()
        upload.send(data, *range(5))
        second.control.send(FileStart("x", len(content), 4096, "md5", _head(content), resume=True))
        assert isinstance(first.answer(), Ping)
        if lives:
            first.control.send(Pong())
        ready = second.answer()
        assert isinstance(ready, FileReady)
        assert ready.have == (() if lives else ((0, 5),))
        if lives:
            upload.send(data, *range(5, 10))
            assert isinstance(upload.complete(), IntegrityOk)
        else:
            answer = first.answer()
            while isinstance(answer, Ping):  # it is asked more than once
                answer = first.answer()
            assert isinstance(answer, Rejected)
            assert answer.code == "taken"


def _head(content: bytes) -> str:
    return hashlib.md5(content[:4096]).hexdigest()


def test_two_that_resume_at_once_get_one_part_file_and_a_new_one(
    local: ServerThread, tmp_path: Path
) -> None:
    """43: one goes on, the other starts anew, both are right."""
    source = random_file(tmp_path / "x", 1_000_000)
    _interrupted(local, source)
    both = [Background(source, local.client()) for _ in range(2)]
    assert sorted(one.join().resumed_bytes for one in both) == [0, 2 * 200 * 1024]
    assert [md5(path) for path in received(local.output)] == 2 * [md5(source)]


def test_a_part_file_that_rests_while_it_is_looked_for_is_found(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """43: the old attempt ends between two looks of the new one, which goes on all the same."""
    content = os.urandom(10 * 4096)
    resume, parts = PartStore.resume, local.server._service.parts

    def late(store: PartStore, *wanted: Any) -> object:
        found = resume(store, *wanted)
        if parts.in_use and not found:
            first.control.send(Goodbye())
            eventually(lambda: parts.in_use == 0, "the old attempt to end")
        return found

    with RawClient(local.port).log_in() as first, RawClient(local.port).log_in() as second:
        first.start("x", content, 4096, resume=True).send(first.attach(), *range(5))
        monkeypatch.setattr(PartStore, "resume", late)
        second.control.send(FileStart("x", len(content), 4096, "md5", _head(content), resume=True))
        ready = second.answer()
        assert isinstance(ready, FileReady)
        assert ready.have == ((0, 5),)


def _interrupted(local: ServerThread, source: Path) -> None:
    """Leave a part file of ``source`` with its first two blocks."""
    with RawClient(local.port).log_in() as client:
        upload = client.start(source.name, source.read_bytes(), resume=True)
        upload.send(client.attach(), 0, 1)
    eventually(lambda: local.server._service.parts.in_use == 0)


# --- the disk, when something rests on it -------------------------------------------------------


def _quota(*_: object, **__: object) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


FAILURES = [(_full, "space"), (_quota, "space"), (_broken, "disk"), (_read_only, "disk")]


@contextlib.contextmanager
def _no_records(monkeypatch: pytest.MonkeyPatch, failure: Callable[..., None]) -> Iterator[None]:
    """Have journals begin, but claim no block."""
    append = Journal.append

    def fail(journal: Journal, records: bytes) -> None:
        (append if records.endswith(b"}\n") else failure)(journal, records)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fail)
        yield


@pytest.mark.parametrize("failure", [_broken, _read_only])
def test_a_journal_that_cannot_be_written_is_a_clean_rejection(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[..., None],
) -> None:
    """33: at the first block; what was written before stays, and the same command goes on."""
    source = random_file(tmp_path / "x", 1_000_000)
    with _no_records(monkeypatch, failure), pytest.raises(RejectedError) as caught:
        send_files([source], local.client())
    assert caught.value.code == "disk"
    eventually(lambda: local.server._service.parts.in_use == 0)
    (receipt,) = send_files([source], local.client())
    assert [md5(path) for path in received(local.output)] == [receipt.digest]


@pytest.mark.parametrize("failure", [_full, _quota])
def test_a_file_whose_room_is_reserved_arrives_on_a_disk_too_full_for_its_journal(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Callable[..., None],
) -> None:
    """33: it cannot be resumed, and that is said once; nothing of it stays behind."""
    source = random_file(tmp_path / "x", 3_000_000)
    with _no_records(monkeypatch, failure):
        (receipt,) = send_files([source], local.client())
    assert [md5(path) for path in received(local.output)] == [receipt.digest]
    assert sum("disk full" in record.message for record in caplog.records) == 1
    eventually(lambda: part_files(local.output) == [])


def test_what_a_full_disk_did_not_let_the_journal_claim_is_sent_again(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33: who breaks off meanwhile begins anew, and the right file arrives."""
    source = random_file(tmp_path / "x", 1_000_000)
    with _no_records(monkeypatch, _full):
        _interrupted(local, source)
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 0
    assert [md5(path) for path in received(local.output)] == [receipt.digest]


@pytest.mark.parametrize("call", ["open_carefully", "posix_fallocate"])
@pytest.mark.parametrize(("failure", "code"), FAILURES)
def test_a_part_file_that_cannot_be_opened_again_is_a_clean_rejection(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: Callable[..., None],
    code: str,
) -> None:
    """33: what is there is kept; when the disk works again the same command goes on."""
    source = random_file(tmp_path / "x", 1_000_000)
    _interrupted(local, source)
    with monkeypatch.context() as patch:
        patch.setattr(partfile if call == "open_carefully" else os, call, failure)
        if (call, failure) == ("open_carefully", _broken):  # set aside: another one may go better
            assert send_files([source], local.client())[0].resumed_bytes == 0
            received(local.output)[0].unlink()
        else:
            with pytest.raises(RejectedError) as caught:
                send_files([source], local.client())
            assert caught.value.code == code
    (receipt,) = send_files([source], local.client())
    assert receipt.resumed_bytes == 2 * 200 * 1024
    assert [md5(path) for path in received(local.output)] == [receipt.digest]


def test_a_partial_folder_that_is_deleted_meanwhile_is_a_clean_rejection(
    local: ServerThread, tmp_path: Path
) -> None:
    """33: the transfer that runs is not published; when the folder is back, all is well."""
    partial = local.output / PARTIAL
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(300_000))
        data = client.attach()
        upload.send(data, 0)
        shutil.rmtree(partial)
        upload.send(data, 1)
        answer = upload.complete()
        assert isinstance(answer, Rejected)
        assert answer.code == "disk"
    assert received(local.output) == []
    partial.mkdir()
    still_serves(local.port, tmp_path)


# --- a stuck disk -------------------------------------------------------------------------------

STUCK = """
import sys, threading
import config, server
from lft.store.journal import Journal
from lft.store.partfile import PartFile

config.EXIT_TIMEOUT = 0.3

def hang(*_):
    print("stuck", flush=True)
    threading.Event().wait()

{what} = hang
sys.exit(server.main(["--port", "0", "--output", sys.argv[1], "--grace", "0"]))
"""


@contextlib.contextmanager
def _stuck_server(folder: Path, what: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server in which one function never returns; give its process and port."""
    script = folder / "stuck.py"
    script.write_text(STUCK.format(what=what))
    with subprocess.Popen(
        [sys.executable, str(script), str(folder / "out")], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**environment(), "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


@pytest.mark.parametrize(
    "what", ["PartFile.write", "PartFile.flush", "PartFile.publish", "Journal.append"]
)
def test_a_worker_that_hangs_does_not_keep_the_server_from_ending(
    tmp_path: Path, what: str
) -> None:
    """38: a dead disk holds a thread for ever; the process ends all the same, with exit 0."""
    with _stuck_server(tmp_path, what) as (process, port), RawClient(port).log_in() as client:
        client.control.send(FileStart("x", 4096, 4096, "md5", MD5, resume=False))
        if what != "Journal.append":  # else creating the part file hangs
            ready = client.answer()
            assert isinstance(ready, FileReady)
            upload = RawUpload(client, ready.transfer, bytes(4096), 4096)
            data = client.attach()
            push(data, upload.frame(0))
            if what != "PartFile.write":  # else no acknowledgement comes
                upload.await_acks(data, 1)
                client.control.send(TransferComplete(upload.number, upload.digest))
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "a worker hangs" in errors
    assert "Traceback" not in errors


def test_a_disk_that_hangs_at_the_very_end_does_not_keep_the_server_from_ending(
    tmp_path: Path,
) -> None:
    """38: the main thread itself lets go of part files; nothing may hold it for ever either."""
    what = "PartFile.remove"
    with _stuck_server(tmp_path, what) as (process, port), RawClient(port).log_in() as client:
        client.start("x", bytes(4096))
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in errors
