"""One run of another program: bounded in time, and never in our way."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from threading import Event
from typing import NamedTuple

import config
from lft.store.history import Outcome
from lft.terminal import printable

_LOOK_EVERY = 0.1  # seconds between two looks whether it has ended: it may leave its output open
_READS_AT_END = 16  # of what is left in the pipe; one that has left the group may write for ever
_KEPT = 4096  # bytes of the end of its output, in which its last line is
_LINE = 200  # characters of that line


class Ended(NamedTuple):
    """How a program ended: its exit code, or the negative number of the signal that ended it."""

    code: int
    line: str  # the last one that it wrote, safe to show
    late: bool  # whether it was killed because it took too long
    stopped: bool  # ... or because the server stops


def variables(entry: Outcome, output: Path) -> dict[bytes, bytes]:
    """Return the environment of a program: the server's own without its secrets, and the facts."""
    facts = {
        "SAVED_AS": entry.saved_as, "NAME": entry.name, "USER": entry.user, "SIZE": entry.size,
        "DIGEST": entry.digest, "ALGORITHM": entry.algorithm, "DOOR": entry.door,
        "ADDRESS": entry.address, "OUTPUT": os.path.abspath(output),
        "FILES": "" if entry.files is None else entry.files,
    }  # fmt: skip
    own = {key: value for key, value in os.environb.items() if not key.startswith(b"LFT_")}
    texts = {f"LFT_{key}".encode(): _bytes(str(value)) for key, value in facts.items()}
    return {**own, **texts}


def _bytes(text: str) -> bytes:
    """Return text as UTF-8, whatever the locale is; a path keeps what it has beside that."""
    return text.replace("\0", "").encode("utf-8", "surrogateescape")


def run(program: Path, entry: Outcome, output: Path, stopping: Event) -> Ended:
    """Run ``program`` in ``output``, without arguments, and wait for its end.

    It has a session of its own, an empty standard input and no other descriptor of ours. Too late,
    or when the server stops, its process group is asked to end, and killed a moment later; what it
    leaves of the group when it ends is killed, too. Raises ``OSError`` where it cannot start.
    """
    process = subprocess.Popen(  # noqa: S603  (the operator's own program)
        [str(program)], cwd=output, env=variables(entry, output), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
    )  # fmt: skip
    with process:
        try:
            return _Watch(process, stopping).end()
        finally:
            _signal(process, signal.SIGKILL)


class _Watch:
    """Waits for the end of a process, and sees to it."""

    def __init__(self, process: subprocess.Popen[bytes], stopping: Event) -> None:
        self._process = process
        self._stopping = stopping
        self._ends_at = time.monotonic() + config.PROGRAM_TIMEOUT
        self._killed_at = float("inf")
        self._output = b""
        self._closed = False
        self._late = self._stopped = False

    def end(self) -> Ended:
        while not _has_ended(self._process):
            self._read(_LOOK_EVERY)
            self._hurry()
        _signal(self._process, signal.SIGKILL)  # the rest of its group, while its number is ours
        code = self._process.wait()
        for _ in range(_READS_AT_END):
            if self._closed or not self._read(0.0):
                break
        return Ended(code, _last_line(self._output), self._late, self._stopped and code != 0)

    def _hurry(self) -> None:
        """Ask it to end when it is time; kill it when it has not."""
        now = time.monotonic()
        if now >= self._killed_at:
            _signal(self._process, signal.SIGKILL)
        elif self._killed_at == float("inf"):
            self._stopped = self._stopping.is_set()
            self._late = now >= self._ends_at
            if self._stopped or self._late:
                self._killed_at = now + config.PROGRAM_CLOSING
                _signal(self._process, signal.SIGTERM)

    def _read(self, seconds: float) -> bool:
        """Read some of its output, if it writes any within ``seconds``; return whether it did."""
        if self._closed:
            time.sleep(seconds)
            return False
        assert self._process.stdout is not None  # it is a pipe
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        data = os.read(descriptor, 65536)
        self._closed = not data
        self._output = (self._output + data)[-_KEPT:]
        return True


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether it has ended; where the system can say so, its number stays its own."""
    if hasattr(os, "waitid"):
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, flags) is not None
    return process.poll() is not None


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to all of its group."""
    if process.returncode is None or not hasattr(os, "waitid"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return printable(lines[-1].strip())[:_LINE] if lines else ""
