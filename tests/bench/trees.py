"""Measures directories: many small files beside rsync and tar, a large file in one, memory.

    python tests/bench/trees.py                        all of it, five rounds; some minutes
    python tests/bench/trees.py --files 1000 --rounds 3
    python tests/bench/trees.py --short                a few seconds: does everything work

What it measures: the time from the start of a sending process to its end, over loopback, onto the
same disk. ``rsync -a -W`` sends to a daemon with ``--fsync``; ``tar`` is a ``tar`` into ``nc``, a
``tar`` behind another ``nc``, and a ``sync`` after that; ``ours`` is a client process and a server
that waits, with the proof of each file, durable. ``one by one`` gives our client each file as an
argument, a tenth of them, and its time is told for as many as the others have. ``alone`` is a large
file, ``in a directory`` the same one as all that there is in a directory. At the end a directory of
empty files tells the memory of both sides.

How fair it is: a round runs each row once and begins with another one; before each run the disk is
given what earlier ones left unwritten. Medians are shown, with the best and the worst. What came is
compared with what was sent once for each row that is ours. Nothing is asserted about time.

What it does not say: how it goes over a far link (wan.py), or with cold files.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import KB, MB  # noqa: E402
from lft.options import format_size, parse_size  # noqa: E402
from tests.bench.common import (  # noqa: E402
    HOST,
    ToolError,
    child,
    directory_argument,
    find,
    handle_signals,
    logged,
    make_file,
    note,
    of_rounds,
    patience,
    print_facts,
    print_markdown,
    proc_fields,
    rounds_argument,
    rsync_config,
    temporary_directory,
    timed,
    turns,
    wait,
)
from tests.bench.movers import await_listener, free_port  # noqa: E402
from tests.bench.target import Server, server_at  # noqa: E402

SMALL = 10 * KB
DIRECTORIES = 100
FEWER = 10  # a tenth of the files are sent one by one


def make_files(top: Path, count: int, size: int) -> Path:
    """Make ``count`` files of random bytes in many directories, and have them written."""
    for number in range(count):
        folder = top / f"d{number % DIRECTORIES:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number:06}").write_bytes(os.urandom(size))
    os.sync()
    return top


class Bench:
    """The rows, each of which sends something once and returns the seconds it took."""

    def __init__(self, place: Path, server: Server, rsync: Callable[[Path], list[str]]) -> None:
        self._place, self._server, self._rsync = place, server, rsync
        self._log = place / "log"
        self._compared: set[str] = set()
        self.peak = 0  # bytes of memory of our client

    def ours(self, *sources: Path) -> float:
        """Send with our client."""
        options = self._server.client_options()
        command = [sys.executable, str(ROOT / "client.py"), *map(str, sources), *options]
        run = timed(command, self._log, sum(map(size_of, sources)))
        self.peak = run.peak
        if len(sources) == 1 and sources[0].is_dir() and sources[0].name not in self._compared:
            self._compared.add(sources[0].name)
            (saved,) = (path for path in self._server.output.glob("server_*") if path.is_dir())
            if subprocess.run(["diff", "-r", sources[0], saved], check=False).returncode:
                raise ToolError(f"{saved.name} is not what was sent")
        for path in self._server.output.glob("server_received_*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return run.seconds

    def rsync(self, source: Path) -> float:
        """Send with rsync to a daemon."""
        return timed(self._rsync(source), self._log, size_of(source)).seconds

    def tar(self, source: Path) -> float:
        """Send through tar and nc, and have it written."""
        inbox, port = self._place / "tar", free_port()
        inbox.mkdir()
        receive = f"nc -nlN {HOST} {port} | tar xf - -C '{inbox}' && sync"
        send = f"sleep 0.1; tar cf - -C '{source.parent}' '{source.name}' | nc -nN {HOST} {port}"
        with child(["sh", "-c", receive], stdout=subprocess.DEVNULL) as receiver:
            began = time.perf_counter()
            timed(["sh", "-c", send], self._log, size_of(source))
            wait(receiver, patience(size_of(source)))
            took = time.perf_counter() - began - 0.1
        if len(list(inbox.rglob("*"))) != len(list(source.parent.glob(f"{source.name}/**/*"))) + 1:
            raise ToolError("tar: not all came")
        shutil.rmtree(inbox)
        return took


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all in a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(found.stat().st_size for found in path.rglob("*") if found.is_file())


def rsync_daemon(place: Path, stack: contextlib.ExitStack) -> Callable[[Path], list[str]]:
    """Start a daemon; return the command that sends a directory to it."""
    program, port, inbox = find("rsync"), free_port(), place / "rsync"
    inbox.mkdir()
    config = place / "rsyncd.conf"
    config.write_text(rsync_config(inbox, port, place / "daemon-log"))
    command = [program, "--daemon", "--no-detach", f"--config={config}", f"--address={HOST}"]
    daemon = stack.enter_context(logged(command, place / "peer-log"))
    await_listener(daemon, port, place / "peer-log")
    sender = [program, "-a", "-W", "--fsync"]
    return lambda source: [*sender, str(source), f"rsync://{HOST}:{port}/inbox/{time.time_ns()}/"]


def measure(place: Path, given: argparse.Namespace, bench: Bench) -> dict[str, list[float]]:
    """Run all rows in interleaved rounds; return the seconds of each."""
    small = make_files(place / "small", given.files, SMALL)
    few = sorted(path for path in small.rglob("*") if path.is_file())[: given.files // FEWER]
    (place / "large").mkdir()
    large = make_file(place / "large" / "one", given.size)
    rows: dict[str, Callable[[], float]] = {
        "ours": lambda: bench.ours(small),
        "rsync -a -W --fsync": lambda: bench.rsync(small),
        "tar and nc, sync": lambda: bench.tar(small),
        "ours, one by one": lambda: bench.ours(*few) * FEWER,
        "large file alone": lambda: bench.ours(large),
        "in a directory": lambda: bench.ours(large.parent),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for number, name in turns(list(rows), given.rounds):
        os.sync()
        seconds[name].append(rows[name]())
        shutil.rmtree(place / "rsync", ignore_errors=True)
        (place / "rsync").mkdir()
        note(f"round {number}: {name} {seconds[name][-1]:.2f} s")
    return seconds


def tell(seconds: dict[str, list[float]], given: argparse.Namespace) -> None:
    """Print the table."""
    ours = statistics.median(seconds["ours"])
    rows = [
        (name, f"{statistics.median(all_of):.2f}", f"{min(all_of):.2f} - {max(all_of):.2f}",
         f"{statistics.median(all_of) / ours:.2f}")
        for name, all_of in seconds.items()
    ]  # fmt: skip
    what = f"{given.files:,} files of {format_size(SMALL)}, a file of {format_size(given.size)}"
    print_markdown(f"{what}, {of_rounds(given.rounds)}",
                   ("row", "seconds", "best - worst", "times ours"), rows)  # fmt: skip


def memory(place: Path, count: int, server: Server, bench: Bench) -> None:
    """Print the memory that a directory of empty files takes."""
    seconds = bench.ours(make_files(place / "empty", count, 0))
    peak = proc_fields(Path(f"/proc/{server.process.pid}/status"))["VmHWM"]
    ours, theirs = format_size(bench.peak), format_size(int(peak.split()[0]) * KB)
    print(f"\n{count:,} empty files: {seconds:.1f} s; peak memory: client {ours}, server {theirs}")


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="small files")
    parser.add_argument("--empty", type=int, default=100_000, help="empty files")
    parser.add_argument("--size", type=parse_size, default=1024 * MB, help="of the large file")
    parser.add_argument("--rounds", type=rounds_argument, default=5)
    parser.add_argument("--directory", type=directory_argument, default=Path("/tmp"))
    parser.add_argument("--short", action="store_true", help="see whether all of it works")
    given = parser.parse_args()
    if given.short:
        given.files, given.empty, given.size, given.rounds = 200, 300, 4 * MB, 1
    handle_signals()
    print_facts(given.directory)
    try:
        with temporary_directory(given.directory) as place, contextlib.ExitStack() as stack:
            server = stack.enter_context(server_at(place / "server"))
            bench = Bench(place, server, rsync_daemon(place, stack))
            tell(measure(place, given, bench), given)
            memory(place, given.empty, server, bench)
    except ToolError as error:
        note(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
