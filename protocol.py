r"""The protocol: what the two machines must agree on, as a specification and as code.

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
                                          (at once, if AUTH_START carries a token)

    FILE_START name, size, head ...  -->                        (once for each file)
    MANIFEST entries ...             -->                        (of a directory: all that is in it)
                                     <--  QUEUED position       (while other files go first)
                                     <--  FILE_READY transfer, blocks the server has
                                          ... blocks flow on the data connections ...
                                     <--  MISSING blocks        (at any time: send them again)
                                     <--  PING                  (is this session alive? ...
    PONG                             -->                         ... it is)
    TRANSFER_COMPLETE digest         -->                        (all is read, or delivered)
                                     <--  VERIFYING progress    (at least once a second)
                                     <--  INTEGRITY_OK receipt, or INTEGRITY_FAILED
    GOODBYE                          -->

The client waits for the server's HELLO before AUTH_START in two cases only. Over TLS, because the
features tell whether the server can bind the login to the TLS connection, which may end at a proxy
in front of it. With a token, because another program at that port must not see the token.

The server may refuse a file with REJECTED (code, reason) at any time after FILE_START, and the
client may give it up with CANCEL; the session goes on with the next file. ERROR (code, reason) ends
the connection it comes on. The client confirms a verdict by its next message, whichever it is;
until then it can ask for the verdict again, in a new session.

Many files: where the server has the feature *ahead*, the client need not wait for the end of one
file before it announces the next. It gives each a number, ``file`` in FILE_START, higher than all
before it in the session, and every message about the file has it. Each file has a dialogue of its
own then, as above; up to ``MAX_AHEAD`` of them run side by side. They share the data connections,
where blocks have their transfer's number. The client confirms the verdicts on them by HEARD only.

A data connection carries blocks in one direction. The client waits for no answer on it, because
each answer costs a round trip, and the coordinator has had the server's HELLO already::

    HELLO, ATTACH session token      -->
    block, block, block, ...         -->
                                     <--  HELLO, ATTACHED
                                     <--  ack, ack, ack, ...    (or ERROR)

The client sends TRANSFER_COMPLETE as soon as it has read the whole file, while blocks are still on
their way, so that the server can begin to give its verdict. It sends a second one, with
``delivered``, when all blocks are acknowledged. After each MISSING it sends another one.

Resume: ``head`` in FILE_START is the digest of the first block. By it and by user, name, block size
and algorithm the server finds what an interrupted attempt left, and claims those blocks in
FILE_READY. For each of them the client sends a block frame of the codec *held*, with the running
digest and no payload. Where the server's digest is another, MISSING asks for the bytes.

A directory is one virtual file: its files one behind the other, in the order of their paths as
bytes. FILE_START says how many ``entries`` it has, and the client sends these at once, in as many
MANIFEST as it takes. A server that has enough says REJECTED meanwhile, and ignores the rest. An
entry is one of these, with sizes in bytes, permission bits and times in nanoseconds since 1970::

    ["f", path, size, bits, time]    a file
    ["d", path, bits, time]          a directory
    ["l", path, target, time]        a symbolic link to a place in the same directory

A server without the feature ``before-1970`` takes no times below 0: it gets 0, and of a file none.

Compression: a peer with ``zlib`` or ``zstd`` among the features of its HELLO can unpack blocks of
that codec. The client chooses a codec for each block. Only the payload is compressed; the running
digest is always that of the file.

The frames
----------
Control: 4 bytes length, big-endian, then UTF-8 ``VERB@{json}``, at most 64 KB in all::

    00 00 00 2f  HELLO@{"version":3,"features":["md5","sha256"]}

To a server with the feature ``packed`` a client sends MANIFEST as ``MANIFEST@z`` and the JSON as
one zlib stream, which unpacks to 64 KB at most.

Block: a fixed header, then ``wire length`` bytes of payload::

    kind 'B'  codec  00 00  transfer  block index  raw length  wire length  running digest
    1         1      2      4         4            4           4            32, zero-padded

    codec 0   raw    the bytes themselves; wire length = raw length
          1   held   nothing; wire length = 0
          2   zlib   one stream (RFC 1950); 0 < wire length < raw length
          3   zstd   one frame (RFC 8878) with a window of up to 4 MB; lengths as with zlib

A compressed payload must unpack to exactly the raw length, and end where the payload ends.
Otherwise ERROR *codec* ends the data connection; the server unpacks at most one byte too many.

Ack: ``'A' 00 00 00``, transfer (4), block index (4). The first byte of a control frame is always
zero, so the client can tell an ack from an ERROR.

The *running digest* of a block is the digest of the file from its start up to and including that
block: one hash pass gives the checksum of each block and the verdict on the file. Of a directory it
is the digest of the lines that ``md5sum`` (or ``sha256sum``) prints for the files that have ended,
followed by the digest (as bytes) of the file that the block ends in, unless that ends there, too.
So the verdict is the digest of all lines.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

from lft.errors import AuthenticationError as AuthenticationError
from lft.errors import ConnectionLostError as ConnectionLostError
from lft.errors import IntegrityError as IntegrityError
from lft.errors import LocalProtocolError as LocalProtocolError
from lft.errors import ProtocolError as ProtocolError
from lft.errors import RejectedError as RejectedError
from lft.errors import RemoteProtocolError as RemoteProtocolError
from lft.errors import SentAwayError as SentAwayError
from lft.errors import SessionLostError as SessionLostError
from lft.errors import SilenceError as SilenceError
from lft.errors import SourceError as SourceError
from lft.errors import TransferError as TransferError
from lft.errors import TransferOverError as TransferOverError
from lft.errors import UsageError as UsageError
from lft.fields import MAX_BLOCKS as MAX_BLOCKS
from lft.fields import MAX_SPANS as MAX_SPANS
from lft.fields import MAX_TEXT as MAX_TEXT
from lft.fields import Raw
from lft.fields import Spans as Spans
from lft.fields import digest as _digest
from lft.fields import entries as _entries
from lft.fields import spans as _spans
from lft.fields import text as _text
from lft.fields import words as _words
from lft.records import LEFT_OUT, Record, dataclass_transform, field, flag, whole

VERSION = 3
MAX_CONTROL_FRAME = 64 * 1024
MAX_FILE_SIZE = 2**63 - 1
FIRST_TIME, LAST_TIME = -(2**63), 2**63 - 1  # in nanoseconds since 1970: 1677 to 2262
MAX_MILLISECONDS = 2**53
MAX_ENTRIES = 2**31  # that FILE_START can announce; a server takes far fewer
MAX_FILES = 2**31  # of one session
MAX_AHEAD = 64  # numbered files that may be under way in one session
DIGEST_SIZES = {"md5": 16, "sha256": 32}  # the names for --digest, and the bytes of each
SCRAM = "SCRAM-SHA-256"
AHEAD = "ahead"  # a feature of a server: several files of a session may be under way, with numbers
UNSIZED = "unsized"  # a feature of a server: it takes files whose size is not known yet
TREES = "trees"  # a feature of a server: it takes directories
PACKED = "packed"  # a feature of a server: it takes MANIFEST compressed
BEFORE_1970 = "before-1970"  # a feature of a server: it takes times below 0
PRESERVE = "preserve"  # a feature of a server: a file keeps its permission bits and its time
WAITING = "waiting"  # a feature of a client: QUEUED may say why
SKIP = "skip"  # a feature of a server: it looks whether a file is published there already
EARLIER = "earlier"  # a feature, and the code of a REJECTED whose reason is "block-size digest"
TOKEN = "TOKEN"  # noqa: S105  (the mechanism of a login that shows a token)
CODEC_RAW, CODEC_HELD, CODEC_ZLIB, CODEC_ZSTD = range(4)  # of a block's payload

# --- messages -----------------------------------------------------------------------------------

MESSAGES: dict[str, type[Message]] = {}


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(field, whole, flag, _text, _digest, _words, _spans, _entries),
)
class Message(Record):
    """A control message. Its fields are checked when it is made, on both sides alike.

    To add a field, declare it in its message with a function of ``lft.fields``, which checks it.
    """

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
    """The first frame of each side. A feature may be used if both sides have it."""

    version: int = whole(1, 2**16)
    features: tuple[str, ...] = _words()


class AuthStart(Message, verb="AUTH_START"):
    """Begin a login: the mechanism and its first message."""

    mechanism: str = _text(1, 64)
    data: str = _text()


class AuthChallenge(Message, verb="AUTH_CHALLENGE"):
    """Give the salt, iteration count and nonce (RFC 5802 server-first-message)."""

    data: str = _text()


class AuthResponse(Message, verb="AUTH_RESPONSE"):
    """Prove that the client knows the password (RFC 5802 client-final-message)."""

    data: str = _text()


class AuthOk(Message, verb="AUTH_OK"):
    """Accept the login: the server's own proof, and the token that data connections show."""

    data: str = _text()
    token: str = _text(16, 128)
    priority: int = whole(-1000, 1000)


class Attach(Message, verb="ATTACH"):
    """Make this connection a data connection of the session that has this token."""

    token: str = _text(1, 128)


class Attached(Message, verb="ATTACHED"):
    """Accept the data connection: blocks flow one way from here on, acks the other."""


class FileStart(Message, verb="FILE_START"):
    """Announce a file: its name without folders, sizes in bytes, the name of the digest.

    ``head`` is the digest of the first block, which is empty if the file is; ``resume`` says
    whether to go on with what an earlier attempt left. With *preserve* there may be permission
    bits, and the time of the last change in nanoseconds since 1970. With *unsized* and that field
    true, only TRANSFER_COMPLETE tells the size: until then ``size`` is 0, and ``head`` the digest
    of nothing. A block that is short is the last one. With *trees* and ``entries`` it is a
    directory, which MANIFEST follows: ``size`` is that of all its files, ``head`` the digest of
    nothing, and ``mode`` and ``mtime`` are there. With *ahead* there may be a number. With *skip*,
    and that field true, a file will do that the same user has sent under this name before: the
    server claims all of its blocks. Where it turns out to be another one, REJECTED *stale* has the
    client announce its own anew.
    """

    name: str = _text()
    size: int = whole(0, MAX_FILE_SIZE)
    block_size: int = whole(1, MAX_FILE_SIZE)
    digest: str = _text(1, 16)
    head: str = _digest()
    resume: bool = flag()
    mode: int | None = whole(0, 0o777, default=LEFT_OUT)
    mtime: int | None = whole(FIRST_TIME, LAST_TIME, default=LEFT_OUT)
    unsized: bool | None = flag(default=LEFT_OUT)
    entries: int | None = whole(0, MAX_ENTRIES, default=LEFT_OUT)
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)
    skip: bool | None = flag(default=LEFT_OUT)


class ManifestPart(Message, verb="MANIFEST"):
    """Tell some of what is in a directory, in the order of the paths as bytes."""

    entries: tuple[Raw, ...] = _entries()
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Queued(Message, verb="QUEUED"):
    """Let the file wait: ``position`` 1 is next. With *waiting*, ``reason`` may say for what."""

    position: int = whole(1, 2**31)
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)
    reason: str | None = _text(default=LEFT_OUT)


class FileReady(Message, verb="FILE_READY"):
    """Ask for the blocks: of those in ``have``, for their running digests only."""

    transfer: int = whole(1, 2**32 - 1)
    have: Spans = _spans()
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Rejected(Message, verb="REJECTED"):
    """Refuse this file, before its blocks come or while they do."""

    code: str = _text(1, 32)
    reason: str = _text()
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Cancel(Message, verb="CANCEL"):
    """Give this file up. The answer is REJECTED, unless a verdict was already on its way."""

    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class TransferComplete(Message, verb="TRANSFER_COMPLETE"):
    """Say that all blocks have been read; ``digest`` is that of the whole file.

    With ``delivered`` all have been acknowledged, too: what the server lacks now is lost. ``size``
    is there if FILE_START could not tell it.
    """

    transfer: int = whole(1, 2**32 - 1)
    digest: str = _digest()
    delivered: bool = flag(default=True)
    size: int | None = whole(0, MAX_FILE_SIZE, default=LEFT_OUT)
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Verifying(Message, verb="VERIFYING"):
    """Say how far the server is: ``verified`` bytes from the start of the file are right."""

    verified: int = whole(0, MAX_FILE_SIZE)
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Missing(Message, verb="MISSING"):
    """Ask for blocks (again), and then for TRANSFER_COMPLETE again. ``reason``: see ``Why``."""

    transfer: int = whole(1, 2**32 - 1)
    blocks: Spans = _spans()
    reason: str = _text(1, 32)
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Why:
    """Why a MISSING asks for blocks."""

    DAMAGED = "damaged"  # on the way
    LOST = "lost"  # on the way
    CHANGED = "changed"  # in the source, since an earlier attempt sent it
    ALTERED = "altered"  # on the server's disk, since an earlier attempt wrote it


class Ping(Message, verb="PING"):
    """Ask whether the client is alive: another one wants to go on with this file."""

    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Pong(Message, verb="PONG"):
    """Answer PING."""

    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Heard(Message, verb="HEARD"):
    """Confirm the verdicts on numbered files: the client has read them."""

    files: Spans = _spans()


class IntegrityOk(Message, verb="INTEGRITY_OK"):
    """Give the receipt: the file stands under ``saved_as`` in the output directory.

    Three are milliseconds: of hashing, of waiting for the disk, of pauses for a limit. ``kept``
    answers ``mode`` and ``mtime``: whether the file has them. ``skipped`` says that an earlier
    transfer published it.
    """

    saved_as: str = _text(1)
    size: int = whole(0, MAX_FILE_SIZE)
    digest: str = _digest()
    resent_blocks: int = whole(0, MAX_FILE_SIZE)
    durable: bool = flag()
    hashing: int = whole(0, MAX_MILLISECONDS, default=0)
    disk: int = whole(0, MAX_MILLISECONDS, default=0)
    limited: int = whole(0, MAX_MILLISECONDS, default=0)
    kept: bool | None = flag(default=LEFT_OUT)
    skipped: bool | None = flag(default=LEFT_OUT)
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class IntegrityFailed(Message, verb="INTEGRITY_FAILED"):
    """Give the file up: its blocks and digests disagree after all repairs; nothing is published."""

    digest: str = _digest()
    reason: str = _text()
    file: int | None = whole(1, MAX_FILES, default=LEFT_OUT)


class Error(Message, verb="ERROR"):
    """Say why this connection ends: ``code`` for programs, ``reason`` for people."""

    code: str = _text(1, 32)
    reason: str = _text()


class Goodbye(Message, verb="GOODBYE"):
    """Say that the client has nothing more to send."""


def numbered(message: Message, file: int | None) -> Message:
    """Return a message about a file with the number of that file, if it has one."""
    return message if file is None else message.replace(file=file)


# --- states -------------------------------------------------------------------------------------


class Side(enum.Enum):
    """The side that speaks."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Side:
        """The other side."""
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
    LISTING = "listing"
    ASKED = "asked"
    RECEIVING = "receiving"
    VERIFYING = "verifying"
    CANCELLING = "cancelling"
    ATTACHING = "attaching"
    STREAMING = "streaming"
    CLOSED = "closed"


_C, _S = Side.CLIENT, Side.SERVER
# Which side may say what in each state, and the state it leads to. ERROR from the server and
# GOODBYE from the client are allowed in every state except CLOSED. Messages that cross another one:
# - TRANSFER_COMPLETE, CANCEL, PONG in READY cross a verdict or REJECTED; the server ignores them.
# - TRANSFER_COMPLETE in VERIFYING is the second one, or the first crossed a MISSING.
# - MANIFEST in READY crosses REJECTED; the server ignores it.
# - The states from READY to CANCELLING are also those of each numbered file, while that of the
#   connection stays READY.
# - INTEGRITY_OK in RECEIVING overtakes it: the blocks that MISSING asked for came first.
# In place of ASKED a dialogue is in LISTING until MANIFEST has told the entries of a directory.
# Only the client is ever in LOGIN_AHEAD or ATTACH_AHEAD, because it does not wait for the server's
# HELLO; a server answers HELLO before it reads the next message.
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
        (_C, Heard): State.READY,
        (_C, TransferComplete): State.READY,
        (_C, Cancel): State.READY,
        (_C, Pong): State.READY,
        (_C, ManifestPart): State.READY,
    },
    State.LISTING: {
        (_C, ManifestPart): State.LISTING,
        (_S, Rejected): State.READY,
        (_C, Cancel): State.CANCELLING,
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
    """The states of one connection and of its numbered files, which follow from the messages."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.state = State.NEW
        self._unlisted: dict[int | None, int] = {}  # entries that MANIFEST has still to tell
        self._files: dict[int, State] = {}  # numbered ones that are under way
        self._numbered = 0  # the highest number so far

    def __repr__(self) -> str:
        numbered = f", {self.files} files under way" if self._files else ""
        return f"<Dialogue of the {self.side.value}, {self.state.value}{numbered}>"

    @property
    def files(self) -> int:
        """How many numbered files are under way."""
        return len(self._files)

    @property
    def idle(self) -> bool:
        """Whether the client may announce a file, and no other is under way."""
        return self.state is State.READY and not self._files

    def state_of(self, file: int | None) -> State:
        """Return the state of a numbered file, READY if it is not under way; of none the state.

        Before the login, and after the end, no file has a state of its own.
        """
        if file is None or self.state is not State.READY:
            return self.state
        return self._files.get(file, State.READY)

    def sent(self, message: Message) -> None:
        """Note a message to the peer. Raises ``LocalProtocolError`` if it is not allowed."""
        self._move(self.side, message, LocalProtocolError)

    def received(self, message: Message) -> None:
        """Note a message from the peer. Raises ``RemoteProtocolError`` if it is not allowed."""
        self._move(self.side.other, message, RemoteProtocolError)

    def allows(self, message: Message) -> bool:
        """Whether we may send ``message`` now."""
        return self._next(self.side, message) is not None

    def _next(self, speaker: Side, message: Message) -> State | None:
        ends = (speaker, type(message)) in ((_S, Error), (_C, Goodbye))
        if ends and self.state is not State.CLOSED:
            return State.CLOSED
        if not self._may_have_number(message):
            return None
        state = self.state_of(getattr(message, "file", None))
        return DIALOGUE[state].get((speaker, type(message)))

    def _may_have_number(self, message: Message) -> bool:
        """Whether a message may have the number that it has, or none."""
        file, starts = getattr(message, "file", None), isinstance(message, FileStart)
        if file is None:
            return not (starts and self._files)
        known = file <= self._numbered
        room = len(self._files) < MAX_AHEAD
        return self.state is State.READY and (room and not known if starts else known)

    def _move(self, speaker: Side, message: Message, error: type[ProtocolError]) -> None:
        state, file = self._next(speaker, message), getattr(message, "file", None)
        if state is None:
            here = self.state_of(file).value
            raise error(f"the {speaker.value} sent {message.VERB} in state {here}")
        if state in (State.ASKED, State.LISTING):
            state = self._count_entries(message, state, error)
        if file is None:
            self.state = state
            return
        self._numbered = max(file, self._numbered)
        self._files[file] = state
        if state is State.READY:
            del self._files[file]
            self._unlisted.pop(file, None)

    def _count_entries(self, message: Message, state: State, error: type[ProtocolError]) -> State:
        """Return ``LISTING`` in place of ``ASKED`` until all entries of a directory are told."""
        if isinstance(message, FileStart):
            left = message.entries or 0
        elif isinstance(message, ManifestPart):
            left = self._unlisted[message.file] - len(message.entries)
        else:
            return state
        if left < 0:
            raise error("more entries than were announced")
        self._unlisted[message.file] = left
        if not left:
            del self._unlisted[message.file]
        return State.LISTING if left else State.ASKED


class Blocks:
    """The blocks of a file: ``count`` of them, of which the last may be short."""

    def __init__(self, size: int, block_size: int) -> None:
        self.size = size
        self.block_size = block_size
        self.count = -(-size // block_size)  # rounded up: none for an empty file

    def has(self, index: int, length: int) -> bool:
        """Whether there is a block ``index`` of ``length`` bytes."""
        return index < self.count and length == self.length(index)

    def offset(self, index: int) -> int:
        """Return the position of block ``index`` in the file."""
        return index * self.block_size

    def length(self, index: int) -> int:
        """Return how many bytes block ``index`` has."""
        full = index < self.count - 1
        return self.block_size if full else self.size - index * self.block_size
