"""Frames: cut, joined, and malformed."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lft.wire.frames import Ack, FrameReader, decode, encode, encode_ack
from protocol import (
    MAX_CONTROL_FRAME,
    MESSAGES,
    Attach,
    Error,
    ManifestPart,
    Queued,
    RemoteProtocolError,
)
from tests.support.generated import quicker, quickest
from tests.support.messages import EXAMPLES, MD5, VERBS, at_every_byte, frame, read, short_message

# --- frames, cut and joined ---------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_message_cut_at_any_byte_is_the_same_message(verb: str) -> None:
    """FAULTS 2: before the last byte there is no message, and then there is the whole."""
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


@quicker
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


# --- malformed frames ----------------------------------------------------------------------------


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
    ids=short_message,
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
    """FAULTS 5: the log line names the other protocol."""
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
    """FAULTS 6: the error has a code, is short and printable, and quotes nothing raw."""
    with pytest.raises(RemoteProtocolError) as caught:
        read(frame(MALFORMED[kind]))
    assert caught.value.code == "protocol"
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1.0", "1e0", "1" + "0" * 20, "-" + "9" * 5000],
    ids=short_message,
)
def test_a_number_that_no_field_takes_is_refused_by_the_parser(number: str) -> None:
    """FAULTS 6: it knows only whole numbers of a few digits."""
    with pytest.raises(RemoteProtocolError, match="not the JSON it should be"):
        decode(b'CANCEL@{"x":' + number.encode() + b"}")


def test_half_characters_that_make_a_whole_one_are_taken() -> None:
    """JSON spells an emoji as two surrogates; only a single one is malformed."""
    assert read(frame(b'ATTACH@{"token":"\\ud83d\\ude00"}')) == [Attach("\U0001f600")]


def test_white_space_and_the_order_of_keys_are_free() -> None:
    """A peer in another language may write its JSON as it likes."""
    assert read(frame(b'ERROR@ { "reason" : "\\u0078",\n"code":"y" } ')) == [Error("y", "x")]


@pytest.mark.parametrize("depth", [10, 100, 300, 500, 700, 900, 1000, 3000, 30_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")])
def test_nested_brackets_are_the_peers_fault(depth: int, opening: bytes, closing: bytes) -> None:
    """FAULTS 6: no depth exhausts our stack or our memory."""
    with pytest.raises(RemoteProtocolError):
        decode(b'QUEUED@{"position":' + opening * depth + b"1" + closing * depth + b"}")


@quicker
@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
@example([b"\0\0\0\1@"], False)
@example([b"A"], True)
def test_no_bytes_raise_anything_but_remote_protocol_error(pieces: list[bytes], acks: bool) -> None:
    """FAULTS 3 and 6: garbage is refused, or is the start of a frame not complete yet."""
    reader = FrameReader()
    reader.takes_acks = acks
    with contextlib.suppress(RemoteProtocolError):
        for piece in pieces:
            reader.feed(piece)
            while reader.next() is not None:
                pass


@quicker
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
@quickest
@given(data=st.data())
def test_no_json_raises_anything_but_remote_protocol_error(verb: str, data: st.DataObject) -> None:
    """FAULTS 6: the right keys with any values: a valid message, or a refusal."""
    body = {name: data.draw(json_values) for name in MESSAGES[verb].FIELDS}
    try:
        message = decode(f"{verb}@{json.dumps(body)}".encode())
    except RemoteProtocolError:
        return
    assert decode(encode(message)[4:]) == message


@pytest.mark.parametrize("verb", VERBS)
@quickest
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


MANIFEST = ManifestPart(tuple(("f", f"f{number:04}", 10, 0o644, number) for number in range(500)))


def test_a_manifest_is_compressed_for_a_peer_that_takes_it() -> None:
    """It is the same message, in a sixth of the bytes."""
    packed = encode(MANIFEST, packs=True)
    assert decode(packed[4:]) == MANIFEST
    assert 6 * len(packed) < len(encode(MANIFEST))


def test_other_messages_are_never_compressed() -> None:
    """They are short, and peers of all versions read them."""
    message = Queued(1)
    assert encode(message, packs=True) == encode(message)
    with pytest.raises(RemoteProtocolError, match="JSON"):
        decode(b"QUEUED@z" + zlib.compress(b'{"position": 1}'))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"z", "not whole"),
        (b"znonsense", "cannot be unpacked"),
        (b"z" + zlib.compress(b'{"entries": []}')[:-1], "not whole"),
        (b"z" + zlib.compress(b'{"entries": []}') + b"x", "not whole"),
        (b"z" + zlib.compress(bytes(MAX_CONTROL_FRAME + 1)), "too long"),
        (b"z" + zlib.compress(bytes(10_000_000)), "too long"),
        (b"z" + zlib.compress(b"[]"), "JSON"),
        (b"z" + zlib.compress(b"z" + zlib.compress(b"{}")), "JSON"),
    ],
)
def test_a_compressed_manifest_that_is_none_is_refused(body: bytes, reason: str) -> None:
    """It unpacks to what a frame may hold, whatever it claims, and once only."""
    with pytest.raises(RemoteProtocolError, match=reason):
        decode(b"MANIFEST@" + body)
