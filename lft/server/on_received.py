"""The program that the operator has run for each file that was received."""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Callable, Optional, Tuple

import config
from lft.options import plural
from lft.server.program import Ended, run
from lft.store.history import Outcome
from lft.store.paths import reason_of
from lft.store.sharedspool import SharedSpool
from lft.store.spool import Spool
from lft.terminal import printable
from protocol import UsageError

log = logging.getLogger("server")

_REAPING = 0.5  # seconds for a killed program to be gone


def find_program(name: Path) -> Path:
    """Return the whole path of a program, or of one that ``PATH`` has (main, at the start).

    Raises ``UsageError`` for a file that cannot be run.
    """
    import shutil  # noqa: PLC0415  (4 ms)

    found = None if name.exists() else shutil.which(str(name))
    path = Path(os.path.abspath(found or name))
    if not path.is_file():
        reason = "a directory" if path.is_dir() else os.strerror(errno.ENOENT)
        raise UsageError(f"--on-received {printable(str(name))}: {reason}")
    if not os.access(path, os.X_OK):
        shown = printable(str(name))
        raise UsageError(f"--on-received {shown}: not executable; 'chmod +x {shown}' makes it so")
    return path


_Item = Tuple[str, Optional[Outcome]]  # the name of a note, and what it says, unless on the disk
_OTHERS: _Item = ("", None)  # in place of a note: look for those of other servers


def _none(_place: str) -> bool:
    return False


class Programs:
    """Runs the program for each file, some at once, each at least once.

    What has not run to its end stands in the ``Spool``: a server that stops, or is killed, leaves
    it to the next start, or to a server that shares the directory. Of what that finds, a file whose
    verdict the client may still ask for has to wait: were it moved on before, it would be sent
    again.

    The lock of ``_turn`` protects ``_waiting``, the notes whose turn will come, ``_later``, those
    that are looked at again, and when, and ``_taken_over``, those of other servers. All methods run
    on any thread, unless a docstring says otherwise.
    """

    def __init__(
        self,
        program: Path,
        output: Path,
        tell: Callable[[Outcome], None],
        server: str = "",
        is_noted: Callable[[str], bool] = _none,
    ) -> None:
        """Have ``program`` run; ``tell`` hears how. Raises ``UsageError`` if it cannot be run.

        ``server`` tells the servers apart that share ``output``. Of what is taken over from one of
        them ``tell`` hears only if ``is_noted`` does not know the file.
        """
        self._program = find_program(program)
        self._output = output
        self._tell = tell
        self._spool = SharedSpool(output, server) if server else Spool(output)
        self._is_noted = is_noted
        self._taken_over: set[str] = set()
        self._turn = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._later: list[_Item] = []
        self._look_at = 0.0  # on the monotonic clock
        self._others_at = 0.0 if server else math.inf
        self._stopping = threading.Event()
        self._in_trouble = False  # whether it could not be started; stale for a moment, at worst
        self._threads = [
            threading.Thread(target=self._work, name=f"program-{number}", daemon=True)
            for number in range(config.PROGRAMS)
        ]

    def start(self) -> None:
        """Begin with what an earlier run has left (main).

        Raises ``RuntimeError`` where the system has no threads, ``OSError`` for a bad disk.
        """
        self._spool.open()
        names = self._spool.names()
        if self._others_at:  # no server shares: what those left is ours, too
            names += self._spool.take_over()
        self._waiting.extend((name, None) for name in names)
        if names:
            runs = plural(len(names), "run")
            log.info("%s of %s left by the server before", runs, self._program.name)
        for thread in self._threads:
            thread.start()

    def prepare(self, entry: Outcome, stem: str, unfinished: Path) -> str:
        """Write down that a file will be there; return the name of the note (a worker).

        Where the disk has no room even for that, the program runs unless the server is killed.
        """
        try:
            return self._spool.add(entry, stem, unfinished)
        except OSError as error:
            log.warning("a kill would keep %s from running for %s: %s",
                        self._program.name, entry.saved_as, reason_of(error))  # fmt: skip
            return ""

    def forget(self, name: str) -> None:
        """Remove a note whose file was not published (a worker)."""
        self._spool.remove(name or "-")

    def put(self, name: str, entry: Outcome) -> None:
        """Have the program run for a published file, whose client has been told."""
        with self._turn:
            self._waiting.append((name, entry))
            self._turn.notify()

    def stop(self) -> None:
        """End the programs that run, and let no more begin (main)."""
        self._stopping.set()
        with self._turn:
            self._turn.notify_all()
        until = time.monotonic() + config.PROGRAM_CLOSING + _REAPING
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        self._spool.close()

    # -- the threads of the programs

    def _work(self) -> None:
        for item in iter(self._take, None):
            try:
                self._take_over() if item is _OTHERS else self._run(*item)
            except Exception:
                log.exception("internal error after %s", item[0])

    def _take(self) -> _Item | None:
        """Wait for the next note; ``None`` when the server stops."""
        with self._turn:
            while not self._stopping.is_set():
                if time.monotonic() >= self._look_at:
                    self._waiting.extend(self._later)
                    self._later.clear()
                    self._look_at = time.monotonic() + config.PROGRAM_AGAIN
                if time.monotonic() >= self._others_at:
                    self._others_at = time.monotonic() + config.TAKE_OVER_EVERY
                    return _OTHERS
                if self._waiting:
                    return self._waiting.popleft()
                self._turn.wait(self._pause())
        return None

    def _pause(self) -> float | None:
        """Return the seconds until there is something to look at; the caller holds the lock."""
        look_at = self._look_at if self._later else math.inf
        pause = min(look_at, self._others_at) - time.monotonic()
        return None if pause == math.inf else max(0.0, pause)

    def _take_over(self) -> None:
        """Have the program run for what servers have left that do not run any more."""
        try:
            names = self._spool.take_over()
        except OSError as error:
            log.warning("cannot look for what other servers left: %s", reason_of(error))
            return
        if names:
            runs = plural(len(names), "run")
            log.info("%s of %s left by other servers", runs, self._program.name)
        with self._turn:
            self._taken_over.update(names)
            self._waiting.extend((name, None) for name in names)
            self._turn.notify_all()

    def _put_off(self, name: str, entry: Outcome | None) -> None:
        with self._turn:
            self._later.append((name, entry))

    def _run(self, name: str, entry: Outcome | None) -> None:
        """Run the program for the file of one note."""
        entry = entry or self._recall(name)
        if entry is None or (name and not self._spool.is_ours(name)):
            return
        try:
            ended = run(self._program, entry, self._output, self._stopping)
        except OSError as error:
            if not self._in_trouble:
                log.error("cannot run %s: %s; it is tried again", self._program, reason_of(error))
            self._in_trouble = True
            self._put_off(name, entry)
            return
        self._in_trouble = False
        self._log(entry, ended)
        if not ended.stopped:
            if not (name in self._taken_over and self._is_noted(entry.saved_as)):
                self._tell(entry._replace(program_code=ended.code, program_line=ended.line))
            self._spool.remove(name or "-")
            self._taken_over.discard(name)

    def _recall(self, name: str) -> Outcome | None:
        """Return what a note of an earlier run says, if there is something to do now."""
        try:
            left = self._spool.read(name)
        except (FileNotFoundError, ValueError) as error:
            log.warning("nothing is run for the note %s: %s", name, reason_of(error))
            self._spool.remove(name)
            return None
        except OSError as error:  # no descriptor left, say
            log.debug("note %s: %s", name, reason_of(error))
            self._put_off(name, None)
            return None
        if not left.published:
            log.debug("nothing is run for %s: it is not there", left.entry.saved_as)
            self._spool.remove(name)
        elif not left.confirmed:
            self._put_off(name, None)
        return left.entry if left.published and left.confirmed else None

    def _log(self, entry: Outcome, ended: Ended) -> None:
        how = f"exit code {ended.code}" if ended.code >= 0 else f"ended by signal {-ended.code}"
        if ended.late:
            how = f"killed after {config.PROGRAM_TIMEOUT:g} s"
        if ended.stopped:
            how = "the server stops; it will run again at the next start"
        level = logging.INFO if ended.stopped or not ended.code else logging.WARNING
        line = f": {ended.line}" if ended.line else ""
        log.log(level, "%s for %s: %s%s", self._program.name, entry.saved_as, how, line)
