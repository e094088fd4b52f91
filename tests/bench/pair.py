"""Measures how much more two servers that share a directory carry than one of them.

    python tests/bench/pair.py                      three rounds, with and without a limit
    python tests/bench/pair.py --limit 40M --size 100M
    python tests/bench/pair.py --short              a few seconds: does it work

Eight clients send a file each, at once, to one server with ``--shared`` or to two that have the
same output directory, every second client to each. What is compared is the total throughput, from
the first start of a client to the last end.

Here two servers and all clients have the same processors: where one server and its clients leave
none of them free, a second one cannot carry more. The column *ours* is what both sides took of all
processors, *idle* what nobody took, also no other program. With machines of their own
the servers do not wait for each other's processors. To have that here, in the rows with a limit
each server takes no more bytes a second than that (``--limit``), as if that were all that its
machine carries.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import MB  # noqa: E402
from lft.options import format_size, parse_size  # noqa: E402
from tests.bench.common import (  # noqa: E402
    directory_argument,
    make_file,
    of_rounds,
    print_facts,
    print_markdown,
    ratio,
    receipt_in,
    rounds_argument,
    run_in_place,
    turns,
)
from tests.bench.scale import CLIENT, at_once  # noqa: E402
from tests.bench.target import ACCOUNTS, Server  # noqa: E402

CLIENTS = 8
COLUMNS = ("servers", "limit of each", "seconds", "MB/s", "throughput", "ours", "idle")


@dataclass
class Row:
    """One server or two, and what it took them."""

    servers: list[Server]
    limit: str
    seconds: list[float] = field(default_factory=list)
    shares: list[tuple[float, float]] = field(default_factory=list)  # of the processors: ours, idle

    def measure(self, sources: Sequence[Path], log: Path) -> None:
        """Send all files at once, see that they came. Raises ``ToolError``."""
        chosen = [self.servers[number % len(self.servers)] for number in range(len(sources))]
        commands = [
            [*CLIENT, str(source), *server.client_options()]
            for source, server in zip(sources, chosen)
        ]
        before, idle = sum(server.used() for server in self.servers), _idle()
        flight = at_once(commands, log, sum(source.stat().st_size for source in sources))
        used = flight.used + sum(server.used() for server in self.servers) - before
        self.seconds.append(flight.seconds)
        whole = flight.seconds * (os.cpu_count() or 1)
        self.shares.append((used / whole, (_idle() - idle) / whole))
        for source, server, receipt in zip(sources, chosen, map(receipt_in, flight.said)):
            server.check(source, receipt)

    def cells(self, one: Row, size: int) -> list[str]:
        """Return the row as it is printed; ``one`` is that of a single server."""
        seconds, shares = statistics.median(self.seconds), zip(*self.shares)
        throughput = ratio(statistics.median(one.seconds), seconds)
        cells = [str(len(self.servers)), self.limit or "none", f"{seconds:.2f}"]
        return [
            *cells,
            f"{size / MB / seconds:.0f}",
            throughput,
            *(f"{statistics.median(one):.0%}" for one in shares),
        ]


def _idle() -> float:
    """Return for how many seconds the processors, all together, have had nothing to do."""
    ticks = Path("/proc/stat").read_text(encoding="ascii").split()[4:6]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def servers_of(count: int, limit: str, place: Path, stack: contextlib.ExitStack) -> list[Server]:
    """Start servers that share one directory. Raises ``ToolError``."""
    options = ["--shared", *(["--limit", limit] if limit else [])]
    place.mkdir()
    servers = []
    for number in range(count):
        folder = place / str(number)
        servers.append(Server(folder, ACCOUNTS, *options, sees=str(place / "output")))
        stack.callback(servers[-1].kill)
        servers[-1].output = place / "output"
    return servers


def run(arguments: argparse.Namespace, place: Path) -> None:
    """Measure all rows. Raises ``ToolError``."""
    print_facts(place)
    sources = [make_file(place / f"file{number}", arguments.size) for number in range(CLIENTS)]
    with contextlib.ExitStack() as stack:
        rows = [
            Row(servers_of(count, limit, place / f"{count}{limit}", stack), limit)
            for limit in ("", arguments.limit)
            for count in (1, 2)
        ]
        for _, row in turns(rows, arguments.rounds):
            row.measure(sources, place / "log")
        for row in rows:
            for server in row.servers:
                server.end()
    total = CLIENTS * arguments.size
    title = f"{CLIENTS} clients, {format_size(arguments.size)} each; {of_rounds(arguments.rounds)}"
    table = [row.cells(rows[number // 2 * 2], total) for number, row in enumerate(rows)]
    print_markdown(title, COLUMNS, table)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    add = parser.add_argument
    add("--size", type=parse_size, help="of each file (50M)")
    add("--limit", default="25M", metavar="RATE", help="of each server, in half of the rows (25M)")
    add("--rounds", type=rounds_argument, metavar="N", help="measurements of each row (3)")
    add("--short", action="store_true", help="small files, one round")
    add("--directory", type=directory_argument, default=directory_argument(tempfile.gettempdir()),
        metavar="DIR", help="for all files (the system's temporary directory)")  # fmt: skip
    arguments = parser.parse_args(argv)
    arguments.size = arguments.size or (MB if arguments.short else 50 * MB)
    arguments.rounds = arguments.rounds or (1 if arguments.short else 3)
    return arguments


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    return run_in_place(run, parse(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
