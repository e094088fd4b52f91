"""Runs: how many neighbouring blocks go together."""

from __future__ import annotations

import config


def run_length_for(size: int, block_size: int) -> int:
    """Return how many blocks of a file of ``size`` bytes are read and sent together, at most.

    Fewer of a small file, so that each stream has its share.
    """
    share = size // (config.STREAMS * block_size)
    return max(1, min(config.RUN_SIZE // block_size, config.RUN_BLOCKS, share))


class RunLength:
    """How many blocks one sender sends together, as fast as its link is now. Its own.

    The blocks of a run share one stream: where that is slow, none should wait for another.
    """

    def __init__(self, *, grows: bool) -> None:
        """Begin with one block, and stay there unless it ``grows``."""
        self.blocks = 1
        self._grows = grows

    def note(self, seconds: float, most: int) -> None:
        """Note how long the last run took; the next one has ``most`` blocks at most."""
        longer = seconds < config.RUN_SECONDS and self._grows
        self.blocks = max(1, min(most, 2 * self.blocks if longer else self.blocks // 2))
