"""Repairs: what the log says of blocks that the server asks for again."""

from __future__ import annotations

import logging

import config
from lft.terminal import SUCCESS
from protocol import Blocks, Why

log = logging.getLogger("client")

_WHYS = {
    Why.DAMAGED: "damaged on the way",
    Why.LOST: "lost on the way",
    Why.CHANGED: "changed since the last attempt",
    Why.ALTERED: "altered on the server",
}


class Repairs:
    """The repairs of one file: the first few are named, the others counted. Main's own."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._count = 0
        self._told: list[str] = []

    def tell(self, first: int, end: int, reason: str) -> None:
        """Log that the blocks from ``first`` to before ``end`` are sent again, and why."""
        if self._count < config.REPAIRS_TOLD:
            what = what_happened(self._blocks, first, end, reason)
            self._told.append(what)
            log.warning("%s: sent again", what)
        self._count += 1

    def tell_success(self) -> None:
        """Log that everything repaired is right now."""
        for what in self._told:
            log.info("%s: sent again, ok", what, extra=SUCCESS)
        more = self._count - len(self._told)
        if more > 0:
            log.info("and %d more, all ok", more, extra=SUCCESS)


def what_happened(blocks: Blocks, first: int, end: int, reason: str) -> str:
    """Say in words why some blocks are sent again."""
    which = f"block {first}" if end == first + 1 else f"blocks {first} to {end - 1}"
    why = _WHYS.get(reason, "asked for again")
    return f"{which} (offset {blocks.offset(first)}), {why}"
