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

At the end a second server runs with 128 descriptors and gets twice as many strangers: what it takes
of a processor meanwhile, and how long after their end a transfer arrives. That it arrives at all is
the only thing that is asserted, with every transfer's ``INTEGRITY_OK``; nothing is asserted about
time.

What it does not say: what the crowd costs over a real network, or from many machines; client,
crowd and server share the processors. The time of a small file is mostly the start of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]

from common import print_facts  # noqa: E402
from conftest import RawClient, client_command, environment, random_file, status  # noqa: E402

import auth  # noqa: E402
from config import KB, MAX_STREAMS, MB, format_size, parse_size  # noqa: E402
from protocol import (  # noqa: E402
    FEATURES,
    VERSION,
    BlockHeader,
    Connection,
    FileReady,
    FileStart,
    Hello,
    TransferError,
    encode,
    encode_header,
)

HOST = "127.0.0.1"
PASSWORD = "a password"
CROWD_USER, USER = "crowd", "sender"
BLOCK = 200 * KB
FEW_FILES = 128  # descriptors of the server that is to run out of them
SPARE_FILES = 200  # descriptors a process needs beside those of the crowd
PATIENCE = 60.0  # seconds for a crowd to stand, or a server to recover


class LoadError(Exception):
    """Something did not work that must."""


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
    throng = Throng(port, Crowd(*counts))
    print("ready", flush=True)
    throng.run()
    print(throng.renewed, flush=True)
    return 0


@contextlib.contextmanager
def crowd_of(port: int, crowd: Crowd) -> Iterator[None]:
    """Have a crowd at the server, for a while. Raises ``LoadError``."""
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
            raise LoadError(f"the crowd does not stand: {crowd}")
        yield
        if process.poll() is not None:
            raise LoadError(f"the crowd has ended: {crowd}")
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# --- the server -----------------------------------------------------------------------------------


class Server:
    """A real server with accounts for the crowd and for the sender."""

    def __init__(self, folder: Path, files: int = 0) -> None:
        folder.mkdir()
        self.output, self._log = folder / "output", folder / "server.log"
        self._password = folder / "password"
        self._make_accounts(folder / "users")
        command = [sys.executable, str(ROOT / "server.py"), "--port", "0", "--grace", "0"]
        command += ["--output", str(self.output), "--credentials", str(folder / "users")]
        command += ["--log-level", "WARNING"]
        if files:
            command = ["prlimit", f"--nofile={files}:{files}", "--", *command]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(),
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first.startswith("Listening on "):
            raise LoadError(f"the server does not start: {self._log.read_text()}")
        self.port = int(first.rpartition(":")[2])

    def _make_accounts(self, path: Path) -> None:
        users = {
            name: auth.Credential.make(PASSWORD, 0, auth.MIN_ITERATIONS)
            for name in (CROWD_USER, USER)
        }
        auth.save_credentials(path, users)
        self._password.write_text(PASSWORD)
        self._password.chmod(0o600)

    @property
    def memory(self) -> int:
        """Bytes of memory it has now."""
        return status(self._process.pid, "VmRSS") * KB

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return status(self._process.pid, "Threads")

    @property
    def files(self) -> int:
        """How many descriptors it has."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def processor(self, seconds: float) -> float:
        """Return what part of one processor it takes in the next seconds."""
        before, began = self._ticks(), time.monotonic()
        time.sleep(seconds)
        used = (self._ticks() - before) / os.sysconf("SC_CLK_TCK")
        return used / (time.monotonic() - began)

    def _ticks(self) -> int:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    def transfer(self, source: Path) -> float:
        """Send a file with a real client; return the seconds. Raises ``LoadError``."""
        options = ["--user", USER, "--password-file", str(self._password), "--json", "--quiet"]
        command = client_command(self.port, source, "--server", HOST, *options)
        began = time.perf_counter()
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment(), timeout=600
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise LoadError(f"the client ended with {done.returncode}: {done.stderr}")
        receipt = json.loads(done.stdout)
        (self.output / receipt["saved_as"]).unlink()
        return seconds

    def settle(self, files: int) -> None:
        """Wait until a crowd is gone."""
        deadline = time.monotonic() + PATIENCE
        while self.files > files:
            if time.monotonic() > deadline:
                raise LoadError(f"{self.files} descriptors are left, {files} were there before")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it. Raises ``LoadError`` if it does not end well."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        log = self._log.read_text()
        if code or "Traceback" in log:
            raise LoadError(f"the server ended with {code}: {log[-3000:]}")


@contextlib.contextmanager
def server_at(folder: Path, files: int = 0) -> Iterator[Server]:
    """Have a server for a while."""
    server = Server(folder, files)
    try:
        yield server
    finally:
        server.stop()


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
        figures.seconds.append(server.transfer(source))
        figures.memory = max(figures.memory, server.memory)
        figures.threads = max(figures.threads, server.threads)
    server.settle(files)


def compare(server: Server, crowds: dict[str, Crowd], source: Path, rounds: int) -> None:
    """Measure all rows in turn and print them."""
    server.transfer(source)  # not counted: it warms both sides
    rows = {name: Figures() for name in crowds}
    names = list(crowds)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            measure(server, crowds[name], source, rows[name], 1.0 if rounds > 1 else 0.2)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
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
    """Let a server run out of descriptors; print what that costs. Raises ``LoadError``."""
    if shutil.which("prlimit") is None:
        print("descriptors used up: not tried, there is no prlimit")
        return
    with server_at(folder, FEW_FILES) as server:
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
    """Allow as many open files as the largest crowd needs. Raises ``LoadError``."""
    needed = max(crowd.size for crowd in crowds.values()) + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard not in (resource.RLIM_INFINITY,) and hard < needed:
            raise LoadError(f"{needed} open files are needed and {hard} allowed (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what a crowd costs.")
    add = parser.add_argument
    # fmt: off
    add("--size", type=parse_size, metavar="SIZE", help="of the file (256M)")
    add("--rounds", type=int, metavar="N", help="measurements of each row (5)")
    add("--only", metavar="ROW[,ROW...]", help=f"rows: {', '.join(CROWDS)}")
    add("--directory", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR",
        help="for all files (the system's temporary directory)")
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
    """Do all of it. Raises ``LoadError``."""
    raise_limit(arguments.crowds)
    source = random_file(place / "random.bin", arguments.size)
    print(f"{format_size(arguments.size)}, seconds, {arguments.rounds} interleaved rounds")
    with server_at(place / "server") as server:
        compare(server, arguments.crowds, source, arguments.rounds)
    small = random_file(place / "small.bin", MB)
    run_out_of_files(place / "few", small, 0.5 if arguments.short else 3.0)


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    if argv[:1] == ["--crowd"]:
        return be_crowd(int(argv[1]), [int(count) for count in argv[2:]])
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(prefix="load-", dir=arguments.directory) as name:
        try:
            if not arguments.short:
                print_facts(Path(name))
            run(arguments, Path(name))
        except LoadError as error:
            print(f"FAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
