"""The progress bar, and the lines in its place."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path

import pytest

from client import send_files
from config import GB, MB
from lft.client.bar import CHECKING, SENDING, Bar, Lines, details_of, texts_of
from lft.client.canvas import Canvas
from lft.client.delivery import Delivery, Steps
from lft.client.progress import Journey, Progress
from lft.client.receipt import Receipt
from lft.client.upload import Upload
from lft.terminal import columns_of
from protocol import ConnectionLostError
from tests.support.files import random_file
from tests.support.local import StartLocal
from tests.support.waiting import SleepClock

LOST = ConnectionLostError("lost")


class Paper(Canvas):
    """Keeps what is drawn."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, float]] = []
        self.cleared = 0

    def draw(self, before: str, part: float, after: str, width: int) -> None:
        self.drawn.append((before, part))

    def write(self, text: str) -> None:
        self.drawn.append((text, 0.0))

    def clear(self) -> None:
        self.cleared += 1


@pytest.fixture
def paper() -> Paper:
    return Paper()


def test_a_bar_goes_on_in_the_next_session(paper: Paper) -> None:
    """The same file is not begun anew."""
    bar = Bar(paper)
    bar.phase("connecting")
    bar.begin("x", 100)
    cleared = paper.cleared
    bar.phase(SENDING)
    bar.move(60, 60)
    bar.phase("connecting")
    bar.begin("x", 100)
    bar.phase(CHECKING)
    bar.move(40, 60)  # what the next server has to begin with
    bar.phase("waiting")
    assert paper.drawn[0] == ("connecting", 0.0)
    assert paper.drawn[-1] == ("waiting x:  40%|", 0.4)
    assert paper.cleared == cleared


@pytest.mark.parametrize(("name", "size"), [("y", 100), ("x", 101)])
def test_another_file_gets_a_bar_of_its_own(paper: Paper, name: str, size: int) -> None:
    """Also one that has grown between two sessions."""
    bar = Bar(paper)
    bar.begin("x", 100)
    bar.move(60, 60)
    bar.begin(name, size)
    assert paper.drawn[-1][1] == 0.0


def test_the_bar_goes_away_with_its_file(paper: Paper) -> None:
    """The verdict tells what became of it."""
    bar = Bar(paper)
    bar.begin("x", 100)
    before = paper.cleared
    bar.end()
    assert paper.cleared == before + 1


def test_a_bar_is_not_drawn_more_often_than_it_is_seen(paper: Paper, clock: SleepClock) -> None:
    """The main loop may turn much faster."""
    bar = Bar(paper)
    bar.begin("x", 100)
    count = len(paper.drawn)
    for _ in range(100):
        clock.now += 0.01
        bar.move(1, 1)
    assert 8 <= len(paper.drawn) - count <= 12


def test_a_lost_session_leaves_the_bar_to_the_next(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended once, when the file has arrived."""
    local, told = start_local(), []
    supervise = Delivery._supervise

    class Recorder(Progress):
        def begin(self, name: str, size: int | None) -> None:
            told.append("begin")

        def end(self) -> None:
            told.append("end")

    def once(_delivery: Delivery, _upload: Upload) -> Steps[Receipt]:
        monkeypatch.setattr(Delivery, "_supervise", supervise)
        yield
        raise LOST

    monkeypatch.setattr(Delivery, "_supervise", once)
    send_files([random_file(tmp_path / "x", 10)], local.client(), Recorder())
    assert told == ["begin", "begin", "end"]


# --- what stands in the bar ---------------------------------------------------------------------

LONG = "holiday-film-" * 13 + "part.mkv"
NAMES = ["x", "short.bin", LONG, "長い名前" * 10 + ".mkv"]


def _on_the_way(clock: SleepClock, name: str = "x", size: int = 30 * MB) -> Journey:
    """Return a file of which a third was sent, at 1 MB/s."""
    one = Journey(name, size)
    for step in range(1, 11):
        clock.now += 1
        one.move(step * size // 30, step * size // 30, 0, sending=True)
    return one


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [110, 80, 40, 20])
@pytest.mark.parametrize("size", [30 * MB, 900 * GB])
@pytest.mark.parametrize("phase", [SENDING, CHECKING, "verifying"])
def test_the_texts_leave_room_for_a_bar(
    name: str, width: int, size: int, phase: str, clock: SleepClock
) -> None:
    """Of a long name the middle goes; no line is longer than the terminal is wide."""
    before, after = texts_of(_on_the_way(clock, name, size), phase, width)
    assert columns_of(before + after) + min(8, width // 5) <= width
    assert " 33%|" in before


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (
            110,
            r"sending holiday-film-\S+…\S+part.mkv:  33%\|\| 10.0/30.0 MB,   1.0 MB/s,  0:20 left",
        ),
        (80, r"sending holida\S*…\S*art.mkv:  33%\|\| 10.0/30.0 MB,   1.0 MB/s,  0:20 left"),
        (60, r"sending \S+…\S+:  33%\|\|   1.0 MB/s,  0:20 left"),
        (50, r"sending \S+…\S+:  33%\|\|  0:20 left"),
        (40, r"holid\S+…\S+mkv:  33%\|\|  0:20 left"),
        (24, r"\S+…\S+:  33%\|\|"),
    ],
)
def test_a_narrow_line_keeps_what_matters_most(width: int, shown: str, clock: SleepClock) -> None:
    """Bytes go first, then the rate, then the time left; the percentage stays."""
    assert re.fullmatch(shown, "".join(texts_of(_on_the_way(clock, LONG), SENDING, width)))


@pytest.mark.parametrize("width", [110, 80, 40])
def test_a_stalled_server_is_told(width: int, clock: SleepClock) -> None:
    """It must not look healthy, on a narrow line either."""
    one = _on_the_way(clock)
    for _ in range(12):
        clock.now += 1
        one.move(one.at, one.sent, 0, sending=True)
    _, after = texts_of(one, SENDING, width)
    assert re.search(r"(no progress for|stalled) 12 s$", after)
    assert "left" not in after


def test_a_long_verification_is_seen_to_go_on(clock: SleepClock) -> None:
    """All has been sent, and the server reads back what an earlier attempt has left."""
    one = _on_the_way(clock)
    one.move(30 * MB, 30 * MB, 12 * MB, sending=False)
    assert "".join(texts_of(one, "verifying", 80)) == "verifying x: 100%|| 12.0/30.0 MB verified"


def test_all_that_is_known_of_a_fast_file_is_no_claim_of_its_end(clock: SleepClock) -> None:
    """100 % means all of it."""
    one = Journey("x", 10_000)
    one.move(9_999, 9_999, 0, sending=True)
    assert ":  99%|" in texts_of(one, SENDING, 80)[0]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(5, "0:05"), (600, "10:00"), (3723, "1:02:03"), (90000, "1 d 1 h")],
)
def test_the_time_left_is_said_as_on_a_clock(seconds: int, shown: str, clock: SleepClock) -> None:
    """Or in days, where seconds mean nothing."""
    one = Journey("x", MB * (seconds + 1))
    clock.now += 1
    one.move(MB, MB, 0, sending=True)
    assert next(details_of(one, SENDING)).endswith(f", {shown:>5} left")


# --- lines in its place -------------------------------------------------------------------------


def _lines(
    seconds: int, caplog: pytest.LogCaptureFixture, clock: SleepClock, stop: float = 1.0
) -> list[str]:
    """Return what is logged of a file that takes so long, and stands still at ``stop``."""
    caplog.set_level(logging.INFO)
    lines = Lines()
    lines.begin("x", 1000 * MB)
    lines.phase(SENDING)
    for second in itertools.islice(itertools.count(), seconds):
        clock.now += 1
        at = int(min(stop, (second + 1) / seconds) * 1000 * MB)
        lines.move(at, at)
    return [record.message for record in caplog.records]


def test_a_small_file_has_no_line(caplog: pytest.LogCaptureFixture, clock: SleepClock) -> None:
    """The verdict comes soon enough."""
    assert _lines(50, caplog, clock) == []


def test_a_file_of_some_minutes_has_a_line_a_minute(
    caplog: pytest.LogCaptureFixture, clock: SleepClock
) -> None:
    """Not one for each tenth: they would come too often."""
    lines = _lines(250, caplog, clock)
    assert len(lines) == 4
    assert lines[0] == "sending x: 24 %, 240.0/1000.0 MB, 4.0 MB/s, 3:10 left"


def test_a_file_of_many_hours_has_a_line_for_each_tenth(
    caplog: pytest.LogCaptureFixture, clock: SleepClock
) -> None:
    """Not one a minute: nobody reads those."""
    assert len(_lines(36_000, caplog, clock)) == 9  # the verdict is the tenth


def test_a_file_that_stands_still_is_told_once_a_minute(
    caplog: pytest.LogCaptureFixture, clock: SleepClock
) -> None:
    """A log should not fall silent over it."""
    lines = _lines(300, caplog, clock, stop=0.1)
    assert [line.rpartition(", ")[2] for line in lines] == [
        f"no progress for {seconds} s" for seconds in (30, 90, 150, 210, 270)
    ]
