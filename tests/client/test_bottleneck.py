"""The reason that a receipt gives for the time a file took."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import send_files
from config import MB, ClientSettings
from lft.client.bottleneck import _ADVICE, Spent, advice
from protocol import IntegrityOk
from tests.support.files import random_file
from tests.support.local import StartLocal
from tests.support.waiting import SleepClock


@pytest.mark.parametrize(
    ("spent", "verdict", "waits", "name"),
    [
        ((0.0, 0.0, 0.0), (0, 0, 0), (0.0, 0.0), "network"),
        ((1.0, 9.0, 0.0), (9000, 0, 0), (9.0, 8.0), "hashing"),
        ((6.0, 3.0, 0.0), (3000, 0, 0), (9.0, 0.0), "source disk"),
        ((1.0, 1.0, 8.0), (1000, 0, 0), (9.0, 0.0), "limit"),
        ((1.0, 1.0, 0.0), (1000, 0, 9000), (9.0, 8.0), "server limit"),
        ((1.0, 1.0, 0.0), (1000, 8000, 0), (9.0, 8.0), "server disk"),
        ((1.0, 1.0, 0.0), (8000, 0, 0), (9.0, 8.0), "server hashing"),
        ((1.0, 1.0, 0.0), (1000, 0, 0), (9.0, 8.0), "server"),
        ((1.0, 1.0, 0.0), (1000, 0, 0), (9.0, 1.0), "network"),
        ((1.0, 1.0, 0.0), (1000, 0, 0), (0.0, 0.0), "network"),
    ],
)
def test_what_held_up_a_file_is_named(
    spent: tuple[float, ...],
    verdict: tuple[int, int, int],
    waits: tuple[float, float],
    name: str,
    clock: SleepClock,
) -> None:
    """The slowest thing is the one that all others waited for; of a short time nothing is said."""
    one = Spent()
    one.reading, one.hashing, one.paced.seconds = spent
    hashing, disk, limited = verdict
    ok = IntegrityOk("x", 1, "0" * 32, 0, True, hashing, disk, limited)
    assert one.bottleneck(ok, waits) == ""
    clock.now += 10
    assert one.bottleneck(ok, waits) == name


def test_every_bottleneck_has_words_that_a_person_can_act_on() -> None:
    """And names no option that is in use already."""
    for name in _ADVICE:
        assert advice(name, ClientSettings()).startswith("; held up by ")
    assert "--streams auto" in advice("network", ClientSettings())
    assert "--streams auto" not in advice("network", ClientSettings(streams=None))
    assert "sha256" not in advice("hashing", ClientSettings(digest="sha256"))
    assert advice("", ClientSettings()) == ""


@pytest.mark.parametrize("limited", ["client", "server"])
def test_a_limit_is_named_as_what_held_up_a_file(
    start_local: StartLocal, tmp_path: Path, limited: str
) -> None:
    """Ours, or the server's, which the verdict tells."""
    rate = 4 * MB
    local = start_local(limit=rate if limited == "server" else None)
    settings = local.client(limit=rate if limited == "client" else None)
    (receipt,) = send_files([random_file(tmp_path / "x", 6 * MB)], settings)
    assert receipt.bottleneck == {"client": "limit", "server": "server limit"}[limited]
