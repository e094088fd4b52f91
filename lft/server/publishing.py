"""Publishing: a file whose blocks are all proven is flushed and gets its final name."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Collection

import config
from lft.server.lifecycle import Lifecycle
from lft.server.lifetime import TransferEndedError
from lft.server.transfer import Transfer
from lft.server.turns import Slots
from lft.store.part import Part


class Publishing:
    """Publishes files, some at a time. All methods run on workers.

    Of small files, those that have waited for the same place are flushed with one call.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._places: Slots[Transfer] = Slots(config.MAX_PUBLISHING)

    def publish(self, transfer: Transfer) -> None:
        """Publish a file that is proven, when it has its turn; then its client has the verdict."""
        if self._places.enter(transfer.facts.user, transfer):
            self._publish_in_turn([], transfer)

    def _publish_in_turn(self, others: list[Transfer], transfer: Transfer) -> None:
        """Publish files that have a place together; then the next ones have it."""
        try:
            flushed = self._flush_together([transfer, *others]) if others else ()
            for one in others:
                self._lifecycle.run(partial(self._publish, flushed), one)
            self._publish(flushed, transfer)
        finally:
            next_ones = self._places.leave(_is_small, config.MAX_TOGETHER)
            if next_ones:
                first, *rest = next_ones
                self._lifecycle.start(partial(self._publish_in_turn, rest), first)

    def _flush_together(self, group: list[Transfer]) -> Collection[Transfer]:
        """Flush files with one call, where that pays; return those that are on the disk then.

        An error is final for all of them: which of them it was about, the system does not say.
        """
        with contextlib.ExitStack() as users:
            parts: dict[Transfer, Part] = {}
            for one in group:
                with contextlib.suppress(TransferEndedError):
                    part = users.enter_context(one.life.use())
                    if part.made_at:
                        parts[one] = part
            if len(parts) < 2:
                return ()
            oldest = min(parts.values(), key=lambda part: part.made_at)
            try:
                return parts if oldest.flush_with(len(parts)) else ()
            except OSError as error:
                for one in parts:
                    one.life.spoil()
                    self._lifecycle.refuse(one, error)
                return ()

    def _publish(self, flushed: Collection[Transfer], transfer: Transfer) -> None:
        with transfer.life.use() as part:
            if transfer not in flushed:
                transfer.flush_last(part)
            self._lifecycle.publish(transfer, part)
        if transfer.session.closed:  # while we published
            self._lifecycle.forgo(transfer.session)


def _is_small(transfer: Transfer) -> bool:
    return transfer.blocks.size <= config.SHARES_FLUSH and not transfer.facts.is_tree
