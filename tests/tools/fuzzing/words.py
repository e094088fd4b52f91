"""Valid messages, and marks for the values that only the server knows."""

from __future__ import annotations

import hashlib
import random
import re
from typing import NamedTuple

from config import KB
from lft.wire.blocks import BlockHeader, encode_header
from lft.wire.codecs import COMPRESSIONS, FEATURES, compress
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    SCRAM,
    TOKEN,
    VERSION,
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
    Hello,
    IntegrityFailed,
    IntegrityOk,
    Message,
    Missing,
    Ping,
    Pong,
    Queued,
    Rejected,
    TransferComplete,
    Verifying,
)

HOST = "127.0.0.1"
PASSWORD = "a password"
USERS = [f"user{number:02d}" for number in range(40)]  # many: a wrong proof slows its user down
NORMAL, TOKEN_USER, ENEMY = "normal", "tokens", "enemy"
BLOCK = 4 * KB
SETTLE = 20.0  # seconds for the server to be as it was


class ViolationError(Exception):
    """Something that must not be."""


# A plan is made before anything is sent. For a session's token, a transfer's number and a proof it
# has marks of the same length, which give way to the real ones on their way out.
MARK = re.compile(
    rb"token(\d\d)_{36}|final(\d\d\d)_+|jwt_+|40000000(\d\d)|\xee\x6b\x28([\x00-\x63])"
)


def token_mark(session: int) -> str:
    """Stand in for a session's token."""
    return f"token{session:02d}".ljust(43, "_")


def number_mark(session: int) -> int:
    """Stand in for the number of a session's transfer."""
    return 4_000_000_000 + session


def final_mark(actor: int, *, bound: bool) -> str:
    """Stand in for the last message of an actor's login, which is longer if bound to TLS."""
    return f"final{actor:03d}".ljust(176 if bound else 104, "_")


def jwt_mark(length: int) -> str:
    """Stand in for the token of a user."""
    return "jwt".ljust(length, "_")


class Content(NamedTuple):
    """A file that dialogues are about."""

    name: str
    blocks: list[bytes]
    digests: list[bytes]  # running

    @classmethod
    def make(cls, name: str, size: int) -> Content:
        """Make the same file for the same name and size; its blocks shrink by half."""
        digits = random.Random(name).getrandbits(4 * size + 8).to_bytes(size + 1, "big").hex()
        data = digits.encode()[len(digits) - size :]
        blocks = [data[at : at + BLOCK] for at in range(0, size, BLOCK)]
        running, digests = hashlib.md5(), []
        for block in blocks:
            running.update(block)
            digests.append(running.digest())
        return cls(name, blocks, digests)

    @property
    def digest(self) -> str:
        """The digest of all of it."""
        return self.digests[-1].hex() if self.digests else hashlib.md5().hexdigest()

    @property
    def size(self) -> int:
        """The bytes of all of it."""
        return sum(map(len, self.blocks))

    def begin(self) -> FileStart:
        """Announce it without its size."""
        empty = hashlib.md5().hexdigest()
        return FileStart(self.name, 0, BLOCK, "md5", empty, False, unsized=True)

    def start(self, *, resume: bool) -> FileStart:
        """Announce it."""
        size = self.size
        head = hashlib.md5(b"".join(self.blocks[:1])).hexdigest()
        start = FileStart(self.name, size, BLOCK, "md5", head, resume)
        return start.replace(mode=0o751, mtime=10**18) if size % 2 else start

    def frame(self, index: int, number: int, codec: int = CODEC_RAW) -> bytes:
        """Return one of its blocks as a frame; raw, where it does not shrink."""
        block = self.blocks[index]
        payload = b"" if codec == CODEC_HELD else block
        if codec in COMPRESSIONS.values():
            payload = bytes(compress(codec, 1, memoryview(block)))
            if len(payload) >= len(block):
                codec, payload = CODEC_RAW, block
        header = BlockHeader(number, index, len(block), len(payload), codec, self.digests[index])
        return encode_header(header) + payload


SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 9 * BLOCK + 77, 40 * BLOCK)
CONTENTS = [Content.make(f"file {number}.bin", size) for number, size in enumerate(SIZES)]
ZEROS = "0" * 32
# One of each message of both sides, for the places where they do not belong.
EVERY_MESSAGE: list[Message] = [
    Hello(VERSION, FEATURES),
    AuthStart(SCRAM, "n,,n=somebody,r=nonce"),
    AuthStart(TOKEN, "e30.e30.e30"),
    AuthChallenge("r=nonce,s=c2FsdA==,i=4096"),
    AuthResponse("c=biws,r=nonce,p=cHJvb2Y="),
    AuthOk("v=c2lnbmF0dXJl", "t" * 43, 0),
    Attach(token_mark(0)),
    Attached(),
    CONTENTS[5].start(resume=True),
    FileStart("../../x", 2**62, 4096, "md5", ZEROS, False),
    CONTENTS[6].begin(),
    FileStart("x", 2**40, 4096, "md5", ZEROS, True, unsized=True),
    FileStart("x.sh", 1, 4096, "md5", ZEROS, True, 0o777, 2**63 - 1),
    Queued(1),
    FileReady(number_mark(0), ((0, 1), (3, 5))),
    Rejected("busy", "\x1b[31mno"),
    Cancel(),
    TransferComplete(number_mark(0), ZEROS),
    TransferComplete(number_mark(0), ZEROS, delivered=False, size=2**40),
    Verifying(0),
    Missing(number_mark(0), ((0, 2),), "lost"),
    Ping(),
    Pong(),
    IntegrityOk("x", 1, ZEROS, 0, True, kept=True),
    IntegrityFailed(ZEROS, "no"),
    Error("protocol", "no"),
    Goodbye(),
]
STRANGERS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-x\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\0" * 64,
    b"\xff" * 64,
]
