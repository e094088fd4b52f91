"""What the measuring scripts share: timed processes, interleaved rounds, facts, tables, arguments.

Nothing of size is imported here, pytest least of all: the peak memory of a child, as the system
tells it, is never less than that of the program which started it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # where a script is run by its name, ours are not on the path

from config import (  # noqa: E402
    KB,
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
    parse_size,
)

HOST = "127.0.0.1"
PIECE = MB  # of random data; a larger one would show as memory of our children
START_PATIENCE = 30.0  # seconds for a peer to listen, or a small helper to end
END_PATIENCE = 5.0  # seconds for a peer to end when asked to
SLOWEST = 2 * MB  # bytes in a second; what is slower than this, and a minute more, hangs
IN_MEMORY = ("tmpfs", "ramfs")  # file systems where nothing is durable and nothing costs
SBIN = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin"])  # not on everybody's PATH
RSS_UNIT = 1 if sys.platform == "darwin" else KB  # of ru_maxrss
# Settings of the one who runs this must not change what is measured; messages are read in English.
STRANGE = ("LFT_", "RSYNC_", "SSH_", "PYTHONDONTWRITEBYTECODE")  # would change what is measured
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(STRANGE)}
ENVIRONMENT["LC_ALL"] = "C"

Item = TypeVar("Item")


class ToolError(Exception):
    """Why a tool has no time: not installed, not started, failed."""


class Run(NamedTuple):
    """What one run took."""

    seconds: float
    peak: int  # bytes of memory of the process that was timed


# --- processes ----------------------------------------------------------------------------------


def find(program: str) -> str:
    """Return where ``program`` is. Raises ``ToolError``."""
    path = shutil.which(program, path=os.environ.get("PATH", os.defpath) + os.pathsep + SBIN)
    if path is None:
        raise ToolError(f"not installed ({program})")
    return path


@contextlib.contextmanager
def child(
    command: list[str], *, grace: float = END_PATIENCE, **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command``; it is gone afterwards, whatever happens.

    A session of its own keeps Ctrl-C from it: who ends when is decided here alone. If it still runs
    it is asked to end, and has ``grace`` seconds for that.
    """
    streams.setdefault("stdin", subprocess.DEVNULL)
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **streams)
    try:
        yield process
    finally:
        end(process, grace)


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """End a process that still runs, with all that it started."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


@contextlib.contextmanager
def logged(command: list[str], log: Path, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` like ``child``; what it says goes to ``log``."""
    with open(log, "wb") as output:
        more = {"stdout": output, "stderr": output, **more}
        with child(command, **more) as process:
            yield process


def last_line(log: Path) -> str:
    """Return the last words of a log, which mostly say why."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "no message"


def wait(process: subprocess.Popen[bytes], patience: float) -> Any:
    """Wait for the end of a process, kill it if that never comes; return what it used."""
    watchdog = threading.Timer(patience, process.kill)
    watchdog.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        watchdog.cancel()
    killed = os.WIFSIGNALED(status)
    process.returncode = -os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    return usage


def timed(command: list[str], log: Path, size: int, stdin: IO[bytes] | None = None) -> Run:
    """Run ``command`` from start to end; what it says goes to ``log``. Raises ``ToolError``."""
    began = time.perf_counter()
    with logged(command, log, stdin=stdin or subprocess.DEVNULL) as process:
        usage = wait(process, patience(size))
        seconds = time.perf_counter() - began
    if process.returncode:
        raise ToolError(f"failed with {process.returncode}: {last_line(log)}")
    return Run(seconds, usage.ru_maxrss * RSS_UNIT)


def patience(size: int) -> float:
    """Return the seconds after which moving ``size`` bytes counts as hanging."""
    return 60 + size / SLOWEST


def quietly(command: list[str]) -> str:
    """Run a small helper; return all it said. Raises ``ToolError``."""
    command = [find(command[0]), *command[1:]]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with child(command, **streams) as process:
        try:
            output, _ = process.communicate(timeout=START_PATIENCE)
        except subprocess.TimeoutExpired:
            raise ToolError(f"{command[0]} hangs") from None
    return str(output, "utf-8", "replace")


def client_knows(*options: str) -> bool:
    """Say whether the client takes these options and their values.

    It looks at the values before it prints its help, but not for options that it does not know.
    """
    command = [sys.executable, str(ROOT / "client.py"), *options, "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    named = [option for option in options if option.startswith("--")]
    return done.returncode == 0 and all(option in done.stdout for option in named)


def rsync_config(inbox: Path, port: int, log: Path) -> str:
    """Return the configuration of a daemon of rsync that takes files into a module ``inbox``."""
    lines = [f"port = {port}", "use chroot = no", f"log file = {log}", "reverse lookup = no"]
    if not os.getuid():  # it would become nobody, who may not write to our directory
        lines += ["uid = 0", "gid = 0"]
    lines += ["[inbox]", f"path = {inbox}", "read only = no"]
    return "\n".join(lines) + "\n"


# --- rounds -------------------------------------------------------------------------------------


def make_file(path: Path, size: int) -> Path:
    """Fill a file with random data and have it written, so that only its pages stay behind."""
    with open(path, "wb") as file:
        for offset in range(0, size, PIECE):
            file.write(os.urandom(min(PIECE, size - offset)))
        file.flush()
        os.fsync(file.fileno())
    return path


def turns(rows: Sequence[Item], rounds: int) -> Iterator[tuple[int, Item]]:
    """Give every row once a round, each round beginning with another one, with the round's number.

    So a slow minute of the machine hits all rows.
    """
    for number in range(rounds):
        turn = number % len(rows)
        for row in (*rows[turn:], *rows[:turn]):
            yield number + 1, row


def of_rounds(rounds: int) -> str:
    """Say what the figures of a table are."""
    return f"medians of {rounds} interleaved rounds" if rounds > 1 else "one round"


def note(text: str) -> None:
    """Say how far it is, out of the way of the tables."""
    print(text, file=sys.stderr, flush=True)


# --- what is told -------------------------------------------------------------------------------


def proc_fields(path: Path) -> dict[str, str]:
    """Return the ``name: value`` lines of a file below /proc, the first of each name."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields


def used_by(process: int) -> float:
    """Return the seconds of a processor that a process has used so far, all its threads."""
    stat = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def used_with_children(process: int) -> float:
    """Return what ``used_by`` does, with the children that have ended and been waited for."""
    stat = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")


def await_childless(process: int) -> None:
    """Wait until a process has no children any more, where the system tells; 2 s at most."""
    deadline = time.monotonic() + 2
    children = Path(f"/proc/{process}/task/{process}/children")
    with contextlib.suppress(OSError):
        while children.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)


def file_system(directory: Path) -> str:
    """Return the kind of file system that ``directory`` is on: the longest mount above it."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            mount, this_kind = line.split()[1:3]
            above = f"{directory.resolve()}/".startswith(mount.rstrip("/") + "/")
            if above and len(mount) >= len(best):
                best, kind = mount, this_kind
    return kind


def print_facts(directory: Path, **more: str) -> None:
    """Print what the times depend on."""
    cpu = proc_fields(Path("/proc/cpuinfo")).get("model name") or platform.processor()
    memory = proc_fields(Path("/proc/meminfo")).get("MemTotal", "0").split()[0]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    facts = {
        "processor": f"{cpu or platform.machine()}, {os.cpu_count()} cores, load {load} before",
        "memory": format_size(int(memory) * KB) if memory != "0" else "not told",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "directory": f"on {file_system(directory)}",
        **more,
    }
    for name, fact in facts.items():
        print(f"{name + ':':<11}{fact}", flush=True)


def print_markdown(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table that can be pasted into a page."""
    print(f"\n{title}\n")
    for cells in (columns, ["---"] * len(columns), *rows):
        print(f"| {' | '.join(cells)} |", flush=True)


def ratio(one: float, other: float | None) -> str:
    """Return how many times ``other`` it is, as far as that was measured."""
    return f"{one / other:.2f}" if other else "-"


def receipt_in(text: str) -> dict[str, Any]:
    """Return the receipt that a client has printed. Raises ``ToolError`` if it proves nothing."""
    lines = [line for line in text.splitlines() if line.startswith("{")]  # the rest is log
    if len(lines) != 1:
        raise ToolError(f"failed: no receipt, {text.strip()[-200:]}")
    receipt: dict[str, Any] = json.loads(lines[0])
    if receipt["verdict"] != "INTEGRITY_OK" or not receipt["durable"]:
        raise ToolError(f"failed: {receipt}")
    return receipt


# --- the command line ---------------------------------------------------------------------------


def sizes_argument(text: str) -> list[int]:
    """Parse ``--size``."""
    try:
        return [parse_size(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def rounds_argument(text: str) -> int:
    """Parse ``--rounds``."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of rounds: {text!r}")
    return int(text)


def directory_argument(text: str) -> Path:
    """Parse ``--directory``."""
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"not a directory: {text!r}")
    return Path(text).resolve()


@contextlib.contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Give a directory that is gone afterwards, even if a dying peer still writes into it."""
    place = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        yield place
    finally:
        deadline = time.monotonic() + END_PATIENCE
        while place.exists() and time.monotonic() < deadline:
            shutil.rmtree(place, ignore_errors=True)
            time.sleep(0.05)


def run_in_place(
    run: Callable[[argparse.Namespace, Path], None], parsed: argparse.Namespace
) -> int:
    """Run a measurement in a directory of its own; return the exit code of its program."""
    handle_signals()
    with temporary_directory(parsed.directory) as place:
        try:
            run(parsed, place)
        except ToolError as error:
            print(f"FAILED: {error}")
            return 1
    return 0


def interrupt(number: int, _frame: object) -> None:
    """Leave on the first signal, through every ``finally``; a second one must not disturb that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    os.write(2, b"interrupted\n")  # print() must not be entered twice
    sys.exit(128 + number)


def handle_signals() -> None:
    """Let Ctrl-C and SIGTERM end this program with nothing left behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
