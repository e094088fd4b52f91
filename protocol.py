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

import enum
import re
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Tuple, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # only a type checker asks for it

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        return lambda cls: cls


VERSION = 3
MAX_CONTROL_FRAME = 64 * 1024
MAX_FILE_SIZE = 2**63 - 1
MAX_BLOCKS = 2**32  # the block index has four bytes
MAX_TEXT = 1024  # characters of a name or a reason
MAX_MILLISECONDS = 2**53
MAX_SPANS = 2000  # of one MISSING or FILE_READY: they fit a frame
DIGEST_SIZES = {"md5": 16, "sha256": 32}  # what --digest may name, and the bytes it takes
SCRAM = "SCRAM-SHA-256"
TOKEN = "TOKEN"  # noqa: S105  (the mechanism of who shows a token instead of a password)
Spans = Tuple[Tuple[int, int], ...]  # half-open ranges of block indexes, in order, not touching
CODEC_RAW = 0
CODEC_HELD = 1  # no payload: the server has claimed the block, this is its digest
CODEC_ZLIB = 2
CODEC_ZSTD = 3

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


# --- records: values with names, checked ---------------------------------------------------------


_REQUIRED = object()


class Field:
    """What one value of a record must be, in code and in words, and its default if it has one."""

    def __init__(
        self, accepts: Callable[[Any], bool], wants: str, default: object, shown: bool
    ) -> None:
        self.accepts = accepts
        self.wants = wants
        self.default = default
        self.shown = shown  # by repr(): secrets are not

    @property
    def required(self) -> bool:
        """Whether the value must be given."""
        return self.default is _REQUIRED


def checked(
    accepts: Callable[[Any], bool], wants: str, default: Any = _REQUIRED, *, shown: bool = True
) -> Any:
    """Declare a field; what it ``wants`` completes the sentence "... must be"."""
    return Field(accepts, wants, default, shown)


def whole(low: int, high: int, default: Any = _REQUIRED) -> Any:
    return checked(lambda v: is_whole(v, low, high), f"a number from {low} to {high}", default)


def flag(default: Any = _REQUIRED) -> Any:
    return checked(lambda v: isinstance(v, bool), "true or false", default)


def _text(low: int = 0, high: int = MAX_TEXT) -> Any:
    return checked(lambda v: _is_text(v, low, high), f"text of {low} to {high} characters")


def _digest() -> Any:
    return checked(
        lambda v: isinstance(v, str) and re.fullmatch("(?:[0-9a-f]{32}){1,2}", v) is not None,
        "a digest in hexadecimal",
    )


def _words() -> Any:
    return checked(
        lambda v: isinstance(v, tuple) and len(v) <= 64 and all(_is_text(w, 1, 64) for w in v),
        "up to 64 short words",
    )


def _spans() -> Any:
    return checked(_are_spans, f"up to {MAX_SPANS} ascending [first, end] pairs")


def is_whole(value: object, low: int, high: int) -> bool:
    # type() and not isinstance(): a bool is an int to Python, not on the wire or in a file
    return type(value) is int and low <= value <= high


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


_R = TypeVar("_R", bound="Record")


@dataclass_transform(
    frozen_default=True, field_specifiers=(checked, whole, flag, _text, _digest, _words, _spans)
)
class Record:
    """Values with names, which are checked when the record is made and never change.

    Type checkers see a frozen dataclass. A real one is compiled at every start of a program: for
    all messages together that took 12 ms.
    """

    FIELDS: ClassVar[dict[str, Field]] = {}

    def __init_subclass__(cls) -> None:
        cls.FIELDS = {name: item for name, item in vars(cls).items() if isinstance(item, Field)}

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take the values by position or name. ``ValueError`` says which one is wrong."""
        given = {**dict(zip(self.FIELDS, values)), **named}
        twice = len(given) < len(values) + len(named)  # or more values than there are fields
        missing = {key for key, item in self.FIELDS.items() if item.required} - given.keys()
        if twice or missing or given.keys() - self.FIELDS.keys():
            raise TypeError(f"{type(self).__name__} takes {', '.join(self.FIELDS) or 'nothing'}")
        for name, item in self.FIELDS.items():
            value = given.get(name, item.default)
            if not item.accepts(value):
                raise ValueError(f"{name} must be {item.wants}")
            vars(self)[name] = value

    def __setattr__(self, name: str, _: object) -> None:
        raise AttributeError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name)!r}" for name, item in self.FIELDS.items() if item.shown
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self: _R, **changes: Any) -> _R:
        """Return a record with some values changed, which is checked as well."""
        return type(self)(**{**vars(self), **changes})


# --- messages -----------------------------------------------------------------------------------


MESSAGES: dict[str, type[Message]] = {}


class Message(Record):
    """One control message. Its fields are checked when it is made, sent or received alike."""

    VERB: ClassVar[str]

    def __init_subclass__(cls, verb: str) -> None:
        """Register the message under its verb on the wire."""
        super().__init_subclass__()
        cls.VERB = verb
        MESSAGES[verb] = cls

    def __init__(self, *values: Any, **named: Any) -> None:
        try:
            super().__init__(*values, **named)
        except ValueError as error:
            raise ValueError(f"{self.VERB}: {error}") from None


class Hello(Message, verb="HELLO"):
    """The first frame of both sides. ``features``: what may be used if the other has it too."""

    version: int = whole(1, 2**16)
    features: tuple[str, ...] = _words()


class AuthStart(Message, verb="AUTH_START"):
    """Ask to be let in: ``mechanism`` and its first message."""

    mechanism: str = _text(1, 64)
    data: str = _text()


class AuthChallenge(Message, verb="AUTH_CHALLENGE"):
    """The server's salt, iteration count and nonce (RFC 5802 server-first-message)."""

    data: str = _text()


class AuthResponse(Message, verb="AUTH_RESPONSE"):
    """The client's proof that it knows the password (RFC 5802 client-final-message)."""

    data: str = _text()


class AuthOk(Message, verb="AUTH_OK"):
    """Let in: the server's own proof, and the token that ties data connections to the session."""

    data: str = _text()
    token: str = _text(16, 128)
    priority: int = whole(-1000, 1000)


class Attach(Message, verb="ATTACH"):
    """Make this connection a data connection of the session that ``token`` belongs to."""

    token: str = _text(1, 128)


class Attached(Message, verb="ATTACHED"):
    """From here on blocks one way, acks the other."""


class FileStart(Message, verb="FILE_START"):
    """Metadata of the file to come: the name without folders, sizes in bytes, the digest's name.

    ``head`` is the digest of the first block (of nothing, for an empty file); ``resume`` says
    whether to go on with what an earlier attempt left.
    """

    name: str = _text()
    size: int = whole(0, MAX_FILE_SIZE)
    block_size: int = whole(1, MAX_FILE_SIZE)
    digest: str = _text(1, 16)
    head: str = _digest()
    resume: bool = flag()


class Queued(Message, verb="QUEUED"):
    """Others are before us: ``position`` 1 is next."""

    position: int = whole(1, 2**31)


class FileReady(Message, verb="FILE_READY"):
    """Send: ``transfer`` goes into every block header; of ``have`` only the running digests."""

    transfer: int = whole(1, 2**32 - 1)
    have: Spans = _spans()


class Rejected(Message, verb="REJECTED"):
    """The server does not take this file, or not any longer."""

    code: str = _text(1, 32)
    reason: str = _text()


class Cancel(Message, verb="CANCEL"):
    """Give this file up; answered with REJECTED, unless a verdict was already on its way."""


class TransferComplete(Message, verb="TRANSFER_COMPLETE"):
    """All blocks have been read; ``digest`` is the whole file's.

    ``delivered``: they have been acknowledged, too. What the server lacks then, nobody will bring.
    """

    transfer: int = whole(1, 2**32 - 1)
    digest: str = _digest()
    delivered: bool = flag(default=True)


class Verifying(Message, verb="VERIFYING"):
    """Still at it: ``verified`` bytes from the start of the file are there and right."""

    verified: int = whole(0, MAX_FILE_SIZE)


class Missing(Message, verb="MISSING"):
    """Send these blocks (again), then TRANSFER_COMPLETE (again). ``reason``: see ``Why``."""

    transfer: int = whole(1, 2**32 - 1)
    blocks: Spans = _spans()
    reason: str = _text(1, 32)


class Why:
    """Why a MISSING asks for blocks."""

    DAMAGED = "damaged"  # on the way
    LOST = "lost"  # never came
    CHANGED = "changed"  # the source is not what an earlier attempt sent
    ALTERED = "altered"  # what the server kept is not what it had written


class Ping(Message, verb="PING"):
    """Somebody else wants to go on with this file: answer if you are alive."""


class Pong(Message, verb="PONG"):
    """The answer to PING."""


class IntegrityOk(Message, verb="INTEGRITY_OK"):
    """The receipt: the file stands under ``saved_as`` in the output directory.

    The last three say for how many milliseconds the server hashed it, waited for its disk, and held
    a data connection back because of a limit.
    """

    saved_as: str = _text(1)
    size: int = whole(0, MAX_FILE_SIZE)
    digest: str = _digest()
    resent_blocks: int = whole(0, MAX_FILE_SIZE)
    durable: bool = flag()
    hashing: int = whole(0, MAX_MILLISECONDS, default=0)
    disk: int = whole(0, MAX_MILLISECONDS, default=0)
    limited: int = whole(0, MAX_MILLISECONDS, default=0)


class IntegrityFailed(Message, verb="INTEGRITY_FAILED"):
    """The blocks cannot be brought to agree with their digests; nothing was published."""

    digest: str = _digest()
    reason: str = _text()


class Error(Message, verb="ERROR"):
    """This connection ends, and why: ``code`` for programs, ``reason`` for people."""

    code: str = _text(1, 32)
    reason: str = _text()


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
