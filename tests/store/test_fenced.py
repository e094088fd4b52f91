"""A part file that several servers see belongs to one of them at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lft.store import fenced
from lft.store.fenced import new_stem
from lft.store.journal import Journal
from lft.store.locks import HeldElsewhereError
from lft.store.partfile import PartFile
from lft.store.paths import PARTIAL, names_file, tried_as
from tests.support.files import part_files, received, strays
from tests.support.partfiles import DATA, claimed, facts_of
from tests.support.shared import killed, remember_as_new, seen_by_another, shared_part


def test_what_a_server_has_open_no_other_one_gets(output: Path) -> None:
    """It says how much is in it, by which the other one decides how long to wait."""
    part = shared_part(output)
    with pytest.raises(HeldElsewhereError) as caught:
        seen_by_another(part, output).lock()
    assert caught.value.size == len(DATA)
    part.remove()


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_what_a_server_has_let_go_another_one_goes_on_with(output: Path, how: str) -> None:
    """All that it wrote is there, and claimed."""
    part = shared_part(output)
    part.close() if how == "closed" else killed(part)
    other = seen_by_another(part, output)
    other.lock()
    other.reopen(facts_of(len(DATA)))
    assert claimed(other.go_on(facts_of(len(DATA)))) == list(range(10))
    other.remove()


def test_a_file_that_went_before_it_was_locked_is_not_used(output: Path) -> None:
    """Its owner removed it between our look and our lock: what we have open has no name."""
    part = shared_part(output)
    other = seen_by_another(part, output)
    part.remove()
    with pytest.raises(FileNotFoundError):
        other.lock()
    assert os.listdir(output / PARTIAL) == []


def test_a_name_means_the_same_file_for_ever(output: Path) -> None:
    """NFS may take a name for the file that it was some seconds ago."""
    stems = {new_stem("u", "x") for _ in range(100)}
    assert len(stems) == 100
    part = shared_part(output)
    with pytest.raises(FileExistsError):
        type(part).create(output, part.facts, part.stem)
    part.remove()


def test_killed_between_the_link_and_the_note_it_is_published(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 37: the other server names the same file."""
    part = shared_part(output)
    monkeypatch.setattr(Journal, "note_published", lambda *_: None)
    place = part.publish()
    killed(part)
    other = seen_by_another(part, output)
    other.lock()
    assert other.published
    assert other.publish() == place
    other.remove()
    assert [path.read_bytes() for path in received(output)] == [DATA]


def test_a_name_that_another_server_gave_it_is_its_final_name(output: Path) -> None:
    """A server that was cut off may have linked it: EEXIST with our own file is published."""
    part = shared_part(output)
    os.link(output / PARTIAL / f"{part.stem}.part", output / part.facts.saved_as)
    assert part.publish() == part.facts.saved_as
    part.remove()
    assert len(received(output)) == 1


def test_a_name_that_another_file_has_is_not_its_final_name(output: Path) -> None:
    """FAULTS 11: nothing is replaced."""
    part = shared_part(output)
    taken = output / part.facts.saved_as
    taken.write_text("mine")
    assert part.publish() != taken.name
    part.remove()
    assert taken.read_text() == "mine"
    assert len(received(output)) == 2


def test_a_final_name_that_the_system_does_not_see_yet_is_found(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS remembers for 7 s that there was no such name; a link never answers from memory."""
    part = shared_part(output)
    place = part.publish()
    killed(part)
    memory = [output / place]

    def stale(path: Path, facts: os.stat_result) -> bool:
        return path not in memory and names_file(path, facts)

    def link(descriptor: int, source: Path, folder: int, name: str) -> None:
        memory.clear()
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)

    monkeypatch.setattr(fenced, "names_file", stale)
    monkeypatch.setattr(fenced, "link_descriptor", link)
    other = seen_by_another(part, output)
    other.lock()
    assert other.published
    other.remove()


def test_what_was_published_and_moved_is_never_written_to(output: Path) -> None:
    """Its bytes are those of a file that a user has elsewhere by now."""
    part = shared_part(output)
    place = part.publish()
    killed(part)
    (output / place).rename(output / "mine")
    with pytest.raises(ValueError, match="moved or removed"):
        seen_by_another(part, output).lock()
    assert part_files(output) == []
    assert [path.name for path in output.iterdir() if path.name != PARTIAL] == ["mine"]


def test_a_trial_that_a_kill_left_does_not_make_it_published(output: Path) -> None:
    """A further name was made to ask how many there are."""
    part = shared_part(output)
    path = output / PARTIAL / f"{part.stem}.part"
    os.link(path, path.with_suffix(".trial"))
    killed(part)
    other = seen_by_another(part, output)
    other.lock()
    assert not other.published
    other.remove()
    assert os.listdir(output / PARTIAL) == []


def test_a_server_that_was_cut_off_publishes_nothing_and_removes_nothing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock has passed to another server, which goes on with the file."""
    part = shared_part(output)
    killed(part)
    other = seen_by_another(part, output)
    other.lock()
    part._fd = os.open(output / PARTIAL / f"{part.stem}.part", os.O_RDWR)  # it believes that
    with pytest.raises(OSError, match="taken the unfinished file over"):
        part.publish()
    assert not part.trusted
    part.remove()
    assert received(output) == []
    assert len(part_files(output)) == 1
    assert other.publish() == part.facts.saved_as
    other.remove()


def test_a_published_file_needs_no_lock_to_give_its_verdict(output: Path) -> None:
    """Its server may stand still; only that one removes the second name."""
    part = shared_part(output)
    place = part.publish()
    other = seen_by_another(part, output)
    other.lock()
    other.reopen(facts_of(len(DATA)))
    assert claimed(other.go_on(facts_of(len(DATA)))) == list(range(10))
    assert other.publish() == place
    other.remove()
    assert len(part_files(output)) == 1
    part.remove()
    assert part_files(output) == []


def test_a_server_alone_goes_on_with_what_one_that_shared_has_left(output: Path) -> None:
    """Both have the same part files and journals."""
    part = shared_part(output)
    part.close()
    alone = PartFile(output, part.stem, part.facts)
    alone.reopen(facts_of(len(DATA)))
    assert claimed(alone.go_on(facts_of(len(DATA)))) == list(range(10))
    alone.remove()


def test_a_name_that_was_only_tried_is_no_sign_of_a_publication(output: Path) -> None:
    """The server was killed between giving it and taking it away; another one goes on."""
    part = shared_part(output)
    os.link(part.unfinished, output / tried_as(part.facts.saved_as))
    killed(part)
    other = seen_by_another(part, output)
    other.lock()
    assert not other.published
    assert not list(output.glob(".erver_received_*"))
    other.remove()


def test_a_new_journal_has_a_name_that_led_nowhere_before(output: Path) -> None:
    """So the journal in place keeps its own name alone, whatever is remembered of it."""
    part = shared_part(output)
    part.close()
    journal = remember_as_new(output, part)
    other = seen_by_another(part, output)
    other.lock()
    other.reopen(facts_of(len(DATA)))
    other.go_on(facts_of(len(DATA)))
    assert journal.stat().st_nlink == 1
    other.remove()


def test_what_a_killed_server_left_of_a_new_journal_goes(output: Path) -> None:
    """Whoever has the lock removes it."""
    part = shared_part(output)
    part.close()
    (output / PARTIAL / f"{part.stem}-1.new").touch()
    other = seen_by_another(part, output)
    other.lock()
    other.remove()
    assert strays(output) == []
