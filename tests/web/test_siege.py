"""Hundreds of connections that are slow at everything, while others work."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Iterator

import pytest

from config import KB
from tests.support.files import random_file
from tests.support.processes import StartServer, run_client
from tests.support.rawpeer import last_words
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Browser, http_port, request

SLOW = 0.05  # seconds between two bytes of a slow one: twenty times as fast as one that means it


@contextlib.contextmanager
def half_open(port: int, number: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that send a part of a request, and no more."""
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(number)
        ]
        for one in found:
            one.sendall(data)
        yield found


@contextlib.contextmanager
def trickling(socks: list[socket.socket], data: bytes) -> Iterator[None]:
    """Send a byte at a time on each connection, and read one byte of each, all the time."""
    stop = threading.Event()

    def trickle() -> None:
        at = 0
        while not stop.wait(SLOW):
            for one in socks:
                with contextlib.suppress(OSError):
                    one.send(data[at % len(data) :][:1], socket.MSG_DONTWAIT)
                    one.recv(1, socket.MSG_DONTWAIT)
            at += 1

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_six_hundred_slow_connections_hold_up_nobody(
    start_server: StartServer, tmp_path: Path
) -> None:
    """400 half-open requests, 200 byte-a-second readers and writers: threads stay as many, and a
    transfer and a request go on."""
    server = start_server("--http", "0")
    port, threads = http_port(server), server.threads
    many = request("GET", "/api/v1/openapi.json") * 20
    with half_open(port, 400, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "), half_open(
        port, 100, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
    ) as writers, half_open(port, 100, many) as readers:
        for one in readers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KB)
        with trickling(writers + readers, b"x"):
            done = run_client(server.port, random_file(tmp_path / "x", 3_000_000))
            assert done.returncode == 0, done.stderr
            with Browser(port) as browser:
                for _ in range(20):
                    assert browser.get("/api/v1/server", ADMIN).status == 200
        assert server.threads == threads


def test_a_server_has_no_more_threads_with_http(start_server: StartServer) -> None:
    """A connection of another kind in the same loop."""
    without = start_server(folder="without")
    with_http = start_server("--http", "0", folder="with")
    assert http_port(with_http)
    assert with_http.threads == without.threads


def test_both_ports_are_told_once_both_listen(start_server: StartServer) -> None:
    """The line of the wire is the first, as ever."""
    server = start_server("--http", "127.0.0.1:0")
    assert server.process.stdout is not None
    line = server.process.stdout.readline()
    assert line.startswith("HTTP on 127.0.0.1:")
    with Browser(int(line.rpartition(":")[2])) as browser:
        assert browser.get("/healthz").status == 200


def test_a_server_that_stops_says_so_until_it_has_ended(
    start_server: StartServer, tmp_path: Path
) -> None:
    """503: a balancer sends no more, while transfers under way still end."""
    server = start_server("--http", "0", "--grace", "20", "--limit", "256K")
    port = http_port(server)
    # more than a block for each stream: those go before the limit holds any of them
    source = random_file(tmp_path / "x", 1_200_000)
    sending = threading.Thread(target=run_client, args=(server.port, source))
    sending.start()
    with Browser(port) as browser:
        eventually(lambda: browser.get("/api/v1/transfers", ADMIN).json()["transfers"])
        server.process.terminate()
        eventually(lambda: browser.get("/healthz").status != 200)
    with Browser(port) as newcomer:
        answer = newcomer.get("/healthz")
        assert (answer.status, answer.fields["connection"]) == (503, "close")
    sending.join()
    assert len(os.listdir(server.output)) == 2  # the file, and the folder for unfinished ones


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x00\xa5\x01", b"SSH-2.0-x\r\n", b"\x00\x00\x00\x05HELLO@"]
)
def test_another_protocol_is_refused_at_once(start_server: StartServer, data: bytes) -> None:
    """FAULTS 5."""
    server = start_server("--http", "0")
    with socket.create_connection(("127.0.0.1", http_port(server))) as sock:
        sock.sendall(data)
        assert last_words(sock).startswith(b"HTTP/1.1 400 Bad Request\r\n")
