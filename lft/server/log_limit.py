"""How much of the log each user, and each network of strangers, may fill."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from typing import Iterator

import config
from lft.terminal import SUCCESS, printable

_thread = threading.local()  # .owner: the one that this thread works for


@contextlib.contextmanager
def speaking_for(owner: str) -> Iterator[None]:
    """Let what this thread logs meanwhile count for ``owner`` (any); "" is the server itself."""
    before, _thread.owner = getattr(_thread, "owner", ""), owner
    try:
        yield
    finally:
        _thread.owner = before


class _Share:
    """What one owner has used of its share."""

    def __init__(self) -> None:
        self.used_until = 0.0  # the instant up to which the rate is used up
        self.left_out = 0  # lines, of which the log has not told


class LogLimit:
    """Counts the bytes of log that each owner causes, and leaves out what is too much.

    A client can have a line written for each message, and a hundred thousand in a minute. What was
    saved is always logged, and so is what the server says of itself, and what the level DEBUG adds.
    Any thread may call any method. The lock protects all attributes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shares: OrderedDict[str, _Share] = OrderedDict()  # the one that spoke last comes last
        self._forgotten = 0  # lines left out of owners that are not remembered any more

    def lets(self, record: logging.LogRecord) -> bool:
        """Return whether ``record`` may be logged; otherwise it is counted."""
        owner = getattr(_thread, "owner", "")
        saved = getattr(record, "sign", None) == SUCCESS["sign"]
        if not owner or saved or record.levelno < logging.INFO:
            return True
        size, now = len(printable(record.getMessage())) + config.LOG_LINE, time.monotonic()
        with self._lock:
            share = self._share_of(owner)
            share.used_until = max(share.used_until, now - config.LOG_BURST / config.LOG_RATE)
            fits = share.used_until < now
            share.used_until += size / config.LOG_RATE if fits else 0.0
            share.left_out += not fits
            return fits

    def _share_of(self, owner: str) -> _Share:
        share = self._shares.setdefault(owner, _Share())
        self._shares.move_to_end(owner)
        if len(self._shares) > config.LOG_OWNERS:
            self._forgotten += self._shares.popitem(last=False)[1].left_out
        return share

    def take_left_out(self) -> list[tuple[str, int]]:
        """Return whose lines were left out since the last call, and how many."""
        with self._lock:
            counts = [(owner, share.left_out) for owner, share in self._shares.items()]
            counts.append(("others", self._forgotten))
            self._forgotten = 0
            for share in self._shares.values():
                share.left_out = 0
        return [(owner, number) for owner, number in counts if number]
