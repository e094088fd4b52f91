"""How many streams a client uses when it may choose."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Callable

import pytest

import config
from client import send_files
from config import ClientSettings
from lft.client.sender import Sender
from lft.client.streams import Climber, Streams
from tests.support.client import link_of
from tests.support.files import random_file
from tests.support.local import ServerThread


def _climb(climber: Climber, goodput: Callable[[int], float], seconds: int) -> list[int]:
    """Let a link carry ``goodput(streams)`` bytes a second; return the streams of each second."""
    used = []
    start = int(climber.measured_since)
    for now in range(start + 1, start + seconds + 1):
        used.append(climber.count)
        climber.climb(float(now), int(goodput(climber.count)))
    return used


def test_streams_grow_while_each_brings_its_share() -> None:
    """A link on which losses hold a stream at a fiftieth: doubled until there are enough."""
    climber = Climber(4, 48, 1.0)
    used = _climb(climber, lambda streams: 5e5 * streams, 10)
    assert used == [4, 4, 8, 8, 16, 16, 32, 32, 48, 48]


def test_no_stream_is_added_while_those_there_still_get_going() -> None:
    """TCP starts slowly: what grows by itself says nothing about more streams."""
    climber = Climber(4, 48, 1.0)
    goodput = iter(2.0**second for second in range(100))
    assert _climb(climber, lambda _: next(goodput), 20) == [4] * 20


def test_no_stream_is_added_to_a_link_that_is_full() -> None:
    """A queue shows that it is; one more stream would wait in it as well."""
    climber = Climber(4, 48, 1.0, lambda: True)
    assert _climb(climber, lambda _: 1e6, 20) == [4] * 20


def test_a_link_that_gets_worse_is_asked_anew() -> None:
    """Losses that begin late hold each stream: more of them pay now, at once."""
    climber = Climber(4, 48, 1.0)
    _climb(climber, lambda _: 1e7, 6)
    assert _climb(climber, lambda streams: 5e5 * streams, 20)[-1] == 48


def test_streams_that_bring_nothing_are_left_out_again() -> None:
    """A link that four fill: one trial, then back, and rest."""
    climber = Climber(4, 48, 1.0)
    assert _climb(climber, lambda _: 1e6, 7) == [4, 4, 8, 8, 4, 4, 4]


def test_fewer_streams_are_kept_where_they_carry_as_much() -> None:
    """After a rest it is tried downwards, step by step, as long as nothing is lost by it."""
    climber = Climber(16, 48, 1.0)
    used = _climb(climber, lambda streams: 1e6 * min(streams, 6), 120)
    assert 5 <= min(used) <= 7
    assert max(used[10:]) <= 24


def test_a_link_that_gets_better_is_noticed() -> None:
    """Trials upwards go on now and then, for as long as the file lasts."""
    climber = Climber(4, 48, 1.0)
    _climb(climber, lambda _: 1e6, 20)
    assert _climb(climber, lambda streams: 5e5 * streams, 100)[-1] > 20


@pytest.mark.parametrize("goodput", [lambda n: 1e6 * n, lambda n: 1e6 / n, lambda n: 1e6])
def test_streams_stay_between_one_and_the_most(goodput: Callable[[int], float]) -> None:
    """Whatever the link does."""
    used = _climb(Climber(4, 7, 1.0), goodput, 300)
    assert (min(used) >= 1, max(used)) == (True, 7)


def test_an_outage_is_no_measurement() -> None:
    """While nothing is acknowledged at all, the number of streams is not to blame."""
    climber = Climber(4, 48, 1.0)
    assert _climb(climber, lambda _: 0, 30) == [4] * 30


@pytest.mark.parametrize(("round_trip", "first"), [(0.0, 4), (0.1, 24)])
def test_a_far_link_begins_with_more_streams(
    monkeypatch: pytest.MonkeyPatch, round_trip: float, first: int
) -> None:
    """Each starts slowly, and a round trip is long."""
    monkeypatch.setattr(Sender, "run", lambda _: None)
    link = link_of(ClientSettings(streams=None), round_trip=round_trip)
    with contextlib.closing(Streams(link)) as streams:
        streams.start()
        assert link.streams == first


def test_streams_auto_is_told_in_the_receipt(local: ServerThread, tmp_path: Path) -> None:
    """As the number that was in use, and by what TCP went."""
    path = random_file(tmp_path / "x", 3_000_000)
    (receipt,) = send_files([path], local.client(streams=None))
    assert 1 <= receipt.streams <= config.AUTO_STREAMS
    assert receipt.congestion == Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text()[:-1]
