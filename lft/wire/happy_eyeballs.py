"""Connecting to whichever address of a host answers first (RFC 8305, "Happy Eyeballs" 2)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import select
from collections import deque
from typing import Iterable, Sequence

import config
from lft.addresses import Address
from lft.clock import Deadline
from lft.wire.sockets import NO_WAY, Socket, begin_to_connect, check_connected


def open_first(
    addresses: Sequence[Address], timeout: float, delay: float = config.ATTEMPT_DELAY
) -> Socket:
    """Connect to the address that answers first, within ``timeout`` seconds. Blocks.

    Each next attempt begins ``delay`` seconds after the one before, or as soon as that has failed;
    they all go on until one succeeds. Raises the most telling ``OSError`` of all attempts.
    """
    deadline = Deadline(timeout)
    with contextlib.closing(_Race(interleave(addresses))) as race:
        while race.is_on and not deadline.passed:
            race.begin_next()
            winner = race.wait(min(delay, deadline.left()) if race.has_more else deadline.left())
            if winner:
                return winner
        raise race.problem()


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses with their families in turn, the first one's first (section 4).

    So a family that leads nowhere does not come before all addresses of the other one.
    """
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    rounds = itertools.zip_longest(*families.values())
    return [address for turn in rounds for address in turn if address]


class _Race:
    """Attempts to connect, several at a time; the first that succeeds wins. One thread's own."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._waiting = deque(addresses)
        self._running: dict[int, Socket] = {}  # by descriptor
        self._poll = select.poll()
        self._errors: list[OSError] = []

    @property
    def has_more(self) -> bool:
        """Whether there are addresses that have not been tried."""
        return bool(self._waiting)

    @property
    def is_on(self) -> bool:
        return bool(self._waiting or self._running)

    def begin_next(self) -> None:
        """Begin the next attempt; of those that fail at once, the one after them, too."""
        while self._waiting:
            try:
                sock = begin_to_connect(*self._waiting.popleft())
            except OSError as error:
                self._errors.append(error)
            else:
                self._running[sock.fileno()] = sock
                self._poll.register(sock, select.POLLOUT)
                return

    def wait(self, seconds: float) -> Socket | None:
        """Wait until an attempt ends, for ``seconds`` at most; return the socket of one that won.

        The caller owns that socket.
        """
        for descriptor, _ in self._poll.poll(math.ceil(seconds * 1000)) if self._running else ():
            sock = self._running.pop(descriptor)
            self._poll.unregister(descriptor)
            try:
                check_connected(sock)
            except OSError as error:
                sock.close()
                self._errors.append(error)
            else:
                return sock
        return None

    def problem(self) -> OSError:
        """Return the error that says most: that of a server rather than that of a missing way."""
        if self._running:
            return OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        telling = [error for error in self._errors if error.errno not in NO_WAY]
        return (telling or self._errors or [OSError(0, "no address")])[-1]

    def close(self) -> None:
        """Give up the attempts that still go on."""
        for sock in self._running.values():
            sock.close()
