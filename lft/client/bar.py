"""Progress as people see it: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, Sequence

import config
from config import ClientSettings
from lft.client.canvas import Canvas, canvas_for
from lft.client.progress import Journey, Progress
from lft.client.whole import Whole, whole_of
from lft.options import format_size
from lft.terminal import BarSafeHandler, columns_of, printable, shorten, wants_words

log = logging.getLogger("client")

CHECKING = "checking what is there"
SENDING = "sending"
VERIFYING = "verifying"
READING = "reading from the disk"  # which takes long
LOOKING = "looking at all that is to be sent"
INPUT = "waiting for input"  # the program before us is busy
AWAY = ("connecting", "waiting", INPUT)  # in these phases nothing of a file moves

NAME_LEAST = BAR_LEAST = 8  # columns that a name and the bar keep; the bar gets what is left over
BAR_SHARE = 8  # of a wide line a long name leaves this part to the bar: an eighth


class Shown(Progress):
    """What a bar and lines have in common: the file under way, and the phase it is in."""

    def __init__(self) -> None:
        self._journey: Journey | None = None
        self._phase = ""
        self._count, self._settled = 1, 0  # arguments, and those that had their turn
        self._files = 0  # in the directory under way; 0 for a file
        self._complete: Callable[[int], int] = lambda _: 0

    def plan(self, paths: Sequence[Path], settings: ClientSettings) -> None:  # noqa: ARG002
        self._count = len(paths)

    def settle(self) -> None:
        self._settled += 1

    def begin(self, name: str, size: int | None) -> None:
        """Take up a file, or go on with it in another session."""
        journey, self._files = self._journey, 0
        if journey is None or (journey.name, journey.size) != (printable(name), size):
            self.end()
            self._journey = self._new_journey(printable(name), size)

    def _new_journey(self, name: str, size: int | None) -> Journey:
        journey = Journey(name, size)
        if self._count > 1:
            journey.place = f"{self._settled + 1:,}/{self._count:,} "
        return journey

    def count_files(self, files: int, complete: Callable[[int], int]) -> None:
        self._files, self._complete = files, complete

    def phase(self, phase: str) -> None:
        self._phase = phase

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        journey = self._journey
        assert journey  # begin() comes first
        journey.move(acknowledged, sent, verified, sending=self._phase == SENDING)
        if self._files:
            journey.files = self._complete(acknowledged), self._files

    def end(self) -> None:
        self._journey = None


class Bar(Shown):
    """A bar over acknowledged bytes, with phase, rate and time left; of several files over all.

    It goes away with each file: how that went is told by the log and the verdict.
    """

    def __init__(self, canvas: Canvas) -> None:
        super().__init__()
        self._canvas = canvas
        self._drawn_at = 0.0
        self._gap = "..." if wants_words(sys.stderr) else "…"
        self._whole: Whole | None = None

    def plan(self, paths: Sequence[Path], settings: ClientSettings) -> None:
        super().plan(paths, settings)
        if len(paths) > 1:
            self._canvas.write(LOOKING)
            self._whole = whole_of(paths, settings)

    def settle(self) -> None:
        super().settle()
        if self._whole:
            self._whole.settle()

    def begin(self, name: str, size: int | None) -> None:
        super().begin(name, size)
        self._draw()

    def phase(self, phase: str) -> None:
        if phase != self._phase:
            super().phase(phase)
            self._draw()

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        super().move(acknowledged, sent, verified)
        if self._whole and self._journey:
            self._whole.follow(self._journey, sending=self._phase == SENDING)
        if time.monotonic() - self._drawn_at >= config.BAR_INTERVAL:
            self._draw()

    def _draw(self) -> None:
        """Show where things are now."""
        self._drawn_at = time.monotonic()
        journey, width = self._journey, _width()
        if journey:
            if self._whole:
                journey = self._whole.named_as(journey)
            before, after = texts_of(journey, self._phase, width, self._gap)
            self._canvas.draw(before, journey.part, after, width)
        else:
            self._canvas.write(self._phase)

    def end(self) -> None:
        super().end()
        self._canvas.clear()


class Lines(Shown):
    """A line in the log now and then: for each tenth of a file, and not more than one a minute."""

    def begin(self, name: str, size: int | None) -> None:
        super().begin(name, size)
        self._told_at, self._told = time.monotonic(), 0.0

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        super().move(acknowledged, sent, verified)
        if time.monotonic() - self._told_at >= config.LINE_INTERVAL:
            self._tell()

    def _tell(self) -> None:
        journey = self._journey
        assert journey
        still = journey.still_for >= config.LINE_INTERVAL
        if journey.size is None or journey.part - self._told >= config.LINE_PART or still:
            self._told_at, self._told = time.monotonic(), journey.part
            details = " ".join(next(details_of(journey, self._phase)).split())
            percent = "" if journey.size is None else f"{int(100 * journey.part)} %, "
            name = f"{journey.place}{journey.name}"
            log.info("%s %s: %s%s", self._phase, name, percent, details)


def progress_shown(handler: BarSafeHandler, *, quiet: bool) -> Progress:
    """Return the bar, where there is a terminal to show it; otherwise lines; or neither."""
    if quiet:
        return Progress()
    return Bar(canvas_for(handler)) if sys.stderr.isatty() else Lines()


def _width() -> int:
    """Return the columns to use: all but the last, where some terminals begin a new line, and two
    for the ``^C`` that a terminal shows: with it the bar still is one line, which can be cleared.
    """
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal
        columns = 0
    return max(columns or 80, 20) - 3  # a new terminal may say 0


def texts_of(journey: Journey, phase: str, width: int, gap: str = "…") -> tuple[str, str]:
    """Return what stands before and after the bar on a line of ``width`` columns.

    Where it is narrow, of a directory the rate goes first; otherwise bytes go first, then the rate,
    then the time left; percentage and name stay. A long name loses its middle.
    """
    for word, details in _choices(journey, phase):
        before = f"{word} {journey.place}" if word else journey.place
        middle, after = f": {100 * journey.part:3.0f}%|", f"| {details}" if details else "|"
        if journey.size is None:
            middle, after = ": ", f" {details}"
        elif journey.part < 1:  # 100 means all of it
            middle = f": {min(99, int(100 * journey.part)):3}%|"
        room = width - len(before) - len(middle) - len(after)
        if room >= min(columns_of(journey.name), NAME_LEAST) + BAR_LEAST:
            break
    bar = max(BAR_LEAST, width // BAR_SHARE)
    name = shorten(journey.name, max(min(NAME_LEAST, room - 1), room - bar), gap)
    return f"{before}{name}{middle}", after


def _choices(journey: Journey, phase: str) -> Iterator[tuple[str, str]]:
    """Give phase and details in ever fewer columns."""
    brief = phase.partition(" ")[0]
    details = ""
    for details in details_of(journey, phase):
        yield phase, details
        yield brief, details
    yield "", details
    yield "", ""


def details_of(journey: Journey, phase: str) -> Iterator[str]:
    """Give the rest of what is known of a file under way, in ever fewer words."""
    amount, still = _amount(journey.at, journey.size), int(journey.still_for)
    if still >= config.STILL and phase not in AWAY:
        yield f"{amount}, no progress for {still} s"
        yield f"no progress for {still} s"
        yield f"stalled {still} s"
    elif phase == SENDING and journey.rate:
        rate = f"{format_size(journey.rate)}/s".rjust(10)
        left = f"{_clock(journey.seconds_left):>5} left"
        if journey.size is None:
            yield f"{amount}, {rate}"
            yield amount
            return
        if journey.files:
            long, short = _files(journey.files)
            yield f"{long}, {amount}, {rate}, {left}"
            yield f"{short}, {amount}, {left.lstrip()}"
            yield f"{short}, {left.lstrip()}"
        else:
            yield f"{amount}, {rate}, {left}"
            yield f"{rate}, {left}"
        yield left
    elif phase == VERIFYING and journey.verified:
        yield f"{_amount(journey.verified, journey.size)} verified"
    else:
        if journey.files:
            long, short = _files(journey.files)
            yield f"{long}, {amount}"
            yield short
        yield amount


def _files(files: tuple[int, int]) -> tuple[str, str]:
    """Return how many of how many files are there, in two lengths: ``3,120 of 10,000 files``."""
    there, all_of_them = map("{:,}".format, files)
    return f"{there} of {all_of_them} files", f"{there}/{all_of_them} files"


def _amount(at: int, size: int | None) -> str:
    """Return how much of how much, in one unit: ``10.2/30.0 MB``."""
    if size is None:
        return format_size(at)
    number, unit = format_size(size).split()
    part = f"{at}" if unit.startswith("byte") else f"{at / (size / float(number)):.1f}"
    return f"{part:>{len(number)}}/{number} {unit}"


def _clock(seconds: float | None) -> str:
    """Return a time to wait as on a clock: ``0:12``, ``1:02:03``; with days in words."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(int(seconds + 0.999), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
