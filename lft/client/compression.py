"""Compression: which blocks to compress, and how thoroughly."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Sequence

import config
from lft.clock import TokenBucket
from lft.wire.codecs import COMPRESSIONS, common_codec, compress
from protocol import CODEC_RAW

log = logging.getLogger("client")


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def agree_on_compression(features: Sequence[str], streams: int) -> Compression | None:
    """Return how to compress for a server that has ``features``; ``None`` if it unpacks nothing."""
    codec = common_codec(features)
    if codec == CODEC_RAW:
        log.warning("the server takes nothing compressed: blocks go as they are")
        return None
    return Compression(codec, streams)


class Compression:
    """Compresses the blocks for which that pays; one for a session, used by all of its senders.

    A block goes raw while the senders hardly wait for the link, and while more processor time has
    been used than ``COMPRESS_SHARE`` allows. A block that does not shrink goes raw, too; of the
    blocks after it only small samples are tried, at growing distances: a file that cannot be
    compressed costs next to nothing.

    The lock protects what is known of the link and of the last blocks; a single read needs no lock.
    """

    def __init__(self, codec: int, streams: int) -> None:
        (name,) = (name for name, number in COMPRESSIONS.items() if number == codec)
        self._codec = codec
        self._quick, self._thorough = config.COMPRESS_LEVELS[name]
        self._memory = config.COMPRESS_MEMORY * streams  # seconds of all senders together
        share = config.COMPRESS_SHARE * _processors()
        self._budget = TokenBucket(share, config.COMPRESS_BURST)  # of processor seconds
        self._budget.take(
            -share * config.COMPRESS_BURST / 2
        )  # half of the burst is saved up already
        self._lock = threading.Lock()
        self._waiting = 0.5  # the part of their time that senders wait for the link; first a guess
        self._shrinks = False  # whether the last block that was tried did shrink
        self._pause = 0  # blocks that go raw until the next sample ...
        self._left = 0  # ... and how many of them are left

    def pack(self, view: memoryview, behind: int) -> tuple[int, memoryview]:
        """Return the codec and the payload that a block is to be sent with (a sender).

        ``behind`` is the number of the sender's blocks that are not acknowledged.
        """
        level = self._level(behind)
        if level is not None and (self._shrinks or self._try_sample(view)):
            payload = self._compress(view, level)
            shrinks = _shrinks(payload, view)
            self._learn(shrinks=shrinks)
            if shrinks:
                return self._codec, payload
        return CODEC_RAW, view

    def note_wait(self, waited: float, worked: float, behind: int) -> None:
        """Note how many seconds a sender waited for the link, and how many it did not."""
        seconds = waited + worked
        with self._lock:
            compresses = self._waiting >= config.COMPRESS_WAIT / 2
            if waited or behind <= config.COMPRESS_BEHIND or not compresses:
                weight = min(1.0, seconds / self._memory)
                self._waiting += weight * (waited / seconds - self._waiting)

    def _level(self, behind: int) -> int | None:
        """Return how thoroughly to compress now, ``None`` for not at all.

        In doubt, between half of ``COMPRESS_WAIT`` and all of it, a block goes raw only where the
        link would run dry. On a slow link raw blocks would fill the system's buffers before any
        sender has to wait, and compressed ones would stand behind them.
        """
        waiting = self._waiting
        busy, saved = behind > config.COMPRESS_BEHIND, self._budget.saved
        least = config.COMPRESS_WAIT / 2 if busy else config.COMPRESS_WAIT
        if waiting < least or saved < 0:
            return None
        return self._thorough if (busy or waiting > 0.5) and saved > 0.5 else self._quick

    def _try_sample(self, view: memoryview) -> bool:
        """Compress the middle of a block, if it is time to try; return whether it shrank."""
        with self._lock:
            if self._left > 0:
                self._left -= 1
                return False
        start = max(0, len(view) - config.COMPRESS_SAMPLE) // 2
        sample = view[start : start + config.COMPRESS_SAMPLE]
        shrinks = _shrinks(self._compress(sample, self._quick), sample)
        if not shrinks:
            self._learn(shrinks=False)
        return shrinks

    def _learn(self, *, shrinks: bool) -> None:
        with self._lock:
            self._shrinks = shrinks
            longer = min(max(1, 2 * self._pause), config.COMPRESS_PAUSE)
            self._left = self._pause = 0 if shrinks else longer

    def _compress(self, view: memoryview, level: int) -> memoryview:
        """Compress, and pay for it with processor time."""
        began = time.thread_time()
        payload = compress(self._codec, level, view)
        self._budget.take(time.thread_time() - began)
        return payload


def _shrinks(payload: memoryview, view: memoryview) -> bool:
    return len(payload) < config.COMPRESS_WORTH * len(view)
