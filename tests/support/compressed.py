"""Text that shrinks, blocks compressed by hand, and payloads that do not unpack."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Callable

from client import send_files
from config import MB
from lft.client.receipt import Receipt
from lft.wire.codecs import COMPRESSIONS, compress, decompress
from tests.support.files import md5
from tests.support.local import ServerThread
from tests.support.rawpeer import RawUpload

CODECS = list(COMPRESSIONS.values())
BLOCK = 4096
BOMB = 64 * MB  # what a bomb unpacks to


def text(size: int, seed: int = 0) -> bytes:
    """Return ``size`` bytes that shrink to less than a third."""
    rng = random.Random(seed)
    words = [f"{rng.randrange(10**9):09} " for _ in range(300)]
    return "".join(rng.choice(words) for _ in range(size // 10 + 1)).encode()[:size]


def text_file(path: Path, size: int, seed: int = 0) -> Path:
    """Write text."""
    path.write_bytes(text(size, seed))
    return path


def packed(codec: int, data: bytes, level: int = 6) -> bytes:
    """Return ``data`` compressed."""
    return bytes(compress(codec, level, memoryview(data)))


def unpacked(codec: int, payload: bytes, length: int) -> bytes:
    """Return what ``payload`` unpacks to, if that has ``length`` bytes."""
    room = bytearray(length)
    decompress(codec, memoryview(payload), memoryview(room))
    return bytes(room)


def zeros(codec: int, size: int) -> bytes:
    """Return zeros compressed as well as can be."""
    return packed(codec, bytes(size), 9)


DATA = text(BLOCK)

SPOILERS: dict[str, Callable[[int], bytes]] = {
    "bomb": lambda codec: zeros(codec, BOMB),
    "one byte more": lambda codec: packed(codec, DATA + b"x"),
    "one byte less": lambda codec: packed(codec, DATA[:-1]),
    "nothing": lambda codec: packed(codec, b""),
    "cut": lambda codec: packed(codec, DATA)[:-1],
    "cut in the middle": lambda codec: packed(codec, DATA)[:200],
    "a byte behind it": lambda codec: packed(codec, DATA) + b"\0",
    "a second one behind it": lambda codec: packed(codec, DATA) + packed(codec, b"x"),
    "two halves": lambda codec: packed(codec, DATA[:2000]) + packed(codec, DATA[2000:]),
    "the other codec": lambda codec: packed(sum(CODECS) - codec, DATA),
    "garbage": lambda codec: random.Random(codec).getrandbits(8 * 500).to_bytes(500, "big"),
    "text": lambda codec: DATA[:500],
}
if len(CODECS) < 2:
    del SPOILERS["the other codec"]


def shrunk(
    upload: RawUpload, index: int, codec: int, payload: bytes = b"", **changes: int
) -> bytes:
    """Return the frame of a compressed block, with changes to its header or another payload."""
    header: dict[str, Any] = {"raw_length": len(upload.blocks[index]), "codec": codec, **changes}
    return upload.frame(index, payload=payload or packed(codec, upload.blocks[index]), **header)


def send_compressed(local: ServerThread, source: Path, **changes: object) -> Receipt:
    """Send a file; it must arrive as it was."""
    (receipt,) = send_files([source], local.client(compress=True, **changes))
    assert receipt.verdict == "INTEGRITY_OK"
    assert md5(local.output / receipt.saved_as) == md5(source)
    return receipt
