"""The pool of buffers, and its bound."""

from __future__ import annotations

from pathlib import Path

from lft.server.buffers import BufferPool
from tests.support.transfers import BLOCK, Sample


def test_buffers_are_kept_up_to_a_limit_and_used_again() -> None:
    """One that is given back is the next to be taken; beyond the limit they are freed."""
    pool = BufferPool(10)
    buffers = [pool.take(6) for _ in range(2)]
    for buffer in buffers:
        buffer.release()
    assert pool.take(6).view.obj is buffers[0].view.obj
    assert pool.take(6).view.obj is not buffers[1].view.obj


def test_what_waits_to_be_hashed_may_take_a_bounded_share_of_memory(output: Path) -> None:
    """The pool lends so much to all transfers together; an ended one gives its share back."""
    sample = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    for index in range(1, 10):
        sample.store(index)
    assert not sample.buffers.lend(1)
    sample.store(0)
    assert sample.hash() == []
    assert sample.buffers.lend(3 * BLOCK)
    sample.buffers.give(bytearray(), 3 * BLOCK)
    sample.transfer.life.end()
    other = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    other.store(5)
    other.transfer.life.end()
    assert other.buffers.lend(3 * BLOCK)
