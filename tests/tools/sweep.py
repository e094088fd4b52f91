"""Kills the server, the client and both at many moments, and counts what that broke.

    python tests/tools/sweep.py                             everything; half an hour
    python tests/tools/sweep.py kill --moments 1000         only this mode
    python tests/tools/sweep.py kill --seed 7 --moment 42   one moment of an earlier run
    python tests/tools/sweep.py --tree                      with directories in place of files
    python tests/tools/sweep.py write-kill --every 5        at each fifth call
    python tests/tools/sweep.py --short                     a few moments of each mode, some seconds

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
``both-kill``: the same, and the client dies right after the server.
``write-error``: that call fails instead, once with ENOSPC and once with EIO. The server must go on
and serve others; the client must end with a documented exit code and one line; the same command
again must succeed at the same server.
``read-error``: the same with calls of the server that read, and EIO alone.
``client-kill``: the client dies on entering its n-th call that reads its file or uses the wire.
``client-error``: a call that reads the file fails with EIO. The client must end with a documented
exit code and one line, or do without that call.

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
behind what it should have removed, and only that is forgiven. Of a directory all entries with their
bits and times are compared, and its sums; sums without their directory are left over.

What it does not say: what the disk keeps when the power goes (that is powercut.py); anything about
networks; and no sweep proves that there is no moment that it did not hit. Times are measured on a
busy machine, so a seed gives the same plan again, but not the same microsecond.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import statistics
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config import MB
from lft.options import format_size, parse_size
from tests.tools.sweeping.kills import KillSweep, plan_moment
from tests.tools.sweeping.processes import (
    DeadServerError,
    SetupError,
    handle_signals,
    note,
    temporary_directory,
)
from tests.tools.sweeping.reads import ClientSweep
from tests.tools.sweeping.station import Station, Tally
from tests.tools.sweeping.things import Files, Trees
from tests.tools.sweeping.tracing import CALLS, READS, Injection, Known, check_strace
from tests.tools.sweeping.writes import Point, WriteSweep, points, thinned

Work = TypeVar("Work")
AnySweep = TypeVar("AnySweep", WriteSweep, ClientSweep)
MODES = (
    "kill", "write-kill", "both-kill", "write-error", "read-error", "client-kill", "client-error"
)  # fmt: skip
SHORT = ("kill", "write-kill", "write-error")  # the modes of the short form
KILL = "signal=KILL"
RECOVERY = "in recovery"  # the second half of write-kill
WRITES = "pwritev2"  # the call that puts blocks into the part file
BEYOND = 4  # calls past the last known one, at most, while the fault is still hit
COLUMNS = (
    "wrong", "lost", "duplicates", "left over", "tracebacks", "not resumed", "gave up", "other"
)  # fmt: skip


# --- all jobs together --------------------------------------------------------------------------


class Sweep:
    """The jobs and what they have to do; each job takes the next when it is done with one."""

    def __init__(self, arguments: argparse.Namespace, stations: list[Station]) -> None:
        self._arguments = arguments
        self._stations = stations
        self.tallies: list[Tally] = []

    def run(self) -> None:
        """Go through the modes."""
        modes: dict[str, Callable[[], None]] = {
            "kill": self._run_kill,
            "write-kill": self._run_write_kill,
            "both-kill": self._run_both_kill,
            "write-error": lambda: self._run_error("write-error", CALLS),
            "read-error": lambda: self._run_error("read-error", READS),
            "client-kill": self._run_client_kill,
            "client-error": self._run_client_error,
        }
        for mode in MODES:
            if mode in self._arguments.modes:
                modes[mode]()
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

    def _run_points(
        self,
        kind: Callable[[Station, int], AnySweep],
        whole: list[Point],
        run: Callable[[AnySweep, Point], bool],
    ) -> None:
        waiting = collections.deque(thinned(whole, self._arguments.most))
        beyond: collections.Counter[str] = collections.Counter()

        def job(station: Station) -> None:
            sweep = kind(station, self._arguments.write_size)
            for point in taken(waiting):
                hit = run(sweep, point)
                call = str(point.faults[-1]._replace(when=0))
                if hit and point.last and beyond[call] < BEYOND:
                    beyond[call] += 1
                    waiting.append(point.next())

        self._on_all(job)

    def _points(self, known: Known, effects: list[str], *before: Injection) -> list[Point]:
        return tell(points(known, effects, *before, every=self._arguments.every), known)

    def _run_write_kill(self) -> None:
        self._tally("write-kill")
        teacher = WriteSweep(self._stations[0], self._arguments.write_size)
        known = teacher.learn(CALLS)
        self._run_points(WriteSweep, self._points(known, [KILL]), WriteSweep.kill)
        self._tally(f"write-kill {RECOVERY}")
        middle = known[WRITES]
        death = Injection(WRITES, middle[len(middle) // 2], KILL)
        known = teacher.learn_recovery(death)
        self._run_points(WriteSweep, self._points(known, [KILL], death), WriteSweep.kill)

    def _run_both_kill(self) -> None:
        self._tally("both-kill")
        known = WriteSweep(self._stations[0], self._arguments.write_size).learn(CALLS)
        self._run_points(WriteSweep, self._points(known, [KILL]), WriteSweep.kill_both)

    def _run_error(self, name: str, calls: list[str]) -> None:
        self._tally(name)
        known = WriteSweep(self._stations[0], self._arguments.write_size).learn(calls)
        known.pop("mkdir", None)  # only at the start, which may well end with that
        effects = ["error=ENOSPC", "error=EIO"] if calls is CALLS else ["error=EIO"]
        self._run_points(WriteSweep, self._points(known, effects), WriteSweep.error)

    def _run_client_kill(self) -> None:
        self._tally("client-kill")
        known = ClientSweep(self._stations[0], self._arguments.write_size).learn(sockets=True)
        self._run_points(ClientSweep, self._points(known, [KILL]), ClientSweep.kill)

    def _run_client_error(self) -> None:
        self._tally("client-error")
        known = ClientSweep(self._stations[0], self._arguments.write_size).learn(sockets=False)
        self._run_points(ClientSweep, self._points(known, ["error=EIO"]), ClientSweep.error)


def taken(waiting: collections.deque[Work]) -> Iterator[Work]:
    """Take one after the other, until nothing waits; other threads may take and add."""
    while waiting:
        try:
            work = waiting.popleft()
        except IndexError:
            return
        yield work


def tell(whole: list[Point], known: Known) -> list[Point]:
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
    add("--every", type=int, default=1, metavar="N", help="each N-th call of the others (1)")
    add("--seed", type=int, default=1, metavar="N", help="of the moments and the files (1)")
    add("--size", type=size_argument, default=24 * MB, metavar="SIZE", help="for kill (24M)")
    add("--write-size", type=size_argument, default=MB, metavar="SIZE", help="for the others (1M)")
    add("--jobs", type=int, default=2, metavar="N", help="at once (2)")
    add("--directory", type=Path, metavar="DIR", help="for all files (the temporary directory)")
    add("--keep", action="store_true", help="leave the files of the jobs for a look")
    add("--tree", action="store_true", help="send directories in place of files")
    add("--short", action="store_true", help="a few moments of each mode")
    # fmt: on
    arguments = parser.parse_args(argv)
    unknown = set(arguments.modes) - set(MODES)
    if unknown:
        parser.error(f"no mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    arguments.modes = arguments.modes or list(SHORT if arguments.short else MODES)
    if arguments.moments is None:
        arguments.moments = 6 if arguments.short else 210
    if arguments.most is None:
        arguments.most = 4 if arguments.short else 0
    return arguments


def run(arguments: argparse.Namespace, place: Path) -> int:
    """Sweep and tell; return the exit code."""
    if set(arguments.modes) - {"kill"}:
        check_strace(place)
    print(f"seed {arguments.seed}", flush=True)
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        seed = str(arguments.seed)
        things = Trees() if arguments.tree else Files()
        made = (Station(place / f"job-{i}", seed, stop, things) for i in range(arguments.jobs))
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
