"""Files of unknown size: blocks and space grow as they come."""

from __future__ import annotations

import time
from typing import Any

import config
from lft.server.quota import Quota
from lft.server.transfer import Transfer
from lft.store.part import Part
from lft.store.partfile import PartFile
from protocol import Blocks, RejectedError


class GrowingBlocks(Blocks):
    """The blocks of a file up to the last one that came; any other may follow, or be the last."""

    def has(self, index: int, length: int) -> bool:
        """Whether block ``index`` may have ``length`` bytes."""
        return index < config.MAX_BLOCKS and 0 < length <= self.block_size


class UnsizedTransfer(Transfer):
    """A file whose size its client does not know before its end. No attempt goes on with it.

    A block that is short is the last one; TRANSFER_COMPLETE says the size in any case. ``blocks``
    and ``facts`` are replaced under the lock, and read without it: as they were a moment ago.
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take what any transfer takes."""
        super().__init__(*values, **named)
        self.blocks = GrowingBlocks(0, self.facts.block_size)
        self._end = 0  # of the last block that came, in bytes
        self._told = 0  # verified bytes that the client has been told of; the hasher's own

    def include(self, block: int, length: int) -> None:
        """Take in that the file has this block. Raises ``RejectedError`` where it cannot have."""
        with self._lock:
            end = self.blocks.offset(block) + length
            if not self.blocks.has(block, length):
                raise _contradiction()
            if length < self.blocks.block_size:
                self._set_size(end)
            elif end > self.blocks.size:
                self._resize(GrowingBlocks(end, self.blocks.block_size))
            self._end = max(self._end, end)

    def end_at(self, size: int | None) -> None:
        """Take the client's word for the size. Raises ``RejectedError`` if that cannot be."""
        with self._lock:
            self._set_size(-1 if size is None else size)

    def _set_size(self, size: int) -> None:
        """Have the file end after ``size`` bytes; the caller holds the lock."""
        known = not isinstance(self.blocks, GrowingBlocks)
        if size < self._end or (known and size != self.blocks.size):
            raise _contradiction()
        if size > self._end + config.UNSIZED_AHEAD:
            raise RejectedError("size", "the end of the file is too far from what came of it")
        self._resize(Blocks(size, self.blocks.block_size))
        self.facts = self.facts._replace(size=size)

    def _resize(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self._map.resize(blocks)

    def take_report(self) -> bool:
        """Return whether the client should hear how far the file is verified (the hasher).

        It keeps in memory what is not, and cannot read on while that is much.
        """
        verified = self.verified_bytes
        due = verified >= self._told + config.UNSIZED_REPORT
        if due:
            self._told = verified
        return due

    def stalled_for(self) -> float:
        """Return the seconds since a block or a message came (main): the source may be slow."""
        return min(super().stalled_for(), time.monotonic() - self.session.heard_at)

    def flush_last(self, part: Part) -> None:
        """Give back the space beyond the end, then flush as ever. Raises ``OSError``."""
        assert isinstance(part, PartFile)
        part.facts = part.facts._replace(size=self.facts.size)
        part.ends_at = self.facts.size  # first: a worker that reserves sees it, or is undone here
        part.set_size(self.facts.size)
        super().flush_last(part)


def _contradiction() -> RejectedError:
    return RejectedError("size", "the client contradicts itself about the size of the file")


class Growth:
    """Takes space for files of unknown size, and sees that limits and quotas hold (a worker)."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota

    def make_room(self, transfer: UnsizedTransfer, block: int, length: int) -> None:
        """Make room for a block that has come.

        Raises ``RejectedError`` or ``OSError`` where there is none.
        """
        end = transfer.blocks.offset(block) + length
        if end > transfer.verified_bytes + config.UNSIZED_AHEAD:
            raise RejectedError("size", "a block is too far from what came before it")
        with transfer.life.use() as part:
            assert isinstance(part, PartFile)
            if end > part.reserved:
                self._take_space(transfer, part, end)
        transfer.include(block, length)

    def _take_space(self, transfer: UnsizedTransfer, part: PartFile, end: int) -> None:
        """Reserve a slice more, or no more than is needed where a limit is near."""
        slices = -(-end // config.RESERVE_SLICE)
        try:
            self._reserve(transfer, part, slices * config.RESERVE_SLICE)
        except (RejectedError, OSError):
            self._reserve(transfer, part, end)

    def _reserve(self, transfer: UnsizedTransfer, part: PartFile, size: int) -> None:
        """Reserve the file's first ``size`` bytes, or stay with more that another worker has."""
        transfer.session.rights.check(transfer.name, size)
        size = max(size, part.reserved)
        part.facts = part.facts._replace(size=size)  # others who count see it from here on
        self._quota.check(transfer, part, anew=True, size=size)
        part.reserve_to(size)
