"""Reading the history: pages, filters, several servers, and what cannot be read."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

import pytest

from lft.store.database import Database
from lft.store.history import (
    History,
    HistoryError,
    MissingModuleError,
    Outcome,
    Query,
    database_name,
)
from lft.store.paths import PARTIAL
from tests.support.history import entries, entry, names


def note(output: Path, *some: Outcome, server: str = "", shared: bool = False) -> None:
    """Write entries as one server."""
    database = Database(output, server, shared=shared)
    database.add(some)
    database.close()


def test_an_entry_comes_back_as_it_was_written(output: Path) -> None:
    """Every fact has its column."""
    one = Outcome(
        1_764_290_000_000_001, "received", "ann", "Überblick.pdf", 2**62, "a/server_received_b",
        "ab" * 32, "sha256", 1.5, 3, 4, 5, "disk", "2001:db8::7", "tus", 6, "c", "d", -9, "e",
        "server-only",
    )  # fmt: skip
    note(output, one)
    assert entries(output) == [one]


def test_the_newest_entry_comes_first(output: Path) -> None:
    """By the instant of the end; of two at the same one, by the order of writing."""
    note(output, entry("b", 2), entry("a", 1), entry("c", 3), entry("d", 3))
    assert names(output) == ["d", "c", "b", "a"]


def test_pages_follow_each_other_without_gap_or_repetition(output: Path) -> None:
    """Also where several servers have noted something at the same instants."""
    for server in ("", "one", "two"):
        note(output, *(entry(f"{server}{i}", i // 3) for i in range(20)), server=server)
    whole = entries(output, limit=100)
    assert len(whole) == 60
    for size in (1, 7, 59, 60):
        found, before = [], ""
        while True:
            page = History(output).page(Query(limit=size, before=before))
            found += page.entries
            before = page.before
            if not before:
                break
            assert len(page.entries) == size
        assert found == whole


def test_what_comes_in_meanwhile_moves_no_page(output: Path) -> None:
    """A page begins behind an entry, and not at a number."""
    note(output, *(entry(str(i), i) for i in range(4)))
    page = History(output).page(Query(limit=2))
    note(output, entry("new", 9))
    assert names(output, before=page.before) == ["1", "0"]


@pytest.mark.parametrize("before", ["x", "1.2", "1.2.a/b", "-1.2.h", "1.2.h\n", "9" * 30 + ".1.h"])
def test_a_place_that_is_none_of_ours_is_refused(output: Path, before: str) -> None:
    """It may come from an address line."""
    with pytest.raises(ValueError, match="not a place"):
        History(output).page(Query(before=before))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"user": "bob"}, ["fifth", "second"]),
        ({"outcome": "refused"}, ["fifth"]),
        ({"outcome": "refused", "user": "ann"}, []),
        ({"text": "ÄRGER 100%"}, ["Ärger 100% _"]),
        ({"text": "% _"}, ["Ärger 100% _"]),
        ({"text": "too LARGE"}, ["fifth"]),
        ({"text": "'; DROP TABLE outcomes; --"}, []),
        ({"text": "i", "user": "ann", "outcome": "received"}, ["first"]),
    ],
)
def test_a_filter_leaves_what_it_names(
    output: Path, query: dict[str, str], found: list[str]
) -> None:
    """Text is looked for in name and reason, in any case, and means nothing but itself."""
    note(
        output, entry("first", 1), entry("second", 2, user="bob"), entry("Ärger 100% _", 3),
        entry("fifth", 5, user="bob", outcome="refused", reason="it is too large"),
    )  # fmt: skip
    assert names(output, **query) == found


def test_the_places_of_a_file_are_given_newest_first(output: Path) -> None:
    """Of that user and that name alone, and only of what was received; whichever server did."""
    note(output, entry("x", 1), entry("x", 4), entry("y", 5), entry("x", 6, user="bob"))
    note(output, entry("x", 3), entry("x", 7, outcome="refused"), server="other")
    places = [one.saved_as for one in History(output).published("ann", "x")]
    assert places == [f"server_received_{ended}_x" for ended in (4, 3, 1)]
    assert len(History(output).published("ann", "x", limit=2)) == 2


def test_without_a_history_there_is_nothing(tmp_path: Path) -> None:
    """Neither an error nor a new file."""
    (tmp_path / PARTIAL).mkdir()
    assert entries(tmp_path) == []
    assert entries(tmp_path / "nowhere") == []
    assert os.listdir(tmp_path / PARTIAL) == []


def test_a_history_of_an_older_version_is_read_and_gone_on_with(output: Path) -> None:
    """It has no proofs; a server of that version may write to it again."""
    note(output, entry("old", 1))
    with sqlite3.connect(output / PARTIAL / database_name()) as older:
        older.execute("ALTER TABLE outcomes DROP COLUMN proof")
    assert [(one.name, one.proof) for one in entries(output)] == [("old", "")]
    note(output, entry("new", 2, proof="client-digest"))
    with sqlite3.connect(output / PARTIAL / database_name()) as older:
        columns = ", ".join(name for name in Outcome._fields if name != "proof")
        values = "3, 'received', 'ann', 'old', 5, 'o', '', '', 0, 0, 0, 0, '', '', '', 1, '', '',"
        older.execute(f"INSERT INTO outcomes ({columns}, words) VALUES ({values} NULL, '', '')")
    assert [one.proof for one in entries(output)] == ["", "client-digest", ""]


def test_a_database_that_cannot_be_read_is_named_and_the_others_are_read(output: Path) -> None:
    """One of another version, and one that is none at all."""
    note(output, entry("good"))
    (output / PARTIAL / database_name("bad")).write_bytes(b"no database" * 1000)
    with sqlite3.connect(output / PARTIAL / database_name("new")) as other:
        other.execute("PRAGMA user_version = 7")
    page = History(output).page(Query())
    assert [one.name for one in page.entries] == ["good"]
    assert len(page.unread) == 2
    assert "history-bad.sqlite: file is not a database" in page.unread
    assert "history-new.sqlite: it is of another version" in page.unread


def test_what_a_killed_server_has_left_in_its_wal_is_read(output: Path) -> None:
    """The writer is not closed: to the reader that looks like a kill."""
    database = Database(output)
    database.add([entry("in the WAL")])
    assert (output / PARTIAL / "history.sqlite-wal").stat().st_size > 0
    assert names(output) == ["in the WAL"]
    database.close()


def test_without_the_module_it_is_said_what_is_missing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems pack sqlite3 apart from Python."""
    note(output, entry())
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    for ask in (lambda: Database(output), lambda: History(output).page(Query())):
        with pytest.raises(MissingModuleError, match="no sqlite3"):
            ask()
    assert issubclass(MissingModuleError, HistoryError)


def test_a_name_of_a_server_is_made_a_name_of_a_file() -> None:
    """It may be a host's name with a port."""
    assert database_name() == "history.sqlite"
    assert database_name("files.example:4455") == "history-files.example_4455.sqlite"
    assert database_name("../../etc") == "history-.._.._etc.sqlite"
