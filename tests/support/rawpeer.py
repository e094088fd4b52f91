"""A client that speaks the protocol by hand, as far and as wrongly as a test wants."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from pathlib import Path

from config import KB
from lft.accounts.scram import ScramClient
from lft.wire.blocks import BlockHeader, encode_header
from lft.wire.channel_binding import server_end_point
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.frames import encode
from lft.wire.tls import client_tls
from protocol import (
    SCRAM,
    TOKEN,
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
from tests.support.accounts import PASSWORD
from tests.support.files import part_files
from tests.support.local import ServerThread
from tests.support.waiting import PATIENCE, eventually

HEADER = 52  # bytes of a block header on the wire


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
        self,
        name: str,
        data: bytes,
        block_size: int = 200 * 1024,
        *,
        resume: bool = False,
        digest: str = "md5",
    ) -> RawUpload:
        """Announce a file; the server must be ready for it."""
        head = hashlib.new(digest, data[:block_size]).hexdigest()
        self.control.send(FileStart(name, len(data), block_size, digest, head, resume))
        ready = self.answer()
        assert isinstance(ready, FileReady), ready
        return RawUpload(self, ready.transfer, data, block_size, digest)

    def answer(self) -> Message:
        """Wait for a message of the coordinator that is not a progress report."""
        while True:
            message = self.control.answer(PATIENCE)
            if type(message).__name__ not in ("Verifying", "Queued"):
                return message


class RawUpload:
    """A file sent by hand, block by block."""

    def __init__(
        self, client: RawClient, number: int, data: bytes, block_size: int, digest: str = "md5"
    ) -> None:
        self.client = client
        self.number = number
        self.blocks = [data[i : i + block_size] for i in range(0, len(data), block_size)]
        self.digests: list[bytes] = []
        running = hashlib.new(digest)
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


def hear(connection: Connection, heard: list[int]) -> None:
    """Note the acknowledgements of a connection until that ends."""
    while connection.wait(PATIENCE):
        for ack in connection.receive_acks():
            heard.append(ack.block)


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


def raw_socket(port: int, data: bytes = b"") -> socket.socket:
    """Open a plain connection and send ``data``."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.sendall(data)
    return sock


HELLO = encode(Hello(VERSION, FEATURES))
ANY_MD5 = "0" * 32


def two_blocks_left(local: ServerThread, source: Path, digest: str = "md5") -> None:
    """Leave a part file of ``source`` with its first two blocks."""
    with RawClient(local.port).log_in() as client:
        upload = client.start(source.name, source.read_bytes(), resume=True, digest=digest)
        upload.send(client.attach(), 0, 1)
    eventually(lambda: local.server.parts.in_use == 0)


class Peer(RawClient):
    """A raw client that can speak TLS and come from another address of this machine."""

    greeting = b""  # what each of its connections begins with, before TLS

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
        sock.sendall(self.greeting)
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
        self.announce(name, size, head=head, resume=resume)
        return self.answer()

    def announce(self, name: str, size: int, *, head: bytes = b"", resume: bool = False) -> None:
        """Announce a file, without waiting for the answer."""
        digest = hashlib.md5(head).hexdigest()
        self.control.send(FileStart(name, size, 200 * KB, "md5", digest, resume))


def is_open(sock: socket.socket | Connection) -> bool:
    """Whether the server has neither closed a connection nor said anything on it."""
    with socket.socket(fileno=os.dup(sock.fileno())) as twin:
        try:
            twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        return False


def interrupted(local: ServerThread, name: str, data: bytes, user: str = "alice") -> RawUpload:
    """Send the first block of a file and go away; return what was sent."""
    before = len(part_files(local.output))
    with Peer(local.port).log_in(user) as peer:
        upload = peer.start(name, data)
        upload.send(peer.attach(), 0)
    eventually(lambda: local.server.parts.in_use == 0, "the part file to rest")
    assert len(part_files(local.output)) == before + 1
    return upload
