"""Transfers over TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest

from client import send_files
from config import KB
from lft.server.work_queue import WorkQueue
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.frames import encode
from lft.wire.tls import client_tls
from lft.wire.tls_stream import MOST_WITHOUT_DATA, TlsLayer
from protocol import VERSION, Attach, AuthenticationError, Hello, IntegrityOk, Side, State
from tests.support.certificates import Pki, tls, tls_options
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.processes import StartServer, run_client
from tests.support.rawpeer import Peer, is_open, last_words, push, raw_socket
from tests.support.relays import Relay
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import Fault, FaultProxy, Plan, Way, What


def client_hello() -> bytes:
    """Return the first message of a TLS client that knows no more than TLS 1.2."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    half = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


def test_a_large_file_arrives_over_tls(secure: ServerThread, pki: Pki, tmp_path: Path) -> None:
    """27: 20 MB, encrypted, are the same at the other end."""
    source = random_file(tmp_path / "large.bin", 20 * 1024 * KB)
    (receipt,) = send_files([source], secure.client(ca=pki.ca))
    assert receipt.verdict == "INTEGRITY_OK"
    assert [md5(path) for path in received(secure.output)] == [md5(source)]


def test_a_client_started_with_a_ca_speaks_tls(
    start_server: StartServer, pki: Pki, tmp_path: Path
) -> None:
    """27: two real processes; no option but --ca is needed."""
    server = start_server(*tls_options(pki.server))
    source = random_file(tmp_path / "x", 300_000)
    done = run_client(server.port, source, "--ca", pki.ca)
    assert done.returncode == 0, done.stderr
    assert "over TLS" in done.stderr


def test_half_a_client_hello_holds_nobody_up(
    start_local: StartLocal, pki: Pki, tmp_path: Path
) -> None:
    """27: the only worker serves another client meanwhile."""
    local = start_local(workers=1, **tls(pki.server))
    hello = client_hello()
    with raw_socket(local.port, hello[: len(hello) // 2]) as half:
        send_files([random_file(tmp_path / "x", 300_000)], local.client(ca=pki.ca))
        assert is_open(half)


def test_half_a_client_hello_is_closed_at_the_login_deadline(
    start_local: StartLocal, pki: Pki
) -> None:
    """27 and 4: the handshake is part of the login, and has its deadline."""
    local = start_local(login_timeout=0.2, **tls(pki.server))
    hello = client_hello()
    with raw_socket(local.port, hello[: len(hello) // 2]) as half:
        assert last_words(half) == b""


@pytest.mark.parametrize("version", [b"\3\1", b"\3\2", b"\3\3"])
def test_an_old_tls_is_refused(
    secure: ServerThread, version: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """27: TLS 1.0, 1.1 and 1.2 get the alert for it, and one line in the log."""
    hello = bytearray(client_hello())
    hello[9:11] = version
    with raw_socket(secure.port, bytes(hello)) as sock:
        assert last_words(sock)[-2:] == bytes([2, 70])  # fatal, protocol_version
    assert len(lines(caplog, "TLS: unsupported protocol")) == 1
    assert len(caplog.messages) == 1


def test_a_plain_client_at_a_tls_port_is_one_line_in_the_log(
    start_server: StartServer, pki: Pki, tmp_path: Path
) -> None:
    """27 and 5; what the client says is told in tests/programs/test_wrong_server.py."""
    server = start_server(*tls_options(pki.server))
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--timeout", "2")
    assert done.returncode == 2
    eventually(lambda: server.log.count("does not speak TLS") == 1)


def test_a_tls_client_at_a_plain_port_is_one_line_in_the_log(
    start_server: StartServer, pki: Pki, tmp_path: Path
) -> None:
    """27 and 5; what the client says is told in tests/programs/test_wrong_server.py."""
    server = start_server()
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--ca", pki.ca)
    assert done.returncode == 2
    eventually(lambda: server.log.count("TLS") == 1)


def test_a_peer_that_goes_on_with_broken_records_is_no_internal_error(
    secure: ServerThread, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    """27 and 5: what comes behind the first bad record is thrown away in silence."""
    with Peer(secure.port, ca=pki.ca) as peer:
        peer.hello(peer.control)
        with socket.socket(fileno=os.dup(peer.control.fileno())) as twin:
            for _ in range(2):
                twin.sendall(b"\x17\3\3\0\x20" + bytes(32))
                last_words(twin)
    secure.stop()
    assert len(caplog.messages) == 1


def test_a_plain_peer_that_goes_on_talking_to_a_tls_port_is_no_internal_error(
    secure: ServerThread, caplog: pytest.LogCaptureFixture
) -> None:
    """27 and 5: what comes behind the first wrong bytes is thrown away in silence."""
    with raw_socket(secure.port, b"GET / HTTP/1.1\r\n\r\n") as sock:
        last_words(sock)
        sock.sendall(b"more of it\r\n")
    eventually(lambda: not secure.server.connections.peers, "the connection to be forgotten")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("what", [What.FINISH, What.RESET])
@pytest.mark.parametrize("way", [Way.UP, Way.DOWN])
def test_a_cut_without_close_notify_is_no_end_of_a_file(
    secure: ServerThread, pki: Pki, tmp_path: Path, what: What, way: Way
) -> None:
    """27 and 39: a data connection cut in the middle of a block is replaced."""
    source = random_file(tmp_path / "x", 3_000_000)
    fault = Fault(what, way, at=500_000 if way is Way.UP else 4000)
    with FaultProxy(secure.port) as proxy:
        proxy.plan(Plan(faults=(fault,)))
        proxy.plan(Plan(), 0)  # the coordinator
        settings = secure.client(port=proxy.port, ca=pki.ca, streams=1, block_size=4 * KB)
        (receipt,) = send_files([source], settings)
        assert proxy.happened(fault) == 1
    assert receipt.digest == md5(source)
    assert [md5(path) for path in received(secure.output)] == [md5(source)]


def test_a_session_cut_without_close_notify_goes_on(
    secure: ServerThread, pki: Pki, tmp_path: Path
) -> None:
    """27 and 39: all connections at once; the same transfer ends with the right file."""
    source = random_file(tmp_path / "x", 8_000_000)
    with FaultProxy(secure.port) as proxy, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_files, [source], secure.client(port=proxy.port, ca=pki.ca))
        proxy.forwarded(1_000_000)
        proxy.reset()
        (receipt,) = sending.result(PATIENCE)
    assert receipt.verdict == "INTEGRITY_OK"
    assert [md5(path) for path in received(secure.output)] == [md5(source)]


def slicing(port: int, way: Way) -> Callable[[socket.socket], None]:
    """Return what passes a connection on to ``port``, one way in single bytes."""

    def pump(source: socket.socket, sink: socket.socket, size: int) -> None:
        with contextlib.suppress(OSError):  # one side has gone
            for data in iter(lambda: source.recv(size), b""):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def handle(near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up, down = (1, 65536) if way is Way.UP else (65536, 1)
            back = threading.Thread(target=pump, args=(far, near, down))
            back.start()
            pump(near, far, up)
            back.join(PATIENCE)

    return handle


@pytest.mark.parametrize("way", [Way.UP, Way.DOWN])
def test_tls_records_sliced_to_single_bytes_work_as_whole_ones(
    secure: ServerThread, pki: Pki, tmp_path: Path, way: Way
) -> None:
    """27 and 2: handshake, login and blocks, in either direction."""
    source = random_file(tmp_path / "x", 1000)
    with Relay(slicing(secure.port, way)) as relay:
        settings = secure.client(port=relay.port, ca=pki.ca, streams=1)
        (receipt,) = send_files([source], settings)
    assert receipt.digest == md5(source)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_leaves_a_tls_connection_forgets_nothing(
    start_local: StartLocal, pki: Pki, tmp_path: Path, workers: int
) -> None:
    """27: what was decrypted and not read yet is read by the worker that comes next."""
    local = start_local(workers=workers, **tls(pki.server))
    sources = [random_file(tmp_path / f"{n}", 2_000_000 + n, seed=n) for n in range(4)]
    with ThreadPoolExecutor(len(sources)) as pool:
        done = pool.map(lambda source: send_files([source], local.client(ca=pki.ca)), sources)
    assert [receipt.verdict for (receipt,) in done] == ["INTEGRITY_OK"] * len(sources)
    assert sorted(map(md5, received(local.output))) == sorted(map(md5, sources))


def test_what_a_worker_has_decrypted_and_left_is_taken_up_at_once(
    secure: ServerThread, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """27: the socket has nothing more to tell, and still all blocks are acknowledged."""
    monkeypatch.setattr(WorkQueue, "pressed", property(lambda _: True))
    with Peer(secure.port, ca=pki.ca).log_in("user1", "password1") as peer:
        upload = peer.start("x", os.urandom(50_000), block_size=4 * KB)
        data = peer.attach()
        push(data, b"".join(upload.frame(index) for index in range(13)))
        upload.await_acks(data, 13)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("secured", [True, False])
def test_the_time_a_limit_takes_is_not_the_clients(
    start_local: StartLocal, pki: Pki, *, secured: bool
) -> None:
    """4 and 27: what is here and has to rest is not late, and no worker spins for it."""
    options = tls(pki.server) if secured else {}
    local = start_local(limit=14 * KB, block_timeout=0.3, **options)
    ca = pki.ca if secured else None
    with Peer(local.port, ca=ca).log_in("user1", "password1") as peer:
        upload, data = peer.start("x", os.urandom(21 * KB), block_size=7 * KB), peer.connect()
        start = Hello(VERSION, FEATURES), Attach(peer.token)
        for message in start:
            data.dialogue.sent(message)
        push(data, b"".join([*map(encode, start), *map(upload.frame, range(3))]))
        upload.await_acks(data, 3)
        assert isinstance(upload.complete(), IntegrityOk)


def test_a_peer_that_says_goodbye_in_tls_is_forgotten(secure: ServerThread, pki: Pki) -> None:
    """27: a close_notify is the end of the stream, and no worker goes round in circles for it."""
    with Peer(secure.port, ca=pki.ca) as peer:
        peer.hello(peer.control)
        peer.control.finish()
        eventually(lambda: not secure.server.connections.peers, "the connection to be forgotten")


def test_main_does_not_spin_for_a_goodbye_that_finds_no_room(
    secure: ServerThread, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """27 and 41: the last words fill the system's buffer to the brim; the close_notify waits."""
    flush, calls = Connection.flush, []

    def fill(connection: Connection) -> bool:
        if connection.dialogue.side is Side.SERVER and connection.state is State.CLOSED:
            calls.append(connection)
            with contextlib.suppress(BlockingIOError):
                while len(calls) == 1:
                    connection._socket.send(bytes(100_000))
        return flush(connection)

    with Peer(secure.port, ca=pki.ca) as peer:
        peer.hello(peer.control)
        monkeypatch.setattr(Connection, "flush", fill)
        peer.control.push(b"\0\0\0\1?")
        eventually(lambda: not secure.server.connections.peers, "the connection to be forgotten")
    assert len(calls) < 10


def test_a_wrong_password_over_tls_is_exit_3(
    secure: ServerThread, pki: Pki, tmp_path: Path
) -> None:
    """22 and 27: the words are those of a plain connection, and there is no second attempt."""
    settings = secure.client(ca=pki.ca, password="wrong")
    words = r"^unknown user or wrong password \(--user user1\)$"
    with pytest.raises(AuthenticationError, match=words):
        send_files([random_file(tmp_path / "x", 10)], settings)


def test_records_that_carry_no_data_end_their_connection(
    secure: ServerThread,
    pki: Pki,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """27: before any login a peer may send KeyUpdate after KeyUpdate, at any rate, for ever."""
    read_into = TlsLayer.read_into

    def as_key_updates(layer: TlsLayer, view: memoryview) -> int:
        read_into(layer, view)  # the records are opened, and what they carry is no data
        return 0

    with socket.create_connection(("127.0.0.1", secure.port), timeout=PATIENCE) as plain:
        context = client_tls(pki.ca)
        with context.wrap_socket(plain, server_hostname="localhost") as flood:
            monkeypatch.setattr(TlsLayer, "read_into", as_key_updates)
            with contextlib.suppress(OSError):
                for _ in range(2 * MOST_WITHOUT_DATA // 1000):
                    flood.sendall(bytes(1000))
            eventually(lambda: lines(caplog, "carry no data"), "the connection to be ended")
