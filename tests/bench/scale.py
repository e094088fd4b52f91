"""Measures how a transfer scales: over the file's size, streams, block size, clients at once.

    python tests/bench/scale.py                         three rounds of everything: minutes, and
                                                        some 25 GB written to the disk
    python tests/bench/scale.py --only clients --rounds 5
    python tests/bench/scale.py --only sizes --sizes 1M,100M,4G
    python tests/bench/scale.py --short                 a few seconds: does everything work

What it measures, over loopback, with real processes: the time of a whole client process, from its
start to its end, and beside it the seconds of its receipt, which begin when the file is announced.
Each row has a server of its own, whose peak memory and greatest number of threads are shown; those
of the other rows do nothing meanwhile. A round goes through all rows of a table, each round begins
with another one, so that a slow minute of the machine hits all of them; what is shown is the
median. A first small transfer with each server is not counted. Sources are random data in the page
cache; what arrives is compared byte by byte, and removed at once.

Clients at once: n clients send the n-th part of the size each, every client its own file, so that
every row moves the same number of bytes, and what is compared is the total throughput. There are
several ways to be n clients:

*processes*   n times ``client.py`` as anybody would start it, from the first start to the last end;
              in the column *start* what remains of that when there is nothing to do, n times
              ``client.py --help``
*ready*       n processes again, but each has already imported the client and waits; from the moment
              when all are let go to the last receipt
*threads*     n threads of one process that has already imported it, with a session each
*no key*      the same, with accounts of the fewest iterations that are allowed: turning a password
              into a key then costs next to nothing, as with a token; with those that ``auth.py``
              makes it costs each client some 25 ms of a processor

Besides, it is told how many seconds of a processor the server took, and all clients together: where
both share two cores and one client alone leaves little of them free, that is what is spent.

What it does not say: how any of that is over a real network, or with clients on machines of their
own: client and server share the processors. Nothing is asserted about time: the exit code is 0
unless something did not arrive, arrived wrong, or was left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from client import (  # noqa: E402
    send_files,
)
from config import (  # noqa: E402
    GB,
    ITERATIONS,
    KB,
    MB,
    ClientSettings,
)
from lft.accounts.account import (  # noqa: E402
    MIN_ITERATIONS,
)
from lft.options import (  # noqa: E402
    format_size,
    parse_size,
)
from tests.bench.common import (  # noqa: E402
    HOST,
    ToolError,
    child,
    client_knows,
    directory_argument,
    last_line,
    make_file,
    note,
    of_rounds,
    patience,
    print_facts,
    print_markdown,
    ratio,
    receipt_in,
    rounds_argument,
    run_in_place,
    sizes_argument,
    turns,
    used_by,
)
from tests.bench.target import ACCOUNTS, PASSWORD, Sent, Server, server_at  # noqa: E402
from tests.support.processes import peak_memory  # noqa: E402

TABLES = ("sizes", "streams", "blocks", "clients")
SIZES = [MB, 10 * MB, 100 * MB, GB]
STREAMS = ["1", "2", "4", "8", "16", "auto"]
BLOCKS = ["50K", "200K", "1M", "4M"]
CLIENTS = [1, 10, 50, 200]
REHEARSAL = 2 * MB  # more than one block, and gone in no time
ACCOUNT_ITERATIONS = {"usual": ITERATIONS, "quick": MIN_ITERATIONS}  # of kinds of accounts
OF_ACCOUNT = 50  # clients; the server has a limit for the transfers of one user
GLANCE = 0.02  # seconds between two looks at the number of threads
CLIENT = [sys.executable, str(ROOT / "client.py")]
# A client that has done all it can before it is let go; standard input ends when all are.
READY = "import sys, client; print('ready', flush=True); sys.stdin.read(); sys.exit(client.main())"
READY_CLIENT = [sys.executable, "-c", READY]
THREADS = [sys.executable, str(Path(__file__).resolve()), "--threads"]


# --- the server's side ----------------------------------------------------------------------------


class Watch(threading.Thread):
    """Looks at a server's threads for as long as the ``with`` block lasts."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = threading.Event()
        self.most = 0

    def run(self) -> None:
        """Look until it is over."""
        while not self._over.wait(GLANCE):
            self.most = max(self.most, self._server.threads)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.most = max(self.most, self._server.threads)


@dataclass
class Row:
    """One row of a table, with its server."""

    name: str
    server: Server
    threads: int = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the server, and let nobody pay for what the run before left unwritten."""
        os.sync()
        with Watch(self.server) as watch:
            yield
        self.threads = max(self.threads, watch.most)

    @property
    def took(self) -> list[str]:
        """What the server took: the last two columns of every table."""
        return [format_size(peak_memory(self.server.process.pid) * KB), str(self.threads)]


# --- one client -----------------------------------------------------------------------------------


class Case(NamedTuple):
    """One way to send one file: what a row measures."""

    name: str
    size: int
    options: tuple[str, ...] = ()


@dataclass
class Single(Row):
    """A row of one client at a time."""

    size: int = 0
    options: tuple[str, ...] = ()
    sent: list[Sent] = field(default_factory=list)

    def measure(self, source: Path) -> None:
        """Send the file once. Raises ``ToolError``."""
        with self.watched():
            self.sent.append(self.server.transfer(source, *self.options))

    def cells(self) -> list[str]:
        """Return the row as it is printed."""
        whole = [sent.whole for sent in self.sent]
        median, receipt = (statistics.median(times) for times in zip(*self.sent))
        times = [f"{seconds:.2f}" for seconds in (median, min(whole), max(whole))]
        each = [f"{seconds * GB / self.size:.2f}" for seconds in (median, receipt)]
        return [self.name, *times, each[0], f"{receipt:.2f}", each[1], *self.took]


COLUMNS = (
    "seconds", "best", "worst", "seconds per GB", "by receipt", "per GB by receipt",
    "server memory", "threads",
)  # fmt: skip


def compare(what: str, cases: Sequence[Case], place: Path, rounds: int) -> None:
    """Measure all cases in turn and print their table. Raises ``ToolError``."""
    place.mkdir()
    sizes = {case.size for case in cases} | {REHEARSAL}
    sources = {size: make_file(place / f"{size}.bin", size) for size in sizes}
    with contextlib.ExitStack() as stack:
        rows = []
        for case in cases:
            server = stack.enter_context(server_at(place / case.name))
            server.transfer(sources[REHEARSAL], *case.options)
            rows.append(Single(case.name, server, 0, case.size, case.options))
        for number, row in turns(rows, rounds):
            row.measure(sources[row.size])
            note(f"round {number} of {rounds}: {what} {row.name}, {row.sent[-1].whole:.2f} s")
        title = f"one client, {'' if what == 'size' else format_size(cases[0].size) + ', '}"
        title += of_rounds(rounds)
        print_markdown(title, [what, *COLUMNS], (row.cells() for row in rows))
    shutil.rmtree(place)


# --- many clients ---------------------------------------------------------------------------------


class Flight(NamedTuple):
    """What a run of many clients brought."""

    seconds: float
    used: float  # seconds of a processor, of all of them together
    said: list[str]


def at_once(commands: Sequence[list[str]], log: Path, size: int, receipts: int = 0) -> Flight:
    """Run processes at once, from the first start to the last end. Raises ``ToolError``.

    With ``receipts``, how many each prints, a process says first that it is ready and then waits
    for the end of its standard input; the time is that from there to the last receipt.
    """
    entry, gate = os.pipe()
    with open(log, "wb") as errors, contextlib.ExitStack() as stack:
        stack.callback(os.close, entry)
        opened = stack.enter_context(open(gate, "wb"))
        before, began = _used_by_children(), time.perf_counter()
        streams: dict[str, Any] = {"stdin": entry, "stdout": subprocess.PIPE, "stderr": errors}
        streams["cwd"] = ROOT  # where ``import client`` finds it
        fleet = [stack.enter_context(child(command, **streams)) for command in commands]
        stack.enter_context(_watchdog(fleet, patience(size)))
        if receipts:
            _read_lines(fleet, 1)
            before += sum(used_by(process.pid) for process in fleet)
            began = time.perf_counter()
        opened.close()
        said = _read_lines(fleet, receipts)
        seconds = time.perf_counter() - began
        if any(process.wait() for process in fleet):
            raise ToolError(f"a client failed: {last_line(log)}")
        return Flight(seconds, _used_by_children() - before, said)


def _used_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _read_lines(fleet: Sequence[subprocess.Popen[bytes]], count: int) -> list[str]:
    """Read so many lines from each process, or all of them, until it ends, for a ``count`` of 0."""
    lines: list[str] = []
    for process in fleet:
        assert process.stdout is not None
        whole = itertools.islice(process.stdout, count or None)
        lines += (line.decode(errors="replace") for line in whole)
        if not count:
            process.wait()
    return lines


@contextlib.contextmanager
def _watchdog(fleet: Sequence[subprocess.Popen[bytes]], seconds: float) -> Iterator[None]:
    """End all processes after so many seconds, or at the end of the ``with`` block."""

    def stop() -> None:
        for process in fleet:
            if process.poll() is None:
                process.terminate()

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        stop()


class Way(NamedTuple):
    """A way to be many clients at once."""

    name: str
    account: str = "usual"  # its iterations, see ``ACCOUNT_ITERATIONS``
    ready: bool = False  # whether they wait until all are let go
    threads: bool = False  # of one process


WAYS = (
    Way("processes"),
    Way("ready", ready=True),
    Way("threads", ready=True, threads=True),
    Way("no key", "quick", ready=True, threads=True),
)


@dataclass
class Swarm(Row):
    """A row of many clients at once, each with a file of its own."""

    way: Way = WAYS[0]
    sources: list[Path] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    used: list[tuple[float, float]] = field(default_factory=list)  # by server and clients

    @property
    def bytes(self) -> int:
        """What all clients send together."""
        return sum(source.stat().st_size for source in self.sources)

    def measure(self) -> None:
        """Send all files once, see that all came. Raises ``ToolError``."""
        log = self.server.output.with_name("clients")
        if not self.way.ready:
            commands = [[*CLIENT, "--help"] for _ in self.sources]
            self.start.append(at_once(commands, log, self.bytes).seconds)
        receipts = len(self.sources) if self.way.threads else int(self.way.ready)
        with self.watched():
            used = self.server.used()
            flight = at_once(self._commands(), log, self.bytes, receipts)
            self.used.append((self.server.used() - used, flight.used))
        self.seconds.append(flight.seconds)
        if len(flight.said) != len(self.sources):
            raise ToolError(f"{len(flight.said)} receipts for {len(self.sources)} files")
        for source, receipt in zip(self.sources, map(receipt_in, flight.said)):
            self.server.check(source, receipt)

    def _commands(self) -> list[list[str]]:
        """Return the command lines of all processes."""
        each = [
            (f"{self.way.account}{number // OF_ACCOUNT}", str(source))
            for number, source in enumerate(self.sources)
        ]
        if self.way.threads:
            return [[*THREADS, str(self.server.port), json.dumps(each)]]
        program = READY_CLIENT if self.way.ready else CLIENT
        return [[*program, source, *self.server.client_options(user)] for user, source in each]

    def cells(self, one: Swarm) -> list[str]:
        """Return the row as it is printed; ``one`` is that of a single client."""
        size, median = format_size(self.bytes / len(self.sources)), statistics.median(self.seconds)
        throughput = ratio(statistics.median(one.seconds), median)
        used = [f"{statistics.median(seconds):.2f}" for seconds in zip(*self.used)]
        start = f"{statistics.median(self.start):.2f}" if self.start else "-"
        cells = [str(len(self.sources)), size, self.way.name, start, f"{median:.2f}", throughput]
        return [*cells, *used, *self.took]


SWARM_COLUMNS = (
    "clients", "each sends", "way", "start", "seconds", "throughput", "server's processor",
    "clients' processor", "server memory", "threads",
)  # fmt: skip


def be_threads(port: int, clients: list[tuple[str, str]]) -> int:
    """Be clients in threads of this process, each a user with a file; return the exit code."""
    with ThreadPoolExecutor(len(clients)) as pool:
        print("ready", flush=True)
        sys.stdin.read()
        futures = []
        for user, source in clients:
            settings = ClientSettings(server=HOST, port=port, user=user, password=PASSWORD)
            futures.append(pool.submit(send_files, [source], settings))
        for future in futures:
            (receipt,) = future.result()
            print(json.dumps(receipt._asdict()), flush=True)
    return 0


def accounts(clients: int) -> dict[str, int]:
    """Return accounts of each kind for so many clients, with the iterations of each."""
    numbers = range(-(-clients // OF_ACCOUNT))
    return {f"{kind}{n}": count for n in numbers for kind, count in ACCOUNT_ITERATIONS.items()}


def swarms_of(count: int, size: int, place: Path, stack: contextlib.ExitStack) -> list[Swarm]:
    """Make the files of ``count`` clients, and a row with a server for each way."""
    sources = [
        make_file(place / f"{count}-{number}.bin", max(1, size // count)) for number in range(count)
    ]
    swarms = []
    for way in WAYS:
        folder = place / f"{count} {way.name}"
        server = stack.enter_context(server_at(folder, {**ACCOUNTS, **accounts(count)}))
        swarms.append(Swarm(f"{count} clients, {way.name}", server, 0, way, sources))
    return swarms


def compare_swarms(counts: Sequence[int], size: int, place: Path, rounds: int) -> None:
    """Measure each number of clients in turn and print their table. Raises ``ToolError``."""
    place.mkdir()
    with contextlib.ExitStack() as stack:
        rows = [row for count in counts for row in swarms_of(count, size, place, stack)]
        rehearsal = make_file(place / "rehearsal.bin", REHEARSAL)
        for row in rows:
            row.server.transfer(rehearsal)
        for number, row in turns(rows, rounds):
            row.measure()
            note(f"round {number} of {rounds}: {row.name}, {row.seconds[-1]:.2f} s")
        title = f"{format_size(size)} from all clients together, {of_rounds(rounds)}, "
        title += f"seconds; throughput is that of all, {counts[0]} client = 1"
        ones = rows[: len(WAYS)] * len(counts)
        print_markdown(title, SWARM_COLUMNS, (row.cells(one) for row, one in zip(rows, ones)))
    shutil.rmtree(place)


# --- the command line -----------------------------------------------------------------------------


def tables_argument(text: str) -> list[str]:
    """Parse ``--only``."""
    chosen = text.split(",")
    if not set(chosen) <= set(TABLES):
        raise argparse.ArgumentTypeError(f"there are {', '.join(TABLES)}")
    return chosen


def counts_argument(text: str) -> list[int]:
    """Parse ``--clients``."""
    counts = [int(part) if part.isdigit() else 0 for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"not numbers of clients: {text!r}")
    return counts


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure how a transfer scales.")
    add = parser.add_argument
    # fmt: off
    add("--sizes", type=sizes_argument, metavar="SIZE[,SIZE...]",
        help="of the file, in the table of sizes (1M,10M,100M,1G)")
    add("--size", type=parse_size, metavar="SIZE",
        help="of the file in the other tables, of all clients together (250M)")
    add("--rounds", type=rounds_argument, metavar="N", help="measurements of each row (3)")
    add("--clients", type=counts_argument, metavar="N[,N...]",
        help="clients at once; the first is what the others are compared with (1,10,50,200)")
    add("--only", type=tables_argument, default=list(TABLES), metavar="TABLE[,TABLE...]",
        help=f"of {', '.join(TABLES)}")
    add("--directory", type=directory_argument, default=directory_argument(tempfile.gettempdir()),
        metavar="DIR", help="for all files (the system's temporary directory)")
    add("--short", action="store_true", help="small files, few rows, one round")
    # fmt: on
    arguments = parser.parse_args(argv)
    short = arguments.short
    arguments.sizes = arguments.sizes or ([MB, 4 * MB] if short else SIZES)
    arguments.size = arguments.size or (5 if short else 250) * MB
    arguments.rounds = arguments.rounds or (1 if short else 3)
    arguments.streams = ["1", "4"] if short else STREAMS
    arguments.blocks = BLOCKS[:2] if short else BLOCKS
    arguments.clients = arguments.clients or ([1, 5] if short else CLIENTS)
    check_disk(parser, arguments)
    return arguments


def check_disk(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse a directory where there is no room."""
    needs = {
        "sizes": sum(arguments.sizes) + max(arguments.sizes),
        "streams": 2 * arguments.size,
        "blocks": 2 * arguments.size,
        "clients": (len(arguments.clients) + 1) * arguments.size,
    }
    needed = max(needs[table] for table in arguments.only) + 64 * MB
    if shutil.disk_usage(arguments.directory).free < needed:
        parser.error(f"{arguments.directory} has no room for {format_size(needed)}")


def cases(table: str, arguments: argparse.Namespace) -> list[Case]:
    """Return the rows of one of the tables with one client."""
    if table == "sizes":
        return [Case(format_size(size), size) for size in arguments.sizes]
    option, values = ("--streams", arguments.streams)
    if table == "blocks":
        option, values = ("--block-size", arguments.blocks)
    known = [value for value in values if value != "auto" or client_knows(option, value)]
    return [Case(value, arguments.size, (option, value)) for value in known]


def run(arguments: argparse.Namespace, place: Path) -> None:
    """Measure all tables that were asked for. Raises ``ToolError``."""
    print_facts(place)
    firsts = {"sizes": "size", "streams": "streams", "blocks": "block size"}
    for table, first in firsts.items():
        if table in arguments.only:
            compare(first, cases(table, arguments), place / table, arguments.rounds)
    if "clients" in arguments.only:
        place = place / "clients"
        compare_swarms(arguments.clients, arguments.size, place, arguments.rounds)


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    if argv[:1] == ["--threads"]:
        return be_threads(int(argv[1]), json.loads(argv[2]))
    return run_in_place(run, parse(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
