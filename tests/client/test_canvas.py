"""The line that the bar is drawn on, with tqdm and without."""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import Callable

import pytest
from tqdm import tqdm

from lft.client.canvas import Canvas, PlainCanvas, TqdmCanvas, canvas_for
from lft.terminal import BarSafeHandler
from tests.tools.picture import Screen

Kind = Callable[[BarSafeHandler], Canvas]
BOTH = pytest.mark.parametrize("kind", [TqdmCanvas, PlainCanvas])


class Stream(io.StringIO):
    """Standard error, as a terminal shows it."""

    encoding = "utf-8"

    @property
    def lines(self) -> list[str]:
        """The lines that can be seen."""
        screen = Screen()
        screen.feed(self.getvalue().replace("\n", "\r\n"))
        return str(screen).rstrip().split("\n")


Make = Callable[[Kind], "tuple[Stream, BarSafeHandler, Canvas]"]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes a canvas on a standard error of its own, while the test runs."""

    def one(kind: Kind) -> tuple[Stream, BarSafeHandler, Canvas]:
        stream = Stream()
        handler = BarSafeHandler(stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream, handler, kind(handler)

    return one


def _same(one: object) -> object:
    return one


def _tell(handler: BarSafeHandler, line: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": line}))


@BOTH
def test_a_bar_stands_between_its_texts(make: Make, kind: Kind) -> None:
    """It takes the columns that they leave."""
    stream, _, canvas = make(kind)
    canvas.draw("sending x:  50%|", 0.5, "| 0:04 left", 47)
    (line,) = stream.lines
    assert line.startswith("sending x:  50%|")
    assert line.endswith("| 0:04 left")
    assert len(line) == 47
    assert len(line.split("|")[1].rstrip()) == 10


@BOTH
def test_a_bar_makes_way_for_log_lines(make: Make, kind: Kind) -> None:
    """And stands below them afterwards."""
    stream, handler, canvas = make(kind)
    canvas.draw("sending x:  50%|", 0.5, "| 0:04 left", 50)
    _tell(handler, "short")
    canvas.draw("x:  60%|", 0.6, "|", 30)
    _tell(handler, "lines")
    assert stream.lines[:2] == ["short", "lines"]
    assert stream.lines[2].startswith("x:  60%|")
    assert stream.lines[2].endswith("|")
    assert len(stream.lines) == 3


@BOTH
def test_a_bar_that_is_cleared_leaves_nothing(make: Make, kind: Kind) -> None:
    """What is written next begins at the left."""
    stream, handler, canvas = make(kind)
    canvas.write("connecting")
    canvas.draw("sending x:  50%|", 0.5, "| 0:04 left", 50)
    canvas.clear()
    canvas.clear()
    stream.write("verdict")
    _tell(handler, "")
    assert stream.lines == ["verdict"]


@BOTH
def test_a_name_in_braces_means_itself(make: Make, kind: Kind) -> None:
    """tqdm takes what stands in braces for one of its own values."""
    stream, _, canvas = make(kind)
    canvas.draw("{rate} {}:   0%|", 0.0, "|", 40)
    assert stream.lines[0].startswith("{rate} {}:   0%|")
    canvas.write("{n}")
    assert stream.lines[0].startswith("{n}")


@pytest.mark.parametrize(
    ("moment", "kind"), [("refresh", _same), ("_decr_instances", staticmethod)]
)
def test_a_bar_that_appears_or_goes_does_not_meet_a_line_of_another_thread(
    make: Make, monkeypatch: pytest.MonkeyPatch, moment: str, kind: Callable[[object], object]
) -> None:
    """tqdm shows it before it knows it, and forgets it before it is gone."""
    stream, handler, canvas = make(TqdmCanvas)

    def tell() -> None:
        if handler.lock and handler.lock.acquire(blocking=False):
            handler.show("line")
            handler.lock.release()

    def hooked(*arguments: object, **named: object) -> None:
        real(*arguments, **named)
        other = threading.Thread(target=tell)
        other.start()
        other.join()

    real = getattr(tqdm, moment)
    monkeypatch.setattr(tqdm, moment, kind(hooked))
    canvas.draw("sending x:  50%|", 0.5, "| 0:04 left", 50)
    canvas.clear()
    handler.show("line")
    assert set(stream.lines) == {"line"}


def test_without_tqdm_there_is_a_bar_of_letters(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And one line that says how to get the better one."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(make(canvas_for)[2], PlainCanvas)
    assert "python -m pip install tqdm" in caplog.text
