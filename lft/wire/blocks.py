"""Block frames: the header as bytes, and a reader for blocks that come in pieces."""

from __future__ import annotations

import struct
from typing import Callable, Generic, NamedTuple, NoReturn, TypeVar

import config
from lft.wire.connection import Connection
from protocol import CODEC_HELD, CODEC_RAW, ConnectionLostError, RemoteProtocolError

_HEADER = struct.Struct("!BBHIIII32s")
_BLOCK_KIND = ord("B")
HEADER_SIZE = _HEADER.size


class BlockHeader(NamedTuple):
    """The fixed part of a block frame, before the payload; lengths in bytes."""

    transfer: int
    block: int  # index
    raw_length: int
    wire_length: int
    codec: int
    digest: bytes  # running digest, zero-padded to 32 bytes

    @property
    def consistent(self) -> bool:
        """Whether the codec can have made these lengths."""
        if self.codec in (CODEC_RAW, CODEC_HELD):
            return self.wire_length == (self.raw_length if self.codec == CODEC_RAW else 0)
        return 0 < self.wire_length < self.raw_length


def encode_header(header: BlockHeader) -> bytes:
    """Return the header as bytes."""
    transfer, block, raw_length, wire_length, codec, digest = header
    return _HEADER.pack(_BLOCK_KIND, codec, 0, transfer, block, raw_length, wire_length, digest)


def decode_header(data: bytes | memoryview) -> BlockHeader:
    """Read a block frame's header. Raises ``RemoteProtocolError`` for other bytes."""
    kind, codec, zero, transfer, block, raw_length, wire_length, digest = _HEADER.unpack(data)
    if kind != _BLOCK_KIND or zero:
        raise RemoteProtocolError("not a block header")
    if codec not in (CODEC_RAW, CODEC_HELD) and not _unpacks(codec):
        raise RemoteProtocolError(f"a block of codec {codec}, which is not known here", "codec")
    return BlockHeader(transfer, block, raw_length, wire_length, codec, digest)


def _unpacks(codec: int) -> bool:
    from lft.wire.codecs import CODECS  # noqa: PLC0415  (it loads zstd, which no client needs here)

    return codec in CODECS


def _refuse(_header: BlockHeader) -> NoReturn:
    raise ConnectionLostError("the connection has ended")


Room = TypeVar("Room")


class BlockReader(Generic[Room]):
    """Receives block frames; a half-received block stays here until the rest comes.

    ``make_room`` is called once for each header. It refuses the block by raising, or returns the
    owner's room for the payload and the view to fill; ``receive`` gives the room back, filled.
    """

    def __init__(
        self, make_room: Callable[[BlockHeader], tuple[Room, memoryview]], chunk_size: int
    ) -> None:
        self._make_room = make_room
        self._chunk_size = chunk_size
        self._header = memoryview(bytearray(HEADER_SIZE))
        self._block: tuple[BlockHeader, Room] | None = None
        self._view, self._size = self._header, HEADER_SIZE  # what is to be filled, and its bytes
        self._filled = 0  # bytes of the view, and of the header behind it
        self._most = self._room = 0  # blocks, and bytes of them, that this call still wants
        self._dry = False  # whether there was no more when something was received last
        self._error: Exception | None = None  # found behind complete blocks

    @property
    def failed(self) -> bool:
        """Whether the next call to ``receive`` raises, without a look at the connection."""
        return self._error is not None

    @property
    def mid_block(self) -> bool:
        """Whether the rest of a block is still to come."""
        return self._block is not None or self._filled > 0

    def abandon(self) -> Room | None:
        """Give back the room of a block that will not be completed; the reader ends with that."""
        block, self._block = self._block, None
        self._view, self._size, self._error = memoryview(b""), 0, None
        self._make_room = _refuse  # the owner's own would keep the two of them alive together
        return block[1] if block else None

    def receive(self, connection: Connection, most: int = 1) -> list[tuple[BlockHeader, Room]]:
        """Return complete blocks and their rooms. Never waits.

        As many as are here, up to ``most``, and about ``RUN_SIZE`` bytes of the file. An error
        behind them is raised by the next call.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        run: list[tuple[BlockHeader, Room]] = []
        try:
            self._most, self._room = most, config.RUN_SIZE
            while self._receive_block(connection, run):
                self._most -= 1
                self._room -= run[-1][0].raw_length
                if self._dry or self._most <= 0 or self._room <= 0:
                    break
        except Exception as error:
            if not run:
                raise
            self._error = error
        return run

    def _receive_block(self, connection: Connection, run: list[tuple[BlockHeader, Room]]) -> bool:
        """Add the next complete block to ``run``; return whether there is one."""
        while self._filled >= self._size or self._fill(connection):
            if self._block is None:
                header = decode_header(self._header)
                room, self._view = self._make_room(header)
                self._block, self._size, self._filled = (header, room), header.wire_length, 0
            else:
                run.append(self._block)
                self._filled -= self._size
                self._block, self._view, self._size = None, self._header, HEADER_SIZE
                return True
        return False

    def _fill(self, connection: Connection) -> bool:
        """Receive until the view is full; return whether it is.

        With the end of a payload comes the header behind it, if that block is wanted, too: that
        saves a call for each block.
        """
        joins = self._block and self._most > 1 and self._block[0].raw_length < self._room
        self._dry = False
        while self._filled < self._size and not self._dry:  # then the next call would say so
            end = min(self._filled + self._chunk_size, self._size)
            rooms, wanted = [self._view[self._filled : end]], end - self._filled
            if joins and end == self._size:
                rooms.append(self._header)
                wanted += HEADER_SIZE
            size = connection.receive_into(*rooms)
            self._filled += size
            self._dry = size < wanted
        return self._filled >= self._size
