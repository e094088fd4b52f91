"""Who gets in, what crosses the wire, and what a hostile server can do to a client."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Iterator

import pytest
from conftest import (
    PATIENCE,
    ROOT,
    RawClient,
    ServerThread,
    StartServer,
    environment,
    random_file,
    received,
    run_client,
)

import config
from client import send_files
from config import ClientSettings
from lft.accounts import account
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.accounts.scram import ScramClient, ScramServer
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.frames import encode, encode_ack
from protocol import (
    VERSION,
    Attached,
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
    Hello,
    IntegrityOk,
    Message,
    Missing,
    ProtocolError,
    Rejected,
    Side,
    TransferComplete,
    TransferError,
    Why,
)


def _auth(*arguments: str | Path, password: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "auth.py"), *map(str, arguments)], text=True, check=False,
        env={**environment(), PASSWORD_VARIABLE: password}, capture_output=True,
    )  # fmt: skip


# --- accounts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "password"), [("user1", "wrong"), ("nobody", "password1")])
def test_a_failed_login_is_exit_3_and_tells_nothing(
    start_server: StartServer, tmp_path: Path, user: str, password: str
) -> None:
    """FAULTS 22: unknown user and wrong password get the same words."""
    server = start_server()
    source = random_file(tmp_path / "x", 10)
    done = run_client(server.port, source, "--user", user, variables={PASSWORD_VARIABLE: password})
    assert done.returncode == 3
    assert done.stderr.endswith("❌ unknown user or wrong password\n")
    assert received(server.output) == []


def test_accounts_made_with_auth_py_get_in_and_the_demo_ones_do_not(
    start_server: StartServer, tmp_path: Path
) -> None:
    """With --credentials only its users exist; the password comes from a file."""
    users, secret = tmp_path / "users.json", tmp_path / "secret"
    secret.write_text("correct horse\n")
    assert _auth("add", "ann", "--credentials", users, "--priority", "3",
                 "--password-file", secret).returncode == 0  # fmt: skip
    server = start_server("--credentials", str(users))
    source = random_file(tmp_path / "x", 10)
    assert run_client(server.port, source).returncode == 3
    done = run_client(server.port, source, "--user", "ann", "--password-file", secret)
    assert done.returncode == 0, done.stderr
    assert "logged in as ann (priority 3)" in server.log


def test_no_password_crosses_the_wire_or_reaches_a_log(
    start_server: StartServer, tmp_path: Path
) -> None:
    """SCRAM: who listens learns neither the password nor the verifier's keys."""
    server = start_server("--log-level", "DEBUG")
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=_listen_in, args=(listener, server.port, heard))]
        threads[0].start()
        source = random_file(tmp_path / "x", 10)
        done = run_client(
            listener.getsockname()[1], source, "--streams", "1", "--log-level", "DEBUG"
        )
        threads[0].join(PATIENCE)
    assert done.returncode == 0, done.stderr
    everything = b"".join(heard) + (done.stderr + server.log).encode()
    assert b"AUTH_RESPONSE" in everything
    assert b"password1" not in everything


def _listen_in(listener: socket.socket, port: int, heard: list[bytes]) -> None:
    """Pass the coordinator and one data connection on, and keep what was said."""
    with contextlib.ExitStack() as stack:
        pumps = []
        for _ in range(2):
            near = stack.enter_context(listener.accept()[0])
            far = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for source, sink in ((near, far), (far, near)):
                pumps.append(threading.Thread(target=_pump, args=(source, sink, heard)))
                pumps[-1].start()
        for pump in pumps:
            pump.join(PATIENCE)


def _pump(source: socket.socket, sink: socket.socket, heard: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # one side has gone
        for data in iter(lambda: source.recv(65536), b""):
            heard.append(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_a_replayed_proof_does_not_log_in(local: ServerThread) -> None:
    """FAULTS 22: the server's nonce is new each time."""
    login = ScramClient("user1", "password1", nonce="fixed")
    with RawClient(local.port) as client:
        client.hello(client.control)
        challenge = client.control.call(AuthStart("SCRAM-SHA-256", login.first()), PATIENCE)
        assert isinstance(challenge, AuthChallenge)
        proof = login.respond(challenge.data)
        assert isinstance(client.control.call(AuthResponse(proof), PATIENCE), AuthOk)
    with RawClient(local.port) as client:
        client.hello(client.control)
        client.control.call(AuthStart("SCRAM-SHA-256", login.first()), PATIENCE)
        with pytest.raises(AuthenticationError):
            client.control.call(AuthResponse(proof), PATIENCE)


def test_an_endless_nonce_is_refused_as_a_bad_login(local: ServerThread) -> None:
    """What the server would answer must fit a message; it is no internal error."""
    with RawClient(local.port) as client:
        client.hello(client.control)
        with pytest.raises(AuthenticationError, match="malformed"):
            client.control.call(AuthStart("SCRAM-SHA-256", f"n,,n=user1,r={'x' * 1000}"), PATIENCE)


def test_an_endless_user_name_is_a_usage_error(local: ServerThread, tmp_path: Path) -> None:
    """Exit 2, one line."""
    source = random_file(tmp_path / "x", 10)
    done = run_client(local.port, source, "--user", "x" * 1100, variables={PASSWORD_VARIABLE: "x"})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "..\\x", "x\0y", "\u202ex"])
def test_a_hostile_name_stays_in_the_output_directory(local: ServerThread, name: str) -> None:
    """FAULTS 8 and 9: whatever the client calls it, the server makes the path."""
    with RawClient(local.port).log_in() as client:
        upload = client.start(name, b"x" * 10)
        upload.send(client.attach(), 0)
        answer = upload.complete()
        assert isinstance(answer, IntegrityOk)
    (saved,) = received(local.output)
    assert saved.parent == local.output
    assert saved.name == answer.saved_as
    assert answer.saved_as.isprintable()


def test_what_a_client_sends_reaches_the_log_escaped(start_server: StartServer) -> None:
    """FAULTS 9: no escape sequence, no forged line."""
    server = start_server("--log-level", "DEBUG")
    with RawClient(server.port).log_in() as client:
        client.start("\x1b[31mred\r\n12:00:00 ERROR forged", b"x")
        client.control.call(Cancel(), PATIENCE)
        answer = client.control.call(
            FileStart("\x1b[31m..", 1, 1, "md5", "0" * 32, False), PATIENCE
        )
        assert isinstance(answer, Rejected)
    server.stop()
    assert "\x1b" not in server.log
    assert not any(line.startswith("12:00:00 ERROR forged") for line in server.log.splitlines())


# --- a hostile server ---------------------------------------------------------------------------

Script = Callable[["Impostor"], None]


class Impostor:
    """A server that knows the password and then does what a test's script says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.control: Connection
        self.data: Connection
        self._connections: list[Connection] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def accept(self) -> Connection:
        """Take the next connection."""
        self._listener.settimeout(PATIENCE)
        sock, _ = self._listener.accept()
        self._connections.append(Connection(sock, Side.SERVER))
        return self._connections[-1]

    def greet(self, connection: Connection) -> None:
        """Exchange HELLO as an honest server."""
        connection.answer(PATIENCE)
        connection.send(Hello(VERSION, FEATURES))

    def let_in(self) -> None:
        """Do the whole login as an honest server."""
        self.control = self.accept()
        self.greet(self.control)
        login = ScramServer(account.demo_credentials(), b"secret")
        start = self.control.answer(PATIENCE)
        assert isinstance(start, AuthStart)
        self.control.send(AuthChallenge(login.challenge(start.data)))
        response = self.control.answer(PATIENCE)
        assert isinstance(response, AuthResponse)
        self.control.send(AuthOk(login.verify(response.data), "t" * 20, 0))

    def ready(self) -> FileStart:
        """Let a client in and be ready for its file, over one data connection."""
        self.let_in()
        self.attach()
        start = self.control.answer(PATIENCE)
        assert isinstance(start, FileStart)
        self.control.send(FileReady(1, ()))
        return start

    def attach(self) -> None:
        """Take the next data connection."""
        self.data = self.accept()
        self.greet(self.data)
        self.data.answer(PATIENCE)
        self.data.send(Attached())

    def take_block(self, size: int) -> None:
        """Receive one block frame and acknowledge it."""
        self.skip(size)
        self.data.push(encode_ack(1, 0))

    def skip(self, size: int) -> None:
        """Receive a block of ``size`` bytes."""
        view = memoryview(bytearray(size + 52))
        while view:
            view = view[self.data.receive_into(view) :]
            if view:
                self.data.wait(PATIENCE)

    def _run(self) -> None:
        try:
            self._script(self)
            for connection in self._connections:  # stay until the client has had enough
                while not connection.discard():
                    connection.wait(PATIENCE)
        except (TransferError, OSError):
            pass  # the client went away, as it should

    def close(self) -> None:
        self._listener.close()
        self._thread.join(PATIENCE)
        for connection in self._connections:
            connection.close()


@pytest.fixture
def impostor() -> Iterator[Callable[[Script], Impostor]]:
    """Start hostile servers; end them with their thread."""
    started: list[Impostor] = []

    def start(script: Script) -> Impostor:
        started.append(Impostor(script))
        return started[-1]

    yield start
    for one in started:
        one.close()


def _challenge(text: Callable[[str], str]) -> Script:
    """Answer the login with a challenge made from the client's nonce."""

    def script(server: Impostor) -> None:
        control = server.accept()
        server.greet(control)
        start = control.answer(PATIENCE)
        assert isinstance(start, AuthStart)
        control.send(AuthChallenge(text(start.data.rpartition("r=")[2])))

    return script


def _wrong_signature(server: Impostor) -> None:
    control = server.accept()
    server.greet(control)
    start = control.answer(PATIENCE)
    assert isinstance(start, AuthStart)
    login = ScramServer(account.demo_credentials(), b"secret")
    control.send(AuthChallenge(login.challenge(start.data)))
    control.answer(PATIENCE)
    control.send(AuthOk("v=" + "A" * 43 + "=", "t" * 20, 0))


def _says(*words: Message) -> Script:
    def script(server: Impostor) -> None:
        server.ready()
        for word in words:
            server.control.push(encode(word))

    return script


def _acks_nonsense(server: Impostor) -> None:
    server.ready()
    for _ in range(config.BAD_FRAMES - 1):
        server.data.push(encode_ack(1, 5))
        server.attach()
    server.data.push(encode_ack(1, 5))


def _verdict_on_another_file(server: Impostor) -> None:
    size = server.ready().size
    server.take_block(size)
    assert isinstance(server.control.answer(PATIENCE), TransferComplete)
    server.control.send(IntegrityOk("x", size, "0" * 32, 0, True))


def _raw(data: bytes) -> Script:
    def script(server: Impostor) -> None:
        server.accept().push(data)

    return script


def _silent(server: Impostor) -> None:
    server.ready()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (_challenge(lambda nonce: f"r={nonce}x,s=AAAA,i=1"), AuthenticationError),
        (_challenge(lambda nonce: f"r={nonce}x,s=AAAA,i=2147483648"), AuthenticationError),
        (_challenge(lambda nonce: f"r={nonce}x,s=AAAA,i={'9' * 900}"), AuthenticationError),
        (_challenge(lambda nonce: "r=other,s=AAAA,i=4096"), AuthenticationError),
        (_challenge(lambda nonce: "nonsense"), AuthenticationError),
        (_wrong_signature, AuthenticationError),
        (_says(Error("nonsense", "\x1b[31m" + "x" * 900)), ProtocolError),
        (_says(Missing(1, ((0, 2**32),), Why.LOST)), ProtocolError),
        (_says(IntegrityOk("x", 1000, "0" * 32, 0, True)), ProtocolError),
        (_acks_nonsense, ProtocolError),
        (_verdict_on_another_file, ProtocolError),
        (_raw(b"\xff" * 10_000_000), ProtocolError),
        (_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ProtocolError),
        (_raw(b"SSH-2.0-OpenSSH_9.2\r\n"), ProtocolError),
        (_silent, ConnectionLostError),
    ],
)
def test_a_hostile_server_only_gets_a_clear_error(
    impostor: Callable[[Script], Impostor],
    tmp_path: Path,
    script: Script,
    error: type[TransferError],
) -> None:
    """FAULTS 26: the client ends, in bounded time, with an error of its own and nothing raw."""
    server = impostor(script)
    source = random_file(tmp_path / "x", 1000)
    timeout = 0.5 if script is _silent else 5.0  # seconds; only the silent one lets it pass
    settings = ClientSettings(port=server.port, timeout=timeout, streams=1)
    with pytest.raises(error) as caught:
        send_files([source], settings)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_what_a_server_calls_the_file_reaches_standard_output_escaped(
    impostor: Callable[[Script], Impostor], tmp_path: Path, option: str
) -> None:
    """FAULTS 26: the one text of a verdict that the server chooses, for people and programs."""

    def script(server: Impostor) -> None:
        size = server.ready().size
        server.take_block(size)
        complete = server.control.answer(PATIENCE)
        assert isinstance(complete, TransferComplete)
        name = "\x1b[31m\r\nINTEGRITY_OK forged"
        server.control.send(IntegrityOk(name, size, complete.digest, 0, True))

    source = random_file(tmp_path / "x", 1000)
    done = run_client(impostor(script).port, source, "--streams", "1", option)
    assert done.returncode == 0
    assert "forged" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.count("\n") == 1
