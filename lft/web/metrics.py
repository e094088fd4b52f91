"""Figures for Prometheus: ``/metrics``, in its text format 0.0.4."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Iterator, NamedTuple, Sequence, Tuple

import config
from lft.store.history import OUTCOMES, RECEIVED, Outcome
from lft.store.paths import free_bytes
from lft.web.request import Request
from lft.web.response import Response
from lft.web.router import Need, Route

if TYPE_CHECKING:
    from lft.web.site import House

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_Sample = Tuple[str, float]  # labels, as they stand in braces, and the value


class Counts:
    """What has been counted since the server began. The lock protects all of it; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()  # by status
        self._outcomes: Counter[str] = Counter()
        self._bytes = 0  # of files that were received

    def count_request(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self._requests[status] += 1

    def count_outcome(self, outcome: Outcome) -> None:
        """Count a file whose outcome is known, and its bytes if it was received."""
        with self._lock:
            self._outcomes[outcome.outcome] += 1
            self._bytes += outcome.size if outcome.outcome == RECEIVED else 0

    def read(self) -> tuple[Counter[int], Counter[str], int]:
        """Return requests by status, outcomes, and bytes received."""
        with self._lock:
            return self._requests.copy(), self._outcomes.copy(), self._bytes


class Metrics:
    """Writes the figures down. All of it runs on workers."""

    def __init__(self, house: House, counts: Counts) -> None:
        self._house = house
        self._counts = counts
        self._began = time.time()

    def routes(self) -> list[Route]:
        """Return the route, which also stands where Prometheus looks for it first."""
        paths = "/api/v1/metrics", "/metrics"
        return [Route("GET", path, self.show, Need.OPERATE) for path in paths]

    def show(self, request: Request) -> Response:
        """Answer with all figures."""
        request.query()
        text = "".join(self._lines())
        return Response(HTTPStatus.OK, [("Content-Type", _TYPE)], text.encode())

    def _lines(self) -> Iterator[str]:
        for name, kind, about, samples in (*self._counted(), *self._measured(), *_of_process()):
            if samples:
                yield f"# HELP lft_{name} {about}\n# TYPE lft_{name} {kind}\n"
            for labels, value in samples:
                braces = f"{{{labels}}}" if labels else ""
                yield f"lft_{name}{braces} {value!r}\n"

    def _counted(self) -> Iterator[_Metric]:
        requests, outcomes, received = self._counts.read()
        files = [(f'outcome="{one}"', outcomes[one]) for one in OUTCOMES]
        answers = [(f'status="{one}"', number) for one, number in sorted(requests.items())]
        yield _Metric("files_total", "counter", "Files whose outcome is known.", files)
        yield _counter("received_bytes_total", "Bytes of files that were received.", received)
        yield _Metric("http_requests_total", "counter", "Answers to requests, by status.", answers)

    def _measured(self) -> Iterator[_Metric]:
        admission, connections = self._house.admission, self._house.connections
        free = free_bytes(self._house.settings.output)
        states = [
            ('state="active"', len(admission.active())),
            ('state="waiting"', len(admission.waiting())),
        ]
        release = [(f'release="{config.RELEASE}"', 1)]
        yield _Metric("transfers", "gauge", "Transfers that are under way.", states)
        yield _gauge("connections", "Connections of all kinds.", len(connections.peers))
        yield _gauge("free_bytes", "Free space for files that arrive.", free)
        yield _gauge("start_time_seconds", "When the server began, since 1970.", self._began)
        yield _Metric("info", "gauge", "The release that runs.", release)


class _Metric(NamedTuple):
    name: str
    kind: str
    about: str
    samples: Sequence[_Sample]  # without any, nothing is said of it


def _gauge(name: str, about: str, value: float) -> _Metric:
    return _Metric(name, "gauge", about, [("", value)])


def _counter(name: str, about: str, value: float) -> _Metric:
    return _Metric(name, "counter", about, [("", value)])


def _of_process() -> Iterator[_Metric]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield _counter("cpu_seconds_total", "Processor time.", used.ru_utime + used.ru_stime)
    yield _gauge("threads", "Threads.", threading.active_count())
    yield _Metric("resident_memory_bytes", "gauge", "Memory.", _memory())
    yield _Metric("open_files", "gauge", "Open files.", _descriptors())


def _memory() -> Sequence[_Sample]:
    """Return what Linux says; nothing elsewhere."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return [("", int(file.read().split()[1]) * resource.getpagesize())]
    except (OSError, ValueError):
        return []


def _descriptors() -> Sequence[_Sample]:
    try:
        return [("", len(os.listdir("/dev/fd")))]
    except OSError:
        return []
