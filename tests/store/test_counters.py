"""Several servers count a directory together."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import config
from config import KB
from lft.store.counters import Counters
from lft.store.fenced import FencedPartFile
from lft.store.journal import Journal
from lft.store.locks import take
from lft.store.paths import COUNTERS, PARTIAL
from tests.support.partfiles import DATA, facts_of
from tests.support.shared import killed, shared_part, shared_store

LEAST = config.LEAST_COUNTED


def used(counters: Counters, *, surely: bool = False) -> int:
    """Return what the output directory itself counts."""
    with counters.open("") as account:
        account.count(surely=surely)
        return account.used


def counter(output: Path) -> Path:
    """Return the only counter."""
    (path,) = (output / PARTIAL / COUNTERS).iterdir()
    return path


def counted_part(output: Path, counters: Counters) -> FencedPartFile:
    """Make a part file as a server does for a user with a quota."""
    with counters.open("") as account:
        account.count()
        part = shared_part(output)
        account.parts[part.stem] = LEAST
    return part


def test_what_one_server_counts_the_others_count(output: Path) -> None:
    """From its beginning to its publication a file counts once; removed, it counts no more."""
    first, second = Counters(output), Counters(output)
    part = counted_part(output, first)
    assert used(second) == LEAST
    with first.publishing(part.facts, part.stem):
        part.publish()
    assert used(second) == LEAST
    part.remove()
    gone = counted_part(output, first)
    assert used(second) == 2 * LEAST
    gone.remove()
    first.release("", gone.stem)
    assert used(second) == LEAST


def test_a_published_file_needs_no_look_at_the_directory(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 100,000 files a look takes half a second; the counter is right without it."""
    counters = Counters(output)
    assert used(counters) == 0
    monkeypatch.setattr(Counters, "published", None)
    for number in range(3):
        part = counted_part(output, counters)
        with counters.publishing(part.facts, part.stem):
            part.publish()
        part.remove()
        assert used(counters) == (number + 1) * LEAST


def test_what_another_program_changes_is_counted_again(output: Path) -> None:
    """An operator removes files, or brings some."""
    counters = Counters(output)
    assert used(counters) == 0
    (output / "mine").write_bytes(bytes(8 * KB))
    assert used(counters, surely=True) == 8 * KB
    (output / "mine").unlink()
    assert used(counters, surely=True) == 0


@pytest.mark.parametrize("damage", [b"", b"garbage", b"00000000 [1, 2, {}]", None])
def test_a_counter_that_makes_no_sense_is_made_anew(
    output: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server was killed while it wrote: unfinished files are found by their journals.

    So are published ones, however long it took to count them the last time.
    """
    monkeypatch.setattr(config, "COUNT_SELDOM", 1e9)
    counters = Counters(output)
    part = counted_part(output, counters)
    (output / "mine").write_bytes(bytes(8 * KB))
    text = counter(output).read_bytes()
    counter(output).write_bytes(text[:-3] if damage is None else damage)
    assert used(counters) == 8 * KB + LEAST
    part.remove()


def test_killed_between_the_link_and_the_counter_a_file_counts_once(output: Path) -> None:
    """It counts as both until a file would be refused for that."""
    counters = Counters(output)
    part = counted_part(output, counters)
    part.publish()
    killed(part)
    assert used(Counters(output), surely=True) == LEAST


def test_killed_between_the_removal_and_the_counter_a_file_counts_no_more(output: Path) -> None:
    """Before a file is refused, what is gone is left out."""
    counters = Counters(output)
    counted_part(output, counters).remove()
    assert used(counters) == LEAST
    assert used(counters, surely=True) == 0


def test_a_file_of_unknown_size_counts_while_its_server_has_it(output: Path) -> None:
    """It has no journal to find it by."""
    counters = Counters(output)
    with counters.open("") as account:
        part = shared_part(output, facts_of(4)._replace(unsized=True))
        account.parts[part.stem] = 16 * KB
    assert used(counters, surely=True) == 16 * KB
    part.remove()
    assert used(counters, surely=True) == 0


def test_a_counter_that_a_server_does_not_let_go_of_is_not_waited_for_for_ever(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That server stands still: a file is published all the same, and counted later."""
    monkeypatch.setattr(config, "COUNTER_PATIENCE", 0.05)
    counters = Counters(output)
    part = counted_part(output, counters)
    stuck = os.open(counter(output), os.O_RDWR)
    assert take(stuck)
    with pytest.raises(BlockingIOError):
        used(counters)
    with counters.publishing(part.facts, part.stem):
        part.publish()
    part.remove()
    os.close(stuck)
    assert used(counters, surely=True) == LEAST


def test_a_directory_without_quota_has_no_counter(output: Path) -> None:
    """It would cost some calls for each file."""
    store = shared_store(output)
    part = store.create(facts_of(len(DATA)))
    with store.counters.publishing(part.facts, part.stem):
        part.publish()
    store.drop(part)
    assert not (output / PARTIAL / COUNTERS).exists()


def test_unfinished_files_from_before_the_counter_count(output: Path) -> None:
    """Those of other users, too, and those of a server that did not share."""
    parts = [shared_part(output), shared_part(output, facts_of(4)._replace(user="other"))]
    elsewhere = shared_part(output, facts_of(4)._replace(directory="elsewhere"))
    published = shared_part(output)
    published.publish()
    assert used(Counters(output)) == 3 * LEAST
    for part in (*parts, elsewhere, published):
        part.remove()


def test_servers_that_count_at_once_lose_nothing(output: Path) -> None:
    """Each change is made under the lock of the counter."""

    def count(counters: Counters, name: str) -> None:
        for number in range(50):
            with counters.open("") as account:
                account.parts[f"{name}{number}"] = 1

    threads = [threading.Thread(target=count, args=(Counters(output), n)) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Counters(output).open("") as account:
        assert account.used == 200


def test_a_journal_that_cannot_be_read_counts(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too much is counted for a moment rather than too little."""
    counters = Counters(output)
    part = counted_part(output, counters)

    def broken(_journal: Journal) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(Journal, "facts", broken)
    assert used(counters, surely=True) == LEAST
    monkeypatch.undo()
    part.remove()
