"""Measures what a crowd of idle and slow connections costs a transfer, and the server.

    python tests/bench/load.py                     256 MB, five rounds, all crowds; minutes
    python tests/bench/load.py --size 1G --rounds 3 --only alone,both
    python tests/bench/load.py --short             a few seconds: does everything work

What it measures: the time of a whole client process, from its start to its end, over loopback, with
the crowd of the row beside it; how many times the time without a crowd that is; what part of one
processor the server takes for the crowd alone, in a second just before; and the server's memory and
threads with the crowd. A round goes through all rows, each round begins with another, so that a
slow minute of the machine hits all of them. Each crowd is built for one measurement and is gone
before the next. The file and its copy are in the page cache; received files are removed at once.

The crowds: *coordinators* have logged in and say nothing; *strangers* have connected and say
nothing; *slow strangers* send their HELLO a byte a second; *slow* ones have logged in, half of them
coordinators that send a FILE_START a byte a second, half of them data connections that send a block
so. ``both`` is 1,000 strangers and 200 slow ones. A crowd is one thread with one selector in a
process of its own; what the server closes, as it does with strangers after 20 s, is opened again.
Its accounts have the fewest iterations that are allowed: its logins are not what is measured.

Then a second server runs with 128 descriptors and gets twice as many strangers: what it takes of a
processor meanwhile, and how long after their end a transfer arrives. At last come enemies, each
kind at a server of its own (``siege.py``): strangers at 1,024 descriptors, KeyUpdates without end,
block headers without blocks, half messages, tokens that have expired, a log that nobody reads.
Their table shows what a login of another user takes meanwhile.

What is asserted: every transfer's ``INTEGRITY_OK``; and beside enemies also that no login takes
10 s, that the server's memory stays bounded, that it does with them what it should, and that its
threads and descriptors are back when they have gone. Otherwise nothing is asserted about time.

What it does not say: what the crowd costs over a real network, or from many machines; client,
crowd and server share the processors. The time of a small file is mostly the start of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import (  # noqa: E402
    KB,
    MAX_STREAMS,
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
    parse_size,
)
from lft.wire.blocks import (  # noqa: E402
    BlockHeader,
    encode_header,
)
from lft.wire.codecs import (  # noqa: E402
    FEATURES,
)
from lft.wire.connection import (  # noqa: E402
    Connection,
)
from lft.wire.frames import (  # noqa: E402
    encode,
)
from protocol import (  # noqa: E402
    VERSION,
    FileReady,
    FileStart,
    Hello,
    TransferError,
)
from tests.bench.common import (  # noqa: E402
    ToolError,
    directory_argument,
    note,
    print_facts,
    rounds_argument,
    run_in_place,
    turns,
)
from tests.bench.siege import siege  # noqa: E402
from tests.bench.target import (  # noqa: E402
    CROWD_USER,
    PASSWORD,
    PATIENCE,
    Server,
    server_at,
)
from tests.support.files import random_file  # noqa: E402
from tests.support.rawpeer import RawClient  # noqa: E402

BLOCK = 200 * KB
FEW_FILES = 128  # descriptors of the server that is to run out of them
SPARE_FILES = 200  # descriptors a process needs beside those of the crowd


class Crowd(NamedTuple):
    """How many of each kind."""

    coordinators: int = 0
    strangers: int = 0
    slow_strangers: int = 0
    slow: int = 0

    @property
    def size(self) -> int:
        """The connections, about: a slow one may need a coordinator."""
        return sum(self) + self.slow // MAX_STREAMS + 1


CROWDS = {
    "alone": Crowd(),
    "coordinators-10": Crowd(coordinators=10),
    "coordinators-50": Crowd(coordinators=50),
    "coordinators-200": Crowd(coordinators=200),
    "coordinators-1000": Crowd(coordinators=1000),
    "strangers-1000": Crowd(strangers=1000),
    "slow-strangers-200": Crowd(slow_strangers=200),
    "slow-200": Crowd(slow=200),
    "both": Crowd(strangers=1000, slow=200),
}
SHORT_CROWDS = {
    "alone": Crowd(),
    "coordinators-10": Crowd(coordinators=10),
    "slow-strangers-20": Crowd(slow_strangers=20),
    "both": Crowd(strangers=50, slow=20),
}


# --- the crowd's own process ----------------------------------------------------------------------


@dataclass(eq=False)
class Member:
    """One connection of the crowd, and what it still has to say, a byte a second."""

    kind: str
    connection: Connection
    words: bytes = b""
    said: int = 0


class Throng:
    """Opens the crowd's connections, keeps them open, lets the slow ones speak."""

    def __init__(self, port: int, crowd: Crowd) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._raw: list[RawClient] = []  # keeps what it has opened from being closed
        self._hosts: list[tuple[RawClient, int]] = []  # coordinators of slow data connections
        self.renewed = 0
        for kind, count in zip(crowd._fields, crowd):
            for number in range(count):
                self._add(kind, number)

    def _add(self, kind: str, number: int = 0) -> None:
        make = {
            "coordinators": self._coordinator,
            "strangers": self._stranger,
            "slow_strangers": self._slow_stranger,
            "slow": self._slow_stream if number % 2 else self._slow_coordinator,
        }[kind]
        member = make()
        self._selector.register(member.connection, selectors.EVENT_READ, member)

    def _connect(self) -> RawClient:
        raw = RawClient(self._port)
        self._raw.append(raw)
        return raw

    def _log_in(self) -> RawClient:
        return self._connect().log_in(CROWD_USER, PASSWORD)

    def _coordinator(self) -> Member:
        return Member("coordinators", self._log_in().control)

    def _stranger(self) -> Member:
        return Member("strangers", self._connect().control)

    def _slow_stranger(self) -> Member:
        hello = encode(Hello(VERSION, FEATURES))
        return Member("slow_strangers", self._connect().control, hello)

    def _slow_coordinator(self) -> Member:
        start = encode(FileStart("slow.bin", BLOCK, BLOCK, "md5", "0" * 32, resume=False))
        return Member("slow", self._log_in().control, start)

    def _slow_stream(self) -> Member:
        raw, number = self._host()
        header = encode_header(BlockHeader(number, 0, BLOCK, BLOCK, 0, bytes(16)))
        return Member("slow", raw.attach(), header + bytes(BLOCK))

    def _host(self) -> tuple[RawClient, int]:
        """Return a session that has room for one more data connection, and its transfer."""
        if self._hosts and len(self._hosts[-1][0]._connections) <= MAX_STREAMS:
            return self._hosts[-1]
        raw = self._log_in()
        raw.control.send(FileStart("slow.bin", BLOCK, BLOCK, "md5", "0" * 32, resume=False))
        ready = raw.answer()
        assert isinstance(ready, FileReady), ready
        self._hosts.append((raw, ready.transfer))
        return self._hosts[-1]

    def run(self) -> None:
        """Go on until somebody speaks to us, or hangs up."""
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        due = time.monotonic()
        while True:
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                if key.data is None:
                    return
                self._hear(key.data)
            if time.monotonic() >= due:
                due += 1.0
                self._speak()

    def _hear(self, member: Member) -> None:
        """Throw away what the server says; replace a connection that it has closed."""
        if member.connection.discard():
            self._selector.unregister(member.connection)
            member.connection.close()
            self.renewed += 1
            self._add(member.kind)

    def _speak(self) -> None:
        for key in list(self._selector.get_map().values()):
            member = key.data
            if member and member.said < len(member.words):
                with contextlib.suppress(TransferError):  # closed: we shall hear of it
                    member.connection.push(member.words[member.said : member.said + 1])
                member.said += 1


def be_crowd(port: int, counts: list[int]) -> int:
    """Be the crowd, in a process of its own."""
    try:
        throng = Throng(port, Crowd(*counts))
    except (OSError, TransferError) as error:
        note(f"the crowd cannot stand: {error}")
        return 1
    print("ready", flush=True)
    throng.run()
    print(throng.renewed, flush=True)
    return 0


@contextlib.contextmanager
def crowd_of(port: int, crowd: Crowd) -> Iterator[None]:
    """Have a crowd at the server, for a while. Raises ``ToolError``."""
    if not any(crowd):
        yield
        return
    command = [sys.executable, str(Path(__file__).resolve()), "--crowd", str(port)]
    process = subprocess.Popen(
        [*command, *map(str, crowd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise ToolError(f"the crowd does not stand: {crowd}")
        yield
        if process.poll() is not None:
            raise ToolError(f"the crowd has ended: {crowd}")
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What the rounds of one row brought."""

    seconds: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)  # parts of a processor
    memory: int = 0
    threads: int = 0


def measure(server: Server, crowd: Crowd, source: Path, figures: Figures, pause: float) -> None:
    """Take one measurement."""
    files = server.files
    with crowd_of(server.port, crowd):
        figures.idle.append(server.processor(pause))
        figures.seconds.append(server.transfer(source).whole)
        figures.memory = max(figures.memory, server.memory)
        figures.threads = max(figures.threads, server.threads)
    server.settle(files)


def compare(server: Server, crowds: dict[str, Crowd], source: Path, rounds: int) -> None:
    """Measure all rows in turn and print them."""
    server.transfer(source)  # not counted: it warms both sides
    rows = {name: Figures() for name in crowds}
    for number, name in turns(list(crowds), rounds):
        measure(server, crowds[name], source, rows[name], 1.0 if rounds > 1 else 0.2)
        note(f"round {number} of {rounds}: {name} {rows[name].seconds[-1]:.2f} s")
    print_rows(rows)


def print_rows(rows: dict[str, Figures]) -> None:
    """Print the table."""
    alone = statistics.median(rows["alone"].seconds) if "alone" in rows else None
    print(f"{'crowd':<20}{'median':>8}{'best':>8}{'worst':>8}{'/alone':>8}"
          f"{'idle CPU':>10}{'memory':>11}{'threads':>9}")  # fmt: skip
    for name, row in rows.items():
        median = statistics.median(row.seconds)
        times = f"{median:>8.2f}{min(row.seconds):>8.2f}{max(row.seconds):>8.2f}"
        ratio = f"{median / alone:>8.2f}" if alone else f"{'-':>8}"
        idle = f"{statistics.median(row.idle):>9.1%}"
        print(f"{name:<20}{times}{ratio} {idle}{format_size(row.memory):>11}{row.threads:>9}")


def run_out_of_files(folder: Path, source: Path, pause: float) -> None:
    """Let a server run out of descriptors; print what that costs. Raises ``ToolError``."""
    with server_at(folder) as server:
        server.allow_files(FEW_FILES)
        server.transfer(source)
        with crowd_of(server.port, Crowd(strangers=2 * FEW_FILES)):
            busy, files = server.processor(pause), server.files
        began = time.monotonic()
        server.transfer(source)
        seconds = time.monotonic() - began
    print(f"\n{2 * FEW_FILES} strangers at a server with {FEW_FILES} descriptors: it has {files} "
          f"and takes {busy:.1%} of a processor;\nafter their end a transfer of "
          f"{format_size(source.stat().st_size)} arrives in {seconds:.2f} s")  # fmt: skip


def raise_limit(crowds: dict[str, Crowd]) -> None:
    """Allow as many open files as the largest crowd needs. Raises ``ToolError``."""
    needed = max(crowd.size for crowd in crowds.values()) + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard not in (resource.RLIM_INFINITY,) and hard < needed:
            raise ToolError(f"{needed} open files are needed and {hard} allowed (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what a crowd costs.")
    add = parser.add_argument
    # fmt: off
    add("--size", type=parse_size, metavar="SIZE", help="of the file (256M)")
    add("--rounds", type=rounds_argument, metavar="N", help="measurements of each row (5)")
    add("--only", metavar="ROW[,ROW...]", help=f"rows: {', '.join(CROWDS)}")
    add("--directory", type=directory_argument, default=directory_argument(tempfile.gettempdir()),
        metavar="DIR", help="for all files (the system's temporary directory)")
    add("--short", action="store_true", help="a small file, small crowds, one round")
    # fmt: on
    arguments = parser.parse_args(argv)
    crowds = SHORT_CROWDS if arguments.short else CROWDS
    names = arguments.only.split(",") if arguments.only else list(crowds)
    if not set(names) <= set(crowds):
        parser.error(f"rows are {', '.join(crowds)}")
    arguments.crowds = {name: crowds[name] for name in names}
    arguments.size = arguments.size or (4 * MB if arguments.short else 256 * MB)
    arguments.rounds = arguments.rounds or (1 if arguments.short else 5)
    return arguments


def run(arguments: argparse.Namespace, place: Path) -> None:
    """Do all of it. Raises ``ToolError``."""
    if not arguments.short:
        print_facts(place)
    raise_limit(arguments.crowds)
    source = random_file(place / "random.bin", arguments.size)
    print(f"{format_size(arguments.size)}, seconds, {arguments.rounds} interleaved rounds")
    with server_at(place / "server") as server:
        compare(server, arguments.crowds, source, arguments.rounds)
    small = random_file(place / "small.bin", MB)
    run_out_of_files(place / "few", small, 0.5 if arguments.short else 3.0)
    siege(place, small, short=arguments.short)


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    if argv[:1] == ["--crowd"]:
        return be_crowd(int(argv[1]), [int(count) for count in argv[2:]])
    return run_in_place(run, parse(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
