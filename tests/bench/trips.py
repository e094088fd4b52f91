"""Counts the round trips that tools need before a file is on its way, and after its last byte.

    python tests/bench/trips.py                        with a delay of a second each way: minutes
    python tests/bench/trips.py --delay 0.2 --only ours,scp
    python tests/bench/trips.py --short                a few seconds: does everything work

What it measures: each tool sends 40 KB through a relay that holds every piece of data for the
delay, and the first bytes of each connection for one round trip more, in which TCP would connect.
The instant of the first connection is 0. *First* is when more than 30,000 bytes have left the
sender, which no login has, *last* from then to the end of its process; both in round trips. What
exceeds a half or a whole one is the time of processes, which a longer delay makes smaller.

How fair it is: a first run of each tool is not counted. curl sends what it asks a server of
Python's own for with PUT, over TLS 1.3; scp shows a key. What it does not say: how TCP, which
begins slowly, does with a large file; ``wan.py`` does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import KB  # noqa: E402
from tests.bench.common import (  # noqa: E402
    HOST,
    Run,
    ToolError,
    find,
    handle_signals,
    make_file,
    print_facts,
    temporary_directory,
    timed,
)
from tests.bench.movers import (  # noqa: E402
    Ours,
    OursTls,
    Row,
    Rsync,
    Scp,
    Tool,
    free_port,
    versions,
)

SIZE = 40 * KB
BULK = 30_000  # bytes that have left the sender: no login has so many

HTTPS_SERVER = """
import http.server, ssl, sys
class Taker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        open(sys.argv[3], "wb").write(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[4])), Taker)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""


class Https(OursTls):
    """PUT by curl to a server of Python's own."""

    rows = (
        Row("https", "curl, HTTP/1.1 over TLS 1.3", ("-H", "Expect:")),
        Row("https-expect", "the same, and asks first", ("-H", "Expect: 100-continue")),
    )

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the server."""
        _, cert, _, key = self.server_options()
        self.program, self.port = find("curl"), str(free_port())
        command = [sys.executable, "-c", HTTPS_SERVER, cert, key, str(self.inbox / "x"), self.port]
        self.listen(stack, command, int(self.port))

    def run(self, row: Row, source: Path) -> Run:
        """Send the file."""
        command = [self.program, "-sS", "--fail", "--http1.1", "--cacert", self.client_options[1]]
        command += ["-T", str(source), *row.options, f"https://{HOST}:{self.port}/x"]
        return timed(command, self.log, SIZE)


TOOLS: tuple[type[Tool], ...] = (Ours, OursTls, Rsync, Scp, Https)
ROWS = ("ours", "ours-tls", "rsync", "scp", "https", "https-expect")


class Piece(NamedTuple):
    """When some bytes left the sender."""

    at: float
    size: int


class SlowRelay:
    """Passes bytes on after ``delay`` seconds, and notes when those of the sender came."""

    def __init__(self, port: int, delay: float) -> None:
        self._target, self._delay = port, delay
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.began = 0.0
        self.sent: list[Piece] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, job: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=job, args=arguments))
        self._threads[-1].start()

    def close(self) -> None:
        """End all connections, and take no more."""
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # its peer has ended it
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.began = self.began or time.monotonic()
            self._start(self._connect, near)

    def _connect(self, near: socket.socket) -> None:
        time.sleep(2 * self._delay)  # for which the sender would wait, were the server far away
        far = socket.create_connection((HOST, self._target))
        self._sockets += [near, far]
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pump(near, far, self.sent)
        self._pump(far, near, [])

    def _pump(self, source: socket.socket, target: socket.socket, pieces: list[Piece]) -> None:
        held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._start(self._take, source, held, pieces)
        self._start(self._give, target, held)

    def _take(
        self, source: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]],
        pieces: list[Piece],
    ) -> None:  # fmt: skip
        data = b"first"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            pieces.append(Piece(time.monotonic(), len(data)))
            held.put((time.monotonic() + self._delay, data))

    def _give(self, target: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        data = b"first"
        with contextlib.suppress(OSError):
            while data:
                at, data = held.get()
                time.sleep(max(0.0, at - time.monotonic()))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def trips(self, end: float) -> tuple[float, float]:
        """Return round trips to the first bytes of the file, and from there to ``end``."""
        total = 0
        for piece in sorted(self.sent):
            total += piece.size
            if total > BULK:
                trip = 2 * self._delay
                return (piece.at - self.began) / trip, (end - piece.at) / trip
        return 0.0, 0.0


def count(tool: Tool, row: Row, source: Path, delay: float) -> tuple[float, float]:
    """Run a tool once, through a relay."""
    direct = tool.port  # type: ignore[attr-defined]  # each of TOOLS has one
    relay = SlowRelay(int(direct), delay)
    tool.port = type(direct)(relay.port)  # type: ignore[attr-defined]
    known = tool.place / "known"  # scp's: the server's key by its port
    if known.exists():
        known.write_text(known.read_text().replace(f":{direct} ", f":{relay.port} "))
    try:
        tool.clear()
        tool.run(row, source)
        return relay.trips(time.monotonic())
    finally:
        relay.close()
        tool.port = direct  # type: ignore[attr-defined]
        if known.exists():
            known.write_text(known.read_text().replace(f":{relay.port} ", f":{direct} "))


def count_all(
    tool: Tool, rows: list[Row], source: Path, delay: float, stack: contextlib.ExitStack
) -> None:
    """Print the figures of one tool. Raises ``ToolError``."""
    if rows:
        tool.start(stack)
    for row in rows:
        tool.run(row, source)  # this one is not counted
        first, last = count(tool, row, source, delay)
        print(f"| {row.name} | {first:.1f} | {last:.1f} |", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(description="Count round trips.")
    parser.add_argument("--delay", type=float, default=1.0, metavar="SECONDS", help="one way (1)")
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROW[,ROW...]",
                        help=f"of {', '.join(ROWS)}")  # fmt: skip
    parser.add_argument("--short", action="store_true", help="a short delay: does all of it work")
    arguments = parser.parse_args(argv)
    delay = 0.05 if arguments.short else arguments.delay
    names = arguments.only.split(",")
    handle_signals()
    with temporary_directory(Path(os.environ.get("TMPDIR", "/tmp"))) as place:
        print_facts(place, **versions())
        print("\n| what | first | last |\n| --- | --- | --- |")
        with contextlib.ExitStack() as stack:
            source = make_file(place / "random.bin", SIZE)
            for kind in TOOLS:
                rows = [row for row in kind.rows if row.name in names]
                try:
                    count_all(kind(place / kind.__name__), rows, source, delay, stack)
                except ToolError as error:
                    print(f"| {kind.rows[0].name} | {error} | |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
