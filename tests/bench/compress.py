"""Measures what ``--compress`` brings on a slow link, and what it costs on a fast one.

    python tests/bench/compress.py                      64 MB at 10 MB/s, 512 MB without a limit
    python tests/bench/compress.py --rounds 5 --only random,log
    python tests/bench/compress.py --short              a few seconds: does everything arrive

What it measures: the time of a whole client process, from its start to its end, over loopback. The
slow link is a server with ``--limit 10M``, which takes no more bytes off the wire in a second than
that, all connections together. The fast one is loopback itself, where client and server share the
processors: what compresses is missing where the file is hashed. A round goes through all files,
ways and links, each round begins with another, so that a slow minute of the machine hits all of
them; medians are shown. Also what was on the wire, as a part of the file.

The files: *python* is the source of this Python's standard library and of this project, one file
behind the other; *log* lines of a web server, made up with a fixed seed; *json* records of a
measurement, made up likewise; *random* what cannot be compressed; *mixed* python and random in
turn, 3 MB each. After 32 MB they begin again, which helps nobody: a block is compressed for itself.

The ways: *plain* without ``--compress``; *zlib* with it, where nobody has anything better; *zstd*
where both have that (Python 3.14, or the package ``backports.zstd``).

What it does not say: what happens with delay or loss, and between two machines. Nothing is asserted
about time: the exit code is 0 if every file arrived as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import (  # noqa: E402
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
    parse_size,
)
from lft.wire.codecs import (  # noqa: E402
    COMPRESSIONS,
)
from tests.bench.common import print_facts  # noqa: E402
from tests.support.files import md5, random_file  # noqa: E402
from tests.support.processes import ServerProcess, client_command, environment  # noqa: E402

RATE = "10M"  # of the slow link
LINKS = {RATE: ("--limit", RATE), "loopback": ()}
LARGER = 8  # times as large is the file where nothing is limited
PIECE = 3 * MB  # of one kind in the mixed file
PERIOD = 32 * MB  # after which a file begins again
# A client that finds no zstd, whatever is installed.
HIDING = """
import runpy, sys
sys.modules.update({"compression.zstd": None, "backports.zstd": None})
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class BrokenError(Exception):
    """A file did not arrive as it was."""


# --- the files ------------------------------------------------------------------------------------


def python_source() -> Iterator[bytes]:
    """Give the sources of the standard library and of this project, without end."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    for path in itertools.cycle([*paths, *sorted(ROOT.glob("*.py"))]):
        yield path.read_bytes()


def log_lines() -> Iterator[bytes]:
    """Give lines of a web server's log, without end."""
    rng = random.Random(4455)
    pages = ["/", "/index.html", "/login", "/api/v1/items/{}", "/img/{}.png", "/search?q={:x}"]
    agents = ["Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0", "curl/8.5.0",
              "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36"]  # fmt: skip
    moment = 1.7e9
    while True:
        moment += rng.expovariate(20)
        when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(moment))
        page = rng.choice(pages).format(rng.randrange(10**6))
        status = rng.choices([200, 304, 404, 500], [90, 6, 3, 1])[0]
        address = f"10.{rng.randrange(4)}.{rng.randrange(256)}.{rng.randrange(256)}"
        line = f'{address} - - [{when}] "GET {page} HTTP/1.1" {status} {rng.randrange(90000)}'
        yield f'{line} "-" "{rng.choice(agents)}"\n'.encode()


def json_records() -> Iterator[bytes]:
    """Give records of a measurement, without end."""
    rng = random.Random(4455)
    for number in itertools.count():
        record = {
            "id": number, "sensor": f"hall-{rng.randrange(40):02}", "unit": "celsius",
            "value": round(rng.gauss(21, 3), 2), "valid": rng.random() < 0.99,
        }  # fmt: skip
        yield json.dumps(record).encode() + b"\n"


def noise() -> Iterator[bytes]:
    """Give what cannot be compressed, without end."""
    while True:
        yield os.urandom(MB)


def mixture() -> Iterator[bytes]:
    """Give text and noise in turn, without end."""
    text = python_source()
    while True:
        piece = b""
        while len(piece) < PIECE:
            piece += next(text)
        yield piece
        yield os.urandom(PIECE)


FILES: dict[str, Callable[[], Iterator[bytes]]] = {
    "python": python_source, "log": log_lines, "json": json_records, "random": noise,
    "mixed": mixture,
}  # fmt: skip


def make_file(path: Path, parts: Iterator[bytes], size: int) -> Path:
    """Write ``size`` bytes: the beginning of ``parts``, again and again."""
    period = bytearray()
    while len(period) < min(size, PERIOD):
        period += next(parts)
    del period[PERIOD:]
    with open(path, "wb") as file:
        for left in range(size, 0, -PERIOD):
            file.write(period[:left])
    return path


# --- measuring ------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One line of the table, but for the figures."""

    link: str
    file: str
    way: str


class Run(NamedTuple):
    """What one transfer took."""

    seconds: float
    on_wire: float  # part of the file


Rows = Dict[Case, List[Run]]


def command_of(way: str, port: int, source: Path) -> list[str]:
    """Return the command line of a client."""
    command = client_command(port, source, "--quiet", "--json")
    if way == "zlib":
        command[1:1] = ["-c", HIDING]
    return command if way == "plain" else [*command, "--compress"]


def transfer(server: ServerProcess, way: str, source: Path) -> Run:
    """Send a file with a real client and compare what came. Raises ``BrokenError``."""
    os.sync()  # nobody pays for what the one before left unwritten
    began = time.perf_counter()
    done = subprocess.run(
        command_of(way, server.port, source), check=False, capture_output=True, text=True,
        env=environment(), timeout=600,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode:
        raise BrokenError(f"the client ended with {done.returncode}: {done.stderr}")
    receipt = json.loads(done.stdout)
    saved = server.output / receipt["saved_as"]
    if md5(saved) != md5(source):
        raise BrokenError(f"{source.name} is not what was sent")
    saved.unlink()
    return Run(seconds, receipt["wire_bytes"] / receipt["bytes"])


@contextlib.contextmanager
def servers(place: Path) -> Iterator[dict[str, ServerProcess]]:
    """Have a server for each link."""
    found: dict[str, ServerProcess] = {}
    try:
        for link, options in LINKS.items():
            (place / link).mkdir()
            found[link] = ServerProcess(place / link, "--log-level", "WARNING", *options)
        yield found
    finally:
        for server in found.values():
            server.stop()


def measure(place: Path, cases: list[Case], size: int, rounds: int) -> Rows:
    """Measure all cases in turn."""
    rows: Rows = {case: [] for case in cases}
    sizes = {RATE: size, "loopback": LARGER * size}
    sources = {
        (link, name): make_file(place / f"{name}.{link}", FILES[name](), sizes[link])
        for link, name in sorted({(case.link, case.file) for case in cases})
    }
    small = random_file(place / "small", MB)
    with servers(place) as found:
        for server, way in itertools.product(found.values(), {case.way for case in cases}):
            transfer(server, way, small)  # not counted: it warms both sides
        for number in range(rounds):
            turn = number * len(cases) // rounds
            for case in cases[turn:] + cases[:turn]:
                run = transfer(found[case.link], case.way, sources[case.link, case.file])
                rows[case].append(run)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return rows


def print_rows(rows: Rows) -> None:
    """Print the table: ``x`` is how many times as fast as plain."""
    print(
        f"{'link':<10}{'file':<8}{'way':<7}{'median':>8}{'best':>8}{'worst':>8}{'x':>7}{'wire':>8}"
    )
    for case, runs in rows.items():
        times = [run.seconds for run in runs]
        plain = [run.seconds for run in rows[case._replace(way="plain")]]
        median, wire = statistics.median(times), statistics.median(run.on_wire for run in runs)
        figures = f"{median:>8.2f}{min(times):>8.2f}{max(times):>8.2f}"
        gain = statistics.median(plain) / median
        print(f"{case.link:<10}{case.file:<8}{case.way:<7}{figures}{gain:>7.2f}{wire:>8.1%}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what compression brings and costs.")
    add = parser.add_argument
    # fmt: off
    add("--size", type=parse_size, metavar="SIZE",
        help=f"of the file on the slow link (64M), the other is {LARGER} times as large")
    add("--rounds", type=int, metavar="N", help="measurements of each row (3)")
    add("--only", metavar="FILE[,FILE...]", help=f"files: {', '.join(FILES)}")
    add("--link", choices=list(LINKS), help="only this one (both)")
    add("--directory", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR",
        help="for all files (the system's temporary directory)")
    add("--short", action="store_true", help="two small files, one round")
    # fmt: on
    arguments = parser.parse_args(argv)
    all_files = ["python", "random"] if arguments.short else list(FILES)
    files = arguments.only.split(",") if arguments.only else all_files
    if not set(files) <= set(FILES):
        parser.error(f"files are {', '.join(FILES)}")
    ways = ["plain", "zlib", *(["zstd"] if "zstd" in COMPRESSIONS else [])]
    links = [arguments.link] if arguments.link else list(LINKS)
    arguments.cases = [Case(*case) for case in itertools.product(links, files, ways)]
    arguments.size = arguments.size or (MB if arguments.short else 64 * MB)
    arguments.rounds = arguments.rounds or (1 if arguments.short else 3)
    return arguments


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(prefix="compress-", dir=arguments.directory) as name:
        if not arguments.short:
            print_facts(Path(name))
        size, larger = format_size(arguments.size), format_size(LARGER * arguments.size)
        print(f"{size} at {RATE}B/s, {larger} over loopback; seconds, {arguments.rounds} rounds")
        try:
            print_rows(measure(Path(name), arguments.cases, arguments.size, arguments.rounds))
        except BrokenError as error:
            print(f"FAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
