"""The file that ``--log-file`` names."""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import sys
from pathlib import Path

from lft.terminal import LogFormatter
from protocol import UsageError

FATAL = {"fatal": True}  # the ``extra`` of a log line that says why the server does not start

log = logging.getLogger("server")


class LogFile(logging.handlers.WatchedFileHandler):
    """Appends log lines to a file, and makes it anew once it was moved away or deleted.

    It keeps nothing in memory, so that a deleted file does not fill the disk for longer than to the
    next line. What cannot be written goes to ``stderr`` until it can be, and both are said once. So
    does what keeps the server from starting. Apart from the start, the log thread runs all of it.
    """

    def __init__(self, path: Path, stderr: logging.Handler) -> None:
        """Open the file, with mode 0640 if it is new. Raises ``UsageError`` if that cannot be."""
        self._stderr = stderr
        self._error: OSError | None = None  # of the line written last
        try:
            super().__init__(path)
        except OSError as error:
            raise UsageError(f"log file {path}: {error.strerror}") from None
        self.setFormatter(LogFormatter(colour=False, dated=True))

    def _open(self) -> io.TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(self.baseFilename, flags | os.O_NONBLOCK, 0o640)  # a FIFO may wait
        os.set_blocking(descriptor, True)
        raw = io.FileIO(descriptor, "a")
        return io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, here or to ``stderr``."""
        before, error = self._error, self._write(record)
        if error and not before:
            words = "cannot write to the log file %s: %s; until that works, its lines come here"
            self._stderr.handle(_line(words, self.baseFilename, error.strerror))
        if error or getattr(record, "fatal", False):
            self._stderr.handle(record)
        if before and not error:
            words = "the lines before went to standard error: %s"
            self._write(_line(words, before.strerror))

    def _write(self, record: logging.LogRecord) -> OSError | None:
        """Write one line; return what went wrong."""
        self._error = None
        try:
            super().emit(record)
        except OSError as error:  # of opening it anew
            self._error = error
        return self._error

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Note an error of the system; show a bug of ours."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._error = error
        else:
            super().handleError(record)


def _line(words: str, *facts: object) -> logging.LogRecord:
    return log.makeRecord(log.name, logging.ERROR, "", 0, words, facts, None)
