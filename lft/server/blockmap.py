"""How far each block of a file has come, and what follows from that."""

from __future__ import annotations

import enum
import itertools
import re
from typing import NamedTuple, Sequence

import config
from lft.server.buffers import Buffer
from lft.store.journal import Claims
from protocol import MAX_SPANS, Blocks, Spans, Why


class BlockState(enum.IntEnum):
    """How far a block has come; a byte of the map holds it."""

    ABSENT = 0
    CLAIMED = 1  # in the part file, says the journal; the flags of Claims have the same 0 and 1
    ASKED = 2  # absent, and a MISSING has named it
    ANNOUNCED = 3  # ... and the client's digest agrees with the journal's
    WRITING = 4
    WRITTEN = 5
    VERIFIED = 6  # its running digest was computed from the part file, and is the client's


class Unproven(NamedTuple):
    """A block in the part file that is not hashed yet."""

    block: int
    state: (
        BlockState  # WRITTEN or ANNOUNCED; while the map has the same, the block is not asked for
    )
    digest: bytes  # the running digest that the client sent
    buffer: Buffer | None  # its bytes, if they are still in memory

    @property
    def sent(self) -> bool:
        """Whether this attempt has sent its bytes; otherwise the journal claims it."""
        return self.state == BlockState.WRITTEN


class Due(NamedTuple):
    """The work that has become due with a block; the caller sees to it that it is done."""

    received: int  # bytes that are here by now, each block once
    hashing: bool = False
    flush: bool = False
    missing: Spans = ()  # blocks to be asked for, because the source has changed


class Stretch(NamedTuple):
    """The result of one turn of hashing."""

    more: bool  # whether another turn may find something to do
    missing: Spans = ()  # the block that was damaged, to be asked for again
    why: str = Why.DAMAGED
    judged: bool = False  # all is verified and claimed; said once, to the worker that publishes


_GAP_STATES = (BlockState.ABSENT, BlockState.CLAIMED)
_GAPS = re.compile(b"[%c%c]+" % _GAP_STATES)
_PROMISED = re.compile(b"[%c%c]+" % (BlockState.CLAIMED, BlockState.ANNOUNCED))
_HASHABLE = (BlockState.ANNOUNCED, BlockState.WRITTEN)


class BlockMap:
    """The states of a file's blocks. Knows no lock, no file and no clock: its owner has those.

    A block goes from absent to written, or from claimed to announced, and then to verified, in file
    order; a damaged block goes back. Memory holds a byte for each block, and more only for blocks
    between written and verified.
    """

    def __init__(self, blocks: Blocks, claims: Claims | None = None) -> None:
        """Start with what the journal ``claims``, or with nothing. The map owns the claims then."""
        self.blocks = blocks
        self.verified = 0  # blocks, from the start of the file
        self.received = 0  # bytes announced, written or verified, each block once
        self.rounds = 0  # repairs without progress
        self.resent = 0  # blocks that had to be asked for again
        self.complete = False  # whether the client has said that all is read
        self._claims = claims or Claims(0, 0)
        self._states = claims.flags if claims else bytearray(blocks.count)
        self._here = 0  # blocks announced, written or verified
        self._asked = 0  # blocks in state ASKED
        self._written: dict[int, Unproven] = {}

    def __repr__(self) -> str:
        return f"<BlockMap: {self.verified} of {self.blocks.count} blocks verified>"

    def resize(self, blocks: Blocks) -> None:
        """Take the file for longer, or for as long as it is: no block that is here is cut off."""
        self.blocks = blocks
        del self._states[blocks.count :]
        self._states.extend(bytes(blocks.count - len(self._states)))

    # -- blocks that come

    def lacks_record(self, block: int) -> bool:
        """Whether the journal lacks a claimed block by this kind of digest."""
        return self._states[block] == BlockState.CLAIMED and self._claims.lacks_digest(block)

    def announce(self, block: int, digest: bytes) -> Spans:
        """Take the client's digest of a claimed block; return the blocks to be asked for.

        A digest that differs from the journal's says that the source has changed before the end of
        this block: from here on nothing that the journal claims can be used.
        """
        if self._states[block] != BlockState.CLAIMED:
            return ()
        if self._claims.lacks_digest(block):
            self._claims.add(block, digest)
        if digest != self._claims.digest_of(block):
            return self._distrust(block)
        self._arrive(block, BlockState.ANNOUNCED)
        return ()

    def begin_writing(self, block: int) -> bool:
        """Reserve a block for writing; ``False`` when it is here, or a worker writes it already.

        So no block is ever written after it was verified, even if it comes twice.
        """
        state = self._states[block]
        if state >= BlockState.ANNOUNCED:
            return False
        self._asked -= state == BlockState.ASKED
        self._states[block] = BlockState.WRITING
        return True

    def note_written(self, run: Sequence[Unproven], length: int) -> None:
        """Note that blocks, which have ``length`` bytes together, are in the part file."""
        for item in run:
            self._written[item.block] = item
            self._states[item.block] = item.state
        self._here += len(run)
        self.received += length

    def _arrive(self, block: int, state: BlockState) -> None:
        self._states[block] = state
        self._here += 1
        self.received += self.blocks.length(block)

    def _withdraw(self, block: int) -> None:
        """Take back that a block is here."""
        self._here -= 1
        self.received -= self.blocks.length(block)

    def prove_next(self) -> None:
        """Note that the next block in file order is in the part file, and proven as it came."""
        self._arrive(self.verified, BlockState.VERIFIED)
        self.verified += 1

    @property
    def claims_next(self) -> bool:
        """Whether the journal claims the first block that is not proven."""
        return self._states[self.verified : self.verified + 1] == bytes([BlockState.CLAIMED])

    def claimed_digest(self, block: int) -> bytes:
        """Return the running digest that the journal has of ``block``."""
        return self._claims.digest_of(block)

    # -- blocks to be asked for

    def _ask(self, missing: Spans) -> Spans:
        for first, end in missing:
            self._states[first:end] = bytes([BlockState.ASKED]) * (end - first)
            self._asked += end - first
        return missing

    def _next_spans(self, pattern: re.Pattern[bytes], first: int) -> Spans:
        """Return the next blocks from ``first`` on in such states, as many as one message asks for.

        Without a bound on their number, too, a file of millions of blocks would keep the
        interpreter, and with it all other threads, for tenths of a second.
        """
        found = pattern.finditer(self._states, first, first + config.MAX_ASKED)
        return tuple(match.span() for match in itertools.islice(found, MAX_SPANS))

    def _distrust(self, block: int) -> Spans:
        """Ask for the bytes of the next blocks from ``block`` on that were only claimed.

        Those further on are asked for when the client's digests of them come.
        """
        asked = self._next_spans(_PROMISED, block)
        for at in itertools.chain.from_iterable(itertools.starmap(range, asked)):
            if self._states[at] == BlockState.ANNOUNCED:
                self._withdraw(at)
        return self._ask(asked)

    def ask_for_gaps(self) -> Spans:
        """Ask for what the client has not sent, once it says that all is delivered.

        While a block that a MISSING named is still absent, that MISSING has crossed the client's
        word on the way, and another word will follow: then nothing is asked for.
        """
        if self._asked or self.all_here:
            return ()
        gaps = (self._states.find(state, self.verified) for state in _GAP_STATES)
        missing = self._next_spans(_GAPS, min((gap for gap in gaps if gap >= 0), default=0))
        if missing:
            self.rounds += 1
            self.resent += sum(end - first for first, end in missing)
        return self._ask(missing)

    def send_back(self, item: Unproven) -> Spans:
        """Ask for a block that hashed wrong; nothing if it has been asked for already."""
        if self._states[item.block] != item.state:
            return ()
        self._withdraw(item.block)
        self.rounds += 1
        self.resent += item.sent
        return self._ask(((item.block, item.block + 1),))

    # -- hashing

    @property
    def all_here(self) -> bool:
        """Whether no block is absent or only claimed."""
        return self._here == self.blocks.count

    @property
    def all_verified(self) -> bool:
        """Whether every block is proven right."""
        return self.verified == self.blocks.count

    @property
    def worth_hashing(self) -> bool:
        """Whether there is enough for a unit of work, or the end to be judged."""
        if self.all_verified:
            return self.complete
        enough = self._here - self.verified >= (1 if self.complete else config.HASH_BATCH)
        return enough and self._states[self.verified] in _HASHABLE

    @property
    def unproven(self) -> int:
        """How many written blocks wait to be hashed."""
        return len(self._written)

    def next_stretch(self) -> list[Unproven]:
        """Return the next blocks to hash, in file order."""
        end = min(self.verified + config.HASH_STRETCH, self.blocks.count)
        stretch = []
        for block in range(self.verified, end):
            if self._states[block] not in _HASHABLE:
                break
            stretch.append(self._written.get(block) or self._announced(block))
        return stretch

    def _announced(self, block: int) -> Unproven:
        return Unproven(block, BlockState.ANNOUNCED, self._claims.digest_of(block), None)

    def judge(self, items: Sequence[Unproven], right: int) -> int:
        """Note hashed blocks, of which the first ``right`` hashed right, and perhaps no other.

        A right hash does not count for a block that has been asked for meanwhile. Returns how many
        are verified now; the next one is not, and none behind it is noted.
        """
        proven = 0
        for item in items:
            if self._written.get(item.block) is item:
                del self._written[item.block]
            if proven == right or self._states[item.block] != item.state:
                break
            self._states[item.block] = BlockState.VERIFIED
            proven += 1
        if proven:
            self.verified, self.rounds = self.verified + proven, 0
        if self.all_verified:
            self._claims = Claims(0, 0)  # up to 32 bytes for each block
        return proven

    def take_buffers(self) -> list[Buffer]:
        """Return the memory of blocks that will not be hashed any more, for its release."""
        written, self._written = self._written, {}
        return [item.buffer for item in written.values() if item.buffer]
