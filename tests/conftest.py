"""What the tests share: real servers (in a process or a thread), real clients, and a raw peer.

Nothing here waits for time: ``eventually`` waits for a condition. Every server checks, when it is
stopped, that nothing was left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from config import ClientSettings, ServerSettings
from lft.accounts import account
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.accounts.scram import ScramClient
from lft.store.paths import PARTIAL
from lft.wire.blocks import BlockHeader, encode_header
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from protocol import (
    SCRAM,
    VERSION,
    Attach,
    Attached,
    AuthChallenge,
    AuthOk,
    AuthResponse,
    AuthStart,
    FileReady,
    FileStart,
    Hello,
    Message,
    Side,
    TransferComplete,
)
from server import Server

ROOT = Path(__file__).resolve().parent.parent
HEADER = 52  # bytes of a block header on the wire
PATIENCE = 20.0  # seconds until a condition that should come counts as never coming
SOON = 25.0  # seconds: long for a busy machine, and shorter than any wait for somebody who is gone


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a skipped test fail the gate: what is skipped there is shown nowhere."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until ``condition`` holds; fail the test if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.005)


def random_file(path: Path, size: int, seed: int = 0) -> Path:
    """Write ``size`` bytes that do not repeat."""
    source = random.Random(f"{size}-{seed}")
    with open(path, "wb") as file:
        for start in range(0, size, 1 << 20):
            length = min(1 << 20, size - start)
            file.write(source.getrandbits(8 * length).to_bytes(length, "little"))
    return path


def md5(path: Path) -> str:
    """Return the MD5 of a file as md5sum prints it."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def received(output: Path) -> list[Path]:
    """Return the published files of an output directory."""
    return sorted(output.glob("server_received_*"))


def part_files(output: Path) -> list[Path]:
    """Return what is unfinished in an output directory."""
    return sorted((output / PARTIAL).glob("*.part"))


def journal_bytes(output: Path) -> int:
    """Return how much the journals of an output directory hold: it grows with each block."""
    total = 0
    for path in (output / PARTIAL).glob("*.journal"):
        with contextlib.suppress(FileNotFoundError):  # it ended while we looked
            total += path.stat().st_size
    return total


def strays(output: Path) -> list[Path]:
    """Return what is in ``.partial`` of an output directory and of no use to a resume."""
    found = [path for path in (output / PARTIAL).glob("*") if path.name != "lock"]
    stems = {path.stem for path in found if path.suffix == ".part"}
    both = {path.stem for path in found if path.suffix == ".journal"} & stems
    return [path for path in found if path.stem not in both or path.suffix == ".new"]


def open_descriptors() -> int:
    """Count this process's open files."""
    return len(os.listdir("/dev/fd"))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo what a ``main`` that ran in this process did to the log."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


# --- real processes -----------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Return an environment in which nothing of the machine's own changes what the tests see."""
    own = dict(os.environ, PYTHONUNBUFFERED="1")
    for name in (PASSWORD_VARIABLE, "NO_COLOR", "COLUMNS"):
        own.pop(name, None)
    return own


def status(process: int, field: str) -> int:
    """Read a number from /proc/PID/status; 0 when the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0


def peak_memory(process: int) -> int:
    """Return the most memory a process has had so far, in KB."""
    return status(process, "VmHWM")


class Clock:
    """The time, for a module that has this in place of ``time``; it passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


class ServerProcess:
    """A real ``server.py`` on a free port, with its standard error in a file."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.output = folder / "output"
        self.log_file = folder / "server.log"
        command = [sys.executable, str(ROOT / "server.py"), "--port", "0", *options]
        command += ["--output", str(self.output)]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
            )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("Listening on "), self.log
        self.port = int(first.rpartition(":")[2])

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text(encoding="utf-8")

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return status(self.process.pid, "Threads")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start real servers; at the end they must stop cleanly and leave nothing unfinished."""
    started: list[ServerProcess] = []

    def start(*options: str, folder: str = "server") -> ServerProcess:
        (tmp_path / folder).mkdir(exist_ok=True)
        started.append(ServerProcess(tmp_path / folder, *options))
        return started[-1]

    yield start
    for one in started:
        killed = one.process.poll() is not None
        code = one.stop()
        assert killed or code == 0, one.log
        assert "Traceback" not in one.log
        assert killed or strays(one.output) == []


@pytest.fixture
def server(start_server: StartServer) -> ServerProcess:
    """One real server with demo accounts."""
    return start_server()


def client_command(port: int, *arguments: str | Path) -> list[str]:
    """Return the command line of a client."""
    return [
        sys.executable, str(ROOT / "client.py"), "--port", str(port), *map(str, arguments)
    ]  # fmt: skip


def run_client(
    port: int, *arguments: str | Path, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a real client to its end; a traceback fails the test."""
    done = subprocess.run(
        client_command(port, *arguments),
        capture_output=True,
        check=False,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE * 3,
        env={**environment(), **(variables or {})},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# --- a server in a thread -----------------------------------------------------------------------


class ServerThread:
    """A server in this process, for settings that have no option and faults made from inside."""

    def __init__(self, settings: ServerSettings) -> None:
        self.output = settings.output
        self.server = Server(settings, account.demo_credentials())
        self.port = self.server.address[1]
        self._thread = threading.Thread(target=self.server.run, name="server-main")
        self._thread.start()

    def client(self, **changes: object) -> ClientSettings:
        """Return the settings of a client of this server."""
        own: dict[str, object] = {"port": self.port, "timeout": 10.0, **changes}
        return ClientSettings(**own)  # type: ignore[arg-type]

    def stop(self) -> None:
        """End it and wait for that."""
        self.server.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


StartLocal = Callable[..., ServerThread]


@pytest.fixture
def start_local(tmp_path: Path) -> Iterator[StartLocal]:
    """Start servers in threads; at the end threads, open files and strays must be gone."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    started: list[ServerThread] = []

    def start(**changes: object) -> ServerThread:
        defaults: dict[str, object] = {"port": 0, "output": tmp_path / "output", "grace": 0.0}
        started.append(ServerThread(ServerSettings(**{**defaults, **changes})))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.stop()
        assert one.server._service.parts.in_use == 0
        assert strays(one.output) == []
    eventually(lambda: set(threading.enumerate()) <= threads, "the threads to end")
    eventually(lambda: open_descriptors() <= descriptors, "the files to be closed")


@pytest.fixture
def local(start_local: StartLocal) -> ServerThread:
    """One server in a thread."""
    return start_local()


# --- a peer that can misbehave ------------------------------------------------------------------


class RawClient:
    """Speaks the protocol by hand, as far and as wrongly as a test wants."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connections: list[Connection] = []
        self.control = self.connect()
        self.token = ""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    def connect(self) -> Connection:
        """Open one more connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        self._connections.append(Connection(sock, Side.CLIENT))
        return self._connections[-1]

    def hello(self, connection: Connection) -> None:
        """Exchange HELLO."""
        assert isinstance(connection.call(Hello(VERSION, FEATURES), PATIENCE), Hello)

    def log_in(self, user: str = "user1", password: str = "password1") -> RawClient:
        """Log in; the token is then known."""
        self.hello(self.control)
        login = ScramClient(user, password)
        challenge = self.control.call(AuthStart(SCRAM, login.first()), PATIENCE)
        assert isinstance(challenge, AuthChallenge)
        welcome = self.control.call(AuthResponse(login.respond(challenge.data)), PATIENCE)
        assert isinstance(welcome, AuthOk)
        login.check_server(welcome.data)
        self.token = welcome.token
        return self

    def attach(self, token: str | None = None) -> Connection:
        """Open a data connection."""
        connection = self.connect()
        self.hello(connection)
        answer = connection.call(Attach(self.token if token is None else token), PATIENCE)
        assert isinstance(answer, Attached)
        return connection

    def start(
        self, name: str, data: bytes, block_size: int = 200 * 1024, *, resume: bool = False
    ) -> RawUpload:
        """Announce a file; the server must be ready for it."""
        head = hashlib.md5(data[:block_size]).hexdigest()
        self.control.send(FileStart(name, len(data), block_size, "md5", head, resume))
        ready = self.answer()
        assert isinstance(ready, FileReady), ready
        return RawUpload(self, ready.transfer, data, block_size)

    def answer(self) -> Message:
        """Wait for a message of the coordinator that is not a progress report."""
        while True:
            message = self.control.answer(PATIENCE)
            if type(message).__name__ not in ("Verifying", "Queued"):
                return message


class RawUpload:
    """A file sent by hand, block by block."""

    def __init__(self, client: RawClient, number: int, data: bytes, block_size: int) -> None:
        self.client = client
        self.number = number
        self.blocks = [data[i : i + block_size] for i in range(0, len(data), block_size)]
        self.digests: list[bytes] = []
        running = hashlib.md5()
        for block in self.blocks:
            running.update(block)
            self.digests.append(running.digest())
        self.digest = running.hexdigest()

    def frame(self, index: int, **changes: object) -> bytes:
        """Return the frame of one block; ``changes`` to its header, or ``payload``."""
        payload = changes.pop("payload", self.blocks[index] if index < len(self.blocks) else b"")
        assert isinstance(payload, bytes)
        digest = self.digests[index] if index < len(self.digests) else bytes(16)
        header = BlockHeader(self.number, index, len(payload), len(payload), 0, digest)
        return encode_header(header._replace(**changes)) + payload  # type: ignore[arg-type]

    def send(self, connection: Connection, *indexes: int) -> None:
        """Send blocks and wait for their acknowledgements."""
        for index in indexes:
            push(connection, self.frame(index))
        self.await_acks(connection, len(indexes))

    def await_acks(self, connection: Connection, count: int) -> None:
        """Wait for ``count`` acknowledgements. Raises what an ERROR says."""
        deadline = time.monotonic() + PATIENCE
        while count > 0:
            assert time.monotonic() < deadline, "no acknowledgement"
            connection.wait(1.0)
            count -= len(list(connection.receive_acks()))

    def complete(self, digest: str | None = None) -> Message:
        """Say that all is sent; return the server's answer."""
        self.client.control.send(TransferComplete(self.number, digest or self.digest))
        return self.client.answer()


def push(connection: Connection, data: bytes) -> None:
    """Send all of ``data``."""
    connection.push(data)
    while not connection.flush():
        connection.wait(PATIENCE, write=True)


def last_words(sock: socket.socket) -> bytes:
    """Read until the server closes; fail if it does not."""
    sock.settimeout(PATIENCE)
    words = b""
    with contextlib.suppress(ConnectionResetError):
        while True:
            part = sock.recv(65536)
            if not part:
                break
            words += part
    return words


def still_serves(port: int, folder: Path) -> None:
    """Check that a normal transfer works: whatever was done before hurt nobody else."""
    source = random_file(folder / "still serves.bin", 300_000)
    done = run_client(port, source)
    assert done.returncode == 0, done.stderr


def raw_socket(port: int, data: bytes = b"") -> socket.socket:
    """Open a plain connection and send ``data``."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.sendall(data)
    return sock
