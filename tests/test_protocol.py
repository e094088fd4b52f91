"""The wire without a server: messages, frames, the dialogue, blocks, clocks, and real sockets."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import re
import socket
import struct
import threading
import tracemalloc
from collections import deque
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, Callable, Iterator, Tuple

import pytest
from conftest import PATIENCE, eventually, open_descriptors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import protocol
from lft.addresses import is_loopback
from lft.clock import Deadline, Pauses
from lft.wire.blocks import HEADER_SIZE, BlockHeader, BlockReader, decode_header, encode_header
from lft.wire.codecs import COMPRESSIONS, FEATURES
from lft.wire.connection import Connection, raise_error
from lft.wire.frames import Ack, FrameReader, decode, encode, encode_ack
from lft.wire.sockets import Waker, lost, wait
from protocol import (
    CODEC_RAW,
    DIGEST_SIZES,
    MAX_BLOCKS,
    MAX_CONTROL_FRAME,
    MAX_FILE_SIZE,
    MAX_SPANS,
    MAX_TEXT,
    MESSAGES,
    VERSION,
    Attach,
    Attached,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    Blocks,
    Cancel,
    ConnectionLostError,
    Dialogue,
    Error,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
    IntegrityError,
    IntegrityFailed,
    IntegrityOk,
    LocalProtocolError,
    Message,
    Missing,
    Ping,
    Pong,
    ProtocolError,
    Queued,
    Rejected,
    RejectedError,
    RemoteProtocolError,
    SessionLostError,
    Side,
    SourceError,
    State,
    TransferComplete,
    TransferError,
    UsageError,
    Verifying,
    Why,
    spans,
)

# Neither a busy machine nor an unlucky draw is an error: a test fails for what it says, or not.
quick = settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
quicker = settings(quick, max_examples=20)  # for each of the messages

VERBS = sorted(MESSAGES)
MD5 = "0123456789abcdef" * 2

# --- one strategy and one example for each message ----------------------------------------------


def text(low: int = 0, high: int = 40) -> st.SearchStrategy[str]:
    """Any text that UTF-8 can carry."""
    return st.text(min_size=low, max_size=high)


digests = st.text("0123456789abcdef", min_size=32, max_size=32) | st.text(
    "0123456789abcdef", min_size=64, max_size=64
)
sizes = st.integers(0, MAX_FILE_SIZE)
transfers = st.integers(1, 2**32 - 1)
ranges = st.lists(st.integers(0, MAX_BLOCKS), max_size=20, unique=True).map(
    lambda edges: tuple(zip(sorted(edges)[::2], sorted(edges)[1::2]))
)

STRATEGIES: dict[type[Message], st.SearchStrategy[Message]] = {
    Hello: st.builds(Hello, st.integers(1, 2**16), st.lists(text(1, 64), max_size=8).map(tuple)),
    AuthStart: st.builds(AuthStart, text(1), text()),
    AuthChallenge: st.builds(AuthChallenge, text()),
    AuthResponse: st.builds(AuthResponse, text()),
    AuthOk: st.builds(AuthOk, text(), text(16), st.integers(-1000, 1000)),
    Attach: st.builds(Attach, text(1)),
    Attached: st.just(Attached()),
    FileStart: st.builds(
        FileStart, text(), sizes, st.integers(1, MAX_FILE_SIZE), text(1, 16), digests, st.booleans()
    ),
    Queued: st.builds(Queued, st.integers(1, 2**31)),
    FileReady: st.builds(FileReady, transfers, ranges),
    Rejected: st.builds(Rejected, text(1, 32), text()),
    Cancel: st.just(Cancel()),
    TransferComplete: st.builds(TransferComplete, transfers, digests),
    Verifying: st.builds(Verifying, sizes),
    Missing: st.builds(Missing, transfers, ranges, text(1, 32)),
    Ping: st.just(Ping()),
    Pong: st.just(Pong()),
    IntegrityOk: st.builds(IntegrityOk, text(1), sizes, digests, sizes, st.booleans()),
    IntegrityFailed: st.builds(IntegrityFailed, digests, text()),
    Error: st.builds(Error, text(1, 32), text()),
    Goodbye: st.just(Goodbye()),
}

EXAMPLES: dict[type[Message], Message] = {
    Hello: Hello(1, ("md5", "sha256")),
    AuthStart: AuthStart("SCRAM-SHA-256", "n,,n=user,r=abc"),
    AuthChallenge: AuthChallenge("r=abcdef,s=c2FsdA==,i=4096"),
    AuthResponse: AuthResponse("c=biws,r=abcdef,p=cHJvb2Y="),
    AuthOk: AuthOk("v=c2lnbmF0dXJl", "0123456789abcdef", 1),
    Attach: Attach("0123456789abcdef"),
    Attached: Attached(),
    FileStart: FileStart('große@Datei "1".bin', 1 << 40, 204800, "md5", "0" * 32, True),
    Queued: Queued(3),
    FileReady: FileReady(7, ((0, 5), (6, 4294967296))),
    Rejected: Rejected("space", "not enough space"),
    Cancel: Cancel(),
    TransferComplete: TransferComplete(7, MD5),
    Verifying: Verifying(12345),
    Missing: Missing(7, ((1, 2), (3, 9)), Why.DAMAGED),
    Ping: Ping(),
    Pong: Pong(),
    IntegrityOk: IntegrityOk("server_received_1_x", 5, MD5 * 2, 0, True),
    IntegrityFailed: IntegrityFailed(MD5, "blocks 1 to 3 differ"),
    Error: Error("shutdown", "the server is stopping"),
    Goodbye: Goodbye(),
}

EMOJI = "\U0001f600"  # twelve bytes in JSON
MANY_SPANS = tuple((MAX_BLOCKS - 2 * i - 2, MAX_BLOCKS - 2 * i - 1) for i in range(MAX_SPANS))[::-1]
LARGEST = [
    Hello(2**16, (EMOJI * 64,) * 64),
    AuthStart(EMOJI * 64, EMOJI * MAX_TEXT),
    AuthOk(EMOJI * MAX_TEXT, EMOJI * 128, -1000),
    FileStart(EMOJI * MAX_TEXT, MAX_FILE_SIZE, MAX_FILE_SIZE, EMOJI * 16, "f" * 64, False),
    FileReady(2**32 - 1, MANY_SPANS),
    Missing(2**32 - 1, MANY_SPANS, EMOJI * 32),
    IntegrityOk(EMOJI * MAX_TEXT, MAX_FILE_SIZE, "f" * 64, MAX_FILE_SIZE, False),
    Error(EMOJI * 32, EMOJI * MAX_TEXT),
]


def short(value: object) -> str:
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


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@quicker
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(verb: str, data: st.DataObject) -> None:
    """Encoded and decoded again a message is equal, whatever its fields hold."""
    message = data.draw(STRATEGIES[MESSAGES[verb]])
    assert decode(encode(message)[4:]) == message


@pytest.mark.parametrize("verb", VERBS)
def test_every_message_has_the_documented_frame(verb: str) -> None:
    """Four bytes length, then the verb, an @ and a JSON object in UTF-8."""
    message = EXAMPLES[MESSAGES[verb]]
    data = encode(message)
    assert struct.unpack("!I", data[:4]) == (len(data) - 4,)
    name, _, body = data[4:].partition(b"@")
    assert name.decode() == verb == message.VERB
    assert set(json.loads(body.decode("utf-8"))) == {item.name for item in fields(message)}


def test_the_frame_in_the_documentation_is_a_frame() -> None:
    """The example at the top of protocol.py is one that a peer would understand."""
    found = re.search(r"^ +((?:[0-9a-f]{2} ){4}) *(HELLO@.*)$", protocol.__doc__ or "", re.M)
    assert found
    assert read(bytes.fromhex(found[1]) + found[2].encode()) == [Hello(VERSION, ("md5", "sha256"))]


@pytest.mark.parametrize("verb", VERBS)
def test_a_message_cannot_be_changed(verb: str) -> None:
    """A message may pass between threads."""
    message = EXAMPLES[MESSAGES[verb]]
    for item in fields(message):
        with pytest.raises(FrozenInstanceError):
            setattr(message, item.name, getattr(message, item.name))


@pytest.mark.parametrize("message", LARGEST, ids=short)
def test_the_largest_messages_fit_a_frame(message: Message) -> None:
    """No message that may be made is too long to be sent."""
    assert len(encode(message)) <= 4 + MAX_CONTROL_FRAME
    assert read(encode(message)) == [message]


FIELDS = [(verb, item.name) for verb in VERBS for item in fields(MESSAGES[verb])]


@pytest.mark.parametrize(("verb", "field"), FIELDS)
def test_a_field_of_another_type_is_refused(verb: str, field: str) -> None:
    """No field takes null, a fraction, bytes, a list or an object."""
    for value in (None, 1.5, b"x", [], {}, object()):
        with pytest.raises(ValueError, match=f"{verb}: {field} must be "):
            replace(EXAMPLES[MESSAGES[verb]], **{field: value})


NUMBERS = [
    (verb, name) for verb, name in FIELDS if type(getattr(EXAMPLES[MESSAGES[verb]], name)) is int
]


@pytest.mark.parametrize(("verb", "field"), NUMBERS)
def test_a_number_is_neither_a_bool_nor_a_word_nor_endless(verb: str, field: str) -> None:
    """FAULTS 6: True is 1 to Python, not on the wire."""
    for value in (True, False, "1", 2**64, -(2**64)):
        with pytest.raises(ValueError, match=f"{verb}: {field} must be a number from"):
            replace(EXAMPLES[MESSAGES[verb]], **{field: value})


LIMITS = [
    (Hello, "version", 1, 2**16),
    (AuthOk, "priority", -1000, 1000),
    (FileStart, "size", 0, 2**63 - 1),
    (FileStart, "block_size", 1, 2**63 - 1),
    (Queued, "position", 1, 2**31),
    (FileReady, "transfer", 1, 2**32 - 1),
    (TransferComplete, "transfer", 1, 2**32 - 1),
    (Missing, "transfer", 1, 2**32 - 1),
    (Verifying, "verified", 0, 2**63 - 1),
    (IntegrityOk, "size", 0, 2**63 - 1),
    (IntegrityOk, "resent_blocks", 0, 2**63 - 1),
]


@pytest.mark.parametrize(("kind", "field", "low", "high"), LIMITS)
def test_a_number_keeps_within_its_limits(
    kind: type[Message], field: str, low: int, high: int
) -> None:
    """FAULTS 12: both limits are taken, one below and one above are not."""
    for value in (low, high):
        assert getattr(replace(EXAMPLES[kind], **{field: value}), field) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{field} must be a number from {low} to {high}"):
            replace(EXAMPLES[kind], **{field: value})


TEXTS = [
    (AuthStart, "mechanism", 1, 64),
    (AuthStart, "data", 0, 1024),
    (AuthChallenge, "data", 0, 1024),
    (AuthResponse, "data", 0, 1024),
    (AuthOk, "data", 0, 1024),
    (AuthOk, "token", 16, 128),
    (Attach, "token", 1, 128),
    (FileStart, "name", 0, 1024),
    (FileStart, "digest", 1, 16),
    (Rejected, "code", 1, 32),
    (Rejected, "reason", 0, 1024),
    (IntegrityOk, "saved_as", 1, 1024),
    (IntegrityFailed, "reason", 0, 1024),
    (Error, "code", 1, 32),
    (Error, "reason", 0, 1024),
]


@pytest.mark.parametrize(("kind", "field", "low", "high"), TEXTS)
def test_a_text_keeps_within_its_length(
    kind: type[Message], field: str, low: int, high: int
) -> None:
    """FAULTS 22: a name of 10 MB is never taken; the limits themselves are."""
    for length in (low, high):
        assert getattr(replace(EXAMPLES[kind], **{field: "x" * length}), field) == "x" * length
    for length in {max(low - 1, 0), high + 1} - {low}:
        with pytest.raises(ValueError, match=f"{field} must be text of {low} to {high} char"):
            replace(EXAMPLES[kind], **{field: "x" * length})


@pytest.mark.parametrize(("kind", "field", "low", "high"), TEXTS)
def test_a_text_with_half_a_character_is_refused(
    kind: type[Message], field: str, low: int, high: int
) -> None:
    """FAULTS 9: a lone surrogate has no UTF-8 and would break whoever writes it."""
    for half in ("\ud800", "\udfff"):
        with pytest.raises(ValueError, match=f"{field} must be text"):
            replace(EXAMPLES[kind], **{field: half * max(low, 1)})


@pytest.mark.parametrize(
    "digest", ["", "0" * 31, "0" * 33, "0" * 48, "0" * 96, "A" * 32, "g" * 32, "0" * 32 + "\n"]
)
@pytest.mark.parametrize("kind", [TransferComplete, IntegrityOk, IntegrityFailed])
def test_what_is_not_a_digest_is_refused(kind: type[Message], digest: str) -> None:
    """A digest has 32 or 64 digits, in lower case."""
    changed: dict[str, Any] = {"digest": digest}
    with pytest.raises(ValueError, match="a digest in hexadecimal"):
        replace(EXAMPLES[kind], **changed)


@pytest.mark.parametrize(
    "features",
    [("x",) * 65, ("",), ("x" * 65,), (1,), (None,), ("\ud800",), (("md5",),), ["md5"], "md5"],
    ids=short,
)
def test_what_is_not_a_list_of_features_is_refused(features: Any) -> None:
    """At most 64 words of at most 64 characters."""
    with pytest.raises(ValueError, match="up to 64 short words"):
        Hello(1, features)


NOT_SPANS: list[Any] = [
    ((0, 0),),
    ((1, 0),),
    ((-1, 1),),
    ((0, MAX_BLOCKS + 1),),
    ((0,),),
    ((0, 1, 2),),
]
NOT_SPANS += [((0, True),), ((0, 1.0),), (("0", "1"),), (0, 1), ([0, 1],), ((0, 5), (4, 6))]
NOT_SPANS += [((4, 6), (0, 2)), ((0, 5), (5, 6)), ((0, 1), (0, 1)), [(0, 1)], "0-1"]
NOT_SPANS += [tuple((i * 2, i * 2 + 1) for i in range(MAX_SPANS + 1))]


@pytest.mark.parametrize("blocks", NOT_SPANS, ids=short)
def test_what_is_not_a_list_of_spans_is_refused(blocks: Any) -> None:
    """FAULTS 26: empty, reversed, touching, overlapping, unordered, too many, too far."""
    with pytest.raises(ValueError, match=f"up to {MAX_SPANS} ascending"):
        Missing(1, blocks, Why.LOST)
    with pytest.raises(ValueError, match=f"up to {MAX_SPANS} ascending"):
        FileReady(1, blocks)


def test_the_features_are_the_digests_and_codecs_that_may_be_used() -> None:
    """What HELLO offers is what FILE_START may ask for and what a block header may name."""
    assert (*DIGEST_SIZES, *COMPRESSIONS) == FEATURES
    assert set(DIGEST_SIZES) == {"md5", "sha256"}
    assert "zlib" in COMPRESSIONS
    assert max(DIGEST_SIZES.values()) <= 32


# --- frames, cut and joined ---------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_message_cut_at_any_byte_is_the_same_message(verb: str) -> None:
    """FAULTS 2: nothing comes out before the last byte, and then the whole message."""
    message = EXAMPLES[MESSAGES[verb]]
    data = encode(message)
    for start, rest in at_every_byte(data):
        reader = FrameReader()
        reader.feed(start)
        if rest:
            assert reader.next() is None
            assert len(reader) == len(start)
            reader.feed(rest)
        assert reader.next() == message
        assert reader.next() is None
        assert len(reader) == 0


def test_messages_sliced_into_single_bytes_are_the_same_messages() -> None:
    """FAULTS 2: how the network cuts the stream changes nothing."""
    messages = list(EXAMPLES.values())
    data = b"".join(map(encode, messages))
    assert read(*(data[i : i + 1] for i in range(len(data)))) == messages


def test_several_messages_in_one_piece_are_read_in_order() -> None:
    """FAULTS 2: a segment may carry many frames."""
    messages = list(EXAMPLES.values())
    assert read(b"".join(map(encode, messages))) == messages


@quick
@given(st.lists(st.integers(0, 3000), max_size=12))
def test_messages_cut_anywhere_are_the_same_messages(cuts: list[int]) -> None:
    """FAULTS 2: any number of cuts at any places."""
    messages = list(EXAMPLES.values())
    data = b"".join(map(encode, messages))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert read(*(data[a:b] for a, b in zip(edges, edges[1:]))) == messages


def test_acks_and_an_error_may_be_mixed_and_cut_at_any_byte() -> None:
    """An ack and a control frame are told apart by their first byte."""
    error = EXAMPLES[Error]
    data = encode_ack(7, 0) + encode_ack(2**32 - 1, 2**32 - 1) + encode(error) + encode_ack(7, 1)
    wanted = [Ack(7, 0), Ack(2**32 - 1, 2**32 - 1), error, Ack(7, 1)]
    for start, rest in at_every_byte(data):
        assert read(start, rest, acks=True) == wanted
    assert read(*(data[i : i + 1] for i in range(len(data))), acks=True) == wanted


def test_an_ack_has_the_documented_form() -> None:
    """'A', three zeros, transfer, block index."""
    assert encode_ack(0x01020304, 0x05060708) == b"A\0\0\0\1\2\3\4\5\6\7\x08"


def test_an_ack_where_none_may_come_is_refused() -> None:
    """On a coordinator the letter A is the start of an impossible length."""
    with pytest.raises(RemoteProtocolError, match="impossible length"):
        read(encode_ack(1, 1))


# --- frames that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        struct.pack("!I", 0),
        struct.pack("!I", MAX_CONTROL_FRAME + 1),
        struct.pack("!I", 2**31 - 1),
        struct.pack("!I", 2**31),
        struct.pack("!i", -1),
        struct.pack("!Q", 2**64 - 1),
        struct.pack("!q", -1),
    ],
    ids=short,
)
def test_an_impossible_length_is_refused_at_its_fourth_byte(start: bytes) -> None:
    """FAULTS 3: refused before anything is waited for, and before anything is allocated."""
    reader = FrameReader()
    reader.feed(start[:3])
    assert reader.next() is None
    reader.feed(start[3:])
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="a frame of impossible length"):
            reader.next()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_of_the_greatest_length_is_taken() -> None:
    """FAULTS 3: the cap itself is allowed, one byte more is not."""
    body = b"QUEUED@{" + b" " * (MAX_CONTROL_FRAME - 21) + b'"position":3}'
    assert len(body) == MAX_CONTROL_FRAME
    assert read(frame(body)) == [Queued(3)]
    with pytest.raises(RemoteProtocolError, match="impossible length"):
        read(frame(body + b" "))


@pytest.mark.parametrize(
    ("start", "stranger"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"POST /upload HTTP/1.1\r\n", "HTTP"),
        (b"HEAD / HTTP/1.0\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", "TLS"),
    ],
)
def test_a_recognisable_stranger_is_named(start: bytes, stranger: str) -> None:
    """FAULTS 5: the log line says what speaks there instead of us."""
    with pytest.raises(RemoteProtocolError, match=f"the peer speaks {stranger}, not this protocol"):
        read(start)


MALFORMED = {
    "empty": b" ",
    "no verb": b"@{}",
    "verb only": b"CANCEL",
    "no body": b"CANCEL@",
    "unknown verb": b"FORMAT_DISK@{}",
    "verb in lower case": b"cancel@{}",
    "space before the verb": b" CANCEL@{}",
    "verb not ASCII": b"\xff@{}",
    "base class": b"MESSAGE@{}",
    "bad UTF-8": b'ATTACH@{"token":"\xff"}',
    "cut UTF-8": b'ATTACH@{"token":"\xc3"}',
    "overlong UTF-8": b'ATTACH@{"token":"\xc0\xaf"}',
    "surrogate in UTF-8": b'ATTACH@{"token":"\xed\xa0\x80"}',
    "UTF-16": b"ATTACH@" + '{"token":"x"}'.encode("utf-16"),
    "byte order mark": b'ATTACH@\xef\xbb\xbf{"token":"x"}',
    "bad JSON": b"CANCEL@{",
    "single quotes": b"ATTACH@{'token':'x'}",
    "comma too many": b'ATTACH@{"token":"x",}',
    "comment": b"CANCEL@{}//",
    "something behind": b"CANCEL@{}{}",
    "NUL behind": b"CANCEL@{}\0",
    "raw line end": b'ATTACH@{"token":"a\nb"}',
    "array": b"CANCEL@[]",
    "null": b"CANCEL@null",
    "text": b'CANCEL@""',
    "number": b"CANCEL@1",
    "array of pairs": b'ATTACH@[["token","x"]]',
    "missing key": b"ATTACH@{}",
    "one missing of two": b'ERROR@{"code":"x"}',
    "extra key": b'CANCEL@{"x":1}',
    "another key": b'ATTACH@{"tokens":"x"}',
    "surrogate key": b'ATTACH@{"token":"x","\\ud800":1}',
    "duplicate key": b'QUEUED@{"position":1,"position":1}',
    "duplicate key below": b'QUEUED@{"position":{"a":1,"a":1}}',
    "NaN": b'QUEUED@{"position":NaN}',
    "infinity": b'QUEUED@{"position":Infinity}',
    "minus infinity": b'QUEUED@{"position":-Infinity}',
    "fraction": b'QUEUED@{"position":1.0}',
    "exponent": b'QUEUED@{"position":1e0}',
    "huge exponent": b'QUEUED@{"position":1e999999}',
    "true for a number": b'QUEUED@{"position":true}',
    "null for a number": b'QUEUED@{"position":null}',
    "text for a number": b'QUEUED@{"position":"1"}',
    "hexadecimal": b'QUEUED@{"position":0x1}',
    "leading zero": b'QUEUED@{"position":01}',
    "21 digits": b'QUEUED@{"position":100000000000000000000}',
    "5,000 digits": b'QUEUED@{"position":' + b"9" * 5000 + b"}",
    "minus 5,000 digits": b'QUEUED@{"position":-' + b"9" * 5000 + b"}",
    "number for text": b'ATTACH@{"token":1}',
    "list for text": b'ATTACH@{"token":["x"]}',
    "number for a flag": b'INTEGRITY_OK@{"saved_as":"x","size":1,"digest":"' + MD5.encode()
    + b'","resent_blocks":0,"durable":1}',
    "high surrogate": b'ATTACH@{"token":"\\ud800"}',
    "low surrogate": b'ATTACH@{"token":"\\udc00"}',
    "surrogates in wrong order": b'ATTACH@{"token":"\\udc00\\ud800"}',
    "object for spans": b'MISSING@{"transfer":1,"reason":"lost","blocks":{}}',
    "flat spans": b'MISSING@{"transfer":1,"reason":"lost","blocks":[0,1]}',
    "touching spans": b'MISSING@{"transfer":1,"reason":"lost","blocks":[[0,1],[1,2]]}',
    "10^9 spans": b'MISSING@{"transfer":1,"reason":"lost","blocks":[[0,1000000000000]]}',
    "deep spans": b'MISSING@{"transfer":1,"reason":"lost","blocks":[[[0,1]]]}',
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_message_is_the_peers_fault(kind: str) -> None:
    """FAULTS 6: a coded error, short and printable, with nothing of what the peer sent raw."""
    with pytest.raises(RemoteProtocolError) as caught:
        read(frame(MALFORMED[kind]))
    assert caught.value.code == "protocol"
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1.0", "1e0", "1" + "0" * 20, "-" + "9" * 5000],
    ids=short,
)
def test_a_number_that_no_field_takes_is_refused_before_any_field_is_looked_at(number: str) -> None:
    """FAULTS 6: the parser itself knows only whole numbers of a few digits."""
    with pytest.raises(RemoteProtocolError, match="not the JSON it should be"):
        decode(b'CANCEL@{"x":' + number.encode() + b"}")


def test_half_characters_that_make_a_whole_one_are_taken() -> None:
    """JSON spells an emoji as two surrogates; only alone they are nothing."""
    assert read(frame(b'ATTACH@{"token":"\\ud83d\\ude00"}')) == [Attach("\U0001f600")]


def test_white_space_and_the_order_of_keys_are_free() -> None:
    """A peer in another language may write its JSON as it likes."""
    assert read(frame(b'ERROR@ { "reason" : "\\u0078",\n"code":"y" } ')) == [Error("y", "x")]


@pytest.mark.parametrize("depth", [10, 100, 300, 500, 700, 900, 1000, 3000, 30_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")])
def test_nested_brackets_are_the_peers_fault(depth: int, opening: bytes, closing: bytes) -> None:
    """FAULTS 6: however deep, neither our stack nor our memory ends."""
    with pytest.raises(RemoteProtocolError):
        decode(b'QUEUED@{"position":' + opening * depth + b"1" + closing * depth + b"}")


@quick
@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
@example([b"\0\0\0\1@"], False)
@example([b"A"], True)
def test_no_bytes_raise_anything_but_remote_protocol_error(pieces: list[bytes], acks: bool) -> None:
    """FAULTS 3 and 6: a stream of garbage is waited for, or refused."""
    reader = FrameReader()
    reader.takes_acks = acks
    with contextlib.suppress(RemoteProtocolError):
        for piece in pieces:
            reader.feed(piece)
            while reader.next() is not None:
                pass


@quick
@given(st.sampled_from(VERBS), st.binary(max_size=60))
def test_no_body_raises_anything_but_remote_protocol_error(verb: str, body: bytes) -> None:
    """FAULTS 6: a known verb with garbage behind it."""
    with pytest.raises(RemoteProtocolError):
        decode(f"{verb}@".encode() + b"\xff" + body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("verb", VERBS)
@quicker
@given(data=st.data())
def test_no_json_raises_anything_but_remote_protocol_error(verb: str, data: st.DataObject) -> None:
    """FAULTS 6: the right keys with any values: a valid message, or a refusal."""
    body = {item.name: data.draw(json_values) for item in fields(MESSAGES[verb])}
    try:
        message = decode(f"{verb}@{json.dumps(body)}".encode())
    except RemoteProtocolError:
        return
    assert decode(encode(message)[4:]) == message


@pytest.mark.parametrize("verb", VERBS)
@quicker
@given(data=st.data())
def test_a_damaged_message_raises_nothing_but_remote_protocol_error(
    verb: str, data: st.DataObject
) -> None:
    """FAULTS 2 and 6: some bytes of a right message replaced, removed or added."""
    body = encode(EXAMPLES[MESSAGES[verb]])[4:]
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    try:
        message = decode(body[:start] + data.draw(st.binary(max_size=8)) + body[end:])
    except RemoteProtocolError:
        return
    assert decode(encode(message)[4:]) == message


# --- the dialogue -------------------------------------------------------------------------------

# Written out a second time, from the design and not from the code: state, who, says what, leads to.
RULES = """
    new         client  HELLO              greeted
    greeted     server  HELLO              open
    open        client  AUTH_START         login
    login       server  AUTH_CHALLENGE     challenged
    login       server  AUTH_OK            ready
    challenged  client  AUTH_RESPONSE      proving
    proving     server  AUTH_OK            ready
    ready       client  FILE_START         asked
    ready       client  TRANSFER_COMPLETE  ready
    ready       client  CANCEL             ready
    ready       client  PONG               ready
    asked       server  QUEUED             asked
    asked       server  FILE_READY         receiving
    asked       server  REJECTED           ready
    asked       client  CANCEL             cancelling
    receiving   client  TRANSFER_COMPLETE  verifying
    receiving   client  CANCEL             cancelling
    receiving   client  PONG               receiving
    receiving   server  PING               receiving
    receiving   server  MISSING            receiving
    receiving   server  VERIFYING          receiving
    receiving   server  INTEGRITY_OK       ready
    receiving   server  INTEGRITY_FAILED   ready
    receiving   server  REJECTED           ready
    verifying   client  TRANSFER_COMPLETE  verifying
    verifying   client  CANCEL             cancelling
    verifying   client  PONG               verifying
    verifying   server  PING               verifying
    verifying   server  MISSING            receiving
    verifying   server  VERIFYING          verifying
    verifying   server  INTEGRITY_OK       ready
    verifying   server  INTEGRITY_FAILED   ready
    verifying   server  REJECTED           ready
    cancelling  server  QUEUED             cancelling
    cancelling  server  FILE_READY         cancelling
    cancelling  server  PING               cancelling
    cancelling  server  MISSING            cancelling
    cancelling  server  VERIFYING          cancelling
    cancelling  server  INTEGRITY_OK       ready
    cancelling  server  INTEGRITY_FAILED   ready
    cancelling  server  REJECTED           ready
    open        client  ATTACH             attaching
    greeted     client  AUTH_START         login-ahead
    login-ahead server  HELLO              login
    greeted     client  ATTACH             attach-ahead
    attach-ahead server HELLO              attaching
    attaching   server  ATTACHED           streaming
"""

Case = Tuple[State, Side, str]


def legal_moves() -> dict[Case, State]:
    """Read the rules; ERROR and GOODBYE end the dialogue from everywhere but its end."""
    moves: dict[Case, State] = {}
    for line in RULES.split("\n")[1:-1]:
        state, side, verb, leads_to = line.split()
        moves[State(state), Side(side), verb] = State(leads_to)
    for state_ in State:
        if state_ is not State.CLOSED:
            moves[state_, Side.SERVER, "ERROR"] = State.CLOSED
            moves[state_, Side.CLIENT, "GOODBYE"] = State.CLOSED
    return moves


LEGAL = legal_moves()
ILLEGAL = [case for case in itertools.product(State, Side, VERBS) if case not in LEGAL]


def ways() -> dict[State, list[tuple[Side, str]]]:
    """Find the shortest way from the start to each state, by the rules above."""
    found: dict[State, list[tuple[Side, str]]] = {State.NEW: []}
    waiting = deque([State.NEW])
    while waiting:
        here = waiting.popleft()
        for (state, side, verb), leads_to in LEGAL.items():
            if state is here and leads_to not in found:
                found[leads_to] = [*found[here], (side, verb)]
                waiting.append(leads_to)
    return found


WAYS = ways()


def example_of(verb: str) -> Message:
    """Return a message of this kind."""
    return EXAMPLES[MESSAGES[verb]]


def say(dialogue: Dialogue, speaker: Side, verb: str) -> None:
    """Let ``speaker`` say something, as this side of the dialogue sees it."""
    step = dialogue.sent if speaker is dialogue.side else dialogue.received
    step(example_of(verb))


def dialogue_in(state: State, side: Side) -> Dialogue:
    """Return ``side``'s view of a dialogue that has come to ``state`` in the ordinary way."""
    dialogue = Dialogue(side)
    for speaker, verb in WAYS[state]:
        say(dialogue, speaker, verb)
    assert dialogue.state is state
    return dialogue


def name_of(value: object) -> str:
    """Name a case of a test by its state, side or verb."""
    return str(value.value) if isinstance(value, (State, Side)) else str(value)


def test_every_state_can_be_reached() -> None:
    """No state is there for nothing."""
    assert set(WAYS) == set(State)


def test_every_message_may_be_said_somewhere() -> None:
    """No message is there for nothing, and no message is missing from the rules."""
    assert {verb for _, _, verb in LEGAL} == set(VERBS)


@pytest.mark.parametrize(("state", "speaker", "verb"), list(LEGAL), ids=name_of)
def test_a_message_in_place_leads_on(state: State, speaker: Side, verb: str) -> None:
    """Both sides come to the same state, the one the rules name."""
    for side in Side:
        dialogue = dialogue_in(state, side)
        assert dialogue.allows(example_of(verb)) == (side is speaker or may_say(state, side, verb))
        say(dialogue, speaker, verb)
        assert dialogue.state is LEGAL[state, speaker, verb]


def may_say(state: State, side: Side, verb: str) -> bool:
    """Whether the rules let ``side`` say this."""
    return (state, side, verb) in LEGAL


@pytest.mark.parametrize(("state", "speaker", "verb"), ILLEGAL, ids=name_of)
def test_a_message_out_of_place_names_who_is_at_fault(
    state: State, speaker: Side, verb: str
) -> None:
    """FAULTS 7: the speaker has made a local error, the listener sees a remote one."""
    for side, fault in ((speaker, LocalProtocolError), (speaker.other, RemoteProtocolError)):
        dialogue = dialogue_in(state, side)
        assert side is not speaker or not dialogue.allows(example_of(verb))
        words = f"^the {speaker.value} sent {verb} in state {state.value}$"
        with pytest.raises(fault, match=words) as caught:
            say(dialogue, speaker, verb)
        assert type(caught.value) is fault
        assert dialogue.state is state


def test_a_whole_session_with_two_files_is_legal() -> None:
    """The dialogue at the top of protocol.py, said aloud."""
    session = """client HELLO, server HELLO, client AUTH_START, server AUTH_CHALLENGE,
        client AUTH_RESPONSE, server AUTH_OK, client FILE_START, server QUEUED, server QUEUED,
        server FILE_READY, server VERIFYING, server MISSING, client TRANSFER_COMPLETE,
        server VERIFYING, server MISSING, client TRANSFER_COMPLETE, server VERIFYING,
        server INTEGRITY_OK, client FILE_START, server REJECTED, client GOODBYE"""
    both = [Dialogue(side) for side in Side]
    for step in session.split(","):
        side, verb = step.split()
        for dialogue in both:
            say(dialogue, Side(side), verb)
    assert [dialogue.state for dialogue in both] == [State.CLOSED, State.CLOSED]


def test_a_dialogue_shows_side_and_state() -> None:
    """The representation says what one wants to know in a debugger."""
    assert repr(dialogue_in(State.READY, Side.SERVER)) == "<Dialogue of the server, ready>"


def test_each_side_has_another() -> None:
    """Two sides, each the other's other."""
    assert [side.other for side in (Side.CLIENT, Side.SERVER)] == [Side.SERVER, Side.CLIENT]


# --- block headers and blocks -------------------------------------------------------------------

words32 = st.integers(0, 2**32 - 1)


@quick
@given(
    st.builds(
        BlockHeader, words32, words32, words32, words32, st.just(CODEC_RAW),
        st.binary(min_size=32, max_size=32),
    )
)  # fmt: skip
def test_a_block_header_comes_back_as_it_was_sent(header: BlockHeader) -> None:
    """Encoded and decoded again it is equal."""
    assert decode_header(encode_header(header)) == header


def test_a_block_header_has_the_documented_form() -> None:
    """Every field at its place, big-endian, the digest padded with zeros."""
    header = BlockHeader(0x01020304, 0x05060708, 0x090A0B0C, 0x0D0E0F10, CODEC_RAW, b"d" * 16)
    assert HEADER_SIZE == 52
    assert encode_header(header) == b"B\0\0\0" + bytes(range(1, 17)) + b"d" * 16 + bytes(16)


RIGHT = encode_header(BlockHeader(1, 2, 3, 3, CODEC_RAW, b"d" * 16))


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, b"A"), (0, b"b"), (0, b"\0"), (1, b"\4"), (1, b"\xff"), (2, b"\1"), (3, b"\1")],
)
def test_a_header_of_another_kind_is_refused(place: int, value: bytes) -> None:
    """Another first letter, an unknown codec, or anything where zeros should be."""
    with pytest.raises(RemoteProtocolError, match=r"not a block header|not known here"):
        decode_header(RIGHT[:place] + value + RIGHT[place + 1 :])


@quick
@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_no_bytes_of_a_header_raise_anything_but_remote_protocol_error(data: bytes) -> None:
    """Garbage in place of a header is the peer's fault."""
    if data[:4] == RIGHT[:4]:
        assert encode_header(decode_header(data)) == data
    else:
        with pytest.raises(RemoteProtocolError):
            decode_header(data)


@quick
@given(st.integers(0, 5000), st.integers(1, 700))
@example(0, 1)
@example(1, 1)
def test_the_blocks_of_a_file_cover_it_once(size: int, block_size: int) -> None:
    """Lengths sum up to the size, and each block starts where the one before it ended."""
    blocks = Blocks(size, block_size)
    end = 0
    for index in range(blocks.count):
        assert blocks.offset(index) == end
        assert 0 < blocks.length(index) <= block_size
        end += blocks.length(index)
    assert end == size


@quick
@given(st.integers(1, MAX_FILE_SIZE), st.integers(1, MAX_FILE_SIZE))
def test_the_last_block_of_any_file_ends_where_the_file_ends(size: int, block_size: int) -> None:
    """Also with sizes that no fraction could count exactly."""
    blocks = Blocks(size, block_size)
    last = blocks.count - 1
    assert blocks.offset(last) + blocks.length(last) == size
    assert all(blocks.length(index) == block_size for index in {0, last - 1} if 0 <= index < last)


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (0, []),
        (1, [1]),
        (204799, [204799]),
        (204800, [204800]),
        (204801, [204800, 1]),
        (3 * 204800, [204800] * 3),
    ],
)
def test_the_usual_sizes_fall_into_the_expected_blocks(size: int, lengths: list[int]) -> None:
    """FAULTS 12: empty, one byte, and around the edges of a block."""
    blocks = Blocks(size, 204800)
    assert [blocks.length(index) for index in range(blocks.count)] == lengths


@quick
@given(st.sets(st.integers(0, 60)))
def test_spans_name_exactly_the_blocks(indexes: Any) -> None:
    """Spread out again, the ranges are the blocks, and a MISSING takes them."""
    found = spans(sorted(indexes))
    assert [i for first, end in found for i in range(first, end)] == sorted(indexes)
    assert Missing(1, found, Why.LOST).blocks == found


@quick
@given(st.sets(st.integers(0, 60)), st.integers(1, 5))
def test_limited_spans_are_the_first_ones(indexes: Any, limit: int) -> None:
    """Asked for fewer ranges, it gives the first."""
    assert spans(sorted(indexes), limit) == spans(sorted(indexes))[:limit]


def test_spans_stop_reading_at_the_limit() -> None:
    """A file of which everything else is missing costs no more than what fits a message."""
    endless = itertools.count(0, 2)
    assert spans(endless, 3) == ((0, 1), (2, 3), (4, 5))
    assert next(endless) == 8


def test_spans_fit_a_message_without_being_told() -> None:
    """The default limit is that of a message."""
    assert len(spans(range(0, 10 * MAX_SPANS, 2))) == MAX_SPANS


# --- clocks and bells ---------------------------------------------------------------------------


def test_a_deadline_ahead_has_not_passed() -> None:
    """What is left is at most what was given."""
    deadline = Deadline(1000)
    assert not deadline.passed
    assert 990 < deadline.left() <= 1000


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_deadline_behind_has_passed(seconds: float) -> None:
    """What is left is never below zero."""
    deadline = Deadline(seconds)
    assert deadline.passed
    assert deadline.left() == 0


def test_a_deadline_comes_nearer_until_it_is_put_off() -> None:
    """Putting it off gives the whole time again."""
    deadline = Deadline(1000)
    start = deadline.left()
    eventually(lambda: deadline.left() < start, "time to pass")
    before = deadline.left()
    deadline.put_off()
    assert deadline.left() > before


@pytest.fixture
def waker() -> Iterator[Waker]:
    """Give a bell."""
    one = Waker()
    yield one
    one.close()


def test_a_bell_is_quiet_until_it_is_rung(waker: Waker) -> None:
    """However often it was rung, one look takes it all back."""
    assert not waker.quiet()
    waker.ring()
    waker.ring()
    assert waker.quiet()
    assert not waker.quiet()


def test_rings_can_be_taken_back_one_by_one(waker: Waker) -> None:
    """Several waiters may each take theirs."""
    waker.ring()
    waker.ring()
    assert [waker.quiet(1) for _ in range(3)] == [True, True, False]


def test_ringing_never_blocks(waker: Waker) -> None:
    """FAULTS 45: nobody listening does not stop whoever rings, however often."""
    for _ in range(70_000):  # more than a pipe holds
        waker.ring()
    assert waker.quiet()


def test_a_bell_gives_its_descriptors_back() -> None:
    """Two while it lives, none afterwards."""
    before = open_descriptors()
    waker = Waker()
    assert open_descriptors() == before + 2
    waker.close()
    assert open_descriptors() == before


def test_pauses_that_overlap_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four connections that rest for the same second rested for one second."""
    now = 1000.0
    monkeypatch.setattr("lft.clock.time.monotonic", lambda: now)
    pauses = Pauses()
    for start, length in ((0.0, 2.0), (1.0, 0.5), (1.5, 1.5), (10.0, 1.0)):
        now = 1000.0 + start
        pauses.add(length)
    assert pauses.seconds == 4.0


# --- connections --------------------------------------------------------------------------------

Pair = Tuple[Connection, socket.socket]


@pytest.fixture
def make_pair() -> Iterator[Callable[[Side], Pair]]:
    """Make a connection and the bare socket at its other end, as often as wanted."""
    made: list[Connection | socket.socket] = []

    def make(side: Side) -> Pair:
        ours, theirs = socket.socketpair()
        theirs.settimeout(PATIENCE)
        connection = Connection(ours, side)
        made.extend((connection, theirs))
        return connection, theirs

    yield make
    for one in made:
        one.close()


@pytest.fixture
def pair(make_pair: Callable[[Side], Pair]) -> Pair:
    """Give a client's connection and the bare socket at its other end."""
    return make_pair(Side.CLIENT)


@pytest.fixture
def server_pair(make_pair: Callable[[Side], Pair]) -> Pair:
    """Give a server's connection and the bare socket at its other end."""
    return make_pair(Side.SERVER)


@pytest.fixture
def tcp_pair() -> Iterator[Pair]:
    """Give a client's connection over TCP and the bare socket at its other end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.create_connection(listener.getsockname(), PATIENCE)
        theirs, _ = listener.accept()
    connection = Connection(ours, Side.CLIENT)
    theirs.settimeout(PATIENCE)
    yield connection, theirs
    connection.close()
    theirs.close()


def reset(sock: socket.socket) -> None:
    """Close a TCP connection in the rudest way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def lead(connection: Connection, theirs: socket.socket, state: State) -> None:
    """Bring the dialogue of ``connection`` to ``state``, with real frames."""
    for speaker, verb in WAYS[state]:
        if speaker is connection.dialogue.side:
            connection.send(example_of(verb))
            assert read(theirs.recv(65536)) == [example_of(verb)]
        else:
            theirs.sendall(encode(example_of(verb)))
            assert connection.receive() == example_of(verb)


@pytest.fixture
def data_pair(pair: Pair) -> Pair:
    """Give a client's data connection and the bare socket at its other end."""
    lead(*pair, State.STREAMING)
    return pair


def read_all(sock: socket.socket, into: io.BytesIO) -> None:
    """Read until the other side closes."""
    part = sock.recv(65536)
    while part:
        into.write(part)
        part = sock.recv(65536)


class Helper:
    """Something done at the same time in a thread; it must have ended when the test ends."""

    def __init__(self, job: Callable[[], Any]) -> None:
        self._job = job
        self._results: list[Any] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._job())
        except (TransferError, OSError) as error:
            self._results.append(error)

    def result(self) -> Any:
        """Wait for the end; return what came of it."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self._results[0]


def test_a_message_goes_out_and_the_answer_comes_in(pair: Pair) -> None:
    """Both are noted in the dialogue."""
    connection, theirs = pair
    connection.send(EXAMPLES[Hello])
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])
    assert connection.receive() is None
    theirs.sendall(encode(EXAMPLES[Hello]))
    assert connection.receive() == EXAMPLES[Hello]
    assert connection.state is State.OPEN


def test_a_message_that_comes_byte_by_byte_is_received_whole(server_pair: Pair) -> None:
    """FAULTS 2: until the last byte there is no message, and never an error."""
    connection, theirs = server_pair
    data = encode(EXAMPLES[Hello])
    assert not connection.mid_frame
    for byte in data[:-1]:
        theirs.sendall(bytes([byte]))
        assert connection.receive() is None
        assert connection.mid_frame
    theirs.sendall(data[-1:])
    assert connection.receive() == EXAMPLES[Hello]
    assert not connection.mid_frame


def test_messages_that_come_together_are_received_one_by_one(server_pair: Pair) -> None:
    """FAULTS 2: what came in one segment is not lost."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[Hello]) + encode(Goodbye()))
    assert connection.receive() == EXAMPLES[Hello]
    assert connection.receive() == Goodbye()
    assert connection.receive() is None


def test_a_message_we_may_not_send_is_not_sent(pair: Pair) -> None:
    """A bug of ours is ours alone: the peer sees nothing of it."""
    connection, theirs = pair
    with pytest.raises(LocalProtocolError):
        connection.send(Cancel())
    connection.send(EXAMPLES[Hello])
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])


def test_a_message_out_of_place_is_the_peers_fault(server_pair: Pair) -> None:
    """FAULTS 7: told by the connection as by the dialogue."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[FileStart]))
    with pytest.raises(RemoteProtocolError, match="the client sent FILE_START in state new"):
        connection.receive()


def test_a_stranger_is_the_peers_fault(server_pair: Pair) -> None:
    """FAULTS 5: told by the connection as by the frame reader."""
    connection, theirs = server_pair
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="HTTP"):
        connection.receive()


def test_what_the_socket_does_not_take_is_sent_later(pair: Pair) -> None:
    """FAULTS 41: a peer that does not read makes nobody wait; when it reads, all comes."""
    connection, theirs = pair
    data = os.urandom(4 << 20)
    connection.push(data[:100], data[100 : 3 << 20], data[3 << 20 :])
    assert 0 < connection.unsent < len(data)
    assert not connection.flush()
    assert not connection.wait(0, write=True)
    got = io.BytesIO()
    reader = Helper(lambda: read_all(theirs, got))
    while not connection.flush():
        assert connection.wait(PATIENCE, write=True)
    assert connection.unsent == 0
    connection.finish()
    reader.result()
    assert got.getvalue() == data


def test_thousands_of_small_parts_may_wait_for_a_slow_peer(pair: Pair) -> None:
    """The system takes at most 1024 parts in one call; more of them are no lost connection."""
    connection, theirs = pair
    connection.push(bytes(4 << 20))
    for number in range(3000):
        connection.push(struct.pack("!I", number))
    got = io.BytesIO()
    reader = Helper(lambda: read_all(theirs, got))
    while not connection.flush():
        assert connection.wait(PATIENCE, write=True)
    connection.finish()
    reader.result()
    assert got.getvalue() == bytes(4 << 20) + struct.pack("!3000I", *range(3000))


def test_sending_nothing_is_done_at_once(pair: Pair) -> None:
    """An empty part neither waits nor disturbs."""
    connection, theirs = pair
    connection.push(b"", b"")
    connection.push(b"head", b"", b"tail")
    assert connection.flush()
    assert connection.unsent == 0
    assert theirs.recv(100) == b"headtail"


@pytest.mark.parametrize("parts", [(b"", b""), (b"tail", b""), (b"", b"tail")])
def test_an_empty_part_that_waits_does_not_keep_the_rest_from_being_out(
    pair: Pair, parts: tuple[bytes, bytes]
) -> None:
    """Once every byte has been taken, nothing is left to wait for."""
    connection, theirs = pair
    connection.push(bytes(4 << 20))
    connection.push(*parts)
    got = io.BytesIO()
    reader = Helper(lambda: read_all(theirs, got))
    while connection.unsent:
        assert connection.wait(PATIENCE, write=True)
        connection.flush()
    assert connection.flush()
    connection.finish()
    reader.result()
    assert got.getvalue() == bytes(4 << 20) + b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\x2f", encode(Hello(1, ()))[:-1]], ids=short)
def test_the_end_of_the_stream_is_a_lost_connection(server_pair: Pair, sent: bytes) -> None:
    """FAULTS 1 and 2: closed before, in and behind the length of a frame."""
    connection, theirs = server_pair
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        connection.receive()
    assert connection.mid_frame == bool(sent)


def test_what_came_before_the_end_is_still_received(server_pair: Pair) -> None:
    """A peer may say its last words and close."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[Hello]) + encode(Goodbye()))
    theirs.close()
    assert [connection.receive(), connection.receive()] == [EXAMPLES[Hello], Goodbye()]
    with pytest.raises(ConnectionLostError):
        connection.receive()


def receive_bytes(connection: Connection) -> int:
    """Receive into a buffer."""
    return connection.receive_into(memoryview(bytearray(10)))


def receive_acks(connection: Connection) -> list[Ack]:
    """Receive all acks that are here."""
    return list(connection.receive_acks())


WAYS_TO_RECEIVE = [Connection.receive, receive_bytes, receive_acks]


@pytest.mark.parametrize("receive", WAYS_TO_RECEIVE)
def test_a_reset_is_a_lost_connection(tcp_pair: Pair, receive: Callable[[Connection], Any]) -> None:
    """FAULTS 39: in the project's own words, with the peer's address."""
    connection, theirs = tcp_pair
    reset(theirs)
    assert connection.wait(PATIENCE)
    with pytest.raises(ConnectionLostError, match=r"^127\.0\.0\.1:\d+: the connection was reset$"):
        receive(connection)


@pytest.mark.parametrize("receive", WAYS_TO_RECEIVE)
def test_an_end_is_a_lost_connection(pair: Pair, receive: Callable[[Connection], Any]) -> None:
    """However one receives, the end of the stream says so."""
    connection, theirs = pair
    theirs.close()
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        receive(connection)


def test_sending_to_a_peer_that_has_gone_is_a_lost_connection(tcp_pair: Pair) -> None:
    """FAULTS 39: the same error as when receiving."""
    connection, theirs = tcp_pair
    reset(theirs)
    assert connection.wait(PATIENCE)
    with pytest.raises(ConnectionLostError, match=r"the connection was (reset|closed)"):
        connection.push(b"x")


def test_receiving_nothing_yet_is_no_bytes(pair: Pair) -> None:
    """Nothing here waits."""
    connection, theirs = pair
    assert receive_bytes(connection) == 0
    assert receive_acks(connection) == []
    theirs.sendall(b"some")
    assert receive_bytes(connection) == 4


def test_a_flood_of_messages_takes_no_memory(server_pair: Pair) -> None:
    """FAULTS 3: what the peer sends faster than we read stays in the system's buffers."""
    connection, theirs = server_pair
    lead(connection, theirs, State.READY)
    theirs.setblocking(False)
    flood = memoryview(frame(b"CANCEL@{" + b" " * 60_000 + b"}") * 100)
    tracemalloc.start()
    try:
        received = sent = 0
        while received < 100:
            if sent < len(flood):
                with contextlib.suppress(BlockingIOError):
                    sent += theirs.send(flood[sent:])
            received += connection.receive() is not None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# -- acks


def test_acks_and_the_error_behind_them_are_received(data_pair: Pair) -> None:
    """The acks count, and then the error is raised as what it means."""
    connection, theirs = data_pair
    theirs.sendall(encode_ack(7, 0) + encode_ack(7, 1) + encode(Error("session", "it is over")))
    got: list[Ack] = []
    with pytest.raises(ConnectionLostError, match=r"^it is over$"):
        got.extend(connection.receive_acks())
    assert got == [Ack(7, 0), Ack(7, 1)]
    assert connection.state is State.CLOSED


def test_acks_cut_at_every_byte_are_received_once(make_pair: Callable[[Side], Pair]) -> None:
    """FAULTS 2: half an ack waits for its other half."""
    data = encode_ack(7, 0) + encode_ack(7, 1)
    for start, rest in at_every_byte(data):
        connection, theirs = make_pair(Side.CLIENT)
        got = []
        for part in (start, rest):
            theirs.sendall(part)
            got += receive_acks(connection)
        assert got == [Ack(7, 0), Ack(7, 1)]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "ERROR"])
def test_nothing_but_acks_and_errors_comes_on_a_data_connection(data_pair: Pair, verb: str) -> None:
    """FAULTS 7: every other message is out of place there."""
    connection, theirs = data_pair
    theirs.sendall(encode_ack(7, 0) + encode(example_of(verb)))
    with pytest.raises(RemoteProtocolError, match=f"server sent {verb} in state"):
        receive_acks(connection)


def test_an_ack_is_not_a_message(data_pair: Pair) -> None:
    """Who waits for a message on a data connection does not take an ack for one."""
    connection, theirs = data_pair
    assert receive_acks(connection) == []
    theirs.sendall(encode_ack(7, 0))
    with pytest.raises(RemoteProtocolError, match="an acknowledgement out of place"):
        connection.receive()


# -- waiting


def test_waiting_ends_when_something_comes(pair: Pair) -> None:
    """The socket is ready."""
    connection, theirs = pair
    waiting = Helper(lambda: connection.wait(PATIENCE))
    theirs.sendall(b"x")
    assert waiting.result() is True


def test_waiting_ends_when_the_peer_closes(pair: Pair) -> None:
    """An end, too, is something to read."""
    connection, theirs = pair
    waiting = Helper(lambda: connection.wait(PATIENCE))
    theirs.close()
    assert waiting.result() is True


def test_waiting_ends_when_the_bell_rings(pair: Pair, waker: Waker) -> None:
    """The socket is not ready then."""
    connection, _ = pair
    waiting = Helper(lambda: connection.wait(PATIENCE, waker=waker))
    waker.ring()
    assert waiting.result() is False


def test_a_bell_that_has_rung_before_ends_the_waiting_at_once(pair: Pair, waker: Waker) -> None:
    """No ring is lost between looking and waiting."""
    waker.ring()
    assert not pair[0].wait(PATIENCE, waker=waker)
    assert not pair[0].wait(PATIENCE, waker=waker)
    assert waker.quiet()


def test_a_socket_that_is_ready_counts_beside_a_bell_that_rings(pair: Pair, waker: Waker) -> None:
    """The answer is about the socket."""
    connection, theirs = pair
    waker.ring()
    theirs.sendall(b"x")
    assert connection.wait(PATIENCE, waker=waker)


def test_waiting_in_vain_ends_with_the_time(pair: Pair) -> None:
    """Nothing came: the socket is not ready."""
    assert not pair[0].wait(0)
    assert not pair[0].wait(0.001)


def test_waiting_for_room_ends_when_there_is_room(pair: Pair) -> None:
    """An empty connection takes bytes at once."""
    assert pair[0].wait(PATIENCE, write=True)


def test_waiting_works_on_a_bare_socket_too(pair: Pair) -> None:
    """The function is the method without a connection."""
    connection, theirs = pair
    assert not wait(theirs, 0)
    connection.push(b"x")
    assert wait(theirs, PATIENCE)


def test_cutting_wakes_who_waits_in_another_thread(pair: Pair) -> None:
    """The owner sees the end of the stream, as if the peer had closed."""
    connection, _ = pair

    def owner() -> None:
        assert connection.wait(PATIENCE)
        connection.receive()

    waiting = Helper(owner)
    connection.cut()
    assert isinstance(waiting.result(), ConnectionLostError)


# -- questions and answers


def test_a_call_gives_the_answer(pair: Pair) -> None:
    """One message out, one in."""
    connection, theirs = pair
    calling = Helper(lambda: connection.call(EXAMPLES[Hello], PATIENCE))
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])
    theirs.sendall(encode(Hello(2, ())))
    assert calling.result() == Hello(2, ())


def test_a_question_that_does_not_fit_the_socket_is_still_sent_whole(pair: Pair) -> None:
    """Waiting for the answer, what is unsent goes out."""
    connection, theirs = pair
    data = bytes(4 << 20)
    connection.push(data)
    calling = Helper(lambda: connection.call(EXAMPLES[Hello], PATIENCE))
    left = len(data) + len(encode(EXAMPLES[Hello]))
    while left:
        left -= len(theirs.recv(65536))
    theirs.sendall(encode(EXAMPLES[Hello]))
    assert calling.result() == EXAMPLES[Hello]


def test_an_error_in_answer_is_raised(pair: Pair) -> None:
    """The caller sees what the server means."""
    connection, theirs = pair
    calling = Helper(lambda: connection.call(EXAMPLES[Hello], PATIENCE))
    theirs.sendall(encode(Error("authentication", "no")))
    answer = calling.result()
    assert (type(answer), str(answer)) == (AuthenticationError, "no")


def test_silence_is_a_lost_connection(pair: Pair) -> None:
    """FAULTS 26: a server that reads everything and answers nothing."""
    connection, _ = pair
    with pytest.raises(ConnectionLostError, match=r"the peer did not answer for 0\.01 s"):
        connection.call(EXAMPLES[Hello], 0.01)


def test_half_an_answer_is_silence(pair: Pair) -> None:
    """FAULTS 4: bytes that do not become a message put nothing off."""
    connection, theirs = pair
    theirs.sendall(encode(EXAMPLES[Hello])[:-1])
    with pytest.raises(ConnectionLostError, match="did not answer"):
        connection.call(EXAMPLES[Hello], 0.01)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("authentication", AuthenticationError),
        ("session", SessionLostError),
        ("transfer", ConnectionLostError),
        ("shutdown", ConnectionLostError),
        ("timeout", ConnectionLostError),
        ("busy", ConnectionLostError),
        ("internal", ConnectionLostError),
        ("protocol", RemoteProtocolError),
        ("version", RemoteProtocolError),
        ("something new", RemoteProtocolError),
    ],
)
def test_an_error_is_raised_as_what_its_code_means(code: str, kind: type[TransferError]) -> None:
    """What may pass is tried again; what cannot is not."""
    with pytest.raises(kind) as caught:
        raise_error(Error(code, "the reason"))
    assert type(caught.value) is kind
    assert str(caught.value) == "the reason"


def test_an_errors_reason_is_made_safe_to_print() -> None:
    """FAULTS 26: a hostile server's colours do not reach the terminal."""
    with pytest.raises(ConnectionLostError) as caught:
        raise_error(Error("busy", "\x1b[31m\u202e\r\n"))
    assert str(caught.value) == "\\x1b[31m\\u202e\\r\\n"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "ERROR"])
def test_a_message_that_is_no_error_raises_nothing(verb: str) -> None:
    """Also REJECTED and INTEGRITY_FAILED are answers."""
    raise_error(example_of(verb))


# -- ending


def test_finishing_lets_the_peer_answer(pair: Pair) -> None:
    """The peer sees our end, we still hear the peer."""
    connection, theirs = pair
    connection.send(EXAMPLES[Hello])
    connection.finish()
    assert theirs.recv(65536) == encode(EXAMPLES[Hello])
    assert theirs.recv(1) == b""
    theirs.sendall(encode(EXAMPLES[Hello]))
    assert connection.receive() == EXAMPLES[Hello]


def test_discarding_says_when_the_peer_has_closed(pair: Pair) -> None:
    """What comes is thrown away, as much as there is."""
    connection, theirs = pair
    assert not connection.discard()
    theirs.sendall(bytes(100_000))
    assert not connection.discard()
    assert not connection.wait(0)
    theirs.close()
    assert connection.discard()


@pytest.mark.parametrize("end", [Connection.finish, Connection.cut, Connection.close])
def test_ending_what_has_ended_is_no_error(
    tcp_pair: Pair, end: Callable[[Connection], None]
) -> None:
    """The peer was faster, or another thread was; twice is as good as once."""
    connection, theirs = tcp_pair
    reset(theirs)
    assert connection.wait(PATIENCE)
    end(connection)
    end(connection)


def test_closing_gives_the_descriptor_back() -> None:
    """A closed connection has none."""
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours, Side.CLIENT)
        assert connection.fileno() == ours.fileno()
        connection.close()
        assert connection.fileno() == -1
    assert open_descriptors() == before


# -- what a connection knows of itself


def test_a_connection_shows_peer_state_and_what_is_unsent(tcp_pair: Pair) -> None:
    """The representation says what one wants to know in a debugger."""
    connection, theirs = tcp_pair
    host, port = theirs.getsockname()
    assert connection.peer == f"{host}:{port}"
    assert repr(connection) == f"<Connection to {host}:{port}, new, 0 bytes unsent>"


def test_a_connection_tells_what_the_system_knows_of_it(tcp_pair: Pair) -> None:
    """A round trip of less than a second on this machine, no queue, and time under way."""
    connection, theirs = tcp_pair
    connection.push(bytes(1000))
    assert theirs.recv(1000, socket.MSG_WAITALL) == bytes(1000)
    assert 0 < connection.round_trip < 1
    assert connection.queueing >= 1
    busy, no_room = connection.waits
    assert 0 <= no_room <= busy < PATIENCE


def test_a_peer_that_does_not_read_shows_in_what_a_connection_waits_for(tcp_pair: Pair) -> None:
    """Its window is shut: that is neither the network nor we."""
    connection, _ = tcp_pair
    connection.push(bytes(20_000_000))
    assert connection.unsent > 0
    eventually(lambda: connection.waits[1] > 0, "time without room")


def test_what_tcp_goes_by_can_be_chosen(tcp_pair: Pair) -> None:
    """Reno is everywhere and everybody's; what does not exist changes nothing."""
    connection, _ = tcp_pair
    connection.choose_congestion("reno")
    assert connection.congestion == "reno"
    connection.choose_congestion("no such thing")
    connection.choose_congestion("")
    assert connection.congestion == "reno"


def test_a_connection_without_tcp_says_nothing_of_the_network(pair: Pair) -> None:
    """Zeros and an empty name, no error."""
    connection, _ = pair
    connection.choose_congestion("reno")
    facts = connection.round_trip, connection.queueing, connection.waits, connection.congestion
    assert facts == (0.0, 1.0, (0.0, 0.0), "")


def test_little_is_kept_unsent_where_that_is_wanted(tcp_pair: Pair) -> None:
    """What waits in the system is bound to this connection; its buffer's size is not touched."""
    connection, _ = tcp_pair
    sock = connection._socket
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    connection.keep_unsent(4096)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 4096
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before


def test_blocks_may_come_in_one_piece_with_what_is_before_them(server_pair: Pair) -> None:
    """The first bytes of a block, read along with ATTACH, are not lost."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[Hello]) + encode(EXAMPLES[Attach]) + b"block" * 10)
    assert connection.receive() == EXAMPLES[Hello]
    connection.send(EXAMPLES[Hello])
    assert connection.receive() == EXAMPLES[Attach]
    connection.send(EXAMPLES[Attached])
    room = bytearray(30)
    assert connection.receive_into(memoryview(room)) == 30
    assert room == b"block" * 6
    assert connection.receive_into(memoryview(room)) == 20
    theirs.sendall(b"more")
    assert connection.receive_into(memoryview(room)) == 4


def test_a_connection_knows_where_to_connect_again(tcp_pair: Pair) -> None:
    """Family and address lead to the peer."""
    connection, theirs = tcp_pair
    assert connection.address == (socket.AF_INET, theirs.getsockname())


def test_a_peer_that_has_gone_before_we_looked_is_no_error() -> None:
    """FAULTS 1: a connection that is dead already can still be made, shown and closed."""
    with socket.socket(socket.AF_UNIX) as never_connected:
        connection = Connection(never_connected, Side.SERVER)
        assert connection.peer in repr(connection)
        connection.close()


def test_a_tcp_connection_is_tuned(tcp_pair: Pair) -> None:
    """No delay for small frames, a watch on dead peers, and nothing ever blocks."""
    connection, _ = tcp_pair
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not os.get_blocking(connection.fileno())


# --- blocks over a connection -------------------------------------------------------------------


class Inbox:
    """A block reader that takes every block, and remembers the headers it was asked about."""

    def __init__(self, chunk_size: int = 1000) -> None:
        self.asked: list[BlockHeader] = []
        self.reader = BlockReader(self._room, chunk_size)

    def _room(self, header: BlockHeader) -> memoryview:
        self.asked.append(header)
        return memoryview(bytearray(header.wire_length))

    def receive(self, connection: Connection) -> list[tuple[BlockHeader, bytes]]:
        """Return all blocks that are complete now."""
        found = []
        block = self.reader.receive(connection)
        while block is not None:
            found.append((block[0], bytes(block[1])))
            block = self.reader.receive(connection)
        return found

    def receive_to_the_end(self, connection: Connection) -> None:
        """Receive until that raises; no block may be complete before."""
        while True:
            assert self.receive(connection) == []


def block(index: int, payload: bytes) -> tuple[BlockHeader, bytes]:
    """Return a block's header and its whole frame."""
    header = BlockHeader(7, index, len(payload), len(payload), CODEC_RAW, bytes([index]) * 32)
    return header, encode_header(header) + payload


def test_a_block_sliced_into_single_bytes_is_received_whole(server_pair: Pair) -> None:
    """FAULTS 2: nothing comes out before the last byte; the header is asked about once."""
    connection, theirs = server_pair
    header, data = block(3, b"payload")
    inbox = Inbox()
    assert not inbox.reader.mid_block
    for number, byte in enumerate(data[:-1], 1):
        theirs.sendall(bytes([byte]))
        assert inbox.receive(connection) == []
        assert inbox.reader.mid_block
        assert inbox.asked == ([header] if number >= HEADER_SIZE else [])
    theirs.sendall(data[-1:])
    assert inbox.receive(connection) == [(header, b"payload")]
    assert not inbox.reader.mid_block
    assert inbox.asked == [header]


@pytest.mark.parametrize("cut", range(HEADER_SIZE + 1))
def test_a_block_cut_in_its_header_is_a_lost_connection(server_pair: Pair, cut: int) -> None:
    """FAULTS 2: the stream ends at any byte of the header, and nothing is taken for a block."""
    connection, theirs = server_pair
    theirs.sendall(block(0, b"payload")[1][:cut])
    theirs.close()
    inbox = Inbox()
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        inbox.receive_to_the_end(connection)
    assert inbox.reader.mid_block == (cut > 0)
    assert len(inbox.asked) == (cut == HEADER_SIZE)


@pytest.mark.parametrize("missing", [1, 6])
def test_a_block_cut_in_its_payload_is_a_lost_connection(server_pair: Pair, missing: int) -> None:
    """FAULTS 39: what was received of it is no block."""
    connection, theirs = server_pair
    theirs.sendall(block(0, b"payload")[1][:-missing])
    theirs.close()
    inbox = Inbox()
    with pytest.raises(ConnectionLostError):
        inbox.receive_to_the_end(connection)
    assert inbox.reader.mid_block


@pytest.mark.parametrize("chunk_size", [1, 3, HEADER_SIZE, 1000, 100_000])
def test_blocks_in_one_segment_are_received_one_by_one(server_pair: Pair, chunk_size: int) -> None:
    """FAULTS 2: whatever the chunk size, each block has its own header and payload."""
    connection, theirs = server_pair
    blocks = [block(index, bytes([index]) * size) for index, size in enumerate((5, 0, 3000, 1))]
    theirs.sendall(b"".join(data for _, data in blocks))
    inbox = Inbox(chunk_size)
    assert inbox.receive(connection) == [(head, data[HEADER_SIZE:]) for head, data in blocks]
    assert not inbox.reader.mid_block


def test_half_received_blocks_of_two_connections_do_not_mix(
    make_pair: Callable[[Side], Pair],
) -> None:
    """Each connection's reader keeps its own half until the other half comes."""
    sides = [(*make_pair(Side.SERVER), Inbox(), block(i, bytes([i]) * 100)) for i in range(2)]
    for part in (slice(0, 30), slice(30, 99), slice(99, None)):
        for _, theirs, _, (_, data) in sides:
            theirs.sendall(data[part])
        got = [inbox.receive(connection) for connection, _, inbox, _ in sides]
    assert got == [[(header, data[HEADER_SIZE:])] for _, _, _, (header, data) in sides]


def test_a_block_larger_than_the_sockets_buffers_is_received(server_pair: Pair) -> None:
    """While one side sends, the other waits and receives, until the block is whole."""
    connection, theirs = server_pair
    payload = os.urandom(2 << 20)
    header, data = block(1, payload)
    sending = Helper(lambda: theirs.sendall(data))
    inbox = Inbox(50 * 1024)
    got: list[tuple[BlockHeader, bytes]] = []
    while not got:
        assert connection.wait(PATIENCE)
        got = inbox.receive(connection)
    sending.result()
    assert got == [(header, payload)]


def test_what_is_not_a_header_is_refused_before_anybody_is_asked(server_pair: Pair) -> None:
    """FAULTS 14: a control frame on a data connection is no block."""
    connection, theirs = server_pair
    theirs.sendall(encode(EXAMPLES[FileStart]))
    inbox = Inbox()
    with pytest.raises(RemoteProtocolError, match="not a block header"):
        inbox.receive(connection)
    assert inbox.asked == []


def test_a_block_that_nobody_wants_is_refused_before_its_payload(server_pair: Pair) -> None:
    """FAULTS 14 and 17: no buffer is made for a block of 4 GB that belongs to nothing."""
    connection, theirs = server_pair
    header = BlockHeader(9, 0, 2**32 - 1, 2**32 - 1, CODEC_RAW, bytes(32))

    def refuse(asked: BlockHeader) -> memoryview:
        assert asked == header
        raise RemoteProtocolError("no such transfer", "transfer")

    theirs.sendall(encode_header(header))
    with pytest.raises(RemoteProtocolError, match="no such transfer") as caught:
        BlockReader(refuse, 1000).receive(connection)
    assert caught.value.code == "transfer"


# --- errors and addresses -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (IntegrityError, 1),
        (UsageError, 2),
        (SourceError, 2),
        (AuthenticationError, 3),
        (RejectedError, 4),
        (ConnectionLostError, 5),
        (ProtocolError, 5),
        (LocalProtocolError, 5),
        (RemoteProtocolError, 5),
    ],
)
def test_each_error_has_its_exit_code(kind: type[TransferError], exit_code: int) -> None:
    """The table of the command line (DESIGN 9)."""
    assert issubclass(kind, TransferError)
    assert kind.exit_code == exit_code


def test_a_rejection_has_a_code_and_a_reason() -> None:
    """One for programs, one for people."""
    error = RejectedError("space", "not enough space")
    assert (error.code, str(error)) == ("space", "not enough space")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "nothing listens there"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "the connection was reset"),
        (BrokenPipeError(errno.EPIPE, "x"), "the connection was closed"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "no answer"),
        (socket.timeout("timed out"), "no answer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_the_system_says_is_said_in_our_words(error: OSError, words: str) -> None:
    """The peer's name, then what happened to the connection."""
    told = lost("host:1", error)
    assert isinstance(told, ConnectionLostError)
    assert str(told) == f"host:1: {words}"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_itself_is_loopback(host: str) -> None:
    """Nobody else can connect there."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "x" * 70 + ".invalid", "\ud800"]
)
def test_everything_else_is_not_loopback(host: str) -> None:
    """Every address, other machines, and what is no address at all."""
    assert not is_loopback(host)
