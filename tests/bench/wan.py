"""Measures this pair over an emulated long way: delay, loss, a bottleneck; beside rsync.

    python tests/bench/wan.py                               all links, three seeds; half an hour
    python tests/bench/wan.py --only lossy --seeds 1,2,3,4,5
    python tests/bench/wan.py --only many --size 10M        1,000 files of 10 KB beside one of 10 MB
    python tests/bench/wan.py --short                       a minute: does everything work
    python tests/bench/wan.py --wan PATH                    where the emulator is

It drives ``wan``, a link emulator in two network namespaces, which is no part of this project: by
default it is looked for beside it. It needs root; without either this says so and ends with 2.

What it measures: the time of a whole client process that sends one file to a server at the other
end, both cold, as the emulator tells it, and the seconds of the client's receipt, which begin when
the file is announced. Goodput is bytes of the file for each second; the rate of the link is that of
its IP packets, of which TCP's and IP's headers take 3.5 %, so that 100 % cannot be reached but by
compression. Every row runs once with each seed of the random loss; seeds are the rounds, and each
begins with another row. What is shown is the median. A run in which the emulator was too late or
the kernel dropped a packet says nothing: it is discarded and repeated, and counted.

Random data does not compress. The text is made up, an access log of a web server; what zlib makes
of it is told. Of rsync a daemon takes the file, without ssh (``-W``: whole, ``-z``: compressed); it
does not wait for the disk as ours does, and compares no digest of the file that was named.

``many`` is a directory with nothing but files of 10 KB, beside one file of as many bytes. On ext4
without a journal the system steps over each number of a file that was removed within minutes, so
that making one takes ten times as long after some rounds: give ``--directory`` another file system.

What is received is compared byte by byte, and removed. Nothing is asserted about time: the exit
code is 0 unless ours failed. What it does not say: how it goes over a real network, where delay
changes and packets overtake each other. Emulator, client and server share the processors; a busy
machine shows in the numbers of discarded runs, and at high rates in the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import os
import random
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import (  # noqa: E402
    BLOCK_SIZE,
    KB,
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
    parse_size,
)
from tests.bench.common import (  # noqa: E402
    PIECE,
    ToolError,
    client_knows,
    directory_argument,
    find,
    handle_signals,
    logged,
    make_file,
    note,
    print_facts,
    print_markdown,
    quietly,
    ratio,
    receipt_in,
    rsync_config,
    temporary_directory,
    turns,
)

SERVER = "10.99.0.2"  # the emulator's address of that end
PORT = 4455  # in a namespace of its own, where nobody else can have it
USER = "ann"
CONTROL = "cubic"  # what most senders have
LATEST = 1000  # microseconds; in a run where the emulator is later than that in the mean ...
ATTEMPTS = 4  # ... there is no truth; so often it is tried to have one that is sound
SLOWEST = 100_000  # bytes in a second; what is slower than this, and a minute more, hangs
END_PATIENCE = 30.0  # seconds for the emulator to remove its namespaces
SUMMARY = re.compile(
    r"^wan: wall=([\d.]+) .*\blost_kernel=(\d+)/(\d+) late_us=([\d.]+)/", re.MULTILINE
)


class Link(NamedTuple):
    """A way to go."""

    rate: float  # Mbit/s
    rtt: float  # milliseconds
    loss: float = 0.0  # percent, in each direction

    def __str__(self) -> str:
        loss = f"{self.loss:g} % loss" if self.loss else "no loss"
        return f"{self.rate:g} Mbit/s, {self.rtt:g} ms, {loss}, {CONTROL}"


class Way(NamedTuple):
    """A way to send: one row of a table."""

    name: str
    data: str  # which file or directory
    options: tuple[str, ...] = ()
    rsync: bool = False
    as_file: bool = False  # the bytes of a directory as one file


DEFAULT = Way("4 streams", "random")
AUTO = Way("auto", "random", ("--streams", "auto"))
RSYNC = Way("rsync -W", "random", ("-W",), rsync=True)
STREAMS = (DEFAULT, AUTO, RSYNC)
COMPRESSION = (
    Way("plain", "text"),
    Way("--compress", "text", ("--compress",)),
    Way("rsync -W", "text", ("-W",), rsync=True),
    Way("rsync -W -z", "text", ("-W", "-z"), rsync=True),
    Way("plain", "random"),
    Way("--compress", "random", ("--compress",)),
    RSYNC,
)
MANY = (
    Way("one file", "many", as_file=True),
    Way("a directory", "many"),
    Way("rsync -W -r", "many", ("-W", "-r"), rsync=True),
)
SMALL = 10 * KB  # the size of each file in a directory
TABLES = {
    "lossy": (Link(200, 100, 0.1), STREAMS),
    "clean": (Link(200, 100), STREAMS),
    "slow": (Link(84, 20), COMPRESSION),
    "fast": (Link(1000, 20), STREAMS),
    "many": (Link(200, 50), MANY),
}


class SetupError(Exception):
    """Why this cannot be measured here at all."""


# --- the emulator ---------------------------------------------------------------------------------


class Passage(NamedTuple):
    """What the emulator tells about one run, and what the client has said."""

    seconds: float  # of the client's process
    late: float  # microseconds, in the mean
    dropped: int  # packets, by the kernel
    said: str

    @classmethod
    def read(cls, said: str) -> Passage:
        """Take it from the words of a run. Raises ``ToolError``."""
        found = SUMMARY.search(said)
        if not found:
            raise ToolError(f"failed: {last_words(said)}")
        wall, up, down, late = found.groups()
        return cls(float(wall), float(late), int(up) + int(down), said)

    @property
    def sound(self) -> bool:
        """Whether it says something about the link that was asked for."""
        return self.late < LATEST and not self.dropped


def last_words(said: str) -> str:
    """Return the last line that is not the emulator's summary: it mostly says why."""
    lines = [line for line in said.strip().splitlines() if not SUMMARY.match(line)]
    return lines[-1].strip() if lines else "no message"


class Emulator:
    """The program ``wan``."""

    def __init__(self, program: Path, place: Path) -> None:
        self._program = str(program)
        self._log = place / "wan-log"

    def check(self) -> None:
        """See it work. Raises ``SetupError``."""
        try:
            self._run(["--rtt", "1", "--rate", "10"], "true", "true", 60)
        except ToolError as error:
            raise SetupError(f"the emulator does not work here: {error}") from None

    def carry(self, link: Link, seed: int, server: str, client: str, size: int) -> Passage:
        """Run a server and a client at the ends of a link. Raises ``ToolError``."""
        options = ["--rtt", f"{link.rtt:g}", "--rate", f"{link.rate:g}", "--loss", f"{link.loss:g}"]
        options += ["--cc", CONTROL, "--seed", str(seed), "--ready-port", str(PORT)]
        return Passage.read(self._run(options, server, client, 60 + size / SLOWEST))

    def _run(self, options: list[str], server: str, client: str, seconds: float) -> str:
        command = [self._program, *options, "--", server, ":::", client]
        with logged(command, self._log, grace=END_PATIENCE) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise ToolError(f"failed: not done after {seconds:.0f} s") from None
        said = self._log.read_text(errors="replace")
        if process.returncode:
            raise ToolError(f"failed with {process.returncode}: {last_words(said)}")
        return said


# --- what is sent, and by whom --------------------------------------------------------------------


def shell(command: list[Any]) -> str:
    """Return a command as the emulator takes it."""
    return " ".join(shlex.quote(str(word)) for word in command)


class Ends:
    """The commands for both ends, with all their files below ``place``."""

    def __init__(self, place: Path) -> None:
        self.inbox = place / "inbox"
        self._users, self._password = place / "users", place / "password"
        self._config = place / "rsyncd.conf"
        self._log = place / "server-log"
        self._config.write_text(rsync_config(self.inbox, PORT, self._log))
        self._password.write_text("a password")
        self._password.chmod(0o600)
        add = [sys.executable, str(ROOT / "auth.py"), "add", USER]
        quietly([*add, "--credentials", str(self._users), "--password-file", str(self._password)])

    def server(self, way: Way) -> str:
        """Return the server's command."""
        if way.rsync:
            return shell([find("rsync"), "--daemon", "--no-detach", f"--config={self._config}"])
        command = [sys.executable, ROOT / "server.py", "--host", "0.0.0.0", "--port", PORT]
        command += ["--credentials", self._users, "--output", self.inbox, "--grace", "0"]
        return shell([*command, "--log-level", "WARNING"])

    def client(self, way: Way, source: Path) -> str:
        """Return the client's command."""
        if way.rsync:
            target = f"rsync://{SERVER}:{PORT}/inbox/"
            return shell([find("rsync"), *way.options, source, target])
        command = [sys.executable, ROOT / "client.py", source, "--server", SERVER, "--port", PORT]
        command += ["--user", USER, "--password-file", self._password, "--json", "--quiet"]
        return shell([*command, *way.options])

    @contextlib.contextmanager
    def empty(self) -> Iterator[None]:
        """Have an empty directory for what comes, for one run."""
        self.inbox.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(self.inbox)

    def check(self, source: Path) -> None:
        """See that exactly the right file or directory came. Raises ``ToolError``."""
        hidden, sums = ".partial", ".md5"  # our own, beside what came
        names = [path for path in self.inbox.iterdir() if path.name != hidden]
        came = [path for path in names if path.suffix != sums]
        if len(came) != 1 or not same(came[0], source):
            raise ToolError(f"failed: {[path.name for path in came]} is not what was sent")


def same(one: Path, other: Path) -> bool:
    """Return whether two files, or two directories of files, have the same bytes."""
    if not other.is_dir():
        return one.is_file() and filecmp.cmp(one, other, shallow=False)
    names = sorted(os.listdir(other))
    if not one.is_dir() or sorted(os.listdir(one)) != names:
        return False
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def make_directory(path: Path, whole: Path) -> Path:
    """Cut a file into small ones, in a new directory."""
    path.mkdir()
    with open(whole, "rb") as file:
        for number, data in enumerate(iter(lambda: file.read(SMALL), b"")):
            (path / f"{number:06}").write_bytes(data)
    return path


WORDS = (
    "about", "account", "article", "basket", "image", "news", "offer", "order", "page", "product",
    "search", "static",
)  # fmt: skip
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0.0.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15",
    "curl/8.8.0",
)
LOG_LINE = '192.0.{} - - [01/Jul/2024:{} +0000] "GET {} HTTP/1.1" {} {} "-" "{}"\n'


def make_text(path: Path, size: int) -> Path:
    """Fill a file with lines as a web server logs them, always the same."""
    chance, left, second = random.Random(0), size, 0
    pages = [f"/{chance.choice(WORDS)}/{chance.choice(WORDS)}/" for _ in range(300)]
    with open(path, "wb") as file:
        while left:
            second += chance.randrange(3)
            clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
            address = f"{chance.randrange(256)}.{chance.randrange(256)}"
            page = f"{chance.choice(pages)}{chance.randrange(100_000)}"
            code = chance.choice((200, 200, 200, 200, 304, 404, 500))
            length, agent = chance.randrange(1 << 16), chance.choice(AGENTS)
            line = LOG_LINE.format(address, clock, page, code, length, agent)
            left -= file.write(line.encode()[:left])
    return path


def compressibility(path: Path) -> str:
    """Say how many times smaller zlib makes the beginning of a file, in our blocks."""
    with open(path, "rb") as file:
        data = file.read(PIECE)
    blocks = [data[i : i + BLOCK_SIZE] for i in range(0, len(data), BLOCK_SIZE)]
    each = {
        level: len(data) / sum(len(zlib.compress(block, level)) for block in blocks)
        for level in (1, 6)
    }
    return ", ".join(f"{times:.1f} times at level {level}" for level, times in each.items())


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Row:
    """A row of the table of one link."""

    link: Link
    way: Way
    size: int
    trouble: str = ""
    seconds: list[float] = field(default_factory=list)
    receipts: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    discarded: int = 0

    @property
    def median(self) -> float | None:
        """The seconds that stand for all seeds."""
        return statistics.median(self.seconds) if self.seconds else None

    def run(self, emulator: Emulator, ends: Ends, source: Path, seed: int) -> None:
        """Have one sound run with a seed; trouble ends its part in this."""
        try:
            for _ in range(ATTEMPTS):
                if self._run(emulator, ends, source, seed):
                    return
        except ToolError as error:
            self.trouble = str(error)
            note(f"{self.way.name}: {error}")

    def _run(self, emulator: Emulator, ends: Ends, source: Path, seed: int) -> bool:
        """Run once; return whether that was sound. Raises ``ToolError``."""
        server, client = ends.server(self.way), ends.client(self.way, source)
        with ends.empty():
            passage = emulator.carry(self.link, seed, server, client, self.size)
            ends.check(source)
        receipt = None if self.way.rsync else receipt_in(passage.said)
        if not passage.sound:
            self.discarded += 1
            note(f"discarded: {passage.late:.0f} us late, {passage.dropped} packets dropped")
            return False
        note(f"{passage.seconds:.2f} s")
        self.seconds.append(passage.seconds)
        self.late.append(passage.late)
        if receipt:
            self.receipts.append(receipt["seconds"])
        return True

    def cells(self, rows: list[Row]) -> list[str]:
        """Return the row as it is printed, beside the others of its table."""
        beside = [row for row in rows if row.way.data == self.way.data]
        if self.median is None:
            return [self.way.data, self.way.name, self.trouble or "no sound run", *["-"] * 9]
        rsync = next((row.median for row in beside if row.way.rsync), None)
        cells = [self.way.data, self.way.name, *self._goodput(self.seconds)]
        cells += self._goodput(self.receipts)
        for other in (rsync, beside[0].median):
            cells.append(ratio(other, self.median) if other else "-")
        return [*cells, str(len(self.seconds)), f"{max(self.late):.0f}"]

    def _goodput(self, seconds: list[float]) -> list[str]:
        """Return the seconds, the goodput in Mbit/s, and how much of the link that is."""
        if not seconds:
            return ["-"] * 3
        median = statistics.median(seconds)
        rate = 8 * self.size / median / 1e6
        return [f"{median:.2f}", f"{rate:.1f}", f"{rate / self.link.rate:.0%}"]


COLUMNS = (
    "data", "way", "seconds", "Mbit/s", "of the link", "by receipt", "Mbit/s", "of the link",
    "x rsync", "x the first", "runs", "µs late",
)  # fmt: skip


def trouble(way: Way) -> str:
    """Return why this cannot be measured here, or nothing."""
    if not way.rsync:
        return "" if client_knows(*way.options) else "not known to this client"
    try:
        find("rsync")
    except ToolError as error:
        return str(error)
    return ""


def compare(name: str, sources: dict[str, Path], place: Path, arguments: Any) -> list[Row]:
    """Measure one link in all ways, print its table, return the rows."""
    link, ways = TABLES[name]
    emulator, ends = Emulator(arguments.wan, place), Ends(place)
    rows = [Row(link, way, arguments.size, trouble(way)) for way in ways]
    for number, row in turns(rows, len(arguments.seeds)):
        if not row.trouble:
            seed = arguments.seeds[number - 1]
            note(f"{name}, seed {seed}: {row.way.data}, {row.way.name}")
            data = "random" if row.way.as_file else row.way.data
            row.run(emulator, ends, sources[data], seed)
    seeds = ", ".join(map(str, arguments.seeds))
    title = f"{link}: {format_size(arguments.size)}, medians of seeds {seeds}"
    print_markdown(title, COLUMNS, (row.cells(rows) for row in rows))
    discarded, sound = sum(row.discarded for row in rows), sum(len(row.seconds) for row in rows)
    print(f"\ndiscarded and repeated: {discarded} of {discarded + sound} runs", flush=True)
    return rows


# --- the command line -----------------------------------------------------------------------------


def seeds_argument(text: str) -> list[int]:
    """Parse ``--seeds``."""
    if not all(part.isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"not numbers: {text!r}")
    return [int(part) for part in text.split(",")]


def tables_argument(text: str) -> list[str]:
    """Parse ``--only``."""
    if not set(text.split(",")) <= set(TABLES):
        raise argparse.ArgumentTypeError(f"there are {', '.join(TABLES)}")
    return text.split(",")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure this pair over an emulated long way.")
    add = parser.add_argument
    # fmt: off
    add("--wan", type=Path, required=True, metavar="PATH", help="the emulator")
    add("--size", type=parse_size, metavar="SIZE", help="of the file (100M)")
    add("--seeds", type=seeds_argument, metavar="N[,N...]",
        help="of the random loss; each is one round (1,2,3)")
    add("--only", type=tables_argument, default=list(TABLES), metavar="LINK[,LINK...]",
        help="; ".join(f"{name}: {link}" for name, (link, _) in TABLES.items()).replace("%", "%%"))
    add("--directory", type=directory_argument, default=directory_argument(tempfile.gettempdir()),
        metavar="DIR", help="for all files (the system's temporary directory)")
    add("--short", action="store_true", help="a small file, one seed")
    # fmt: on
    arguments = parser.parse_args(argv)
    arguments.size = arguments.size or (1 if arguments.short else 100) * MB
    arguments.seeds = arguments.seeds or ([1] if arguments.short else [1, 2, 3])
    return arguments


def check_setup(arguments: argparse.Namespace, place: Path) -> None:
    """Raise ``SetupError`` if nothing can be measured here."""
    if not os.access(arguments.wan, os.X_OK):
        raise SetupError(f"there is no emulator {arguments.wan}; name it with --wan")
    if os.geteuid():
        raise SetupError("the emulator needs root")
    if shutil.disk_usage(place).free < 4 * arguments.size + 64 * MB:
        raise SetupError(f"{arguments.directory} has no room for four such files")
    Emulator(arguments.wan, place).check()


def run(arguments: argparse.Namespace, place: Path) -> int:
    """Measure all links that were asked for; return the exit code."""
    check_setup(arguments, place)
    print_facts(place)
    sources = {"random": make_file(place / "random.bin", arguments.size)}
    if any(way.data == "text" for name in arguments.only for way in TABLES[name][1]):
        sources["text"] = make_text(place / "text.log", arguments.size)
        print(f"text:      a made-up access log; zlib: {compressibility(sources['text'])}")
    if "many" in arguments.only:
        sources["many"] = make_directory(place / "many", sources["random"])
    rows = []
    for name in arguments.only:
        own = place / f"{name}-link"
        own.mkdir()
        rows += compare(name, sources, own, arguments)
    return 1 if any(row.trouble.startswith("failed") for row in rows if not row.way.rsync) else 0


def main(argv: list[str] | None = None) -> int:
    """Run it; return the exit code."""
    arguments = parse(argv)
    handle_signals()
    with temporary_directory(arguments.directory) as place:
        try:
            return run(arguments, place)
        except SetupError as error:
            note(f"wan.py: {error}")
            return 2


if __name__ == "__main__":
    sys.exit(main())
