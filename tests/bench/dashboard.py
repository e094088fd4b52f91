"""Measures the HTTP side: small answers in a second, and what it costs the wire to be watched.

    python tests/bench/dashboard.py                 1 GiB by the wire, five rounds: a minute
    python tests/bench/dashboard.py --short         some seconds: does everything work

What it measures: one program with some connections, each of which asks anew as soon as its answer
is there; client and server share the processors. Then the same file by the wire to a server without
an HTTP side, and to one that a dashboard watches: a stream of events, and the list every second.

How fair it is: the client is Python as well, and takes about a quarter of the time. What it does
not say: how many browsers a server bears at once; ``siege.py`` has something on that.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # where a script is run by its name, ours are not on the path

from config import GB, MB  # noqa: E402
from lft.options import format_size  # noqa: E402
from tests.bench.common import (  # noqa: E402
    HOST,
    ToolError,
    child,
    directory_argument,
    handle_signals,
    make_file,
    of_rounds,
    print_facts,
    print_markdown,
    ratio,
    rounds_argument,
    temporary_directory,
    timed,
    turns,
)

PATHS = ("/healthz", "/api/v1/server", "/api/v1/transfers")
CONNECTIONS = (1, 4, 16)
LOGIN = base64.b64encode(b"admin:admin123").decode()
FLOOR = 2000.0  # answers a second that each path must reach with some of the connections
MOST = 1.03  # times as long the wire may take while it is watched


class Ports(NamedTuple):
    """Where a server listens."""

    wire: int
    http: int | None
    process: int  # its id


def processor_seconds(process: int) -> float:
    """Return what a process has used so far, for itself and in the system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server(place: Path, *options: str) -> Iterator[Ports]:
    """Run a server with the demo accounts. Raises ``ToolError``."""
    command = [sys.executable, str(ROOT / "server.py"), "--port", "0", *options]
    command += ["--output", str(place)]
    with child(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2 if options else 1)]
        ports = [int(line.decode().rpartition(":")[2] or 0) for line in lines]
        if not all(ports):
            raise ToolError("the server did not start")
        yield Ports(ports[0], ports[1] if options else None, process.pid)


def request(path: str) -> bytes:
    """Return a request as it is sent."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"Authorization: Basic {LOGIN}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answers(port: int, path: str, connections: int, seconds: float) -> float:
    """Ask on all connections all the time; return the answers in a second."""
    asked, count = request(path), 0
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        socks = {}
        for _ in range(connections):
            sock = stack.enter_context(socket.create_connection((HOST, port)))
            socks[sock.fileno()] = sock
            poll.register(sock, select.POLLIN)
            sock.sendall(asked)
            if not sock.recv(65536).startswith(b"HTTP/1.1 200"):
                raise ToolError(f"{path}: no answer")
        began = time.perf_counter()
        for sock in socks.values():
            sock.sendall(asked)
        while time.perf_counter() - began < seconds:
            for descriptor, _ in poll.poll(1000):
                if not socks[descriptor].recv(65536).startswith(b"HTTP/1.1 200"):
                    raise ToolError(f"{path}: another answer")
                socks[descriptor].sendall(asked)
                count += 1
        return count / (time.perf_counter() - began)


def compare_paths(place: Path, rounds: int, seconds: float) -> bool:
    """Print how many answers come in a second; return whether they are enough."""
    cases = [(path, number) for path in PATHS for number in CONNECTIONS]
    found: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    with server(place, "--http", "0") as ports:
        assert ports.http is not None
        for _, (path, number) in turns(cases, rounds):
            found[path, number].append(answers(ports.http, path, number, seconds))
    medians = {case: statistics.median(times) for case, times in found.items()}
    rows = [[path, *(f"{medians[path, n]:,.0f}" for n in CONNECTIONS)] for path in PATHS]
    title = f"Answers in a second, by connections, {of_rounds(rounds)}"
    print_markdown(title, ["path", *map(str, CONNECTIONS)], rows)
    return all(max(medians[path, n] for n in CONNECTIONS) >= FLOOR for path in PATHS)


@contextlib.contextmanager
def watched(port: int | None) -> Iterator[None]:
    """Watch as a dashboard does, if there is an HTTP side; its login is over by then."""
    stop = threading.Event()

    def watch(path: str, pause: float) -> None:
        with socket.create_connection((HOST, port or 0)) as sock:
            sock.settimeout(0.2)
            sock.sendall(request(path))
            while not stop.wait(pause):
                with contextlib.suppress(socket.timeout):
                    sock.recv(65536)
                if pause:
                    sock.sendall(request(path))

    works = (("/api/v1/events", 0.0), ("/api/v1/transfers", 1.0))
    threads = [threading.Thread(target=watch, args=work) for work in works if port]
    if port:
        with socket.create_connection((HOST, port)) as sock:
            sock.sendall(request("/api/v1/server"))
            sock.recv(65536)
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def compare_wire(place: Path, size: int, rounds: int) -> float:
    """Print what it costs to be watched; return how many times as long it took."""
    source, log = make_file(place / "random.bin", size), place / "log"
    ways = {"without an HTTP side": (), "watched by a dashboard": ("--http", "0")}
    found: dict[str, list[float]] = {way: [] for way in ways}
    used: dict[str, list[float]] = {way: [] for way in ways}
    for number, way in turns(list(ways), rounds):
        inbox = place / f"{number}-{len(ways[way])}"
        with server(inbox, *ways[way]) as ports, watched(ports.http):
            command = [sys.executable, str(ROOT / "client.py"), str(source), "--quiet"]
            command += ["--port", str(ports.wire)]
            before = processor_seconds(ports.process)
            found[way].append(timed(command, log, size).seconds)
            used[way].append(processor_seconds(ports.process) - before)
        for path in inbox.glob("server_received_*"):
            path.unlink()
    alone, busy = (statistics.median(times) for times in found.values())
    least = statistics.median(used["without an HTTP side"])
    rows = []
    for way in ways:
        took, worked = statistics.median(found[way]), statistics.median(used[way])
        rows.append([way, f"{took:.2f}", ratio(took, alone), f"{worked:.2f}", ratio(worked, least)])
    title = f"{format_size(size)} by the wire, seconds, {of_rounds(rounds)}"
    print_markdown(title, ["server", "seconds", "ratio", "its processor time", "ratio"], rows)
    return busy / alone


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few seconds, and no floors")
    parser.add_argument("--rounds", type=rounds_argument, default=5)
    parser.add_argument("--directory", type=directory_argument, default=Path("/tmp"))
    arguments = parser.parse_args(argv)
    handle_signals()
    rounds, size, seconds = (1, 16 * MB, 0.2) if arguments.short else (arguments.rounds, GB, 2.0)
    with temporary_directory(arguments.directory) as place:
        try:
            if not arguments.short:
                print_facts(place)
            enough = compare_paths(place / "paths", rounds, seconds)
            took = compare_wire(place, size, rounds)
        except ToolError as error:
            print(f"FAILED: {error}")
            return 1
    return 0 if arguments.short or (enough and took <= MOST) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
