"""The progress bar, across files and sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

import client as client_module
from client import send_files
from lft.client.progress import Bar, Progress
from lft.client.receipt import Receipt
from lft.client.upload import Upload
from lft.terminal import BarSafeHandler
from protocol import ConnectionLostError
from tests.support.files import random_file
from tests.support.local import StartLocal

LOST = ConnectionLostError("lost")


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bar]:
    """A bar that draws into nothing."""
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr("sys.stderr", nowhere)
        one = Bar(BarSafeHandler(nowhere))
        yield one
        one.end()


def test_a_bar_goes_on_in_the_next_session(bar: Bar) -> None:
    """The same file is not begun anew; a second bar would stay torn on the terminal."""
    bar.begin("x", 100)
    first = bar._bar
    bar.move(60, 0)
    bar.phase("connecting")
    bar.begin("x", 100)
    bar.move(40, 0)  # what the next server has to begin with
    assert bar._bar is first
    assert bar._bar.n == 40
    assert bar._bar.desc == "connecting x: "


@pytest.mark.parametrize(("name", "size"), [("y", 100), ("x", 101)])
def test_another_file_gets_a_bar_of_its_own(bar: Bar, name: str, size: int) -> None:
    """Also one that has grown between two sessions."""
    bar.begin("x", 100)
    first = bar._bar
    bar.begin(name, size)
    assert bar._bar is not first
    assert first.disable


def test_a_lost_session_leaves_the_bar_to_the_next(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended once, when the file has arrived."""
    local, told = start_local(), []
    supervise = client_module.ClientSession._supervise

    class Recorder(Progress):
        def begin(self, name: str, size: int) -> None:
            told.append("begin")

        def end(self) -> None:
            told.append("end")

    def once(session: client_module.ClientSession, upload: Upload) -> Receipt:
        monkeypatch.setattr(client_module.ClientSession, "_supervise", supervise)
        raise LOST

    monkeypatch.setattr(client_module.ClientSession, "_supervise", once)
    send_files([random_file(tmp_path / "x", 10)], local.client(), Recorder())
    assert told == ["begin", "begin", "end"]
