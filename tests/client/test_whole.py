"""The bar over directories and over several arguments: files, which argument, the total."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config import MB, ClientSettings
from lft.client.bar import SENDING, Bar, Lines, texts_of
from lft.client.canvas import Canvas
from lft.client.progress import Journey
from lft.client.whole import Whole, whole_of
from tests.support.directories import make_tree
from tests.support.files import random_file
from tests.support.waiting import SleepClock


class Paper(Canvas):
    """Keeps the line that was drawn last."""

    line = ""

    def draw(self, before: str, part: float, after: str, width: int) -> None:
        self.line = f"{before}{after} {part:.2f}"


@pytest.fixture
def bar() -> Bar:
    return Bar(Paper())


def line_of(bar: Bar) -> str:
    """Return what a bar shows."""
    bar._draw()
    assert isinstance(bar._canvas, Paper)
    return bar._canvas.line


def on_the_way(clock: SleepClock) -> Journey:
    """Return a directory of 10,000 files, a third of which is there after ten seconds."""
    one = Journey("holiday-photos", 98 * MB)
    for step in range(1, 11):
        clock.now += 1
        one.move(step * one.size // 31, step * one.size // 31, 0, sending=True)  # type: ignore[operator]
    one.files = 3120, 10_000
    return one


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (107, r"sending .*:  32%\|\| 3,120 of 10,000 files, 31.6/98.0 MB,   3.2 MB/s,  0:21 left"),
        (77, r"sending .*:  32%\|\| 3,120/10,000 files, 31.6/98.0 MB, 0:21 left"),
        (64, r"sending .*:  32%\|\| 3,120/10,000 files, 0:21 left"),
        (37, r"holid.*:  32%\|\|  0:21 left"),
    ],
)
def test_a_directory_shows_how_many_files_are_there(
    width: int, shown: str, clock: SleepClock
) -> None:
    """With bytes and time left where there is room."""
    assert re.fullmatch(shown, "".join(texts_of(on_the_way(clock), SENDING, width)))


def test_files_are_counted_as_their_bytes_arrive(bar: Bar) -> None:
    """Acknowledged bytes tell how many of the files are complete."""
    bar.begin("photos", 100)
    bar.count_files(4, lambda size: size // 25)
    bar.phase(SENDING)
    bar.move(60, 60)
    assert "2 of 4 files" in line_of(bar)
    bar.end()
    bar.begin("photos", 100)  # another one, a file
    bar.move(60, 60)
    assert "files" not in line_of(bar)


def send(bar: Bar, name: str, size: int, at: int) -> None:
    bar.begin(name, size)
    bar.phase(SENDING)
    bar.move(at, at)


def test_several_arguments_are_shown_as_one_whole(bar: Bar, tmp_path: Path) -> None:
    """Which one it is, and a bar over the bytes of all."""
    paths = [random_file(tmp_path / str(size), size) for size in (100, 200, 700)]
    bar.plan(paths, ClientSettings())
    send(bar, "100", 100, 50)
    assert line_of(bar) == "sending 1/3 100:   5%||   50/1000 bytes 0.05"
    bar.end()
    bar.settle()
    send(bar, "200", 200, 100)
    assert line_of(bar) == "sending 2/3 200:  20%||  200/1000 bytes 0.20"
    bar.end()
    bar.settle()
    send(bar, "700", 900, 900)  # it grew meanwhile
    assert line_of(bar) == "sending 3/3 700: 100%|| 1000/1000 bytes 1.00"


def test_a_directory_among_several_arguments_counts_its_files(bar: Bar, tmp_path: Path) -> None:
    """Files of all arguments, not arguments."""
    top = make_tree(tmp_path / "top", ["a", "b", "c/d", "x.o"])
    paths = [random_file(tmp_path / "file", 100), top]
    bar.plan(paths, ClientSettings(exclude=("*.o",)))
    send(bar, "file", 100, 100)
    bar.end()
    bar.settle()
    bar.begin("top", 5)
    bar.count_files(3, lambda size: min(size, 2))
    bar.phase(SENDING)
    bar.move(2, 2)
    assert line_of(bar) == "sending 2/2 top:  97%|| 3 of 4 files, 102/105 bytes 0.97"


def test_the_rate_is_that_of_all(clock: SleepClock) -> None:
    """A thousand small files have one rate and one time left."""
    whole = Whole([MB] * 100, [1] * 100)
    for _ in range(50):
        clock.now += 1
        one = Journey("x", MB)
        one.move(MB, MB, 0, sending=True)
        whole.follow(one, sending=True)
        whole.settle()
    shown = whole.named_as(one)
    assert shown.rate == pytest.approx(MB, rel=0.1)
    assert shown.seconds_left == pytest.approx(50, rel=0.1)


def test_what_nothing_tells_the_size_of_is_no_whole() -> None:
    """Standard input has its own line, as ever."""
    assert whole_of([Path("-"), Path("a")], ClientSettings()) is None


def test_lines_say_which_argument_it_is(
    caplog: pytest.LogCaptureFixture, clock: SleepClock
) -> None:
    """Where there is no bar."""
    caplog.set_level("INFO")
    lines = Lines()
    lines.plan([Path("a"), Path("b")], ClientSettings())
    lines.settle()
    lines.begin("b", 100)
    lines.phase(SENDING)
    clock.now += 100
    lines.move(50, 50)
    assert caplog.messages[-1].startswith("sending 2/2 b: 50 %")
