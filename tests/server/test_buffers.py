"""The pool of buffers, and its bound."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from config import MB
from lft.server.buffers import BufferPool
from protocol import ConnectionLostError, IntegrityOk
from tests.support.local import ServerThread, StartLocal
from tests.support.rawpeer import RawClient, push
from tests.support.transfers import BLOCK, Sample
from tests.support.waiting import eventually


def test_buffers_are_kept_up_to_a_limit_and_used_again() -> None:
    """One that is given back is the next to be taken; beyond the limit they are freed."""
    pool = BufferPool(10)
    buffers = [pool.take(6) for _ in range(2)]
    for buffer in buffers:
        buffer.release()
    assert pool.take(6).view.obj is buffers[0].view.obj
    assert pool.take(6).view.obj is not buffers[1].view.obj


def test_a_waiting_block_counts_all_the_memory_that_it_keeps() -> None:
    """A short block in the memory of a longer one keeps all of that."""
    pool = BufferPool(100, lend=100)
    pool.take(60).release()
    assert pool.take(40).keep_for_hashing()
    assert not pool.lend(41)
    assert pool.lend(40)


def test_a_small_block_does_not_keep_the_memory_of_a_large_one() -> None:
    """At most twice what it needs."""
    pool = BufferPool(100)
    large = pool.take(60)
    large.release()
    assert pool.take(6).view.obj is not large.view.obj


def test_what_waits_to_be_hashed_may_take_a_bounded_share_of_memory(output: Path) -> None:
    """The pool lends so much to all transfers together; an ended one gives its share back."""
    sample = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    for index in range(1, 10):
        sample.store(index)
    assert not sample.buffers.lend(1)
    sample.store(0)
    assert sample.hash() == []
    assert sample.buffers.lend(3 * BLOCK)
    sample.buffers.give(memoryview(b""), 3 * BLOCK)
    sample.transfer.life.end()
    other = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    other.store(5)
    other.transfer.life.end()
    assert other.buffers.lend(3 * BLOCK)


def test_blocks_that_have_begun_to_come_take_a_bounded_share_of_memory(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 32: a header of 56 bytes makes the server hold a block; one user has so many."""
    monkeypatch.setattr(config, "MAX_HALF_OF_USER", 2 * MB)
    local = start_local()
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", bytes(4 * MB), MB)
        streams = [client.attach() for _ in range(3)]
        for index, stream in enumerate(streams[:2]):
            push(stream, upload.frame(index)[:100])
        eventually(lambda: local.server.receiving._shares._of_all == 2 * MB, "the headers to come")
        push(streams[2], upload.frame(2)[:100])
        with pytest.raises(ConnectionLostError, match="too many blocks"):
            upload.await_acks(streams[2], 1)
        for index, stream in enumerate(streams[:2]):
            push(stream, upload.frame(index)[100:])
            upload.await_acks(stream, 1)
        again = client.attach()
        upload.send(again, 2, 3)
        assert isinstance(upload.complete(), IntegrityOk)


def test_a_connection_that_ends_in_a_block_gives_its_memory_back(local: ServerThread) -> None:
    """FAULTS 32: a peer that dies there costs nothing any more."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", bytes(2 * MB), MB)
        stream = client.attach()
        push(stream, upload.frame(0)[:1000])
        shares = local.server.receiving._shares
        eventually(lambda: shares._of_all == MB, "the header to come")
        stream.close()
        eventually(lambda: shares._of_all == 0, "the memory to come back")
        assert not shares._of_user
