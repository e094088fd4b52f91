"""A log that never holds up a thread that serves."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import queue
import threading
import time
from pathlib import Path

import config
from lft.clock import Deadline
from lft.options import plural
from lft.server.log_file import LogFile
from lft.server.log_limit import LogLimit

log = logging.getLogger("server")


_TRACEBACKS = logging.Formatter()


class DroppingHandler(logging.handlers.QueueHandler):
    """Puts log lines into a bounded queue, drops those that do not fit and counts them (any).

    A terminal that Ctrl-S has stopped, a pipe that no program reads, a full disk: the thread that
    writes the lines may wait for ever. The workers must not.
    """

    queue: queue.Queue[logging.LogRecord | None]

    def __init__(self, room: int) -> None:
        super().__init__(queue.Queue(room))
        self.dropped = 0  # changed under the lock that logging takes for each handler
        self.limit = LogLimit()
        self.addFilter(self.limit.lets)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Fix the text now: its arguments may change before the line is written.

        So is a traceback: its frames would keep the blocks that they had until then.
        """
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = record.exc_text or _TRACEBACKS.formatException(record.exc_info)
            record.exc_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Add a line, or drop it."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def flush(self) -> None:
        """Wait until the lines are written, for ``LOG_PATIENCE`` seconds at most. Blocks."""
        with self.queue.all_tasks_done:
            self.queue.all_tasks_done.wait_for(self._is_written, config.LOG_PATIENCE)

    def _is_written(self) -> bool:
        return not self.queue.unfinished_tasks


class BackgroundLog:
    """The thread that writes log lines, in place of the threads that have something to say."""

    def __init__(self, writer: logging.Handler) -> None:
        """Take the lines of every logger; ``writer`` writes them, unless there is a file."""
        self._writer = writer
        self._handler = DroppingHandler(config.LOG_QUEUE)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._tell_at = time.monotonic() + config.TELL_AGAIN  # the log thread's own
        self._told = 0  # dropped lines of which the log has told; the log thread's own

    def start(self, file: Path | None = None) -> None:
        """Begin, with the lines going to ``file`` if there is one.

        Raises ``UsageError`` for a file that cannot be written, ``RuntimeError`` where the system
        has no thread.
        """
        if file is not None:
            self._writer = LogFile(file, stderr=self._writer)
        self._thread.start()
        logging.getLogger().handlers[:] = [self._handler]

    def _write(self) -> None:
        """Write lines as they come (the log thread)."""
        going_on = True
        while going_on:
            with contextlib.suppress(queue.Empty):
                record = self._handler.queue.get(timeout=config.TELL_AGAIN)
                going_on = record is not None
                if record:
                    self._writer.handle(record)
                    self._tell_of_dropped()
                self._handler.queue.task_done()
            if not going_on or time.monotonic() >= self._tell_at:
                self._tell_of_left_out()

    def _tell_of_dropped(self) -> None:
        dropped = self._handler.dropped - self._told
        if dropped and self._handler.queue.empty():
            self._told += dropped
            lines = plural(dropped, "log line")
            self._warn("%s dropped: the log was not read fast enough", lines)

    def _tell_of_left_out(self) -> None:
        self._tell_at = time.monotonic() + config.TELL_AGAIN
        for owner, number in self._handler.limit.take_left_out():
            lines = plural(number, "log line")
            self._warn("%s of %s left out: there were too many", lines, owner)

    def _warn(self, words: str, *values: object) -> None:
        """Write a warning past the queue (the log thread)."""
        record = log.makeRecord(log.name, logging.WARNING, "", 0, words, values, None)
        self._writer.handle(record)

    def stop(self) -> bool:
        """Write what is there; return whether that was possible in ``LOG_PATIENCE`` seconds."""
        until = Deadline(config.LOG_PATIENCE)
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._handler.queue.put(None, timeout=config.LOG_PATIENCE)
            self._thread.join(until.left())
        if not self._thread.is_alive():
            logging.getLogger().handlers[:] = [self._writer]
        return not self._thread.is_alive()
