"""The bottleneck: what the time of a file went into, and which option might help."""

from __future__ import annotations

import time
from typing import Collection

import config
from config import ClientSettings
from lft.clock import Pauses, WakingClock
from protocol import IntegrityOk

SOURCE, HASHING, LIMIT, NETWORK = "source disk", "hashing", "limit", "network"
SERVER, SERVER_DISK, SERVER_HASHING = "server", "server disk", "server hashing"
SERVER_LIMIT, SUSPENDED = "server limit", "suspended"
_ADVICE = {
    SOURCE: "reading the file here",
    HASHING: "hashing here",
    LIMIT: "--limit",
    NETWORK: "the network",
    SERVER: "the server, which took the data slowly",
    SERVER_DISK: "the server's disk",
    SERVER_HASHING: "hashing on the server",
    SERVER_LIMIT: "the server's limit for you",
    SUSPENDED: "this client itself, which was suspended",
}


def advice(bottleneck: str, settings: ClientSettings, given: Collection[str] = ()) -> str:
    """Say what the time went into, and which option might help.

    ``given`` has the options of the command line: what the user chose is not advised against.
    """
    options = []
    if bottleneck in (HASHING, SERVER_HASHING) and settings.digest == "md5":
        options.append("--digest sha256")
    if bottleneck == NETWORK and settings.streams is not None:
        options.append("--streams auto")
    if bottleneck in (NETWORK, SERVER_LIMIT, LIMIT) and not settings.compress:
        options.append("--compress")
    options = [option for option in options if option.split()[0] not in given]
    if not bottleneck or (bottleneck == LIMIT and not options):
        return ""  # the user knows the limit
    hint = f" ({' or '.join(options)} may be faster)" if options else ""
    return f"; held up by {_ADVICE[bottleneck]}{hint}"


class Spent:
    """What the time of one file went into, in seconds.

    What the reader notes is its own, ``paced`` belongs to the upload's lock, the clock is main's;
    the rest is known only when the verdict has come.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._clock = WakingClock()
        self._reading_since: float | None = None  # from the source; any thread may look
        self._reading = self._hashing = 0.0
        self._hung = 0.0  # in calls to read that took very long
        self.paced = Pauses()  # of the senders, by our own limit

    def note_turn(self) -> None:
        """Note that the main loop has its turn, as it does ten times a second (main)."""
        self._clock.read()

    def begin_read(self) -> None:
        """Note that a call to read begins (the reader)."""
        self._reading_since = time.monotonic()

    def end_read(self) -> None:
        """Note that it ended, and that hashing begins (the reader)."""
        began, self._reading_since = self._reading_since, None
        took = time.monotonic() - (began or 0.0)
        if took < config.SUSPENDED:
            self._reading += took
        else:
            self._hung += took

    def note_hashed(self, seconds: float) -> None:
        """Note how long a block took (the reader): with seconds for it, the process was stopped."""
        self._hashing += seconds if seconds < config.SUSPENDED else 0.0

    @property
    def read_hangs(self) -> bool:
        """Whether a call to read takes very long now (main)."""
        since = self._reading_since
        return since is not None and time.monotonic() - since > config.SUSPENDED

    def bottleneck(
        self, verdict: IntegrityOk, waits: tuple[float, float], *, loopback: bool = False
    ) -> str:
        """Name what the rest waited for most; "" for a short time, or where that is not known.

        ``waits`` has the seconds that data was under way, and those without room on the server;
        ``loopback`` says that there is no network.
        """
        slept = self._clock.slept
        whole = time.monotonic() - self._began
        total = whole - slept
        if whole < config.NAMEABLE:
            return ""
        if slept > whole * config.MOSTLY:
            return SUSPENDED
        reading = self._reading + max(0.0, self._hung - slept)
        if reading + self._hashing > total * config.MOSTLY:
            return SOURCE if reading > self._hashing else HASHING
        busy, no_room = waits
        under_way = busy > total * config.MOSTLY
        shares = (
            (LIMIT, self.paced.seconds / total),
            (SERVER_LIMIT, verdict.limited / 1000 / total),
            (SERVER_DISK, verdict.disk / 1000 / total),
            (SERVER_HASHING, verdict.hashing / 1000 / total),
            (SERVER, no_room / busy if under_way else 0.0),
            (NETWORK, float(under_way and not loopback)),
        )
        return next((name for name, share in shares if share > config.MOSTLY), "")
