"""The program that the operator has run for each file that was received."""

from __future__ import annotations

import errno
import logging
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


class Programs:
    """Runs the program for each file, some at once, each at least once.

    What has not run to its end stands in the ``Spool``: a server that stops, or is killed, leaves
    it to the next start. Of what that finds, a file whose verdict the client may still ask for has
    to wait: were it moved on before, it would be sent again.

    The lock of ``_turn`` protects ``_waiting``, the notes whose turn will come, and ``_later``,
    those that are looked at again, and when. All methods run on any thread, unless a docstring says
    otherwise.
    """

    def __init__(
        self, program: Path, output: Path, tell: Callable[[Outcome], None], server: str = ""
    ) -> None:
        """Have ``program`` run; ``tell`` hears how. Raises ``UsageError`` if it cannot be run.

        ``server`` tells the servers apart that share ``output``.
        """
        self._program = find_program(program)
        self._output = output
        self._tell = tell
        self._spool = Spool(output, server)
        self._turn = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._later: list[_Item] = []
        self._look_at = 0.0  # on the monotonic clock
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
        self._waiting.extend((name, None) for name in self._spool.names())
        if self._waiting:
            runs = plural(len(self._waiting), "run")
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

    # -- the threads of the programs

    def _work(self) -> None:
        for item in iter(self._take, None):
            try:
                self._run(*item)
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
                if self._waiting:
                    return self._waiting.popleft()
                self._turn.wait(config.PROGRAM_AGAIN if self._later else None)
        return None

    def _put_off(self, name: str, entry: Outcome | None) -> None:
        with self._turn:
            self._later.append((name, entry))

    def _run(self, name: str, entry: Outcome | None) -> None:
        """Run the program for the file of one note."""
        entry = entry or self._recall(name)
        if entry is None:
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
            self._tell(entry._replace(program_code=ended.code, program_line=ended.line))
            self._spool.remove(name or "-")

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
