"""The watchdog, and threads that the system does not give."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from config import ServerSettings
from lft.server.watchdog import Watchdog
from protocol import UsageError
from server import Server
from tests.support.local import DEMO
from tests.support.waiting import eventually


def test_a_watchdog_ends_what_does_not_end_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """38: at its instant, and not before."""
    ended = threading.Event()
    monkeypatch.setattr("lft.server.watchdog._give_up", ended.set)
    watchdog = Watchdog()
    watchdog.start()
    watchdog.end_within(3600.0)
    assert not ended.is_set()
    watchdog.end_within(0.0)
    eventually(ended.is_set, "the end")
    watchdog.dismiss()


def test_a_second_instant_never_puts_the_first_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grace period ends when it was said to."""
    ended = threading.Event()
    monkeypatch.setattr("lft.server.watchdog._give_up", ended.set)
    watchdog = Watchdog()
    watchdog.end_within(0.0)
    watchdog.end_within(3600.0)
    watchdog.start()
    eventually(ended.is_set, "the end")
    watchdog.dismiss()


def test_a_server_that_gets_no_threads_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say that it listens, and serve no client; output directory and port are free."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "worker_3":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(UsageError, match="no threads"):
            Server(ServerSettings(port=0, output=tmp_path), lambda: DEMO)
    server = Server(ServerSettings(port=0, output=tmp_path), lambda: DEMO)
    server._close()
