"""Proving blocks: hash them in file order, have damaged ones repaired, assemble the file."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import Callable

import config
from lft.server.blockmap import Stretch
from lft.server.contents import ContentCheck
from lft.server.lifecycle import Lifecycle
from lft.server.lifetime import TransferEndedError
from lft.server.publishing import Publishing
from lft.server.right_of_way import RightOfWay
from lft.server.transfer import Transfer
from lft.server.underway import Tell
from lft.server.unsized import UnsizedTransfer
from lft.server.work_queue import Unit, WorkQueue
from protocol import (
    Missing,
    Rejected,
    RejectedError,
    Spans,
    Verifying,
    Why,
)

block_log = logging.getLogger("block")


class Verification:
    """Proves files right. All methods run on workers, unless a docstring says otherwise.

    ``later`` has a unit done on main at an instant.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        work: WorkQueue,
        way: RightOfWay,
        tell: Tell,
        later: Callable[[float, Unit], None],
    ) -> None:
        self._lifecycle = lifecycle
        self._work = work
        self._way = way
        self._tell = tell
        self._later = later
        self._flushes = threading.BoundedSemaphore(config.MAX_FLUSHES)
        self._publishing = Publishing(lifecycle)

    # -- hashing and repair

    def verify_blocks(self, transfer: Transfer) -> None:
        """Hash blocks in file order; ask for damaged ones; judge when all are there."""
        while not self._way.pause(transfer.priority, transfer.hash.gives_way_until):
            transfer.hash.gives_way_until = time.monotonic() + config.LONGEST_HOLD
            stretch = transfer.hash_stretch()
            self.check_content(transfer)
            if isinstance(transfer, UnsizedTransfer) and transfer.take_report():
                self._tell(transfer, Verifying(transfer.verified_bytes))
            if stretch.missing:
                self._repair(transfer, stretch)
            if stretch.judged:
                self.assemble_file_from_blocks(transfer)
            if not stretch.more:
                return
            if self._work.pressed:
                break
        self._go_on_hashing(transfer)

    def _go_on_hashing(self, transfer: Transfer) -> None:
        """Have hashing go on when it need not give way any more (any)."""
        pause = self._way.pause(transfer.priority, transfer.hash.gives_way_until)
        if pause:
            self._later(time.monotonic() + pause, partial(self._go_on_hashing, transfer))
        else:
            self._lifecycle.start(self.verify_blocks, transfer)

    def check_content(self, transfer: Transfer) -> None:
        """See that the files that are verified by now are what their extensions say.

        Raises ``TransferEndedError`` where one is not.
        """
        try:
            ContentCheck(transfer).look()
        except RejectedError as error:
            self._lifecycle.finish(transfer, Rejected(error.code, str(error)))
            raise TransferEndedError from None

    def _repair(self, transfer: Transfer, stretch: Stretch) -> None:
        block = stretch.missing[0][0]
        if transfer.hopeless:
            self._lifecycle.fail(transfer, f"block {block} arrives damaged every time")
            return
        block_log.warning("%s: block %d (offset %d) is %s: asking for it again", transfer.name,
                          block, transfer.blocks.offset(block), stretch.why)  # fmt: skip
        self.ask_for(transfer, stretch.missing, stretch.why)

    def ask_for(self, transfer: Transfer, missing: Spans, why: str) -> None:
        """Have the client send blocks (again)."""
        self._tell(transfer, Missing(transfer.number, missing, why))

    # -- the end of the file

    def complete(self, transfer: Transfer, digest: str, *, delivered: bool) -> None:
        """Take the client's word that all is read, or delivered."""
        missing = transfer.complete(digest, delivered=delivered)
        if transfer.hopeless:
            self._lifecycle.fail(transfer, "blocks are still missing after several rounds")
        elif missing:
            block_log.warning("%s: asking for missing blocks %s", transfer.name, missing[:10])
            self.ask_for(transfer, missing, Why.LOST)
        elif transfer.take_hashing_turn():
            self._lifecycle.start(self.verify_blocks, transfer)

    def flush_part(self, transfer: Transfer) -> None:
        """Bring the written bytes to the disk, in the background, unless enough flushes run."""
        done = self._flushes.acquire(blocking=False)
        if done:
            try:
                with transfer.life.use() as part:
                    part.flush(transfer.verified_bytes)
            finally:
                self._flushes.release()
        if transfer.end_flush(done=done):
            self.assemble_file_from_blocks(transfer)

    def assemble_file_from_blocks(self, transfer: Transfer) -> None:
        """Compare the digests, publish the file, and only then say so."""
        if transfer.claimed_digest != transfer.digest:
            reason = "the digest of the file is not the one the client computed"
            self._lifecycle.fail(transfer, reason)
            return
        if not transfer.take_last_flush():
            return  # flush_part calls us again
        self._publishing.publish(transfer)
