"""Real servers and clients, as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from lft.accounts.passwords import PASSWORD_VARIABLE
from tests.support.files import random_file
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SERVER = (sys.executable, str(ROOT / "server.py"))


def environment() -> dict[str, str]:
    """Return an environment in which nothing of the machine's own changes what the tests see."""
    own = dict(os.environ, PYTHONUNBUFFERED="1", LC_ALL="C.UTF-8")
    for name in (PASSWORD_VARIABLE, "NO_COLOR", "COLUMNS"):
        own.pop(name, None)
    return own


def status(process: int, field: str) -> int:
    """Read a number from /proc/PID/status; 0 when the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0


def peak_memory(process: int) -> int:
    """Return the most memory a process has had so far, in KB."""
    return status(process, "VmHWM")


class ServerProcess:
    """A real ``server.py`` on a free port, with its standard error in a file."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        program: Sequence[str] = SERVER,
        errors: int | None = None,
        sees: str = "",
        **how: Any,
    ) -> None:
        """Start ``program``; ``errors`` is its standard error in place of the file.

        ``sees`` is where it sees its output directory, if that is elsewhere. ``how`` goes to
        ``Popen``.
        """
        self.output = folder / "output"
        self.log_file = folder / "server.log"
        command = [*program, "--port", "0", *options]
        command += ["--output", sees or str(self.output)]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log if errors is None else errors,
                text=True, env=environment(), **how,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        assert self.first_line.startswith("Listening on "), self.log
        self.port = int(self.first_line.rpartition(":")[2])

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text(encoding="utf-8")

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return status(self.process.pid, "Threads")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """Make a pipe that no program reads, and that has room for nothing more."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write, b"x" * 65536):
            pass
    os.set_blocking(write, True)
    try:
        yield write
    finally:
        os.close(read)
        os.close(write)


StartServer = Callable[..., ServerProcess]


def client_command(port: int, *arguments: str | Path) -> list[str]:
    """Return the command line of a client."""
    return [
        sys.executable, str(ROOT / "client.py"), "--port", str(port), *map(str, arguments)
    ]  # fmt: skip


def run_client(
    port: int, *arguments: str | Path, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a real client to its end; a traceback fails the test."""
    done = subprocess.run(
        client_command(port, *arguments),
        capture_output=True,
        check=False,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE * 3,
        env={**environment(), **(variables or {})},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def still_serves(port: int, folder: Path) -> None:
    """Check that a normal transfer works: whatever was done before hurt nobody else."""
    source = random_file(folder / "still serves.bin", 300_000)
    done = run_client(port, source)
    assert done.returncode == 0, done.stderr
