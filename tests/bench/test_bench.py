"""The measuring scripts' conclusions: which runs count, and which successes are refused."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from config import MB
from tests.bench import siege, trips, wan
from tests.bench.common import ToolError, client_knows, make_file, receipt_in, turns
from tests.bench.movers import Ours
from tests.bench.scale import at_once
from tests.bench.target import ACCOUNTS, Server, server_at
from tests.support.files import random_file

RECEIPT = {"verdict": "INTEGRITY_OK", "durable": True, "seconds": 0.5, "saved_as": "x"}


READY = "import sys; print('ready', flush=True); sys.stdin.read()"


def summary(late: str = "40/900", dropped: str = "0/0") -> str:
    """Return the last line of the emulator, with a receipt before it."""
    return (
        f"{json.dumps(RECEIPT)}\nwan: wall=1.25 exit=0 sent_pkts=9/9 lost_random=1/0 "
        f"lost_queue=0/0 lost_cut=0/0 lost_kernel={dropped} late_us={late} emu_cpu=0.10\n"
    )


class FakeEmulator(wan.Emulator):
    """Tells what it was made with, one run after the other."""

    def __init__(self, *runs: str) -> None:
        self._runs = list(runs)

    def _run(self, *_: Any) -> str:
        return self._runs.pop(0)


class FakeEnds(wan.Ends):
    """Ends where the right file always comes."""

    def __init__(self, place: Path) -> None:
        self.inbox = place / "inbox"

    def server(self, way: wan.Way) -> str:
        """Name no server."""
        return ""

    def client(self, way: wan.Way, source: Path) -> str:
        """Name no client."""
        return ""

    def check(self, source: Path) -> None:
        """Find nothing wrong."""


def run_row(place: Path, *runs: str) -> wan.Row:
    """Return a row that was run once with an emulator that tells this."""
    row = wan.Row(wan.Link(100, 10), wan.DEFAULT, 1000)
    row.run(FakeEmulator(*runs), FakeEnds(place), place / "source", 1)
    return row


def test_every_round_has_all_rows_and_begins_with_another() -> None:
    """No row is always the first one, or the one after the same other."""
    order = list(turns(["a", "b", "c"], 3))
    assert [row for _, row in order] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [number for number, _ in order] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("receipt", [{"verdict": "INTEGRITY_FAILED"}, {"durable": False}])
def test_a_receipt_that_proves_nothing_is_refused(receipt: dict[str, Any]) -> None:
    """Only a durable INTEGRITY_OK counts as a transfer."""
    assert receipt_in(f"a log line\n{json.dumps(RECEIPT)}\n") == RECEIPT
    with pytest.raises(ToolError):
        receipt_in(json.dumps({**RECEIPT, **receipt}))


def test_an_option_that_the_client_does_not_have_is_noticed() -> None:
    """Neither an unknown option nor an unknown value is taken for a known one."""
    assert client_knows("--streams", "2")
    assert not client_knows("--streams", "many")
    assert not client_knows("--never-heard-of")


def test_a_sound_run_counts(tmp_path: Path) -> None:
    """The emulator's wall time and the receipt's seconds are both kept."""
    row = run_row(tmp_path, summary())
    assert (row.seconds, row.receipts, row.discarded) == ([1.25], [0.5], 0)


@pytest.mark.parametrize("bad", [{"late": "1000/2000"}, {"dropped": "1/0"}, {"dropped": "0/2"}])
def test_an_unsound_run_is_discarded_and_repeated(tmp_path: Path, bad: dict[str, str]) -> None:
    """A late emulator, or packets dropped at either end, make a run worthless."""
    row = run_row(tmp_path, summary(**bad), summary())
    assert (row.seconds, row.discarded) == ([1.25], 1)


def test_a_row_without_any_sound_run_has_no_figure(tmp_path: Path) -> None:
    """It ends after a few attempts, and says so in its row."""
    row = run_row(tmp_path, *[summary("9000/9000")] * wan.ATTEMPTS)
    assert row.discarded == wan.ATTEMPTS
    assert row.cells([row])[2] == "no sound run"


def test_a_run_without_a_summary_is_trouble_with_its_reason(tmp_path: Path) -> None:
    """What the emulator said last is what the row says."""
    assert "cannot configure" in run_row(tmp_path, "wan: cannot configure\n").trouble


def test_what_came_wrong_is_found(tmp_path: Path) -> None:
    """One other byte in what was published makes the measurement fail."""
    source = random_file(tmp_path / "a.bin", 300_000)
    other = random_file(tmp_path / "b.bin", 300_000, seed=1)

    class Deceived(Server):
        def check(self, _source: Path, receipt: dict[str, Any]) -> None:
            super().check(other, receipt)

    server = Deceived(tmp_path / "server", ACCOUNTS)
    try:
        with pytest.raises(ToolError, match="is not what was sent"):
            server.transfer(source)
        with pytest.raises(ToolError, match="leaves behind"):
            server.end()
    finally:
        server.kill()


def test_what_is_left_behind_is_found(tmp_path: Path) -> None:
    """A file in the output directory that nobody has looked at makes the measurement fail."""
    with pytest.raises(ToolError, match="leaves behind"), server_at(tmp_path / "server") as server:
        random_file(server.output / "server_received_x_y", 1)


def test_processes_are_let_go_when_all_are_ready(tmp_path: Path) -> None:
    """The one that is ready first finds, when it goes on, what the last one did before."""
    mark = tmp_path / "mark"
    first = f"import os; {READY}; print(os.path.exists({str(mark)!r}))"
    last = f"import time; time.sleep(0.2); open({str(mark)!r}, 'w').close(); {READY}; print()"
    commands = [[sys.executable, "-c", program] for program in (first, last)]
    flight = at_once(commands, tmp_path / "log", 1, receipts=1)
    assert flight.said[0] == "True\n"


def test_a_process_that_fails_fails_the_run(tmp_path: Path) -> None:
    """Its last words are the reason."""
    fails = [sys.executable, "-c", "import sys; sys.exit('no way')"]
    with pytest.raises(ToolError, match="no way"):
        at_once([fails], tmp_path / "log", 1)


def test_a_client_that_is_not_ready_fails_the_run(tmp_path: Path) -> None:
    """It does not hold up the others for ever."""
    fails = [sys.executable, "-c", "import sys; sys.exit('no way')"]
    with pytest.raises(ToolError, match="no way"):
        at_once([[sys.executable, "-c", READY], fails], tmp_path / "log", 1, receipts=1)


@pytest.mark.parametrize(
    ("row", "seen", "worst", "used", "threads", "words"),
    [
        ("KeyUpdates of strangers", {"ended": 0}, 0.1, 0, 0, "this became of them"),
        ("half messages", {"ended": 3, "halves": 4}, 0.1, 0, 0, "this became of them"),
        ("tokens that expired", {"refused": 3, "taken": 1}, 0.1, 0, 0, "this became of them"),
        ("strangers, soft limit 1024", {}, 11.0, 0, 0, r"a login of another user took 11\.0 s"),
        ("sessions of headers", {"headers": 128}, 0.1, 129 * MB, 0, "the server took 129.0 MB"),
        ("with a byte now and then", {}, 0.1, 0, 1, "1 threads more than before"),
    ],
)
def test_a_siege_fails_for_what_must_not_be(
    row: str, seen: dict[str, int], worst: float, used: int, threads: int, words: str
) -> None:
    """A table of figures alone would let every one of these pass."""
    with pytest.raises(ToolError, match=words):
        siege.check(row, Counter(seen), worst, used, threads)
    good = Counter({"ended": 4, "halves": 4, "headers": 128, "refused": 4})
    siege.check(row, good, 0.1, 0, 0)


def test_no_more_round_trips_are_counted_than_the_relay_makes(tmp_path: Path) -> None:
    """At least TCP's own, two of the login, one for the file; and one more for the verdict."""
    source = make_file(tmp_path / "random.bin", trips.SIZE)
    with contextlib.ExitStack() as stack:
        tool = Ours(tmp_path / "ours")
        tool.start(stack)
        first, last = trips.count(tool, Ours.rows[0], source, 0.1)
    assert first >= 4
    assert last >= 1
