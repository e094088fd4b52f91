"""The place of one job: its server, its files, and the checks after each moment."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Sequence

from config import KB
from lft.store.paths import PARTIAL
from tests.support.files import part_files
from tests.tools.sweeping.processes import (
    ATTEMPTS,
    CLIENT_PATIENCE,
    SETTLE,
    Client,
    DeadServerError,
    Server,
    StoppedError,
    free_port,
    last_line,
    note,
    text_of,
)
from tests.tools.sweeping.things import Files
from tests.tools.sweeping.tracing import Injection, Trace, strace_command

UNFINISHED = (".part", ".tree", ".journal", ".new")
# what Python says of itself while it starts, where a fault for a later thread has hit it
PYTHON_S_OWN = re.compile(r"Error processing line .*?Remainder of file ignored", re.DOTALL)
KEEP = 5  # published files that stay as witnesses; older ones are checked and removed
BLOCK = 8 * KB  # small blocks make a transfer last, and give many states to die in


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


class Station:
    """An output directory, a port, the server that is up just now, what was published so far.

    Everything here belongs to the one thread that runs the job.
    """

    def __init__(self, folder: Path, seed: str, stop: threading.Event, things: Files) -> None:
        folder.mkdir()
        self.things = things
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

    def start_server(self, *, trace: Sequence[str] = ()) -> None:
        """Start it, with the next of the planned faults; once more if it dies of that at once.

        Without a fault the calls of ``trace`` are written down.
        """
        assert self._server is None or self._server.code is not None
        fault = self._faults.pop(0) if self._faults else None
        traced = [fault.call] if fault else trace
        command = strace_command(self.trace_log, traced, fault) if traced else None
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
        name = f"{kind}-{self._sources}{self.things.ending}"
        path = self.folder / name
        self.things.make(path, size, hash_seed(f"{self.seed}-{name}"))
        return Source(path, size, self.things.digest(path))

    def send(self, source: Source, *options: str, trace: Sequence[str] = ()) -> Client:
        """Give the client command; ``trace`` stands before it."""
        options = ("--block-size", str(self.block), *(options or ("--quiet",)))
        name = f"client-{source.path.name}"
        client = Client(self.folder, name, self.port, source.path, *options, trace=trace)
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
            with contextlib.suppress(OSError):
                there = self.things.bytes_in_part(path, source.path)
                most = max(most, _same_bytes(there, self.things.bytes_of(source.path), self.block))
        return most

    def check(self, source: Source, what: str, *, forgive_left_over: bool = False) -> None:
        """Judge what is there after a success; the source is not needed any more."""
        self._check_published(source, what)
        self._check_kept(what)
        self._check_left_over(what, forgive=forgive_left_over)
        if "Traceback" in PYTHON_S_OWN.sub("", text_of(self.server.errors)):
            self.tally.violation("tracebacks", f"{what}: in the server's log")
            shutil.copy(self.server.errors, self.folder / f"traceback-{source.path.name}.log")
            os.truncate(self.server.errors, 0)
        self.things.remove(source.path)

    def _check_published(self, source: Source, what: str) -> None:
        there = self.published(source)
        if not there:
            self.tally.violation("lost", f"{what}: a success, and no file")
        if len(there) > 1:
            names = ", ".join(path.name for path in there)
            self.tally.violation("duplicates", f"{what}: {names}")
        for path in there:
            fault = self.things.faults(path)
            if fault:
                self.tally.violation("wrong", f"{what}: {path.name}: {fault}")
            if self.things.digest(path) != source.digest:
                self.tally.violation("wrong", f"{what}: {path.name} is not what was sent")
                path.rename(self.folder / path.name)  # told once, and kept for a look
            else:
                self._kept.append(Published(path, source))

    def _check_kept(self, what: str) -> None:
        for old in list(self._kept):
            if not old.path.exists() or self.things.size(old.path) != old.source.size:
                self.tally.violation("lost", f"{what}: {old.path.name} of before is not there")
                self._kept.remove(old)
        while len(self._kept) > KEEP:
            self.retire()

    def retire(self) -> None:
        """Read the oldest published file once more, then remove it."""
        old = self._kept.popleft()
        if self.things.digest(old.path) != old.source.digest:
            self.tally.violation("wrong", f"{old.path.name} changed after it was published")
        self.things.remove(old.path)

    def retire_all(self) -> None:
        """Read everything that is still there."""
        while self._kept:
            self.retire()

    def left_over(self) -> set[Path]:
        """Return part files and journals, but for those that wait to give an answer again."""
        found = {path for path in (self.output / PARTIAL).glob("*") if path.suffix in UNFINISHED}
        linked = {path.stem for path in found if self._is_answer(path)}
        self._answers |= linked  # also when the published name has been retired
        found |= set(self.things.strays(self.output))
        return {path for path in found if path.stem not in self._answers}

    def _is_answer(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):  # it went while we looked
            return self.things.is_answer(path)
        return False

    def _check_left_over(self, what: str, *, forgive: bool) -> None:
        deadline = time.monotonic() + SETTLE
        while self.left_over() - self._known and not forgive and time.monotonic() < deadline:
            self.pause(0.02)
        new = self.left_over() - self._known
        self._known |= new
        if new and not forgive:
            names = ", ".join(sorted(path.name for path in new))
            self.tally.violation("left over", f"{what}: {names}")


def hash_seed(text: str) -> int:
    """Return a number that depends on nothing but ``text``."""
    return random.Random(text).randrange(1 << 32)


def _same_bytes(one: bytes, other: bytes, piece: int) -> int:
    starts = range(0, len(other), piece)
    return sum(
        len(other[i : i + piece]) for i in starts if one[i : i + piece] == other[i : i + piece]
    )
