"""A server that knows the password and then misbehaves."""

from __future__ import annotations

import socket
import threading
from typing import Callable, Sequence

from lft.accounts.scram import ScramServer
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.frames import encode_ack
from protocol import (
    VERSION,
    Attached,
    AuthChallenge,
    AuthOk,
    AuthResponse,
    AuthStart,
    FileReady,
    FileStart,
    Hello,
    Side,
    TransferError,
)
from tests.support.local import DEMO
from tests.support.waiting import PATIENCE

Script = Callable[["Impostor"], None]


class Impostor:
    """A server that knows the password and then does what a test's script says."""

    def __init__(self, script: Script, features: Sequence[str] = FEATURES) -> None:
        """``features`` are those of its HELLO."""
        self._script = script
        self._features = tuple(features)
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
        connection.send(Hello(VERSION, self._features))

    def let_in(self) -> None:
        """Do the whole login as an honest server."""
        self.control = self.accept()
        self.greet(self.control)
        login = ScramServer(DEMO, b"secret")
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
