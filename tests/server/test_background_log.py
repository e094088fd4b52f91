"""The log of a server: its thread may wait for ever, nothing else does."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator

import pytest

import config
from lft.server.background_log import BackgroundLog, DroppingHandler
from lft.terminal import LogFormatter
from tests.support.files import random_file
from tests.support.processes import ROOT, environment, full_pipe, run_client
from tests.support.waiting import PATIENCE, eventually

log = logging.getLogger("server")


class Writer(logging.Handler):
    """Keeps lines; writes only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.go_on.wait(PATIENCE)
        self.lines.append(record.getMessage())


@pytest.fixture
def writer() -> Iterator[Writer]:
    """A log that is not read until ``go_on`` is set."""
    one = Writer()
    yield one
    one.go_on.set()


def test_lines_are_written_in_order_and_all_of_them_at_the_end(writer: Writer) -> None:
    """Whoever stops the log finds every line in it."""
    writer.go_on.set()
    background = BackgroundLog(writer)
    background.start()
    for number in range(100):
        log.warning("line %d", number)
    assert background.stop()
    assert writer.lines == [f"line {number}" for number in range(100)]


def test_a_log_that_is_not_read_holds_up_nothing_and_tells_of_it_later(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is dropped, counted and told."""
    monkeypatch.setattr(config, "LOG_QUEUE", 5)
    background = BackgroundLog(writer)
    background.start()
    for _ in range(20):
        log.warning("line")
    writer.go_on.set()
    assert background.stop()
    told = writer.lines[-1]
    assert told.endswith("the log was not read fast enough")
    assert len(writer.lines) - 1 + int(told.split()[0]) == 20


def test_a_log_that_is_never_read_does_not_hold_up_the_end(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told, so that it does not wait for the thread either."""
    monkeypatch.setattr(config, "LOG_PATIENCE", 0.2)
    background = BackgroundLog(writer)
    background.start()
    log.warning("line")
    assert not background.stop()


def test_a_flush_waits_for_the_line_that_is_being_written_but_not_for_ever(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the watchdog's own words reach the log before it ends the process."""
    background = BackgroundLog(writer)
    background.start()
    log.warning("line")
    (handler,) = logging.getLogger().handlers
    with monkeypatch.context() as patch:
        patch.setattr(config, "LOG_PATIENCE", 0.01)
        handler.flush()
    assert writer.lines == []
    writer.go_on.set()
    handler.flush()
    assert writer.lines == ["line"]
    assert background.stop()


def test_an_argument_that_changes_later_does_not_change_the_line(writer: Writer) -> None:
    """A line says what was so when it was logged."""
    background = BackgroundLog(writer)
    background.start()
    facts = ["before"]
    log.warning("%s", facts)
    facts[0] = "after"
    writer.go_on.set()
    assert background.stop()
    assert writer.lines == ["['before']"]


def test_a_server_whose_log_is_not_read_serves_and_stops(tmp_path: Path) -> None:
    """FAULTS 28 and 38: a pipe that is full, as Ctrl-S on a terminal."""
    options = ["--port", "0", "--output", str(tmp_path / "out"), "--log-level", "DEBUG"]
    with full_pipe() as write, subprocess.Popen(
        [sys.executable, str(ROOT / "server.py"), *options],
        stdout=subprocess.PIPE, stderr=write, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        done = run_client(port, random_file(tmp_path / "x", 1_000_000))
        process.terminate()
        eventually(lambda: process.poll() is not None, "the server to end")
    assert (done.returncode, process.returncode) == (0, 0)


def test_a_line_that_waits_keeps_no_frame_of_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The frames would keep the blocks that they had until the line is written."""
    handler = DroppingHandler(1)
    try:
        raise ValueError("a bug")
    except ValueError:
        log.exception("it failed")
    handler.handle(caplog.records[0])
    record = handler.queue.get_nowait()
    assert record is not None
    assert record.exc_info is None
    assert "ValueError: a bug" in LogFormatter(colour=False).format(record)
