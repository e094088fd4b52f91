"""Progress as people see it: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any, Iterator

import config
from lft.client.progress import Journey, Progress
from lft.options import format_size
from lft.terminal import BarSafeHandler, columns_of, printable, shorten, wants_words

log = logging.getLogger("client")

CHECKING = "checking what is there"
SENDING = "sending"
READING = "reading from the disk"  # which takes long
AWAY = ("connecting", "waiting")  # in these phases nothing of a file moves

NAME_LEAST = BAR_LEAST = 8  # columns that a name and the bar keep; the bar gets what is left over
BAR_SHARE = 8  # of a wide line a long name leaves this part to the bar: an eighth


class Shown(Progress):
    """What a bar and lines have in common: the file under way, and the phase it is in."""

    def __init__(self) -> None:
        self._journey: Journey | None = None
        self._phase = ""

    def begin(self, name: str, size: int) -> None:
        """Take up a file, or go on with it in another session."""
        journey = self._journey
        if journey is None or (journey.name, journey.size) != (printable(name), size):
            self.end()
            self._journey = Journey(printable(name), size)

    def phase(self, phase: str) -> None:
        self._phase = phase

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        assert self._journey  # begin() comes first
        self._journey.move(acknowledged, sent, verified, sending=self._phase == SENDING)

    def end(self) -> None:
        self._journey = None


class Bar(Shown):
    """tqdm's bar on standard error, over acknowledged bytes, with phase, rate and time left.

    It goes away with its file: how that went is told by the log and the verdict.
    """

    def __init__(self, handler: BarSafeHandler) -> None:
        # loaded here: the import takes 30 ms, and most runs have no bar
        from tqdm import tqdm  # noqa: PLC0415

        super().__init__()
        tqdm.monitor_interval = 0  # its extra thread is for bars that stand still
        self._tqdm = tqdm
        self._bar: Any = None
        self._drawn_at = 0.0
        self._words = wants_words(sys.stderr)
        handler.around = lambda: tqdm.external_write_mode(file=sys.stderr)

    def begin(self, name: str, size: int) -> None:
        super().begin(name, size)
        self._draw()

    def phase(self, phase: str) -> None:
        if phase != self._phase:
            super().phase(phase)
            self._draw()

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        super().move(acknowledged, sent, verified)
        if time.monotonic() - self._drawn_at >= config.BAR_INTERVAL:
            self._draw()

    def _draw(self) -> None:
        """Show where things are now: the texts are ours, the bar between them is tqdm's."""
        self._drawn_at = time.monotonic()
        width, before, after = _width(), self._phase, ""
        journey = self._journey
        if journey:
            gap = "..." if self._words else "…"
            before, after = texts_of(journey, self._phase, width, gap)
        form = f"{_literal(before)}{{bar}}{_literal(after)}" if journey else _literal(before)
        if self._bar is None:
            self._bar = self._tqdm(total=1, bar_format=form, ncols=width, leave=False,
                                   ascii=self._words or None, mininterval=0)  # fmt: skip
        self._bar.bar_format, self._bar.ncols = form, width
        self._bar.n = journey.part if journey else 0
        self._bar.refresh()

    def end(self) -> None:
        super().end()
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines(Shown):
    """A line in the log now and then: for each tenth of a file, and not more than one a minute."""

    def begin(self, name: str, size: int) -> None:
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
        if journey.part - self._told >= config.LINE_PART or still:
            self._told_at, self._told = time.monotonic(), journey.part
            details = " ".join(next(details_of(journey, self._phase)).split())
            log.info("%s %s: %d %%, %s", self._phase, journey.name, 100 * journey.part, details)


def progress_shown(handler: BarSafeHandler, *, quiet: bool) -> Progress:
    """Return the bar, where a terminal shows it and tqdm draws it; otherwise lines; or neither."""
    if quiet:
        return Progress()
    if not sys.stderr.isatty():
        return Lines()
    try:
        return Bar(handler)
    except ImportError:
        log.warning("no progress bar without tqdm; to get it: python -m pip install tqdm")
        return Lines()


def _width() -> int:
    """Return the columns to use: all but the last one, where some terminals begin a new line."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal
        columns = 0
    return max(columns or 80, 20) - 1  # a new terminal may say 0


def _literal(text: str) -> str:
    """Return ``text`` as a part of a format that means itself."""
    return text.replace("{", "{{").replace("}", "}}")


def texts_of(journey: Journey, phase: str, width: int, gap: str = "…") -> tuple[str, str]:
    """Return what stands before and after the bar on a line of ``width`` columns.

    Where it is narrow, bytes go first, then the rate, then the time left; percentage and name stay.
    A long name loses its middle.
    """
    for word, details in _choices(journey, phase):
        before = f"{word} " if word else ""
        middle, after = f": {100 * journey.part:3.0f}%|", f"| {details}" if details else "|"
        if journey.part < 1:  # 100 means all of it
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
        yield f"{amount}, {rate}, {left}"
        yield f"{rate}, {left}"
        yield left
    else:
        yield amount


def _amount(at: int, size: int) -> str:
    """Return how much of how much, in one unit: ``10.2/30.0 MB``."""
    number, unit = format_size(size).split()
    part = f"{at}" if unit == "bytes" else f"{at / (size / float(number)):.1f}"
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
