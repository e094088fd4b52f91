"""The disturbances of a message: flipped bits, cuts, wild lengths and values."""

from __future__ import annotations

import json
import random
import ssl
import struct
from typing import Any, Callable, Iterable

from config import MB
from lft.wire.blocks import HEADER_SIZE, decode_header, encode_header
from lft.wire.codecs import COMPRESSIONS, compress
from lft.wire.frames import encode, encode_ack
from lft.wire.tls_stream import TlsLayer
from protocol import CODEC_HELD, CODEC_RAW, MAX_CONTROL_FRAME, Side
from tests.tools.fuzzing.words import CONTENTS, EVERY_MESSAGE, ZEROS, number_mark

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
