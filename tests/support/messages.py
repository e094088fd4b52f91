"""One example of each message, and frames written and read by hand."""

from __future__ import annotations

import struct
from typing import Iterator

from lft.wire.frames import Ack, FrameReader
from protocol import (
    MESSAGES,
    Attach,
    Attached,
    AuthChallenge,
    AuthOk,
    AuthResponse,
    AuthStart,
    Cancel,
    Error,
    FileReady,
    FileStart,
    Goodbye,
    Heard,
    Hello,
    IntegrityFailed,
    IntegrityOk,
    ManifestPart,
    Message,
    Missing,
    Ping,
    Pong,
    Queued,
    Rejected,
    TransferComplete,
    Verifying,
    Why,
)

VERBS = sorted(MESSAGES)
MD5 = "0123456789abcdef" * 2

EXAMPLES: dict[type[Message], Message] = {
    Hello: Hello(1, ("md5", "sha256")),
    AuthStart: AuthStart("SCRAM-SHA-256", "n,,n=user,r=abc"),
    AuthChallenge: AuthChallenge("r=abcdef,s=c2FsdA==,i=4096"),
    AuthResponse: AuthResponse("c=biws,r=abcdef,p=cHJvb2Y="),
    AuthOk: AuthOk("v=c2lnbmF0dXJl", "0123456789abcdef", 1),
    Attach: Attach("0123456789abcdef"),
    Attached: Attached(),
    FileStart: FileStart(
        'große@Datei "1".bin',
        1 << 40,
        204800,
        "md5",
        "0" * 32,
        True,
        0o640,
        10**18,
        False,
        1,
        2,
        skip=True,
    ),
    ManifestPart: ManifestPart((("f", "große@Datei", 3, 0o640, 10**18),), file=2),
    Queued: Queued(3, file=2, reason="another server has it"),
    FileReady: FileReady(7, ((0, 5), (6, 4294967296)), file=2),
    Rejected: Rejected("space", "not enough space", file=2),
    Cancel: Cancel(file=2),
    TransferComplete: TransferComplete(7, MD5, delivered=True, size=5, file=2),
    Verifying: Verifying(12345, file=2),
    Missing: Missing(7, ((1, 2), (3, 9)), Why.DAMAGED, file=2),
    Ping: Ping(file=2),
    Pong: Pong(file=2),
    IntegrityOk: IntegrityOk(
        "server_received_1_x", 5, MD5 * 2, 0, True, kept=True, skipped=True, file=2
    ),
    IntegrityFailed: IntegrityFailed(MD5, "blocks 1 to 3 differ", file=2),
    Error: Error("shutdown", "the server is stopping"),
    Goodbye: Goodbye(),
    Heard: Heard(((1, 3), (7, 8))),
}


def short_message(value: object) -> str:
    """Name a case of a test by its kind or the start of its value."""
    return type(value).__name__ if isinstance(value, Message) else ascii(value)[:40]


def frame(body: bytes) -> bytes:
    """Put a length in front."""
    return struct.pack("!I", len(body)) + body


def read(*pieces: bytes, acks: bool = False) -> list[Message | Ack]:
    """Feed the pieces one by one; return everything that came out on the way."""
    reader = FrameReader()
    reader.takes_acks = acks
    found = []
    for piece in pieces:
        reader.feed(piece)
        item = reader.next()
        while item is not None:
            found.append(item)
            item = reader.next()
    assert len(reader) == 0
    return found


def at_every_byte(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give every way to cut ``data`` in two."""
    return ((data[:cut], data[cut:]) for cut in range(len(data) + 1))
