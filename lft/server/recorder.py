"""The thread that writes the history, so that no transfer waits for it."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Sequence

import config
from lft.store.database import Database, set_aside
from lft.store.history import (
    RECEIVED,
    DamagedError,
    History,
    HistoryError,
    MissingModuleError,
    Outcome,
    database_name,
)
from lft.store.paths import PARTIAL

log = logging.getLogger("server")

_TOGETHER = 500  # entries that one write takes: some milliseconds for which others are locked out


class Recorder:
    """Writes what became of files into the history, behind the back of all other threads.

    The database may be locked, damaged, or on a disk that is full or dead: entries then wait, and
    those that do not fit are dropped and counted. The lock protects ``_waiting``, its ``_room`` and
    ``_dropped``; the database, what was told of, and what was written since the last pruning are
    the thread's.
    """

    def __init__(self, output: Path, server: str = "", *, shared: bool = False) -> None:
        """``server`` tells the servers apart that share ``output``."""
        self._output = output
        self._server = server
        self._shared = shared
        self.history = History(output)
        self._lock = threading.Lock()
        self._waiting: deque[Outcome] = deque()
        self._room = config.HISTORY_QUEUE  # for entries that wait; none once we have given up
        self._dropped = 0
        self._told = 0  # dropped entries of which the log has told
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._database: Database | None = None
        self._in_trouble = False
        self._unpruned = config.HISTORY_PRUNE_EVERY  # entries; an earlier run may have left some

    def start(self) -> None:
        """Begin. Raises ``RuntimeError`` where the system has no thread."""
        self._thread.start()

    def add(self, entry: Outcome) -> None:
        """Have an entry written soon (any)."""
        with self._lock:
            fits = len(self._waiting) < self._room
            if fits:
                self._waiting.append(entry)
            self._dropped += not fits
        self._bell.set()

    def published(self, user: str, name: str, limit: int = 10) -> list[Outcome]:
        """Return what was received of ``user`` under ``name``, the newest first (a worker).

        It reads from the disk what is not waiting to be written. The files may have been moved or
        removed since.
        """
        with self._lock:
            waiting = [one for one in self._waiting if (one.user, one.name) == (user, name)]
        found = {one.saved_as: one for one in reversed(waiting) if one.outcome == RECEIVED}
        try:
            for one in self.history.published(user, name, limit):
                found.setdefault(one.saved_as, one)
        except MissingModuleError:
            log.debug("the history cannot be read")
        return list(itertools.islice(found.values(), limit))

    def known(self, places: Sequence[str]) -> dict[str, Outcome]:
        """Return what was received under those of ``places`` that are known (a worker)."""
        wanted = set(places)
        with self._lock:
            waiting = {one.saved_as: one for one in self._waiting if one.saved_as in wanted}
        found: dict[str, Outcome] = {}
        try:
            found = self.history.known(places)
        except MissingModuleError:
            log.debug("the history cannot be read")
        return {**found, **{key: one for key, one in waiting.items() if one.outcome == RECEIVED}}

    def stop(self) -> None:
        """Write what waits, if that takes no longer than ``HISTORY_CLOSING`` seconds (main)."""
        self._stopping.set()
        self._bell.set()
        if self._thread.ident is not None:
            self._thread.join(config.HISTORY_CLOSING)
            if self._thread.is_alive():
                log.warning("the last entries of the history are not written: its disk hangs")

    # -- the history's thread

    def _run(self) -> None:
        """Write entries as they come, some together."""
        going_on = True
        while going_on:
            self._bell.wait()
            self._stopping.wait(config.HISTORY_GATHER)
            self._bell.clear()
            going_on = not self._stopping.is_set()
            if not self._write_safely() and going_on:
                self._stopping.wait(config.HISTORY_AGAIN)
                self._bell.set()
        if self._database:
            self._database.close()

    def _write_safely(self) -> bool:
        """Write all that waits; return whether it was written. Tell once of what is in the way."""
        try:
            self._write()
        except MissingModuleError as error:
            log.warning("there is no history: %s", error)
            self._give_up()
        except DamagedError as error:
            return self._set_aside(error)
        except HistoryError as error:
            self._tell("the history cannot be written: %s; its entries wait", error)
        except Exception:
            log.exception("internal error in the history")
            self._take(_TOGETHER)  # it might be one of these
        else:
            self._tell_of_end()
            return True
        return False

    def _write(self) -> None:
        while self._first():
            some, database = self._first(), self._open()
            database.add(some)
            self._take(len(some))
            self._unpruned += len(some)
        if self._database and self._unpruned >= config.HISTORY_PRUNE_EVERY:
            while self._database.prune(time.time()) and not self._stopping.is_set():
                pass
            self._unpruned = 0

    def _first(self) -> list[Outcome]:
        with self._lock:
            return list(itertools.islice(self._waiting, _TOGETHER))

    def _take(self, number: int) -> None:
        with self._lock:
            for _ in range(min(number, len(self._waiting))):
                self._waiting.popleft()

    def _open(self) -> Database:
        if self._database and not self._database.in_place:
            self._close()
        if not self._database:
            self._database = Database(self._output, self._server, shared=self._shared)
        return self._database

    def _close(self) -> None:
        database, self._database = self._database, None
        if database:
            database.close()

    def _give_up(self) -> None:
        self._stopping.set()
        with self._lock:
            self._room = 0
            self._waiting.clear()

    def _set_aside(self, error: DamagedError) -> bool:
        """Make room for a new database; return whether that begins at once."""
        self._close()
        try:
            aside = set_aside(self._output / PARTIAL / database_name(self._server))
        except HistoryError as failed:
            self._tell("the history is damaged, and cannot be set aside: %s", failed)
            return False
        first = not self._in_trouble
        self._tell("the history was damaged (%s): a new one begins, the old one is %s",
                   error, aside.name)  # fmt: skip
        if first:  # otherwise it is damaged time and again
            self._bell.set()
        return first

    def _tell(self, words: str, *facts: object) -> None:
        if not self._in_trouble:
            log.warning(words, *facts)
        self._in_trouble = True

    def _tell_of_end(self) -> None:
        with self._lock:
            missing, self._told = self._dropped - self._told, self._dropped
        if self._in_trouble or missing:
            entries = "1 entry is" if missing == 1 else f"{missing} entries are"
            log.warning("the history is written again; %s missing", entries)
        self._in_trouble = False
