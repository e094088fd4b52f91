"""Faults that strace injects into system calls, and the reading of its traces."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from tests.tools.sweeping.processes import SetupError, last_line, text_of

# All that could change something on a disk; "?" lets a processor do without the older ones.
CALLS = [
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range",
    "fsync", "fdatasync", "sync_file_range", "fallocate", "ftruncate", "truncate",
    "?link", "linkat", "?rename", "?renameat", "renameat2", "?unlink", "unlinkat",
    "?mkdir", "mkdirat", "?rmdir", "?symlink", "symlinkat",
    "?chmod", "fchmod", "fchmodat", "?fchmodat2", "utimensat", "syncfs",
]  # fmt: skip
# What reads from a disk. Not openat, read and stat: the main thread passes their first n while
# Python starts, so that a fault for a later thread would hit that.
READS = ["pread64", "preadv", "preadv2", "getdents64", "readlinkat", "statfs"]
SENDS = ["sendto", "sendmsg", "recvfrom", "recvmsg"]  # and what of the wire a client hears and says
SOCKET = "<socket:["  # how strace shows the descriptor of one
Known = Dict[str, List[int]]  # of calls, which n of a thread matter
CALL = re.compile(r"(\d+) +(\w+)\((.*)")  # a call in a trace; not its end, when that is told apart


class Injection(NamedTuple):
    """A fault: what happens at which call."""

    call: str
    when: int
    effect: str  # as strace has it: signal=KILL, error=EIO

    def __str__(self) -> str:
        return f"{self.effect} at {self.call} {self.when}"


def strace_command(log: Path, calls: Sequence[str], injection: Injection | None) -> list[str]:
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
    """What strace wrote down about one run of a program."""

    def __init__(self, log: Path, *marks: str | Path) -> None:
        """``marks`` tell the calls that matter: paths, or how a descriptor looks."""
        self._lines = text_of(log).splitlines()
        self._marks = [str(mark) for mark in marks]

    def calls(self) -> Known:
        """Return, for each call that matters, the n of all threads from their first to last."""
        count: collections.Counter[tuple[str, str]] = collections.Counter()
        hits: dict[tuple[str, str], list[int]] = {}
        for line in self._lines:
            found = CALL.match(line)
            if found:
                thread, call, arguments = found.groups()
                count[thread, call] += 1
                if self._matters(arguments):
                    hits.setdefault((thread, call), []).append(count[thread, call])
        known: dict[str, set[int]] = {}
        for (_, call), whens in hits.items():
            known.setdefault(call, set()).update(range(whens[0], whens[-1] + 1))
        return {call: sorted(numbers) for call, numbers in known.items()}

    def _matters(self, text: str) -> bool:
        return any(mark in text for mark in self._marks)

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
        """Whether one of those matters."""
        return any(map(self._matters, self.injected()))
