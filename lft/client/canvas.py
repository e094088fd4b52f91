"""Where a bar is drawn: on the last line of standard error, by tqdm or, without it, in letters."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Iterator

from lft.terminal import BarSafeHandler, columns_of, wants_words

log = logging.getLogger("client")


class Canvas:
    """A line that shows a bar between two texts, and makes way for log lines; here a blank one."""

    def draw(self, before: str, part: float, after: str, width: int) -> None:
        """Show a bar of which ``part`` is full, with its texts, in ``width`` columns."""

    def write(self, text: str) -> None:
        """Show a text without a bar."""

    def clear(self) -> None:
        """Take away what is shown."""


class TqdmCanvas(Canvas):
    """tqdm draws the bar, and takes it away while a log line is written.

    But not one that just appears or goes: a line of another thread would stand behind it. So that
    is done while the handler is held.
    """

    def __init__(self, handler: BarSafeHandler) -> None:
        """Raise ``ImportError`` where there is no tqdm."""
        # loaded here: the import takes 30 ms, and most runs have no bar
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.monitor_interval = 0  # its extra thread is for bars that stand still
        self._tqdm = tqdm
        self._bar: Any = None
        self._words = wants_words(sys.stderr)
        self._held = handler.held
        with handler.held():
            handler.around = lambda: tqdm.external_write_mode(file=sys.stderr)

    def draw(self, before: str, part: float, after: str, width: int) -> None:
        self._show(f"{_literal(before)}{{bar}}{_literal(after)}", part, width)

    def write(self, text: str) -> None:
        self._show(_literal(text), 0.0, columns_of(text))

    def _show(self, form: str, part: float, width: int) -> None:
        if self._bar is None:
            with self._held():
                self._bar = self._tqdm(
                    total=1, initial=part, bar_format=form, ncols=width, leave=False,
                    ascii=self._words or None, mininterval=0,
                )  # fmt: skip
            return
        self._bar.bar_format, self._bar.ncols, self._bar.n = form, width, part
        self._bar.refresh()

    def clear(self) -> None:
        if self._bar is not None:
            with self._held():
                self._bar.close()
            self._bar = None


def _literal(text: str) -> str:
    """Return ``text`` as a part of a format that means itself."""
    return text.replace("{", "{{").replace("}", "}}")


class PlainCanvas(Canvas):
    """A bar of letters, for machines without tqdm. What is shown is under the handler's lock."""

    def __init__(self, handler: BarSafeHandler) -> None:
        self._held = handler.held
        self._shown = ""
        with handler.held():
            handler.around = self._away

    def draw(self, before: str, part: float, after: str, width: int) -> None:
        room = max(1, width - columns_of(before + after))
        self.write(before + ("#" * int(part * room)).ljust(room) + after)

    def write(self, text: str) -> None:
        with self._held():
            self._put(text)

    def clear(self) -> None:
        if self._shown:
            self.write("")

    def _put(self, text: str) -> None:
        """Overwrite what is shown by ``text`` (under the handler's lock)."""
        rest = max(0, columns_of(self._shown) - columns_of(text))
        sys.stderr.write(f"\r{text}{' ' * rest}" + ("" if text else "\r"))
        sys.stderr.flush()
        self._shown = text

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """Take the bar away while a log line is written (under the handler's lock)."""
        shown = self._shown
        if shown:
            self._put("")
        try:
            yield
        finally:
            if shown:
                self._put(shown)


def canvas_for(handler: BarSafeHandler) -> Canvas:
    """Return the best canvas that there is."""
    try:
        return TqdmCanvas(handler)
    except ImportError:
        log.warning("the bar is plain without tqdm; to get it: python -m pip install tqdm")
        return PlainCanvas(handler)
