"""The kills at random moments."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from lft.options import format_size
from tests.support.files import part_files
from tests.support.processes import ROOT
from tests.tools.sweeping.processes import Client, note
from tests.tools.sweeping.station import BLOCK, Source, Station

VICTIMS = ("server", "client", "both")


class Moment(NamedTuple):
    """When who dies: parts of a client run, the second one counted from the restart."""

    number: int
    victim: str
    at: tuple[float, ...]

    def __str__(self) -> str:
        times = " and ".join(f"{at:.3f}" for at in self.at)
        return f"moment {self.number} ({self.victim} at {times})"


def plan_moment(seed: int, number: int) -> Moment:
    """Return a moment; the same one for the same seed and number.

    One in four lies in the last quarter: verifying, publishing and answering are over soon.
    """
    chance = random.Random(f"{seed}-moment-{number}")
    first = chance.uniform(0.75 if number % 4 == 3 else 0.0, 1.0)
    again = (chance.random(),) if chance.random() < 0.25 else ()
    return Moment(number, VICTIMS[number % 3], (first, *again))


class KillSweep:
    """The mode ``kill`` at one station."""

    def __init__(self, station: Station, size: int) -> None:
        self._station = station
        self._size = size
        station.workers, station.block = 10, BLOCK
        station.stop_server()
        station.start_server()
        self._lead, self._duration = self._measure()

    def _measure(self) -> tuple[float, float]:
        """Return the seconds until a client begins to do something, and until its end."""
        station = self._station
        lead = min(self._seconds_to_begin() for _ in range(2))
        seconds = []
        for _ in range(3):
            source = station.source("undisturbed", self._size)
            began = time.monotonic()
            client = station.send(source)
            while client.code is None:
                station.pause(0.002)
            seconds.append(time.monotonic() - began)
            station.check(source, "undisturbed")
        duration = statistics.median(seconds)
        note(f"{station.folder.name}: a client run takes {duration:.2f} s, {lead:.2f} s to begin")
        return lead, duration

    @staticmethod
    def _seconds_to_begin() -> float:
        began = time.monotonic()
        command = [sys.executable, str(ROOT / "client.py"), "--help"]
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began

    def _instant(self, at: float) -> float:
        first, last = 0.9 * self._lead, 1.05 * self._duration
        return first + at * (last - first)

    def run(self, moment: Moment) -> None:
        """Live through one moment."""
        station = self._station
        source = station.source(f"kill-{moment.number}", self._size)
        client = station.send(source)
        phases, there = [], 0
        for at in moment.at:
            if client.code is not None and not client.answered:
                client = station.send(source)
            station.pause(self._instant(at))
            self._kill(moment, client)
            phase, right = self._look(source, client)
            phases.append(phase)
            there = max(there, right)
            station.revive()
            if phase in ("publish", "after"):
                break
        self._judge(moment, source, client, phases[0], there)

    def _kill(self, moment: Moment, client: Client) -> None:
        if moment.victim != "client":
            self._station.server.kill()
        if moment.victim != "server":
            client.kill()

    def _look(self, source: Source, client: Client) -> tuple[str, int]:
        """Return how far it was when the victim died, and the right bytes in the part file."""
        if client.answered:
            return "after", 0
        if self._station.published(source):
            return "publish", 0
        right = self._station.right_bytes(source)
        if right == source.size:
            return "verify", right
        return ("receive" if part_files(self._station.output) else "connect"), right

    def _judge(
        self, moment: Moment, source: Source, client: Client, phase: str, there: int
    ) -> None:
        station, what = self._station, str(moment)
        client = station.finish(source, client, what)
        if there >= source.size / 2 and client.receipts and not client.late:
            resumed = int(client.receipts[-1]["resumed_bytes"])
            station.tally.resume(resumed / source.size, there - resumed)
            if resumed == 0:
                text = f"{what}: {format_size(there)} were there, all was sent again"
                station.tally.violation("not resumed", text)
        station.check(source, what)
        station.tally.moment(hit=phase != "after", phase=phase)
        self._duration *= 0.9 if phase == "after" else 1.01
