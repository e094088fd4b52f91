"""``python server.py --history``: the history as a table, or as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

from lft.commandline import terminal_width
from lft.options import format_size, plural
from lft.store.history import (
    FAILED,
    INTERRUPTED,
    MICRO,
    RECEIVED,
    REFUSED,
    History,
    HistoryError,
    Outcome,
    Page,
    Proof,
    Query,
)
from lft.terminal import columns_of, printable, shorten, wants_colour, wants_words
from protocol import UsageError

_SIGNS = {RECEIVED: "✅", FAILED: "❌", REFUSED: "⛔", INTERRUPTED: "⏳"}  # two columns each
_COLOURS = {RECEIVED: "32", FAILED: "31", REFUSED: "33", INTERRUPTED: "36"}
_PROOFS = {  # what the digest was compared with
    Proof.CLIENT_DIGEST.value: "agreed",
    Proof.CHUNK_CHECKSUMS.value: "by its pieces",
    Proof.SERVER_ONLY.value: "of ours only",
}
_NARROW = 60  # columns: below, an entry has two lines
_PAGE = 1000  # entries that are read together
_LEAST_LINES = 10  # of entries on a terminal, however low that is
_GAP = "  "


class _Column(NamedTuple):
    title: str
    text: Callable[[Outcome], str]
    most: int  # columns that it takes, on a terminal
    needs: int  # columns of a terminal from which on it is there ...
    until: int = 1000  # ... and from which on it is not
    right: bool = False


def _when(entry: Outcome) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.ended // MICRO))


def _took(entry: Outcome) -> str:
    if not entry.seconds:  # refused as it was announced
        return ""
    if entry.seconds < 10:
        return f"{entry.seconds:.1f} s"
    minutes, seconds = divmod(round(entry.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _proof(entry: Outcome) -> str:
    return f"{entry.algorithm} {_PROOFS.get(entry.proof, '')}".rstrip() if entry.digest else ""


_COLUMNS = (
    _Column("when", _when, 16, 90),
    _Column("when", lambda entry: _when(entry)[5:], 11, 0, until=90),
    _Column("outcome", lambda entry: entry.outcome, 11, 0),
    _Column("user", lambda entry: entry.user, 12, 70),
    _Column("size", lambda entry: format_size(entry.size), 9, 0, right=True),
    _Column("took", _took, 7, 90, right=True),
    _Column("from", lambda entry: entry.address, 15, 105),
    _Column("digest", _proof, 19, 125),
)


class _Table:
    """Lines for entries, as wide as the terminal; without one as wide as they are.

    What the first entries need decides the widths of the columns.
    """

    def __init__(self, width: int | None, *, signs: bool, colour: bool) -> None:
        self._width = width
        self._signs = signs
        self._colour = colour
        self._stacked = width is not None and width < _NARROW
        self._columns: list[tuple[_Column, int]] = []
        self.lines_each = 2 if self._stacked else 1

    def begin(self, entries: list[Outcome]) -> Iterator[str]:
        """Decide the widths; give the head."""
        for column in _COLUMNS:
            if column.needs <= (self._width or 999) < column.until:
                texts = [column.title, *map(column.text, entries)]
                most = max(columns_of(printable(text)) for text in texts)
                self._columns.append((column, min(most, column.most) if self._width else most))
        if not self._stacked:
            cells = [_fit(column.title, width, column) for column, width in self._columns]
            cells[1] = self._indent + cells[1]
            yield _GAP.join([*cells, "file"]).upper()

    @property
    def _indent(self) -> str:
        return "   " if self._signs else ""

    def lines(self, entry: Outcome) -> Iterator[str]:
        """Give the line of an entry, and one with the reason where it was not received."""
        cells = [_fit(column.text(entry), width, column) for column, width in self._columns]
        sign = f"{_SIGNS[entry.outcome]} " if self._signs else ""
        used = columns_of(_GAP.join(cells)) + columns_of(sign)
        cells[1] = self._paint(entry, sign + cells[1])
        if self._stacked:
            yield " ".join(cell.strip() for cell in cells)
            yield _GAP + self._cut(_name(entry), len(_GAP))
        else:
            yield _GAP.join([*cells, self._cut(_name(entry), used + len(_GAP))])
        for remark in _remarks(entry):
            yield from self._remark(printable(remark))

    def _remark(self, text: str) -> Iterator[str]:
        """Give a remark on an entry, below it, in as many lines as it takes."""
        indent = " " * (4 if self._stacked else self._columns[0][1] + len(_GAP))
        width = self._width or len(indent + text) + 1
        for line in textwrap.wrap(text, width - len(indent)) or [""]:
            yield indent + self._cut(line, len(indent))

    def _cut(self, text: str, used: int) -> str:
        """Shorten text to what is left of a line."""
        text = printable(text)
        return text if self._width is None else shorten(text, max(self._width - used, 1))

    def _paint(self, entry: Outcome, text: str) -> str:
        return f"\x1b[{_COLOURS[entry.outcome]}m{text}\x1b[0m" if self._colour else text


def _fit(text: str, width: int, column: _Column) -> str:
    text = shorten(printable(text), width)
    space = " " * (width - columns_of(text))
    return space + text if column.right else text + space


def _name(entry: Outcome) -> str:
    return entry.name if entry.files is None else f"{entry.name}/ ({plural(entry.files, 'file')})"


def _remarks(entry: Outcome) -> Iterator[str]:
    if entry.outcome != RECEIVED:
        yield entry.reason or entry.code
    if entry.proof == Proof.SERVER_ONLY.value:
        yield "its client sent no digest to compare with"
    if entry.program_code:
        line = f": {entry.program_line}" if entry.program_line else ""
        yield f"its program ended with code {entry.program_code}{line}"


def show(output: Path, *, as_json: bool) -> None:
    """Print the history of an output directory, newest first.

    On a terminal as much of it as that shows; into a file or a pipe all of it. Raises
    ``UsageError`` where there is no directory, or nothing can be read or written.
    """
    if not output.is_dir():
        raise UsageError(f"there is no output directory {output}")
    try:
        _print(_as_json(output) if as_json else _as_table(output))
    except HistoryError as error:
        raise UsageError(str(error)) from None


def _pages(output: Path) -> Iterator[Page]:
    """Read all pages; tell of what cannot be read."""
    history, query = History(output), Query(limit=_PAGE)
    page = history.page(query)
    for trouble in page.unread:
        print(f"cannot read {printable(trouble)}", file=sys.stderr)
    if page.unread and not page.entries:
        raise UsageError("no history can be read")
    yield page
    while page.before:
        page = history.page(query._replace(before=page.before))
        yield page


def _as_json(output: Path) -> Iterator[str]:
    for page in _pages(output):
        for entry in page.entries:
            yield json.dumps(entry.facts, ensure_ascii=False)


def _as_table(output: Path) -> Iterator[str]:
    terminal = sys.stdout.isatty()
    width = terminal_width() if terminal or "COLUMNS" in os.environ else None
    signs, colour = not wants_words(sys.stdout), wants_colour(sys.stdout)
    table = _Table(width, signs=signs, colour=colour)
    left = _room(table.lines_each) if terminal else None
    for number, page in enumerate(_pages(output)):
        entries = page.entries[:left]
        if not number and not entries:
            print(f"the history of {printable(str(output))} is empty", file=sys.stderr)
        elif not number:
            yield from table.begin(entries)
        for entry in entries:
            yield from table.lines(entry)
        if left is not None:
            if page.before or len(page.entries) > left:
                print("there are older ones: '| less' or '> FILE' shows all", file=sys.stderr)
            return


def _room(lines_each: int) -> int:
    """Return how many entries a terminal shows at once, if none has a remark."""
    lines = 0
    with contextlib.suppress(OSError):
        lines = os.get_terminal_size().lines - 4
    return max(lines, _LEAST_LINES) // lines_each


def _print(lines: Iterable[str]) -> None:
    """Print lines. A reader that has seen enough is no error. Raises ``UsageError``."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python would try once more at its end
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            raise UsageError(f"cannot write to standard output: {error.strerror}") from None
