"""What a directory's files count together, without counting them for each file that comes."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

import config
from lft.store.paths import Used, used_bytes
from lft.store.usage import Usage

LEAST = config.LEAST_COUNTED


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the directories that are read."""
    seen: list[Path] = []

    def count(directory: Path, skips: Callable[[str], bool]) -> Used:
        seen.append(directory)
        return used_bytes(directory, skips)

    monkeypatch.setattr("lft.store.usage.used_bytes", count)
    return seen


def test_a_directory_that_does_not_change_is_counted_once(output: Path, looks: list[Path]) -> None:
    """FAULTS 28: with 100,000 files a look takes half a second, and holds a worker."""
    (output / "x").write_bytes(bytes(10_000))
    usage = Usage(output)
    assert [usage.total("") for _ in range(5)] == [10_000] * 5
    assert len(looks) == 1


def test_files_that_the_server_publishes_are_added(output: Path, looks: list[Path]) -> None:
    """The count goes on without a look."""
    usage = Usage(output)
    assert usage.total("") == 0
    for number in range(3):
        usage.add("", f"x{number}", 10)
        (output / f"x{number}").write_bytes(bytes(10))
        usage.note_published("", f"x{number}")
    assert usage.total("") == 3 * LEAST
    assert len(looks) == 1


def test_a_file_that_could_not_be_published_is_taken_back(output: Path) -> None:
    """Also an empty one, which counts what a file counts at least."""
    usage = Usage(output)
    assert usage.total("") == 0
    usage.add("", "x", 0)
    usage.take_back("", "x")
    assert usage.total("") == 0


def test_a_directory_that_another_program_changes_is_counted_again(
    output: Path, looks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that is made by hand can be used at once where looking is quick."""
    monkeypatch.setattr(config, "COUNT_SELDOM", 0)
    (output / "x").write_bytes(bytes(10_000))
    usage = Usage(output)
    assert usage.total("") == 10_000
    (output / "x").unlink()
    assert usage.total("") == 0
    assert len(looks) == 2


def test_a_slow_directory_that_changes_all_the_time_is_counted_seldom(
    output: Path, looks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only before a file is refused the count is made sure."""
    monkeypatch.setattr(config, "COUNT_SELDOM", 1e9)
    usage = Usage(output)
    usage.total("")
    for number in range(3):
        (output / f"x{number}").write_bytes(bytes(10))
        assert usage.total("") == 0
    assert len(looks) == 1
    assert usage.total("", surely=True) == 3 * LEAST


def test_a_directory_that_is_not_there_yet_counts_nothing(output: Path) -> None:
    """It is made with the first file."""
    assert Usage(output).total("team/alice") == 0


def test_each_directory_has_its_own_count(output: Path) -> None:
    """A quota is that of the user's directory."""
    (output / "alice").mkdir()
    (output / "alice" / "x").write_bytes(bytes(10_000))
    usage = Usage(output)
    assert (usage.total(""), usage.total("alice")) == (0, 10_000)


def test_a_file_published_during_a_look_is_not_lost(
    output: Path, looks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts once, whether the look saw it or not, and the next look comes when it matters."""
    monkeypatch.setattr(config, "COUNT_SELDOM", 0)
    usage = Usage(output)

    def publish_meanwhile(directory: Path, skips: Callable[[str], bool]) -> Used:
        found = used_bytes(directory, skips)
        looks.append(directory)
        if len(looks) == 1:
            usage.add("", "x", 10_000)
            (output / "x").write_bytes(bytes(10_000))
            usage.note_published("", "x")
        return found

    monkeypatch.setattr("lft.store.usage.used_bytes", publish_meanwhile)
    assert usage.total("") == 10_000
    assert usage.total("") == 10_000
    assert len(looks) == 2


def test_a_file_that_is_being_published_counts(output: Path) -> None:
    """Also in a look that is made before it has its name."""
    usage = Usage(output)
    usage.add("", "x", 10_000)
    assert usage.total("") == 10_000


def test_a_look_does_not_count_a_file_again_that_gets_its_name_meanwhile(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known from the moment on when it is about to get its name."""
    usage = Usage(output)

    def publish_before(directory: Path, skips: Callable[[str], bool]) -> Used:
        usage.add("", "x", 10_000)
        (output / "x").write_bytes(bytes(10_000))
        found = used_bytes(directory, skips)
        usage.note_published("", "x")
        return found

    monkeypatch.setattr("lft.store.usage.used_bytes", publish_before)
    assert usage.total("") == 10_000


def test_a_name_that_was_reserved_before_it_was_published_counts_once(output: Path) -> None:
    """Otherwise the last file of a command could be refused while the one before is published."""
    usage = Usage(output)
    reserved = {"x": 10_000, "y": 10_000}
    assert usage.total("", reserved) == 20_000
    usage.add("", "x", 10_000)
    assert usage.total("", reserved) == 20_000
    (output / "x").write_bytes(bytes(10_000))
    usage.note_published("", "x")
    assert usage.total("", reserved) == usage.total("", reserved, surely=True) == 20_000


def test_a_name_that_is_only_tried_does_not_count(output: Path) -> None:
    """It is taken away again at once."""
    (output / ".erver_received_x").write_bytes(b"")
    assert Usage(output).total("") == 0
