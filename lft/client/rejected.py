"""Rejections: which error each REJECTED of the server is."""

from __future__ import annotations

import re

import config
from lft.terminal import printable
from protocol import (
    DIGEST_SIZES,
    EARLIER,
    ConnectionLostError,
    Message,
    Rejected,
    RejectedError,
    RemoteProtocolError,
    SentAwayError,
)

PASSING = ("shutdown", "timeout", "taken", "busy")  # rejections that do not last ...
ELSEWHERE = ("shutdown", "busy")  # ... and those of a server that has no room for us


class EarlierAttemptError(RejectedError):
    """The server has an earlier attempt: blocks of ``block_size`` bytes, proven by ``digest``."""

    def __init__(self, reason: str) -> None:
        """Raise ``RemoteProtocolError`` for a reason that does not say these two."""
        super().__init__(EARLIER, f"there is an earlier attempt ({printable(reason)})")
        said = re.fullmatch("([0-9]{4,8}) ([a-z0-9]+)", reason)
        self.block_size, self.digest = (int(said[1]), said[2]) if said else (0, "")
        fits = config.MIN_BLOCK_SIZE <= self.block_size <= config.MAX_BLOCK_SIZE
        if not fits or self.digest not in DIGEST_SIZES:
            raise RemoteProtocolError("the server names an earlier attempt that there cannot be")

    def is_weaker(self, digest: str) -> bool:
        """Return whether ``digest`` proves more than the earlier attempt would."""
        return DIGEST_SIZES[self.digest] < DIGEST_SIZES[digest]


class StaleError(ConnectionLostError):
    """What the server has under the name of a file turns out to be another one."""


class BusyError(SentAwayError):
    """The server has too many files just now."""


def raise_rejected(name: str, message: Message) -> None:
    """Raise what a REJECTED says of the file ``name``; any other message passes."""
    if isinstance(message, Rejected) and message.code == EARLIER:
        raise EarlierAttemptError(message.reason)
    if isinstance(message, Rejected) and message.code == "busy":
        raise BusyError(f"{name}: {printable(message.reason)}")
    if isinstance(message, Rejected) and message.code in ELSEWHERE:
        raise SentAwayError(f"{name}: {printable(message.reason)}")
    if isinstance(message, Rejected) and message.code == "stale":
        raise StaleError(f"{name}: {printable(message.reason)}")
    if isinstance(message, Rejected) and message.code in PASSING:
        raise ConnectionLostError(f"{name}: {printable(message.reason)}")
    if isinstance(message, Rejected):
        raise RejectedError(message.code, f"{name}: rejected: {printable(message.reason)}")
