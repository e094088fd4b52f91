"""Measures this pair beside the tools that people move a file with, on one machine.

    python tests/bench/peers.py                              1 GB, five rounds
    python tests/bench/peers.py --size 256M,1G,4G            and whether time grows evenly
    python tests/bench/peers.py --only md5sum,ours,rsync     only these, with their variants
    python tests/bench/peers.py --short                      a few seconds: does everything work

What it measures: the time from the start of a sending process to its end (for ``nc``, which does
not wait for its receiver, to the end of both), over loopback, into a file on the same disk.
Beside it, in another column, the seconds of processors that sender and receiver took together.
``md5sum`` of the same file is the floor: nothing that takes the MD5 of the file on its way can be
faster; ``dd`` with ``conv=fdatasync`` is that of the disk, ``bare`` (bare.py) that of Python with
threads like ours. For our own pair also the peak memory of both sides and the server's number of
threads.

How fair it is: a round runs each tool once, each round begins with another tool, so that a slow
minute of the machine hits all of them; medians are shown, with the best and the worst beside them.
Before each run the disk is given what earlier ones left unwritten. A first small transfer with each
tool is not counted. Every receiver that can be is started once and waits; the start of Python is in
our time, as the log-in is in that of ``scp``. The tools do not give the same: the last column says
what each gives, and a time without it says nothing. Only ours and ``--fsync`` wait for the disk.

What it does not say: how any of them does over a real network, with loss or delay, between two
machines (here both sides share the processors), with a cold file, with many small files, or where
rsync shines, which is a file that is partly there. A received file is checked for its size, ours
for ``INTEGRITY_OK`` as well. Nothing is asserted about time: the exit code is 0 unless ours failed.
Peak memory of the client comes from the system, which never gives less than this program's own.

A tool that is not there, or does not start, is named with the reason. An ``sshd`` that root starts
wants a directory for its separation of privileges, which exists where sshd runs as a service; its
message names it, and none is made here: nothing outside the temporary directory is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import KB, MB  # noqa: E402
from lft.options import format_size  # noqa: E402
from tests.bench.common import (  # noqa: E402
    IN_MEMORY,
    Run,
    ToolError,
    directory_argument,
    file_system,
    handle_signals,
    make_file,
    note,
    of_rounds,
    print_facts,
    proc_fields,
    ratio,
    rounds_argument,
    sizes_argument,
    temporary_directory,
    turns,
)
from tests.bench.movers import TOOLS, Ours, Row, Tool, versions  # noqa: E402

REHEARSAL = 2 * MB  # more than one block of ours, and gone in no time
NAMES = [row.name for tool in TOOLS for row in tool.rows]


# --- measuring ----------------------------------------------------------------------------------


@dataclass
class Entry:
    """A row with its times, or with the reason why there are none."""

    tool: Tool
    row: Row
    trouble: str = ""
    runs: dict[int, list[Run]] = field(default_factory=dict)  # by size of the file
    used: dict[int, list[float]] = field(default_factory=dict)  # seconds of processors, alike

    def run(self, source: Path) -> Run | None:
        """Run it once and check what came; trouble ends its part in this."""
        os.sync()  # nobody pays for what the one before left unwritten
        began = self.tool.used()
        try:
            run = self.tool.run(self.row, source)
            self.used.setdefault(source.stat().st_size, []).append(self.tool.used() - began)
            self.tool.check_received(source.stat().st_size)
            return run
        except (ToolError, OSError) as error:
            self.trouble = str(error)
            return None
        finally:
            self.tool.clear()

    def median(self, size: int) -> float:
        """Return the seconds that stand for all rounds."""
        return statistics.median(run.seconds for run in self.runs[size])


def start_tools(stack: contextlib.ExitStack, place: Path, names: list[str]) -> list[Entry]:
    """Start what waits on the other side; return an entry for each row that was asked for."""
    entries = []
    for kind in TOOLS:
        rows = [row for row in kind.rows if row.name in names]
        if rows:
            tool = kind(place / kind.__name__.lower())
            trouble = start(tool, stack)
            entries += [Entry(tool, row, trouble) for row in rows]
    return entries


def start(tool: Tool, stack: contextlib.ExitStack) -> str:
    """Start one tool; return why that did not work, or nothing."""
    try:
        tool.start(stack)
    except (ToolError, OSError) as error:
        return str(error)
    return ""


def rehearse(entries: list[Entry], place: Path) -> None:
    """Run each once with a small file, uncounted: brings programs to memory, trouble to light."""
    source = make_file(place / "rehearsal.bin", REHEARSAL)
    for entry in entries:
        if not entry.trouble:
            entry.run(source)
    source.unlink()


def measure(entries: list[Entry], source: Path, rounds: int) -> None:
    """Run every tool once a round, each round beginning with another one."""
    for number, entry in turns(entries, rounds):
        run = None if entry.trouble else entry.run(source)
        if run:
            entry.runs.setdefault(source.stat().st_size, []).append(run)
            note(f"round {number} of {rounds}: {entry.row.name} {run.seconds:.2f} s")


# --- what is told -------------------------------------------------------------------------------


def print_table(entries: list[Entry], size: int, rounds: int) -> None:
    """Print one table: seconds, how many times those of md5sum and of ours; seconds of processors.

    Those are of both sides together.
    """
    print(f"\n{format_size(size)}, random data from os.urandom, in the page cache; seconds, "
          f"{of_rounds(rounds)}")  # fmt: skip
    if not fits_in_memory(size):
        print("(there is no room in memory for the file and its copy: the disk is in these times)")
    titles = f"{'median':>8}{'best':>8}{'worst':>8}{'/md5sum':>9}{'/ours':>7}{'cpu':>7}"
    print(f"{'tool':<16}{titles}  gives")
    medians = {entry.row.name: entry.median(size) for entry in entries if not entry.trouble}
    for entry in entries:
        print(f"{entry.row.name:<16}{figures(entry, size, medians)}", flush=True)


def fits_in_memory(size: int) -> bool:
    """Say whether the file and a copy of it can be in the page cache, where the system tells."""
    available = proc_fields(Path("/proc/meminfo")).get("MemAvailable")
    return available is None or 2 * size < int(available.split()[0]) * KB


def figures(entry: Entry, size: int, medians: dict[str, float]) -> str:
    """Return the rest of a row: its figures, or why there are none."""
    if entry.trouble:
        return f"  {entry.trouble}"
    times = [run.seconds for run in entry.runs[size]]
    median = entry.median(size)
    floor, ours = (ratio(median, medians.get(name)) for name in ("md5sum", "ours"))
    seconds = f"{median:>8.2f}{min(times):>8.2f}{max(times):>8.2f}"
    used = statistics.median(entry.used[size])
    return f"{seconds}{floor:>9}{ours:>7}{used:>7.2f}  {entry.row.gives}"


def own(entries: list[Entry]) -> list[Entry]:
    """Return the rows of this pair."""
    return [entry for entry in entries if isinstance(entry.tool, Ours)]


def print_own_facts(entries: list[Entry], size: int) -> None:
    """Print what ours took beside time."""
    for entry in own(entries):
        if not entry.trouble:
            peak = max(run.peak for run in entry.runs[size])
            print(f"{entry.row.name}: peak memory of the client {format_size(peak)}")
    servers = {entry.tool for entry in own(entries) if not entry.trouble}
    for server in servers:
        assert isinstance(server, Ours)
        print(f"{server.server_facts()}; blocks sent again so far: {server.resent}")


def print_flatness(entries: list[Entry], sizes: list[int]) -> None:
    """Print the seconds for each GB over all sizes: the same figure if time grows evenly."""
    print("\nseconds for each GB (the start of Python weighs more in a small file)")
    print(f"{'tool':<16}" + "".join(f"{format_size(size):>12}" for size in sizes))
    for entry in own(entries):
        if not entry.trouble:
            rates = (entry.median(size) * KB * MB / size for size in sizes)
            print(f"{entry.row.name:<16}" + "".join(f"{rate:>12.2f}" for rate in rates))


# --- the command line ---------------------------------------------------------------------------


def names_argument(text: str) -> list[str]:
    """Parse ``--only``: a name stands for its variants as well."""
    chosen = []
    for word in text.split(","):
        found = [name for name in NAMES if f"{name}-".startswith(f"{word}-")]
        if not found:
            raise argparse.ArgumentTypeError(f"no {word!r}; there are {', '.join(NAMES)}")
        chosen += found
    return chosen


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure this pair beside its peers.")
    add = parser.add_argument
    # fmt: off
    add("--size", type=sizes_argument, metavar="SIZE[,SIZE...]", help="of the file (1G)")
    add("--rounds", type=rounds_argument, metavar="N", help="runs of each tool (5)")
    add("--only", type=names_argument, default=NAMES, metavar="TOOL[,TOOL...]",
        help=f"a name takes its variants along: {', '.join(NAMES)}")
    add("--directory", type=directory_argument, default=directory_argument(tempfile.gettempdir()),
        metavar="DIR", help="for all files, on a real disk (the system's temporary directory)")
    add("--short", action="store_true", help="16 MB, one round: shows that everything works")
    # fmt: on
    arguments = parser.parse_args(argv)
    arguments.size = arguments.size or [16 * MB if arguments.short else KB * MB]
    arguments.rounds = arguments.rounds or (1 if arguments.short else 5)
    check_disk(parser, arguments)
    return arguments


def check_disk(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse a directory where the times would mean nothing, or where there is no room."""
    kind = file_system(arguments.directory)
    if kind in IN_MEMORY and not arguments.short:
        parser.error(f"{arguments.directory} is in memory ({kind}); name a --directory on a disk")
    needed = 2 * max(arguments.size) + 64 * MB  # the file, its copy, and some air
    if shutil.disk_usage(arguments.directory).free < needed:
        parser.error(f"{arguments.directory} has no room for {format_size(needed)}")


def compare(arguments: argparse.Namespace, place: Path, stack: contextlib.ExitStack) -> int:
    """Measure everything, print everything; return the exit code."""
    print_facts(place, **versions())
    entries = start_tools(stack, place, arguments.only)
    rehearse(entries, place)
    for size in arguments.size:
        source = make_file(place / "random.bin", size)
        measure(entries, source, arguments.rounds)
        print_table(entries, size, arguments.rounds)
        print_own_facts(entries, size)
        source.unlink()
    if len(arguments.size) > 1 and own(entries):
        print_flatness(entries, arguments.size)
    return 1 if any(entry.trouble for entry in own(entries)) else 0


def main(argv: list[str] | None = None) -> int:
    """Run it; return the exit code."""
    arguments = parse(argv)
    handle_signals()
    with temporary_directory(arguments.directory) as place, contextlib.ExitStack() as stack:
        return compare(arguments, place, stack)


if __name__ == "__main__":
    sys.exit(main())
