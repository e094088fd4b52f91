"""Patience: how long a file may stand still, and how long a lost session is tried again."""

from __future__ import annotations

import logging
import threading
import time

import config
from config import ClientSettings
from lft.addresses import HopelessError, NoNameServiceError
from lft.client.interrupt import CancelledError
from lft.client.servers import Servers
from lft.clock import Backoff, Deadline, WakingClock
from protocol import ConnectionLostError, SilenceError

log = logging.getLogger("client")


class Course:
    """How one file fares in all sessions of this run. Main's own."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began: float | None = None  # when its first attempt did
        self._acknowledged = self._verified = 0  # bytes, the most of all sessions
        self.sent_bytes = self.wire_bytes = 0  # of the sessions that have ended
        self.there: int | None = None  # bytes that the server had before the first of them
        self.unfinished = ""  # the file's name, once the server may keep a part of it
        self.skips = patience.skips  # whether what the server has under this name may do

    def begin_attempt(self) -> None:
        """Note that an attempt to send the file begins, the first one or another."""
        self._began = self._began or time.monotonic()

    def note_begun(self, name: str) -> None:
        """Note that the server may keep the file ``name`` from now on; "" for none."""
        self.unfinished = name

    def note_there(self, there: int) -> None:
        """Note how many bytes the server has of the file, at the beginning of a session."""
        if self.there is None:
            self.there = there

    def note_progress(self, acknowledged: int, verified: int) -> None:
        """Note how many bytes of the file the server has, and how many it has verified."""
        further = acknowledged > self._acknowledged or verified > self._verified
        self._acknowledged = max(acknowledged, self._acknowledged)
        self._verified = max(verified, self._verified)
        self._patience.note_progress(further=further)

    def stop_skipping(self) -> None:
        """Note that what the server has under this name is another file: nothing is there."""
        self.skips = False
        self.there = None
        self._acknowledged = self._verified = 0

    def note_sent(self, sent_bytes: int, wire_bytes: int) -> None:
        """Note what a session that ends brought of the file, and the payload that it sent."""
        self.sent_bytes += sent_bytes
        self.wire_bytes += wire_bytes

    @property
    def seconds(self) -> float:
        """The seconds since the first attempt to send the file began."""
        return time.monotonic() - self._began if self._began else 0.0

    @property
    def achieved(self) -> bool:
        """Whether an earlier session brought a part of this file to the server."""
        return self._acknowledged > 0


class Patience:
    """How long to try again, and how the files under way fared so far. Main's own.

    A server that cannot be reached at the start is tried for ``timeout``. Once a session stood, a
    lost one is replaced for ``PATIENCE`` times as long after the last progress, but by no more than
    ``RETRY_MOST`` sessions that got no further than an earlier one.
    """

    def __init__(self, settings: ClientSettings, cancel: threading.Event | None = None) -> None:
        """``cancel`` ends all patience: it is set by another thread, to stop the transfer."""
        self.servers = Servers()  # which of them is tried first
        self._timeout = settings.timeout
        self.skips = settings.if_exists == "skip"
        self._cancel = cancel
        self._deadline = Deadline(settings.timeout)
        self._names = Deadline(min(config.NAME_PATIENCE, settings.timeout))
        self._backoff = Backoff(config.RETRY_FIRST, config.RETRY_LONGEST)
        self._stood = False
        self._moved_at = 0.0  # when the server was there, or a file got on
        self._clock: WakingClock | None = None  # of the session that stands
        self._told = ""  # the reason that was logged last
        self._fruitless = 0  # sessions in a row that brought no file further
        self._courses: dict[int, Course] = {}  # of the files that have been begun, by their index

    def course(self, index: int) -> Course:
        """Return how the file of this index fares, which is to be sent now."""
        return self._courses.setdefault(index, Course(self))

    def end_file(self, index: int) -> None:
        """Note that the fate of a file is known; the patience for the others begins anew."""
        self._courses.pop(index, None)
        self._fruitless = 0
        self._deadline.put_off()

    @property
    def unfinished(self) -> str:
        """The name of the first file of which the server may keep a part; "" where none is."""
        begun = sorted(self._courses.items())
        return next((course.unfinished for _, course in begun if course.unfinished), "")

    def note_session(self) -> None:
        """Note that a session stands: the server was reached."""
        self.servers.note_session()
        self._told = ""
        self._clock = WakingClock()
        self._moved_at = time.monotonic()
        self._fruitless += 1
        if not self._stood:
            self._stood = True
            self._deadline = Deadline(config.PATIENCE * self._timeout)

    def note_progress(self, *, further: bool = False) -> None:
        """Note that the server is there, or that a file got ``further`` than ever before."""
        self._put_off()
        if further:
            self._fruitless = -1  # this session got further
            self._backoff.reset()

    def _put_off(self) -> None:
        self._deadline.put_off()
        self._moved_at = time.monotonic()

    def check(self) -> None:
        """Raise ``CancelledError`` once the transfer is to be stopped.

        Called several times a second while a session stands: time in which this process was
        suspended is no time without progress.
        """
        if self._clock and self._clock.note_waking():
            self._put_off()
        if self._cancel and self._cancel.is_set():
            raise CancelledError("cancelled")

    def check_server(self, silent_at: float) -> None:
        """Raise ``SilenceError`` once another server had better take over.

        A machine that loses its power says nothing, so its connections stand for ever. Where a name
        has one address alone they are waited for: its network may come back. ``silent_at`` is when
        a data connection was given up last because the server was silent.
        """
        quiet = time.monotonic() - self._moved_at >= self._timeout
        if self.servers.others and quiet and silent_at > self._moved_at:
            raise SilenceError(f"no sign of the server for {self._timeout:g} s")

    def left(self) -> float:
        """Return the seconds left for one attempt to connect."""
        least = 5.0 if self._stood else 0.1  # the last attempt should be a fair one
        return min(self._timeout, max(least, self._deadline.left()))

    def wait(self, error: ConnectionLostError) -> None:
        """Pause before the next attempt, or raise ``error`` if there should be none."""
        self.check()
        self.servers.note_lost(error)
        self._clock = None  # what follows may take longer, without a look at the clock
        deadline = self._deadline
        if isinstance(error, NoNameServiceError) and not self._stood:
            deadline = self._names
        hopeless = isinstance(error, HopelessError) and not self._stood
        if hopeless or deadline.passed or self._fruitless > config.RETRY_MOST:
            error.unfinished = self.unfinished
            raise error
        pause = min(self._backoff.next_pause(), deadline.left())
        if str(error) != self._told:
            self._told = str(error)
            reason = self._told.partition("; ")[0]  # advice is for the end
            log.warning("%s: trying again, for %.0f s", reason, deadline.left())
        if self._cancel:
            self._cancel.wait(pause)
        else:
            time.sleep(pause)
        self.check()


def way_on(unfinished: str, settings: ClientSettings, files: int) -> str:
    """Say how the file ``unfinished``, one of ``files`` given, can go on; "" where nothing began.

    With several files it is not the same command: those that have arrived would be sent again.
    """
    if not unfinished:
        return ""
    without = "" if settings.resume else " without --no-resume"
    if files > 1:
        return f"; {unfinished} goes on where it stopped when it is sent again{without}"
    return f"; the same command{without} goes on where this one stopped"


class Watch:
    """Notices when a file under way stands still; begins anew in each session. Main's own."""

    def __init__(self, timeout: float, entries: int = 0) -> None:
        """``entries`` are those of a directory, which the server finishes one by one."""
        # long: senders reconnect meanwhile
        self._progress = Deadline(config.PATIENCE * timeout + config.ENTRY_PATIENCE * entries)
        self._sign = Deadline(timeout)  # of the server, while everything else waits for it
        self._clock = WakingClock()
        self.acknowledged = 0  # bytes
        self.verified = 0  # bytes that the server has hashed

    def note_sign(self) -> None:
        """Note that the server said something, or that it is not its turn."""
        self._sign.put_off()

    def note_waiting(self) -> None:
        """Note that the source has nothing to send just now, which may last."""
        self._progress.put_off()

    def note(self, acknowledged: int, verified: int) -> bool:
        """Note how far the file is, as was said last; return whether that is news.

        After a time in which this process was suspended, all begins anew.
        """
        if self._clock.note_waking():
            self._progress.put_off()
            self._sign.put_off()
        before = self.acknowledged, self.verified
        self.acknowledged, self.verified = acknowledged, max(verified, self.verified)
        moved = before != (self.acknowledged, self.verified)
        if moved:
            self._progress.put_off()
        return moved

    @property
    def stalled(self) -> bool:
        return self._progress.passed or self._sign.passed
