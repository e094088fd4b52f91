"""Talks nonsense to the server and to the client in every state of the protocol.

    python tests/fuzz.py                           100,000 messages to a server, 200 sick servers
    python tests/fuzz.py --messages 5000 --seed 7  fewer; the same plan as the last time with 7
    python tests/fuzz.py --short                   some seconds: for the gate
    python tests/fuzz.py --replay FILE             what a violation has left, again

The server's side: two real ``server.py`` processes with ten workers, one of which speaks TLS, take
turns. A round is some groups at once, each a session, part of one, or a stranger: logins (password,
token, guesses that are made to wait), uploads over several data connections in any order, resumes
of what other rounds left, crowds that queue, plain noise. Between a valid dialogue and the wire
each message may be flipped in some bits, truncated, repeated, dropped, replaced by or joined with
any other message of either side, given a wrong length, a wild value, a deep nesting, a missing or a
double key; blocks, which come raw or compressed, get wild headers, foreign transfers, the codec
*held*, one that they are not of, bombs; events swap places. What is left is cut at random places
and sent, the groups interleaved; each connection ends at random: politely, with FIN, or with RST.

Where TLS is spoken, all of this takes place in channels of TLS 1.3. Their records, from ClientHello
on, are disturbed in the same ways, and have wild types, versions and lengths; handshakes are given
up after any of them; some groups speak no TLS at all, as some do where there is none.

After each round: the server lives; its threads and open files, as /proc tells, are back where they
were, and the threads sleep; ``.partial`` holds only part files with journals; its log has no
traceback and no internal error, and nobody was told of one; what it said was well-formed; what it
published is byte for byte a file that a dialogue was about; a normal transfer works (now and then
by ``client.py``).

The client's side: ``client.send_files`` against a server that does all that is right, with what it
says disturbed in the same ways, half of the time over TLS. Only exceptions below ``TransferError``
may come out, within a bounded time and memory, and no thread or open file may stay behind.

How it knows where it has been: the server process is ``server.main`` with a counter around
the two functions that receive, so the states are the server's own and not what we believe. A state
in which nothing was ever taken or nothing was ever refused, a step of the handshake at which nobody
ever left or broke a record, or an answer that never came, is a failure of this program. (The short
form does not ask for every answer, nor for a broken record in every state; and what else its
seconds miss is only said, as long as it is little.)

What it does not say: what the disk does meanwhile (``sweep.py``); and no number of messages proves
that there is no other. A seed gives the same plan and not the same microsecond: what needs a race
may not come again with the first replay.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import random
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import (  # noqa: E402
    client_command,
    environment,
    peak_memory,
    status,
    strays,
)
from test_access import Peer, Pki, tls_options  # noqa: E402

import client  # noqa: E402
import config  # noqa: E402
import protocol  # noqa: E402
import server as server_module  # noqa: E402
from config import (  # noqa: E402
    KB,
    MB,
    ClientSettings,
)
from lft.accounts.account import (  # noqa: E402
    MIN_ITERATIONS,
    Accounts,
    Credential,
)
from lft.accounts.file import (  # noqa: E402
    save_credentials,
)
from lft.accounts.scram import (  # noqa: E402
    SCRAM_PLUS,
    ScramClient,
    ScramServer,
)
from lft.accounts.tokens import (  # noqa: E402
    make_token,
)
from lft.client.receipt import (  # noqa: E402
    Receipt,
)
from lft.wire.blocks import (  # noqa: E402
    HEADER_SIZE,
    BlockHeader,
    BlockReader,
    decode_header,
    encode_header,
)
from lft.wire.codecs import (  # noqa: E402
    COMPRESSIONS,
    FEATURES,
    compress,
)
from lft.wire.connection import (  # noqa: E402
    Connection,
)
from lft.wire.frames import (  # noqa: E402
    Ack,
    FrameReader,
    encode,
    encode_ack,
)
from lft.wire.tls import (  # noqa: E402
    Tls,
    TlsLayer,
    certificate_binding,
    client_tls,
    server_tls,
)
from protocol import (  # noqa: E402
    CODEC_HELD,
    CODEC_RAW,
    MAX_CONTROL_FRAME,
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
    ConnectionLostError,
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
    ProtocolError,
    Queued,
    Rejected,
    Side,
    State,
    TransferComplete,
    TransferError,
    Verifying,
)

HOST = "127.0.0.1"
PASSWORD = "a password"
USERS = [f"user{number:02d}" for number in range(40)]  # many: a wrong proof slows its user down
NORMAL, TOKEN_USER = "normal", "tokens"
WORKERS = 10
LARGEST = 2 * MB  # the server takes no larger file: a wild size must not fill the disk
BLOCK = 4 * KB
ROUND_GROUPS = 12
TOUR_ROUNDS = 4  # the first ones, which also visit every state on purpose
HEAR = 0.2  # seconds to wait for an answer that may never come
SETTLE = 20.0  # seconds for the server to be as it was
MOST_MEMORY = 400 * KB  # in KB: the buffers the server may keep, a few blocks, and Python
MOST_ASKED = 1900 * KB  # in KB: what it may ask for, used or not; each thread's heap asks for 64 MB
CASE_LIMIT = 30.0  # seconds one call of send_files may take here, where its own limits are small
CASE_MEMORY = 64 * KB  # in KB: what the client may take on top, whatever the server says
FEW = 8  # places that the short form may miss: a side that is not fuzzed at all has 18 and more
CLIENT_EVERY = 75  # rounds after which client.py does the normal transfer; odd: of both servers
MESSAGES, CASES = 100_000, 200
# Where a message may meet the server; the states it passes through within one call are not here.
SERVER_STATES = (
    State.NEW, State.OPEN, State.LOGIN, State.CHALLENGED, State.PROVING, State.READY, State.ASKED,
    State.RECEIVING, State.VERIFYING, State.CANCELLING, State.STREAMING,
)  # fmt: skip
HANDSHAKE = ("client hello", "finished")  # of the client's messages, the one that is waited for
# Only GOODBYE may be said there, which nobody waits for.
CLOSED_BOOK = (State.LOGIN.value, State.PROVING.value)
# Where a connection stays until something comes, so that a broken record can find it there.
RESTING = (
    State.NEW, State.OPEN, State.CHALLENGED, State.READY, State.RECEIVING, State.STREAMING,
)  # fmt: skip
CLIENT_STATES = (
    State.GREETED, State.LOGIN_AHEAD, State.LOGIN, State.PROVING, State.ASKED, State.RECEIVING,
    State.VERIFYING, State.CANCELLING, State.ATTACHING, State.STREAMING,
)  # fmt: skip
ANSWERS = (
    "HELLO", "AUTH_CHALLENGE", "AUTH_OK", "ATTACHED", "QUEUED", "FILE_READY", "REJECTED", "MISSING",
    "INTEGRITY_OK", "INTEGRITY_FAILED", "ERROR", "ack",
)  # fmt: skip

Counts = Dict[str, Dict[str, int]]
KINDS = ("taken", "refused", "broken", "cut")  # broken: no TLS, or not what the other side has sent


class ViolationError(Exception):
    """Something that must not be."""


def note(text: str) -> None:
    """Say how it goes."""
    print(text, file=sys.stderr, flush=True)


# --- what is said: valid messages, and what stands in for what only the server knows -------------

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

    def start(self, *, resume: bool) -> FileStart:
        """Announce it."""
        size = sum(map(len, self.blocks))
        head = hashlib.md5(b"".join(self.blocks[:1])).hexdigest()
        return FileStart(self.name, size, BLOCK, "md5", head, resume)

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
    Queued(1),
    FileReady(number_mark(0), ((0, 1), (3, 5))),
    Rejected("busy", "\x1b[31mno"),
    Cancel(),
    TransferComplete(number_mark(0), ZEROS),
    Verifying(0),
    Missing(number_mark(0), ((0, 2),), "lost"),
    Ping(),
    Pong(),
    IntegrityOk("x", 1, ZEROS, 0, True),
    IntegrityFailed(ZEROS, "no"),
    Error("protocol", "no"),
    Goodbye(),
]
# What a sick server answers wrongly, and whether only after the right answer.
TRAPS: list[tuple[type[Message] | None, bool]] = [
    (Hello, False), (AuthStart, False), (AuthResponse, False), (Attach, False), (Attach, True),
    (FileStart, False), (FileStart, True), (TransferComplete, False), (Cancel, False),
    (Cancel, True),
]  # fmt: skip
SHORT_MESSAGES, SHORT_CASES = 4000, 6 * len(TRAPS)
STRANGERS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-x\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\0" * 64,
    b"\xff" * 64,
]
# As JSON, since some of it has no value in Python.
WILD = [
    "null", "true", "-1", "0", "1", "4294967295", "4294967296", "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "9" * 20, "9" * 5000, "-0", "1e308", "1.5",
    "NaN", "-Infinity", '""', '"x"', json.dumps("x" * 1025), json.dumps("x" * 60000), '"\\u0000"',
    '"\\ud800"', '"\\u202e\\u001b[31m"', '"../../x"', '"\u20ac"', "[]", "[[]]", "[[0, 1]]",
    "[[5, 2]]", "[[0, 4294967297]]", "[[0, 1], [1, 2]]", "[[-1, 1]]", "[[9, 12]]",
    "[[0, 4294967296]]", "[[1000, 1001]]", "2", "7", "4096", "false", f'"{ZEROS}"', "{}",
    '{"a": 1}', json.dumps([[2 * at, 2 * at + 1] for at in range(2001)]), '"unclosed', "",
]  # fmt: skip
DEEP = ["[" * 900 + "]" * 900, "[" * 30000 + "]" * 30000, '{"a":' * 9000 + "1" + "}" * 9000]
WILD_NUMBERS = (0, 1, 3, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
WILD_LENGTHS = (0, 1, MAX_CONTROL_FRAME, MAX_CONTROL_FRAME + 1, 2**31, 2**32 - 1)


# --- mutations ------------------------------------------------------------------------------------


class Mutator:
    """Disturbs frames, each with the probability ``rate``."""

    def __init__(self, rng: random.Random, rate: float) -> None:
        self._rng, self._rate = rng, rate
        self._ways: list[Callable[[bytes], list[bytes]]] = [
            self._flip, self._truncate, self._shorten, self._repeat, self._drop, self._replace,
            self._join, self._length, self._noise,
        ]  # fmt: skip
        self._of_control = [*self._ways, self._field, self._field, self._field, self._keys]
        self._of_blocks = [*self._ways, self._header, self._header, self._held, self._codec]
        self._of_blocks += [self._bomb, *[self._damage] * 3]
        self._of_records = [*self._ways, self._record, self._record]

    def disturb(self, frames: Iterable[bytes]) -> list[bytes]:
        """Return what is sent instead of ``frames``."""
        found: list[bytes] = []
        for frame in frames:
            found += self._one(frame) if self._rng.random() < self._rate else [frame]
        return found

    def _one(self, frame: bytes) -> list[bytes]:
        ways = self._ways  # of what is neither
        if frame[:1] == b"\0" and b"@{" in frame:
            ways = self._of_control
        elif frame[:1] == b"B" and frame[1:2] <= b"\3" and frame[2:4] == b"\0\0":
            ways = self._of_blocks
        elif is_record(frame):
            ways = self._of_records
        return self._rng.choice(ways)(frame)

    def other(self) -> bytes:
        """Return a valid frame of any kind, for a place where it does not belong."""
        kind = self._rng.randrange(8)
        if kind == 0:
            return encode_ack(number_mark(0), self._rng.randrange(50))
        if kind == 1:
            codec = self._rng.choice([CODEC_RAW, *COMPRESSIONS.values()])
            return CONTENTS[-1].frame(self._rng.randrange(40), number_mark(0), codec)
        if kind == 2:
            return CONTENTS[-1].frame(self._rng.randrange(40), number_mark(0), CODEC_HELD)
        return encode(self._rng.choice(EVERY_MESSAGE))

    def noise(self, most: int = 300) -> bytes:
        """Return random bytes."""
        return bytes(self._rng.randrange(256) for _ in range(self._rng.randrange(1, most)))

    def _flip(self, frame: bytes) -> list[bytes]:
        flipped = bytearray(frame)
        for _ in range(self._rng.randrange(1, 9)):
            flipped[self._rng.randrange(len(flipped))] ^= 1 << self._rng.randrange(8)
        return [bytes(flipped)]

    def _truncate(self, frame: bytes) -> list[bytes]:
        return [frame[: self._rng.randrange(len(frame))]]

    def _shorten(self, frame: bytes) -> list[bytes]:
        """Cut a control frame and say so in its length; of a block this is only its end."""
        end = self._rng.randrange(4, len(frame)) if len(frame) > 4 else len(frame)
        return [struct.pack("!I", end - 4) + frame[4:end]]

    def _repeat(self, frame: bytes) -> list[bytes]:
        return [frame] * self._rng.choice((2, 2, 3, 20))

    def _drop(self, _frame: bytes) -> list[bytes]:
        return []

    def _replace(self, _frame: bytes) -> list[bytes]:
        return [self.other()]

    def _join(self, frame: bytes) -> list[bytes]:
        pair = [frame, self.other()]
        self._rng.shuffle(pair)
        return pair

    def _length(self, frame: bytes) -> list[bytes]:
        near = [max(0, len(frame) - 4 + change) for change in (-1, 1)]
        length = self._rng.choice([*WILD_LENGTHS, *near])
        return [struct.pack("!I", length) + frame[4:]]

    def _noise(self, frame: bytes) -> list[bytes]:
        return [self.noise(), frame] if self._rng.random() < 0.5 else [self.noise()]

    def _field(self, frame: bytes) -> list[bytes]:
        """Give one field of a message a wild value, or its body as a whole."""
        verb, _, body = frame[4:].decode("utf-8", "replace").partition("@")
        values = dict(json.loads(body))
        wild = self._rng.choice(DEEP if self._rng.random() < 0.15 else WILD)
        if not values:
            return [control_frame(f"{verb}@{wild}")]
        values[self._rng.choice(sorted(values))] = "<wild>"
        return [control_frame(f"{verb}@{json.dumps(values)}".replace('"<wild>"', wild))]

    def _keys(self, frame: bytes) -> list[bytes]:
        """Take a key out, add one, or say one twice."""
        verb, _, body = frame[4:].decode("utf-8", "replace").partition("@")
        pairs = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in dict(json.loads(body)).items()]
        extra = self._rng.choice(['"extra": 1', '"": null', *pairs])
        where = self._rng.randrange(len(pairs) + 1)
        pairs[where : where + self._rng.randrange(2)] = [extra][: self._rng.randrange(2)]
        return [control_frame(f"{verb}@{{{', '.join(pairs)}}}")]

    def _header(self, frame: bytes) -> list[bytes]:
        """Give a block a wild header; its payload may fit that or not."""
        header = decode_header(frame[:HEADER_SIZE])
        name = self._rng.choice(["transfer", "block", "raw_length", "wire_length", "codec"])
        most = 255 if name == "codec" else 2**32 - 1
        changes: dict[str, Any] = {name: min(self._rng.choice(WILD_NUMBERS), most)}
        if name == "raw_length" and self._rng.random() < 0.5:
            changes["wire_length"] = changes[name]
        return [encode_header(header._replace(**changes)) + frame[HEADER_SIZE:]]

    def _damage(self, frame: bytes) -> list[bytes]:
        """Flip a bit where only the digest can tell."""
        damaged = bytearray(frame)
        damaged[self._rng.randrange(HEADER_SIZE - 32, len(frame))] ^= 1 << self._rng.randrange(8)
        return [bytes(damaged)]

    def _held(self, frame: bytes) -> list[bytes]:
        """Say that the server has the block; the payload comes all the same, or not."""
        header = decode_header(frame[:HEADER_SIZE])
        bare = encode_header(header._replace(codec=CODEC_HELD, wire_length=0))
        return [self._rng.choice([bare, bare + frame[HEADER_SIZE:], bare[:1] + b"\1" + frame[2:]])]

    def _codec(self, frame: bytes) -> list[bytes]:
        """Say that a block is compressed in another way than it is."""
        header = decode_header(frame[:HEADER_SIZE])
        codec = self._rng.choice([CODEC_RAW, *COMPRESSIONS.values(), 4, 255])
        return [encode_header(header._replace(codec=codec)) + frame[HEADER_SIZE:]]

    def _record(self, frame: bytes) -> list[bytes]:
        """Give a TLS record a wild header, or make two of it, which may be what they should."""
        if self._rng.random() < 0.3:
            middle = self._rng.randrange(5, len(frame))
            parts = frame[5:middle], frame[middle:]
            return [frame[:3] + struct.pack("!H", len(part)) + part for part in parts]
        kind = self._rng.choice([frame[0], *range(19, 26), 128, 255])
        version = self._rng.choice([0x303, 0x303, 0, 2, 0x300, 0x301, 0x304, 0xFFFF])
        change = self._rng.choice([0, 0, -1, 1])
        length = self._rng.choice(
            [len(frame) - 5 + change] * 3 + [0, 2**14, 2**14 + 257, 2**16 - 1]
        )
        return [struct.pack("!BHH", kind, version, length) + frame[5:]]

    def _bomb(self, frame: bytes) -> list[bytes]:
        """Send what unpacks to much more than the block, or to less."""
        codec = self._rng.choice(list(COMPRESSIONS.values()))
        header = decode_header(frame[:HEADER_SIZE])
        payload = bytes(compress(codec, 9, memoryview(bytes(self._rng.choice((100, MB))))))
        return [encode_header(header._replace(codec=codec, wire_length=len(payload))) + payload]


def control_frame(text: str) -> bytes:
    """Put ``text`` into a frame with its right length, however long that is."""
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("!I", len(data)) + data


def is_record(data: bytes) -> bool:
    """Whether ``data`` begins as a TLS record does."""
    return 20 <= (data[:1] or b"\0")[0] <= 23 and data[1:2] == b"\3" and len(data) > 5


def records_of(data: bytes) -> list[bytes]:
    """Take what goes over a TLS connection apart."""
    found = []
    while data:
        end = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:end])
        data = data[end:]
    return found


class Channel(TlsLayer):
    """One side of TLS, whose records are disturbed on their way out."""

    def __init__(self, context: ssl.SSLContext, side: Side, host: str | None, how: Mutator) -> None:
        super().__init__(context, side, host)
        self._how = how
        self.spoilt = False  # then what the other side says need not make sense any more

    def outgoing(self) -> bytes:
        """Return what is sent instead of the records that are to leave."""
        records = records_of(super().outgoing())
        sent = self._how.disturb(records)
        self.spoilt |= sent != records
        return b"".join(sent)


# --- plans ----------------------------------------------------------------------------------------


@dataclass
class Event:
    """One thing that happens on one connection.

    ``open`` (data: address it comes from, and how often a record is disturbed if it speaks TLS),
    ``login`` (data: user and nonce), ``send`` (number: messages in it), ``hear`` (number: answers
    to wait for; a handshake counts as one), ``close``, ``reset``, ``shut``.
    """

    kind: str
    actor: int
    data: bytes = b""
    number: int = 1
    cuts: tuple[int, ...] = ()


class Group:
    """Plans what one session does, or what pretends to be one."""

    def __init__(
        self, rng: random.Random, session: int, actors: Iterator[int], *, secure: bool
    ) -> None:
        self.rng, self.session, self._actors, self.secure = rng, session, actors, secure
        self.mutator = Mutator(rng, rng.choice((0.0, 0.02, 0.1, 0.5)))
        self.records = rng.choice((0.0, 0.0, 0.0, 0.02, 0.1))  # how often one is disturbed
        self._calm = rng.random() < 0.7  # whether logins go well: else few would come further
        self.events: list[Event] = []
        self.user = rng.choice(USERS)
        self.number = number_mark(session)
        self._address = f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
        self._opened: list[int] = []
        self.polite = False  # whether nothing but its messages is wrong with it

    def add(self, kind: str, actor: int, data: bytes = b"", number: int = 1) -> None:
        """Plan one event."""
        self.events.append(Event(kind, actor, data, number))

    def open(self) -> int:
        """Plan a new connection; return its actor."""
        actor = next(self._actors)
        self._opened.append(actor)
        rate = f" {0.0 if self.polite else self.records}" if self.secure else ""
        self.add("open", actor, f"{self._address}{rate}".encode())
        if self.secure:
            self.add("hear", actor)
        return actor

    def say(self, actor: int, *said: Message | bytes, hear: int = 0) -> None:
        """Plan to say something, disturbed or not, all in one piece or cut; then to listen."""
        whole = [one if isinstance(one, bytes) else encode(one) for one in said]
        frames = self.mutator.disturb(whole)
        data = b"".join(frames)
        self.add("send", actor, data, len(frames))
        if len(data) > 1 and self.rng.random() < 0.3:
            some = self.rng.sample(range(1, len(data)), min(3, len(data) - 1))
            self.events[-1].cuts = tuple(sorted(some))
        if hear and (frames == whole or self.rng.random() < 0.3):
            self.add("hear", actor, number=hear)

    def log_in(self, user: str = "") -> int:
        """Plan a login with a password; return the coordinator."""
        actor = self.open()
        nonce = f"{self.rng.getrandbits(96):024x}"
        user = user or self.user
        self.add("login", actor, f"{user} {nonce}".encode())
        login = ScramClient(user, PASSWORD, nonce, binding=b"" if self.secure else None)
        with self._calmly():
            self.say(actor, Hello(VERSION, FEATURES), hear=1)
            self.say(actor, AuthStart(login.mechanism, login.first()), hear=1)
            self.say(actor, AuthResponse(final_mark(actor, bound=self.secure)), hear=1)
        return actor

    @contextlib.contextmanager
    def _calmly(self) -> Iterator[None]:
        """Disturb nothing for a while, in a group that is to come further."""
        before = self.mutator
        if self._calm:
            self.mutator = Mutator(self.rng, 0.0)
        yield
        self.mutator = before

    def attach(self) -> int:
        """Plan a data connection."""
        actor = self.open()
        with self._calmly():
            self.say(actor, Hello(VERSION, FEATURES), hear=1)
            self.say(actor, Attach(token_mark(self.session)), hear=1)
        return actor

    def end(self) -> None:
        """Plan the end of every connection, and let some events change places."""
        if self.polite:
            for actor in self._opened:
                self.add("close", actor)
            return
        for actor in self.rng.sample(self._opened, len(self._opened)):
            self.add(self.rng.choice(("close", "reset", "shut", "close")), actor)
        for _ in range(self.rng.choice((0, 0, 0, 1, 3))):
            at = self.rng.randrange(len(self.events))
            pair = self.events[at : at + 2]
            self.events[at : at + 2] = self.rng.choice([pair[::-1], pair[:1], [*pair, pair[0]]])


def plan_stranger(group: Group) -> None:
    """Noise, or another protocol, before or after HELLO."""
    actor = group.open()
    if group.rng.random() < 0.5:
        group.say(actor, Hello(VERSION, FEATURES), hear=1)
    for _ in range(group.rng.randrange(1, 4)):
        data = group.rng.choice([group.mutator.noise(2000), *STRANGERS])
        group.say(actor, data, hear=group.rng.randrange(2))


def plan_handshake(group: Group) -> None:
    """A handshake, most of its records disturbed, that is given up or gone on with."""
    group.records = group.rng.choice((0.0, 0.6))
    actor = group.open()
    if group.rng.random() < 0.5:
        del group.events[-1]  # it does not wait for the server's part
    if group.rng.random() < 0.3:
        group.say(actor, group.mutator.other(), hear=1)


def plan_outsider(group: Group, words: bytes) -> None:
    """Somebody who speaks no TLS, or not a word."""
    group.mutator, group.polite, group.secure = Mutator(group.rng, 0.0), True, False
    actor = group.open()
    if words:
        group.say(actor, words, hear=1)


def plan_nonsense(group: Group, depth: int) -> None:
    """What can be no frame, in every state in which the server waits for one."""
    group.mutator, group.polite = Mutator(group.rng, 0.0), True
    if depth < 3:
        actor = group.open()
        binding = b"" if group.secure else None
        login = ScramClient(group.user, PASSWORD, f"{group.session}", binding=binding)
        words = [Hello(VERSION, FEATURES), AuthStart(login.mechanism, login.first())]
        for word in words[:depth]:
            group.say(actor, word, hear=1)
    else:
        actor = group.log_in()
    if depth == 4:
        group.say(actor, CONTENTS[-1].start(resume=False), hear=1)
    if depth == 5:
        actor = group.attach()
    group.say(actor, bytes(64), hear=1)


def plan_walk(group: Group) -> None:
    """Any messages in any order, from any point of a valid beginning on."""
    depth = group.rng.randrange(4)
    actor = group.log_in() if depth > 1 else group.open()
    if depth == 1:
        group.say(actor, Hello(VERSION, FEATURES), hear=1)
    if depth == 3:
        content = group.rng.choice(CONTENTS)
        group.say(actor, content.start(resume=False), hear=1)
        actor = group.rng.choice([actor, group.attach()])
    for _ in range(group.rng.randrange(1, 6)):
        group.say(actor, group.mutator.other(), hear=group.rng.randrange(2))


def plan_upload(group: Group) -> None:
    """Files over a few data connections, in any order, with some of it missing or twice."""
    coordinator = group.log_in()
    streams = [group.attach() for _ in range(group.rng.randrange(1, 4))]
    for _ in range(group.rng.randrange(1, 4)):
        content = group.rng.choice(CONTENTS)
        group.say(coordinator, content.start(resume=group.rng.random() < 0.6), hear=1)
        plan_blocks(group, streams, content)
        complete = TransferComplete(group.number, content.digest)
        if group.rng.random() < 0.1:
            group.say(coordinator, Cancel())
        group.say(coordinator, complete, hear=1)
        if group.rng.random() < 0.5:  # after a MISSING
            plan_blocks(group, streams, content)
            group.say(coordinator, complete, hear=1)
    if group.rng.random() < 0.5:
        group.say(coordinator, Goodbye())


def plan_blocks(group: Group, streams: list[int], content: Content) -> None:
    """Blocks of a file: all or most, raw, held or compressed, over all streams."""
    chosen = [at for at in range(len(content.blocks)) if group.rng.random() < 0.95]
    if group.rng.random() < 0.5:
        group.rng.shuffle(chosen)
    codecs = [CODEC_HELD] if group.rng.random() < 0.3 else [CODEC_RAW, *COMPRESSIONS.values()]
    while chosen:
        size = group.rng.randrange(1, 12)
        batch, chosen = chosen[:size], chosen[size:]
        frames = [content.frame(at, group.number, group.rng.choice(codecs)) for at in batch]
        stream = group.rng.choice(streams)
        group.say(stream, *frames, hear=len(frames) * group.rng.randrange(2))


def plan_at_once(group: Group, wanted: tuple[Message, int] | None = None) -> None:
    """Several messages in one segment: they find the server in states that last an instant."""
    if wanted:
        group.mutator, group.polite = Mutator(group.rng, 0.0), True
    coordinator = group.log_in()
    content = CONTENTS[group.rng.randrange(3, len(CONTENTS))]
    start, complete = content.start(resume=True), TransferComplete(group.number, content.digest)
    words: list[Message | bytes] = [Pong(), Goodbye(), Cancel(), group.mutator.other()]
    last, choice = wanted or (group.rng.choice(words), group.rng.randrange(6))
    if choice == 0:  # asked
        first = [] if wanted else [group.rng.choice(words)]
        group.say(coordinator, start, *first, last, hear=1)
        return
    group.say(coordinator, start, hear=1)
    if choice == 1:  # cancelling
        group.say(coordinator, Cancel(), last, hear=1)
    elif choice == 2:  # verifying: nothing has come, so the answer is MISSING
        group.say(coordinator, complete, complete, last, hear=1)
    else:  # verifying, with everything there
        stream = group.attach()
        frames = [content.frame(at, group.number) for at in range(len(content.blocks))]
        group.say(stream, *frames, hear=len(frames))
        wrong = TransferComplete(group.number, ZEROS)
        group.say(coordinator, wrong if choice == 3 else complete, last, hear=1)
    group.say(coordinator, start, hear=1)


def plan_guesser(group: Group, *, by_token: bool) -> None:
    """Wrong proofs until the server lets them wait, and something said meanwhile."""
    user = f"nobody{group.rng.randrange(10**6)}"
    group.mutator, group.polite = Mutator(group.rng, 0.0), True
    for last in (False, False, True):
        if by_token:
            actor = group.open()
            group.say(actor, Hello(VERSION, FEATURES), hear=1)
            group.say(actor, AuthStart(TOKEN, "e30.e30.e30"), hear=0 if last else 1)
        else:
            actor = group.log_in(user)
            if last:
                del group.events[-1]
        if last:
            words: list[Message | bytes] = [Goodbye(), group.mutator.noise(), *[Pong()] * 18]
            group.say(actor, group.rng.choice(words), hear=1)


def plan_token(group: Group, length: int) -> None:
    """A login with a token, a file, and a cancelled one."""
    actor = group.open()
    group.say(actor, Hello(VERSION, FEATURES), hear=1)
    group.say(actor, AuthStart(TOKEN, jwt_mark(length)), hear=1)
    content = group.rng.choice(CONTENTS)
    group.say(actor, content.start(resume=False), hear=1)
    group.say(actor, TransferComplete(group.number, ZEROS), hear=1)
    group.say(actor, Cancel(), hear=1)


def plan_crowd(group: Group) -> None:
    """More files at once than the server takes at a time."""
    group.mutator, group.records = Mutator(group.rng, 0.005), 0.0
    actors = [group.log_in(USERS[at]) for at in range(config.MAX_ACTIVE_TRANSFERS + 2)]
    for actor in actors:
        group.say(actor, group.rng.choice(CONTENTS[3:]).start(resume=False), hear=1)
    for actor in actors[::2]:
        group.say(actor, Cancel(), hear=1)


class Plan(NamedTuple):
    """A round: groups of events that go on side by side, and the seed of how they mix."""

    seed: str
    secure: bool  # whether it is for the server that speaks TLS
    groups: list[list[Event]]

    @property
    def messages(self) -> int:
        """How many are sent."""
        events = [event for group in self.groups for event in group]
        return sum(event.number for event in events if event.kind == "send")


def make_plan(seed: str, number: int, jwt_length: int) -> Plan:
    """Plan a round; the first ones have all that there is. Every other one is for TLS."""
    secure = number % 2 == 0
    rng = random.Random(f"{seed}-{number}")
    actors = iter(range(1000))
    token = functools.partial(plan_token, length=jwt_length)
    plans = [plan_upload] * 5 + [plan_at_once] * 3 + [plan_walk] * 3 + [plan_stranger, token]
    plans += [plan_handshake] * 2 * secure
    chosen: list[Callable[[Group], None]] = [rng.choice(plans) for _ in range(ROUND_GROUPS)]
    rare: list[Callable[[Group], None]] = [plan_crowd]
    rare += [functools.partial(plan_guesser, by_token=one) for one in (True, False)]
    chosen += [one for one in rare if number <= TOUR_ROUNDS or rng.random() < 0.05]
    if number <= TOUR_ROUNDS:
        words = (Goodbye(), Hello(VERSION, FEATURES), Pong())
        chosen += [functools.partial(plan_at_once, wanted=(word, at))
                   for at in range(6) for word in words]  # fmt: skip
        chosen += [functools.partial(plan_nonsense, depth=depth) for depth in range(6)]
        chosen += [functools.partial(plan_outsider, words=words) for words in (b"", bytes(64))]
        chosen += [plan_handshake] * 8 * secure
    groups = []
    for session, plan in enumerate(chosen):
        odd = plan in plans and rng.random() < 0.05  # speaks TLS where nobody does, or the reverse
        group = Group(rng, session, actors, secure=secure is not odd)
        plan(group)
        group.end()
        groups.append(group.events)
    return Plan(f"{seed}-{number}", secure, groups)


def save_plan(path: Path, plan: Plan, why: str) -> None:
    """Write a plan so that ``load_plan`` reads it."""
    groups = [
        [[*astuple(e)[:2], e.data.hex(), e.number, e.cuts] for e in group] for group in plan.groups
    ]
    values = {"seed": plan.seed, "secure": plan.secure, "why": why, "groups": groups}
    path.write_text(json.dumps(values, indent=0))


def load_plan(values: dict[str, Any]) -> Plan:
    """Return a plan that was written by ``save_plan``."""
    groups = [
        [Event(kind, actor, bytes.fromhex(data), number, tuple(cuts))
         for kind, actor, data, number, cuts in group]
        for group in values["groups"]
    ]  # fmt: skip
    return Plan(values["seed"], values["secure"], groups)


# --- a round --------------------------------------------------------------------------------------


@dataclass
class Actor:
    """One connection of ours and what the server has said on it."""

    session: int
    rng: random.Random
    sock: socket.socket | None = None
    tls: Channel | None = None
    frames: FrameReader = field(default_factory=FrameReader)
    login: ScramClient | None = None
    final: str = ""
    heard: int = 0  # answers since somebody listened last

    def close(self, *, reset: bool = False) -> None:
        """End the connection."""
        if self.sock is None:
            return
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.sock = None


ALERT = re.compile(rb"\x15\x03[\x00-\x04]\x00\x02..", re.DOTALL)  # in TLS, before there are keys


def pieces(data: bytes, cuts: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Return the bounds of what ``data`` is cut into."""
    bounds = [0, *cuts, len(data)]
    return zip(bounds, bounds[1:])


class Round:
    """Performs a plan. One thread; it waits for nothing but the server's answers."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self._plan, self._target = plan, target
        self._rng = random.Random(plan.seed)
        self._actors: dict[int, Actor] = {}
        self._tokens: dict[int, str] = {}
        self._numbers: dict[int, int] = {}
        self._waits: dict[int, float] = {}  # until when a group listens

    def perform(self) -> None:
        """Do everything. Raises ``ViolationError`` for what the server may never say."""
        left = {at: collections.deque(events) for at, events in enumerate(self._plan.groups)}
        try:
            while left:
                self._listen(0.0)
                ready = [at for at in left if self._goes_on(at, left[at][0])]
                if not ready:
                    self._listen(0.005)
                    continue
                at = self._rng.choice(ready)
                self._do(at, left[at].popleft())
                if not left[at]:
                    del left[at]
        finally:
            for actor in self._actors.values():
                actor.close(reset=self._rng.random() < 0.5)

    def _goes_on(self, at: int, event: Event) -> bool:
        """Whether a group need not wait (any longer) for an answer."""
        if event.kind != "hear":
            return True
        actor = self._actors.get(event.actor)
        if actor is None or actor.sock is None or actor.heard >= event.number:
            return True
        return time.monotonic() > self._waits.setdefault(at, time.monotonic() + HEAR)

    def _do(self, at: int, event: Event) -> None:
        actor = self._actors.get(event.actor)
        if actor is None:
            rng = random.Random(f"{self._plan.seed}-{event.actor}")
            actor = self._actors[event.actor] = Actor(at, rng)
        if event.kind == "open":
            self._open(actor, *event.data.decode().split())
        elif event.kind == "login":
            user, nonce = event.data.decode().split()
            binding = self._target.binding if actor.tls else None
            actor.login = ScramClient(user, PASSWORD, nonce, binding=binding)
        elif event.kind == "hear":
            self._waits.pop(at, None)
            actor.heard = 0
        elif event.kind == "send":
            data = self._seal(actor, self._fill(actor, event.data), event.cuts)
            self._send(actor, data, event.cuts)
        elif event.kind == "shut" and actor.sock:
            with contextlib.suppress(OSError):
                if actor.tls:
                    actor.tls.say_goodbye()
                    actor.sock.sendall(actor.tls.outgoing())
                actor.sock.shutdown(socket.SHUT_WR)
        else:
            actor.close(reset=event.kind == "reset")

    def _open(self, actor: Actor, address: str, rate: str = "") -> None:
        actor.close()
        actor.frames, actor.heard = FrameReader(), 0
        actor.frames.takes_acks = True
        try:
            actor.sock = socket.create_connection((HOST, self._target.port), SETTLE, (address, 0))
        except OSError as error:
            raise ViolationError(f"the server cannot be reached: {error}") from None
        actor.sock.settimeout(HEAR)
        actor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        actor.tls = None
        if rate:
            how = Mutator(actor.rng, float(rate))
            actor.tls = Channel(self._target.context, Side.CLIENT, "localhost", how)
            actor.tls.spoilt = not self._plan.secure
            actor.tls.shake_hands()
            self._send(actor, actor.tls.outgoing())

    def _seal(self, actor: Actor, data: bytes, cuts: Sequence[int]) -> bytes:
        """Put each piece into a record; where there is no channel, what is not said in TLS goes."""
        if actor.tls is None:
            return data
        try:
            for first, end in pieces(data, cuts):
                actor.tls.write([data[first:end]])
        except TransferError:  # not shaken hands, or broken
            actor.tls.spoilt = True
            return data
        return actor.tls.outgoing()

    def _unseal(self, actor: Actor, data: bytes) -> bytes:
        """Go on with the handshake, or return what was in the records."""
        if actor.tls is None:  # an alert is the last thing one hears from who speaks TLS
            return ALERT.sub(b"", data) if self._plan.secure else data
        room = memoryview(bytearray(2 * len(data) + 32 * KB))
        try:
            actor.tls.feed(data)
            if not actor.tls.ready:
                actor.tls.shake_hands()
                actor.heard += actor.tls.ready
                self._send(actor, actor.tls.outgoing())
            return bytes(room[: actor.tls.read_into(room)]) if actor.tls.ready else b""
        except ConnectionLostError:  # it said goodbye
            return b""
        except TransferError as error:
            if not actor.tls.spoilt:
                raise ViolationError(f"the server's TLS is broken: {error}") from None
            return b""

    def _send(self, actor: Actor, data: bytes, cuts: Sequence[int] = ()) -> None:
        """Send in pieces; a server that has closed, or reads no more, is none of our concern."""
        try:
            for first, end in pieces(data, cuts):
                if actor.sock:
                    actor.sock.sendall(data[first:end])
        except OSError:
            self._hear_last(actor)

    def _hear_last(self, actor: Actor) -> None:
        with contextlib.suppress(OSError):
            while actor.sock and self._take(actor, actor.sock.recv(65536)):
                continue
        actor.close()

    def _fill(self, actor: Actor, data: bytes) -> bytes:
        """Put what the server has told in the place of the marks."""
        return MARK.sub(functools.partial(self._real, actor), data)

    def _real(self, actor: Actor, mark: re.Match[bytes]) -> bytes:
        token, final, digits, binary = mark.groups()
        text = mark[0]
        if token:
            return self._tokens.get(int(token), text.decode()).encode()
        if final:
            return actor.final.encode() if len(actor.final) == len(text) else text
        if digits:
            return str(self._numbers.get(int(digits), text.decode())).rjust(10).encode()
        if binary:
            session = binary[0]
            return struct.pack("!I", self._numbers.get(session, number_mark(session)))
        jwt = self._target.jwt
        return jwt.encode() if len(jwt) == len(text) else text

    def _listen(self, seconds: float) -> None:
        """Take what has come on all connections."""
        poll = select.poll()
        open_ones = {a.sock.fileno(): a for a in self._actors.values() if a.sock}
        for descriptor in open_ones:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(seconds * 1000):
            actor = open_ones[descriptor]
            assert actor.sock is not None  # it was open a moment ago, and this is the only thread
            try:
                alive = self._take(actor, actor.sock.recv(65536))
            except OSError:
                alive = False
            if not alive:
                actor.close()

    def _take(self, actor: Actor, data: bytes) -> bool:
        """Read the server's words; ``False`` at their end."""
        if data:
            actor.frames.feed(self._unseal(actor, data))
        try:
            frame = actor.frames.next()
            while frame is not None:
                self._note(actor, frame)
                frame = actor.frames.next()
        except ProtocolError as error:
            raise ViolationError(f"the server talks nonsense: {error}") from None
        return bool(data)

    def _note(self, actor: Actor, frame: Message | Ack) -> None:
        self._target.heard["ack" if isinstance(frame, Ack) else frame.VERB] += 1
        actor.heard += not isinstance(frame, (Queued, Verifying))
        if isinstance(frame, AuthChallenge) and actor.login:
            with contextlib.suppress(TransferError):  # the challenge of a login that we disturbed
                actor.final = actor.login.respond(frame.data)
        elif isinstance(frame, AuthOk):
            self._tokens[actor.session] = frame.token
        elif isinstance(frame, FileReady):
            self._numbers[actor.session] = frame.transfer
        elif isinstance(frame, (Error, Rejected)) and frame.code == "internal":
            raise ViolationError(f"the server tells of an internal error: {frame.reason}")


# --- the server -----------------------------------------------------------------------------------


def count_receiving(counts: Counts, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that receives on a connection: count what comes, by the state it meets."""

    def receive(this: Any, *arguments: Any) -> Any:
        connection = arguments[0] if arguments else this
        before = place(connection)
        try:
            found = function(this, *arguments)
        except (ConnectionLostError, ProtocolError) as error:
            # one call may go through several steps of a handshake
            where = place(connection) if before in HANDSHAKE else before
            counts[where][kind_of(error)] += 1
            raise
        counts[before]["taken"] += found is not None or place(connection) != before
        return found

    return receive


def kind_of(error: TransferError) -> str:
    """Tell a peer that has gone from one that breaks the rules, of TLS or our own."""
    if isinstance(error, ConnectionLostError):
        return "cut"
    return "broken" if getattr(error, "code", "") in ("tls", "plain") else "refused"


def place(connection: Connection) -> str:
    """Tell where a connection is: in which state, or at which step of the handshake."""
    tls = connection._tls
    if tls is None or tls.ready:
        return connection.state.value
    return HANDSHAKE[tls._tls.cipher() is not None]  # chosen when the ClientHello has come


def no_counts() -> Counts:
    """Return zeros for every place."""
    return {name: dict.fromkeys(KINDS, 0) for name in [*HANDSHAKE, *(one.value for one in State)]}


def serve(counts_file: Path, arguments: list[str]) -> int:
    """Be the server, and write down which states it was talked to in."""
    counts = no_counts()
    for kind in (Connection, BlockReader):
        function: Callable[..., Any] = vars(kind)["receive"]
        setattr(kind, "receive", count_receiving(counts, function))  # noqa: B010
    code = server_module.main(arguments)
    counts_file.write_text(json.dumps(counts))
    return code


class Target:
    """A real server process with its accounts, and what can be said about its health."""

    def __init__(self, folder: Path, *, secure: bool) -> None:
        folder.mkdir()
        pki = Pki(folder)
        self.name, self.secure = folder.name, secure
        self._ca = pki.ca if secure else None
        self.context, self.binding = (
            client_tls(pki.ca),
            certificate_binding(pki.server.cert),
        )
        self.heard: collections.Counter[str] = collections.Counter()
        self.rounds = self.messages = 0
        self.output, self._log, self._counts = (
            folder / "output", folder / "server.log", folder / "counts"
        )  # fmt: skip
        self._folder = folder
        self.jwt = self._make_accounts(folder / "users")
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(self._counts)]
        command += ["--port", "0", "--output", str(self.output), "--workers", str(WORKERS)]
        command += ["--credentials", str(folder / "users"), "--max-file-size", str(LARGEST)]
        command += ["--grace", "0", *(tls_options(pki.server) if secure else [])]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(),
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first.startswith("Listening on "):
            raise ViolationError(f"the server does not start: {self._log.read_text()}")
        self.port = int(first.rpartition(":")[2])
        self._read = 0  # bytes of the log that were looked at
        self._known = {content.digest for content in CONTENTS}
        self._checked: set[Path] = set()
        self._transfer(0)
        self._files = self._open_files()

    def _make_accounts(self, path: Path) -> str:
        users = {
            name: Credential.make(PASSWORD, at % 3, MIN_ITERATIONS)
            for at, name in enumerate([*USERS, NORMAL, TOKEN_USER])
        }
        accounts = Accounts(users).with_users(users).with_token_key(renew=True)
        save_credentials(path, accounts)
        (self._folder / "password").write_text(PASSWORD)
        (self._folder / "password").chmod(0o600)
        return make_token(accounts, TOKEN_USER, 86400)

    def _open_files(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def check(self, number: int) -> None:
        """See that the server is as it was. Raises ``ViolationError``."""
        self._await(lambda: self._process.poll() is None, "alive")
        self._await(lambda: self._open_files() <= self._files, "back to its open files")
        self._await(lambda: status(self._process.pid, "Threads") <= WORKERS + 1, "at its threads")
        self._await(lambda: not strays(self.output), "without strays")
        self._await(self._rests, "at rest")
        self._check_log()
        self._check_published()
        for kind, most in (("VmHWM", MOST_MEMORY), ("VmPeak", MOST_ASKED)):
            if status(self._process.pid, kind) > most:
                raise ViolationError(f"memory: {kind} {status(self._process.pid, kind)} KB")
        self._transfer(number)

    def _rests(self) -> bool:
        """Whether all its threads sleep, several times in a row: else one may turn in circles."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        return all(
            b") S " in (task / "stat").read_bytes() for _ in range(5) for task in tasks.iterdir()
        )

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SETTLE
        while not condition():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise ViolationError(f"the server is not {what}: {self._describe()}")
            time.sleep(0.01)

    def _describe(self) -> str:
        if self._process.poll() is not None:
            return f"it ended with {self._process.returncode}"
        names = sorted(path.name for path in strays(self.output))
        return (f"{self._open_files()} open files ({self._files} before), "
                f"{status(self._process.pid, 'Threads')} threads, strays {names}")  # fmt: skip

    def _check_log(self) -> None:
        with open(self._log, "rb") as file:
            file.seek(self._read)
            text = file.read()
            self._read = file.tell()
        for bad in (b"Traceback", b"internal error", b"a unit of work failed"):
            if bad in text:
                where = text.index(bad)
                said = text[max(0, where - 200) : where + 3000].decode("utf-8", "replace")
                raise ViolationError(f"the server's log says: {said}")
        if re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", text):
            raise ViolationError("a control character reached the server's log")

    def _check_published(self) -> None:
        for path in set(self.output.glob("server_received_*")) - self._checked:
            if hashlib.md5(path.read_bytes()).hexdigest() not in self._known:
                raise ViolationError(f"published, but nobody's file: {path.name}")
            self._checked.add(path)

    def _transfer(self, number: int) -> None:
        """Send a file as one should. Raises ``ViolationError`` if it does not arrive."""
        data = random.Random(number).getrandbits(8 * 50_000).to_bytes(50_000, "big")
        self._known.add(hashlib.md5(data).hexdigest())
        by_client = number % CLIENT_EVERY == CLIENT_EVERY - 1
        try:
            place = self._by_client(data) if by_client else self._by_hand(data)
        except Exception as error:
            raise ViolationError(f"a normal transfer fails: {error!r}") from error
        if (self.output / place).read_bytes() != data:
            raise ViolationError("a normal transfer arrives changed")

    def _by_hand(self, data: bytes) -> str:
        with Peer(self.port, ca=self._ca) as raw:
            raw.log_in(NORMAL, PASSWORD)
            first, second = raw.attach(), raw.attach()
            upload = raw.start("normal.bin", data, 8 * KB)
            upload.send(first, 0, 2, 4, 6)
            upload.send(second, 1, 3, 5)
            answer = upload.complete()
            assert isinstance(answer, IntegrityOk), answer
            return answer.saved_as

    def _by_client(self, data: bytes) -> str:
        source = self._folder / "normal.bin"
        source.write_bytes(data)
        options = ["--user", NORMAL, "--password-file", str(self._folder / "password"), "--json"]
        options += ["--ca", str(self._ca)] if self._ca else []
        done = subprocess.run(
            client_command(self.port, source, *options),
            check=True, capture_output=True, text=True, timeout=60, env=environment(),
        )  # fmt: skip
        return str(json.loads(done.stdout)["saved_as"])

    def stop(self) -> Counts:
        """End it; return which states it was talked to in. Raises ``ViolationError``."""
        self.kill(signal.SIGTERM)
        if self._process.returncode:
            raise ViolationError(f"the server ended with {self._process.returncode}")
        self._check_log()
        if not self._counts.exists():
            raise ViolationError("the server ended without its workers")
        counts: Counts = json.loads(self._counts.read_text())
        return counts

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it anyhow."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(SETTLE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


# --- a sick server --------------------------------------------------------------------------------


class SickServer:
    """Does what a server should, and says it disturbed. A thread for each connection.

    What it does wrong depends on the seed, the order of its connections and its own words alone.
    Half of them answer one kind of message wrongly, their ``trap``, and all else well: so every
    state is reached. It is used for one call of ``send_files``.
    """

    def __init__(self, seed: str, source: Path, tls: Tls) -> None:
        rng = random.Random(seed)
        self._seed, self._source = seed, source
        number, odd = divmod(int(seed.rpartition("-")[2]), 2)
        self.tls = tls if number // len(TRAPS) % 2 else None
        self.trap, self.trap_after = TRAPS[number % len(TRAPS)] if not odd else (None, False)
        self._rate = 0.0 if self.trap else rng.choice((0.0, 0.03, 0.1, 0.3, 0.6))
        self._records = 0.0 if self.trap else rng.choice((0.0, 0.03, 0.3))
        self._touches = self.trap is Cancel or (self.trap is None and rng.random() < 0.3)
        credential = Credential.make(PASSWORD, 0, MIN_ITERATIONS)
        self._credentials = {NORMAL: credential}
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._ending = False
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="sick-0")]
        self.said: list[tuple[int, bytes]] = []
        self._threads[0].start()

    def close(self) -> None:
        """End all of it."""
        self._ending = True
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            pass  # accept wakes
        self._threads[0].join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while not self._ending:
            sock, _ = self._listener.accept()
            number = len(self._threads)
            target = functools.partial(self._talk, sock, number)
            self._sockets.append(sock)
            self._threads.append(threading.Thread(target=target, name=f"sick-{number}"))
            self._threads[-1].start()

    def _talk(self, sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError, EOFError, TransferError):
            SickConnection(self, sock, number).talk()

    def rng_of(self, number: int) -> random.Random:
        """Return what decides over one connection."""
        return random.Random(f"{self._seed}-{number}")

    def mutator_of(self, rng: random.Random) -> Mutator:
        """Return what disturbs one connection."""
        return Mutator(rng, self._rate)

    def channel_of(self, rng: random.Random) -> Channel | None:
        """Return the TLS of one connection, if that is spoken."""
        how = Mutator(rng, self._records)
        return Channel(self.tls.context, Side.SERVER, None, how) if self.tls else None

    def login(self) -> ScramServer:
        """Return the server's side of a login."""
        binding = self.tls.binding if self.tls else None
        return ScramServer(self._credentials, b"secret", binding=binding)

    def touch(self) -> None:
        """Let the file look changed, now and then: the client has to cancel it."""
        if self._touches:
            os.utime(self._source, ns=(0, time.time_ns()))

    @property
    def sick(self) -> bool:
        """Whether it says anything wrong at all."""
        return self._rate > 0 or self.trap is not None or self._touches

    @property
    def lies(self) -> bool:
        """Whether it says what is in order but for its meaning."""
        return self._rate > 0


class SickConnection:
    """One connection of a sick server."""

    def __init__(self, server: SickServer, sock: socket.socket, number: int) -> None:
        self._server, self._sock, self._number = server, sock, number
        self._rng = server.rng_of(number)
        self._mutator = server.mutator_of(self._rng)
        self._tls = server.channel_of(self._rng)
        self._login = server.login()
        self._frames = FrameReader()
        self._file: FileStart | None = None

    def talk(self) -> None:
        """Answer until somebody hangs up."""
        while True:
            message = self._frames.next()
            if message is None:
                self._frames.feed(self._receive(65536))
                continue
            if isinstance(message, Goodbye):
                return
            if isinstance(message, Message):
                self._say(self._answer(message))
            if isinstance(message, Attach):
                self._take_blocks()

    def _receive(self, size: int) -> bytes:
        if self._tls is None:
            return self._take(size)
        room, came = memoryview(bytearray(size)), 0
        while not came:
            if self._tls.ready:
                came = self._tls.read_into(room)
            if not came:
                self._tls.feed(self._take(65536))
            if not self._tls.ready:
                self._tls.shake_hands()
                self._sock.sendall(self._tls.outgoing())
        return bytes(room[:came])

    def _take(self, size: int) -> bytes:
        data = self._sock.recv(size)
        if not data:
            raise EOFError
        return data

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self._receive(size - len(data))
        return data

    def _take_blocks(self) -> None:
        while True:
            header = decode_header(self._exactly(HEADER_SIZE))
            self._exactly(header.wire_length)
            wrong = self._server.lies and self._rng.random() < 0.02
            self._say([encode_ack(header.transfer, header.block + wrong)])

    def _say(self, said: list[Message | bytes]) -> None:
        whole = [one if isinstance(one, bytes) else encode(one) for one in said]
        data = b"".join(self._mutator.disturb(whole))
        self._server.said.append((self._number, data))
        if self._tls:
            self._tls.write([data])
            data = self._tls.outgoing()
        cut = self._rng.randrange(len(data)) if data and self._rng.random() < 0.2 else 0
        self._sock.sendall(data[:cut])
        self._sock.sendall(data[cut:])
        if self._server.sick and self._rng.random() < 0.01:
            linger = struct.pack("ii", self._rng.randrange(2), 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise EOFError

    def _answer(self, message: Message) -> list[Message | bytes]:
        """Return what an honest server may say; for the trap, what only a client may."""
        honest = self._honest(message)
        if type(message) is not self._server.trap:
            return honest
        ours: list[Message | bytes] = [Pong(), Attach("t" * 43), AuthStart(TOKEN, "x"), b"\0" * 8]
        wrong = [self._rng.choice(ours), self._mutator.other()]
        return [*honest, *wrong] if self._server.trap_after else wrong

    def _honest(self, message: Message) -> list[Message | bytes]:
        answers: dict[type[Message], Callable[[Any], list[Message | bytes]]] = {
            Hello: lambda _: [Hello(VERSION, FEATURES + (SCRAM_PLUS,) * bool(self._tls))],
            AuthStart: lambda said: [AuthChallenge(self._login.challenge(said.data))],
            AuthResponse: lambda said: [AuthOk(self._login.verify(said.data), "t" * 43, 0)],
            Attach: lambda _: [Attached()],
            FileStart: self._begin,
            TransferComplete: self._judge,
            Cancel: lambda _: [Rejected("cancelled", "cancelled by the client")],
        }
        answer = answers.get(type(message))
        return answer(message) if answer else []

    def _begin(self, start: FileStart) -> list[Message | bytes]:
        self._file = start
        self._server.touch()
        blocks = -(-start.size // start.block_size)
        have = self._rng.choice([(), (), ((0, 1),), ((1, blocks),)])
        waiting: list[Message | bytes] = [Queued(2), Queued(1)] if self._rng.random() < 0.2 else []
        if not self._server.trap and self._rng.random() < 0.1:
            return [*waiting, Rejected(self._rng.choice(["space", "busy", "quota"]), "no")]
        if self._server.lies and self._rng.random() < 0.3:
            return [*waiting, FileReady(7, have), self._lie(blocks)]
        early: list[Message | bytes] = [Ping(), Missing(7, ((0, 1),), "lost"), Verifying(0)]
        return [*waiting, FileReady(7, have), *early[: self._rng.randrange(4)]]

    def _lie(self, blocks: int) -> Message:
        """Return what is well-formed, in place, and cannot be."""
        many = tuple((at, at + 1) for at in range(0, 4000, 2))
        lies = [
            Missing(7, ((0, 2**32),), "lost"), Missing(7, many, "lost"),
            FileReady(7, ((0, 2**32),)), Missing(7, ((blocks, blocks + 1),), "damaged"),
            Error("protocol", "\x1b[31m" * 200), IntegrityOk("x", 2**62, ZEROS, 0, True),
            Verifying(2**62),
        ]  # fmt: skip
        return self._rng.choice(lies)

    def _judge(self, message: TransferComplete) -> list[Message | bytes]:
        assert self._file is not None
        verdict = IntegrityOk("server_received_x", self._file.size, message.digest, 0, True)
        choice = self._rng.randrange(5)
        if choice == 0:
            return [Verifying(1), Missing(7, ((0, 1), (2, 4)), "damaged")]
        if choice == 2 and self._server.lies:
            return [dataclasses.replace(verdict, digest=ZEROS)]
        if choice == 1:
            return [Ping(), Verifying(0), IntegrityFailed(message.digest, "\x1b[31mno")]
        return [Ping(), Verifying(self._file.size), verdict]


# --- the client -----------------------------------------------------------------------------------


class Listener(logging.Handler):
    """Takes the client's log and keeps what must not be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one line."""
        if record.exc_info:
            self.tracebacks.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    def note_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """Keep what a thread died of."""
        self.tracebacks.append(f"a thread died of {arguments.exc_value!r}")


class Patient:
    """The client under test: ``send_files`` in a thread of this process, with small timeouts."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source.txt"
        self.source.write_bytes(b"".join(CONTENTS[6].blocks))
        self._digest = hashlib.md5(self.source.read_bytes()).hexdigest()
        self._pki = Pki(folder)
        pair = self._pki.issue("sick", HOST)
        self._tls = Tls(server_tls(pair.cert, pair.key), certificate_binding(pair.cert))
        self.counts = no_counts()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._listener = Listener()
        threading.excepthook = self._listener.note_thread
        logging.getLogger().addHandler(self._listener)
        config.RETRY_FIRST, config.RETRY_LONGEST = 0.02, 0.1
        config.PATIENCE, config.RETRY_MOST = 3, 2
        self._count()

    def _count(self) -> None:
        """Count what the client is told, by the state it is in."""
        next_frame = count_receiving(self.counts, vars(Connection)["_next_frame"])
        received: Callable[..., None] = vars(protocol.Dialogue)["received"]
        counts = self.counts

        def refused(dialogue: protocol.Dialogue, message: Message) -> None:
            state = counts[dialogue.state.value]
            try:
                received(dialogue, message)
            except ProtocolError:
                state["refused"] += dialogue.side is Side.CLIENT
                raise

        setattr(Connection, "_next_frame", next_frame)  # noqa: B010
        setattr(protocol.Dialogue, "received", refused)  # noqa: B010

    def try_server(self, seed: str) -> SickServer:
        """Send the file to a sick server, which is returned; nothing is judged."""
        server = SickServer(seed, self.source, self._tls)
        self._result: object = None
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        self._room = threads - 1, files - 1  # without the server's
        self._memory = peak_memory(os.getpid())
        compresses = random.Random(seed).random() < 0.5
        settings = ClientSettings(
            HOST, server.port, NORMAL, PASSWORD, 2, BLOCK, 1000, timeout=0.5, compress=compresses,
            ca=self._pki.ca if server.tls else None,
        )  # fmt: skip
        caller = threading.Thread(target=self._send, args=(settings,), name="caller", daemon=True)
        caller.start()
        caller.join(CASE_LIMIT)
        server.close()
        if caller.is_alive():
            self._result = TimeoutError(f"send_files took more than {CASE_LIMIT:g} s")
        return server

    def _send(self, settings: ClientSettings) -> None:
        try:
            self._result = client.send_files([self.source], settings)[0]
        except BaseException as error:
            self._result = error

    def judge(self, server: SickServer) -> None:
        """See that the last call ended as it should. Raises ``ViolationError``."""
        result = self._result
        self.outcomes[type(result).__name__ + " over TLS" * bool(server.tls)] += 1
        if isinstance(result, Receipt):
            if (result.verdict, result.digest) != ("INTEGRITY_OK", self._digest):
                raise ViolationError(f"a wrong receipt: {result}")
            words = f'"size": {result.bytes}, "digest": "{self._digest}"'.encode()
            if not any(b"INTEGRITY_OK@" in said and words in said for _, said in server.said):
                raise ViolationError("a receipt for what the server has not said")
        elif not isinstance(result, TransferError):
            raise ViolationError(f"send_files raised {result!r}")
        if self._listener.tracebacks:
            raise ViolationError(self._listener.tracebacks[0])
        grown = peak_memory(os.getpid()) - self._memory
        if grown > CASE_MEMORY:
            raise ViolationError(f"the client took {grown} KB of memory")
        self._await_room()

    def _await_room(self) -> None:
        deadline = time.monotonic() + SETTLE
        while any(now > room for now, room in zip(self._now(), self._room)):
            if time.monotonic() > deadline:
                raise ViolationError(f"threads and files: {self._now()}, before {self._room}")
            time.sleep(0.01)

    @staticmethod
    def _now() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))


# --- the program ----------------------------------------------------------------------------------


def fuzz_servers(targets: Sequence[Target], seed: str, messages: int) -> None:
    """Go on for so many messages. Raises ``ViolationError``."""
    sent, number = 0, 0
    while sent < messages:
        number += 1
        plan = make_plan(seed, number, len(targets[0].jwt))
        perform(targets[plan.secure], plan, number)
        sent += plan.messages
        if number % 20 == 0:
            note(f"{sent} messages in {number} rounds")


def perform(target: Target, plan: Plan, number: int) -> None:
    """Do one round and look at the server. A violation leaves the plan in a file."""
    target.rounds += 1
    target.messages += plan.messages
    try:
        Round(plan, target).perform()
        target.check(number)
    except ViolationError as error:
        path = kept(f"server-{plan.seed}")
        save_plan(path, plan, str(error))
        raise ViolationError(f"round {plan.seed}: {error}\nreplay with --replay {path}") from None


def fuzz_client(patient: Patient, seeds: Iterable[str]) -> None:
    """Try one sick server for each seed. Raises ``ViolationError``."""
    for number, seed in enumerate(seeds, 1):
        server = patient.try_server(seed)
        try:
            patient.judge(server)
        except ViolationError as error:
            path = kept(f"client-{seed}")
            said = [[connection, data.hex()] for connection, data in server.said]
            path.write_text(json.dumps({"client": seed, "why": str(error), "said": said}, indent=0))
            raise ViolationError(f"server {seed}: {error}\nreplay with --replay {path}") from None
        if number % 50 == 0:
            note(f"{number} sick servers")


def kept(name: str) -> Path:
    """Return a place for what led to a violation."""
    descriptor, path = tempfile.mkstemp(".json", f"fuzz-{name}-")
    os.close(descriptor)
    return Path(path)


def show(title: str, counts: Counts, states: Sequence[State], steps: Sequence[str]) -> list[str]:
    """Print how often each place was met; return those that were missed."""
    print(f"{title:<22}" + "".join(f"{kind:>9}" for kind in KINDS))
    missed = []
    for name in [*steps, *(state.value for state in states)]:
        print(f"  {name:<20}" + "".join(f"{counts[name][kind]:>9}" for kind in KINDS))
        wanted = ["refused"] if name in CLOSED_BOOK else ["taken", "refused"]
        if name in steps:
            wanted = ["taken", "broken", "cut"]
        missed += [f"{title} {name} ({kind})" for kind in wanted if not counts[name][kind]]
    return missed


def show_words(title: str, words: collections.Counter[str]) -> None:
    """Print how often each was heard."""
    print(f"{title}: " + ", ".join(f"{word} {count}" for word, count in words.most_common()))


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Fuzz both sides; return the exit code. Raises ``ViolationError``."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        targets = []
        for name in ("plain", "TLS"):
            targets.append(Target(folder / name, secure=name == "TLS"))
            stack.callback(targets[-1].kill)
        fuzz_servers(targets, arguments.seed, arguments.messages)
        counts = [target.stop() for target in targets]
    patient = Patient(folder)
    fuzz_client(patient, (f"{arguments.seed}-{at}" for at in range(arguments.cases)))
    print(f"seed {arguments.seed}: {arguments.cases} sick servers, "
          f"{time.monotonic() - began:.0f} s, no violation")  # fmt: skip
    missed = []
    for target, own in zip(targets, counts):
        print(f"{target.name}: {target.messages} messages in {target.rounds} rounds")
        missed += show(f"{target.name}, the server", own, SERVER_STATES, HANDSHAKE * target.secure)
        show_words("it said", target.heard)
        if not arguments.short:  # seconds do not always bring two transfers to wait for a place
            missed += [
                f"{target.name}, answer {word}" for word in ANSWERS if not target.heard[word]
            ]
    if not arguments.short:
        broken = [one.value for one in RESTING if not counts[1][one.value]["broken"]]
        missed += [f"TLS, {state} (broken)" for state in broken]
    missed += show("the client", patient.counts, CLIENT_STATES, ())
    show_words("send_files ended with", patient.outcomes)
    for one in missed:
        print(f"NEVER REACHED: {one}")
    return 1 if len(missed) > (FEW if arguments.short else 0) else 0


def replay(path: Path, folder: Path, times: int) -> int:
    """Do again what led to a violation, some times. Raises ``ViolationError``."""
    values = json.loads(path.read_text())
    note(f"then: {values['why']}")
    if "client" in values:
        fuzz_client(Patient(folder), [values["client"]] * times)
        return 0
    plan = load_plan(values)
    target = Target(folder / "server", secure=plan.secure)
    try:
        for number in range(1, times + 1):
            perform(target, plan, number)
        target.stop()
    finally:
        target.kill()
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Talk nonsense to both sides.")
    add = parser.add_argument
    # fmt: off
    add("--messages", type=int, metavar="N", help=f"to send to the server ({MESSAGES})")
    add("--cases", type=int, metavar="N", help=f"sick servers for the client ({CASES})")
    add("--seed", default=f"{random.randrange(10**6)}", help="of an earlier run")
    add("--short", action="store_true", help="some seconds")
    add("--replay", type=Path, metavar="FILE", help="what a violation has left")
    add("--times", type=int, default=20, metavar="N", help="how often to replay it (20)")
    # fmt: on
    arguments = parser.parse_args(argv)
    if arguments.messages is None:
        arguments.messages = SHORT_MESSAGES if arguments.short else MESSAGES
    if arguments.cases is None:
        arguments.cases = SHORT_CASES if arguments.short else CASES
    return arguments


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    if argv[:1] == ["--serve"]:
        return serve(Path(argv[1]), argv[2:])
    arguments = parse(argv)
    note(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        try:
            if arguments.replay:
                return replay(arguments.replay, Path(name), arguments.times)
            return run(arguments, Path(name))
        except ViolationError as error:
            print(f"VIOLATION: {error}")
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
