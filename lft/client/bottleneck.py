"""The bottleneck: what the time of a file went into, and which option might help."""

from __future__ import annotations

import time
from typing import Collection

import config
from config import ClientSettings
from lft.clock import Pauses
from protocol import IntegrityOk

SOURCE, HASHING, LIMIT, NETWORK = "source disk", "hashing", "limit", "network"
SERVER, SERVER_DISK, SERVER_HASHING = "server", "server disk", "server hashing"
SERVER_LIMIT = "server limit"
_ADVICE = {
    SOURCE: "reading the file here",
    HASHING: "hashing here",
    LIMIT: "the limit of --limit",
    NETWORK: "the network",
    SERVER: "the server, which has others to serve or is slow",
    SERVER_DISK: "the server's disk",
    SERVER_HASHING: "hashing on the server",
    SERVER_LIMIT: "the server's limit for you",
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
    hint = f" ({' or '.join(options)} may be faster)" if options else ""
    return f"; held up by {_ADVICE[bottleneck]}{hint}" if bottleneck else ""


class Spent:
    """What the time of one file went into, in seconds.

    ``reading`` and ``hashing`` are the reader's own, ``paced`` belongs to the upload's lock; the
    rest is known only when the verdict has come.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.reading = 0.0  # from the source
        self.hashing = 0.0
        self.paced = Pauses()  # of the senders, by our own limit

    def bottleneck(self, verdict: IntegrityOk, waits: tuple[float, float]) -> str:
        """Name what the rest waited for most; "" for a short time.

        ``waits`` has the seconds that data was under way, and those without room on the server.
        """
        total = time.monotonic() - self.began
        if total < config.NAMEABLE:
            return ""
        if self.reading + self.hashing > total * config.MOSTLY:
            return SOURCE if self.reading > self.hashing else HASHING
        busy, no_room = waits
        shares = (
            (LIMIT, self.paced.seconds / total),
            (SERVER_LIMIT, verdict.limited / 1000 / total),
            (SERVER_DISK, verdict.disk / 1000 / total),
            (SERVER_HASHING, verdict.hashing / 1000 / total),
            (SERVER, no_room / busy if busy else 0.0),
        )
        return next((name for name, share in shares if share > config.MOSTLY), NETWORK)
