"""The kills of the client at its n-th call, and errors of the disk that it reads from."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.tools.sweeping.processes import Client
from tests.tools.sweeping.station import Source, Station
from tests.tools.sweeping.tracing import (
    READS,
    SENDS,
    SOCKET,
    Injection,
    Known,
    Trace,
    strace_command,
)
from tests.tools.sweeping.writes import WRITE_BLOCK, Point, check_ending

DOCUMENTED = (0, 2)  # exit codes of a client that cannot read its file


class ClientSweep:
    """The modes that disturb the client, at one station, whose server is never disturbed."""

    def __init__(self, station: Station, size: int) -> None:
        self._station = station
        self._size = size
        self._log = station.folder / "client-trace"
        if (station.workers, station.block) != (10, WRITE_BLOCK):
            station.workers, station.block = 10, WRITE_BLOCK
            station.with_faults()

    def _send(self, source: Source, calls: list[str], fault: Injection | None = None) -> Client:
        command = strace_command(self._log, calls, fault)
        return self._station.send(source, "--log-level", "ERROR", trace=command)

    def _source(self, kind: str) -> Source:
        return self._station.source(kind, self._size)

    def learn(self, *, sockets: bool) -> Known:
        """Send a file undisturbed; return which calls read it or, also, use the wire, and when."""
        station, source = self._station, self._source("undisturbed")
        station.finish(source, self._send(source, READS + SENDS), "undisturbed")
        marks: list[str | Path] = [source.path, SOCKET] if sockets else [source.path]
        station.check(source, "undisturbed")
        return Trace(self._log, *marks).calls()

    def kill(self, point: Point) -> bool:
        """Let the client die at a point and ask again; return whether it died."""
        station, source = self._station, self._source("client-kill")
        client = self._disturb(source, point)
        client.killed = client.code == -signal.SIGKILL
        hit = client.killed and not client.answered
        client = station.finish(source, client, str(point))
        station.check(source, str(point))
        station.tally.moment(hit=hit, phase="" if hit else "not hit")
        if hit and client.receipts and client.receipts[-1]["resumed_bytes"]:
            station.tally.resume(client.receipts[-1]["resumed_bytes"] / source.size, 0)
        return hit

    def error(self, point: Point) -> bool:
        """Let a call of the client fail at a point; return whether it did, and was about a file."""
        station, source = self._station, self._source("client-error")
        client = self._disturb(source, point)
        trace = Trace(self._log, source.path)
        hit = trace.on_disk()
        assert client.code is not None
        if hit or not trace.injected():
            check_ending(station.tally, client, client.code, DOCUMENTED, str(point))
        if client.code:
            client = station.send(source)
        station.finish(source, client, str(point))
        station.check(source, str(point))
        station.tally.moment(hit=hit, phase="" if hit else "not hit")
        return hit

    def _disturb(self, source: Source, point: Point) -> Client:
        fault = point.faults[-1]
        client = self._send(source, [fault.call], fault)
        self._station.wait(client, str(point))
        return client
