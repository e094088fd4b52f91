"""How far each block of a file has come."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from protocol import Spans, Why


class Unproven(NamedTuple):
    """A block in the part file that is not hashed yet."""

    block: int
    state: (
        BlockState  # WRITTEN or ANNOUNCED; that it still is says that nobody has asked for it since
    )
    digest: bytes  # the running digest the client sent
    payload: memoryview | None  # its bytes, if they are still in memory


class Due(NamedTuple):
    """What a block that came makes due; work that is due is the caller's to have done."""

    received: int  # bytes that are here by now, each block once
    hashing: bool = False
    flush: bool = False
    missing: Spans = ()  # blocks to be asked for, because the source has changed


class Stretch(NamedTuple):
    """What one turn of hashing brought."""

    more: bool  # whether another turn may find something to do
    missing: Spans = ()  # the block that was damaged, to be asked for again
    why: str = Why.DAMAGED
    judged: bool = False  # all is verified and claimed; said once, to the one who has to publish


class BlockState(enum.IntEnum):
    """How far a block has come; a byte of ``Transfer._states`` holds it."""

    ABSENT = 0
    ASKED = 1  # absent, and a MISSING has named it
    CLAIMED = 2  # in the part file, says the journal
    ANNOUNCED = 3  # ... and the client's digest agrees with the journal's
    WRITING = 4
    WRITTEN = 5
    VERIFIED = 6  # its running digest was computed from the part file, and is the client's


GAPS = re.compile(b"[%c%c]+" % (BlockState.ABSENT, BlockState.CLAIMED))
PROMISED = re.compile(b"[%c%c]+" % (BlockState.CLAIMED, BlockState.ANNOUNCED))
READY = (BlockState.ANNOUNCED, BlockState.WRITTEN)  # to be hashed
TO_STATES = bytes([BlockState.ABSENT, BlockState.CLAIMED]) + bytes(254)  # of the flags of Claims
