"""A transfer: its blocks in any order, damaged, repeated or missing."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from lft.server.buffers import BufferPool
from lft.server.lifetime import TransferEndedError
from lft.server.transfer import Arrived, neighbours
from lft.store.paths import PARTIAL
from tests.support.transfers import BLOCK, Sample
from tests.support.waiting import SleepClock


def test_blocks_in_any_order_are_verified_in_file_order(sample: Sample) -> None:
    """Hashing stops at a gap and goes on when it is filled."""
    for index in (3, 1, 2):
        sample.store(index)
    sample.hash()
    assert sample.transfer.verified_bytes == 0
    sample.store(0)
    sample.hash()
    assert sample.transfer.verified_bytes == 4 * BLOCK


def test_a_complete_transfer_is_judged_by_its_last_running_digest(sample: Sample) -> None:
    """The running digest of the last block is the digest of the file."""
    for index in range(10):
        sample.store(index)
    assert sample.transfer.complete(sample.digest) == ()
    assert sample.judged == 0
    sample.hash()
    assert sample.judged == 1
    assert sample.transfer.digest == sample.transfer.claimed_digest == sample.digest


def test_a_damaged_block_is_found_asked_for_and_repaired(sample: Sample) -> None:
    """FAULTS 15: the first block whose running digest differs is the damaged one."""
    for index in range(10):
        sample.store(index, b"XXXX" if index == 4 else None)
    assert sample.hash() == [4]
    assert sample.transfer.verified_bytes == 4 * BLOCK
    sample.store(4)
    assert sample.hash() == []
    assert sample.transfer.complete(sample.digest) == ()
    sample.hash()
    assert sample.judged == 1
    assert sample.transfer.receipt("x").resent_blocks == 1


def test_a_block_damaged_every_time_makes_a_transfer_hopeless(sample: Sample) -> None:
    """FAULTS 15: rounds are counted without progress, and they end."""
    for rounds in range(config.MAX_ROUNDS + 1):
        assert not sample.transfer.hopeless, rounds
        sample.store(0, b"XXXX")
        assert sample.hash() == [0]
    assert sample.transfer.hopeless


def test_many_damaged_blocks_are_not_hopeless_while_repair_goes_on(output: Path) -> None:
    """Only rounds without progress count: here every block is damaged once."""
    sample = Sample(output, 4 * BLOCK * config.MAX_ROUNDS)
    for index in range(len(sample.parts)):
        sample.store(index, b"XXXX")
        assert sample.hash() == [index]
        sample.store(index)
        assert sample.hash() == []
    assert not sample.transfer.hopeless
    sample.transfer.life.end()


def test_a_block_that_comes_twice_is_written_once(sample: Sample) -> None:
    """FAULTS 16: a duplicate, even a damaged one, changes nothing."""
    sample.store(0)
    assert sample.store(0, b"XXXX").received == BLOCK
    assert sample.hash() == []
    assert sample.store(0, b"XXXX").received == BLOCK
    assert sample.transfer.verified_bytes == BLOCK


def test_gaps_at_complete_are_asked_for(sample: Sample) -> None:
    """FAULTS 18: the answer names exactly the blocks that are not here."""
    for index in (0, 1, 4, 7, 8):
        sample.store(index)
    assert sample.transfer.complete(sample.digest) == ((2, 4), (5, 7), (9, 10))


def test_one_missing_looks_through_a_bounded_number_of_blocks(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of blocks would keep the interpreter for long; the next word asks for the rest."""
    monkeypatch.setattr(config, "MAX_ASKED", 4)
    sample.store(0)
    sample.store(3)
    asked = []
    for _ in range(3):
        missing = sample.transfer.complete(sample.digest)
        asked += [missing]
        for first, end in missing:
            for block in range(first, end):
                sample.store(block)
        sample.hash()
    assert asked == [((1, 3), (4, 5)), ((5, 9),), ((9, 10),)]
    assert sample.judged == 1


def test_a_transfer_that_has_ended_holds_nothing_for_its_blocks(sample: Sample) -> None:
    """Half a block on a silent connection may keep the transfer itself for minutes."""
    sample.store(1)
    states = sample.transfer._map._states
    sample.transfer.life.end()
    assert sample.transfer._map._states is not states
    assert (sample.transfer._map.blocks.count, sample.transfer._map.unproven) == (0, 0)
    assert sample.transfer.complete(sample.digest) == ()
    assert not sample.transfer.take_hashing_turn()
    assert not sample.transfer.hash_stretch().judged


def test_blocks_that_are_read_back_are_hashed_in_one_turn(sample: Sample) -> None:
    """No buffer of ten may wait for the hash, and yet one turn proves all of them."""
    sample.buffers._left = 0
    for index in range(len(sample.parts)):
        sample.store(index)
    assert sample.transfer.hash_stretch().more
    assert sample.transfer._map.verified == len(sample.parts)


def test_before_all_is_delivered_nothing_is_asked_for(sample: Sample) -> None:
    """The blocks are on their way; when the last of them has come, the file is judged at once."""
    for index in range(9):
        sample.store(index)
    assert sample.transfer.complete(sample.digest, delivered=False) == ()
    sample.hash()
    before = sample.judged
    assert sample.store(9).hashing
    sample.hash()
    assert (before, sample.judged) == (0, 1)


def test_a_complete_that_crossed_a_missing_asks_for_nothing_more(sample: Sample) -> None:
    """The client will send the block once it has read the MISSING."""
    for index in range(9):
        sample.store(index, b"XXXX" if index == 2 else None)
    assert sample.hash() == [2]
    assert sample.transfer.complete(sample.digest) == ()
    sample.store(2)
    assert sample.transfer.complete(sample.digest) == ((9, 10),)


def test_the_part_file_stays_open_until_its_last_user_has_left(sample: Sample) -> None:
    """Ending a transfer never pulls the file from under a worker."""
    with sample.transfer.life.use() as part:
        assert sample.transfer.life.end()
        part.write_run([memoryview(b"late")], 0)
    with pytest.raises(OSError, match="descriptor"):
        part.write_run([memoryview(b"gone")], 0)


def test_an_ended_transfer_takes_nothing(sample: Sample) -> None:
    """A late block finds the transfer closed."""
    sample.transfer.life.end()
    with pytest.raises(TransferEndedError):
        sample.store(0)


def test_a_transfer_ends_once(sample: Sample) -> None:
    """Only one of those who end it may answer the client."""
    assert [sample.transfer.life.end() for _ in range(3)] == [True, False, False]


def test_a_complete_transfer_is_judged_once(sample: Sample) -> None:
    """Two workers that find nothing more to hash must not both publish."""
    for index in range(10):
        sample.store(index)
    sample.hash()
    sample.transfer.complete(sample.digest)
    for _ in range(3):
        sample.hash()
    assert sample.judged == 1


def test_nobody_else_ends_a_transfer_that_is_being_published(sample: Sample) -> None:
    """A CANCEL that comes too late must not be answered REJECTED beside a published file."""
    with sample.transfer.life.publishing():
        assert not sample.transfer.life.end()
        assert not sample.transfer.life.ended
    assert sample.transfer.life.ended
    assert not sample.transfer.life.end()
    sample.transfer.life.settle(confirmed=False)


def test_a_transfer_that_cannot_be_published_can_end(sample: Sample) -> None:
    """Its client is told so."""
    with pytest.raises(OSError, match="full"), sample.transfer.life.publishing():
        raise OSError(errno.ENOSPC, "full")
    assert sample.transfer.life.end()


def test_an_ended_transfer_is_not_published(sample: Sample) -> None:
    """Whoever was faster has answered the client already."""
    sample.transfer.life.end()
    with pytest.raises(TransferEndedError), sample.transfer.life.publishing():
        pytest.fail("published")


def test_only_so_many_blocks_may_wait_behind_a_gap(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered about blocks beyond a gap is bounded."""
    monkeypatch.setattr(config, "MAX_AHEAD", 2)
    for index in (1, 2):
        sample.store(index)
    assert not sample.transfer.full
    sample.store(3)
    assert sample.transfer.full


def test_hashing_is_begun_by_one_worker_only(sample: Sample) -> None:
    """A second worker that finds hashing due is told that another is at it."""
    due = [sample.store(index).hashing for index in range(10)]
    assert due.count(True) == 1
    assert not sample.transfer.take_hashing_turn()


@given(
    order=st.permutations(list(range(10))),
    damage=st.sets(st.integers(0, 9)),
    again=st.lists(st.integers(0, 9), max_size=5),
    size=st.integers(37, 40),
)
@settings(max_examples=60, deadline=None)
def test_any_order_damage_and_repetition_ends_with_the_right_file(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    damage: set[int],
    again: list[int],
    size: int,
) -> None:
    """Whatever the network does to blocks, the published bytes are the client's."""
    output = tmp_path_factory.mktemp("out")
    (output / PARTIAL).mkdir()
    sample = Sample(output, size)
    for index in order + again:
        bad = bytes(len(sample.parts[index]))
        sample.store(index, bad if index in damage and bad != sample.parts[index] else None)
    while not sample.judged:
        for index in sample.hash():
            sample.store(index)
        sample.transfer.complete(sample.digest)
    assert sample.transfer.digest == sample.digest
    name = sample.part.publish()
    sample.transfer.life.end()
    assert (output / name).read_bytes() == sample.data


def test_who_has_sent_all_has_time_to_read_a_large_file_again(
    sample: Sample, clock: SleepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 20: of a log that grew the client proves first that the rest is as it was."""
    monkeypatch.setattr(config, "REREAD_RATE", 1)
    sample.store(0)
    clock.now += 30
    assert sample.transfer.stalled_for() == 30
    for index in range(1, 10):
        sample.store(index)
    clock.now += 30
    assert sample.transfer.stalled_for() == 0
    clock.now += 30
    assert sample.transfer.stalled_for() == 60 - sample.transfer.facts.size


def _arrived(sample: Sample, index: int, payload: bytes | None = None) -> Arrived:
    data = sample.parts[index] if payload is None else payload
    buffer = sample.buffers.take(len(data))
    buffer.view[:] = data
    return Arrived(index, sample.digests[index], buffer)


def test_blocks_that_come_together_are_written_as_far_as_they_are_new(
    sample: Sample, output: Path
) -> None:
    """FAULTS 16: a duplicate, beside others or of one of them, changes nothing; gaps stay."""
    sample.store(1)
    run = [_arrived(sample, index) for index in (3, 0, 2, 7)]
    due = sample.transfer.store([*run, _arrived(sample, 1, b"XXXX"), _arrived(sample, 2, b"XXXX")])
    assert due.received == 5 * BLOCK
    assert sample.hash() == []
    assert sample.transfer.verified_bytes == 4 * BLOCK
    sample.transfer.life.end()


def test_neighbours_are_written_together() -> None:
    """Those that lie one behind the other in the file, in whatever order they came."""
    pool = BufferPool(0)
    run = [Arrived(index, b"", pool.take(1)) for index in (7, 3, 1, 2, 8, 5)]
    groups = [[one.block for one in group] for group in neighbours(run)]
    assert groups == [[1, 2, 3], [5], [7, 8]]


def test_a_damaged_block_among_others_takes_back_only_the_hash_behind_it(sample: Sample) -> None:
    """FAULTS 15: those before it stay proven, those behind it wait; each buffer is free again."""
    run = [_arrived(sample, index, b"XXXX" if index == 3 else None) for index in range(6)]
    sample.transfer.store(run)
    assert sample.hash() == [3]
    assert sample.transfer.verified_bytes == 3 * BLOCK
    sample.store(3)
    assert sample.hash() == []
    assert sample.transfer.verified_bytes == 6 * BLOCK
    assert sample.transfer.digest == hashlib.md5(sample.data[: 6 * BLOCK]).hexdigest()
    sample.transfer.life.end()
