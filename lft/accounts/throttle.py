"""The delay that password guessing costs."""

from __future__ import annotations

import hashlib
import math
import sys
import threading
import time
from collections import OrderedDict
from typing import Callable

import config
from lft.addresses import network_of


class _Failures:
    """Failed attempts by key, and the delay they cost. The longest untouched are dropped first.

    An entry is their number, when the last one was, and until when the delays fill the time of the
    ``at_once`` that may wait together.
    """

    def __init__(self, free: int, longest: float, capacity: int, at_once: float = math.inf) -> None:
        self._free, self._longest, self._capacity = free, longest, capacity
        self._at_once = at_once
        self._entries: OrderedDict[str, tuple[int, float, float]] = OrderedDict()

    def add(self, key: str, now: float) -> float:
        """Count a failure; return the seconds that those before it cost, infinity if too many."""
        before, last, busy = self._entries.pop(key, (0, now, now))
        if now - last >= config.FORGET_AFTER:
            before = 0
        over = min(before - self._free, 30)  # doubling has no use for more
        delay = min(self._longest, config.FIRST_DELAY * 2**over) if over >= 0 else 0.0
        longer = max(busy, now) + delay / self._at_once
        if longer <= now + self._longest:
            busy = longer
        else:  # it takes nobody's place, or who goes on would keep everybody out for ever
            delay = math.inf
        self._entries[key] = before + 1, now, busy
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return delay

    def remove(self, key: str, count: int) -> None:
        before, last, busy = self._entries.get(key, (0, 0.0, 0.0))
        if before > count:
            self._entries[key] = before - count, last, busy
        else:
            self._entries.pop(key, None)


class LoginDelay:
    """How long an attempt to log in waits for its answer.

    Failures are counted for the user at this address, for the address, and for the user from
    anywhere; the longest of the three delays counts. The last one is short, however many failures
    there were: an account that is locked, or as good as, is a way to keep its owner out. So the
    right user elsewhere gets in, 2 s later at most. Precedents: Dovecot's authentication penalty,
    which doubles up to 15 s, and OpenSSH's PerSourcePenalties; both go by address alone.

    An attempt counts as failed until ``succeeded`` says otherwise, so that many at the same time
    wait as long as one after the other. Only so many of one user from one address may wait
    together, or a thousand connections would make a thousand guesses in the time of one.
    Users that do not exist are counted like those that do. May be used by any thread.

    ``_lock`` guards the three tables; nothing but counting is done under it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, capacity: int = config.MAX_REMEMBERED
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pairs = _Failures(
            config.FREE_PAIR, config.LONGEST_DELAY, capacity, config.GUESSES_AT_ONCE
        )
        self._addresses = _Failures(config.FREE_ADDRESS, config.LONGEST_DELAY, capacity)
        self._users = _Failures(config.FREE_ACCOUNT, config.LONGEST_ACCOUNT_DELAY, capacity)

    def attempt(self, user: str, address: str) -> float:
        """Count an attempt; return the seconds to wait before it is answered, right or wrong.

        Infinity: it is not to be looked at.
        """
        now, (pair, network, name) = self._clock(), _keys(user, address)
        with self._lock:
            return max(
                self._pairs.add(pair, now),
                self._addresses.add(network, now),
                self._users.add(name, now),
            )

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of this user at this address; elsewhere, take the attempt back."""
        pair, network, name = _keys(user, address)
        with self._lock:
            self._pairs.remove(pair, sys.maxsize)
            self._addresses.remove(network, 1)
            self._users.remove(name, 1)


def _keys(user: str, address: str) -> tuple[str, str, str]:
    """Return what stands for this user there, for the address, and for the user anywhere."""
    # short, however long a name a guesser makes up
    name = hashlib.sha256(user.encode()).hexdigest()
    network = network_of(address)
    return f"{network} {name}", network, name
