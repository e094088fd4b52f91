"""Makes the README's picture of the two terminals from a real transfer.

    python tests/tools/picture.py          writes .github/terminals.svg
    python tests/tools/picture.py FILE     writes FILE instead

What it does: in a temporary folder it starts ``server.py`` and, once that listens, ``client.py``
with a small and a large file, each in a pseudo-terminal of its own. A small model of a terminal
screen follows what they print. When the bar of the large file stands between 60 and 80 %, both
screens are drawn. The transfer goes on to its end, and the picture is written only if both files
arrived. Port 4455 must be free: the picture shows the default command.

The size of the picture is always the same. Each piece of text is told its length, so columns align
in any monospace font; the bar is drawn as rectangles, so it has no gaps. Open the result in a
browser before you commit it.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import fcntl
import itertools
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unicodedata
from html import escape
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[2]
COLUMNS, ROWS = 100, 11
SMALL = ("report.pdf", 24 * 1024**2)
LARGE = ("big_file.txt", 300 * 1024**2)
PATIENCE = 60.0  # seconds for each step of the run
MIDPOINT = re.compile(rf"sending {re.escape(LARGE[0])}: +[67]\d%")

# --- the model of a terminal screen -------------------------------------------------------------


class Cell(NamedTuple):
    """One column of a line; the second column of a wide character has an empty text."""

    text: str = " "
    colour: str = ""
    width: int = 1


_TOKEN = re.compile(r"\x1b\[(?P<numbers>[0-9;?]*)(?P<order>[A-Za-z])|.", re.DOTALL)
_UNFINISHED = re.compile(r"\x1b(\[[0-9;?]*)?\Z")
_COLOURS = {"31": "red", "32": "green", "33": "yellow", "34": "blue", "36": "cyan"}


def _width(char: str) -> int:
    """Return the columns that ``char`` takes."""
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Screen:
    """What stands on a terminal: knows line ends, colours, and what tqdm does with its line."""

    def __init__(self) -> None:
        self.lines = [self._blank() for _ in range(ROWS)]
        self._row = self._column = 0
        self._colour = ""
        self._unread = ""  # the beginning of an escape sequence

    def __str__(self) -> str:
        return "\n".join("".join(cell.text for cell in line).rstrip() for line in self.lines)

    @staticmethod
    def _blank() -> list[Cell]:
        return [Cell()] * COLUMNS

    def feed(self, text: str) -> None:
        """Show ``text``; the beginning of an escape sequence waits for the rest of it."""
        text = self._unread + text
        whole = _UNFINISHED.sub("", text)
        self._unread = text[len(whole) :]
        for token in _TOKEN.finditer(whole):
            if token["order"]:
                self._obey(token["order"], token["numbers"])
            else:
                self._take(token[0])

    def _obey(self, order: str, numbers: str) -> None:
        if order == "m":
            for number in numbers.split(";"):
                self._colour = _COLOURS.get(number, "")
        elif order == "A":
            self._row = max(0, self._row - int(numbers or 1))
        elif order == "K":
            rest = COLUMNS - self._column
            self.lines[self._row][self._column :] = [Cell()] * rest

    def _take(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._down()
        elif char == "\b":
            self._column = max(0, self._column - 1)
        elif char.isprintable() or not _width(char):
            self._print(char)

    def _down(self) -> None:
        self._row += 1
        if self._row == ROWS:
            self.lines = [*self.lines[1:], self._blank()]
            self._row -= 1

    def _print(self, char: str) -> None:
        width = _width(char)
        if not width:
            self._join(char)
            return
        if self._column + width > COLUMNS:  # not before: a full line may be overwritten
            self._column = 0
            self._down()
        cells = [Cell(char, self._colour, width), Cell("", self._colour)][:width]
        self.lines[self._row][self._column : self._column + width] = cells
        self._column += width

    def _join(self, char: str) -> None:
        """Add a character without a width of its own to the one before it."""
        line = self.lines[self._row]
        for column in range(self._column - 1, -1, -1):
            if line[column].text:
                line[column] = line[column]._replace(text=line[column].text + char)
                return


# --- a program in a pseudo-terminal -------------------------------------------------------------


class Terminal:
    """A program that runs on a screen of its own."""

    def __init__(self, title: str, program: str, *arguments: str, folder: Path) -> None:
        """Start one of our programs in ``folder``; show it as a user there would type it."""
        self.title = title
        self.screen = Screen()
        self.screen.feed(f"$ python {' '.join((program, *arguments))}\r\n")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        command = [sys.executable, str(ROOT / program), *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=_environment()
        )
        os.close(slave)
        self.ended = False

    def fileno(self) -> int:
        return self._master

    def read(self) -> None:
        """Take what the program has printed."""
        try:
            data = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the program has closed it
                raise
            data = b""
        self.ended = not data
        self.screen.feed(self._decoder.decode(data))

    def shows(self, pattern: re.Pattern[str]) -> bool:
        return pattern.search(str(self.screen)) is not None

    def close(self) -> None:
        """End the program and release the pseudo-terminal."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


def _environment() -> dict[str, str]:
    """Return ours without the variables that would change colours, width or login."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("LFT_")}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        ours.pop(name, None)
    return {**ours, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}


def _follow(terminals: Sequence[Terminal], reached: Callable[[], bool]) -> None:
    """Read what the programs print until it is ``reached``; a program that ends first fails."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        ended = [one for one in terminals if one.ended]
        if ended or time.monotonic() > deadline:
            screens = "\n".join(str(one.screen) for one in terminals)
            sys.exit(f"the run did not go as planned:\n{screens}")
        ready, _, _ = select.select(terminals, [], [], 0.1)
        for terminal in ready:
            terminal.read()


# --- the run ------------------------------------------------------------------------------------


def _make_file(path: Path, size: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        for _ in range(0, size, 1024**2):
            file.write(os.urandom(1024**2))


@contextlib.contextmanager
def _started(title: str, *command: str, folder: Path) -> Iterator[Terminal]:
    terminal = Terminal(title, *command, folder=folder)
    try:
        yield terminal
    finally:
        terminal.close()


def take_picture(folder: Path) -> str:
    """Run the two programs in ``folder``; return the picture of their screens."""
    names = [f"input/{name}" for name, _ in (SMALL, LARGE)]
    for name, (_, size) in zip(names, (SMALL, LARGE)):
        _make_file(folder / name, size)
    with _started("Terminal 1: the server", "server.py", folder=folder) as server:
        _follow([server], lambda: server.shows(re.compile("Listening on")))
        with _started("Terminal 2: the client", "client.py", *names, folder=folder) as client:
            both = [server, client]
            _follow(both, lambda: client.shows(MIDPOINT))
            picture = draw(both)
            _finish(both, client)
    return picture


def _finish(terminals: Sequence[Terminal], client: Terminal) -> None:
    """See the transfer through. Raises ``SystemExit`` unless both files arrived."""
    arrived = re.compile(r"(?s)INTEGRITY_OK.*INTEGRITY_OK")
    _follow(terminals, lambda: client.shows(arrived))
    if client.process.wait(PATIENCE):
        sys.exit(f"the client failed:\n{client.screen}")


# --- the drawing --------------------------------------------------------------------------------

FONT_SIZE, CELL, LINE = 14, 8.4, 19  # pixels: of the font, of a column's width, of a line's height
MARGIN, TITLE, PADDING, GAP = 1, 32, 14, 16
WIDTH = round(COLUMNS * CELL + 2 * (PADDING + MARGIN))
WINDOW = TITLE + 2 * PADDING + ROWS * LINE
BASELINE = 14  # pixels from the upper edge of a line
STYLE = """
text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:14px;fill:#e6edf3}
.window{fill:#161b22;stroke:#6e7681}.title{fill:#2d333b}.name{fill:#adbac7;text-anchor:middle}
.emoji{text-anchor:middle;font-family:"Apple Color Emoji","Segoe UI Emoji","Noto Color Emoji",
sans-serif}.bar{fill:#e6edf3}
.red{fill:#ff7b72}.green{fill:#56d364}.yellow{fill:#e3b341}.blue{fill:#79c0ff}.cyan{fill:#56d4dd}
"""
_LIGHTS = ("#ff5f57", "#febc2e", "#28c840")
_FULL_BLOCK, _BEYOND_BLOCKS = 0x2588, 0x2590  # between them 8/8 to 1/8 of a column


class Place(NamedTuple):
    """Where a cell stands: its column, counted from 0, and the upper edge of its line."""

    column: int
    top: float

    @property
    def x(self) -> float:
        return MARGIN + PADDING + self.column * CELL


def draw(terminals: Sequence[Terminal]) -> str:
    """Return an SVG file with a window for each terminal, one below the other."""
    height = len(terminals) * (WINDOW + GAP) - GAP + 2 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">'
        "<title>A server and a client in two terminals, in the middle of a transfer</title>"
        f"<style>{STYLE}</style>"
    )
    tops = itertools.count(MARGIN, WINDOW + GAP)
    windows = itertools.chain.from_iterable(map(_draw_window, terminals, tops))
    return "\n".join([head, *windows, "</svg>", ""])


def _draw_window(terminal: Terminal, top: int) -> Iterator[str]:
    width, middle = WIDTH - 2 * MARGIN, top + TITLE / 2
    yield f'<rect class="window" x="{MARGIN}" y="{top}" width="{width}" height="{WINDOW}" rx="8"/>'
    yield (
        f'<path class="title" d="M{MARGIN + 0.5},{top + TITLE}v{8 - TITLE}q0,-7.5 7.5,-7.5'
        f'h{width - 16}q7.5,0 7.5,7.5v{TITLE - 8}z"/>'
    )
    for number, colour in enumerate(_LIGHTS):
        yield f'<circle cx="{MARGIN + 18 + 20 * number}" cy="{middle}" r="6" fill="{colour}"/>'
    yield f'<text class="name" x="{WIDTH / 2}" y="{middle + 5}">{escape(terminal.title)}</text>'
    for number, line in enumerate(terminal.screen.lines):
        yield from _draw_line(line, top + TITLE + PADDING + number * LINE)


def _draw_line(line: Sequence[Cell], top: float) -> Iterator[str]:
    column = 0
    for (kind, colour), cells in itertools.groupby(line, lambda cell: (_kind(cell), cell.colour)):
        run = list(cells)
        yield from kind(run, colour, Place(column, top))
        column += len(run)


Drawing = Callable[[Sequence[Cell], str, Place], Iterator[str]]


def _kind(cell: Cell) -> Drawing:
    """Return what draws ``cell``; neighbours of one kind and colour are drawn together."""
    if not cell.text or cell.width > 1:
        return _draw_emoji
    return _draw_bar if _FULL_BLOCK <= ord(cell.text[0]) < _BEYOND_BLOCKS else _draw_text


def _draw_text(cells: Sequence[Cell], colour: str, place: Place) -> Iterator[str]:
    """Draw words; more than one space is left out, and what follows gets a place of its own."""
    column, groups = 0, re.split("( {2,})", "".join(cell.text for cell in cells).rstrip())
    for text in groups:
        if text.strip():
            yield _text(text, colour, place._replace(column=place.column + column))
        column += len(text)


def _text(text: str, colour: str, place: Place) -> str:
    name = f'class="{colour}" ' if colour else ""
    start = len(text) - len(text.lstrip())  # a browser drops a space at the beginning
    x, length = place.x + start * CELL, len(text.strip()) * CELL
    where = f'x="{x:.1f}" y="{place.top + BASELINE:g}" textLength="{length:.1f}"'
    return f"<text {name}{where}>{escape(text.strip())}</text>"


def _draw_emoji(cells: Sequence[Cell], _colour: str, place: Place) -> Iterator[str]:
    for offset, cell in enumerate(cells):
        if cell.text:
            x = place.x + (offset + 1) * CELL  # the middle of two columns
            yield f'<text class="emoji" x="{x:.1f}" y="{place.top + BASELINE:g}">{cell.text}</text>'


def _draw_bar(cells: Sequence[Cell], _colour: str, place: Place) -> Iterator[str]:
    eighths = sum(_BEYOND_BLOCKS - ord(cell.text[0]) for cell in cells)
    where = f'x="{place.x:.1f}" y="{place.top + 1:g}"'
    yield f'<rect class="bar" {where} width="{eighths * CELL / 8:.1f}" height="{LINE - 3}"/>'


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the picture of the two terminals.")
    default = ROOT / ".github" / "terminals.svg"
    parser.add_argument("file", nargs="?", type=Path, default=default, metavar="FILE")
    path = parser.parse_args().file
    with tempfile.TemporaryDirectory() as folder:
        picture = take_picture(Path(folder))
    path.write_text(picture, encoding="utf-8")
    print(f"{path}: {len(picture)} bytes")


if __name__ == "__main__":
    main()
