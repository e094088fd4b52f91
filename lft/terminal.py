"""The terminal: text that is safe to show, the look of the log, colours, standard output."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import unicodedata
from contextlib import AbstractContextManager, nullcontext
from typing import Callable, Iterator, TextIO

from protocol import UsageError

SUCCESS = {"sign": "✅"}  # the ``extra`` of a log line with good news
_SIGNS = {"coordinator": "🔷", "block": "🔵"}  # by component; warnings and errors have their own
_COLOURS: dict[str, str] = {"✅": "32", "❌": "31", "🔷": "36", "🔵": "34", "⚠️": "33"}
_IN_WORDS = {"✅": "ok:"}  # where there are only letters; the level says the rest
_COERCED = ("", "C.UTF-8", "C.utf8", "UTF-8")  # LC_CTYPE as Python itself sets it (PEP 538)


def is_hidden(char: str) -> bool:
    """Whether a terminal could act on ``char``, or show nothing of it: by its Unicode category.

    Those are control and format characters, lone surrogates, line and paragraph separators, and
    characters without a public meaning.
    """
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co")


def printable(text: str) -> str:
    r"""Return ``text`` with every hidden character as an escape, such as ``\x1b`` or ``\u202e``.

    All scripts and emoji stay. All that a peer sent goes through here before it is logged or shown.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii") if is_hidden(char) else char for char in text
    )


def columns_of(text: str) -> int:
    """Return how many columns ``text``, which is printable, takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of_char, text))


def _columns_of_char(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, columns: int, gap: str = "…") -> str:
    """Return ``text`` in at most ``columns`` of a terminal, with ``gap`` in place of its middle.

    A name keeps its beginning and, a little shorter, its end, where the extension is.
    """
    if columns_of(text) <= columns:
        return text
    room = columns - len(gap)
    if room < 2:
        return _first(text, columns)
    end = _first(text[::-1], room // 2)[::-1]
    return _first(text, room - columns_of(end)) + gap + end.lstrip()


def _first(text: str, columns: int) -> str:
    """Return as much of the beginning of ``text`` as fits."""
    for count, char in enumerate(text):
        columns -= _columns_of_char(char)
        if columns < 0:
            return text[:count]
    return text


class LogFormatter(logging.Formatter):
    """Formats a log line: time, level, component, sign and message, coloured by its sign.

    With ``words`` there are words in place of signs. On a terminal the time is enough; elsewhere a
    line may be read days later, so it is ``dated``.
    """

    def __init__(self, *, colour: bool, words: bool = False, dated: bool = False) -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S%z" if dated else "%H:%M:%S")
        self._colour = colour
        self._words = words

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, all of it safe to print."""
        sign = self._sign(record)
        message = printable(record.getMessage())
        time = self.formatTime(record, self.datefmt)
        shown = _IN_WORDS.get(sign, "-") if self._words else sign
        line = f"{time} {record.levelname:<7} {record.name:<11} {shown} {message}"
        if self._colour and sign in _COLOURS:
            line = f"\x1b[{_COLOURS[sign]}m{line}\x1b[0m"
        if record.exc_info and not record.exc_text:  # only for a bug of ours
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            trace = record.exc_text.split("\n")
            line = "\n    ".join([line] + [printable(part) for part in trace])
        return line

    @staticmethod
    def _sign(record: logging.LogRecord) -> str:
        if record.levelno >= logging.ERROR:
            return "❌"
        if record.levelno >= logging.WARNING:
            return "⚠️"
        return getattr(record, "sign", None) or _SIGNS.get(record.name, "·")


class BarSafeHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not generic before 3.11
    """Writes log lines to a stream, without damage to a progress bar that is shown there.

    Each line is written inside ``around()``: tqdm's ``external_write_mode`` while there is a bar.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with self.around():
            super().emit(record)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have no line written meanwhile."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def show(self, line: str) -> None:
        """Write a line that another program has made. Raises ``OSError``."""
        with self.held(), self.around():
            self.stream.write(f"{line}\n")
            self.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Drop a line that cannot be written, on a full disk for example; show a bug of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def wants_colour(stream: TextIO) -> bool:
    """Whether to use colours: only on a terminal, and never with ``NO_COLOR`` (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def wants_words(stream: TextIO) -> bool:
    """Whether to write words in place of signs: for a locale or an encoding of letters alone.

    With ``LANG=C`` Python writes UTF-8 (PEP 540), which the terminal may not be able to show.
    """
    given = os.environ.get
    coerced = given("LC_CTYPE", "") in _COERCED
    locale = given("LC_ALL") or ("" if coerced else given("LC_CTYPE")) or given("LANG")
    if locale in ("C", "POSIX"):
        return True
    try:
        "".join(_COLOURS).encode(stream.encoding or "ascii")
    except UnicodeError:
        return True
    return False


def setup_logging(level: str) -> BarSafeHandler:
    """Send all log lines of this process to standard error; return their handler."""
    handler = BarSafeHandler(sys.stderr)
    colour, words = wants_colour(sys.stderr), wants_words(sys.stderr)
    dated = not sys.stderr.isatty()
    handler.setFormatter(LogFormatter(colour=colour, words=words, dated=dated))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    return handler


def make_output_safe() -> None:
    """Let standard output and error write any name, whatever the encoding of the terminal.

    A standard stream that was closed when the program started is opened, and leads nowhere.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order each gets its own descriptor
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (it stays)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print a line on standard output, at once. Raises ``UsageError`` if it cannot be written.

    Standard output then leads nowhere: Python would keep the line and write it when the program
    ends, where another failure changes the exit code.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise UsageError(f"cannot write to standard output: {error.strerror}") from None
