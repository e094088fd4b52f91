"""A part tree that several servers see belongs to one of them at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Callable

import pytest

from lft.renaming import rename_new
from lft.store.fencedjournal import FencedJournal
from lft.store.fencedtree import FencedTree, remove_useless
from lft.store.journal import Journal
from lft.store.locks import HeldElsewhereError, take
from lft.store.paths import PARTIAL
from lft.store.trees import PartTree
from tests.support.files import part_files, received, strays
from tests.support.partfiles import claimed
from tests.support.parttrees import (
    DATA,
    ENTRIES,
    facts_of,
    filled,
    killed_tree,
    lines_of,
    shared_tree,
    taken,
)
from tests.support.rawtrees import file
from tests.support.shared import remember_as_new


def seen_by_another(output: Path, part: FencedTree) -> FencedTree:
    """Stand for ``part`` as another server does that has just listed it."""
    return FencedTree(output, part.stem, part.facts)


def tree_of(output: Path) -> Path:
    """Return the only published tree."""
    (tree,) = filter(Path.is_dir, received(output))
    return tree


def whole(tree: Path) -> bool:
    """Return whether a published tree has all bytes."""
    return b"".join((tree / one).read_bytes() for one in ("a", "d/b", "d/empty", "z")) == DATA


def test_what_a_server_has_open_no_other_one_gets(output: Path) -> None:
    """It says how much is in it, by which the other one decides how long to wait."""
    part = shared_tree(output)
    with pytest.raises(HeldElsewhereError) as caught:
        seen_by_another(output, part).lock()
    assert caught.value.size == len(DATA)
    part.remove()
    assert part_files(output) == []


@pytest.mark.parametrize("how", [FencedTree.close, killed_tree])
def test_what_a_server_has_let_go_another_one_goes_on_with(
    output: Path, how: Callable[[FencedTree], None]
) -> None:
    """All that it wrote is there, and claimed."""
    part = shared_tree(output)
    how(part)
    other = seen_by_another(output, part)
    other.lock()
    other.reopen(facts_of())
    assert claimed(other.go_on(facts_of())) == [0, 1, 2, 3]
    found = memoryview(bytearray(len(DATA)))
    other.read(found, 0)
    assert found == DATA
    other.remove()


def test_a_half_tree_of_a_dead_server_is_finished_by_another_one(output: Path) -> None:
    """Its sums as well; nothing of the first one is left."""
    part = shared_tree(output)
    part.finish(lines_of(part.facts, DATA))
    killed_tree(part)
    other = taken(output, part)
    other.finish(lines_of(other.facts, DATA))
    place = other.publish()
    other.remove()
    assert whole(output / place)
    assert (output / f"{place}.md5").read_bytes() == b"".join(lines_of(facts_of(), DATA))
    assert part_files(output) == []
    assert len(received(output)) == 2


def test_a_file_that_is_written_is_locked(output: Path) -> None:
    """NFS fails the writes of a machine that was cut off where the lock was on that very file."""
    part = shared_tree(output, data=b"")
    part.write_run([memoryview(DATA[:2])], 0)  # a part of it: it stays open
    with open(part.unfinished / "a", "rb") as same, pytest.raises(BlockingIOError):
        fcntl.flock(same, fcntl.LOCK_EX | fcntl.LOCK_NB)
    part.remove()


def test_a_server_that_was_cut_off_changes_nothing(output: Path) -> None:
    """The lock has passed on: not a byte, no entry, no name, and nothing is removed."""
    facts = facts_of([*ENTRIES, file("zero")])
    part = FencedTree.create(output, facts, "s")
    part._lock.close()
    other = taken(output, part, facts)
    journal = part._lock.path
    part._lock._locked = part._lock._fd = os.open(journal, os.O_RDWR)  # it believes that
    before = sorted(other.unfinished.rglob("*"))
    steps: list[Callable[[], object]] = [
        lambda: part.write_run([memoryview(DATA[:5])], 0),
        lambda: part.reserve_some(1.0),
        lambda: part.finish([]),
        part.publish,
        lambda: part._lock.begin(facts),
    ]
    for step in steps:
        with pytest.raises(OSError, match="taken the unfinished directory over"):
            step()
    assert not part.trusted
    part.remove()
    assert journal.exists()
    assert sorted(other.unfinished.rglob("*")) == before
    assert received(output) == []
    other.remove()


def test_the_name_by_which_a_server_knew_a_tree_is_gone_once_another_has_it(output: Path) -> None:
    """A rename of one that was cut off, however late it is done, publishes nothing."""
    part = shared_tree(output)
    before = part.unfinished
    killed_tree(part)
    other = taken(output, part)
    assert not before.exists()
    assert other.unfinished.is_dir()
    other.remove()


def test_killed_between_the_rename_and_the_note_it_is_published(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 37: the other server names the same tree."""
    part = shared_tree(output)
    part.finish(lines_of(part.facts, DATA))
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note_published", lambda *_: None)
        place = part.publish()
    killed_tree(part)
    other = taken(output, part)
    assert other.published
    assert other.publish() == place
    other.remove()
    assert whole(tree_of(output))
    assert part_files(output) == []


def test_a_name_that_it_has_already_is_its_final_name(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may do twice what it was asked once: EEXIST with our own tree."""
    part = shared_tree(output)
    part.finish(lines_of(part.facts, DATA))

    def twice(*names: object) -> None:
        rename_new(*names)  # type: ignore[arg-type]
        rename_new(*names)  # type: ignore[arg-type]

    monkeypatch.setattr("lft.renaming.rename_new", twice)
    os.link(part._sums, part._public_sums)
    assert part.publish() == part.facts.saved_as
    part.remove()
    assert whole(tree_of(output))
    assert len(received(output)) == 2


def test_a_name_that_something_else_has_is_not_its_final_name(output: Path) -> None:
    """FAULTS 11: nothing is replaced, no empty directory either."""
    part = shared_tree(output)
    part.finish(lines_of(part.facts, DATA))
    mine = output / part.facts.saved_as
    mine.mkdir()
    assert part.publish() != mine.name
    assert seen_by_another(output, part)._lock.lock() is False  # the new journal is locked, too
    part.remove()
    assert os.listdir(mine) == []
    assert len(received(output)) == 3


def test_what_was_published_and_moved_is_of_no_use(output: Path) -> None:
    """It is a tree that a user has elsewhere by now."""
    part = shared_tree(output)
    part.finish(lines_of(part.facts, DATA))
    place = part.publish()
    killed_tree(part)
    (output / place).rename(output / "mine")
    with pytest.raises(ValueError, match="moved or removed"):
        seen_by_another(output, part).lock()
    assert part_files(output) == []
    assert whole(output / "mine")


def test_a_published_tree_needs_no_lock_to_give_its_verdict(output: Path) -> None:
    """Its server may stand still; only that one removes what is left beside it."""
    part = shared_tree(output)
    part.finish(lines_of(part.facts, DATA))
    place = part.publish()
    other = taken(output, part)
    other.finish([])
    assert other.publish() == place
    other.remove()
    assert part_files(output) != []
    part.remove()
    assert part_files(output) == []
    assert whole(output / place)


def test_a_server_alone_goes_on_with_what_one_that_shared_has_left(output: Path) -> None:
    """Whatever the tree is called by then."""
    part = shared_tree(output)
    part.close()
    taken(output, part).close()
    alone = PartTree(output, part.stem, part.facts)
    alone.recover()
    alone.reopen(facts_of())
    assert claimed(alone.go_on(facts_of())) == [0, 1, 2, 3]
    alone.remove()
    assert part_files(output) == []


def test_a_server_that_shares_goes_on_with_what_one_alone_has_left(output: Path) -> None:
    """As with files."""
    part = filled(output, facts_of())
    part.close()
    other = FencedTree(output, part.stem, part.facts)
    other.lock()
    other.reopen(facts_of())
    assert claimed(other.go_on(facts_of())) == [0, 1, 2, 3]
    other.remove()


def test_one_that_cannot_be_made_leaves_nothing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes the folder and not the journal."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FencedJournal, "append", full)
    with pytest.raises(OSError, match="No space"):
        FencedTree.create(output, facts_of(), "s")
    assert part_files(output) == []


@pytest.mark.parametrize("journal", [None, b"garbage", b""])
def test_what_is_of_no_use_goes_unless_a_server_has_it(output: Path, journal: bytes | None) -> None:
    """A journal that makes no sense may be locked all the same."""
    part = shared_tree(output)
    killed_tree(part)
    path = part._lock.path
    if journal is None:
        path.unlink()
    else:
        path.write_bytes(journal)
        with open(path, "r+b") as held:
            assert take(held.fileno())
            assert not remove_useless(output, part.stem)
    assert remove_useless(output, part.stem)
    assert part_files(output) == []


def test_several_workers_write_to_a_file_at_once(output: Path) -> None:
    """The lock of a file keeps no worker of the same server away."""
    part = shared_tree(output)
    files = [part._root.open(0, os.O_WRONLY) for _ in range(2)]
    for one in files:
        os.write(one, b"x")
        os.close(one)
    part.remove()


# --- its journal --------------------------------------------------------------------------------


def a_journal(output: Path) -> FencedJournal:
    """Return a new journal, which is open."""
    journal = FencedJournal(output / PARTIAL / "s.journal")
    journal.begin(facts_of())
    return journal


def test_a_journal_that_is_written_anew_stays_locked(output: Path) -> None:
    """At no moment another server has the one that is in place."""
    journal, other = a_journal(output), FencedJournal(output / PARTIAL / "s.journal")
    assert not other.lock()
    journal.begin(facts_of())
    assert not other.lock()
    journal.close()
    assert other.lock()
    other.close()


def test_a_journal_that_was_replaced_before_it_was_locked_is_opened_again(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is let go then, and its lock says nothing."""
    journal, other = a_journal(output), FencedJournal(output / PARTIAL / "s.journal")

    def late(descriptor: int) -> bool:
        monkeypatch.undo()
        journal.begin(facts_of())  # between the other's open and its lock
        return take(descriptor)

    monkeypatch.setattr("lft.store.fencedjournal.take", late)
    assert not other.lock()
    journal.close()
    assert other.lock()
    other.close()


def test_a_journal_that_cannot_be_written_anew_leaves_the_old_one_locked(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: on a full disk the old one has to do."""
    journal, other = a_journal(output), FencedJournal(output / PARTIAL / "s.journal")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            journal.begin(facts_of())
    assert not other.lock()
    journal.go_on(facts_of())
    journal.append(bytes(20))
    assert journal.count() == 1
    journal.close()
    assert os.listdir(output / PARTIAL) == ["s.journal"]


def test_a_name_that_led_to_the_journal_before_does_not_empty_it(output: Path) -> None:
    """Nor is its lock met there, which is our own."""
    part = shared_tree(output)
    part.close()
    journal = remember_as_new(output, part)
    other = taken(output, part)
    assert Journal(journal).count() == 4
    other.remove()


def test_what_a_killed_server_left_of_a_new_journal_goes(output: Path) -> None:
    """Whoever has the lock removes it; what begins alike is of another tree."""
    part = shared_tree(output)
    part.close()
    left = [output / PARTIAL / f"{part.stem}{end}" for end in ("-1.new", "-2.new", "0-1.new")]
    for path in left:
        path.touch()
    taken(output, part).remove()
    assert strays(output) == left[2:]
