"""How much of the log a client may fill."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import config
from config import KB
from lft.server import log_limit
from lft.server.log_limit import LogLimit, speaking_for
from lft.terminal import SUCCESS
from protocol import FileStart, Rejected
from tests.support.processes import ServerProcess
from tests.support.rawpeer import ANY_MD5, RawClient
from tests.support.waiting import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that moves when a test says so."""
    one = Clock()
    monkeypatch.setattr(log_limit, "time", one)
    return one


def _line(text: str = "x" * (KB - config.LOG_LINE), **more: Any) -> logging.LogRecord:
    values = {"levelno": logging.INFO, "msg": text, **more}
    return logging.makeLogRecord(values)


def _fill(limit: LogLimit, owner: str) -> int:
    """Log lines of 1 KB for ``owner`` until one is left out; return how many were not."""
    with speaking_for(owner):
        for count in range(10 * config.LOG_BURST // KB):
            if not limit.lets(_line()):
                return count
    return -1


def test_an_owner_may_fill_its_share_and_no_more(clock: Clock) -> None:
    """After a pause a burst, then so many bytes in a second."""
    limit = LogLimit()
    assert _fill(limit, "a") == config.LOG_BURST // KB
    clock.now += 10
    assert _fill(limit, "a") == 10 * config.LOG_RATE // KB


@pytest.mark.usefixtures("clock")
def test_owners_have_shares_of_their_own() -> None:
    """A user who floods the log keeps no other out of it, and not the server itself."""
    limit = LogLimit()
    _fill(limit, "a")
    assert _fill(limit, "b") == config.LOG_BURST // KB
    assert limit.lets(_line())


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("more", [SUCCESS, {"levelno": logging.DEBUG}])
def test_what_was_saved_is_always_logged(more: dict[str, Any]) -> None:
    """So is what the operator asked for with the level DEBUG."""
    limit = LogLimit()
    _fill(limit, "a")
    with speaking_for("a"):
        assert limit.lets(_line(**more))


@pytest.mark.usefixtures("clock")
def test_bytes_count_as_they_are_written() -> None:
    """A hidden character is written as six, or as ten."""
    limit = LogLimit()
    with speaking_for("a"):
        fits = [limit.lets(_line("\u200b" * KB)) for _ in range(config.LOG_BURST // KB)]
    assert sum(fits) <= config.LOG_BURST // (6 * KB) + 1


@pytest.mark.usefixtures("clock")
def test_what_was_left_out_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of owners that are forgotten, because there are so many."""
    monkeypatch.setattr(config, "LOG_OWNERS", 2)
    limit = LogLimit()
    for owner in "abc":
        _fill(limit, owner)
    assert limit.take_left_out() == [("b", 1), ("c", 1), ("others", 1)]
    assert limit.take_left_out() == []


def test_a_client_cannot_fill_the_log_of_a_server(server: ServerProcess) -> None:
    """It has a line of 6 KB written with each file that is rejected: 1 MB a second."""
    with RawClient(server.port).log_in() as client:
        start = FileStart("\u200b" * 1000, 1, 1, "md5", ANY_MD5, False)
        for _ in range(300):
            client.control.send(start)
            assert isinstance(client.answer(), Rejected)
    server.stop()
    assert config.LOG_BURST < len(server.log) < 2 * config.LOG_BURST
    assert "log lines of user1 left out: there were too many" in server.log
