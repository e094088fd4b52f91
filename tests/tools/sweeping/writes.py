"""The kills and the errors at the n-th call that changes the disk."""

from __future__ import annotations

from typing import NamedTuple

from config import KB
from tests.tools.sweeping.processes import ATTEMPTS, Client, text_of
from tests.tools.sweeping.station import Source, Station, Tally
from tests.tools.sweeping.tracing import CALLS, Injection, Known, Trace

WRITE_BLOCK = 50 * KB  # with 1 MB: a few dozen writes
DOCUMENTED = (0, 1, 4, 5)  # exit codes a client may end with when the server's disk has trouble


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


def points(known: Known, effects: list[str], *before: Injection, every: int = 1) -> list[Point]:
    """Return the points for each call and its first n and each ``every``-th one after that."""
    return [
        Point((*before, Injection(call, when, effect)), last=when == whens[-1])
        for effect in effects
        for call, whens in sorted(known.items())
        for when in whens[::every]
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

    def learn(self, calls: list[str]) -> Known:
        """Send a file undisturbed; return which of ``calls`` touch the disk, and when."""
        station, source = self._station, self._source("undisturbed")
        station.with_faults()  # whatever only the first start in a new directory does is done
        station.stop_server()
        station.start_server(trace=calls)
        station.finish(source, station.send(source), "undisturbed")
        station.check(source, "undisturbed")
        station.stop_server()
        return station.trace().calls()

    def learn_recovery(self, death: Injection) -> Known:
        """Let a server die, and return what the next one does."""
        station, source = self._station, self._source("recovered")
        station.with_faults(death)
        client = station.send(source)
        self._await_death(client)
        if station.server.code is None:
            station.stop_server()
        station.start_server(trace=CALLS)
        station.finish(source, client, "recovery")
        station.check(source, "recovery")
        station.stop_server()
        return station.trace().calls()

    def _await_death(self, client: Client) -> None:
        """Wait for the end of the server, or of the client."""
        while self._station.server.code is None and client.code is None:
            self._station.pause(0.01)

    def kill(self, point: Point) -> bool:
        """Let the server die at a point, see all well afterwards; return whether it died."""
        source = self._source("write-kill")
        self._station.with_faults(*point.faults)
        return self._judge(point, source, self._station.send(source))

    def kill_both(self, point: Point) -> bool:
        """Let the server die at a point, and its client right after it."""
        source = self._source("both-kill")
        self._station.with_faults(*point.faults)
        client = self._station.send(source)
        self._await_death(client)
        client.kill()
        self._station.revive()
        return self._judge(point, source, client)

    def _judge(self, point: Point, source: Source, client: Client) -> bool:
        station = self._station
        client = station.finish(source, client, str(point))
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
        check_ending(self._station.tally, client, code, DOCUMENTED, what)


def check_ending(
    tally: Tally, client: Client, code: int, documented: tuple[int, ...], what: str
) -> None:
    """Expect a documented exit code and, if it is a failure, the one line that says why."""
    lines = text_of(client.errors).strip().splitlines()
    if code not in documented or len(lines) != (code != 0):
        text = f"{what}: the client ended with {code} and {len(lines)} lines: {lines[-1:]}"
        tally.violation("other", text)
