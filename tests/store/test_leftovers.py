"""What an earlier run left: a transfer waits for its own part files only."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import config
from lft.store.journal import Facts, record
from lft.store.leftovers import Leftovers
from lft.store.partfile import PartFile
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL
from lft.store.waste import Waste
from tests.support.partfiles import DATA, facts_of, running
from tests.support.waiting import PATIENCE


def leave(output: Path, user: str, name: str, directory: str = "") -> None:
    """Leave a part file of ``user``."""
    facts = facts_of(len(DATA), name)._replace(user=user, directory=directory)
    part = PartFile.create(output, facts)
    part.note(record(0, running(DATA, 0)))
    part.close()


def listed(output: Path, kept: list[Facts]) -> Leftovers:
    """Return what an earlier run left, read but not looked at."""
    leftovers = Leftovers(output, lambda part, _age: kept.append(part.facts), Waste(output))
    while not leftovers.listed:
        leftovers.read_some()
    return leftovers


def of_ann(facts: Facts) -> bool:
    return facts.user == "ann"


def test_a_user_s_part_files_are_looked_at_before_all_others(output: Path) -> None:
    """Beside ten thousand of others, a file need not wait until all are looked at."""
    for number in range(5):
        leave(output, "bob", f"b{number}")
    leave(output, "ann", "a")
    kept: list[Facts] = []
    leftovers = listed(output, kept)
    assert (leftovers.left(of_ann), kept) == (True, [])
    assert leftovers.look_at_some(of_ann) == 1
    assert not leftovers.left(of_ann)
    assert [facts.name for facts in kept] == ["a"]
    assert leftovers.left()


def test_a_stretch_is_bounded(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to read nor to look at ten thousand holds a worker for seconds."""
    monkeypatch.setattr(config, "SCAN_STRETCH", 2)
    for number in range(5):
        leave(output, "ann", f"a{number}")
    kept: list[Facts] = []
    leftovers = Leftovers(output, lambda part, _age: kept.append(part.facts), Waste(output))
    leftovers.read_some()
    assert not leftovers.listed
    leftovers = listed(output, kept)
    assert [leftovers.look_at_some(of_ann) for _ in range(4)] == [2, 2, 1, 0]
    assert len(kept) == leftovers.kept == 5


def test_what_another_worker_looks_at_is_not_known_yet(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a client whose part file is there would begin anew."""
    leave(output, "ann", "a")
    begun, go_on = threading.Event(), threading.Event()

    def slow(_part: PartFile) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(PartFile, "recover", slow)
    leftovers = listed(output, [])
    other = threading.Thread(target=leftovers.look_at_some)
    other.start()
    assert begun.wait(PATIENCE)
    assert leftovers.look_at_some(of_ann) == 0
    assert leftovers.left(of_ann)
    go_on.set()
    other.join()
    assert not leftovers.left(of_ann)


def test_what_is_no_part_file_stays(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The history stands in the same folder, and so does the lock."""
    kept = ["lock", "history.sqlite", "history.sqlite-wal", "history.sqlite.damaged", "notes"]
    for name in kept:
        (output / PARTIAL / name).write_bytes(b"x")
    PartStore(output).scan()
    assert sorted(path.name for path in (output / PARTIAL).iterdir()) == sorted(kept)
    assert caplog.messages == []
