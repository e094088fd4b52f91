"""Writing the history: what is kept, what goes, and what is in the way."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from pathlib import Path

import pytest

import config
from lft.store.database import Database, set_aside
from lft.store.history import DamagedError, HistoryError, database_name
from lft.store.paths import PARTIAL
from tests.support.history import entries, entry, names

DAY = 86400 * 1_000_000  # microseconds


def journal_mode(output: Path) -> str:
    """Return how the database of an output directory keeps its writes apart."""
    with contextlib.closing(sqlite3.connect(output / PARTIAL / database_name())) as opened:
        mode: str = opened.execute("PRAGMA journal_mode").fetchone()[0]
    return mode


def add_many(output: Path) -> None:
    """Write entries to many places of a database."""
    with contextlib.closing(Database(output)) as database:
        for i in range(100):
            database.add([entry("x", i)])


def test_readers_and_the_writer_go_on_beside_each_other(output: Path) -> None:
    """WAL: a reader in the middle of its work does not lock the writer out."""
    database = Database(output)
    database.add([entry("a", 1), entry("b", 2)])
    reader = sqlite3.connect(output / PARTIAL / database_name())
    cursor = reader.execute("SELECT name FROM outcomes")
    assert cursor.fetchone() == ("a",)
    database.add([entry("c", 3)])
    reader.close()
    database.close()
    assert names(output) == ["c", "b", "a"]


def test_a_shared_directory_has_no_wal(output: Path) -> None:
    """Its memory is not shared between machines."""
    Database(output).close()
    assert journal_mode(output) == "wal"
    Database(output, shared=True).close()
    assert journal_mode(output) == "delete"


def test_a_network_file_system_has_no_wal(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine may read the history there."""
    monkeypatch.setattr("lft.store.database.is_network", lambda _: True)
    Database(output).close()
    assert journal_mode(output) == "delete"


def test_only_its_owner_can_read_it(output: Path) -> None:
    """It tells who sent what, from where."""
    database = Database(output)
    database.add([entry()])
    files = list((output / PARTIAL).glob("history*"))
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    database.close()


def test_a_file_is_received_once(output: Path) -> None:
    """A verdict may be given again after a kill; how its program ended is added to it."""
    database = Database(output)
    database.add([entry("x", 1, wire_bytes=7)])
    database.add([entry("x", 2, saved_as="server_received_1_x")])
    database.add([entry("x", 3, saved_as="server_received_1_x", program_code=3, program_line="no")])
    database.add([entry("x", 4, saved_as="server_received_1_x")])
    database.close()
    assert entries(output) == [entry("x", 1, wire_bytes=7, program_code=3, program_line="no")]


def test_what_is_too_old_goes(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the instant of its end."""
    monkeypatch.setattr(config, "HISTORY_AGE", 10 * 86400.0)
    database = Database(output)
    database.add([entry("old", 1 * DAY), entry("young", 11 * DAY)])
    assert database.prune(now=12 * 86400.0)
    assert not database.prune(now=12 * 86400.0)
    database.close()
    assert names(output) == ["young"]


def test_what_is_refused_pushes_out_nothing_that_was_received(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is refused all day fills its own part."""
    monkeypatch.setattr(config, "HISTORY_RECEIVED", 3)
    monkeypatch.setattr(config, "HISTORY_OTHERS", 2)
    database = Database(output)
    database.add([entry(f"r{i}", i * DAY) for i in range(5)])
    database.add([entry(f"f{i}", (i + 10) * DAY, outcome="refused") for i in range(3000)])
    while database.prune(now=0.0):
        pass
    database.close()
    assert names(output) == ["f2999", "f2998", "r4", "r3", "r2"]


def test_a_database_that_is_none_is_said_to_be_damaged_and_can_be_set_aside(output: Path) -> None:
    """A new one then takes its place, and the next damaged one that of the one before."""
    path = output / PARTIAL / database_name()
    for text in (b"first" * 1000, b"second" * 1000):
        path.write_bytes(text)
        with pytest.raises(DamagedError):
            Database(output)
        aside = set_aside(path)
        assert aside.read_bytes() == text
    Database(output).close()
    assert names(output) == []


def test_a_damaged_page_in_the_middle_is_found_as_it_is_used(output: Path) -> None:
    """Not at the start, which would take long."""
    path = output / PARTIAL / database_name()
    database = Database(output)
    database.add([entry(f"{i}" * 9, i) for i in range(5000)])
    database.close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    with pytest.raises(DamagedError):
        add_many(output)


def test_a_locked_database_is_no_damaged_one(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again later."""
    monkeypatch.setattr(config, "HISTORY_LOCK_WAIT", 0.01)
    database = Database(output)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryError, match="locked") as caught:
        database.add([entry()])
    assert not isinstance(caught.value, DamagedError)
    other.close()
    database.add([entry()])
    database.close()
    assert names(output) == ["x"]


def test_a_link_in_its_place_is_not_followed(output: Path) -> None:
    """A program with the right to write here must not lead us elsewhere."""
    elsewhere = output / "elsewhere"
    (output / PARTIAL / database_name()).symlink_to(elsewhere)
    with pytest.raises(HistoryError):
        Database(output)
    assert not elsewhere.exists()


def test_a_database_that_was_moved_away_is_noticed(output: Path) -> None:
    """What were written to it would be out of sight."""
    database = Database(output)
    assert database.in_place
    database.path.rename(output / "moved")
    assert not database.in_place
    database.close()
