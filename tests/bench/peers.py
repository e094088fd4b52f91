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
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import (  # noqa: E402
    KB,
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
)
from tests.bench.common import (  # noqa: E402
    HOST,
    IN_MEMORY,
    START_PATIENCE,
    Run,
    ToolError,
    await_childless,
    child,
    directory_argument,
    file_system,
    find,
    handle_signals,
    last_line,
    logged,
    make_file,
    note,
    of_rounds,
    patience,
    print_facts,
    proc_fields,
    quietly,
    ratio,
    receipt_in,
    rounds_argument,
    rsync_config,
    sizes_argument,
    temporary_directory,
    timed,
    turns,
    used_with_children,
    wait,
)

REHEARSAL = 2 * MB  # more than one block of ours, and gone in no time
BARE = [sys.executable, str(ROOT / "tests" / "bench" / "bare.py")]


class Row(NamedTuple):
    """One way to call a tool, one line of the table."""

    name: str
    gives: str
    options: tuple[str, ...] = ()


# --- the tools ----------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def await_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when somebody listens on ``port``. Raises ``ToolError`` if that never happens."""
    deadline = time.monotonic() + START_PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.02)
    raise ToolError(f"not started: {last_line(log)}")


class Tool:
    """A program that moves a file, with the rows it has in the table.

    ``start`` brings up what waits on the other side and leaves its end to ``stack``; ``run`` moves
    ``source`` once into ``inbox`` and takes the time. Both raise ``ToolError``. All files of a tool
    are below ``place``.
    """

    rows: tuple[Row, ...] = ()
    peer = 0  # the process that waits on the other side, until the end

    def __init__(self, place: Path) -> None:
        self.place = place
        self.inbox = place / "inbox"
        self.log = place / "log"  # of the process that is timed
        self.peer_log = place / "peer-log"  # of the one that waits
        self.inbox.mkdir(parents=True)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Get ready."""
        raise NotImplementedError

    def run(self, row: Row, source: Path) -> Run:
        """Move the file once."""
        raise NotImplementedError

    def listen(self, stack: contextlib.ExitStack, command: list[str], port: int) -> None:
        """Start a peer that listens on ``port`` until the end."""
        process = stack.enter_context(logged(command, self.peer_log))
        self.peer = process.pid
        await_listener(process, port, self.peer_log)

    def used(self) -> float:
        """Return the seconds of processors that both sides have taken so far."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # of those that have ended
        used = usage.ru_utime + usage.ru_stime
        if self.peer:
            await_childless(self.peer)
            used += used_with_children(self.peer)
        return used

    def check_received(self, size: int) -> None:
        """See that exactly one file of the right size came. Raises ``ToolError``."""
        sizes = [path.stat().st_size for path in self.inbox.iterdir() if path.is_file()]
        if sizes != [size]:
            raise ToolError(f"failed: {sizes} bytes were received, not [{size}]")

    def clear(self) -> None:
        """Remove what came, whole or in part."""
        for path in self.inbox.iterdir():
            if path.is_file():
                path.unlink()


class Md5sum(Tool):
    """The floor: reads the file and hashes it."""

    rows = (Row("md5sum", "the floor: reads and hashes, moves nothing"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Find it."""
        self.program = find("md5sum")

    def run(self, row: Row, source: Path) -> Run:
        """Hash the file."""
        return timed([self.program, str(source)], self.log, source.stat().st_size)

    def check_received(self, size: int) -> None:
        """Nothing is sent."""


class Dd(Tool):
    """The disk's floor: a copy to the same disk, waited for, with no network and no hash."""

    rows = (Row("dd", "the disk's floor: a local copy, durable, unverified"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Find it."""
        self.program = find("dd")

    def run(self, row: Row, source: Path) -> Run:
        """Copy the file."""
        target = self.inbox / "file"
        command = [self.program, f"if={source}", f"of={target}", "bs=1M", "conv=fdatasync"]
        return timed(command, self.log, source.stat().st_size)


class Bare(Tool):
    """Python's floor: the threads and the proof of this pair, and nothing of the rest."""

    rows = (
        Row("bare", "Python's floor: MD5 of each block and end to end, durable"),
        Row("bare-sha256", "the same with SHA-256", ("sha256",)),
    )

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the receiving side."""
        command = [*BARE, "receive", str(self.inbox)]
        receiver = stack.enter_context(logged(command, self.peer_log, stdout=subprocess.PIPE))
        assert receiver.stdout is not None
        self.peer = receiver.pid
        self.port = receiver.stdout.readline().decode().strip()
        if not self.port:
            raise ToolError(f"not started: {last_line(self.peer_log)}")

    def run(self, row: Row, source: Path) -> Run:
        """Send the file."""
        command = [*BARE, "send", str(source), self.port, *row.options]
        return timed(command, self.log, source.stat().st_size)


class Ours(Tool):
    """This pair: a whole client process for each run, one server for all of them."""

    rows = (
        Row("ours", "MD5 end to end, durable"),
        Row("ours-sha256", "SHA-256 end to end, durable", ("--digest", "sha256")),
    )
    resent = 0  # blocks, which on loopback should stay 0
    client_options: tuple[str, ...] = ()

    def server_options(self) -> list[str]:
        """Return what this kind of server needs, and make it."""
        return []

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the server."""
        command = [sys.executable, str(ROOT / "server.py"), "--host", HOST, "--port", "0"]
        command += ["--output", str(self.inbox), "--grace", "0", *self.server_options()]
        server = stack.enter_context(logged(command, self.peer_log, stdout=subprocess.PIPE))
        assert server.stdout is not None
        self.peer = server.pid
        first = server.stdout.readline().decode()
        if not first.startswith("Listening on "):
            raise ToolError(f"not started: {last_line(self.peer_log)}")
        self.port = first.rpartition(":")[2].strip()

    def run(self, row: Row, source: Path) -> Run:
        """Run the client; its receipt must say that all is well."""
        command = [sys.executable, str(ROOT / "client.py"), str(source), "--quiet", "--json"]
        command += ["--server", HOST, "--port", self.port, *row.options, *self.client_options]
        run = timed(command, self.log, source.stat().st_size)
        self.resent += receipt_in(self.log.read_text(errors="replace"))["resent_blocks"]
        return run

    def server_facts(self) -> str:
        """Say what the server took so far, where the system tells."""
        fields = proc_fields(Path("/proc", str(self.peer), "status"))
        if "VmHWM" not in fields:
            return "memory and threads of the server are not told by this system"
        peak = format_size(int(fields["VmHWM"].split()[0]) * KB)
        threads = fields.get("Threads", "?")
        return f"server of {self.rows[0].name}: peak memory so far {peak}, {threads} threads"


class OursTls(Ours):
    """This pair over TLS, with a certificate of its own making: the one to put beside ``scp``."""

    rows = (
        Row("ours-tls", "MD5 end to end, TLS 1.3, durable"),
        Row("ours-tls-sha256", "SHA-256 end to end, TLS 1.3, durable", ("--digest", "sha256")),
    )

    def server_options(self) -> list[str]:
        """Make a certificate for this one run."""
        key, cert = str(self.place / "key.pem"), str(self.place / "cert.pem")
        command = [find("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
        command += ["-keyout", key, "-out", cert, "-subj", "/CN=localhost"]
        quietly([*command, "-addext", f"subjectAltName=IP:{HOST}"])
        self.client_options = ("--ca", cert)
        return ["--tls-cert", cert, "--tls-key", key]


class Rsync(Tool):
    """A daemon of rsync, so that no ssh is in the way; ``-W`` sends the file whole."""

    MD5 = "--checksum-choice=md5"
    rows = (
        Row("rsync", "own 128-bit hash, not durable"),
        Row("rsync-fsync", "own 128-bit hash, file flushed", ("--fsync",)),
        Row("rsync-md5", "MD5 end to end, not durable", (MD5,)),
        Row("rsync-md5-fsync", "MD5 end to end, file flushed", (MD5, "--fsync")),
    )

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the daemon."""
        self.program, self.port = find("rsync"), free_port()
        config = self.place / "rsyncd.conf"
        config.write_text(rsync_config(self.inbox, self.port, self.place / "daemon-log"))
        command = [self.program, "--daemon", "--no-detach", f"--config={config}"]
        command += [f"--address={HOST}"]
        self.listen(stack, command, self.port)

    def run(self, row: Row, source: Path) -> Run:
        """Send the file to the daemon."""
        target = f"rsync://{HOST}:{self.port}/inbox/"
        command = [self.program, "-W", *row.options, str(source), target]
        return timed(command, self.log, source.stat().st_size)


class Netcat(Tool):
    """OpenBSD's netcat: bytes into a connection, bytes out of it, nothing else."""

    rows = (Row("nc", "nothing verified, not durable"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Find it; other ones of the same name do not know when to stop."""
        self.program = find("nc")
        if not re.search(r"-N\b.*shutdown", quietly(["nc", "-h"]), re.IGNORECASE):
            raise ToolError("not run: this nc is not OpenBSD's (no -N)")

    def run(self, row: Row, source: Path) -> Run:
        """Start a receiver, send, wait for both."""
        port, size = str(free_port()), source.stat().st_size
        with open(self.inbox / source.name, "wb") as received, open(source, "rb") as data:
            command = [self.program, "-nvl", HOST, port]
            with child(command, stdout=received, stderr=subprocess.PIPE) as listener:
                self._await_words(listener)
                began = time.perf_counter()
                sent = timed([self.program, "-nN", HOST, port], self.log, size, data)
                wait(listener, patience(size))
                return Run(time.perf_counter() - began, sent.peak)

    @staticmethod
    def _await_words(listener: subprocess.Popen[bytes]) -> None:
        """Return when it says that it listens: a connection, just to see, would be the only one."""
        assert listener.stderr is not None
        words = listener.stderr.readline().decode(errors="replace").strip()
        if not words.startswith("Listening"):
            raise ToolError(f"not started: {words}")


class Scp(Tool):
    """scp to an sshd of our own, with keys of our own."""

    rows = (Row("scp", "encrypted, packets verified, not the file; not durable"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Make keys, start sshd."""
        self.program, server, self.port = find("scp"), find("sshd"), free_port()
        for name in ("host", "user"):
            quietly(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.place / name)])
        host_key = (self.place / "host.pub").read_text()
        (self.place / "known").write_text(f"[{HOST}]:{self.port} {host_key}")
        config = self.place / "sshd.conf"
        config.write_text("\n".join(self._config()) + "\n")
        self.listen(stack, [server, "-D", "-e", "-f", str(config)], self.port)

    def _config(self) -> list[str]:
        return [
            f"ListenAddress {HOST}:{self.port}",
            f"HostKey {self.place / 'host'}",
            f"AuthorizedKeysFile {self.place / 'user.pub'}",
            "PidFile none",
            "StrictModes no",  # a temporary directory is below one that everybody may write to
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
            "PermitUserRC no",
            "Subsystem sftp internal-sftp",
        ]

    def run(self, row: Row, source: Path) -> Run:
        """Copy the file to ourselves."""
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"]
        options += [f"UserKnownHostsFile={self.place / 'known'}"]
        command = [self.program, "-q", "-F", os.devnull, "-P", str(self.port)]
        command += ["-i", str(self.place / "user"), *(f"-o{option}" for option in options)]
        command += [str(source), f"{HOST}:{self.inbox}/"]
        return timed(command, self.log, source.stat().st_size)


TOOLS = (Md5sum, Dd, Bare, Ours, OursTls, Rsync, Netcat, Scp)
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


def version(command: list[str]) -> str:
    """Return the first line a tool says about itself."""
    try:
        return quietly(command).strip().splitlines()[0]
    except (ToolError, IndexError) as error:
        return str(error) or "tells no version"


def rsync_hash() -> str:
    """Name the hash that rsync takes unless told otherwise: the first it lists."""
    with contextlib.suppress(ToolError):
        listed = re.search(r"Checksum list:\s+(\w+)", quietly(["rsync", "--version"]))
        return listed[1] if listed else "not told"
    return "none"


def versions() -> dict[str, str]:
    """Return what the tools say about themselves."""
    return {
        "md5sum": version(["md5sum", "--version"]),
        "rsync": f"{version(['rsync', '--version'])}, default hash: {rsync_hash()}",
        "nc": version(["nc", "-h"]),
        "scp": version(["ssh", "-V"]),
    }


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
