"""The servers and clients that the sweeps start and kill, and what all sweeps share."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

from tests.support.processes import ROOT, client_command, environment

HOST = "127.0.0.1"
TIMEOUT = 3  # seconds, the clients' own: what counts as dead is noticed soon
CLIENT_PATIENCE = 10 * TIMEOUT + 20  # longer than a client may try to reconnect
START_PATIENCE = 60.0  # seconds for a server to listen, under strace on a busy machine
SETTLE = 20.0  # seconds for a server to clear up after its answer
ATTEMPTS = 5  # of the same command, until it counts as never succeeding


class SetupError(Exception):
    """Why this cannot be tried here at all."""


class DeadServerError(Exception):
    """A server ended before it listened."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"the server ended with {code} before it listened: {log}")
        self.code = code


class StoppedError(Exception):
    """Somebody wants this program to end."""


def note(text: str) -> None:
    """Say something that is not part of the table."""
    print(text, file=sys.stderr, flush=True)


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
        options: Sequence[str] = (),
    ) -> None:
        command = [sys.executable, str(ROOT / "server.py"), "--host", HOST, "--port", str(port)]
        command += ["--output", str(output), "--workers", str(workers), "--grace", "2"]
        command += options
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

    def __init__(
        self, folder: Path, name: str, port: int, *arguments: str | Path, trace: Sequence[str] = ()
    ) -> None:
        options = ["--server", HOST, "--timeout", str(TIMEOUT), "--json"]
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{name}.log").unlink()
        super().__init__([*trace, *client_command(port, *arguments, *options)], folder, name)
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
