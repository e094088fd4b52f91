r"""The wire: frames, messages, states, errors, and the only code that reads or writes sockets.

What lives here: everything two machines must agree on. What does not: connecting and listening,
threads, disk, tunables.

The dialogue
------------
A *session* is one coordinator connection and its data connections. The coordinator speaks first::

    client                                server
    HELLO version, features          -->
    AUTH_START   SCRAM client-first  -->
                                     <--  HELLO version, features
                                     <--  AUTH_CHALLENGE  server-first
    AUTH_RESPONSE  client-final      -->
                                     <--  AUTH_OK  server-final, session token, priority
                                          (at once, where AUTH_START shows a token)

    FILE_START name, size, head ...  -->                        (once for each file)
                                     <--  QUEUED position       (while others are before us)
                                     <--  FILE_READY transfer, blocks the server has
                                          ... blocks flow on the data connections ...
                                     <--  MISSING blocks        (at any time: send them again)
                                     <--  PING                  (is this session alive? ...
    PONG                             -->                         ... it is)
    TRANSFER_COMPLETE digest         -->                        (all is read, or delivered)
                                     <--  VERIFYING progress    (at least once a second)
                                     <--  INTEGRITY_OK receipt, or INTEGRITY_FAILED
    GOODBYE                          -->

AUTH_START waits for the server's HELLO over TLS, which may end in front of the server: only there
does it say whether it can bind the login to the connection. So does a token, which is for nobody
else to see.

A file may be turned down with REJECTED (code, reason) from FILE_START on, and given up with CANCEL;
the session goes on with the next one. ERROR (code, reason) ends the connection it comes on. A
verdict counts as read when the client says anything more; until then it can be asked for again.

A data connection carries blocks, one way. Nothing on it waits for an answer: the coordinator has
the server's HELLO already, and a round trip saved is a round trip::

    HELLO, ATTACH session token      -->
    block, block, block, ...         -->
                                     <--  HELLO, ATTACHED
                                     <--  ack, ack, ack, ...    (or ERROR)

The client says TRANSFER_COMPLETE as soon as it has read the whole file, with blocks still on their
way, and again, ``delivered``, when the last one has been acknowledged: the verdict is under way by
then, unless a block is missing. Every MISSING is followed by another one.

Resume: ``head`` in FILE_START is the digest of the first block. By it and by user, name, block size
and algorithm the server finds what an interrupted attempt left, and claims those blocks in
FILE_READY. For each of them the client sends a block frame of the codec *held*: the running
digest and no payload. Where it does not agree, MISSING asks for the bytes.

Compression: who has ``zlib`` or ``zstd`` among the features of its HELLO takes blocks of that
codec. The client chooses for each block anew; nothing changes but the payload, and the running
digest is always that of the file.

The frames
----------
Control: 4 bytes length, big-endian, then UTF-8 ``VERB@{json}``, at most 64 KB in all::

    00 00 00 2f  HELLO@{"version":3,"features":["md5","sha256"]}

Block: a fixed header, then ``wire length`` bytes of payload::

    kind 'B'  codec  00 00  transfer  block index  raw length  wire length  running digest
    1         1      2      4         4            4           4            32, zero-padded

    codec 0   raw    the bytes themselves; wire length = raw length
          1   held   nothing; wire length = 0
          2   zlib   one stream (RFC 1950); 0 < wire length < raw length
          3   zstd   one frame (RFC 8878) with a window of up to 4 MB; lengths as with zlib

What is compressed must unpack to exactly the raw length, and end where the payload ends. If it does
not, ERROR *codec* ends the data connection; no more than one byte too many has been unpacked then.

Ack: ``'A' 00 00 00``, transfer (4), block index (4). A control frame's first byte is always zero,
so on the way back to the client acks and ERROR cannot be confused.

The *running digest* of a block is the digest of the file from its start up to and including that
block: one hash pass serves as the checksum of each block and as the verdict on the file.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import importlib
import ipaddress
import itertools
import json
import math
import os
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass, field, fields
from typing import Any, Callable, ClassVar, Collection, Iterable, NamedTuple, NoReturn, Tuple, Union

import config
from config import printable

VERSION = 3
MAX_CONTROL_FRAME = 64 * 1024
MAX_FILE_SIZE = 2**63 - 1
MAX_BLOCKS = 2**32  # the block index has four bytes
MAX_TEXT = 1024  # characters of a name or a reason
MAX_SPANS = 2000  # of one MISSING or FILE_READY: they fit a frame
DIGEST_SIZES = {"md5": 16, "sha256": 32}  # what --digest may name, and the bytes it takes
SCRAM = "SCRAM-SHA-256"
TOKEN = "TOKEN"  # noqa: S105  (the mechanism of who shows a token instead of a password)

Spans = Tuple[Tuple[int, int], ...]  # half-open ranges of block indexes, in order, not touching


def _find_zstd() -> Any:
    """Return Python's own module (3.14), else the package that has the same, else ``None``."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


_zstd = _find_zstd()
CODEC_RAW = 0
CODEC_HELD = 1  # no payload: the server has claimed the block, this is its digest
CODEC_ZLIB = 2
CODEC_ZSTD = 3
COMPRESSIONS = {**({"zstd": CODEC_ZSTD} if _zstd else {}), "zlib": CODEC_ZLIB}  # the better first
FEATURES = (*DIGEST_SIZES, *COMPRESSIONS)

# --- errors -------------------------------------------------------------------------------------


class TransferError(Exception):
    """What can go wrong, in one line for the user; ``exit_code`` is the client's."""

    exit_code = 1


class IntegrityError(TransferError):
    """The file did not arrive as it was sent; nothing was published."""


class UsageError(TransferError):
    """Started in a way that cannot work: options, credential file, port, permission."""

    exit_code = 2


class SourceError(TransferError):
    """The input file cannot be read, or changed while it was sent."""

    exit_code = 2


class AuthenticationError(TransferError):
    """The other side is not who it should be, or does not believe that we are."""

    exit_code = 3


class RejectedError(TransferError):
    """The server will not take this file. ``code`` is the machine-readable reason."""

    exit_code = 4

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ConnectionLostError(TransferError):
    """The peer cannot be reached, went away, or made no progress for too long."""

    exit_code = 5


class SessionLostError(ConnectionLostError):
    """The server does not know the session (any more): a new connection alone does not help."""


class ProtocolError(TransferError):
    """Somebody broke the rules of this module. ``code`` is what the peer is told."""

    exit_code = 5

    def __init__(self, reason: str, code: str = "protocol") -> None:
        super().__init__(reason)
        self.code = code


class LocalProtocolError(ProtocolError):
    """We did: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer did."""


# --- messages: the checks of a field ------------------------------------------------------------


def _checked(check: Callable[[Any], bool], wants: str) -> Any:
    return field(metadata={"check": check, "wants": wants})


def _whole(low: int, high: int) -> Any:
    # type() and not isinstance(): a bool is an int to Python, not to the wire
    return _checked(lambda v: type(v) is int and low <= v <= high, f"a number from {low} to {high}")


def _text(low: int = 0, high: int = MAX_TEXT) -> Any:
    return _checked(lambda v: _is_text(v, low, high), f"text of {low} to {high} characters")


def _digest() -> Any:
    return _checked(
        lambda v: isinstance(v, str) and re.fullmatch("(?:[0-9a-f]{32}){1,2}", v) is not None,
        "a digest in hexadecimal",
    )


def _flag() -> Any:
    return _checked(lambda v: isinstance(v, bool), "true or false")


def _milliseconds() -> Any:
    return field(default=0, metadata=_whole(0, 2**53).metadata)


def _words() -> Any:
    return _checked(
        lambda v: isinstance(v, tuple) and len(v) <= 64 and all(_is_text(w, 1, 64) for w in v),
        "up to 64 short words",
    )


def _spans() -> Any:
    return _checked(_are_spans, f"up to {MAX_SPANS} ascending [first, end] pairs")


def _is_text(value: object, low: int, high: int) -> bool:
    if not isinstance(value, str) or not low <= len(value) <= high:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)  # lone surrogates have no UTF-8


def _are_spans(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) > MAX_SPANS:
        return False
    last = -1
    for span in value:
        if not isinstance(span, tuple) or [type(v) for v in span] != [int, int]:
            return False
        if not last < span[0] < span[1] <= MAX_BLOCKS:
            return False
        last = span[1]
    return True


# --- messages -----------------------------------------------------------------------------------


_VERBS: dict[str, type[Message]] = {}


@dataclass(frozen=True)
class Message:
    """One control message. Its fields are checked when it is made, sent or received alike.

    What all messages have in common stands here, once: made anew for each of them, as a dataclass
    does unless told otherwise, it would add a tenth to the time that a client takes to start.
    """

    VERB: ClassVar[str]

    def __init_subclass__(cls, verb: str) -> None:
        """Register the message under its verb on the wire."""
        cls.VERB = verb
        _VERBS[verb] = cls

    def __post_init__(self) -> None:
        for item in fields(self):
            if not item.metadata["check"](getattr(self, item.name)):
                raise ValueError(f"{self.VERB}: {item.name} must be {item.metadata['wants']}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((self.VERB, *vars(self).values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"


@dataclass(frozen=True, eq=False, repr=False)
class Hello(Message, verb="HELLO"):
    """The first frame of both sides. ``features``: what may be used if the other has it too."""

    version: int = _whole(1, 2**16)
    features: tuple[str, ...] = _words()


@dataclass(frozen=True, eq=False, repr=False)
class AuthStart(Message, verb="AUTH_START"):
    """Ask to be let in: ``mechanism`` and its first message."""

    mechanism: str = _text(1, 64)
    data: str = _text()


@dataclass(frozen=True, eq=False, repr=False)
class AuthChallenge(Message, verb="AUTH_CHALLENGE"):
    """The server's salt, iteration count and nonce (RFC 5802 server-first-message)."""

    data: str = _text()


@dataclass(frozen=True, eq=False, repr=False)
class AuthResponse(Message, verb="AUTH_RESPONSE"):
    """The client's proof that it knows the password (RFC 5802 client-final-message)."""

    data: str = _text()


@dataclass(frozen=True, eq=False, repr=False)
class AuthOk(Message, verb="AUTH_OK"):
    """Let in: the server's own proof, and the token that ties data connections to the session."""

    data: str = _text()
    token: str = _text(16, 128)
    priority: int = _whole(-1000, 1000)


@dataclass(frozen=True, eq=False, repr=False)
class Attach(Message, verb="ATTACH"):
    """Make this connection a data connection of the session that ``token`` belongs to."""

    token: str = _text(1, 128)


@dataclass(frozen=True, eq=False, repr=False)
class Attached(Message, verb="ATTACHED"):
    """From here on blocks one way, acks the other."""


@dataclass(frozen=True, eq=False, repr=False)
class FileStart(Message, verb="FILE_START"):
    """Metadata of the file to come: the name without folders, sizes in bytes, the digest's name.

    ``head`` is the digest of the first block (of nothing, for an empty file); ``resume`` says
    whether to go on with what an earlier attempt left.
    """

    name: str = _text()
    size: int = _whole(0, MAX_FILE_SIZE)
    block_size: int = _whole(1, MAX_FILE_SIZE)
    digest: str = _text(1, 16)
    head: str = _digest()
    resume: bool = _flag()


@dataclass(frozen=True, eq=False, repr=False)
class Queued(Message, verb="QUEUED"):
    """Others are before us: ``position`` 1 is next."""

    position: int = _whole(1, 2**31)


@dataclass(frozen=True, eq=False, repr=False)
class FileReady(Message, verb="FILE_READY"):
    """Send: ``transfer`` goes into every block header; of ``have`` only the running digests."""

    transfer: int = _whole(1, 2**32 - 1)
    have: Spans = _spans()


@dataclass(frozen=True, eq=False, repr=False)
class Rejected(Message, verb="REJECTED"):
    """The server does not take this file, or not any longer."""

    code: str = _text(1, 32)
    reason: str = _text()


@dataclass(frozen=True, eq=False, repr=False)
class Cancel(Message, verb="CANCEL"):
    """Give this file up; answered with REJECTED, unless a verdict was already on its way."""


@dataclass(frozen=True, eq=False, repr=False)
class TransferComplete(Message, verb="TRANSFER_COMPLETE"):
    """All blocks have been read; ``digest`` is the whole file's.

    ``delivered``: they have been acknowledged, too. What the server lacks then, nobody will bring.
    """

    transfer: int = _whole(1, 2**32 - 1)
    digest: str = _digest()
    delivered: bool = field(default=True, metadata=_flag().metadata)


@dataclass(frozen=True, eq=False, repr=False)
class Verifying(Message, verb="VERIFYING"):
    """Still at it: ``verified`` bytes from the start of the file are there and right."""

    verified: int = _whole(0, MAX_FILE_SIZE)


@dataclass(frozen=True, eq=False, repr=False)
class Missing(Message, verb="MISSING"):
    """Send these blocks (again), then TRANSFER_COMPLETE (again). ``reason``: see ``Why``."""

    transfer: int = _whole(1, 2**32 - 1)
    blocks: Spans = _spans()
    reason: str = _text(1, 32)


class Why:
    """Why a MISSING asks for blocks."""

    DAMAGED = "damaged"  # on the way
    LOST = "lost"  # never came
    CHANGED = "changed"  # the source is not what an earlier attempt sent
    ALTERED = "altered"  # what the server kept is not what it had written


@dataclass(frozen=True, eq=False, repr=False)
class Ping(Message, verb="PING"):
    """Somebody else wants to go on with this file: answer if you are alive."""


@dataclass(frozen=True, eq=False, repr=False)
class Pong(Message, verb="PONG"):
    """The answer to PING."""


@dataclass(frozen=True, eq=False, repr=False)
class IntegrityOk(Message, verb="INTEGRITY_OK"):
    """The receipt: the file stands under ``saved_as`` in the output directory.

    The last three say for how many milliseconds the server hashed it, waited for its disk, and held
    a data connection back because of a limit.
    """

    saved_as: str = _text(1)
    size: int = _whole(0, MAX_FILE_SIZE)
    digest: str = _digest()
    resent_blocks: int = _whole(0, MAX_FILE_SIZE)
    durable: bool = _flag()
    hashing: int = _milliseconds()
    disk: int = _milliseconds()
    limited: int = _milliseconds()


@dataclass(frozen=True, eq=False, repr=False)
class IntegrityFailed(Message, verb="INTEGRITY_FAILED"):
    """The blocks cannot be brought to agree with their digests; nothing was published."""

    digest: str = _digest()
    reason: str = _text()


@dataclass(frozen=True, eq=False, repr=False)
class Error(Message, verb="ERROR"):
    """This connection ends, and why: ``code`` for programs, ``reason`` for people."""

    code: str = _text(1, 32)
    reason: str = _text()


@dataclass(frozen=True, eq=False, repr=False)
class Goodbye(Message, verb="GOODBYE"):
    """The client has nothing more to send."""


# --- states -------------------------------------------------------------------------------------


class Side(enum.Enum):
    """Who speaks."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Side:
        """The one who listens."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


class State(enum.Enum):
    """Where the dialogue on one connection stands."""

    NEW = "new"
    GREETED = "greeted"
    OPEN = "open"
    ATTACH_AHEAD = "attach-ahead"
    LOGIN_AHEAD = "login-ahead"
    LOGIN = "login"
    CHALLENGED = "challenged"
    PROVING = "proving"
    READY = "ready"
    ASKED = "asked"
    RECEIVING = "receiving"
    VERIFYING = "verifying"
    CANCELLING = "cancelling"
    ATTACHING = "attaching"
    STREAMING = "streaming"
    CLOSED = "closed"


_C, _S = Side.CLIENT, Side.SERVER

# What may be said in each state, by whom, and the state it leads to. ERROR from the server and
# GOODBYE from the client are allowed in every state but CLOSED. TRANSFER_COMPLETE and CANCEL in
# READY are those that crossed a REJECTED or INTEGRITY_FAILED on the way: the server ignores them.
# TRANSFER_COMPLETE in VERIFYING is the second one, or follows a MISSING that crossed the first;
# INTEGRITY_OK in RECEIVING comes when the blocks that a MISSING asked for were faster than the
# TRANSFER_COMPLETE after them. A PONG in READY crossed a verdict. LOGIN_AHEAD and ATTACH_AHEAD
# are states of the client alone: it does not wait for the server's HELLO before it says what it
# came for. A server has answered HELLO before it hears the next message.
DIALOGUE: dict[State, dict[tuple[Side, type[Message]], State]] = {
    State.NEW: {(_C, Hello): State.GREETED},
    State.GREETED: {
        (_S, Hello): State.OPEN,
        (_C, AuthStart): State.LOGIN_AHEAD,
        (_C, Attach): State.ATTACH_AHEAD,
    },
    State.LOGIN_AHEAD: {(_S, Hello): State.LOGIN},
    State.ATTACH_AHEAD: {(_S, Hello): State.ATTACHING},
    State.OPEN: {(_C, AuthStart): State.LOGIN, (_C, Attach): State.ATTACHING},
    State.LOGIN: {(_S, AuthChallenge): State.CHALLENGED, (_S, AuthOk): State.READY},
    State.CHALLENGED: {(_C, AuthResponse): State.PROVING},
    State.PROVING: {(_S, AuthOk): State.READY},
    State.READY: {
        (_C, FileStart): State.ASKED,
        (_C, TransferComplete): State.READY,
        (_C, Cancel): State.READY,
        (_C, Pong): State.READY,
    },
    State.ASKED: {
        (_S, Queued): State.ASKED,
        (_S, FileReady): State.RECEIVING,
        (_S, Rejected): State.READY,
        (_C, Cancel): State.CANCELLING,
    },
    State.RECEIVING: {
        (_C, TransferComplete): State.VERIFYING,
        (_C, Cancel): State.CANCELLING,
        (_C, Pong): State.RECEIVING,
        (_S, Ping): State.RECEIVING,
        (_S, Missing): State.RECEIVING,
        (_S, Verifying): State.RECEIVING,
        (_S, IntegrityOk): State.READY,
        (_S, IntegrityFailed): State.READY,
        (_S, Rejected): State.READY,
    },
    State.VERIFYING: {
        (_C, TransferComplete): State.VERIFYING,
        (_C, Cancel): State.CANCELLING,
        (_C, Pong): State.VERIFYING,
        (_S, Ping): State.VERIFYING,
        (_S, Missing): State.RECEIVING,
        (_S, Verifying): State.VERIFYING,
        (_S, IntegrityOk): State.READY,
        (_S, IntegrityFailed): State.READY,
        (_S, Rejected): State.READY,
    },
    State.CANCELLING: {
        (_S, Queued): State.CANCELLING,
        (_S, FileReady): State.CANCELLING,
        (_S, Ping): State.CANCELLING,
        (_S, Missing): State.CANCELLING,
        (_S, Verifying): State.CANCELLING,
        (_S, IntegrityOk): State.READY,
        (_S, IntegrityFailed): State.READY,
        (_S, Rejected): State.READY,
    },
    State.ATTACHING: {(_S, Attached): State.STREAMING},
    State.STREAMING: {},
    State.CLOSED: {},
}


class Dialogue:
    """Follows one connection's state by what is sent and received; knows no bytes."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.state = State.NEW

    def __repr__(self) -> str:
        return f"<Dialogue of the {self.side.value}, {self.state.value}>"

    def sent(self, message: Message) -> None:
        """Note what we say. Raises ``LocalProtocolError`` if we may not."""
        self._move(self.side, message, LocalProtocolError)

    def received(self, message: Message) -> None:
        """Note what the peer says. Raises ``RemoteProtocolError`` if it may not."""
        self._move(self.side.other, message, RemoteProtocolError)

    def allows(self, message: Message) -> bool:
        """Whether we may say ``message`` now."""
        return self._next(self.side, message) is not None

    def _next(self, speaker: Side, message: Message) -> State | None:
        ends = (speaker, type(message)) in ((_S, Error), (_C, Goodbye))
        if ends and self.state is not State.CLOSED:
            return State.CLOSED
        return DIALOGUE[self.state].get((speaker, type(message)))

    def _move(self, speaker: Side, message: Message, error: type[ProtocolError]) -> None:
        state = self._next(speaker, message)
        if state is None:
            raise error(f"the {speaker.value} sent {message.VERB} in state {self.state.value}")
        self.state = state


# --- control frames -----------------------------------------------------------------------------

_LENGTH = struct.Struct("!I")


def encode(message: Message) -> bytes:
    """Make a control frame of ``message``."""
    frame = f"{message.VERB}@{json.dumps(vars(message))}".encode()
    if len(frame) > MAX_CONTROL_FRAME:
        raise LocalProtocolError(f"{message.VERB} is too long for a frame")
    return _LENGTH.pack(len(frame)) + frame


def decode(frame: bytes) -> Message:
    """Read the frame behind its length. Raises ``RemoteProtocolError`` for anything odd."""
    verb, _, body = frame.partition(b"@")
    kind = _VERBS.get(verb.decode("ascii", "replace"))
    if kind is None:
        raise RemoteProtocolError("unknown message")
    values = _parse(body)
    names = {item.name for item in fields(kind)}
    if not isinstance(values, dict) or set(values) != names:
        raise RemoteProtocolError(f"{kind.VERB} wants exactly: {', '.join(sorted(names))}")
    try:
        return kind(**{name: _frozen(value) for name, value in values.items()})
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(str(error)) from None


def _parse(body: bytes) -> object:
    """Parse JSON strictly: no duplicate keys, no NaN, no fractions, no endless numbers."""
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_int=_short_int,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError):
        raise RemoteProtocolError("a message that is not the JSON it should be") from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("number too long")
    return int(digits)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"not a number we take: {text[:20]}")


def _frozen(value: object) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


class Ack(NamedTuple):
    """Block number ``block`` of ``transfer`` has been received and written."""

    transfer: int
    block: int


_ACK = struct.Struct("!B3xII")
_ACK_KIND = ord("A")


def encode_ack(transfer: int, block: int) -> bytes:
    """Make the acknowledgement of one block."""
    return _ACK.pack(_ACK_KIND, transfer, block)


class FrameReader:
    """Cuts a byte stream into messages and, where they may come, acks. Knows no socket."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.takes_acks = False

    def __len__(self) -> int:
        """Return the bytes of the frame that is not complete yet."""
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """Add what came from the peer."""
        self._bytes += data

    def next(self) -> Message | Ack | None:
        """Return the next complete frame, or ``None``. Raises ``RemoteProtocolError``."""
        if self.takes_acks and self._bytes[:1] == b"A":
            if len(self._bytes) < _ACK.size:
                return None
            _, transfer, block = _ACK.unpack(self._take(_ACK.size))
            return Ack(transfer, block)
        if len(self._bytes) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._bytes)
        if not 0 < length <= MAX_CONTROL_FRAME:
            raise RemoteProtocolError(_stranger(bytes(self._bytes[:4])))
        end = _LENGTH.size + length
        return decode(self._take(end)[_LENGTH.size :]) if len(self._bytes) >= end else None

    def take_into(self, view: memoryview) -> int:
        """Move what is no frame, the beginning of a block, into ``view``; return the bytes."""
        rest = self._take(len(view))
        view[: len(rest)] = rest
        return len(rest)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken


def _stranger(start: bytes) -> str:
    """Say what speaks there instead of us, by its first four bytes."""
    known = {b"SSH-": "SSH", b"GET ": "HTTP", b"POST": "HTTP", b"HEAD": "HTTP", b"HTTP": "HTTP"}
    name = "TLS" if start[:2] == b"\x16\x03" else known.get(start)
    return f"the peer speaks {name}, not this protocol" if name else "a frame of impossible length"


# --- block frames -------------------------------------------------------------------------------

_HEADER = struct.Struct("!BBxxIIII32s")
_BLOCK_KIND = ord("B")
HEADER_SIZE = _HEADER.size
_CODECS = (CODEC_RAW, CODEC_HELD, *COMPRESSIONS.values())


class BlockHeader(NamedTuple):
    """What stands before a block's payload; lengths in bytes."""

    transfer: int
    block: int  # its index
    raw_length: int
    wire_length: int
    codec: int
    digest: bytes  # running digest, zero-padded to 32 bytes

    @property
    def consistent(self) -> bool:
        """Whether the lengths are such as the codec makes them."""
        if self.codec in (CODEC_RAW, CODEC_HELD):
            return self.wire_length == (self.raw_length if self.codec == CODEC_RAW else 0)
        return 0 < self.wire_length < self.raw_length


def encode_header(header: BlockHeader) -> bytes:
    """Make the fixed header of a block frame."""
    transfer, block, raw_length, wire_length, codec, digest = header
    return _HEADER.pack(_BLOCK_KIND, codec, transfer, block, raw_length, wire_length, digest)


def decode_header(data: bytes | bytearray) -> BlockHeader:
    """Read a block frame's header. Raises ``RemoteProtocolError`` if it is none."""
    kind, codec, transfer, block, raw_length, wire_length, digest = _HEADER.unpack(data)
    if kind != _BLOCK_KIND or data[2:4] != b"\0\0":
        raise RemoteProtocolError("not a block header")
    if codec not in _CODECS:
        raise RemoteProtocolError(f"a block of codec {codec}, which is not known here", "codec")
    return BlockHeader(transfer, block, raw_length, wire_length, codec, digest)


_ZSTD_WINDOW = 22  # log2 of bytes: what a decoder may be made to allocate; a block has 4 MB at most


def common_codec(features: Collection[str]) -> int:
    """Return the best codec that we have and the peer's HELLO names, ``CODEC_RAW`` for none."""
    return next((codec for name, codec in COMPRESSIONS.items() if name in features), CODEC_RAW)


def compress(codec: int, level: int, view: memoryview) -> memoryview:
    """Return ``view`` as ``codec`` packs it, which may be more than it was."""
    return memoryview((_zstd if codec == CODEC_ZSTD else zlib).compress(view, level))


def decompress(codec: int, payload: memoryview, view: memoryview) -> None:
    """Fill ``view`` with what ``payload`` unpacks to, or raise ``RemoteProtocolError``.

    The lengths that the payload itself tells are not believed: nothing is allocated by them.
    """
    try:
        unpacker = _zstd_unpacker() if codec == CODEC_ZSTD else zlib.decompressobj()
        raw = unpacker.decompress(payload, len(view) + 1)
    except _UNPACK_ERRORS:
        raise RemoteProtocolError("a block that does not unpack", "codec") from None
    if len(raw) != len(view) or not unpacker.eof or unpacker.unused_data:
        raise RemoteProtocolError("a block that does not unpack to its length", "codec")
    view[:] = raw


def _zstd_unpacker() -> Any:
    limit = {_zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    return _zstd.ZstdDecompressor(options=limit)


_UNPACK_ERRORS = (zlib.error, _zstd.ZstdError) if _zstd else (zlib.error,)


class Blocks:
    """How a file of ``size`` bytes falls into ``count`` blocks; the last may be short."""

    def __init__(self, size: int, block_size: int) -> None:
        self.size = size
        self.block_size = block_size
        self.count = -(-size // block_size)  # rounded up: none for an empty file

    def offset(self, index: int) -> int:
        """Return where block ``index`` starts, in bytes."""
        return index * self.block_size

    def length(self, index: int) -> int:
        """Return the bytes of block ``index``."""
        return min(self.block_size, self.size - index * self.block_size)


def spans(indexes: Iterable[int], limit: int = MAX_SPANS) -> Spans:
    """Turn ascending block indexes into at most ``limit`` ranges, the first ones."""
    found: list[tuple[int, int]] = []
    for index in indexes:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        elif len(found) == limit:
            break
        else:
            found.append((index, index + 1))
    return tuple(found)


# --- time ---------------------------------------------------------------------------------------


class Deadline:
    """An instant on the monotonic clock, some seconds from when it was made or last put off."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.put_off()

    def put_off(self) -> None:
        """Start again: something moved."""
        self._at = time.monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self._at - time.monotonic())

    @property
    def lasted(self) -> float:
        """The seconds since it was made or last put off."""
        return time.monotonic() - self._at + self._seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._at


class TokenBucket:
    """Lets so much pass in a second (bytes, say), whoever brings it. Any thread.

    It never holds anybody up itself: it says for how long they should stay away. The lock protects
    the instant at which what has passed is paid for.
    """

    def __init__(self, rate: float, burst: float = config.BURST) -> None:
        """Let ``rate`` pass in a second, after a pause that of ``burst`` seconds at once."""
        self._rate = rate
        self._burst = burst
        self._paid_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size: float, sharers: float = math.inf) -> float:
        """Let ``size`` pass; return the seconds until the next may follow.

        That is when all is paid for, but no later than if each of ``sharers`` had brought as much:
        who brings more at once waits for it longer, not the others with him.
        """
        with self._lock:
            now = time.monotonic()
            self._paid_at = max(self._paid_at, now - self._burst) + size / self._rate
            return max(0.0, min(self._paid_at - now, sharers * size / self._rate))

    @property
    def saved(self) -> float:
        """How much of ``burst`` has been saved up: 1 is all, below 0 it is overdrawn."""
        with self._lock:
            return min(1.0, (time.monotonic() - self._paid_at) / self._burst)


class Pauses:
    """For how long at least one of several was at rest; who owns it sees to the order of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._until = 0.0

    def add(self, seconds: float) -> None:
        """Note that one rests for so long from now on."""
        now = time.monotonic()
        self.seconds += max(0.0, now + seconds - max(now, self._until))
        self._until = max(self._until, now + seconds)


# --- sockets ------------------------------------------------------------------------------------


class Waker:
    """A bell: any thread (or signal handler) rings it, one that waits on its descriptor wakes."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._read

    def ring(self) -> None:
        """Wake whoever waits. Never blocks, never raises: a signal handler may call it.

        A full pipe has already woken them, at a closed one nobody waits any more; and all who wait
        look at the clock as well.
        """
        with contextlib.suppress(OSError):
            os.write(self._write, b"\0")

    def quiet(self, rings: int = 4096) -> bool:
        """Take up to ``rings`` back; return whether there was one."""
        try:
            return bool(os.read(self._read, rings))
        except BlockingIOError:
            return False

    def close(self) -> None:
        both = self._read, self._write
        self._read = self._write = -1  # their numbers will soon belong to other files
        for descriptor in both:
            os.close(descriptor)


_Buffer = Union[bytes, bytearray, memoryview]
TLS_READ = 256 * 1024  # bytes one call may take from a socket that speaks TLS
_MOST_PARTS = 64  # handed to the system in one call; it takes 1024 at most


def wait(
    sock: socket.socket, timeout: float, *, write: bool = False, waker: Waker | None = None
) -> bool:
    """Wait for ``sock`` or ``waker``, ``timeout`` seconds at most; say whether ``sock`` is ready.

    poll and not select: descriptors above 1023 are normal on a busy server.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN | (select.POLLOUT if write else 0))
    if waker is not None:
        poll.register(waker, select.POLLIN)
    ready = poll.poll(math.ceil(timeout * 1000))
    return any(descriptor == sock.fileno() for descriptor, _ in ready)


class TlsLayer:
    """Turns what we say into TLS records and back; knows no socket (RFC 8446).

    ``ssl.MemoryBIO`` and not a wrapped socket: a block leaves in one call instead of one for each
    record of 16 KB, and what is still to be read never hides where ``poll`` cannot see it.
    """

    def __init__(self, context: ssl.SSLContext, side: Side, host: str | None) -> None:
        """``host`` is the name that the server's certificate must be for; the client's only."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = side is Side.SERVER
        self._tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=host)
        self.ready = False

    def shake_hands(self) -> None:
        """Go on with the handshake as far as what has come allows. Raises ``TransferError``."""
        try:
            self._tls.do_handshake()
            self.ready = True
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise _tls_error(error) from error

    def feed(self, data: Any) -> None:
        """Take what came from the peer's socket, in any buffer."""
        self._in.write(data)

    @property
    def pending(self) -> bool:
        """Whether there is something to read that the socket will not tell of."""
        return self._in.pending > 0 or self._tls.pending() > 0

    def read_into(self, view: memoryview) -> int:
        """Fill ``view`` with what was in complete records; return the bytes, 0 if there are none.

        Raises ``ConnectionLostError`` when the peer has said that it is done.
        """
        filled = 0
        try:
            while filled < len(view):
                room: Any = view[filled:]  # to the annotations only a bytearray is a buffer
                size = int(self._tls.read(len(room), room))
                if not size:  # how Python tells of a close_notify that it has not answered
                    raise ssl.SSLZeroReturnError
                filled += size
        except ssl.SSLWantReadError:
            return filled
        except ssl.SSLZeroReturnError:
            if filled:
                return filled
            raise ConnectionLostError("the peer closed the connection") from None
        except ssl.SSLError as error:
            raise _tls_error(error) from error
        return filled

    def write(self, parts: Iterable[_Buffer]) -> None:
        """Put ``parts`` into records. Raises ``TransferError`` once something has gone wrong."""
        try:
            for part in parts:
                data: Any = part  # as above
                self._tls.write(data)
        except ssl.SSLError as error:
            raise _tls_error(error) from error

    def outgoing(self) -> bytes:
        """Return the records that the socket has not got yet."""
        return self._out.read() if self._out.pending else b""

    def say_goodbye(self) -> None:
        """Tell the peer that nothing more will come: else it could not tell that from a cut."""
        with contextlib.suppress(ssl.SSLError):  # it wants to hear the peer's own: nobody waits
            self._tls.unwrap()

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER form."""
        return self._tls.getpeercert(binary_form=True)


_PLAIN = "plain"  # the code of an error: no TLS where there should be some


def _tls_error(error: ssl.SSLError) -> TransferError:
    """Say in our own terms what OpenSSL says."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return AuthenticationError(f"the server's certificate is not to be trusted: {why}")
    reason = (error.reason or "broken").replace("_", " ").lower()
    strange = {"wrong version number", "http request", "unknown protocol", "https proxy request"}
    if reason in strange or "packet length" in reason:
        return RemoteProtocolError("the peer does not speak TLS", _PLAIN)
    return RemoteProtocolError(f"TLS: {reason}", "tls")


_rooms = threading.local()


def _room() -> memoryview:
    """Return this thread's buffer for what comes before it is opened.

    One for each thread and not for each connection: a thousand idle ones would take 256 MB.
    """
    if not hasattr(_rooms, "view"):
        _rooms.view = memoryview(bytearray(TLS_READ))
    view: memoryview = _rooms.view
    return view


class Connection:
    """One socket, the dialogue on it, and the bytes on their way out.

    The socket never blocks; who wants to wait calls ``wait``. Owned by one thread at a time: there
    is no lock, and only ``cut`` may be called by a thread that is not the owner.
    """

    def __init__(
        self,
        sock: socket.socket,
        side: Side,
        tls: ssl.SSLContext | None = None,
        host: str | None = None,
    ) -> None:
        self._socket = sock
        self._tls = TlsLayer(tls, side, host) if tls else None
        self._frames = FrameReader()
        self._out: deque[memoryview] = deque()
        self.unsent = 0  # bytes in _out
        self.dialogue = Dialogue(side)
        self.address = sock.family, _peer_address(sock)  # to connect to it again
        self.peer = _peer_name(self.address[1])
        sock.setblocking(False)
        _tune(sock)

    def __repr__(self) -> str:
        return f"<Connection to {self.peer}, {self.state.value}, {self.unsent} bytes unsent>"

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def state(self) -> State:
        return self.dialogue.state

    @property
    def mid_frame(self) -> bool:
        return len(self._frames) > 0

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read or change what is said."""
        return self._tls is not None

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER form, where there is one."""
        return self._tls.certificate if self._tls else None

    @property
    def pending(self) -> bool:
        """Whether something can be received that the socket will not tell of."""
        return self._tls is not None and self._tls.pending

    # -- out

    def send(self, message: Message) -> None:
        """Say ``message`` as far as the socket takes it now; ``flush`` sends the rest."""
        self.dialogue.sent(message)
        self.push(encode(message))

    def push(self, *parts: _Buffer) -> None:
        """Add bytes to what is on its way out and send what the socket takes now."""
        if self._tls:
            if not self._tls.ready:
                return  # last words to somebody who has not shaken hands: they cannot be said
            self._tls.write(part for part in parts if part)
            parts = (self._tls.outgoing(),)
        self._push_raw(*parts)

    def _push_raw(self, *parts: _Buffer) -> None:
        size = sum(map(len, parts))
        sent = 0 if self._out else self._send_some(parts)
        if sent < size:
            self._out += [memoryview(part) for part in parts if part]
            self.unsent += size
            self._drop(sent)

    def flush(self) -> bool:
        """Send what the socket takes without waiting; return whether everything is out."""
        while self._out:
            sent = self._send_some(list(itertools.islice(self._out, _MOST_PARTS)))
            if not sent:
                return False
            self._drop(sent)
        return True

    def _send_some(self, parts: Collection[_Buffer]) -> int:
        """Hand ``parts`` to the system in one call; return the bytes it took."""
        try:
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise lost(self.peer, error) from error

    def _drop(self, sent: int) -> None:
        self.unsent -= sent
        while sent:
            part = self._out.popleft()
            if sent < len(part):
                self._out.appendleft(part[sent:])
            sent -= min(sent, len(part))

    # -- in

    def receive(self) -> Message | None:
        """Return the next message, or ``None`` if it is not all here yet. Never waits.

        Raises ``ConnectionLostError`` at the end of the stream, ``RemoteProtocolError`` for a
        message that is malformed or out of place.
        """
        frame = self._next_frame()
        if isinstance(frame, Ack):
            raise RemoteProtocolError("an acknowledgement out of place")
        if frame is not None:
            self.dialogue.received(frame)
        return frame

    def receive_acks(self) -> Iterable[Ack]:
        """Give the acks that are here. Raises as ``receive`` does, and what an ERROR says."""
        self._frames.takes_acks = True
        frame = self._next_frame()
        while frame is not None:
            if isinstance(frame, Ack):
                yield frame
            else:
                self.dialogue.received(frame)
                raise_error(frame)
            frame = self._frames.next()

    def _next_frame(self) -> Message | Ack | None:
        frame = self._frames.next()
        while frame is None:
            data = self._receive_some()
            if data is None:
                return None
            self._frames.feed(data)
            frame = self._frames.next()
        return frame

    def _receive_some(self) -> bytes | None:
        if self._tls:
            view = memoryview(bytearray(16 * 1024))
            size = self._open_into(self._tls, view)
            return bytes(view[:size]) if size else None
        try:
            data = self._socket.recv(16 * 1024)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise lost(self.peer, error) from error
        if not data:
            raise ConnectionLostError(f"{self.peer} closed the connection")
        return data

    def receive_into(self, view: memoryview) -> int:
        """Fill ``view`` with what is here; return the bytes, 0 when it would have to wait.

        Raises ``ConnectionLostError`` at the end of the stream. Less than the view has room for
        means that there was no more.
        """
        if self.mid_frame:  # the first block came in one piece with ATTACH
            return self._frames.take_into(view)
        return self._open_into(self._tls, view) if self._tls else self._raw_into(view)

    def _open_into(self, tls: TlsLayer, view: memoryview) -> int:
        """Fill ``view`` from what the TLS layer has, and that from the socket."""
        filled = tls.read_into(view) if tls.ready else 0
        try:
            while filled < len(view) and self._feed(tls):
                if not tls.ready:
                    self._shake_hands(tls)
                if tls.ready:
                    filled += tls.read_into(view[filled:])
        except ConnectionLostError:
            if not filled:  # else the next call finds it again: what came before must not be lost
                raise
        return filled

    def _feed(self, tls: TlsLayer) -> bool:
        """Hand the TLS layer what has come; return whether there was something."""
        room = _room()
        came = self._raw_into(room)
        tls.feed(room[:came])
        return came > 0

    def _shake_hands(self, tls: TlsLayer) -> None:
        try:
            tls.shake_hands()
        except RemoteProtocolError as error:
            if error.code == _PLAIN and self.dialogue.side is Side.SERVER:  # it can read this
                self._push_raw(encode(Error(_PLAIN, "TLS is spoken here: add --tls")))
            raise
        finally:  # an alert, too, should leave
            self._push_raw(tls.outgoing())

    def secure_channel(self, timeout: float) -> None:
        """Shake hands, waiting for the server; for the client only. Without TLS there is nothing.

        Raises ``AuthenticationError`` for a certificate that is not to be trusted.
        """
        deadline = Deadline(timeout)
        if self._tls:
            self._shake_hands(self._tls)
        while self._tls and not self._tls.ready:
            if deadline.passed:
                raise ConnectionLostError(f"{self.peer} did not answer for {timeout:g} s")
            self.wait(deadline.left(), write=not self.flush())
            self._feed(self._tls)
            self._shake_hands(self._tls)

    def _raw_into(self, view: memoryview) -> int:
        try:
            size = self._socket.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise lost(self.peer, error) from error
        if not size:
            raise ConnectionLostError(f"{self.peer} closed the connection")
        return size

    # -- far away

    @property
    def round_trip(self) -> float:
        """What the system takes for the seconds there and back; 0 where it does not say."""
        return _tcp_info(self._socket, _RTT_AT, _MICROSECONDS)[0] / 1e6

    @property
    def queueing(self) -> float:
        """How many times its least the round trip takes; 1 where the system does not say."""
        now = _tcp_info(self._socket, _RTT_AT, _MICROSECONDS)[0]
        least = _tcp_info(self._socket, _LEAST_RTT_AT, _MICROSECONDS)[0]
        return now / least if now and least else 1.0

    @property
    def waits(self) -> tuple[float, float]:
        """For how many seconds something was under way, and the peer had no room for more.

        Zeros where the system does not say (it does since Linux 4.9).
        """
        busy, no_room = _tcp_info(self._socket, _BUSY_AT, _BUSY)
        return busy / 1e6, no_room / 1e6

    @property
    def congestion(self) -> str:
        """What decides how fast TCP goes, such as ``cubic``; "" where the system does not say."""
        found = b""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # no TCP
                found = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return found.partition(b"\0")[0].decode("ascii", "replace")

    def choose_congestion(self, name: str) -> None:
        """Let ``name`` decide how fast TCP goes, where we may choose; "" changes nothing."""
        if sys.platform == "linux" and name:
            with contextlib.suppress(OSError):  # unknown here, or not for everyone
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())

    def keep_unsent(self, most: int) -> None:
        """Let the system hold about ``most`` bytes more than it has sent (RFC 9293 names none).

        What it holds is bound to this connection, however slow that turns out to be; the size of
        its buffer, and so its window, stays the system's own choice.
        """
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, option, most)

    # -- waiting and ending

    def wait(self, timeout: float, *, write: bool = False, waker: Waker | None = None) -> bool:
        """Wait until there is something to read (or room to write), or ``waker`` rings.

        Takes seconds; returns whether the socket is ready. May block: never call it under a lock.
        """
        return self.pending or wait(self._socket, timeout, write=write, waker=waker)

    def call(self, message: Message, timeout: float) -> Message:
        """Send ``message``, wait for the answer. Takes seconds; for the client only."""
        self.send(message)
        return self.answer(timeout)

    def answer(self, timeout: float) -> Message:
        """Wait for one message. Raises what an ERROR says, ``ConnectionLostError`` in silence."""
        deadline = Deadline(timeout)
        while True:
            message = self.receive()
            if message is not None:
                raise_error(message)
                return message
            if deadline.passed:
                raise ConnectionLostError(f"{self.peer} did not answer for {timeout:g} s")
            self.wait(deadline.left(), write=not self.flush())

    def finish(self) -> None:
        """Say that nothing more will come from us; the peer can still be heard.

        What finds no room stays unsent: then say it again when that has been flushed.
        """
        if self._tls and self._tls.ready:
            self._tls.say_goodbye()
            with contextlib.suppress(ConnectionLostError):
                self._push_raw(self._tls.outgoing())
        if self.unsent:
            return  # after the shutdown it could not leave, and the socket would claim to have room
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer was faster

    def discard(self) -> bool:
        """Throw away what has come, up to a limit; return whether the peer has closed."""
        room = _room()  # what it says is not even opened
        try:
            for _ in range(16):  # a peer that floods us must not keep the caller here
                if not self._raw_into(room):
                    return False
        except ConnectionLostError:
            return True
        return False

    def cut(self) -> None:
        """Wake the owner with an end of stream, from any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # not connected any more: nobody waits

    def close(self) -> None:
        """Give the socket back to the system."""
        self._socket.close()


def lost(peer: str, error: OSError) -> ConnectionLostError:
    """Say in our own terms what the system says of a connection; the only place that does."""
    known = {
        errno.ECONNREFUSED: "nothing listens there",
        errno.ECONNRESET: "the connection was reset",
        errno.EPIPE: "the connection was closed",
        errno.ETIMEDOUT: "no answer",
    }
    timed_out = isinstance(error, socket.timeout)
    reason = "no answer" if timed_out else known.get(error.errno or 0, error.strerror or str(error))
    return ConnectionLostError(f"{peer}: {reason}")


_ERRORS: dict[str, type[TransferError]] = {
    "authentication": AuthenticationError,
    "session": SessionLostError,
    "transfer": ConnectionLostError,
    "shutdown": ConnectionLostError,
    "timeout": ConnectionLostError,
    "busy": ConnectionLostError,
    "internal": ConnectionLostError,
}


def raise_error(message: Message) -> None:
    """Raise what the server says in an ERROR; any other message passes."""
    if isinstance(message, Error):
        raise _ERRORS.get(message.code, RemoteProtocolError)(printable(message.reason))


def is_loopback(host: str) -> bool:
    """Whether everything ``host`` stands for is this machine itself."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", 0, type=socket.SOCK_STREAM)  # noqa: S104
    except (OSError, UnicodeError):
        return False
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _peer_address(sock: socket.socket) -> Any:
    try:
        return sock.getpeername()
    except OSError:  # gone before we looked
        return None


_RTT_AT, _LEAST_RTT_AT = 68, 148  # tcpi_rtt, tcpi_min_rtt in Linux's struct tcp_info (linux/tcp.h)
_MICROSECONDS = struct.Struct("=I")
_BUSY_AT, _BUSY = 168, struct.Struct("=QQ")  # tcpi_busy_time, tcpi_rwnd_limited


def _tcp_info(sock: socket.socket, offset: int, fields: struct.Struct) -> tuple[int, ...]:
    """Read ``fields`` of the system's own view of a connection; zeros where there is none."""
    info = b""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # no TCP
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, offset + fields.size)
    return tuple(fields.unpack_from(info.ljust(offset + fields.size, b"\0"), offset))


def _peer_name(address: Any) -> str:
    return "{}:{}".format(*address[:2]) if isinstance(address, tuple) else "the peer"


def _tune(sock: socket.socket) -> None:
    """Set what every connection of ours needs: no delay for small frames, a watch on dead peers.

    Buffer sizes stay alone: setting one turns the system's own tuning off.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, config.KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, config.KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, config.KEEPALIVE_PROBES)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, config.UNANSWERED_TIMEOUT * 1000
        )


BlockCheck = Callable[[BlockHeader], memoryview]


class BlockReader:
    """Receives block frames; a half-received block stays here until the rest comes.

    ``check`` is asked once for each header: it returns the buffer for the payload, or raises.
    """

    def __init__(self, check: BlockCheck, chunk_size: int) -> None:
        self._check = check
        self._chunk_size = chunk_size
        self._header = bytearray(HEADER_SIZE)
        self._block: BlockHeader | None = None
        self._view = memoryview(self._header)
        self._filled = 0

    @property
    def mid_block(self) -> bool:
        return self._block is not None or self._filled > 0

    def receive(self, connection: Connection) -> tuple[BlockHeader, memoryview] | None:
        """Return the next complete block and its payload, or ``None``. Never waits."""
        while self._fill(connection):
            if self._block is None:
                header = decode_header(self._header)
                payload = self._check(header)
                self._block, self._view, self._filled = header, payload, 0
            else:
                done = self._block, self._view
                self._block, self._view, self._filled = None, memoryview(self._header), 0
                return done
        return None

    def _fill(self, connection: Connection) -> bool:
        """Receive until the view is full; ``False`` when that would mean to wait."""
        while self._filled < len(self._view):
            room = self._view[self._filled : self._filled + self._chunk_size]
            size = connection.receive_into(room)
            self._filled += size
            if size < len(room):  # the socket is empty: the next call would only say so
                return self._filled == len(self._view)
        return True
