"""Kills the server, the client and both at many moments, and counts what that broke.

    python tests/sweep.py                             everything; minutes
    python tests/sweep.py kill --moments 1000         only this mode
    python tests/sweep.py kill --seed 7 --moment 42   one moment of an earlier run
    python tests/sweep.py --short                     a few moments of each mode, some seconds

How it works: nothing but the two command lines and their exit codes, real processes, ``kill -9``.
Each job has an output directory and a port of its own and goes through one moment after the other;
files that were published before stay there for a while and must survive what comes after them.

``kill``: the victim dies at a random instant of a whole client run, from the end of the start of
Python to a little after its end, as measured here without a disturbance, and corrected after each
moment, so that few come too late; in one moment of four a second time, while it recovers. What died
is started again, and the same client command is given until it succeeds. A client that was not
killed itself must succeed without being asked.
``write-kill``: the server dies on entering its n-th call that changes the disk, before the kernel
does it, for each such call and each n; then the same during the recovery from such a death.
``write-error``: that call fails instead, once with ENOSPC and once with EIO. The server must go on
and serve others; the client must end with a documented exit code and one line; the same command
again must succeed at the same server.

How calls are hit: ``strace`` injects the fault. It counts the calls of each thread for itself, so
these servers run with one worker, which does all that there is to do on the disk. A first run
without a fault is traced with the paths behind its descriptors, and tells which calls change
something below the output directory, and the first and the last n where they do. ``write`` also
goes to pipes and the log: a kill there is a moment as good as any other, an error there is not
judged (the trace of that run says what was hit). Beyond the last known n it goes on a little, until
a transfer ends without the fault.

What is checked after each moment, once the client has exited with 0: exactly one published file,
with the digest of the source; the files published before; nothing left in ``.partial`` (but the
second name of a file whose verdict nobody confirmed, which is there to be given again); no
traceback at either side. And where at least half of the right bytes were in the part file when the
first victim died: that the receipt's ``resumed_bytes`` is not 0. A failed ``unlink`` may leave
behind what it should have removed, and only that is forgiven.

What it does not say: what the disk keeps when the power goes (that is powercut.py); anything about
networks; and no sweep proves that there is no moment that it did not hit. Times are measured on a
busy machine, so a seed gives the same plan again, but not the same microsecond.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import client_command, environment, md5, part_files, random_file  # noqa: E402

from config import (  # noqa: E402
    KB,
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
    parse_size,
)
from lft.store.paths import (  # noqa: E402
    PARTIAL,
)

HOST = "127.0.0.1"
Work = TypeVar("Work")
UNFINISHED = (".part", ".journal", ".new")
MODES = ("kill", "write-kill", "write-error")
RECOVERY = "in recovery"  # the second half of write-kill
VICTIMS = ("server", "client", "both")
TIMEOUT = 3  # seconds, the clients' own: what counts as dead is noticed soon
CLIENT_PATIENCE = 10 * TIMEOUT + 20  # longer than a client may try to reconnect
START_PATIENCE = 60.0  # seconds for a server to listen, under strace on a busy machine
SETTLE = 20.0  # seconds for a server to clear up after its answer
ATTEMPTS = 5  # of the same command, until it counts as never succeeding
KEEP = 5  # published files that stay as witnesses; older ones are checked and removed
BLOCK = 8 * KB  # small blocks make a transfer last, and give many states to die in
WRITE_BLOCK = 50 * KB  # with 1 MB: a few dozen writes
BEYOND = 4  # calls past the last known one, at most, while the fault is still hit
DOCUMENTED = (0, 1, 4, 5)  # exit codes a client may end with when the server's disk has trouble
# All that could change something on a disk; "?" lets a processor do without the older ones.
CALLS = [
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range",
    "fsync", "fdatasync", "sync_file_range", "fallocate", "ftruncate", "truncate",
    "?link", "linkat", "?rename", "?renameat", "renameat2", "?unlink", "unlinkat",
    "?mkdir", "mkdirat",
]  # fmt: skip
CALL = re.compile(r"(\d+) +(\w+)\((.*)")  # a call in a trace; not its end, when that is told apart
COLUMNS = (
    "wrong", "lost", "duplicates", "left over", "tracebacks", "not resumed", "gave up", "other"
)  # fmt: skip


class SetupError(Exception):
    """Why this cannot be tried here at all."""


class DeadServerError(Exception):
    """A server ended before it listened."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"the server ended with {code} before it listened: {log}")
        self.code = code


class StoppedError(Exception):
    """Somebody wants this program to end."""


class Injection(NamedTuple):
    """A fault: what happens at which call."""

    call: str
    when: int
    effect: str  # as strace has it: signal=KILL, error=EIO

    def __str__(self) -> str:
        return f"{self.effect} at {self.call} {self.when}"


def note(text: str) -> None:
    """Say something that is not part of the table."""
    print(text, file=sys.stderr, flush=True)


# --- processes ----------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that nobody listens on, from below those that the system gives to clients.

    One from among those could be taken by a client's connection while the server is down, or the
    client could even connect to itself.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as limits:
        first = int(limits.read().split()[0])
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randrange(min(20000, first - 1000), first)
            probe.bind((HOST, port))
            return port


def start_process(command: list[str], out: Path, errors: Path) -> subprocess.Popen[bytes]:
    """Start a process whose words go to files; a session of its own keeps Ctrl-C from it."""
    with open(out, "wb") as output, open(errors, "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )


def text_of(path: Path) -> str:
    """Return what a process has said so far."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def last_line(text: str) -> str:
    """Return the last words, which mostly say why."""
    return (text.strip().splitlines() or ["nothing said"])[-1].strip()


class Process:
    """A process of ours with what it says; subclasses say what it is."""

    def __init__(self, command: list[str], folder: Path, name: str) -> None:
        self.out, self.errors = folder / f"{name}.out", folder / f"{name}.log"
        self._process = start_process(command, self.out, self.errors)
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def kill(self) -> None:
        """Let it die at once, with the one that traces it, and see it dead."""
        if self.code is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(START_PATIENCE)


class Server(Process):
    """A real server that listens. Raises ``DeadServerError`` from its start.

    Under strace it is strace's child, and strace ends as it does, by a signal as well.
    """

    def __init__(
        self,
        folder: Path,
        output: Path,
        port: int,
        workers: int = 10,
        trace: list[str] | None = None,
    ) -> None:
        command = [sys.executable, str(ROOT / "server.py"), "--host", HOST, "--port", str(port)]
        command += ["--output", str(output), "--workers", str(workers), "--grace", "2"]
        super().__init__([*(trace or []), *command], folder, "server")
        self._traced = trace is not None
        deadline = time.monotonic() + START_PATIENCE
        while "Listening on " not in text_of(self.out):
            if self.code is not None:
                raise DeadServerError(self.code, last_line(text_of(self.errors)))
            if time.monotonic() > deadline:
                self.kill()
                raise SetupError(f"the server does not start: {last_line(text_of(self.errors))}")
            time.sleep(0.005)

    def stop(self) -> int:
        """End it gently; return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._own_pid(), signal.SIGTERM)
        try:
            return self._process.wait(START_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def freeze(self) -> None:
        """Let it do nothing any more; what it has asked the kernel for may still go on."""
        os.kill(self._own_pid(), signal.SIGSTOP)
        deadline = time.monotonic() + SETTLE
        while self._thread_states() & {"R", "S"} and time.monotonic() < deadline:
            time.sleep(0.0005)

    def _thread_states(self) -> set[str]:
        stats = Path(f"/proc/{self._own_pid()}/task").glob("*/stat")
        return {text_of(stat).rpartition(") ")[2][:1] for stat in stats}

    def _own_pid(self) -> int:
        """Return the server's own number, not that of strace."""
        pid = self._process.pid
        children = text_of(Path(f"/proc/{pid}/task/{pid}/children")).split() if self._traced else []
        return int(children[0]) if children else pid


class Client(Process):
    """A real client on its way."""

    def __init__(self, folder: Path, name: str, port: int, *arguments: str | Path) -> None:
        options = ["--server", HOST, "--timeout", str(TIMEOUT), "--json"]
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{name}.log").unlink()
        super().__init__(client_command(port, *arguments, *options), folder, name)
        self.killed = False
        self.late = False  # whether what it sends was published before it was started

    def kill(self) -> None:
        """Let it die at once."""
        self.killed = self.code is None
        super().kill()

    @property
    def receipts(self) -> list[dict[str, Any]]:
        """The verdicts that it has told."""
        lines = text_of(self.out).splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def answered(self) -> bool:
        """Whether the user has seen INTEGRITY_OK."""
        return any(receipt["verdict"] == "INTEGRITY_OK" for receipt in self.receipts)


# --- strace -------------------------------------------------------------------------------------


def strace_command(log: Path, calls: list[str], injection: Injection | None) -> list[str]:
    """Return what to put before a command to trace it and, maybe, to disturb it.

    Not with --seccomp-bpf, which would be faster: strace 6.1 then misses most of the kills.
    """
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(log)]
    command += ["-e", f"trace={','.join(calls)}", "-e", "signal=none"]
    if injection:
        command += ["-e", f"inject={injection.call}:{injection.effect}:when={injection.when}"]
    return command


def check_strace(folder: Path) -> None:
    """See an injected fault arrive. Raises ``SetupError``."""
    program = "import os, sys\ntry: os.fsync(0)\nexcept OSError as e: sys.exit(e.errno)"
    fault = Injection("fsync", 1, "error=ENOSPC")
    command = strace_command(folder / "probe", ["fsync"], fault)
    try:
        done = subprocess.run(
            [*command, sys.executable, "-c", program],
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        raise SetupError("strace is not installed; the kill mode works without it") from None
    if done.returncode != 28:
        raise SetupError(f"strace cannot inject faults here: {last_line(done.stderr)}")


class Trace:
    """What strace wrote down about one run of a server."""

    def __init__(self, log: Path, output: Path) -> None:
        self._lines = text_of(log).splitlines()
        self._output = str(output)

    def ranges(self) -> dict[str, range]:
        """Return, for each call that touched the output directory, the n from first to last."""
        count: collections.Counter[tuple[str, str]] = collections.Counter()
        hits: dict[str, list[int]] = {}
        for line in self._lines:
            found = CALL.match(line)
            if found:
                thread, call, arguments = found.groups()
                count[thread, call] += 1
                if self._output in arguments:
                    hits.setdefault(call, []).append(count[thread, call])
        return {call: range(min(found), max(found) + 1) for call, found in hits.items()}

    def injected(self) -> list[str]:
        """Return the calls that failed for our sake, with their arguments."""
        last: dict[str, str] = {}
        found = []
        for line in self._lines:
            thread = line.split(" ", 1)[0]
            if CALL.match(line):
                last[thread] = line
            if line.endswith("(INJECTED)"):
                found.append(last.get(thread, line))
        return found

    def on_disk(self) -> bool:
        """Whether one of those was about the output directory."""
        return any(self._output in line for line in self.injected())


# --- what is counted ----------------------------------------------------------------------------


@dataclass
class Tally:
    """What one mode brought. Shared by the jobs; the lock protects all of it."""

    name: str
    moments: int = 0
    hits: int = 0  # moments where the victim died, or the call failed, before the end
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    phases: collections.Counter[str] = field(default_factory=collections.Counter)
    resumed: list[float] = field(default_factory=list)  # parts of a file, past the half
    twice: int = 0  # bytes that were there and were sent again
    silent: bool = False  # only remembers, for somebody who does not know yet what to think of it
    told: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def violation(self, kind: str, text: str) -> None:
        """Count something that must not be, and say it at once."""
        with self.lock:
            self.counts[kind] += 1
            self.told.append((kind, text))
        if not self.silent:
            note(f"VIOLATION, {self.name}, {kind}: {text}")

    def moment(self, *, hit: bool, phase: str = "") -> None:
        """Count a moment."""
        with self.lock:
            self.moments += 1
            self.hits += hit
            if phase:
                self.phases[phase] += 1
            if self.moments % 20 == 0:
                note(f"{self.name}: {self.moments} moments, {sum(self.counts.values())} violations")

    def resume(self, part: float, twice: int) -> None:
        """Count a transfer that was past its half."""
        with self.lock:
            self.resumed.append(part)
            self.twice += max(0, twice)


class Source(NamedTuple):
    """A file to send."""

    path: Path
    size: int
    digest: str


class Published(NamedTuple):
    """A file that must stay as it is."""

    path: Path
    source: Source


# --- one job's place ----------------------------------------------------------------------------


class Station:
    """An output directory, a port, the server that is up just now, what was published so far.

    Everything here belongs to the one thread that runs the job.
    """

    def __init__(self, folder: Path, seed: str, stop: threading.Event) -> None:
        folder.mkdir()
        self.folder, self.seed, self.port = folder, seed, free_port()
        self.output = folder / "output"
        self.trace_log = folder / "trace"
        self.tally = Tally("start")
        self.workers = 10
        self.block = BLOCK
        self._stop = stop
        self._server: Server | None = None
        self._faults: list[Injection] = []  # one for each coming start of the server
        self._clients: list[Client] = []
        self._kept: collections.deque[Published] = collections.deque()
        self._known: set[Path] = set()  # leftovers that were told already
        self._answers: set[str] = set()  # stems that wait, or waited, to be answered again
        self._sources = 0
        self.deaths = 0  # of servers, by themselves or by a fault

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._clients, self._server):
            if process:
                process.kill()

    def interrupt(self) -> None:
        """End what this and every other job does; any thread may ask for that."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Wait. Raises ``StoppedError``."""
        if self._stop.wait(max(0.0, seconds)):
            raise StoppedError

    # -- the server

    @property
    def server(self) -> Server:
        """The server, which is up."""
        assert self._server is not None
        return self._server

    def start_server(self, *, trace: bool = False) -> None:
        """Start it, with the next of the planned faults; once more if it dies of that at once."""
        assert self._server is None or self._server.code is not None
        fault = self._faults.pop(0) if self._faults else None
        traced = [fault.call] if fault else CALLS
        command = strace_command(self.trace_log, traced, fault) if fault or trace else None
        try:
            self._server = Server(self.folder, self.output, self.port, self.workers, command)
        except DeadServerError as error:
            self._note_early_death(error, fault)
            self._server = Server(self.folder, self.output, self.port, self.workers)

    def _note_early_death(self, error: DeadServerError, fault: Injection | None) -> None:
        self.deaths += 1
        expected = 2 if fault and "error" in fault.effect else -signal.SIGKILL
        if not fault or error.code != expected:
            self.tally.violation("other", str(error))
            self.pause(0.5)  # whatever is in the way may go

    def revive(self) -> bool:
        """Start the server again if it has ended; return whether it had."""
        ended = self.server.code is not None
        if ended:
            self.deaths += 1
            self.start_server()
        return ended

    def stop_server(self, *, may_die: bool = False) -> None:
        """End the server gently, so that the next one starts from nothing in memory."""
        if self._server and self._server.code is None:
            code = self._server.stop()
            if code and not (may_die and code == -signal.SIGKILL):
                self.tally.violation("other", f"the server ended with {code} when asked to end")
            self.deaths += code == -signal.SIGKILL
            self._server = None

    def with_faults(self, *faults: Injection) -> None:
        """Start anew, with these faults in this and the coming starts."""
        self.stop_server()
        self._faults, self.deaths = list(faults), 0
        self.start_server()

    def without_faults(self) -> None:
        """Start anew, without those that no start came to."""
        self._faults = []
        self.stop_server(may_die=True)
        self.start_server()

    def trace(self) -> Trace:
        """Return what strace has told about the server that has ended."""
        return Trace(self.trace_log, self.output)

    # -- sending

    def source(self, kind: str, size: int) -> Source:
        """Make a file, with a name that no other has and bytes that follow from it."""
        self._sources += 1
        name = f"{kind}-{self._sources}.bin"
        path = random_file(self.folder / name, size, hash_seed(f"{self.seed}-{name}"))
        return Source(path, size, md5(path))

    def send(self, source: Source, *options: str) -> Client:
        """Give the client command."""
        options = ("--block-size", str(self.block), *(options or ("--quiet",)))
        name = f"client-{source.path.name}"
        client = Client(self.folder, name, self.port, source.path, *options)
        client.late = bool(self.published(source))  # Python starts slower than this looks
        self._clients = [each for each in self._clients if each.code is None] + [client]
        return client

    def wait(self, client: Client, what: str) -> int:
        """Wait for the end of a client, and keep a server up for it; return the exit code."""
        deadline = time.monotonic() + CLIENT_PATIENCE
        while client.code is None:
            self.revive()
            if time.monotonic() > deadline:
                self.tally.violation("other", f"{what}: the client hangs")
                client.kill()
            self.pause(0.01)
        errors = text_of(client.errors)
        if "Traceback" in errors:
            self.tally.violation("tracebacks", f"{what}: the client says {last_line(errors)}")
        return client.code

    def finish(self, source: Source, client: Client, what: str) -> Client:
        """Give the same command until it succeeds; return the client that did, or the last one."""
        for _ in range(ATTEMPTS):
            code = self.wait(client, what)
            if code == 0 or client.answered:  # one that told its verdict has done its work
                return client
            if not client.killed:
                kind = "gave up" if code == 5 else "other"
                says = last_line(text_of(client.errors))
                self.tally.violation(kind, f"{what}: the client ended with {code}: {says}")
            client = self.send(source)
        code = self.wait(client, what)
        if code:
            self.tally.violation("other", f"{what}: no success in {ATTEMPTS} more attempts")
        return client

    # -- what is there

    def published(self, source: Source) -> list[Path]:
        """Return the files that were made of a source."""
        return sorted(self.output.glob(f"server_received_*_{source.path.name}"))

    def right_bytes(self, source: Source) -> int:
        """Return how much of the source is in a part file, in whole blocks of ours."""
        most = 0
        for path in part_files(self.output):
            with contextlib.suppress(OSError), open(path, "rb") as part:
                most = max(most, _same_bytes(part.read(), source.path.read_bytes(), self.block))
        return most

    def check(self, source: Source, what: str, *, forgive_left_over: bool = False) -> None:
        """Judge what is there after a success; the source is not needed any more."""
        self._check_published(source, what)
        self._check_kept(what)
        self._check_left_over(what, forgive=forgive_left_over)
        if "Traceback" in text_of(self.server.errors):
            self.tally.violation("tracebacks", f"{what}: in the server's log")
            shutil.copy(self.server.errors, self.folder / f"traceback-{source.path.name}.log")
            os.truncate(self.server.errors, 0)
        source.path.unlink()

    def _check_published(self, source: Source, what: str) -> None:
        there = self.published(source)
        if not there:
            self.tally.violation("lost", f"{what}: a success, and no file")
        if len(there) > 1:
            names = ", ".join(path.name for path in there)
            self.tally.violation("duplicates", f"{what}: {names}")
        for path in there:
            if md5(path) != source.digest:
                self.tally.violation("wrong", f"{what}: {path.name} is not what was sent")
                path.rename(self.folder / path.name)  # told once, and kept for a look
            else:
                self._kept.append(Published(path, source))

    def _check_kept(self, what: str) -> None:
        for old in list(self._kept):
            if not old.path.exists() or old.path.stat().st_size != old.source.size:
                self.tally.violation("lost", f"{what}: {old.path.name} of before is not there")
                self._kept.remove(old)
        while len(self._kept) > KEEP:
            self.retire()

    def retire(self) -> None:
        """Read the oldest published file once more, then remove it."""
        old = self._kept.popleft()
        if md5(old.path) != old.source.digest:
            self.tally.violation("wrong", f"{old.path.name} changed after it was published")
        old.path.unlink()

    def retire_all(self) -> None:
        """Read everything that is still there."""
        while self._kept:
            self.retire()

    def left_over(self) -> set[Path]:
        """Return part files and journals, but for those that wait to give an answer again."""
        found = {path for path in (self.output / PARTIAL).glob("*") if path.suffix in UNFINISHED}
        linked = {path.stem for path in found if path.suffix == ".part" and _names(path) > 1}
        self._answers |= linked  # also when the published name has been retired
        return {path for path in found if path.stem not in self._answers}

    def _check_left_over(self, what: str, *, forgive: bool) -> None:
        deadline = time.monotonic() + SETTLE
        while self.left_over() - self._known and not forgive and time.monotonic() < deadline:
            self.pause(0.02)
        new = self.left_over() - self._known
        self._known |= new
        if new and not forgive:
            names = ", ".join(sorted(path.name for path in new))
            self.tally.violation("left over", f"{what}: {names}")


def _names(path: Path) -> int:
    """Return how many names a file has: a published part file has its final one, too."""
    try:
        return path.stat().st_nlink
    except FileNotFoundError:  # it went while we looked
        return 0


def hash_seed(text: str) -> int:
    """Return a number that depends on nothing but ``text``."""
    return random.Random(text).randrange(1 << 32)


def _same_bytes(one: bytes, other: bytes, piece: int) -> int:
    starts = range(0, len(other), piece)
    return sum(
        len(other[i : i + piece]) for i in starts if one[i : i + piece] == other[i : i + piece]
    )


# --- kill ---------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """When who dies: parts of a client run, the second one counted from the restart."""

    number: int
    victim: str
    at: tuple[float, ...]

    def __str__(self) -> str:
        times = " and ".join(f"{at:.3f}" for at in self.at)
        return f"moment {self.number} ({self.victim} at {times})"


def plan_moment(seed: int, number: int) -> Moment:
    """Return a moment; the same one for the same seed and number.

    One in four lies in the last quarter: verifying, publishing and answering are over soon.
    """
    chance = random.Random(f"{seed}-moment-{number}")
    first = chance.uniform(0.75 if number % 4 == 3 else 0.0, 1.0)
    again = (chance.random(),) if chance.random() < 0.25 else ()
    return Moment(number, VICTIMS[number % 3], (first, *again))


class KillSweep:
    """The mode ``kill`` at one station."""

    def __init__(self, station: Station, size: int) -> None:
        self._station = station
        self._size = size
        station.workers, station.block = 10, BLOCK
        station.stop_server()
        station.start_server()
        self._lead, self._duration = self._measure()

    def _measure(self) -> tuple[float, float]:
        """Return the seconds until a client begins to do something, and until its end."""
        station = self._station
        lead = min(self._seconds_to_begin() for _ in range(2))
        seconds = []
        for _ in range(3):
            source = station.source("undisturbed", self._size)
            began = time.monotonic()
            client = station.send(source)
            while client.code is None:
                station.pause(0.002)
            seconds.append(time.monotonic() - began)
            station.check(source, "undisturbed")
        duration = statistics.median(seconds)
        note(f"{station.folder.name}: a client run takes {duration:.2f} s, {lead:.2f} s to begin")
        return lead, duration

    @staticmethod
    def _seconds_to_begin() -> float:
        began = time.monotonic()
        command = [sys.executable, str(ROOT / "client.py"), "--help"]
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began

    def _instant(self, at: float) -> float:
        first, last = 0.9 * self._lead, 1.05 * self._duration
        return first + at * (last - first)

    def run(self, moment: Moment) -> None:
        """Live through one moment."""
        station = self._station
        source = station.source(f"kill-{moment.number}", self._size)
        client = station.send(source)
        phases, there = [], 0
        for at in moment.at:
            if client.code is not None and not client.answered:
                client = station.send(source)
            station.pause(self._instant(at))
            self._kill(moment, client)
            phase, right = self._look(source, client)
            phases.append(phase)
            there = max(there, right)
            station.revive()
            if phase in ("publish", "after"):
                break
        self._judge(moment, source, client, phases[0], there)

    def _kill(self, moment: Moment, client: Client) -> None:
        if moment.victim != "client":
            self._station.server.kill()
        if moment.victim != "server":
            client.kill()

    def _look(self, source: Source, client: Client) -> tuple[str, int]:
        """Return how far it was when the victim died, and the right bytes in the part file."""
        if client.answered:
            return "after", 0
        if self._station.published(source):
            return "publish", 0
        right = self._station.right_bytes(source)
        if right == source.size:
            return "verify", right
        return ("receive" if part_files(self._station.output) else "connect"), right

    def _judge(
        self, moment: Moment, source: Source, client: Client, phase: str, there: int
    ) -> None:
        station, what = self._station, str(moment)
        client = station.finish(source, client, what)
        if there >= source.size / 2 and client.receipts and not client.late:
            resumed = int(client.receipts[-1]["resumed_bytes"])
            station.tally.resume(resumed / source.size, there - resumed)
            if resumed == 0:
                text = f"{what}: {format_size(there)} were there, all was sent again"
                station.tally.violation("not resumed", text)
        station.check(source, what)
        station.tally.moment(hit=phase != "after", phase=phase)
        self._duration *= 0.9 if phase == "after" else 1.01


# --- faults at the n-th call --------------------------------------------------------------------


class Point(NamedTuple):
    """What happens at each start of the server; the last of the faults is the one that is tried."""

    faults: tuple[Injection, ...]
    last: bool  # no later call is known

    def __str__(self) -> str:
        return ", then ".join(map(str, self.faults))

    def next(self) -> Point:
        """Return the point after this one."""
        tried = self.faults[-1]
        return Point((*self.faults[:-1], tried._replace(when=tried.when + 1)), last=True)


def points(ranges: dict[str, range], effects: list[str], *before: Injection) -> list[Point]:
    """Return all points for these calls."""
    return [
        Point((*before, Injection(call, when, effect)), last=when == whens[-1])
        for effect in effects
        for call, whens in sorted(ranges.items())
        for when in whens
    ]


def thinned(whole: list[Point], most: int) -> list[Point]:
    """Return at most ``most`` of them, evenly spread; nothing is tried beyond those."""
    if not most or len(whole) <= most:
        return whole
    chosen = (whole[i * len(whole) // most] for i in range(most))
    return [point._replace(last=False) for point in chosen]


class WriteSweep:
    """The modes with strace at one station."""

    def __init__(self, station: Station, size: int) -> None:
        self._station = station
        self._size = size
        station.workers, station.block = 1, WRITE_BLOCK

    def _source(self, kind: str) -> Source:
        return self._station.source(kind, self._size)

    def learn(self) -> dict[str, range]:
        """Send a file undisturbed; return which calls touch the disk, and when."""
        station, source = self._station, self._source("undisturbed")
        station.with_faults()  # whatever only the first start in a new directory does is done
        station.stop_server()
        station.start_server(trace=True)
        station.finish(source, station.send(source), "undisturbed")
        station.check(source, "undisturbed")
        station.stop_server()
        return station.trace().ranges()

    def learn_recovery(self, death: Injection) -> dict[str, range]:
        """Let a server die, and return what the next one does."""
        station, source = self._station, self._source("recovered")
        station.with_faults(death)
        client = station.send(source)
        while station.server.code is None and client.code is None:
            station.pause(0.01)
        if station.server.code is None:
            station.stop_server()
        station.start_server(trace=True)
        station.finish(source, client, "recovery")
        station.check(source, "recovery")
        station.stop_server()
        return station.trace().ranges()

    def kill(self, point: Point) -> bool:
        """Let the server die at a point, see all well afterwards; return whether it died."""
        station, source = self._station, self._source("write-kill")
        station.with_faults(*point.faults)
        client = station.finish(source, station.send(source), str(point))
        station.without_faults()  # the last fault may come as late as at this stop
        hit = station.deaths == len(point.faults)
        station.check(source, str(point))
        station.tally.moment(hit=hit, phase="" if hit else "not hit")
        if client.receipts and client.receipts[-1]["resumed_bytes"]:
            station.tally.resume(client.receipts[-1]["resumed_bytes"] / source.size, 0)
        return hit

    def error(self, point: Point) -> bool:
        """Let a call fail at a point; return whether it did, and was about the disk."""
        station, tally = self._station, self._station.tally
        station.tally = Tally(tally.name, silent=True)
        try:
            trace = self._try_error(point)
            told = station.tally.told
        finally:
            station.tally = tally
        hit = trace.on_disk()
        if hit or not trace.injected():
            for kind, text in told:
                tally.violation(kind, text)
        tally.moment(hit=hit, phase="" if hit else "not hit")
        return hit

    def _try_error(self, point: Point) -> Trace:
        station, what = self._station, str(point)
        sources = [self._source("write-error"), self._source("still-serves")]
        station.with_faults(*point.faults)
        failed = sum(self._send_stubbornly(source, what) for source in sources)
        if station.deaths:
            station.tally.violation("other", f"{what}: the server ended")
        station.without_faults()
        trace = station.trace()
        if failed > len(trace.injected()):
            station.tally.violation("other", f"{what}: {failed} attempts failed")
        for source in sources:
            station.check(source, what, forgive_left_over="unlink" in point.faults[-1].call)
        return trace

    def _send_stubbornly(self, source: Source, what: str) -> int:
        """Give the same command until it succeeds; return how often it failed."""
        for failed in range(ATTEMPTS):
            client = self._station.send(source, "--log-level", "ERROR")
            code = self._station.wait(client, what)
            self._check_ending(client, code, what)
            if code == 0:
                return failed
        self._station.tally.violation("other", f"{what}: no success in {ATTEMPTS} attempts")
        return ATTEMPTS

    def _check_ending(self, client: Client, code: int, what: str) -> None:
        """Expect a documented exit code and, if it is a failure, the one line that says why."""
        lines = text_of(client.errors).strip().splitlines()
        if code not in DOCUMENTED or len(lines) != (code != 0):
            text = f"{what}: the client ended with {code} and {len(lines)} lines: {lines[-1:]}"
            self._station.tally.violation("other", text)


# --- all jobs together --------------------------------------------------------------------------


class Sweep:
    """The jobs and what they have to do; each job takes the next when it is done with one."""

    def __init__(self, arguments: argparse.Namespace, stations: list[Station]) -> None:
        self._arguments = arguments
        self._stations = stations
        self.tallies: list[Tally] = []

    def run(self) -> None:
        """Go through the modes."""
        if "kill" in self._arguments.modes:
            self._run_kill()
        if "write-kill" in self._arguments.modes:
            self._run_write_kill()
        if "write-error" in self._arguments.modes:
            self._run_write_error()
        for station in self._stations:
            station.stop_server()
            station.retire_all()

    def _tally(self, name: str) -> None:
        self.tallies.append(Tally(name))
        for station in self._stations:
            station.tally = self.tallies[-1]

    def _on_all(self, job: Callable[[Station], None]) -> None:
        """Run ``job`` at each station at once. Raises what one of them raises."""
        with ThreadPoolExecutor(len(self._stations)) as pool:
            futures = [pool.submit(job, station) for station in self._stations]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._stations[0].interrupt()
                raise

    def _run_kill(self) -> None:
        self._tally("kill")
        numbers = range(self._arguments.moments)
        if self._arguments.moment is not None:
            numbers = range(self._arguments.moment, self._arguments.moment + 1)
        waiting = collections.deque(plan_moment(self._arguments.seed, i) for i in numbers)

        def job(station: Station) -> None:
            sweep = KillSweep(station, self._arguments.size)
            for moment in taken(waiting):
                sweep.run(moment)

        self._on_all(job)

    def _run_points(self, whole: list[Point], run: Callable[[WriteSweep, Point], bool]) -> None:
        waiting = collections.deque(thinned(whole, self._arguments.most))
        beyond: collections.Counter[str] = collections.Counter()

        def job(station: Station) -> None:
            sweep = WriteSweep(station, self._arguments.write_size)
            for point in taken(waiting):
                hit = run(sweep, point)
                call = str(point.faults[-1]._replace(when=0))
                if hit and point.last and beyond[call] < BEYOND:
                    beyond[call] += 1
                    waiting.append(point.next())

        self._on_all(job)

    def _run_write_kill(self) -> None:
        self._tally("write-kill")
        teacher = WriteSweep(self._stations[0], self._arguments.write_size)
        known = teacher.learn()
        self._run_points(tell(points(known, ["signal=KILL"]), known), WriteSweep.kill)
        self._tally(f"write-kill {RECOVERY}")
        middle = known["pwrite64"]
        death = Injection("pwrite64", middle[len(middle) // 2], "signal=KILL")
        known = teacher.learn_recovery(death)
        self._run_points(tell(points(known, ["signal=KILL"], death), known), WriteSweep.kill)

    def _run_write_error(self) -> None:
        self._tally("write-error")
        known = WriteSweep(self._stations[0], self._arguments.write_size).learn()
        known.pop("mkdir", None)  # only at the start, which may well end with that
        effects = ["error=ENOSPC", "error=EIO"]
        self._run_points(tell(points(known, effects), known), WriteSweep.error)


def taken(waiting: collections.deque[Work]) -> Iterator[Work]:
    """Take one after the other, until nothing waits; other threads may take and add."""
    while waiting:
        try:
            work = waiting.popleft()
        except IndexError:
            return
        yield work


def tell(whole: list[Point], known: dict[str, range]) -> list[Point]:
    """Say which calls were found."""
    calls = ", ".join(f"{call} {whens[0]}-{whens[-1]}" for call, whens in sorted(known.items()))
    note(f"{len(whole)} points; calls that touch the disk: {calls}")
    return whole


# --- what is told -------------------------------------------------------------------------------


def resumed_figures(tally: Tally) -> str:
    """Return the least and the median part of a file that was not sent again."""
    if not tally.resumed:
        return "-"
    return f"{min(tally.resumed):.0%} / {statistics.median(tally.resumed):.0%}"


def print_table(tallies: list[Tally]) -> None:
    """Print what was counted."""
    print(f"{'mode':<24}{'moments':>8}{'hits':>6}{'resumed':>14}", end="")
    print("".join(f"{name:>13}" for name in COLUMNS))
    for tally in tallies:
        print(
            f"{tally.name:<24}{tally.moments:>8}{tally.hits:>6}{resumed_figures(tally):>14}", end=""
        )
        print("".join(f"{tally.counts[name]:>13}" for name in COLUMNS))
    print("(hits: the fault came before the verdict; resumed: least / median part of the file that")
    print("was not sent again: in kill, where half of it was there; in write-kill, where any was)")
    for tally in tallies:
        told = ", ".join(f"{count} {phase}" for phase, count in sorted(tally.phases.items()))
        if told:
            print(f"{tally.name}: {told}")
        if tally.twice:
            print(f"{tally.name}: {format_size(tally.twice)} were there and were sent again")


# --- the command line ---------------------------------------------------------------------------


def size_argument(text: str) -> int:
    """Parse a size."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Kill server and client at many moments.")
    add = parser.add_argument
    # fmt: off
    add("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)} (all)")
    add("--moments", type=int, metavar="N", help="of the mode kill (210)")
    add("--moment", type=int, metavar="K", help="only the K-th of the mode kill")
    add("--most", type=int, metavar="N", help="points of each other mode, evenly spread (all)")
    add("--seed", type=int, default=1, metavar="N", help="of the moments and the files (1)")
    add("--size", type=size_argument, default=24 * MB, metavar="SIZE", help="for kill (24M)")
    add("--write-size", type=size_argument, default=MB, metavar="SIZE", help="for the others (1M)")
    add("--jobs", type=int, default=2, metavar="N", help="at once (2)")
    add("--directory", type=Path, metavar="DIR", help="for all files (the temporary directory)")
    add("--keep", action="store_true", help="leave the files of the jobs for a look")
    add("--short", action="store_true", help="a few moments of each mode")
    # fmt: on
    arguments = parser.parse_args(argv)
    unknown = set(arguments.modes) - set(MODES)
    if unknown:
        parser.error(f"no mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    arguments.modes = arguments.modes or list(MODES)
    if arguments.moments is None:
        arguments.moments = 6 if arguments.short else 210
    if arguments.most is None:
        arguments.most = 4 if arguments.short else 0
    return arguments


@contextlib.contextmanager
def temporary_directory(parent: Path | None, *, keep: bool = False) -> Iterator[Path]:
    """Give a directory that is gone afterwards, unless it is to be kept."""
    place = Path(tempfile.mkdtemp(prefix="sweep-", dir=parent)).resolve()
    try:
        yield place
    finally:
        if keep:
            note(f"kept {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


def interrupt(number: int, _frame: object) -> None:
    """Leave on the first signal, through every ``finally``; a second one must not disturb that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def handle_signals() -> None:
    """Let SIGINT and SIGTERM end this program cleanly."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def run(arguments: argparse.Namespace, place: Path) -> int:
    """Sweep and tell; return the exit code."""
    if set(arguments.modes) - {"kill"}:
        check_strace(place)
    print(f"seed {arguments.seed}", flush=True)
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        seed = str(arguments.seed)
        made = (Station(place / f"job-{i}", seed, stop) for i in range(arguments.jobs))
        sweep = Sweep(arguments, [stack.enter_context(station) for station in made])
        try:
            sweep.run()
        finally:
            if sweep.tallies:
                print_table(sweep.tallies)
    return 1 if any(tally.counts for tally in sweep.tallies) else 0


def main(argv: list[str] | None = None) -> int:
    """Run it; return the exit code."""
    arguments = parse(argv)
    handle_signals()
    try:
        with temporary_directory(arguments.directory, keep=arguments.keep) as place:
            return run(arguments, place)
    except SetupError as error:
        note(f"sweep.py: {error}")
        return 2
    except DeadServerError as error:
        note(f"sweep.py: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
