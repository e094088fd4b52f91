"""The delay that password guessing costs."""

from __future__ import annotations

import hashlib
import math
import secrets
import struct
import threading
import time
from array import array
from typing import Callable

import config
from lft.addresses import network_of

_ROWS = struct.Struct("=4I")


class _Failures:
    """Failed attempts by key, and the delay they cost. They fade: each minute leaves half of them.

    A count-min sketch: each key has one counter in each of four rows, chosen by a secret hash, and
    its failures are the least of the four. So memory is fixed, and a flood of made-up keys cannot
    push a real one out, as it could out of a table that drops its oldest entries. It can only add
    to the failures of a key, where it happens to hit all four of its counters.
    """

    def __init__(self, free: int, longest: float, width: int, at_once: float = math.inf) -> None:
        self._free, self._longest, self._at_once = free, longest, at_once
        self._width = width  # of a row
        self._secret = secrets.token_bytes(16)
        zeros = bytes(8 * 4 * width)
        self._counts = array("d", zeros)
        self._counted_at = array("d", zeros)
        self._busy_until = array("d", zeros)  # instants until which those that wait fill all places

    def add(self, key: str, now: float) -> float:
        """Count a failure; return the delay that earlier ones cost, infinity if too many wait."""
        places = self._places(key)
        before = self._fade(places, now)
        delay = self._delay(before)
        busy_until = max(now, min(self._busy_until[at] for at in places)) + delay / self._at_once
        if busy_until > now + self._longest:
            delay = math.inf  # and takes no place: else a guesser keeps the user out for ever
        for at in places:
            self._counts[at] = max(self._counts[at], before + 1)
            if delay < math.inf:
                self._busy_until[at] = max(self._busy_until[at], busy_until)
        return delay

    def forgive(self, key: str, now: float, most: float = math.inf) -> float:
        """Take up to ``most`` failures back; return their number."""
        places = self._places(key)
        before = self._fade(places, now)
        number = min(before, most)
        for at in places:
            if self._counts[at] == before:  # otherwise it counts another key as well
                self._counts[at] -= number
                self._busy_until[at] = now
        return number

    def _places(self, key: str) -> list[int]:
        """Return where the counters of ``key`` stand."""
        data = key.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=_ROWS.size, key=self._secret).digest()
        columns = _ROWS.unpack(digest)
        return [row * self._width + column % self._width for row, column in enumerate(columns)]

    def _fade(self, places: list[int], now: float) -> float:
        """Let these counters fade until now; return the least of them."""
        for at in places:
            age = now - self._counted_at[at]
            self._counts[at] *= 0.5 ** (age / config.FAILURES_HALVE_AFTER)
            self._counted_at[at] = now
        return min(self._counts[at] for at in places)

    def _delay(self, failures: float) -> float:
        over = round(failures) - self._free
        return min(self._longest, config.FIRST_DELAY * 2.0 ** min(over, 30)) if over >= 0 else 0.0


class LoginDelay:
    """How long an attempt to log in waits for its answer.

    Failures are counted for the user at this address, for the address, and for the user from
    anywhere; the longest of the three delays counts. The last two are short, however many failures
    there were, because others share them: neither a guesser elsewhere nor a neighbour with an old
    password keeps a right user out for longer than 2 s. Precedents: Dovecot's authentication
    penalty, which doubles up to 15 s, and OpenSSH's PerSourcePenalties; both go by address alone.

    An attempt counts as failed until ``succeeded`` says otherwise, so that many at the same time
    wait as long as one after the other. Only so many of one user from one address may wait
    together, or a thousand connections would make a thousand guesses in the time of one.
    Users that do not exist are counted like those that do. Any thread may use it.

    ``_lock`` guards the three tables; nothing but counting is done under it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, width: int = config.FAILURE_COUNTERS
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        longest, shared = config.LONGEST_DELAY, config.LONGEST_SHARED_DELAY
        self._pairs = _Failures(config.FREE_PAIR, longest, width, config.GUESSES_AT_ONCE)
        self._addresses = _Failures(config.FREE_ADDRESS, shared, width // 4)
        self._users = _Failures(config.FREE_ACCOUNT, shared, width // 4)

    def attempt(self, user: str, address: str) -> float:
        """Count an attempt; return the seconds to wait before it is answered, right or wrong.

        Infinity: refuse it without judging it.
        """
        network = network_of(address)
        with self._lock:
            now = self._clock()
            return max(
                self._pairs.add(f"{network} {user}", now),
                self._addresses.add(network, now),
                self._users.add(user, now),
            )

    def succeeded(self, user: str, address: str) -> None:
        """Forget this user's failures at this address; those elsewhere, and of others, stay."""
        network = network_of(address)
        with self._lock:
            now = self._clock()
            own = self._pairs.forgive(f"{network} {user}", now)
            self._addresses.forgive(network, now, own)
            self._users.forgive(user, now, own)
