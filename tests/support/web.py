"""A client that speaks HTTP by hand, as far and as wrongly as a test wants."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

from lft.web.site import Site
from lft.wire.tls import client_tls
from tests.support.local import ServerThread
from tests.support.processes import ServerProcess
from tests.support.waiting import PATIENCE


class Answer(NamedTuple):
    """A response."""

    status: int
    fields: dict[str, str]  # by their names in lower case; of several the last one
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


def basic(user: str = "user1", password: str = "password1") -> dict[str, str]:
    """Return the field of a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


ADMIN = basic("admin", "admin123")


class Browser:
    """One connection to the HTTP side of a server."""

    def __init__(
        self, port: int, *, ca: Path | None = None, source: str = "127.0.0.1", to: str = "127.0.0.1"
    ) -> None:
        self.sock: socket.socket = socket.create_connection(
            (to, port), timeout=PATIENCE, source_address=(source, 0)
        )
        if ca:
            self.sock = client_tls(ca).wrap_socket(self.sock, server_hostname="localhost")
        self._read = self.sock.makefile("rb")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._read.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def ask(
        self, method: str, path: str, fields: dict[str, str] | None = None, body: bytes | Any = b""
    ) -> Answer:
        """Make a request; a body that is no bytes goes as JSON."""
        self.send(request(method, path, fields, body))
        return self.answer(method)

    def get(self, path: str, fields: dict[str, str] | None = None) -> Answer:
        """Get a path."""
        return self.ask("GET", path, fields)

    def answer(self, method: str = "GET") -> Answer:
        """Read a response; one without an end is read line by line with ``line``."""
        status, fields = self.head()
        if method == "HEAD" or status in (100, 204, 304):
            return Answer(status, fields, b"")
        if fields.get("transfer-encoding") == "chunked":
            return Answer(status, fields, b"".join(iter(self.chunk, b"")))
        return Answer(status, fields, self._read.read(int(fields["content-length"])))

    def head(self) -> tuple[int, dict[str, str]]:
        """Read the head of a response."""
        first = self._read.readline()
        assert first.startswith(b"HTTP/1.1 "), first
        fields = {}
        for line in iter(self._read.readline, b"\r\n"):
            name, _, value = line.decode().strip().partition(": ")
            fields[name.lower()] = value
        return int(first.split()[1]), fields

    def chunk(self) -> bytes:
        """Read a chunk, empty at the end."""
        size = int(self._read.readline(), 16)
        data = self._read.read(size)
        assert self._read.readline() == b"\r\n"
        return data

    def rest(self) -> bytes:
        """Read what is left until the server closes."""
        return self._read.read()


def request(
    method: str, path: str, fields: dict[str, str] | None = None, body: bytes | Any = b""
) -> bytes:
    """Return a request as it is sent."""
    own = {"Host": "localhost", **(fields or {})}
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        own.setdefault("Content-Type", "application/json")
    if body:
        own.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in own.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def http_port(server: ServerProcess) -> int:
    """Read the line of the HTTP side."""
    assert server.process.stdout is not None
    line = server.process.stdout.readline()
    assert line.startswith("HTTP on localhost:"), line
    return int(line.rpartition(":")[2])


def site_of(local: ServerThread) -> Site:
    """Return the HTTP side of a server."""
    (door,) = local.server.entrance._lasting
    site = door._let_in.args[0].__self__  # type: ignore[attr-defined]
    assert isinstance(site, Site)
    return site


def web_port(local: ServerThread) -> int:
    """Return the port of the HTTP side."""
    address = local.server.web_address
    assert address is not None
    return address[1]
