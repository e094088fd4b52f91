"""Who gets in over which channel, and how much of the server one of them may take.

TLS, tokens, rights and quotas, delays and limits, seen from outside. The numbers are those of the
project's fault list.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import hmac
import os
import resource
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Iterator

import jwt
import pytest
import trustme
from conftest import (
    PATIENCE,
    ROOT,
    RawClient,
    RawUpload,
    ServerProcess,
    ServerThread,
    StartLocal,
    StartServer,
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
    run_client,
)
from proxy import Fault, FaultProxy, Plan, Way, What
from test_security import Impostor

import config
import server as server_module
from client import send_files
from config import ClientSettings, ServerSettings
from lft.accounts import throttle
from lft.accounts.account import MIN_ITERATIONS, Accounts, Credential, Credentials
from lft.accounts.file import load_credentials, save_credentials
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.accounts.scram import SCRAM_PLUS, ScramClient
from lft.accounts.throttle import FREE_ACCOUNT, FREE_PAIR, GUESSES_AT_ONCE, LONGEST_ACCOUNT_DELAY
from lft.accounts.tokens import make_token, signing_key
from lft.server.transfer import Transfer
from lft.server.work_queue import WorkQueue
from lft.wire.channel_binding import server_end_point
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.frames import encode
from lft.wire.tls import client_tls, server_tls
from protocol import (
    SCRAM,
    TOKEN,
    VERSION,
    Attach,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    Cancel,
    ConnectionLostError,
    Error,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
    IntegrityOk,
    Message,
    Ping,
    Pong,
    Queued,
    Rejected,
    RejectedError,
    RemoteProtocolError,
    Side,
    State,
    TransferError,
    UsageError,
)

PASSWORD = "open sesame"
VERIFIER = Credential.make(PASSWORD, iterations=MIN_ITERATIONS)
TOKEN_KEY = bytes(range(32))
PNG = b"\x89PNG\r\n\x1a\n"
KB = 1024


def account(**limits: Any) -> Credential:
    """Return an account whose password is ``PASSWORD``."""
    return dataclasses.replace(VERIFIER, **limits)


Serve = Callable[..., ServerThread]


@pytest.fixture
def serve(start_local: StartLocal, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Start servers in threads, with accounts of the test's own."""

    def start(users: Credentials, **changes: Any) -> ServerThread:
        monkeypatch.setattr("lft.accounts.account.demo_credentials", lambda: users)
        return start_local(**changes)

    return start


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let wrong logins cost no time."""
    for name in ("FREE_PAIR", "FREE_ADDRESS", "FREE_ACCOUNT"):
        monkeypatch.setattr(throttle, name, 1_000_000)


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """Return what was logged that has ``words`` in it."""
    return [text for text in caplog.messages if words in text]


class Peer(RawClient):
    """A raw client that can speak TLS and come from another address of this machine."""

    def __init__(self, port: int, *, ca: Path | None = None, source: str = "127.0.0.1") -> None:
        self._tls = client_tls(ca) if ca else None
        self._source = source
        super().__init__(port)

    def __enter__(self) -> Peer:
        return self

    def connect(self) -> Connection:
        """Open one more connection."""
        sock = socket.create_connection(
            ("127.0.0.1", self.port), timeout=PATIENCE, source_address=(self._source, 0)
        )
        host = "localhost" if self._tls else None
        self._connections.append(Connection(sock, Side.CLIENT, self._tls, host))
        self._connections[-1].secure_channel(PATIENCE)
        return self._connections[-1]

    def log_in(self, user: str = "alice", password: str = PASSWORD) -> Peer:
        """Log in with a password, bound to the certificate where there is one."""
        self.prove(user, password)
        welcome = self.control.answer(PATIENCE)
        assert isinstance(welcome, AuthOk)
        self._login.check_server(welcome.data)
        self.token = welcome.token
        return self

    def prove(self, user: str = "alice", password: str = PASSWORD) -> AuthChallenge:
        """Say all that a login takes and do not wait for the answer."""
        self.hello(self.control)
        certificate = self.control.certificate
        binding = server_end_point(certificate) if certificate else None
        self._login = login = ScramClient(user, password, binding=binding)
        challenge = self.control.call(AuthStart(login.mechanism, login.first()), PATIENCE)
        assert isinstance(challenge, AuthChallenge)
        self.control.send(AuthResponse(login.respond(challenge.data)))
        return challenge

    def show(self, token: str) -> Message:
        """Log in with a token."""
        self.hello(self.control)
        return self.control.call(AuthStart(TOKEN, token), PATIENCE)

    def ask(self, name: str, size: int, *, head: bytes = b"", resume: bool = False) -> Message:
        """Announce a file; return the answer."""
        digest = hashlib.md5(head).hexdigest()
        self.control.send(FileStart(name, size, 200 * KB, "md5", digest, resume))
        return self.answer()


def is_open(sock: socket.socket | Connection) -> bool:
    """Whether the server has neither closed a connection nor said anything on it."""
    with socket.socket(fileno=os.dup(sock.fileno())) as twin:
        try:
            twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        return False


# --- TLS ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Pki:
    """A certificate authority and what it has issued, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.server = self.issue("server")
        self.other = self.issue("other")  # another one for the same host

    def issue(self, name: str, host: str = "localhost", **options: Any) -> Pair:
        """Issue a certificate for ``host``."""
        issued = self._authority.issue_cert(host, **options)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        issued.private_key_pem.write_to_path(str(pair.key))
        issued.cert_chain_pems[0].write_to_path(str(pair.cert))
        return pair


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """One certificate authority for all tests."""
    return Pki(tmp_path_factory.mktemp("pki"))


def tls(pair: Pair) -> dict[str, Any]:
    """Return the server settings for a certificate."""
    return {"tls_cert": pair.cert, "tls_key": pair.key}


def tls_options(pair: Pair) -> list[str]:
    """Return the same for the command line."""
    return ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]


@pytest.fixture
def secure(start_local: StartLocal, pki: Pki) -> ServerThread:
    """One server in a thread that speaks TLS."""
    return start_local(**tls(pki.server))


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


def test_a_plain_client_at_a_tls_port_is_told_so(
    start_server: StartServer, pki: Pki, tmp_path: Path
) -> None:
    """27 and 5: exit 5, one clear line on each side."""
    server = start_server(*tls_options(pki.server))
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--timeout", "2")
    assert done.returncode == 5
    assert done.stderr.endswith("TLS is spoken here: add --tls\n")
    assert done.stderr.count("\n") == 1
    assert server.log.count("does not speak TLS") == 1


def test_a_tls_client_at_a_plain_port_is_told_so(
    start_server: StartServer, pki: Pki, tmp_path: Path
) -> None:
    """27 and 5: exit 5, one clear line on each side."""
    server = start_server()
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--ca", pki.ca)
    assert done.returncode == 5
    assert done.stderr.endswith("the peer does not speak TLS\n")
    assert done.stderr.count("\n") == 1
    assert server.log.count("TLS") == 1


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
    eventually(lambda: not secure.server._peers, "the connection to be forgotten")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        ("localhost", {"not_after": "past"}, "certificate has expired"),
        ("elsewhere.example", {}, "Hostname mismatch"),
        ("localhost", None, "unable to get local issuer certificate"),
    ],
    ids=["expired", "wrong host", "untrusted"],
)
def test_a_certificate_that_is_not_to_be_trusted_is_exit_3(
    start_local: StartLocal,
    tmp_path: Path,
    host: str,
    options: dict[str, str] | None,
    words: str,
) -> None:
    """27: the client says why, once, and sends nothing."""
    own = Pki(tmp_path)
    dates = {"not_after": datetime(2020, 1, 2), "not_before": datetime(2020, 1, 1)}
    pair = own.issue("bad", host, **(dates if options else {}))
    (tmp_path / "foreign").mkdir()
    ca = own.ca if options is not None else Pki(tmp_path / "foreign").ca
    local = start_local(**tls(pair))
    done = run_client(local.port, random_file(tmp_path / "x", 10), "--ca", ca)
    assert done.returncode == 3
    assert "certificate is not to be trusted" in done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert received(local.output) == []


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("server.pem", "", "go together"),
        ("", "server.key", "go together"),
        ("missing.pem", "server.key", "No such file"),
        ("server.pem", "missing.key", "No such file"),
        ("server.pem", "other.key", "do not belong together"),
        ("server.key", "server.key", "there is no certificate"),
        ("server.pem", "server.pem", "there is no private key"),
    ],
)
def test_a_server_whose_certificate_cannot_work_does_not_start(
    pki: Pki,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cert: str,
    key: str,
    words: str,
) -> None:
    """27: exit 2, one line that says why."""
    options = ["--port", "0", "--output", str(tmp_path / "output")]
    options += ["--tls-cert", str(pki.ca.with_name(cert))] if cert else []
    options += ["--tls-key", str(pki.ca.with_name(key))] if key else []
    assert server_module.main(options) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


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


class Relay:
    """Accepts connections and has ``handle`` pass each on, in a thread of its own."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the listener has been closed
            while True:
                near, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._handle, args=(near,)))
                self._threads[-1].start()


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


def _shaken(connection: Connection) -> bool:
    """Whether the handshake is over on this side, too: it can end on the other one first."""
    return connection._tls is not None and connection._tls.ready


@contextlib.contextmanager
def secure_pair(pki: Pki) -> Iterator[tuple[Connection, Connection]]:
    """Give both ends of one connection, client and server, that have shaken hands."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        client = Connection(far, Side.CLIENT, client_tls(pki.ca), "localhost")
        context = server_tls(pki.server.cert, pki.server.key)
        server = Connection(listener.accept()[0], Side.SERVER, context)
    with contextlib.closing(client), contextlib.closing(server):
        with ThreadPoolExecutor(1) as pool:
            shaking = pool.submit(client.secure_channel, PATIENCE)
            while not (shaking.done() and _shaken(server)):
                server.receive()
        yield client, server


def test_last_words_before_a_close_are_heard_over_tls(pki: Pki) -> None:
    """27: a message, its close_notify and the end of the stream may come in one go."""
    with secure_pair(pki) as (client, server):
        server.send(Error("authentication", "no"))
        server.finish()
        server.close()
        with socket.socket(fileno=os.dup(client.fileno())) as twin:
            eventually(lambda: _has_ended(twin), "the end of the stream")
        assert client.receive() == Error("authentication", "no")


def test_a_message_that_comes_in_many_tls_records_is_waited_for(pki: Pki) -> None:
    """27 and 2: its first part must not keep the receiver busy until the rest is there."""
    with secure_pair(pki) as (client, server):
        message = Hello(VERSION, FEATURES)
        heard = []
        for byte in encode(message):
            client.push(bytes([byte]))
            assert server.wait(PATIENCE)
            heard.append(server.receive())
    assert heard == [None] * (len(heard) - 1) + [message]


def _has_ended(sock: socket.socket) -> bool:
    """Whether the end of the stream is here, behind bytes that nobody has read."""
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == 8  # TCP_CLOSE_WAIT


def test_a_peer_that_says_goodbye_in_tls_is_forgotten(secure: ServerThread, pki: Pki) -> None:
    """27: a close_notify is the end of the stream, and no worker goes round in circles for it."""
    with Peer(secure.port, ca=pki.ca) as peer:
        peer.hello(peer.control)
        peer.control.finish()
        eventually(lambda: not secure.server._peers, "the connection to be forgotten")


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
        eventually(lambda: not secure.server._peers, "the connection to be forgotten")
    assert len(calls) < 10


def test_a_goodbye_that_finds_no_room_is_said_later(pki: Pki) -> None:
    """27 and 41: a peer that reads late learns that it was no cut."""
    with secure_pair(pki) as (client, server):
        assert client.receive() is None  # what TLS itself has to say after the handshake
        filler = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filler += server._socket.send(bytes(100_000))
        server.finish()
        assert server.unsent
        while filler:
            filler -= client._raw_into(memoryview(bytearray(min(filler, 100_000))))
        assert server.flush()
        server.finish()
        with pytest.raises(ConnectionLostError, match="the peer closed"):
            client.answer(PATIENCE)


def test_a_wrong_password_over_tls_is_exit_3(
    secure: ServerThread, pki: Pki, tmp_path: Path
) -> None:
    """22 and 27: the words are those of a plain connection, and there is no second attempt."""
    settings = secure.client(ca=pki.ca, password="wrong")
    with pytest.raises(AuthenticationError, match=r"^unknown user or wrong password$"):
        send_files([random_file(tmp_path / "x", 10)], settings)


# --- a man in the middle ------------------------------------------------------------------------

Change = Callable[[Message], Message]


def interception(
    port: int, pair: Pair, ca: Path, change: Change
) -> Callable[[socket.socket], None]:
    """Return what ends TLS with ``pair`` and passes each message on over TLS of its own."""

    def handle(sock: socket.socket) -> None:
        beyond = socket.create_connection(("127.0.0.1", port))
        near = Connection(sock, Side.SERVER, server_tls(pair.cert, pair.key))
        far = Connection(beyond, Side.CLIENT, client_tls(ca), "localhost")
        with contextlib.closing(near), contextlib.closing(far), contextlib.suppress(TransferError):
            far.secure_channel(PATIENCE)
            while True:
                far.send(change(_hear(near)))
                near.send(change(_hear(far)))

    return handle


def _hear(connection: Connection) -> Message:
    """Wait for a message, an ERROR as well."""
    while True:
        message = connection.receive()
        if message:
            return message
        connection.wait(PATIENCE)


def _strip(message: Message) -> Message:
    """Make it seem that the server cannot bind a login."""
    return Hello(VERSION, FEATURES) if isinstance(message, Hello) else message


def _disguise(message: Message) -> Message:
    """Do that, and ask for the bound login in the client's name."""
    if isinstance(message, AuthStart):
        return AuthStart(SCRAM_PLUS, message.data)
    return _strip(message)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda message: message, "the login is bound to another connection"),
        (_strip, "this server wants SCRAM-SHA-256-PLUS"),
        (_disguise, "the login is not bound to this TLS connection"),
    ],
    ids=["passes on", "strips", "strips and asks"],
)
def test_a_man_in_the_middle_with_a_good_certificate_is_found_out(
    secure: ServerThread, pki: Pki, tmp_path: Path, change: Change, words: str
) -> None:
    """27: the login is bound to the certificate that the client saw: exit 3, nobody is let in."""
    handle = interception(secure.port, pki.other, pki.ca, change)
    with Relay(handle) as relay, pytest.raises(AuthenticationError, match=words) as caught:
        send_files([random_file(tmp_path / "x", 10)], secure.client(port=relay.port, ca=pki.ca))
    assert caught.value.exit_code == 3


def ending_tls(port: int, pair: Pair) -> Callable[[socket.socket], None]:
    """Return what ends TLS with ``pair`` and passes a connection on to ``port`` without it."""
    context = server_tls(pair.cert, pair.key)

    def handle(sock: socket.socket) -> None:
        near = context.wrap_socket(sock, server_side=True)
        far = socket.create_connection(("127.0.0.1", port))
        with near, far, contextlib.suppress(OSError):  # one side has gone
            data = b"both are open"
            while data:
                for ready in select.select([near, far], [], [], PATIENCE)[0]:
                    data = ready.recv(65536)  # a record has 16 KB: nothing stays behind
                    (far if ready is near else near).sendall(data)

    return handle


def test_tls_may_end_in_front_of_the_server(local: ServerThread, pki: Pki, tmp_path: Path) -> None:
    """As with stunnel: the server cannot bind the login, its HELLO says so, and we get in."""
    source = random_file(tmp_path / "x", 1_000_000)
    with Relay(ending_tls(local.port, pki.server)) as relay:
        (receipt,) = send_files([source], local.client(port=relay.port, ca=pki.ca))
    assert receipt.digest == md5(source)


def test_a_login_that_is_not_bound_is_refused_over_tls(secure: ServerThread, pki: Pki) -> None:
    """27: whoever does not say which certificate it has seen does not get in."""
    with Peer(secure.port, ca=pki.ca) as peer:
        peer.hello(peer.control)
        with pytest.raises(AuthenticationError, match="SCRAM-SHA-256-PLUS"):
            peer.control.call(AuthStart(SCRAM, ScramClient("user1", "x").first()), PATIENCE)


# --- a renewed certificate ----------------------------------------------------------------------


@pytest.fixture
def renewable(start_server: StartServer, pki: Pki, tmp_path: Path) -> tuple[ServerProcess, Pair]:
    """A real server whose certificate can be exchanged."""
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    _exchange(pair, pki.server)
    return start_server(*tls_options(pair)), pair


def _exchange(pair: Pair, new: Pair) -> None:
    pair.cert.write_bytes(new.cert.read_bytes())
    pair.key.write_bytes(new.key.read_bytes())


def _shown(server: ServerProcess) -> str:
    return ssl.get_server_certificate(("127.0.0.1", server.port))


def test_sighup_brings_a_new_certificate_without_a_restart(
    renewable: tuple[ServerProcess, Pair], pki: Pki
) -> None:
    """27: new connections see it, and logins are bound to it; a session goes on."""
    server, pair = renewable
    assert _shown(server) == pki.server.cert.read_text()
    with Peer(server.port, ca=pki.ca).log_in("user1", "password1") as before:
        _exchange(pair, pki.other)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "has been read again" in server.log, "the new certificate")
        assert _shown(server) == pki.other.cert.read_text()
        with Peer(server.port, ca=pki.ca) as after:
            after.log_in("user1", "password1")
        upload = before.start("x", b"x" * 10)
        upload.send(before.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)


def test_sighup_with_a_broken_certificate_keeps_the_old_one(
    renewable: tuple[ServerProcess, Pair], pki: Pki
) -> None:
    """27: one line says so."""
    server, pair = renewable
    pair.key.write_bytes(pki.other.key.read_bytes())
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "stays in use" in server.log, "the complaint")
    assert _shown(server) == pki.server.cert.read_text()
    assert server.log.count("stays in use") == 1


def test_a_certificate_replaced_while_it_is_read_does_not_break_logins(
    serve: Serve, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """27: logins are bound to the one that is shown, whichever of the two that is."""
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    _exchange(pair, pki.server)
    load = server_tls

    def replaced(cert: Path, key: Path) -> ssl.SSLContext:
        context = load(cert, key)
        _exchange(pair, pki.other)
        return context

    monkeypatch.setattr("lft.wire.tls.server_tls", replaced)
    local = serve({"alice": VERIFIER}, **tls(pair))
    with Peer(local.port, ca=pki.ca) as peer:
        peer.log_in()


def test_a_certificate_that_never_stays_the_same_is_refused(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """27: the server does not start, and says why, rather than try for ever."""
    bindings = iter(range(1000))
    monkeypatch.setattr("lft.wire.tls.certificate_binding", lambda _: next(bindings))
    settings = ServerSettings(port=0, output=tmp_path / "output", **tls(pki.server))
    with pytest.raises(UsageError, match="replaced all the time"):
        server_module.Server(settings, {})


# --- tokens -------------------------------------------------------------------------------------

ALICE_ALONE = Accounts({"alice": VERIFIER}, token_key=TOKEN_KEY)
SIGNING_KEY = signing_key(TOKEN_KEY, VERIFIER)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a token of alice's; a change to ``None`` leaves one out."""
    now = int(time.time())
    whole = {"sub": "alice", "iat": now, "exp": now + 600, "jti": "0123456789abcdef", **changes}
    return {key: value for key, value in whole.items() if value is not None}


def token(key: Any = SIGNING_KEY, algorithm: str = "HS256", **changes: Any) -> str:
    """Have a token made by somebody else's program."""
    return jwt.encode(claims(**changes), key, algorithm)


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "no signature": lambda: token(None, "none"),
    "another algorithm": lambda: token(SIGNING_KEY * 2, "HS512"),
    "another key": lambda: token(bytes(32)),
    "the file's key itself": lambda: token(TOKEN_KEY),
    "expired": lambda: token(exp=int(time.time()) - 1, iat=int(time.time()) - 100),
    "not yet valid": lambda: token(nbf=int(time.time()) + 300),
    "from the future": lambda: token(iat=int(time.time()) + 300),
    "unknown user": lambda: token(sub="nobody"),
    "nobody's key": lambda: token(signing_key(TOKEN_KEY, None), sub="nobody"),
    "no user": lambda: token(sub=None),
    "no end": lambda: token(exp=None),
    "no beginning": lambda: token(iat=None),
    "no number": lambda: token(jti=None),
    "one claim more": lambda: token(admin=True),
    "trailing bytes": lambda: token() + "AAAA",
    "trailing part": lambda: token() + ".AAAA",
    "padding": lambda: token() + "=",
    "cut": lambda: token()[:-4],
    "no token": lambda: "nonsense",
    "nothing": lambda: "",
    "not ASCII": lambda: "é.é.é",
    "too long": lambda: "A" * 1024,
}


@pytest.mark.parametrize("kind", list(BAD_TOKENS))
def test_a_bad_token_gets_the_one_answer(serve: Serve, kind: str) -> None:
    """24: byte by byte the same, whatever is wrong with it."""
    local = serve(ALICE_ALONE)
    request = encode(Hello(VERSION, FEATURES)) + encode(AuthStart(TOKEN, BAD_TOKENS[kind]()))
    with raw_socket(local.port, request) as sock:
        words = last_words(sock)
    hello = encode(Hello(VERSION, FEATURES))
    assert words == hello + encode(Error("authentication", "the token is not valid"))


def test_bad_tokens_cost_a_growing_delay(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """23 and 24: whoever tries tokens waits like whoever tries passwords."""
    local = serve(ALICE_ALONE)
    for _ in range(FREE_PAIR + 1):
        with Peer(local.port) as peer, pytest.raises(AuthenticationError):
            peer.show("x.y.z")
    assert [line.rpartition("waits ")[2] for line in lines(caplog, "its login waits")] == ["0.5 s"]


def test_a_good_token_works_on_loopback(serve: Serve) -> None:
    """24: the account's priority and rights come with it."""
    users = {"alice": account(priority=7, directory="alice")}
    local = serve(Accounts(users, token_key=TOKEN_KEY))
    with Peer(local.port) as peer:
        welcome = peer.show(token())
        assert isinstance(welcome, AuthOk)
        assert welcome.priority == 7
        peer.token = welcome.token
        upload = peer.start("x", b"x")
        upload.send(peer.attach(), 0)
        answer = upload.complete()
    assert isinstance(answer, IntegrityOk)
    assert answer.saved_as.startswith("alice/")


def test_a_good_token_works_over_tls(serve: Serve, pki: Pki, tmp_path: Path) -> None:
    """24 and 27: for a whole transfer, with no user name and no password."""
    local = serve(ALICE_ALONE, **tls(pki.server))
    settings = local.client(ca=pki.ca, token=make_token(ALICE_ALONE, "alice", 60), user="?")
    (receipt,) = send_files([random_file(tmp_path / "x", 10)], settings)
    assert receipt.verdict == "INTEGRITY_OK"


def test_a_token_file_stands_in_for_a_password(serve: Serve, tmp_path: Path) -> None:
    """24: on the command line; nobody is asked for anything."""
    local = serve(ALICE_ALONE)
    (tmp_path / "token").write_text(make_token(ALICE_ALONE, "alice", 60) + "\n")
    source = random_file(tmp_path / "x", 10)
    done = run_client(local.port, source, "--token-file", tmp_path / "token")
    assert done.returncode == 0, done.stderr


def test_a_bad_token_is_exit_3(serve: Serve, tmp_path: Path) -> None:
    """24: one line, no second attempt."""
    local = serve(ALICE_ALONE)
    (tmp_path / "token").write_text(token(bytes(32)))
    source = random_file(tmp_path / "x", 10)
    done = run_client(local.port, source, "--token-file", tmp_path / "token")
    assert done.returncode == 3
    assert done.stderr.endswith("❌ the token is not valid\n")
    assert done.stderr.count("\n") == 1


def test_a_token_of_a_user_who_was_removed_is_bad(serve: Serve) -> None:
    """24: the account counts, not what the token says."""
    local = serve(Accounts({"bob": VERIFIER}, token_key=TOKEN_KEY))
    with Peer(local.port) as peer, pytest.raises(AuthenticationError, match="token is not valid"):
        peer.show(token())


def test_a_client_shows_no_token_to_a_distant_server_without_tls(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24: it ends before the token leaves, with exit 2 and what to do."""
    monkeypatch.setattr("lft.client.connect.is_loopback", lambda host: False)
    heard: list[Message] = []
    answers = local.server._service._answers
    monkeypatch.setitem(answers, AuthStart, lambda peer, message: heard.append(message))
    with pytest.raises(UsageError, match="add --tls") as caught:
        send_files([random_file(tmp_path / "x", 10)], local.client(token="a.b.c"))
    assert caught.value.exit_code == 2
    assert heard == []


def test_a_server_believes_no_token_from_afar_without_tls(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24: everybody on the way has read it."""
    local = serve(ALICE_ALONE)
    monkeypatch.setattr("lft.server.service.is_loopback", lambda host: False)
    with Peer(local.port) as peer, pytest.raises(AuthenticationError, match="over TLS only"):
        peer.show(token())


def test_a_login_does_not_wait_for_the_servers_hello(tmp_path: Path) -> None:
    """A round trip saved: AUTH_START has come before the server says anything."""

    def script(server: Impostor) -> None:
        control = server.accept()
        heard.extend(control.answer(PATIENCE) for _ in range(2))
        control.send(Hello(VERSION, FEATURES))
        control.send(Error("authentication", "so far so good"))

    heard: list[Message] = []
    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port)
    with contextlib.closing(impostor), pytest.raises(AuthenticationError, match="so far so good"):
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert [type(message) for message in heard] == [Hello, AuthStart]


def test_no_token_is_shown_before_the_servers_hello(tmp_path: Path) -> None:
    """24: who mistypes the port must not give the token to another program."""

    def script(server: Impostor) -> None:
        control = server.accept()
        heard.append(control.answer(PATIENCE))
        control.send(Hello(VERSION - 1, FEATURES))  # of no use: the client goes
        with contextlib.suppress(ConnectionLostError):
            heard.append(control.answer(PATIENCE))
        over.set()

    heard: list[Message] = []
    over = threading.Event()
    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port, token="a.b.c")
    with contextlib.closing(impostor), pytest.raises(RemoteProtocolError, match="speak version"):
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert over.wait(PATIENCE)
    assert [type(message) for message in heard] == [Hello]


@pytest.mark.parametrize("shown", ["", "a.b.c"], ids=["password", "token"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Hello(VERSION - 1, FEATURES), f"does not speak version {VERSION}"),
        (Hello(VERSION, ("sha256",)), "does not know md5"),
    ],
    ids=["another version", "no MD5"],
)
def test_a_server_of_no_use_is_told_whatever_it_says_to_the_login(
    tmp_path: Path, answer: Hello, words: str, shown: str
) -> None:
    """Its HELLO comes first: what follows it, about an AUTH_START it may not know, is not heard."""

    def script(server: Impostor) -> None:
        control = server.accept()
        control.answer(PATIENCE)
        control.send(answer)
        control.send(Error("authentication", "whatever that is"))

    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port, timeout=0.5, token=shown or None)
    with contextlib.closing(impostor), pytest.raises(RemoteProtocolError, match=words) as caught:
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert caught.value.exit_code == 5


def test_a_real_server_of_another_version_says_so_although_a_login_has_come_along(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads on until we have read its last words: they are not lost in a reset."""
    monkeypatch.setattr("client.VERSION", VERSION - 1)
    words = f"this server speaks version {VERSION}, the client {VERSION - 1}"
    with pytest.raises(RemoteProtocolError, match=words):
        send_files([random_file(tmp_path / "x", 10)], local.client())


def test_a_server_that_lets_in_without_a_proof_is_refused(tmp_path: Path) -> None:
    """26: AUTH_OK at once may answer a token, never a password: exit 3."""

    def script(server: Impostor) -> None:
        control = server.accept()
        server.greet(control)
        assert isinstance(control.answer(PATIENCE), AuthStart)
        control.send(AuthOk("", "t" * 20, 0))

    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port)
    with contextlib.closing(impostor), pytest.raises(
        AuthenticationError, match="without a proof"
    ) as caught:
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert caught.value.exit_code == 3


def test_a_server_that_wants_a_password_for_a_token_is_refused(tmp_path: Path) -> None:
    """26: a challenge is no answer to a token: exit 3."""

    def script(server: Impostor) -> None:
        control = server.accept()
        server.greet(control)
        control.answer(PATIENCE)
        control.send(AuthChallenge("r=x,s=AAAA,i=4096"))

    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port, token="a.b.c")
    with contextlib.closing(impostor), pytest.raises(
        AuthenticationError, match="does not take tokens"
    ):
        send_files([random_file(tmp_path / "x", 10)], settings)


# --- wrong logins -------------------------------------------------------------------------------


def _shape(challenge: AuthChallenge) -> list[tuple[str, int]]:
    """Return the fields of a challenge with their lengths."""
    return [(part[:1], len(part)) for part in challenge.data.split(",")]


def _failed_login(port: int, user: str) -> tuple[list[tuple[str, int]], str, bytes]:
    """Try a wrong password; return what may not differ between users."""
    with Peer(port) as peer:
        challenge = peer.prove(user, "wrong")
        count = challenge.data.rpartition("i=")[2]
        with socket.socket(fileno=os.dup(peer.control.fileno())) as twin:
            return _shape(challenge), count, last_words(twin)


def test_unknown_user_and_wrong_password_are_the_same_on_the_wire(
    serve: Serve, no_delays: None
) -> None:
    """22: the same fields of the same lengths, and the same bytes at the end."""
    closed = account(disabled=True)
    local = serve(Accounts({"alice": VERIFIER, "carla": closed}))
    shapes = [_failed_login(local.port, user) for user in ("alice", "bobby", "carla")]
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0][2] == encode(Error("authentication", "unknown user or wrong password"))


CLOSED = [
    ({"disabled": True}, "the account of alice is closed"),
    ({"expires": 1}, "the account of alice has expired"),
    ({}, "unknown user or wrong password"),
]


@pytest.mark.parametrize(("limits", "reason"), CLOSED)
def test_the_log_says_why_a_closed_account_does_not_get_in(
    serve: Serve, caplog: pytest.LogCaptureFixture, limits: dict[str, Any], reason: str
) -> None:
    """22: the operator reads it; the client is told what it is told of a wrong password."""
    local = serve({"alice": account(**limits)})
    with Peer(local.port) as peer:
        peer.prove(password=PASSWORD if limits else "wrong")
        with pytest.raises(AuthenticationError, match="unknown user or wrong password"):
            peer.control.answer(PATIENCE)
    assert [line.rpartition("login failed: ")[2] for line in lines(caplog, "login failed")] == [
        reason
    ]


@pytest.mark.parametrize(("limits", "reason"), CLOSED[:2])
def test_the_log_says_why_a_token_of_a_closed_account_is_bad(
    serve: Serve, caplog: pytest.LogCaptureFixture, limits: dict[str, Any], reason: str
) -> None:
    """24: and the client is told what it is told of every bad token."""
    local = serve(Accounts({"alice": account(**limits)}, token_key=TOKEN_KEY))
    with Peer(local.port) as peer, pytest.raises(AuthenticationError, match="token is not valid"):
        peer.show(token())
    assert [line.rpartition("login failed: ")[2] for line in lines(caplog, "login failed")] == [
        reason
    ]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """What workers compute: each call of something with keys or hashes, and how much goes in."""
    done: list[tuple[str, list[int]]] = []

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name.startswith("worker"):
                done.append((name, [len(one) for one in arguments if isinstance(one, bytes)]))
            return function(*arguments, **options)

        return call

    for module, name in ((hmac, "new"), (hmac, "compare_digest"), (hashlib, "sha256"),
                         (hashlib, "pbkdf2_hmac")):  # fmt: skip
        monkeypatch.setattr(module, name, recorded(name, getattr(module, name)))
    return done


def test_unknown_user_and_wrong_password_cost_the_same_work(
    serve: Serve, no_delays: None, work: list[tuple[str, list[int]]]
) -> None:
    """22: the same hashes over as many bytes, in the same order, so that no clock can tell."""
    users = {"alice": VERIFIER, "carla": account(disabled=True), "david": account(expires=1)}
    local = serve(Accounts(users))
    costs = []
    for user in ("alice", "bobby", "carla", "david"):
        work.clear()
        _failed_login(local.port, user)
        costs.append(list(work))
    assert {name for name, _ in costs[0]} == {"new", "sha256", "compare_digest"}
    assert costs[0] == costs[1] == costs[2] == costs[3]


def test_an_unknown_users_salt_stays_the_same(serve: Serve, no_delays: None) -> None:
    """22: one that changes with each attempt would tell that nobody has it."""
    local = serve({"alice": VERIFIER})
    salts = set()
    for _ in range(2):
        with Peer(local.port) as peer:
            salts.add(peer.prove("nobody", "wrong").data.split(",")[1])
    assert len(salts) == 1


def fail(local: ServerThread, times: int, user: str = "alice", address: str = "127.0.0.1") -> None:
    """Let the server remember failed logins."""
    for _ in range(times):
        local.server._service.delays.attempt(user, address)


@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_each_wrong_password_costs_more_than_the_one_before(
    serve: Serve, caplog: pytest.LogCaptureFixture, user: str
) -> None:
    """23 and 22: two slips of the finger are free, then the delay doubles, also for no user."""
    local = serve({"alice": VERIFIER})
    for _ in range(FREE_PAIR + 2):
        with Peer(local.port) as peer, pytest.raises(AuthenticationError):
            peer.log_in(user, "wrong")
    waits = [line.rpartition("waits ")[2] for line in lines(caplog, "its login waits")]
    assert waits == ["0.5 s", "1.0 s"]


def test_a_login_that_had_to_wait_gets_in_with_the_right_password(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """23: a delay is no lock, and it is forgotten with the first success."""
    local = serve({"alice": VERIFIER})
    fail(local, FREE_PAIR)
    for _ in range(2):
        with Peer(local.port) as peer:
            peer.log_in()
    assert len(lines(caplog, "its login waits")) == 1


def test_the_right_user_elsewhere_gets_in_while_somebody_guesses(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """23: guessing at one address costs the user at another one nothing, or next to it."""
    local = serve({"alice": VERIFIER})
    fail(local, GUESSES_AT_ONCE)
    fail(local, FREE_ACCOUNT - GUESSES_AT_ONCE - 1, address="127.0.0.3")
    with Peer(local.port) as guesser, Peer(local.port, source="127.0.0.2") as owner:
        guesser.prove(password="wrong")
        fail(local, 1)
        eventually(lambda: lines(caplog, "waits 15.0 s"), "the guesser's delay")
        owner.log_in()
        assert is_open(guesser.control)
    (wait,) = [text for text in lines(caplog, "its login waits") if "127.0.0.2" in text]
    assert float(wait.split()[-2]) <= LONGEST_ACCOUNT_DELAY


def test_of_too_many_logins_that_wait_the_last_is_refused_unseen(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23: the right password does not help, nor does its refusal tell that it was right."""
    local = serve({"alice": VERIFIER})
    now = time.monotonic()  # nobody's wait gets shorter, however slow this login is
    monkeypatch.setattr(local.server._service.delays, "_clock", lambda: now)
    fail(local, 100)
    with Peer(local.port) as peer:
        peer.prove()
        with pytest.raises(AuthenticationError, match="too many wrong passwords"):
            peer.control.answer(PATIENCE)


def test_a_login_that_waits_holds_no_worker(serve: Serve, tmp_path: Path) -> None:
    """23: with a single worker another user's transfer runs meanwhile."""
    local = serve({"alice": VERIFIER, "bob": VERIFIER}, workers=1)
    fail(local, 8)
    with Peer(local.port) as waiting:
        waiting.prove()
        settings = local.client(user="bob", password=PASSWORD)
        send_files([random_file(tmp_path / "x", 300_000)], settings)
        assert is_open(waiting.control)


def test_a_client_that_leaves_while_its_login_waits_leaves_no_session(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """23: a GOODBYE in the meantime, even with the right password, is no internal error."""
    local = serve({"alice": VERIFIER})
    fail(local, FREE_PAIR)
    with Peer(local.port) as peer:
        peer.prove()
        peer.control.send(Goodbye())
        eventually(lambda: not local.server._peers, "the connection to be forgotten")
    assert lines(caplog, "internal error") == []
    assert local.server._service.registry._sessions == {}


def test_a_login_whose_time_is_up_is_not_judged_any_more(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """4 and 23: the deadline ends it, though its password is right."""
    local = serve({"alice": VERIFIER}, login_timeout=1.0)
    fail(local, FREE_PAIR + 2)  # the next waits 2 s: to the time for our last words
    with Peer(local.port) as peer:
        peer.prove()
        with pytest.raises(ConnectionLostError, match="too slow"):
            peer.control.answer(PATIENCE)
        eventually(lambda: not local.server._peers, "the connection to be forgotten")
    assert lines(caplog, "internal error") == []
    assert local.server._service.registry._sessions == {}


# --- what a user may send -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "options", "code", "words"),
    [
        ({"allow_ext": (".pdf",)}, {}, "extension", "only .pdf may be sent here"),
        ({}, {"allow_ext": (".pdf", ".zip")}, "extension", "only .pdf, .zip may be sent here"),
        ({"allow_ext": (".txt",)}, {"allow_ext": (".pdf",)}, "extension", "only .pdf"),
        ({"max_file_size": 9}, {}, "size", "10 bytes is more than 9 bytes, the most here"),
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
    assert done.stdout.startswith("INTEGRITY_OK")


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
    registry = local.server._service.registry
    begun, overtaken = threading.Event(), threading.Event()
    enter = registry.enter

    def slow(transfer: Transfer) -> int:
        if transfer.name == "first":
            begun.set()
            assert overtaken.wait(PATIENCE)
        return enter(transfer)

    monkeypatch.setattr(registry, "enter", slow)
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


def interrupted(local: ServerThread, name: str, data: bytes, user: str = "alice") -> RawUpload:
    """Send the first block of a file and go away; return what was sent."""
    before = len(part_files(local.output))
    with Peer(local.port).log_in(user) as peer:
        upload = peer.start(name, data)
        upload.send(peer.attach(), 0)
    eventually(lambda: local.server._service.parts.in_use == 0, "the part file to rest")
    assert len(part_files(local.output)) == before + 1
    return upload


def test_an_unfinished_file_counts_against_the_quota(serve: Serve) -> None:
    """13: it takes room on the disk until somebody goes on with it."""
    local = serve({"alice": account(quota=500 * KB)})
    interrupted(local, "x", os.urandom(400 * KB))
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("y", 200 * KB)
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


def test_a_verdict_that_was_lost_can_be_asked_for_again_within_the_quota(serve: Serve) -> None:
    """13 and 37: the published file is not counted against itself."""
    local = serve({"alice": account(quota=300 * KB)})
    data = os.urandom(200 * KB)
    with Peer(local.port).log_in() as peer:
        upload = peer.start("x", data, resume=True)
        upload.send(peer.attach(), 0)
        first = upload.complete()
        assert isinstance(first, IntegrityOk)
    eventually(lambda: local.server._service.parts.in_use == 0, "the part file to rest")
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
    eventually(lambda: local.server._service.parts.in_use == 0, "the part files to rest")
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
        (transfer,) = local.server._service.registry.active()
        with transfer.part():  # as a worker does that writes or flushes
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


def test_a_new_session_is_no_way_around_a_limit(serve: Serve) -> None:
    """A block is paid for also by who leaves before: his next connection rests in its place."""
    local = serve({"alice": account(limit=10 * KB)})
    data = os.urandom(400 * KB)
    interrupted(local, "x", data)
    with Peer(local.port).log_in() as peer:
        peer.start("x", data, resume=True)
        peer.attach()
        (it,) = (one for one in local.server._peers if one.blocks)
        eventually(lambda: it.resting, "it to wait for its turn")


def test_large_blocks_of_one_user_do_not_use_up_the_time_of_another(serve: Serve) -> None:
    """A limit is shared by bytes: who brings 40 MB at once waits for that, and he alone."""
    local = serve({"alice": VERIFIER, "bob": VERIFIER}, limit=1024 * KB)
    large, small = bytes(40 * 1024 * KB), bytes(1000 * KB)
    with Peer(local.port).log_in() as alice, Peer(local.port).log_in("bob") as bob:
        upload = alice.start("large", large, 4096 * KB)
        for block in range(len(upload.blocks)):
            upload.send(alice.attach(), block)
        bob.start("small", small).send(bob.attach(), 0)
        (transfer,) = (one for one in local.server._service.registry.active() if one.user == "bob")
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


def test_a_bind_mount_below_the_output_directory_is_refused_before_a_byte_is_sent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11: of the same device, so that only a link shows that nothing could be published there."""
    local = serve({"alice": account(directory="alice")})
    link = os.link

    def as_to_a_mount(source: Path, target: Path, **options: Any) -> None:
        if target.parent == local.output / "alice":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target, **options)

    monkeypatch.setattr(os, "link", as_to_a_mount)
    with Peer(local.port).log_in() as peer:
        answer = peer.ask("x", 10)
    assert isinstance(answer, Rejected)
    assert answer.code == "disk"
    assert part_files(local.output) == []


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
    """13: its first blocks are enough, nobody has to send the rest."""
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
    """13: so are kinds that nobody knows a beginning of."""
    local = serve({"alice": account(allow_ext=(".png", ".dat", ".tar.gz"))})
    source = tmp_path / name
    source.write_bytes(content)
    (receipt,) = send_files([source], local.client(user="alice", password=PASSWORD))
    assert receipt.verdict == "INTEGRITY_OK"


def test_without_restrictions_a_name_promises_nothing(local: ServerThread, tmp_path: Path) -> None:
    """13: a .png with anything in it is a file like another."""
    source = random_file(tmp_path / "x.png", 10)
    (receipt,) = send_files([source], local.client())
    assert receipt.verdict == "INTEGRITY_OK"


# --- a credential file that changes -------------------------------------------------------------


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    """A credential file with alice in it."""
    path = tmp_path / "users.json"
    save_credentials(path, Accounts({"alice": VERIFIER}))
    return path


@pytest.fixture
def stored(serve: Serve, users_file: Path, no_delays: None) -> ServerThread:
    """A server that reads this file as server.py does."""
    return serve(server_module._credentials(ServerSettings(credentials=users_file)))


def gets_in(local: ServerThread, user: str) -> bool:
    """Whether a user can log in."""
    with Peer(local.port) as peer:
        try:
            peer.log_in(user)
        except AuthenticationError:
            return False
        return True


def test_a_user_added_while_the_server_runs_gets_in(stored: ServerThread, users_file: Path) -> None:
    """25: without a restart or a signal."""
    assert not gets_in(stored, "bob")
    save_credentials(users_file, Accounts({"alice": VERIFIER, "bob": VERIFIER}))
    assert gets_in(stored, "bob")


@pytest.mark.parametrize(
    "users", [{}, {"alice": account(disabled=True)}, {"alice": account(expires=1)}]
)
def test_a_user_taken_away_while_the_server_runs_does_not_get_in(
    stored: ServerThread, users_file: Path, users: dict[str, Credential]
) -> None:
    """25: removed, disabled or expired."""
    assert gets_in(stored, "alice")
    save_credentials(users_file, Accounts(users))
    assert not gets_in(stored, "alice")


@pytest.mark.parametrize(
    "users",
    [
        {},
        {"alice": account(disabled=True)},
        {"alice": account(expires=1)},
        {"alice": Credential.make("another", iterations=MIN_ITERATIONS)},
    ],
)
def test_who_is_taken_away_while_logged_in_begins_no_other_file(
    stored: ServerThread, users_file: Path, users: dict[str, Credential]
) -> None:
    """25: removed, disabled, expired or with a new password; what runs may end."""
    data = os.urandom(10)
    with Peer(stored.port).log_in() as peer:
        upload = peer.start("x", data)
        save_credentials(users_file, Accounts(users))
        upload.send(peer.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)
        with pytest.raises(AuthenticationError, match="the account has"):
            peer.ask("y", 10)


def test_who_gets_other_limits_while_logged_in_sends_on(
    stored: ServerThread, users_file: Path
) -> None:
    """25: they hold from the next login on."""
    with Peer(stored.port).log_in() as peer:
        save_credentials(users_file, Accounts({"alice": account(quota=1)}))
        assert isinstance(peer.ask("x", 10), FileReady)
    with Peer(stored.port).log_in() as peer:
        assert isinstance(peer.ask("y", 10), Rejected)


def test_a_broken_credential_file_changes_nothing(
    stored: ServerThread, users_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """25: the last good accounts stay in force, and one line says so."""
    users_file.write_text("{")
    assert gets_in(stored, "alice")
    assert gets_in(stored, "alice")
    assert len(lines(caplog, "the accounts read before stay in force")) == 1


def test_a_credential_file_that_others_can_read_by_now_changes_nothing(
    stored: ServerThread, users_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """25: what was read while it was private stays in force."""
    users_file.chmod(0o644)
    assert gets_in(stored, "alice")
    assert len(lines(caplog, "others can read it")) == 1


# --- how much one of them may take --------------------------------------------------------------


def test_the_oldest_stranger_makes_way_for_a_newcomer(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: silent connections cannot keep out who wants to log in."""
    monkeypatch.setattr(config, "MAX_STRANGERS", 3)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw_socket(local.port)) for _ in range(3)]
        stack.enter_context(RawClient(local.port)).log_in()
        assert last_words(silent[0]) == b""
        assert is_open(silent[1])
        assert is_open(silent[2])


def test_who_has_logged_in_is_no_stranger(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: sessions neither count nor make way."""
    monkeypatch.setattr(config, "MAX_STRANGERS", 1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(local.port)).log_in() for _ in range(3)]
        assert all(is_open(client.control) for client in clients)


@pytest.mark.parametrize("limit", ["MAX_OF_ADDRESS", "MAX_CONNECTIONS"])
def test_a_full_house_of_sessions_turns_a_newcomer_away(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """29: nobody who has logged in is thrown out for it; room that is left can be taken."""
    monkeypatch.setattr(config, limit, 2)
    with RawClient(local.port).log_in() as first, RawClient(local.port).log_in() as second:
        with raw_socket(local.port) as third:
            assert last_words(third) == b""
        assert is_open(first.control)
        second.__exit__()
        eventually(lambda: len(local.server._peers) == 1, "the second one to be gone")
        with RawClient(local.port) as third_again:
            third_again.log_in()


def test_strangers_of_a_crowded_address_make_way_for_their_like(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: the oldest one of that address, and nobody from elsewhere."""
    monkeypatch.setattr(config, "MAX_OF_ADDRESS", 2)
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(Peer(local.port, source="127.0.0.2"))
        silent = [stack.enter_context(raw_socket(local.port)) for _ in range(2)]
        stack.enter_context(RawClient(local.port)).log_in()
        assert last_words(silent[0]) == b""
        assert is_open(silent[1])
        assert is_open(elsewhere.control)


def test_strangers_of_one_ipv6_network_are_of_one_address(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: who has IPv6 has 2**64 addresses, and would have as many limits."""
    monkeypatch.setattr(config, "MAX_OF_ADDRESS", 2)
    welcome = local.server._welcome

    def welcome_from(address: str) -> Callable[[socket.socket, str], None]:
        def disguised(sock: socket.socket, _: str) -> None:
            with monkeypatch.context() as patch:
                patch.setattr("lft.wire.connection.peer_address", lambda _: (address, 1))
                welcome(sock, address)

        return disguised

    with contextlib.ExitStack() as stack:
        strangers = []
        for number in range(4):
            address = f"2001:db8:0:{number == 0:d}::{number}"
            monkeypatch.setattr(local.server, "_welcome", welcome_from(address))
            strangers.append(stack.enter_context(raw_socket(local.port)))
            eventually(lambda: len(local.server._peers) == min(len(strangers), 3), "the next one")
        assert last_words(strangers[1]) == b""
        assert [is_open(one) for one in strangers] == [True, False, True, True]


def test_an_address_that_is_crowded_keeps_no_other_out(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29: the limit is each address's own."""
    monkeypatch.setattr(config, "MAX_OF_ADDRESS", 1)
    with RawClient(local.port).log_in(), Peer(local.port, source="127.0.0.2") as other:
        other.log_in("user1", "password1")


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


def test_a_server_out_of_descriptors_backs_off_and_recovers(
    server: ServerProcess, tmp_path: Path
) -> None:
    """29: it says so now and then, not in a loop, and takes the next client when it can."""
    pid = server.process.pid
    most = len(os.listdir(f"/proc/{pid}/fd")) + 5
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    began = time.monotonic()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(15):
            stack.enter_context(raw_socket(server.port))
        eventually(lambda: server.log.count("cannot accept") >= 2, "two attempts")
        tries = 2 + (time.monotonic() - began) / config.TICK
        assert server.log.count("cannot accept") <= tries
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--streams", "1")
    assert done.returncode == 0, done.stderr


# --- secrets ------------------------------------------------------------------------------------

SECRETS = ("hush-hush-password", "very.secret.token")


def test_the_settings_of_a_client_do_not_show_its_secrets() -> None:
    """Whoever logs or prints them gives nothing away."""
    settings = ClientSettings(password=SECRETS[0], token=SECRETS[1])
    assert not any(secret in repr(settings) + str(settings) for secret in SECRETS)


@pytest.mark.parametrize("kind", ["password", "token"])
def test_no_secret_reaches_a_log(
    start_server: StartServer, pki: Pki, users_file: Path, tmp_path: Path, kind: str
) -> None:
    """24: neither side's, at DEBUG, for a login that succeeds and one that fails."""
    accounts = load_credentials(users_file).with_token_key(renew=True)
    save_credentials(users_file, accounts)
    right = PASSWORD if kind == "password" else make_token(accounts, "alice", 60)
    wrong = SECRETS[kind == "token"]
    options = ["--credentials", str(users_file), "--log-level", "DEBUG"]
    server = start_server(*options, *tls_options(pki.server))
    source, heard = random_file(tmp_path / "x", 10), ""
    for secret, code in ((right, 0), (wrong, 3)):
        (tmp_path / "secret").write_text(secret)
        proof = [f"--{kind}-file", str(tmp_path / "secret"), "--user", "alice"]
        done = run_client(server.port, source, *proof, "--ca", pki.ca, "--log-level", "DEBUG")
        assert done.returncode == code, done.stderr
        heard += done.stdout + done.stderr
    server.stop()
    heard += server.log
    assert "logged in" in heard
    assert not any(secret in heard for secret in (right, wrong))
    assert not any(part in heard for part in right.split(".") if kind == "token")


def test_a_client_that_crashes_does_not_show_its_secrets(
    local: ServerThread, tmp_path: Path
) -> None:
    """A bug of ours is a traceback, and none of it quotes the password."""
    source = random_file(tmp_path / "x", 10)
    program = (
        "import sys, client\n"
        "def crash(self, path): raise RuntimeError(f'a bug in {self.settings!r}')\n"
        "client.Session.send = crash\n"
        "sys.exit(client.main(sys.argv[1:]))\n"
    )
    command = client_command(local.port, source)[2:]
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=ROOT,
        env={**environment(), PASSWORD_VARIABLE: "password1"},
    )  # fmt: skip
    assert "RuntimeError: a bug in ClientSettings(" in done.stderr
    assert "password1" not in done.stdout + done.stderr


def test_no_secret_is_an_argument(local: ServerThread, tmp_path: Path) -> None:
    """What everybody on the machine can see in the list of processes names files only."""
    secret, seen = tmp_path / "secret", set()
    secret.write_text("password1")
    os.mkfifo(tmp_path / "hold")  # the client waits in it for its password
    command = client_command(local.port, random_file(tmp_path / "x", 10), "--password-file",
                             tmp_path / "hold")  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          env=environment()) as process:  # fmt: skip
        hold = os.open(tmp_path / "hold", os.O_WRONLY)
        seen.add(Path(f"/proc/{process.pid}/cmdline").read_bytes())
        os.write(hold, b"password1\n")
        os.close(hold)
        assert process.wait(PATIENCE) == 0
    assert not any(b"password1" in line for line in seen)
