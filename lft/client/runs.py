"""Runs: how many neighbouring blocks go together."""

from __future__ import annotations

import config


def run_length_for(size: int, block_size: int) -> int:
    """Return how many blocks of a file of ``size`` bytes are read and sent together, at most.

    Fewer of a small file, so that each stream has its share.
    """
    share = size // (config.STREAMS * block_size)
    return max(1, min(config.RUN_SIZE // block_size, config.RUN_BLOCKS, share))
