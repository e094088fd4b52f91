"""The history on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest

from lft.server.history_table import show
from lft.store.database import Database
from lft.store.history import Outcome
from lft.terminal import columns_of
from protocol import UsageError
from tests.support.history import entry
from tests.support.processes import SERVER, environment

NOON = 1_764_331_200_000_000  # microseconds: 2025-11-28 12:00 UTC

SOME = [
    entry("写真の年間バックアップ.tar", NOON + 60_000_000, size=7 << 30, seconds=3723.0,
          address="2001:db8:85a3:1234:5678:8a2e:370:7334", user="a-very-long-user-name"),
    entry("x\x1b[31m\u202e.exe", NOON, outcome="refused", code="extension",
          reason="files with this extension are not taken here, but only those with .pdf or .zip"),
    entry("a name that is much longer than most terminals are wide, so that it is shortened.zip",
          NOON - 1, outcome="failed", reason="damaged", seconds=9.94),
    entry("upload", NOON - 2, digest="ab" * 32, algorithm="sha256", proof="server-only"),
    entry("site", NOON - 3, files=12345, program_code=3, program_line="no \\x1b[31mroom"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    """Times are those of the machine: here of a machine in Greenwich."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def kept(output: Path) -> Path:
    """An output directory with a history."""
    note(output, *SOME)
    return output


def note(output: Path, *some: Outcome) -> None:
    """Write entries."""
    with contextlib.closing(Database(output)) as database:
        database.add(some)


def on_terminal(output: Path, columns: int, *options: str) -> list[str]:
    """Return the lines that a terminal shows of the history."""
    near, far = pty.openpty()
    variables = {**environment(), "COLUMNS": str(columns), "TZ": "UTC", "TERM": "xterm"}
    command = [*SERVER, "--history", "--output", str(output), *options]
    process = subprocess.Popen(command, stdout=far, stderr=far, env=variables)
    os.close(far)
    text = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while True:
            text += os.read(near, 65536)
    assert process.wait() == 0
    os.close(near)
    return text.decode().replace("\r\n", "\n").splitlines()


def plain(line: str) -> str:
    """Take the colours off."""
    for code in ("32", "31", "33", "36", "0"):
        line = line.replace(f"\x1b[{code}m", "")
    return line


@pytest.mark.parametrize("columns", [130, 110, 80, 40])
def test_the_table_fits_any_terminal(kept: Path, columns: int) -> None:
    """No line is broken, none acts on the terminal, and no name is lost."""
    lines = [plain(line) for line in on_terminal(kept, columns)]
    assert max(map(columns_of, lines)) <= columns
    assert not any("\x1b" in line or "\u202e" in line for line in lines)
    text = " ".join(" ".join(lines).split())
    program = "its program ended with code 3: no \\x1b[31mroom"
    whole = ("写真の年間バ", "x\\x1b[31m", "site/ (12345 files)", "failed", "damaged", "7.0 GB")
    for found in (*whole, "but only those with", program):
        assert found in text
    assert ("2025-11-28 12:01" in text) == (columns >= 110)
    assert "11-28 12:01" in text
    assert ("1:02:03" in text) == (columns >= 110)
    assert ("2001:" in text) == (columns >= 110)
    assert ("sha256 of ours only" in text) == (columns == 130)
    assert "its client sent no digest to compare with" in text
    assert ("a-ver" in text) == (columns > 40)


def test_a_terminal_shows_the_newest_and_how_to_see_the_rest(output: Path) -> None:
    """As many as it has lines for; the newest at the top, as in every other view."""
    note(output, *(entry(f"n{i:03}", NOON + i) for i in range(100)))
    lines = [plain(line) for line in on_terminal(output, 80)]
    assert "n099" in lines[1]
    assert lines[-1] == "there are older ones: '| less' or '> FILE' shows all"
    assert len(lines) < 40


def test_a_pipe_gets_all_of_it_at_its_whole_width(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is shortened, nothing coloured; several pages follow each other."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("lft.server.history_table._PAGE", 7)
    names = [f"{i:03} {'long ' * 30}" for i in range(50)]
    note(output, *(entry(name, NOON + i) for i, name in enumerate(names)))
    show(output, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["WHEN", "OUTCOME", "USER", "SIZE", "TOOK", "FROM", "DIGEST", "FILE"]
    assert [line[line.index("long") - 4 :] for line in lines[1:]] == names[::-1]


def test_json_has_an_object_for_each_entry(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With every fact, the instant as programs read it, and names as they are."""
    show(kept, as_json=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["name"] for one in found] == [one.name for one in SOME]
    assert found[0]["ended"] == "2025-11-28T12:01:00.000Z"
    assert {**found[4], "ended": NOON - 3} == SOME[4]._asdict()


def test_an_empty_history_is_said_to_be_empty(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a head above nothing."""
    show(output, as_json=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"the history of {output} is empty\n"


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several servers one may have a damaged database."""
    (kept / ".partial" / "history-other.sqlite").write_bytes(b"no database" * 1000)
    show(kept, as_json=True)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 5
    assert said.err == "cannot read history-other.sqlite: file is not a database\n"


def test_where_nothing_can_be_read_it_is_an_error(output: Path) -> None:
    """And so it is where there is no directory: a typing error, most likely."""
    (output / ".partial" / "history.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(UsageError, match="no history can be read"):
        show(output, as_json=True)
    with pytest.raises(UsageError, match="there is no output directory"):
        show(output / "nowhere", as_json=True)


def test_without_the_module_it_is_said_what_is_missing(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the way to get it."""
    monkeypatch.setitem(__import__("sys").modules, "sqlite3", None)
    with pytest.raises(UsageError, match="this Python has no sqlite3"):
        show(kept, as_json=True)
