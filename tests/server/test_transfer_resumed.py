"""A transfer that goes on where another one stopped."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Iterator

import pytest

import config
from lft.server.blockmap import Due
from lft.server.transfer import Transfer
from lft.store.journal import Claims, Journal, record
from lft.store.part import Part, StaleError
from lft.store.partfile import PartFile
from protocol import Why
from tests.support.files import part_files, received
from tests.support.partfiles import (
    DATA,
    RECORD,
    claimed,
    claims_of,
    facts_of,
    journal_file,
    leave_part,
    leave_published,
)
from tests.support.transfers import Sample
from tests.support.transfers import resumed as go_on


class Resumed(Sample):
    """A transfer of DATA, or of what became of it, for which a killed server left all of DATA."""

    def __init__(self, output: Path, data: bytes = DATA) -> None:
        super().__init__(output, 0, data=data)

    def _part(self) -> tuple[Part, Claims | None]:
        self.store_of_parts.scan()
        found = go_on(self.store_of_parts, self.transfer.facts)
        assert found is not None
        return found


@pytest.fixture
def resumed(output: Path) -> Iterator[Resumed]:
    """A transfer that goes on with all ten blocks of DATA."""
    leave_part(output)
    one = Resumed(output)
    yield one
    one.transfer.life.end()


def test_the_client_is_told_what_the_journal_claims(resumed: Resumed) -> None:
    """Of these blocks only the running digests are wanted."""
    assert resumed.claims is not None
    assert resumed.claims.spans == ((0, 10),)
    assert resumed.transfer.verified_bytes == 0


def test_a_changed_source_is_asked_for_some_blocks_at_a_time(
    resumed: Resumed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies further on is asked for when the client's digests of it come."""
    monkeypatch.setattr(config, "MAX_ASKED", 4)
    dues = [resumed.transfer.announce(block, bytes(16)) for block in (1, 2, 6)]
    assert [due.missing for due in dues] == [((1, 5),), (), ((6, 10),)]


def test_claims_are_dropped_when_all_is_verified(resumed: Resumed) -> None:
    """A client may leave its verdict unconfirmed for long; they take 16 bytes a block."""
    assert resumed.claims is not None
    claims = weakref.ref(resumed.claims)
    resumed.claims = None
    resumed.announce(*range(10))
    assert claims() is not None
    resumed.transfer.complete(resumed.digest)
    resumed.hash()
    assert claims() is None


def test_announced_blocks_are_proven_by_the_part_file(output: Path, resumed: Resumed) -> None:
    """No byte is sent: what is there is hashed, and it is the client's file."""
    due = resumed.announce(*range(10))
    assert due[-1].received == 39
    assert resumed.hash() == []
    assert resumed.transfer.complete(resumed.digest) == ()
    resumed.hash()
    assert resumed.judged == 1
    assert resumed.transfer.digest == resumed.digest
    assert resumed.transfer.receipt("x").resent_blocks == 0


def test_announced_blocks_make_hashing_due_as_written_ones_do(resumed: Resumed) -> None:
    """It begins while further digests come."""
    assert [due.hashing for due in resumed.announce(*range(10))].count(True) == 1


def test_a_block_that_is_not_announced_is_not_believed(resumed: Resumed) -> None:
    """The journal's word alone is no proof: at the end it is asked for."""
    resumed.announce(0, 1, 2, 4, 5, 6, 7, 8, 9)
    assert resumed.transfer.complete(resumed.digest) == ((3, 4),)


def test_an_announcement_of_what_is_not_claimed_changes_nothing(sample: Sample) -> None:
    """A peer cannot talk a block into the file."""
    assert sample.announce(0)[0].received == 0
    assert sample.transfer.complete(sample.digest) == ((0, 10),)


def test_a_block_announced_twice_counts_once(resumed: Resumed) -> None:
    """FAULTS 16: a lost connection may bring it again."""
    assert [due.received for due in resumed.announce(0, 0)] == [4, 4]


def test_a_claimed_block_that_is_sent_all_the_same_is_written(
    output: Path, resumed: Resumed
) -> None:
    """A client may prefer to send its bytes; the claim is then of no interest."""
    resumed.store(0)
    resumed.announce(*range(10))
    assert resumed.hash() == []
    assert resumed.transfer.verified_bytes == 39


def test_the_bytes_of_an_announced_block_are_not_needed(resumed: Resumed) -> None:
    """Damaged ones, late on the way, do no harm."""
    resumed.announce(*range(10))
    resumed.store(4, b"XXXX")
    assert resumed.hash() == []


@pytest.mark.parametrize("block", [0, 4, 9])
def test_a_block_altered_on_the_disk_is_the_only_one_asked_for(output: Path, block: int) -> None:
    """FAULTS 35: the journal claims what is not there; one block is sent, the file is right."""
    leave_part(output)
    with open(part_files(output)[0], "r+b") as file:
        file.seek(block * 4)
        file.write(b"XX")
    resumed = Resumed(output)
    resumed.announce(*range(10))
    assert resumed.hash() == [block]
    assert resumed.whys == [Why.ALTERED]
    resumed.store(block)
    assert resumed.hash() == []
    resumed.transfer.complete(resumed.digest)
    resumed.hash()
    assert resumed.judged == 1
    assert part_files(output)[0].read_bytes() == DATA
    resumed.transfer.life.end()


def test_many_altered_blocks_are_not_hopeless(output: Path) -> None:
    """FAULTS 35: a power cut may have taken them all; each one that is repaired is progress."""
    leave_part(output)
    part_files(output)[0].write_bytes(bytes(39))
    resumed = Resumed(output)
    resumed.announce(*range(10))
    asked = []
    for block in range(10):
        asked += resumed.hash()
        resumed.store(block)
    resumed.hash()
    assert asked == list(range(10))
    assert not resumed.transfer.hopeless
    assert resumed.transfer.verified_bytes == 39
    resumed.transfer.life.end()


def _changed(at: int) -> bytes:
    """Return DATA with another byte."""
    return DATA[:at] + b"\xff" + DATA[at + 1 :]


def _asked(due: list[Due]) -> list[int]:
    return [block for one in due for span in one.missing for block in range(*span)]


@pytest.mark.parametrize("order", [range(10), range(9, -1, -1), (5, 2, 9, 0, 7, 1, 3, 8, 4, 6)])
def test_after_a_change_in_the_source_every_later_block_is_asked_for_once(
    output: Path, order: tuple[int, ...]
) -> None:
    """FAULTS 20: block 3 differs; what comes before it is kept, whatever the order of digests."""
    leave_part(output)
    resumed = Resumed(output, _changed(13))
    due = resumed.announce(*order)
    assert sorted(_asked(due)) == [3, 4, 5, 6, 7, 8, 9]
    for block in range(3, 10):
        resumed.store(block)
    assert resumed.hash() == []
    resumed.transfer.complete(resumed.digest)
    resumed.hash()
    assert resumed.judged == 1
    assert part_files(output)[0].read_bytes() == _changed(13)
    resumed.transfer.life.end()


def test_announced_blocks_that_are_asked_for_after_all_count_once(output: Path) -> None:
    """FAULTS 35: one wrong digest in a journal looks like a change; later blocks were right."""
    part = PartFile.create(output, facts_of(39))
    part.write_run([memoryview(DATA)], 0)
    part.note(b"".join(claims_of(DATA, *range(10)).records()) + record(3, b"\1" * 16))
    part.close()
    resumed = Resumed(output)
    assert resumed.announce(9, 8, 7)[-1].received == 11
    (due,) = resumed.announce(3)
    assert _asked([due]) == [3, 4, 5, 6, 7, 8, 9]
    assert due.received == 0
    resumed.transfer.life.end()


def test_a_change_in_the_source_asks_for_claimed_blocks_only(output: Path) -> None:
    """What was never here the client sends anyway."""
    part = PartFile.create(output, facts_of(39))
    part.write_run([memoryview(DATA)], 0)
    part.note(b"".join(claims_of(DATA, 0, 1, 2, 5, 6, 9).records()))
    part.close()
    resumed = Resumed(output, _changed(5))
    assert _asked(resumed.announce(0, 1, 2)) == [1, 2, 5, 6, 9]
    resumed.transfer.life.end()


def test_a_change_that_the_journal_hides_is_found_by_the_hash(output: Path) -> None:
    """The journal lies with the client's own digest over other bytes: found as an alteration."""
    part = PartFile.create(output, facts_of(39))
    part.write_run([memoryview(_changed(13))], 0)
    part.note(b"".join(claims_of(DATA, *range(10)).records()))
    part.close()
    resumed = Resumed(output)
    assert _asked(resumed.announce(*range(10))) == []
    assert resumed.hash() == [3]
    assert resumed.whys == [Why.ALTERED]
    resumed.transfer.life.end()


def test_a_file_that_has_grown_needs_only_its_end(output: Path) -> None:
    """FAULTS 20: more was appended between the attempts; its old last block was short."""
    leave_part(output)
    resumed = Resumed(output, DATA + b"more and more")
    assert resumed.claims is not None
    assert resumed.claims.spans == ((0, 9),)
    assert _asked(resumed.announce(*range(9))) == []
    for block in range(9, 13):
        resumed.store(block)
    resumed.transfer.complete(resumed.digest)
    assert resumed.hash() == []
    assert resumed.judged == 1
    resumed.transfer.life.end()


def test_a_file_that_has_shrunk_keeps_its_beginning(output: Path) -> None:
    """FAULTS 20: what is published is as short as the source."""
    leave_part(output)
    resumed = Resumed(output, DATA[:18])
    resumed.announce(*range(4))
    resumed.store(4)
    resumed.transfer.complete(resumed.digest)
    assert resumed.hash() == []
    assert resumed.judged == 1
    assert part_files(output)[0].read_bytes() == DATA[:18]
    resumed.transfer.life.end()


@pytest.mark.parametrize("how", ["changed", "altered"])
def test_a_published_file_that_does_not_fit_is_stale(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """FAULTS 37: the source or the published file has changed since; neither is overwritten."""
    leave_published(output, monkeypatch, "link")
    if how == "altered":
        with open(received(output)[0], "r+b") as file:
            file.write(b"edited")
    before = received(output)[0].read_bytes()
    resumed = Resumed(output, _changed(13) if how == "changed" else DATA)
    due = resumed.announce(*range(10))
    with pytest.raises(StaleError):
        resumed.hash() if how == "altered" else resumed.store(_asked(due)[0])
    resumed.transfer.life.spoil()
    resumed.transfer.life.end()
    assert [path.read_bytes() for path in received(output)] == [before]


def test_what_was_written_is_claimed_when_it_is_noted(output: Path, sample: Sample) -> None:
    """No block is claimed before it is written, and each once."""
    for block in (0, 3):
        sample.store(block)
    for _ in range(2):
        sample.transfer.note_blocks()
    facts = sample.part.facts
    records = journal_file(output).read_bytes().partition(b"\n")[2]
    assert len(records) == 2 * RECORD
    assert claimed(Journal(journal_file(output)).load(facts)) == [0, 3]


class Kept(Sample):
    """A transfer whose part file stays when it ends."""

    def let_go(self, _transfer: Transfer, part: Part) -> None:
        """Let it rest."""
        self.store_of_parts.rest(part)


def test_the_last_blocks_are_claimed_when_a_transfer_ends(output: Path) -> None:
    """FAULTS 36: what was written but not yet acknowledged is not sent again either."""
    sample = Kept(output, 39)
    sample.store(2)
    sample.transfer.life.end()
    assert journal_file(output).read_bytes().endswith(record(2, sample.digests[2]))
