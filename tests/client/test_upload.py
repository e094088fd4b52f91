"""The blocks of an upload, between the reader and the senders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Sequence

import pytest

import config
from config import GB, KB, MB, ClientSettings
from lft.client.runs import run_length_for
from lft.client.source import Source
from lft.client.upload import (
    Block,
    BlockQueue,
    Reader,
    Upload,
    block_size_for,
)
from lft.wire.sockets import Waker
from protocol import FileReady, RemoteProtocolError, SourceError
from tests.support.files import md5, random_file
from tests.support.waiting import SleepClock


@pytest.mark.parametrize(
    ("size", "blocks", "limit", "expected"),
    [
        (0, None, None, 200 * KB),
        (13 * GB, None, None, 400 * KB),
        (12 * GB, None, None, 200 * KB),
        (200 * GB, None, None, 3200 * KB),
        (20_000 * GB, None, None, 4 * MB),
        (13 * GB, 50 * KB, None, 50 * KB),
        (13 * GB, None, 100 * KB, 25 * KB),
    ],
)
def test_blocks_grow_with_the_file_if_they_may(
    size: int, blocks: int | None, limit: int | None, expected: int
) -> None:
    """By its size alone: an attempt to go on has to come to the same blocks."""
    settings = ClientSettings(block_size=blocks, limit=limit, streams=None)
    assert block_size_for(size, settings, far=True) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(64 * MB - 1, 200 * KB), (64 * MB, MB), (64 * GB, MB), (65 * GB, 2 * MB)],
)
def test_on_a_near_link_a_large_file_has_blocks_of_a_megabyte(size: int, expected: int) -> None:
    """Where nothing waits for a loss, fewer blocks cost less; a block that is asked for stays."""
    assert block_size_for(size, ClientSettings(block_size=None)) == expected
    assert block_size_for(size, ClientSettings(block_size=50 * KB)) == 50 * KB


def test_a_low_limit_makes_blocks_small() -> None:
    """With 4 streams a second's bytes are a block for each: acknowledgements keep coming."""
    for limit, size in ((16 * KB, 4 * KB), (1024, 4 * KB), (100 * KB, 25 * KB), (MB, 200 * KB)):
        settings = ClientSettings(limit=limit)
        assert block_size_for(MB, settings) == size


def _hash_all(upload: Upload) -> None:
    for index in range(upload.blocks.count):
        view = memoryview(bytearray(upload.blocks.length(index)))
        upload.source.read(view, upload.blocks.offset(index))
        upload.hash_run(index, [view])


def test_an_upload_is_delivered_when_every_block_is_acknowledged(upload: Upload) -> None:
    """Read is not sent, and sent is not acknowledged."""
    _hash_all(upload)
    for index in (2, 0):
        upload.confirm([index])
        assert not upload.delivered
    upload.confirm([1])
    assert upload.delivered
    assert upload.acknowledged == upload.source.size


def test_a_block_asked_for_before_its_acknowledgement_is_owed_two(upload: Upload) -> None:
    """MISSING may overtake an acknowledgement: that of the first copy must not stand for both."""
    _hash_all(upload)
    upload.ask_again(0)
    for index in range(3):
        upload.confirm([index])
    assert not upload.delivered
    upload.confirm([0])
    assert upload.delivered
    assert upload.acknowledged == upload.source.size


def test_a_block_asked_for_again_is_owed_again(upload: Upload) -> None:
    """The bar goes back, and the upload is not complete until it is acknowledged anew."""
    _hash_all(upload)
    for index in range(3):
        upload.confirm([index])
    upload.ask_again(1)
    assert not upload.delivered
    assert upload.acknowledged == 2 * 4096
    upload.confirm([1])
    assert upload.delivered


def test_a_held_block_asked_for_before_it_was_read_is_sent_when_it_is(tmp_path: Path) -> None:
    """Its digest is not known yet; the reader comes to it in time."""
    source = Source(random_file(tmp_path / "x", 3 * 4096))
    ready = FileReady(7, ((0, 3),))
    upload = Upload(source, "md5", 4096, ready, lambda: None)
    assert upload.resumed_bytes == 3 * 4096
    assert not upload.ask_again(1)
    held = upload.hash_run(0, [memoryview(bytes(4096))] * 3)
    assert held == b"\1\0\1"
    assert upload.resumed_bytes == 2 * 4096
    source.close()


def test_a_server_may_not_ask_for_one_block_without_end(upload: Upload) -> None:
    """FAULTS 26: each time we would remember it once more."""
    _hash_all(upload)
    with pytest.raises(RemoteProtocolError, match="without end"):
        list(iter(lambda: upload.ask_again(0), None))


def test_the_last_blocks_that_lag_are_named_once_in_a_while(
    upload: Upload, clock: SleepClock
) -> None:
    """Not before the end of the file, the first ones first, and no more than there are streams."""
    upload.hash_run(0, [memoryview(bytes(4096))])
    upload.note_sent(0, 4096)
    clock.now += 100
    assert upload.resend_late(9, hasty=True) == []
    for index in (1, 2):
        upload.hash_run(index, [memoryview(bytes(4096))])
        upload.note_sent(index, 4096)
    assert upload.resend_late(9, hasty=True) == [0]
    clock.now += 100
    assert upload.resend_late(2, hasty=True) == [1, 2]
    assert upload.resend_late(2, hasty=True) == [0]
    assert upload.resend_late(2, hasty=True) == []


def test_without_haste_a_block_lags_only_when_its_stream_is_stuck(
    upload: Upload, clock: SleepClock
) -> None:
    """A link that is merely slow, or limited, would carry much twice."""
    _hash_all(upload)
    upload.note_sent(0, 4096)
    clock.now += config.STUCK / 2
    assert upload.resend_late(1, hasty=False) == []
    clock.now += config.STUCK
    assert upload.resend_late(1, hasty=False) == [0]


def test_a_block_that_went_two_ways_counts_once(upload: Upload) -> None:
    """Whichever acknowledgement comes first is the one; the other is no news."""
    _hash_all(upload)
    for index in (0, 0, 1, 1, 0):
        upload.confirm([index])
    assert not upload.delivered
    assert upload.acknowledged == 2 * 4096
    upload.confirm([2])
    assert upload.delivered


@pytest.mark.parametrize(("verified", "left"), [(1, [0, 1, 2]), (8191, [1, 2]), (3 * 4096, [])])
def test_what_is_verified_owes_no_acknowledgement(
    upload: Upload, verified: int, left: list[int]
) -> None:
    """Even where two were owed; those that come later count no more."""
    for block in range(3):
        upload.hash_run(block, [memoryview(bytes(4096))])
    upload.ask_again(0)
    upload.note_verified(verified)
    assert [block for block in range(3) if upload.owes(block)] == left
    assert upload.acknowledged == (3 - len(left)) * 4096
    assert upload.delivered == (not left)
    upload.confirm([0, 0, 1, 2])
    assert upload.acknowledged == 3 * 4096


def test_what_was_held_was_not_carried(tmp_path: Path) -> None:
    """Acknowledged digests say nothing about how fast the link is."""
    source = Source(random_file(tmp_path / "x", 3 * 4096))
    upload = Upload(source, "md5", 4096, FileReady(7, ((0, 2),)), lambda: None)
    _hash_all(upload)
    for index in range(3):
        upload.confirm([index])
    assert (upload.acknowledged, upload.carried) == (3 * 4096, 4096)
    source.close()


def test_an_error_of_a_thread_reaches_main(upload: Upload) -> None:
    """No thread of the pool dies unheard."""
    upload.fail(SourceError("gone"))
    with pytest.raises(SourceError, match="gone"):
        upload.check()


def test_an_idle_sender_is_woken_for_a_block(upload: Upload) -> None:
    """It waits on a descriptor, together with its socket."""
    blocks, waker = BlockQueue(), Waker()
    assert blocks.take(waker) == []
    assert not waker.quiet()
    blocks.put([Block(upload, 0)])
    assert waker.quiet()
    assert [block.index for block in blocks.take(waker)] == [0]
    waker.close()


def test_a_block_meant_for_a_leaving_sender_goes_to_another(upload: Upload) -> None:
    """A sender whose connection broke just when it was woken must not keep the block waiting."""
    blocks, leaving, other = BlockQueue(), Waker(), Waker()
    assert blocks.take(other) == []
    assert blocks.take(leaving) == []
    blocks.put([Block(upload, 0)])
    assert leaving.quiet()
    blocks.leave(leaving)
    assert other.quiet()
    leaving.close()
    other.close()


def test_blocks_are_taken_together_and_the_rest_wakes_another_sender(upload: Upload) -> None:
    """One ring for many blocks must not leave some of them waiting beside an idle sender."""
    blocks, taker, other = BlockQueue(), Waker(), Waker()
    assert blocks.take(other) == []
    assert blocks.take(taker) == []
    blocks.put(Block(upload, index) for index in range(3))
    assert taker.quiet()
    assert not other.quiet()
    assert [block.index for block in blocks.take(taker, 2)] == [0, 1]
    assert other.quiet()
    assert [block.index for block in blocks.take(other, 2)] == [2]
    assert not taker.quiet()
    taker.close()
    other.close()


def test_a_run_is_bounded_in_bytes_when_blocks_become_larger(tmp_path: Path) -> None:
    """The last file had small blocks, and a sender still takes as many of them together."""
    source = Source(random_file(tmp_path / "x", 100))
    large = Upload(source, "md5", 4 * MB, FileReady(7, ()), lambda: None)
    blocks, waker = BlockQueue(), Waker()
    blocks.put(Block(large, index) for index in range(3))
    assert len(blocks.take(waker, config.RUN_BLOCKS)) == 1
    waker.close()
    source.close()


@pytest.mark.parametrize(
    ("size", "block_size", "blocks"),
    [
        (GB, 200 * KB, 10),
        (GB, 4 * KB, config.RUN_BLOCKS),
        (GB, 4 * MB, 1),
        (MB, 200 * KB, 1),  # each of four streams has something to do
        (0, 200 * KB, 1),
    ],
)
def test_a_run_has_about_two_megabytes_of_a_large_file(
    size: int, block_size: int, blocks: int
) -> None:
    """A small file has shorter ones, and tiny blocks make no endless list."""
    assert run_length_for(size, block_size) == blocks


def test_neighbouring_blocks_are_read_with_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are free buffers; the first block does not wait for others."""
    source = Source(random_file(tmp_path / "x", 40 * 4096 - 1))
    upload = Upload(source, "md5", 4096, FileReady(7, ()), lambda: None)
    queue, calls, preadv = BlockQueue(), [], os.preadv

    def count(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        calls.append(len(views))
        return preadv(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", count)
    reader = Reader(upload, queue, 40)
    reader.start()
    reader.join()
    waker = Waker()
    blocks = queue.take(waker, 100)
    assert calls == [1, 2, 4, 8, 9, 9, 7]
    assert b"".join(block.view or b"" for block in blocks) == (tmp_path / "x").read_bytes()
    assert upload.digests.hexdigest() == md5(tmp_path / "x")
    waker.close()
    source.close()


def test_a_reader_goes_ahead_by_a_bounded_number_of_blocks(upload: Upload) -> None:
    """FAULTS 32: beyond those in the senders' hands, and never beyond a share of memory."""
    Reader(upload, BlockQueue(), 20)
    assert upload.free.qsize() == 20 + config.READ_AHEAD
    Reader(upload, BlockQueue(), 2**20)
    most = config.READ_AHEAD_BYTES // upload.blocks.block_size
    assert upload.free.qsize() == 20 + config.READ_AHEAD + most
