"""The reason that a receipt gives for the time a file took."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from client import send_files
from config import MB, ClientSettings
from lft.client.bottleneck import _ADVICE, Spent, advice
from lft.wire.tcp import Tcp
from protocol import IntegrityOk
from tests.support.files import random_file
from tests.support.local import StartLocal
from tests.support.waiting import SleepClock

NOTHING, UNDER_WAY, NO_ROOM = (0.0, 0.0), (9.0, 1.0), (9.0, 8.0)  # of ten seconds


def _spent(clock: SleepClock, reading: float, hashing: float, slept: float = 0.0) -> Spent:
    """Return what ten seconds went into, and a time in which the process was suspended."""
    one = Spent()
    for seconds, begin, end in (
        (reading, one.begin_read, one.end_read),
        (hashing, lambda: None, lambda: one.note_hashed(1.0)),
        (10 - reading - hashing, lambda: None, lambda: None),
    ):
        for _ in range(round(seconds)):
            begin()
            clock.now += 1
            end()
            one.note_turn()
    clock.now += slept
    one.note_turn()
    return one


@pytest.mark.parametrize(
    ("spent", "verdict", "waits", "name"),
    [
        ((0, 0, 0), (0, 0, 0), UNDER_WAY, "network"),
        ((1, 9, 0), (9000, 0, 0), NO_ROOM, "hashing"),
        ((6, 3, 0), (3000, 0, 0), UNDER_WAY, "source disk"),
        ((1, 1, 8), (1000, 0, 0), UNDER_WAY, "limit"),
        ((1, 1, 0), (1000, 0, 9000), NO_ROOM, "server limit"),
        ((1, 1, 0), (1000, 8000, 0), NO_ROOM, "server disk"),
        ((1, 1, 0), (8000, 0, 0), NO_ROOM, "server hashing"),
        ((1, 1, 0), (1000, 0, 0), NO_ROOM, "server"),
        ((1, 1, 0), (1000, 0, 0), UNDER_WAY, "network"),
        ((1, 1, 0), (1000, 0, 0), (2.0, 0.0), ""),
        ((1, 1, 0), (1000, 0, 0), NOTHING, ""),
    ],
)
def test_what_held_up_a_file_is_named(
    spent: tuple[int, int, float],
    verdict: tuple[int, int, int],
    waits: tuple[float, float],
    name: str,
    clock: SleepClock,
) -> None:
    """The slowest thing is the one that all others waited for; without a proof nothing is said."""
    reading, hashing, paced = spent
    one = _spent(clock, reading, hashing)
    one.paced.seconds = paced
    assert one.bottleneck(_ok(*verdict), waits) == name


def _ok(hashing: int = 0, disk: int = 0, limited: int = 0) -> IntegrityOk:
    return IntegrityOk("x", 1, "0" * 32, 0, True, hashing, disk, limited)


def test_of_a_short_time_nothing_is_said(clock: SleepClock) -> None:
    """Below five seconds it is no bother."""
    one = Spent()
    clock.now += 4.9
    assert one.bottleneck(_ok(), UNDER_WAY) == ""
    clock.now += 0.1
    assert one.bottleneck(_ok(), UNDER_WAY) == "network"


def test_on_loopback_there_is_no_network_to_blame(clock: SleepClock) -> None:
    """What remains there is the processor, of which nothing is known."""
    one = _spent(clock, 1, 1)
    assert one.bottleneck(_ok(), UNDER_WAY, loopback=True) == ""
    assert one.bottleneck(_ok(), NO_ROOM, loopback=True) == "server"


def test_a_client_that_was_suspended_is_told_from_a_slow_network(clock: SleepClock) -> None:
    """Ctrl-Z: the rest of the time decides where that is the larger part."""
    assert _spent(clock, 1, 1, slept=60).bottleneck(_ok(), (60.0, 0.0)) == "suspended"
    assert _spent(clock, 7, 1, slept=8).bottleneck(_ok(), UNDER_WAY) == "source disk"


@pytest.mark.parametrize("slept", [False, True])
def test_a_disk_that_hangs_is_told_from_a_suspended_client(clock: SleepClock, slept: bool) -> None:
    """One call to read takes as long in both cases; the main loop has its turn in one of them."""
    one = Spent()
    one.begin_read()
    for _ in range(60):
        clock.now += 1
        if not slept:
            one.note_turn()
    assert one.read_hangs
    one.end_read()
    one.note_turn()
    assert not one.read_hangs
    assert one.bottleneck(_ok(), UNDER_WAY) == ("suspended" if slept else "source disk")


def test_every_bottleneck_has_words_that_a_person_can_act_on() -> None:
    """And names no option that is in use already, or that the user has chosen otherwise."""
    for name in _ADVICE:
        assert advice(name, ClientSettings()).startswith("; held up by ")
    assert "--streams auto" in advice("network", ClientSettings())
    assert "--streams auto" not in advice("network", ClientSettings(streams=None))
    assert "--streams auto" not in advice("network", ClientSettings(), {"--streams"})
    assert "sha256" not in advice("hashing", ClientSettings(digest="sha256"))
    assert "sha256" not in advice("hashing", ClientSettings(), {"--digest"})
    assert advice("limit", ClientSettings(compress=True, limit=1000)) == ""
    assert advice("", ClientSettings()) == ""


@pytest.mark.parametrize("limited", ["client", "server"])
def test_a_limit_is_named_as_what_held_up_a_file(
    start_local: StartLocal, tmp_path: Path, limited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours, or the server's, which the verdict tells."""
    monkeypatch.setattr(config, "NAMEABLE", 1.0)
    rate = 2 * MB
    local = start_local(limit=rate if limited == "server" else None)
    settings = local.client(limit=rate if limited == "client" else None)
    (receipt,) = send_files([random_file(tmp_path / "x", 6 * MB)], settings)
    assert receipt.bottleneck == {"client": "limit", "server": "server limit"}[limited]


def test_the_waits_of_a_file_are_not_those_of_the_files_before(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections are the same, and the system counts from their beginning."""
    waits: list[tuple[float, float]] = []
    of = Spent.bottleneck

    def spy(
        spent: Spent, verdict: IntegrityOk, of_file: tuple[float, float], *, loopback: bool
    ) -> str:
        waits.append(of_file)
        return of(spent, verdict, of_file, loopback=loopback)

    monkeypatch.setattr(Spent, "bottleneck", spy)
    monkeypatch.setattr(Tcp, "waits", property(lambda _: (100.0, 50.0)))
    monkeypatch.setattr("client.MAX_AHEAD", 1)  # otherwise it may begin before there is one
    paths = [random_file(tmp_path / name, 1000) for name in "ab"]
    send_files(paths, start_local().client(streams=1))
    assert waits[1] == (0.0, 0.0)
