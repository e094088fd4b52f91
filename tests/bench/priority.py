"""Measures whether an urgent transfer overtakes bulk ones, and what that costs these.

    python tests/bench/priority.py                     six times 250 MB, and 50 MB; five rounds
    python tests/bench/priority.py --limit 12M         the urgent one on a slow link
    python tests/bench/priority.py --short             a few seconds: does everything arrive

What it measures, over loopback, with a whole process for each client: the urgent transfer alone;
the bulk transfers alone, from the start of the first to the end of the last; and both: the urgent
one starts when the server has some blocks of every bulk one. A round goes through the three, each
round begins with another, so that a slow minute of the machine hits all of them. Bulk clients are
``user1``, of priority 0, the urgent one is ``admin``, of priority 1.

The time of the urgent one is shown twice: that of the process, and what the client counts itself,
from its first FILE_START to the verdict. Between the two lie the start of Python and the login.
These fight with six busy clients for the same processors, which no server can help; between
machines they would not. What the bulk ones lost is the time of ``both`` less that of ``bulk``.

The files are in the page cache; what was received is compared, removed, and the disk is given all
of it before the next measurement. Nothing is asserted but that everything arrives right.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import (  # noqa: E402
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
    parse_size,
)
from lft.store.paths import (  # noqa: E402
    PARTIAL,
)
from tests.bench.common import print_facts  # noqa: E402
from tests.support.files import md5, random_file  # noqa: E402
from tests.support.processes import ServerProcess, client_command, environment  # noqa: E402

BULK, URGENT = "user1", "admin"  # the demo accounts, of priority 0 and 1
MOVING = 1000  # bytes of a journal in which some thirty blocks stand
PATIENCE = 600.0  # seconds for a client to end
ROWS = ("urgent", "bulk", "both")


class PriorityError(Exception):
    """Something did not work that must."""


class Sent(NamedTuple):
    """How one client fared."""

    began: float
    ended: float
    counted: float  # seconds, by the client itself

    @property
    def seconds(self) -> float:
        """From the start of the process to its end."""
        return self.ended - self.began


class Times(NamedTuple):
    """What one measurement brought, in seconds."""

    urgent: float = 0.0
    counted: float = 0.0
    bulk: float = 0.0


class Bench:
    """The server, the files, and a thread for each client to wait for it."""

    def __init__(self, place: Path, arguments: argparse.Namespace) -> None:
        self._bulk = self._make_bulk(place, arguments.bulk_size, arguments.clients)
        self._urgent = random_file(place / "urgent.bin", arguments.urgent_size)
        self._digests = {path.name: md5(path) for path in (self._bulk[0], self._urgent)}
        self._limit = ["--limit", str(arguments.limit)] if arguments.limit else []
        self._pool = ThreadPoolExecutor(len(self._bulk) + 1)
        (place / "server").mkdir()
        self._server = ServerProcess(place / "server", "--grace", "0", "--log-level", "WARNING")

    @staticmethod
    def _make_bulk(place: Path, size: int, count: int) -> list[Path]:
        """Make one file with many names: what differs for the server is the name."""
        paths = [place / f"bulk{number}.bin" for number in range(count)]
        random_file(paths[0], size, seed=1)
        for path in paths[1:]:
            os.link(paths[0], path)
        return paths

    def close(self) -> None:
        """End the server. Raises ``PriorityError`` if it does not end well."""
        self._pool.shutdown()
        code = self._server.stop()
        if code or "Traceback" in self._server.log:
            raise PriorityError(f"the server ended with {code}: {self._server.log[-3000:]}")

    def measure(self, row: str) -> Times:
        """Take one measurement."""
        bulk = [self._start(path, BULK) for path in self._bulk] if row != "urgent" else []
        if row == "both":
            self._await_movement(bulk)
        urgent = self._start(self._urgent, URGENT, *self._limit).result() if row != "bulk" else None
        all_bulk = [future.result() for future in bulk]
        self._check_and_clear(len(bulk) + (urgent is not None))
        lasted = max(s.ended for s in all_bulk) - min(s.began for s in all_bulk) if bulk else 0.0
        return Times(urgent.seconds, urgent.counted, lasted) if urgent else Times(bulk=lasted)

    def _start(self, source: Path, user: str, *options: str) -> Future[Sent]:
        return self._pool.submit(self._send, source, user, *options)

    def _send(self, source: Path, user: str, *options: str) -> Sent:
        """Run one client to its end (a thread of the pool). Raises ``PriorityError``."""
        options = ("--user", user, "--json", "--quiet", *options)
        command = client_command(self._server.port, source, *options)
        began = time.perf_counter()
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment(),
            timeout=PATIENCE,
        )  # fmt: skip
        ended = time.perf_counter()
        if done.returncode:
            raise PriorityError(f"the client ended with {done.returncode}: {done.stderr}")
        return Sent(began, ended, json.loads(done.stdout)["seconds"])

    def _await_movement(self, bulk: list[Future[Sent]]) -> None:
        """Wait until the server has blocks of every bulk transfer, or one is over already."""
        while not any(future.done() for future in bulk):
            if sum(size > MOVING for size in self._journal_sizes()) == len(bulk):
                return
            time.sleep(0.005)

    def _journal_sizes(self) -> Iterator[int]:
        """Size of each journal; one of a transfer that ends meanwhile has no size any more."""
        for path in (self._server.output / PARTIAL).glob("*.journal"):
            with suppress(FileNotFoundError):
                yield path.stat().st_size

    def _check_and_clear(self, count: int) -> None:
        """Compare what has come with what was sent, and remove it. Raises ``PriorityError``."""
        came = list(self._received())
        if len(came) != count:
            raise PriorityError(f"{len(came)} files arrived, {count} were sent")
        for path in came:
            sent = self._urgent if path.name.endswith(self._urgent.name) else self._bulk[0]
            if md5(path) != self._digests[sent.name]:
                raise PriorityError(f"{path.name} is not what was sent")
            path.unlink()
        os.sync()

    def _received(self) -> Iterator[Path]:
        return self._server.output.glob("server_received_*")


def print_rows(rows: dict[str, list[Times]]) -> None:
    """Print the table, and what it says in a word."""
    print(f"{'row':<10}{'median':>8}{'best':>8}{'worst':>8}   what")
    for name, field, what in (
        ("urgent", "urgent", "the urgent one alone, its process"),
        ("both", "urgent", "the same beside the bulk ones"),
        ("urgent", "counted", "the urgent one alone, from FILE_START on"),
        ("both", "counted", "the same beside the bulk ones"),
        ("bulk", "bulk", "the bulk ones alone, all of them"),
        ("both", "bulk", "the same beside the urgent one"),
    ):
        times = [getattr(one, field) for one in rows[name]]
        median = statistics.median(times)
        print(f"{name:<10}{median:>8.2f}{min(times):>8.2f}{max(times):>8.2f}   {what}")
    alone, bulk, both = (median_of(rows[name]) for name in ROWS)
    print(f"beside the bulk ones the urgent one takes {both.urgent / alone.urgent:.2f} times as "
          f"long, from FILE_START on {both.counted / alone.counted:.2f};\nthe bulk ones lose "
          f"{both.bulk - bulk.bulk:.2f} s by it: {(both.bulk - bulk.bulk) / both.urgent:.2f} times "
          "what it took")  # fmt: skip


def median_of(times: list[Times]) -> Times:
    """Return the median of each figure."""
    return Times(*map(statistics.median, zip(*times)))


def run(arguments: argparse.Namespace, place: Path) -> None:
    """Do all of it. Raises ``PriorityError``."""
    bench = Bench(place, arguments)
    rows: dict[str, list[Times]] = {name: [] for name in ROWS}
    try:
        if not arguments.short:
            bench.measure("urgent")  # not counted: it warms both sides
        for number in range(arguments.rounds):
            for step in range(len(ROWS)):
                name = ROWS[(number + step) % len(ROWS)]
                rows[name].append(bench.measure(name))
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    finally:
        bench.close()
    bulk, urgent = format_size(arguments.bulk_size), format_size(arguments.urgent_size)
    print(f"{arguments.clients} bulk files of {bulk}, an urgent one of {urgent}, seconds, "
          f"{arguments.rounds} interleaved rounds")  # fmt: skip
    print_rows(rows)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure whether priorities act on bytes.")
    add = parser.add_argument
    # fmt: off
    add("--bulk-size", type=parse_size, metavar="SIZE", help="of each bulk file (250M)")
    add("--urgent-size", type=parse_size, metavar="SIZE", help="of the urgent one (50M)")
    add("--clients", type=int, default=6, metavar="N", help="that send bulk (6)")
    add("--limit", type=parse_size, metavar="RATE", help="bytes a second of the urgent one")
    add("--rounds", type=int, metavar="N", help="measurements of each row (5)")
    add("--directory", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR",
        help="for all files (the system's temporary directory)")
    add("--short", action="store_true", help="small files, one round")
    # fmt: on
    arguments = parser.parse_args(argv)
    short = arguments.short
    arguments.bulk_size = arguments.bulk_size or (4 * MB if short else 250 * MB)
    arguments.urgent_size = arguments.urgent_size or (2 * MB if short else 50 * MB)
    arguments.rounds = arguments.rounds or (1 if short else 5)
    return arguments


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(prefix="priority-", dir=arguments.directory) as name:
        try:
            if not arguments.short:
                print_facts(Path(name))
            run(arguments, Path(name))
        except PriorityError as error:
            print(f"FAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
