"""Faults that strace injects into system calls, and the reading of its traces."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.tools.sweeping.processes import SetupError, last_line, text_of

# All that could change something on a disk; "?" lets a processor do without the older ones.
CALLS = [
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range",
    "fsync", "fdatasync", "sync_file_range", "fallocate", "ftruncate", "truncate",
    "?link", "linkat", "?rename", "?renameat", "renameat2", "?unlink", "unlinkat",
    "?mkdir", "mkdirat",
]  # fmt: skip
CALL = re.compile(r"(\d+) +(\w+)\((.*)")  # a call in a trace; not its end, when that is told apart


class Injection(NamedTuple):
    """A fault: what happens at which call."""

    call: str
    when: int
    effect: str  # as strace has it: signal=KILL, error=EIO

    def __str__(self) -> str:
        return f"{self.effect} at {self.call} {self.when}"


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
