"""How many senders work."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Callable

import config
from lft.client.sender import Sender
from lft.client.upload import Block, Upload
from protocol import ConnectionLostError

if TYPE_CHECKING:
    from client import Session

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

        ``full`` says whether the link cannot carry more, as far as one can see that without trying.
        """
        self.count = first
        self._full = full
        self._most = most
        self._period = period
        self.measured_since = 0.0
        self._before: tuple[int, float] | None = None  # streams and goodput before the trial
        self._up = True  # the way of the trial that runs or comes next
        self._steep = True  # double until it does not pay
        self._hold_until = 0.0
        self._last = self._rested = 0.0  # goodput: of the last period, and before the last turn
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Measure anew from ``now`` on."""
        self.measured_since, self._bytes = now, 0

    def look(self, now: float, carried: int) -> int:
        """Take the bytes that were acknowledged since the last look; return the streams to use."""
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
                self._try(goodput, now)  # not steady: those there are still get going
            return
        (count, before), self._before = self._before, None
        if goodput >= before * (config.STREAM_GAIN if self._up else 1):
            self._try(goodput, now)
        else:
            self.count, self._rested = count, before
            self._turn(now)

    def _try(self, goodput: float, now: float) -> None:
        """Go one step further the same way, or turn where there is no further."""
        step = self.count if self._steep else max(1, self.count // (2 if self._up else 4))
        count = max(1, min(self._most, self.count + (step if self._up else -step)))
        if count == self.count:
            self._turn(now)
            return
        self._before, self.count = (self.count, goodput), count
        self.begin(now + self._period)  # what was under way is no part of the trial

    def _turn(self, now: float) -> None:
        self._up, self._steep = not self._up, False
        self._hold_until = now + config.STREAM_HOLD


class Streams:
    """The senders of a session: those that work, and how many should. Main's own.

    Senders read ``count`` and ``congestion`` without a lock: who reads them late sends one block
    more in the old way.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.most = session.settings.streams or config.AUTO_STREAMS
        self.count = 0  # senders with a lower number may send
        self.congestion = ""  # what TCP shall go by; "" is the system's own choice
        self._pool = ThreadPoolExecutor(self.most, thread_name_prefix="sender")
        self._senders: list[Sender] = []
        self._futures: list[Future[None]] = []
        self._climber: Climber | None = None
        self._climbed = 0  # where the climber was at the last look
        self._carried = 0  # bytes of the file, at the last look

    def start(self) -> None:
        """Begin with as many as the settings and the link suggest."""
        first, far = self._session.settings.streams, self._session.far
        if first is None:
            first = config.FAR_STREAMS if far else config.STREAMS
            period = max(config.STREAM_PERIOD, config.STREAM_TRIPS * self._session.round_trip)
            self._climber = Climber(first, self.most + far, period, self._full)  # far: see _use
        self._use(first)

    def _use(self, count: int) -> None:
        """Use ``count`` streams; one more than the most means all of them, and another TCP."""
        self._climbed = count
        chosen = self._session.far and (count > self.most or self._climber is None)
        self.congestion = self._session.settings.congestion if chosen else ""
        self.count = min(count, self.most)
        while len(self._senders) < self.count:
            sender = Sender(self._session, len(self._senders))
            self._senders.append(sender)
            self._futures.append(self._pool.submit(sender.run))
        for sender in self._senders:
            sender.wake()

    def begin(self) -> None:
        """A file begins: what was before says nothing, and who still lags with it shall not."""
        for sender in self._senders:
            sender.wake()
        self._carried = 0
        if self._climber:
            self._climber.begin(time.monotonic())

    def look(self, upload: Upload) -> None:
        """Change the number where that may pay; help blocks that lag at the end."""
        carried = upload.carried
        if self._climber:
            count = self._climber.look(time.monotonic(), max(0, carried - self._carried))
            if count != self._climbed:
                self._use(count)
                log.debug("data connections: %d (%s)", self.count, self.congestion or "as usual")
        self._carried = carried
        if upload.read:
            self._help(upload)

    def _help(self, upload: Upload) -> None:
        """Send the last blocks that lag another way, too: there is nothing else to send."""
        free = [sender for sender in self._senders[: self.count] if sender.free]
        hasty = self._session.far and not self._full()
        for sender, block in zip(free, upload.late(len(free), hasty=hasty)):
            block_log.debug("block %d lags: it goes another way, too", block)
            sender.hand(Block(upload, block))

    def _full(self) -> bool:
        """Whether what is sent waits on a far link, so that more of it would only wait longer."""
        connections = [sender.connection for sender in self._senders[: self.count]]
        waits = sorted(one.tcp.queueing if one else 1.0 for one in connections)
        return self._session.far and waits[len(waits) // 2] > config.FULL

    def waits(self) -> tuple[float, float]:
        """Return how long data was under way, and how much of that the server had no room."""
        waits = [sender.connection.tcp.waits for sender in self._senders if sender.connection]
        return sum(busy for busy, _ in waits), sum(no_room for _, no_room in waits)

    def check(self) -> None:
        """Raise what a sender ended with."""
        for future in self._futures:
            if future.done():
                future.result()
                raise ConnectionLostError("a sender has ended")

    def stop(self) -> None:
        """End whatever they wait for, once the session is ending."""
        for sender in self._senders:
            sender.stop()

    def close(self) -> None:
        """Wait for their end and release them."""
        self._pool.shutdown(wait=True)
        for sender in self._senders:
            sender.close()
