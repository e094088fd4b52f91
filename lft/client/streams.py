"""Streams: the senders of a session, and how many of them work."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Sequence

import config
from lft.client.link import Link
from lft.client.sender import Sender
from lft.client.upload import Block, Upload
from protocol import ConnectionLostError

block_log = logging.getLogger("block")
log = logging.getLogger("client")


class Climber:
    """Looks for the number of streams that carries the most, by acknowledged bytes alone.

    More are tried for as long as they pay; later, now and then, some more or some fewer. Knows no
    socket and no clock: instants come in seconds, of any clock.
    """

    def __init__(
        self, first: int, most: int, period: float, full: Callable[[], bool] = lambda: False
    ) -> None:
        """Start with ``first`` streams; measure for ``period`` seconds between two changes.

        ``full`` says whether a queue on the link shows that it carries no more.
        """
        self.count = first
        self._full = full
        self._most = most
        self._period = period
        self.measured_since = 0.0
        self._before: tuple[int, float] | None = None  # streams and goodput before the trial
        self._up = True  # the direction of the trial that runs or comes next
        self._steep = True  # double until it does not pay
        self._hold_until = 0.0
        self._last = self._rested = 0.0  # goodput: of the last period, and before the last turn
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Measure anew from ``now`` on."""
        self.measured_since, self._bytes = now, 0

    def climb(self, now: float, carried: int) -> int:
        """Take the bytes acknowledged since the last call; return the streams to use."""
        elapsed = now - self.measured_since
        self._bytes += carried if elapsed > 0 else 0
        if elapsed >= self._period * (1 if self._steep else config.STREAM_CARE) and self._bytes:
            goodput = self._bytes / elapsed
            self.begin(now)
            self._judge(goodput, now)
        return self.count

    def _judge(self, goodput: float, now: float) -> None:
        steady, self._last = goodput < self._last * config.STREAM_GAIN, goodput
        if self._before is None:
            if goodput < self._rested * config.STREAM_DROP:  # the link is not what it was
                self._up, self._steep, self._hold_until = True, True, now
            if steady and now >= self._hold_until and not (self._up and self._full()):
                self._try(goodput, now)  # not steady: the streams in use still speed up
            return
        (count, before), self._before = self._before, None
        if goodput >= before * (config.STREAM_GAIN if self._up else 1):
            self._try(goodput, now)
        else:
            self.count, self._rested = count, before
            self._turn(now)

    def _try(self, goodput: float, now: float) -> None:
        """Go one step further in the same direction, or turn at the end."""
        step = self.count if self._steep else max(1, self.count // (2 if self._up else 4))
        count = max(1, min(self._most, self.count + (step if self._up else -step)))
        if count == self.count:
            self._turn(now)
            return
        self._before, self.count = (self.count, goodput), count
        self.begin(now + self._period)  # blocks under way are no part of the trial

    def _turn(self, now: float) -> None:
        self._up, self._steep = not self._up, False
        self._hold_until = now + config.STREAM_HOLD


class Streams:
    """The senders of a session: those that work, and how many should. Main's own."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.most = link.settings.streams or config.AUTO_STREAMS
        self._pool = ThreadPoolExecutor(self.most, thread_name_prefix="sender")
        self._senders: list[Sender] = []
        self._futures: list[Future[None]] = []
        self._climber: Climber | None = None
        self._climbed = 0  # streams that the climber wanted last
        self._carried = 0  # bytes of files that had been carried then

    def start(self) -> None:
        """Begin with as many as the settings and the link suggest."""
        first, far = self._link.settings.streams, self._link.far
        if first is None:
            first = config.FAR_STREAMS if far else config.STREAMS
            period = max(config.STREAM_PERIOD, config.STREAM_TRIPS * self._link.round_trip)
            self._climber = Climber(first, self.most + far, period, self._full)  # far: see _use
        self._use(first)

    def _use(self, count: int) -> None:
        """Use ``count`` streams; one more than the most means all of them, and another TCP."""
        self._climbed = count
        chosen = self._link.far and (count > self.most or self._climber is None)
        self._link.wanted_congestion = self._link.settings.congestion if chosen else ""
        self._link.streams = min(count, self.most)
        while len(self._senders) < self._link.streams:
            sender = Sender(self._link, len(self._senders))
            self._senders.append(sender)
            self._futures.append(self._pool.submit(sender.run))
        for sender in self._senders:
            sender.wake()

    def begin(self, carried: int) -> None:
        """Begin a file while no other is under way: measure anew, let senders drop what is left.

        ``carried`` are the bytes of files that the session has brought to the server so far.
        """
        for sender in self._senders:
            sender.wake()
        self._carried = carried
        if self._climber:
            self._climber.begin(time.monotonic())

    def adapt(self, carried: int) -> None:
        """Use more or fewer streams where that may pay; ``carried`` as for ``begin``."""
        if self._climber:
            count = self._climber.climb(time.monotonic(), max(0, carried - self._carried))
            if count != self._climbed:
                self._use(count)
                congestion = self._link.wanted_congestion or "as usual"
                log.debug("data connections: %d (%s)", self._link.streams, congestion)
        self._carried = carried

    def help(self, uploads: Sequence[Upload]) -> None:
        """Send the last blocks that lag on another stream, too: it has nothing else to send."""
        free = [sender for sender in self._senders[: self._link.streams] if sender.free]
        hasty = self._link.far and not self._full()
        for upload in uploads:
            for block in upload.resend_late(len(free), hasty=hasty):
                block_log.debug("block %d lags: another stream sends it, too", block)
                free.pop().hand(Block(upload, block))

    def _full(self) -> bool:
        """Whether a queue stands on a far link: another stream would only wait in it, too."""
        waits = sorted(sender.queueing for sender in self._senders[: self._link.streams])
        return self._link.far and waits[len(waits) // 2] > config.FULL

    def waits(self) -> tuple[float, float]:
        """Return for how many seconds data was under way, and the server had no room for more.

        Of all files together, as far as the connections that there are now were used.
        """
        waits = [sender.waits for sender in self._senders]
        return sum(busy for busy, _ in waits), sum(no_room for _, no_room in waits)

    def check(self) -> None:
        """Raise the error that a sender ended with."""
        for future in self._futures:
            if future.done():
                future.result()
                raise ConnectionLostError("a sender has ended")

    def stop(self) -> None:
        """Break off what the senders wait for, once the session is ending."""
        for sender in self._senders:
            sender.stop()

    def close(self) -> None:
        """Wait for the end of the senders and release them."""
        self._pool.shutdown(wait=True)
        for sender in self._senders:
            sender.close()
