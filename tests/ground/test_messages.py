"""The messages: their form and the limits of their fields."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol
from lft.wire.codecs import COMPRESSIONS, FEATURES
from lft.wire.frames import decode, encode
from protocol import (
    DIGEST_SIZES,
    FIRST_TIME,
    LAST_TIME,
    MAX_BLOCKS,
    MAX_CONTROL_FRAME,
    MAX_FILE_SIZE,
    MAX_FILES,
    MAX_SPANS,
    MAX_TEXT,
    MESSAGES,
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
    RemoteProtocolError,
    TransferComplete,
    Verifying,
    Why,
)
from tests.support.generated import quickest
from tests.support.messages import EXAMPLES, VERBS, read, short_message


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


raw_entries = st.one_of(
    st.tuples(st.just("f"), text(), sizes, st.integers(0, 0o777), sizes),
    st.tuples(st.just("d"), text(), st.integers(0, 0o777), sizes),
    st.tuples(st.just("l"), text(), text(), sizes),
)


def with_some(message: Message, **values: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    """Give ``message`` any of the values that may be left out."""
    return st.fixed_dictionaries({}, optional=values).map(lambda given: message.replace(**given))


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
    ).flatmap(
        lambda start: with_some(
            start,
            mode=st.integers(0, 0o777),
            mtime=st.integers(FIRST_TIME, LAST_TIME),
            unsized=st.booleans(),
            entries=st.integers(0, 2**31),
        )
    ),
    ManifestPart: st.builds(ManifestPart, st.lists(raw_entries, min_size=1, max_size=9).map(tuple)),
    Queued: st.builds(Queued, st.integers(1, 2**31)).flatmap(
        lambda queued: with_some(queued, reason=text())
    ),
    FileReady: st.builds(FileReady, transfers, ranges),
    Rejected: st.builds(Rejected, text(1, 32), text()),
    Cancel: st.just(Cancel()),
    TransferComplete: st.builds(TransferComplete, transfers, digests, st.booleans()).flatmap(
        lambda complete: with_some(complete, size=sizes)
    ),
    Verifying: st.builds(Verifying, sizes),
    Missing: st.builds(Missing, transfers, ranges, text(1, 32)),
    Ping: st.just(Ping()),
    Pong: st.just(Pong()),
    IntegrityOk: st.builds(IntegrityOk, text(1), sizes, digests, sizes, st.booleans()).flatmap(
        lambda verdict: with_some(verdict, kept=st.booleans())
    ),
    IntegrityFailed: st.builds(IntegrityFailed, digests, text()),
    Error: st.builds(Error, text(1, 32), text()),
    Goodbye: st.just(Goodbye()),
    Heard: st.builds(Heard, ranges),
}
for _kind, _strategy in STRATEGIES.items():
    if "file" in _kind.FIELDS:
        STRATEGIES[_kind] = _strategy.flatmap(
            lambda message: with_some(message, file=st.integers(1, MAX_FILES))
        )

EMOJI = "\U0001f600"  # twelve bytes in JSON
MANY_SPANS = tuple((MAX_BLOCKS - 2 * i - 2, MAX_BLOCKS - 2 * i - 1) for i in range(MAX_SPANS))[::-1]

LARGEST = [
    Hello(2**16, (EMOJI * 64,) * 64),
    AuthStart(EMOJI * 64, EMOJI * MAX_TEXT),
    AuthOk(EMOJI * MAX_TEXT, EMOJI * 128, -1000),
    FileStart(
        EMOJI * MAX_TEXT,
        MAX_FILE_SIZE,
        MAX_FILE_SIZE,
        EMOJI * 16,
        "f" * 64,
        False,
        0o777,
        MAX_FILE_SIZE,
        False,
        2**31,
    ),
    FileReady(2**32 - 1, MANY_SPANS),
    Missing(2**32 - 1, MANY_SPANS, EMOJI * 32),
    IntegrityOk(EMOJI * MAX_TEXT, MAX_FILE_SIZE, "f" * 64, MAX_FILE_SIZE, False),
    Error(EMOJI * 32, EMOJI * MAX_TEXT),
]


@pytest.mark.parametrize("verb", VERBS)
@quickest
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
    assert set(json.loads(body.decode("utf-8"))) == set(message.FIELDS)


def test_the_frame_in_the_documentation_is_a_frame() -> None:
    """The example at the top of protocol.py is one that a peer would understand."""
    found = re.search(r"^ +((?:[0-9a-f]{2} ){4}) *(HELLO@.*)$", protocol.__doc__ or "", re.M)
    assert found
    assert read(bytes.fromhex(found[1]) + found[2].encode()) == [Hello(VERSION, ("md5", "sha256"))]


@pytest.mark.parametrize("verb", VERBS)
def test_a_message_cannot_be_changed(verb: str) -> None:
    """A message may pass between threads."""
    message = EXAMPLES[MESSAGES[verb]]
    for name in message.FIELDS:
        with pytest.raises(AttributeError, match=f"cannot assign to field '{name}'"):
            setattr(message, name, getattr(message, name))
        with pytest.raises(AttributeError, match=f"cannot delete field '{name}'"):
            delattr(message, name)


@pytest.mark.parametrize("verb", VERBS)
def test_messages_with_the_same_values_are_equal(verb: str) -> None:
    """Equal, with equal hashes, and shown as what would make the same message again."""
    message = EXAMPLES[MESSAGES[verb]]
    again = message.replace()
    assert again is not message
    assert (again, hash(again)) == (message, hash(message))
    assert eval(repr(message), vars(protocol)) == message
    assert list(vars(message)) == list(message.FIELDS)


def test_messages_of_other_kinds_or_values_are_not_equal() -> None:
    """Two kinds with the same values are two messages."""
    assert AuthChallenge("x") != AuthResponse("x")
    assert Queued(1) != Queued(2)
    assert Queued(1) != (1,)


def test_values_are_given_by_position_or_by_name() -> None:
    """The values that are not given have their defaults."""
    named = TransferComplete(digest="0" * 32, transfer=7)
    assert named == TransferComplete(7, "0" * 32) == TransferComplete(7, "0" * 32, delivered=True)
    assert repr(named) == f"TransferComplete(transfer=7, digest='{'0' * 32}', delivered=True)"


OPTIONAL = [(kind, name) for kind in EXAMPLES for name in sorted(kind.FIELDS.keys() - kind.WANTED)]


@pytest.mark.parametrize(("kind", "name"), OPTIONAL)
def test_what_a_feature_brought_may_be_left_out(kind: type[Message], name: str) -> None:
    """A peer of 1.1 does not know it: it is not on the wire then, and is None, but never null."""
    given = {**vars(EXAMPLES[kind])}
    del given[name]
    message = kind(**given)
    assert getattr(message, name) is None
    body = json.loads(encode(message)[4:].partition(b"@")[2])
    assert name not in body
    assert read(encode(message)) == [message]
    assert message.replace() == message != EXAMPLES[kind]
    with pytest.raises(RemoteProtocolError, match=f"{name} must be "):
        decode(f"{kind.VERB}@{json.dumps({**body, name: None})}".encode())


WRONG_CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    (("busy",), {}),
    (("busy", "later", "more"), {}),
    (("busy", "later"), {"code": "busy"}),
    (("busy", "later"), {"other": 1}),
    (("busy",), {"other": "later"}),
]


@pytest.mark.parametrize(("values", "named"), WRONG_CALLS)
def test_a_missing_doubled_or_unknown_value_is_a_bug(
    values: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """It is refused like any wrong call, and not as a message that a peer may have sent."""
    with pytest.raises(TypeError, match=r"^Error takes code, reason$"):
        Error(*values, **named)


@pytest.mark.parametrize("message", LARGEST, ids=short_message)
def test_the_largest_messages_fit_a_frame(message: Message) -> None:
    """No message that may be made is too long to be sent."""
    assert len(encode(message)) <= 4 + MAX_CONTROL_FRAME
    assert read(encode(message)) == [message]


FIELDS = [(verb, name) for verb in VERBS for name in MESSAGES[verb].FIELDS]


@pytest.mark.parametrize(("verb", "field"), FIELDS)
def test_a_field_of_another_type_is_refused(verb: str, field: str) -> None:
    """No field takes null, a fraction, bytes, a list or an object."""
    for value in (None, 1.5, b"x", [], {}, object()):
        with pytest.raises(ValueError, match=f"{verb}: {field} must be "):
            EXAMPLES[MESSAGES[verb]].replace(**{field: value})


NUMBERS = [
    (verb, name) for verb, name in FIELDS if type(getattr(EXAMPLES[MESSAGES[verb]], name)) is int
]


@pytest.mark.parametrize(("verb", "field"), NUMBERS)
def test_a_number_is_neither_a_bool_nor_a_word_nor_endless(verb: str, field: str) -> None:
    """FAULTS 6: True is 1 to Python, not on the wire."""
    for value in (True, False, "1", 2**64, -(2**64)):
        with pytest.raises(ValueError, match=f"{verb}: {field} must be a number from"):
            EXAMPLES[MESSAGES[verb]].replace(**{field: value})


LIMITS = [
    (Hello, "version", 1, 2**16),
    (AuthOk, "priority", -1000, 1000),
    (FileStart, "size", 0, 2**63 - 1),
    (FileStart, "block_size", 1, 2**63 - 1),
    (FileStart, "mode", 0, 0o777),
    (FileStart, "mtime", -(2**63), 2**63 - 1),
    (FileStart, "entries", 0, 2**31),
    (TransferComplete, "size", 0, 2**63 - 1),
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
        assert getattr(EXAMPLES[kind].replace(**{field: value}), field) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{field} must be a number from {low} to {high}"):
            EXAMPLES[kind].replace(**{field: value})


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
    (Queued, "reason", 0, 1024),
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
        assert getattr(EXAMPLES[kind].replace(**{field: "x" * length}), field) == "x" * length
    for length in {max(low - 1, 0), high + 1} - {low}:
        with pytest.raises(ValueError, match=f"{field} must be text of {low} to {high} char"):
            EXAMPLES[kind].replace(**{field: "x" * length})


@pytest.mark.parametrize(("kind", "field", "low", "high"), TEXTS)
def test_a_text_with_half_a_character_is_refused(
    kind: type[Message], field: str, low: int, high: int
) -> None:
    """FAULTS 9: a lone surrogate has no UTF-8, so it could not be written anywhere."""
    for half in ("\ud800", "\udfff"):
        with pytest.raises(ValueError, match=f"{field} must be text"):
            EXAMPLES[kind].replace(**{field: half * max(low, 1)})


@pytest.mark.parametrize(
    "digest", ["", "0" * 31, "0" * 33, "0" * 48, "0" * 96, "A" * 32, "g" * 32, "0" * 32 + "\n"]
)
@pytest.mark.parametrize("kind", [TransferComplete, IntegrityOk, IntegrityFailed])
def test_what_is_not_a_digest_is_refused(kind: type[Message], digest: str) -> None:
    """A digest has 32 or 64 digits, in lower case."""
    changed: dict[str, Any] = {"digest": digest}
    with pytest.raises(ValueError, match="a digest in hexadecimal"):
        EXAMPLES[kind].replace(**changed)


@pytest.mark.parametrize(
    "features",
    [("x",) * 65, ("",), ("x" * 65,), (1,), (None,), ("\ud800",), (("md5",),), ["md5"], "md5"],
    ids=short_message,
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


@pytest.mark.parametrize("blocks", NOT_SPANS, ids=short_message)
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
