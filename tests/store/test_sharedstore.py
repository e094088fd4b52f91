"""Several servers find and leave part files in one directory."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from pathlib import Path

import pytest

from lft.store.locks import HeldElsewhereError
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL
from lft.store.sharedstore import SharedPartStore
from tests.support.files import part_files
from tests.support.partfiles import DATA, facts_of, leave_part
from tests.support.shared import killed, shared_part, shared_store
from tests.support.transfers import resumed


def test_a_server_goes_on_with_what_another_one_has_left(output: Path) -> None:
    """It was there before, and had looked at the directory."""
    first, second = shared_store(output), shared_store(output)
    part = first.create(facts_of(len(DATA)))
    part.write_run([memoryview(DATA)], 0)
    part.note(bytes(20))
    first.rest(part)
    found = resumed(second, facts_of(len(DATA)))
    assert found is not None
    assert found[0].stem == part.stem
    second.drop(found[0])
    assert part_files(output) == []


def test_of_several_attempts_the_newest_that_is_free_is_taken(output: Path) -> None:
    """43: what another server has is not waited for then."""
    parts = [shared_part(output, facts_of(len(DATA), unique=str(n))) for n in range(3)]
    for part in parts[:2]:
        part.close()
    store = shared_store(output)
    found = store.reopen(facts_of(len(DATA)))
    assert found is not None
    assert found.stem == parts[1].stem
    store.drop(found)
    parts[2].remove()


def test_what_another_server_has_is_said(output: Path) -> None:
    """43: there is something to wait for."""
    part = shared_part(output)
    store = shared_store(output)
    with pytest.raises(HeldElsewhereError):
        store.reopen(facts_of(len(DATA)))
    assert store.earlier(facts_of(len(DATA))) is None
    killed(part)
    found = store.reopen(facts_of(len(DATA)))
    assert found is not None
    store.drop(found)


def test_what_this_server_has_is_no_matter_of_others(output: Path) -> None:
    """43: it asks the client of its own session whether it lives."""
    store = shared_store(output)
    part = store.create(facts_of(len(DATA)))
    assert store.reopen(facts_of(len(DATA))) is None
    store.drop(part)


@pytest.mark.parametrize("name", ["y", "x"])
def test_what_a_server_alone_has_left_is_found(output: Path, name: str) -> None:
    """Its part files have other names, which say nothing."""
    part = leave_part(output, name=name)
    store = shared_store(output)
    found = store.reopen(part.facts)
    assert found is not None
    assert found.stem == part.stem
    store.drop(found)
    assert os.listdir(output / PARTIAL) == []
    assert store.reopen(part.facts) is None


def test_what_servers_that_shared_have_left_one_alone_finds(output: Path) -> None:
    """Whoever stops sharing loses nothing."""
    part = shared_part(output)
    part.close()
    store = PartStore(output)
    store.scan()
    found = resumed(store, facts_of(len(DATA)))
    assert found is not None
    store.drop(found[0])


def test_an_attempt_in_other_blocks_is_offered(output: Path) -> None:
    """As by a server alone."""
    part = shared_part(output)
    part.close()
    store = shared_store(output)
    wanted = facts_of(len(DATA))._replace(block_size=8, head=hashlib.md5(DATA[:8]).hexdigest())
    earlier = store.earlier(wanted)
    assert earlier is not None
    assert earlier.block_size == 4
    store.forget(wanted)
    assert part_files(output) == []


def test_a_file_to_be_sent_anew_takes_nothing_from_another_server(output: Path) -> None:
    """Only what is free goes."""
    held, free = shared_part(output), shared_part(output)
    free.close()
    shared_store(output).forget(facts_of(len(DATA)))
    assert [path.stem for path in part_files(output)] == [held.stem]
    held.remove()


def test_all_part_files_can_be_listed_and_given_up(output: Path) -> None:
    """As the list of unfinished files and an upload over HTTP want it; another server's stay."""
    free, held = shared_part(output), shared_part(output)
    free.close()
    store = shared_store(output)
    own = store.create(facts_of(len(DATA)))
    found = {part.stem: in_use for part, in_use in store.parts()}
    assert found == {free.stem: False, held.stem: False, own.stem: True}
    gone = [part.stem for part, _ in store.parts() if store.remove_if_resting(part)]
    assert gone == [free.stem]
    store.drop(own)
    held.remove()


def test_a_file_that_altered_below_its_journal_is_dropped(output: Path) -> None:
    """35: a journal that is not ours makes its part file useless, but not a new one."""
    part = shared_part(output)
    part.close()
    (output / PARTIAL / f"{part.stem}.journal").write_bytes(b"garbage\n")
    assert shared_store(output).reopen(facts_of(len(DATA))) is None


def test_a_server_that_starts_removes_nothing_that_another_one_makes(output: Path) -> None:
    """It looks around while part files are made, published and removed."""
    stop, failures = threading.Event(), []
    maker = shared_store(output)

    def make() -> None:
        for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
            part = maker.create(facts_of(len(DATA), unique=str(number)))
            part.write_run([memoryview(DATA)], 0)
            part.note(bytes(20))
            part.publish()
            if not (output / PARTIAL / f"{part.stem}.journal").exists():
                failures.append(part)
            maker.drop(part)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        SharedPartStore(output).scan()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert part_files(output) == []
