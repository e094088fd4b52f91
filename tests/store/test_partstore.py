"""All part files of an output directory: which are found again, and which expire."""

from __future__ import annotations

import errno
import itertools
import os
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import config
from lft.store.journal import Facts, Journal, record
from lft.store.part import Part
from lft.store.partfile import PartFile
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL, names_file
from tests.support.files import part_files, received, strays
from tests.support.partfiles import (
    DATA,
    broken_disk,
    claimed,
    claims_of,
    facts_of,
    found_again,
    journal_file,
    leave_part,
    leave_published,
    open_again,
    rewrite_journal,
    running,
)
from tests.support.transfers import resumed, transfer_of


def test_part_files_without_a_journal_are_removed_at_the_start(
    output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody can go on with does not fill the disk, and the log says so."""
    (output / PARTIAL / "0123.part").write_bytes(b"old")
    PartStore(output).scan()
    assert part_files(output) == []
    assert "removing 0123" in caplog.text


@pytest.fixture
def store(output: Path) -> Iterator[PartStore]:
    """The part files of an output directory; a test that leaves some calls ``scan``."""
    one = PartStore(output)
    yield one
    for part in list(one._in_use):
        one.rest(part)


def test_the_start_finds_what_an_earlier_run_left(output: Path, store: PartStore) -> None:
    """Its client goes on with it."""
    left = leave_part(output)
    store.scan()
    found = resumed(store, transfer_of(DATA).facts)
    assert found is not None
    assert found[0].stem == left.stem
    assert claimed(found[1]) == list(range(10))
    assert store.in_use == 1


def _link_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("victim"))


def _spoil(output: Path, part: PartFile, how: str) -> None:
    path = output / PARTIAL / part.stem
    journal, file = path.with_suffix(".journal"), path.with_suffix(".part")
    spoil: dict[str, Callable[[], object]] = {
        "no journal": journal.unlink,
        "no part file": file.unlink,
        "garbage": lambda: journal.write_bytes(b"\xff" * 100),
        "empty": lambda: os.truncate(journal, 0),
        "half a journal": lambda: journal.rename(path.with_suffix(".new")),
        "a link": lambda: _link_instead(file),
        "moved": lambda: os.link(file, output / "moved"),
    }
    spoil[how]()


@pytest.mark.parametrize(
    "how",
    ["no journal", "no part file", "garbage", "empty", "half a journal", "a link", "moved"],
)
def test_the_start_removes_what_nobody_can_go_on_with(
    output: Path, store: PartStore, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """FAULTS 35: the log says so, and what is good stays."""
    bad, good = leave_part(output, unique="bad"), leave_part(output, unique="good", name="y")
    _spoil(output, bad, how)
    store.scan()
    assert f"removing {bad.stem}" in caplog.text
    assert {path.stem for path in (output / PARTIAL).iterdir()} == {good.stem}
    assert resumed(store, transfer_of(DATA).facts) is None
    assert resumed(store, transfer_of(DATA, name="y").facts) is not None


@pytest.mark.parametrize("how", ["a fact too many", "nested too deep"])
def test_a_journal_of_any_other_form_does_not_stop_the_start(
    output: Path, store: PartStore, how: str
) -> None:
    """FAULTS 35: it is removed as garbage is; the server starts."""
    leave_part(output)
    if how == "a fact too many":
        rewrite_journal(output, more=1)
    else:
        journal_file(output).write_bytes(b"[" * 16_000 + b"\n")
    store.scan()
    assert list((output / PARTIAL).iterdir()) == []


def test_a_part_file_whose_first_block_is_missing_is_resumed(
    output: Path, store: PartStore
) -> None:
    """FAULTS 36: with four streams any block may be the last to come; the others are not lost."""
    part = PartFile.create(output, facts_of(39))
    part.note(b"".join(claims_of(DATA, *range(1, 10)).records()))
    part.close()
    store.scan()
    found = resumed(store, transfer_of(DATA).facts)
    assert found is not None
    assert claimed(found[1]) == list(range(1, 10))


def test_an_empty_file_takes_no_other_files_part_file(output: Path, store: PartStore) -> None:
    """It has no first block in common with it; what rests there is somebody's gigabytes."""
    leave_part(output)
    store.scan()
    assert resumed(store, transfer_of(b"").facts) is None
    found = resumed(store, transfer_of(DATA).facts)
    assert found is not None
    assert claimed(found[1]) == list(range(10))


@pytest.mark.parametrize("length", [0, 38, 40, 5000])
def test_a_published_file_of_another_length_is_not_answered_for(
    output: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """FAULTS 37: who appended to it, or cut it, has made another file of it."""
    part = leave_published(output, monkeypatch, "link")
    os.truncate(received(output)[0], length)
    with pytest.raises(ValueError, match="."):  # noqa: RUF043  (any reason will do)
        open_again(part, facts_of(39))
    part.close()


def test_a_resume_that_fails_leaves_no_half_journal(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: the disk is full just when the journal is written anew."""
    leave_part(output)
    store.scan()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", broken_disk)
        assert resumed(store, transfer_of(DATA).facts) is None
    assert strays(output) == []


def test_on_a_full_disk_a_resume_goes_on_with_the_journal_that_is_there(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: the room for the file itself is reserved; a torn record is cut off before."""
    left = leave_part(output)
    path = output / PARTIAL / f"{left.stem}.journal"
    path.write_bytes(path.read_bytes()[:-1])
    store.scan()
    opened = os.open

    def full(name: str, flags: int, mode: int = 0o777, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(name, flags, mode, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        found = resumed(store, transfer_of(DATA).facts)
    assert found is not None
    assert claimed(found[1]) == list(range(9))
    found[0].note(b"".join(claims_of(DATA, 9).records()))
    assert claimed(Journal(path).load(found[0].facts)) == list(range(10))


def test_the_start_removes_no_published_file(
    output: Path, monkeypatch: pytest.MonkeyPatch, store: PartStore
) -> None:
    """FAULTS 37: a journal whose file was moved away goes, the file under its new name stays."""
    leave_published(output, monkeypatch, "rename")
    received(output)[0].rename(output / "elsewhere")
    store.scan()
    assert list((output / PARTIAL).iterdir()) == []
    assert (output / "elsewhere").read_bytes() == DATA


def test_two_that_come_back_never_get_the_same_part_file(output: Path, store: PartStore) -> None:
    """FAULTS 43: one resumes, the other starts anew."""
    leave_part(output)
    store.scan()
    first, second = resumed(store, transfer_of(DATA).facts), resumed(store, transfer_of(DATA).facts)
    assert first is not None
    assert second is None


def test_two_attempts_left_are_for_two_that_come_back(output: Path, store: PartStore) -> None:
    """Each gets one of its own."""
    left = {leave_part(output, unique=unique).stem for unique in ("one", "two")}
    store.scan()
    found = [resumed(store, transfer_of(DATA).facts) for _ in range(3)]
    assert {one[0].stem for one in found if one} == left
    assert found[2] is None


@pytest.mark.parametrize("other", [{"user": "v"}, {"name": "y"}, {"block": 8}])
def test_a_part_file_is_for_the_same_user_name_and_block_size(
    output: Path, store: PartStore, other: dict[str, object]
) -> None:
    """Nobody goes on with what is somebody else's, or cut in another way."""
    leave_part(output)
    store.scan()
    assert resumed(store, transfer_of(DATA, **other).facts) is None  # type: ignore[arg-type]
    assert resumed(store, transfer_of(DATA).facts) is not None


def test_a_part_file_is_for_a_stronger_digest_too(output: Path, store: PartStore) -> None:
    """Its blocks are there, and wait for the client's digests."""
    leave_part(output)
    store.scan()
    found = resumed(store, transfer_of(DATA, digest="sha256").facts)
    assert found is not None
    part, claims = found
    assert all(claims.lacks_digest(block) for block in range(10))
    assert claimed(claims) == list(range(10))
    part.close()  # as a kill does, before the client has told one
    assert claimed(open_again(found_again(output, part), part.facts)) == list(range(10))


def test_the_right_one_of_several_with_the_same_name_is_found(
    output: Path, store: PartStore
) -> None:
    """Their first blocks tell them apart; the others rest on for their own clients."""
    files = [bytes([seed]) * 39 for seed in range(3)]
    left = [leave_part(output, data, unique=str(seed)).stem for seed, data in enumerate(files)]
    store.scan()
    for data, stem in zip(files, left):
        found = resumed(store, transfer_of(data).facts)
        assert found is not None
        assert found[0].stem == stem


def test_a_part_file_that_cannot_be_resumed_is_removed_and_said(
    output: Path, store: PartStore, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 35: damaged after the start; the client begins anew."""
    leave_part(output)
    store.scan()
    journal_file(output).write_bytes(b"garbage")
    assert resumed(store, transfer_of(DATA).facts) is None
    assert "cannot be resumed" in caplog.text
    assert part_files(output) == strays(output) == []


def test_a_disk_error_while_resuming_costs_no_part_file(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: it is no fault of the file's; when the disk works again it can be resumed."""
    leave_part(output)
    store.scan()
    with monkeypatch.context() as patch:
        patch.setattr("lft.store.partfile.open_regular", broken_disk)
        patch.setattr("lft.store.journal.open_regular", broken_disk)
        assert resumed(store, transfer_of(DATA).facts) is None
    assert store.in_use == 0
    assert resumed(store, transfer_of(DATA).facts) is not None


def test_only_what_holds_something_rests(output: Path, store: PartStore) -> None:
    """Reserved space without a block, or of a file that failed, is given back at once."""
    empty, failed, good = (store.create(transfer_of(DATA, name=name).facts) for name in "abc")
    for part in (failed, good):
        part.note(record(0, running(DATA, 0)))
    failed.trusted = False
    for part in (empty, failed, good):
        store.rest(part)
    assert [path.stem for path in part_files(output)] == [good.stem]
    assert store.in_use == 0


def test_a_part_file_rests_once(output: Path, store: PartStore) -> None:
    """Two threads may let it go: nobody gets it twice."""
    part = store.create(transfer_of(DATA).facts)
    part.note(record(0, running(DATA, 0)))
    for _ in range(2):
        store.rest(part)
    assert resumed(store, transfer_of(DATA).facts) is not None
    assert resumed(store, transfer_of(DATA).facts) is None


@pytest.fixture
def trusted_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what the start finds expire at once by the clock of the disk."""
    monkeypatch.setattr(config, "KEEP_AFTER_START", 0.0)


def _age(output: Path, part: Part, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(output / PARTIAL / f"{part.stem}.journal", (then, then))


@pytest.mark.usefixtures("trusted_clock")
def test_what_nobody_came_back_for_expires(
    output: Path, store: PartStore, caplog: pytest.LogCaptureFixture
) -> None:
    """DESIGN 8: by the time its journal was last written to; the log says so."""
    old, young = (leave_part(output, unique=name, name=name) for name in ("old", "young"))
    _age(output, old, config.KEEP_PARTIAL + 60)
    _age(output, young, config.KEEP_PARTIAL - 60)
    store.scan()
    store.expire()
    assert [path.stem for path in part_files(output)] == [young.stem]
    assert "removed old of u" in caplog.text
    assert resumed(store, transfer_of(DATA, name="old").facts) is None
    assert resumed(store, transfer_of(DATA, name="young").facts) is not None


@pytest.mark.usefixtures("trusted_clock")
@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_verdict_that_nobody_asked_for_again_expires_earlier(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Only the answer is forgotten: the published file stays."""
    part = leave_published(output, monkeypatch, how)
    _age(output, part, config.KEEP_ANSWER - 60)
    store.scan()
    store.expire()
    assert journal_file(output).exists()
    _age(output, part, config.KEEP_ANSWER + 60)
    again = PartStore(output)
    again.scan()
    again.expire()
    assert list((output / PARTIAL).iterdir()) == []
    assert [path.read_bytes() for path in received(output)] == [DATA]


def test_what_is_in_use_never_expires(output: Path, store: PartStore) -> None:
    """However long its transfer takes."""
    part = leave_part(output)
    store.scan()
    found = resumed(store, transfer_of(DATA).facts)
    _age(output, part, 10 * config.KEEP_PARTIAL)
    store.expire()
    assert found is not None
    assert [path.stem for path in part_files(output)] == [part.stem]


@pytest.mark.usefixtures("trusted_clock")
def test_a_part_file_that_another_program_removed_is_forgotten(
    output: Path, store: PartStore
) -> None:
    """FAULTS 33: expiry goes on with the others."""
    gone, old = (leave_part(output, unique=name, name=name) for name in ("gone", "old"))
    _age(output, old, config.KEEP_PARTIAL + 60)
    store.scan()
    for suffix in (".part", ".journal"):
        (output / PARTIAL / gone.stem).with_suffix(suffix).unlink()
    store.expire()
    assert part_files(output) == strays(output) == []
    assert resumed(store, transfer_of(DATA, name="gone").facts) is None


@pytest.mark.parametrize("what", ["open_regular", "lstat"])
def test_what_cannot_be_looked_at_just_now_does_not_expire(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """FAULTS 29 and 33: no descriptor left, or a disk with a fault, is no reason to remove it."""
    leave_part(output)
    store.scan()
    with monkeypatch.context() as patch:
        room = "lft.store.journal" if what == "open_regular" else "os"
        patch.setattr(f"{room}.{what}", _no_descriptors)
        store.expire()
    assert len(part_files(output)) == 1
    assert resumed(store, transfer_of(DATA).facts) is not None


def _no_descriptors(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_look_at_what_expires_changes_nothing_for_who_goes_on_with_it(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published between two looks stays published, and is not written to."""
    leave_part(output)
    store.scan()
    real, calls, parts = names_file, itertools.count(), []

    def overtaken(path: Path, facts: os.stat_result) -> bool:
        answer = real(path, facts)
        if next(calls) == 0:
            found = resumed(store, transfer_of(DATA).facts)
            assert found is not None
            found[0].publish()
            parts.append(found[0])
        return answer

    monkeypatch.setattr("lft.store.partfile.names_file", overtaken)
    store.expire()
    assert [part.published for part in parts] == [True]


def test_a_part_file_on_its_way_to_rest_is_still_known(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 43: a search just then finds it in use, or resting."""
    facts = transfer_of(DATA).facts
    part = store.create(facts)
    part.note(record(0, running(DATA, 0)))
    seen: list[bool] = []
    close = PartFile.close

    def look_and_close(part: PartFile) -> None:
        seen.append(store.used("") == [facts] or store.reopen(facts) is not None)
        close(part)

    monkeypatch.setattr(PartFile, "close", look_and_close)
    store.rest(part)
    assert seen == [True]


def test_the_folder_may_come_back_while_somebody_makes_it(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: two workers find that it was deleted, and both make it."""
    create, calls = PartFile.create, itertools.count()

    def deleted_before(output: Path, facts: Facts) -> PartFile:
        if next(calls) == 0:
            raise FileNotFoundError
        return create(output, facts)

    monkeypatch.setattr(PartFile, "create", deleted_before)
    assert store.create(transfer_of(DATA).facts).facts.size == len(DATA)


def test_a_clock_that_is_put_forward_removes_nothing_that_rests(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 8: what rests since a minute is not a week old, whatever the wall clock says."""
    part = store.create(facts_of(39))
    part.note(record(0, running(DATA, 0)))
    store.rest(part)
    _age(output, part, 10 * config.KEEP_PARTIAL)
    store.expire()
    assert [path.stem for path in part_files(output)] == [part.stem]
    monkeypatch.setattr(config, "KEEP_PARTIAL", 0.0)
    store.expire()
    assert part_files(output) == []


def test_a_start_with_the_clock_days_ahead_removes_nothing_at_once(
    output: Path, store: PartStore
) -> None:
    """DESIGN 8: before the time is set right there is no telling how old a file is."""
    part = leave_part(output)
    _age(output, part, 10 * config.KEEP_PARTIAL)
    store.scan()
    store.expire()
    assert [path.stem for path in part_files(output)] == [part.stem]


def test_published_files_push_out_no_unfinished_one(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 36: many small files that arrive must not cost their user half of a large one."""
    monkeypatch.setattr(config, "MAX_PARTS_OF_USER", 2)
    unfinished = leave_part(output, unique="unfinished")
    store.scan()
    for number in range(4):
        part = store.create(facts_of(39, name=f"small{number}", unique=str(number)))
        part.publish()
        store.rest(part)
    assert unfinished.stem in {path.stem for path in part_files(output)}
    assert len(part_files(output)) == 3
