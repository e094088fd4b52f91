"""The thread that writes the history: whatever stops it, no other thread waits."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Iterator

import pytest

import config
from lft.server.recorder import Recorder
from lft.store.history import database_name
from lft.store.paths import PARTIAL
from tests.support.history import entry, names
from tests.support.outputs import lines
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing take longer than a test should."""
    monkeypatch.setattr(config, "HISTORY_GATHER", 0.01)
    monkeypatch.setattr(config, "HISTORY_LOCK_WAIT", 0.01)
    monkeypatch.setattr(config, "HISTORY_AGAIN", 0.02)
    monkeypatch.setattr(config, "HISTORY_AGE", 3e9)  # seconds: what is from 1970 stays


@pytest.fixture
def recorder(output: Path) -> Iterator[Recorder]:
    """A recorder at work."""
    one = Recorder(output)
    one.start()
    yield one
    one.stop()
    eventually(lambda: not any(thread.name == "history" for thread in threading.enumerate()))


def database(output: Path) -> Path:
    """Return the path of the database of an output directory."""
    return output / PARTIAL / database_name()


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep everyone else from the database."""
    with contextlib.closing(sqlite3.connect(database(output), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def wait_for(output: Path, *found: str) -> None:
    """Wait until the history has these names, newest first."""
    eventually(lambda: names(output) == list(found), f"{found} in the history")


def test_entries_are_written_soon(output: Path, recorder: Recorder) -> None:
    """While the server runs; the reader is another connection."""
    recorder.add(entry("a", 1))
    wait_for(output, "a")
    recorder.add(entry("b", 2))
    wait_for(output, "b", "a")


def test_what_waits_is_written_at_the_end(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what came in the moment before."""
    monkeypatch.setattr(config, "HISTORY_GATHER", 3600.0)
    recorder = Recorder(output)
    recorder.start()
    recorder.add(entry("a"))
    recorder.stop()
    assert names(output) == ["a"]


def test_a_place_is_known_before_it_is_written(output: Path, recorder: Recorder) -> None:
    """A client may ask again for a file at once; each place is given once."""
    recorder.add(entry("x", 1))
    wait_for(output, "x")
    with locked(output):
        recorder.add(entry("x", 2))
        recorder.add(entry("x", 1))
        recorder.add(entry("x", 3, outcome="refused"))
        recorder.add(entry("x", 4, user="bob"))
        assert recorder.published("ann", "x")[0].saved_as == "server_received_1_x"
        assert {one.ended for one in recorder.published("ann", "x")} == {1, 2}


def test_a_locked_history_is_told_once_and_written_later(
    output: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator may look into it with a tool that locks it."""
    recorder.add(entry("a", 1))
    wait_for(output, "a")
    with locked(output):
        recorder.add(entry("b", 2))
        eventually(lambda: lines(caplog, "cannot be written"))
        recorder.add(entry("c", 3))
    wait_for(output, "c", "b", "a")
    eventually(lambda: lines(caplog, "written again; 0 entries are missing"))
    assert len(lines(caplog, "cannot be written: database is locked")) == 1


def test_what_does_not_fit_is_dropped_and_counted(
    output: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Memory stays bounded, whatever the disk does."""
    recorder.add(entry("a", 1))
    wait_for(output, "a")
    monkeypatch.setattr(recorder, "_room", 2)
    with locked(output):
        for i in range(2, 7):
            recorder.add(entry(str(i), i))
        eventually(lambda: lines(caplog, "cannot be written"))
    wait_for(output, "3", "2", "a")
    eventually(lambda: lines(caplog, "written again; 3 entries are missing"))


def test_a_damaged_history_is_set_aside_and_a_new_one_begins(
    output: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of what comes from then on is lost."""
    database(output).write_bytes(b"no database" * 1000)
    recorder.add(entry("a"))
    wait_for(output, "a")
    assert len(lines(caplog, "the history was damaged")) == 1
    assert (output / PARTIAL / "history.sqlite.damaged").read_bytes()[:11] == b"no database"


def test_a_history_that_cannot_be_set_aside_is_told_once(
    output: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server goes on, and tries again."""
    tries = []

    def fail(*_: object) -> None:
        tries.append(1)
        raise OSError(30, "Read-only file system")

    database(output).write_bytes(b"no database" * 1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        recorder.add(entry("a"))
        eventually(lambda: len(tries) > 8)
    wait_for(output, "a")
    assert len(lines(caplog, "cannot be set aside: Read-only file system")) == 1


def test_a_history_that_was_removed_is_made_anew(output: Path, recorder: Recorder) -> None:
    """An operator may do so while the server runs."""
    recorder.add(entry("a", 1))
    wait_for(output, "a")
    for path in (output / PARTIAL).glob("history*"):
        path.unlink()
    recorder.add(entry("b", 2))
    wait_for(output, "b")


def test_without_the_module_it_is_told_once_and_nothing_is_kept(
    output: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither time nor memory goes into what cannot be written."""
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    recorder.add(entry("a"))
    eventually(lambda: lines(caplog, "there is no history: this Python has no sqlite3"))
    recorder.add(entry("b"))
    assert recorder.published("ann", "b") == []
    recorder.stop()
    assert not database(output).exists()


def test_a_bug_costs_entries_and_not_the_thread(
    output: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged with its traceback."""
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_open", lambda _: 1 / 0)
        recorder.add(entry("a"))
        eventually(lambda: "ZeroDivisionError" in caplog.text)
    recorder.add(entry("b"))
    wait_for(output, "b")


def test_old_entries_go_now_and_then(
    output: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes removes, too."""
    monkeypatch.setattr(config, "HISTORY_RECEIVED", 3)
    monkeypatch.setattr(config, "HISTORY_PRUNE_EVERY", 2)
    for i in range(6):
        recorder.add(entry(str(i), i))
    wait_for(output, "5", "4", "3")


def test_a_disk_that_hangs_holds_up_neither_a_worker_nor_the_end(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end goes on without the last entries, and says so."""
    monkeypatch.setattr(config, "HISTORY_CLOSING", 0.05)
    dead = threading.Event()
    monkeypatch.setattr(Recorder, "_open", lambda _: dead.wait())
    recorder = Recorder(output)
    recorder.start()
    recorder.add(entry("a"))
    recorder.stop()
    assert lines(caplog, "its disk hangs")
    monkeypatch.undo()
    dead.set()
    recorder._thread.join()
