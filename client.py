"""The client: reads a file once, hashes it once, pushes it through several connections at once.

What lives here: the command line, the coordinator's side of the dialogue, the reader, the senders,
the progress bar. What does not: verdicts (the server judges) and the encoding of anything.

Who does what
-------------
The main thread talks on the coordinator connection and moves the bar. One reader thread reads the
file in order, hashes it and puts blocks into a queue; the pool's senders, each with one long-lived
data connection, take blocks from it. The number of buffers between them is fixed, so memory is too.

With ``--streams auto`` main also changes the number of senders at work, by the bytes that are
acknowledged; and it sends the last blocks of a stream that lags another way, too.

Locks: ``BlockQueue`` has one for the queue and the idle senders, ``Upload`` has one for what is not
acknowledged yet, ``Compression`` has one for what is known of the last blocks. None is held while
anything else is done.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # while Python still imports, Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import logging
import os
import queue
import random
import socket
import ssl
import stat
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn, Sequence

import auth
import config
from config import SUCCESS, ClientSettings, format_size, printable
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    COMPRESSIONS,
    DIGEST_SIZES,
    FEATURES,
    TOKEN,
    VERSION,
    Attach,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    BlockHeader,
    Blocks,
    Cancel,
    Connection,
    ConnectionLostError,
    Deadline,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
    IntegrityError,
    IntegrityFailed,
    IntegrityOk,
    Message,
    Missing,
    Pauses,
    Ping,
    Pong,
    Queued,
    Rejected,
    RejectedError,
    RemoteProtocolError,
    SessionLostError,
    Side,
    SourceError,
    Spans,
    State,
    TokenBucket,
    TransferComplete,
    TransferError,
    UsageError,
    Verifying,
    Waker,
    Why,
    common_codec,
    compress,
    encode_header,
    is_loopback,
    lost,
    raise_error,
    wait,
)

log = logging.getLogger("client")
coordinator_log = logging.getLogger("coordinator")
block_log = logging.getLogger("block")

DEFAULT_FILE = Path("input") / "big_file.txt"
# rejections after which one should come again
PASSING = ("shutdown", "timeout", "taken", "stale", "busy")
GO_ON = "; the same command goes on where this one stopped"
MOST_OWED = 16  # acknowledgements of one block: a few more than the server's rounds of repair
FOREVER = 5.0  # seconds; a wait that only a waker or the peer should end, and a late Ctrl-C must

# --- what callers get ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Receipt:
    """What became of one file; the fields of ``--json``.

    ``seconds`` go from its first FILE_START to the verdict. After a lost session the counts are
    those of the last one: what an earlier one had sent is among the ``resumed_bytes``.
    ``wire_bytes`` are the payload of all blocks that were sent, as often as they were.
    """

    verdict: str
    name: str
    saved_as: str
    bytes: int
    digest: str
    algorithm: str
    seconds: float
    blocks: int
    resent_blocks: int
    resumed_bytes: int
    streams: int
    durable: bool
    congestion: str  # what decided how fast TCP went; "" where the system does not say
    bottleneck: str  # what most of the time went into: see ``Spent``; "" for short ones
    wire_bytes: int


class FailedIntegrityError(IntegrityError):
    """INTEGRITY_FAILED, with its receipt."""

    def __init__(self, reason: str, receipt: Receipt) -> None:
        super().__init__(reason)
        self.receipt = receipt


class Progress:
    """Is told how a transfer goes; does nothing with it. ``Bar`` shows it."""

    def begin(self, name: str, size: int) -> None:
        """Take up a file of ``size`` bytes."""

    def phase(self, phase: str) -> None:
        """Note what happens now: connecting, waiting, sending, verifying."""

    def move(self, acknowledged: int) -> None:
        """Note how many bytes of the file the server has."""

    def end(self) -> None:
        """Be done with the file."""


Report = Callable[[Path, "Receipt | TransferError"], None]


def send_files(
    paths: Sequence[str | os.PathLike[str]],
    settings: ClientSettings = ClientSettings(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
    report: Report | None = None,
) -> list[Receipt]:
    """Send files through one session, in order, and return a receipt for each.

    A session that is lost is replaced, and the file under way goes on where it stopped. A file that
    is rejected, damaged or changed does not stop the others; the first such error is raised at the
    end. ``report`` is called for each file as soon as its fate is known. Raises only exceptions
    below ``protocol.TransferError``.
    """
    files = deque(Path(path) for path in paths)
    for path in files:
        Source(path).close()  # say what cannot be read before anything is sent
    if files and settings.token is None and settings.password is None:
        # asked for while no server waits for it
        password = auth.read_password(settings.user, None, settings.server)
        settings = dataclasses.replace(settings, password=password)
    outcomes: list[Receipt | TransferError] = []
    patience = Patience(settings)
    while files:
        try:
            with Session(settings, progress or Progress(), patience) as session:
                while files:
                    outcome = _outcome(session, files[0])
                    outcomes.append(outcome)
                    if report:
                        report(files[0], outcome)
                    files.popleft()
                    patience.next_file()
        except ConnectionLostError as error:
            patience.wait(error)
    for outcome in outcomes:
        if isinstance(outcome, TransferError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Receipt)]


def _outcome(session: Session, path: Path) -> Receipt | TransferError:
    """Send one file; an error that concerns only this file is an outcome like another."""
    try:
        return session.send(path)
    except (RejectedError, SourceError, IntegrityError) as error:
        return error


class Patience:
    """How long to try again, and what one file has achieved over several attempts. Main's own.

    A server that cannot be reached at the start is tried for ``timeout``; once a session stood, a
    lost one is replaced for ``PATIENCE`` times as long after the last movement, but for no more
    than ``RETRY_MOST`` sessions that moved and got no further than one before.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._timeout = settings.timeout
        self._deadline = Deadline(settings.timeout)
        self._pause = config.RETRY_FIRST
        self._stood = False
        self._told = ""  # the reason that the user has read
        self.next_file()

    def next_file(self) -> None:
        self.began: float | None = None  # when its first attempt did
        self._acknowledged = self._verified = 0  # bytes, the most so far
        self._fruitless = 0  # sessions without more than that
        self._deadline.put_off()

    def stood(self) -> None:
        """Note that a session stands."""
        self._told = ""
        self._fruitless += 1
        if not self._stood:
            self._stood = True
            self._deadline = Deadline(config.PATIENCE * self._timeout)

    def moved(self, acknowledged: int = 0, verified: int = 0) -> None:
        """Note how many bytes of the file the server has, and how many it has verified."""
        self._deadline.put_off()
        if acknowledged > self._acknowledged or verified > self._verified:
            self._acknowledged = max(acknowledged, self._acknowledged)
            self._verified = max(verified, self._verified)
            self._fruitless, self._pause = -1, config.RETRY_FIRST  # this one is not

    @property
    def achieved(self) -> bool:
        """Whether an earlier session brought something of this file across."""
        return self._acknowledged > 0

    def left(self) -> float:
        """Return the seconds left for one attempt to connect."""
        least = 5.0 if self._stood else 0.1  # a last attempt should be a fair one
        return min(self._timeout, max(least, self._deadline.left()))

    def wait(self, error: ConnectionLostError) -> None:
        """Pause before the next attempt, or raise ``error`` when there should be none."""
        hopeless = isinstance(error, UnknownHostError) and not self._stood
        if hopeless or self._deadline.passed or self._fruitless > config.RETRY_MOST:
            raise error
        pause = min(_jittered(self._pause), self._deadline.left())
        self._pause = min(2 * self._pause, config.RETRY_LONGEST)
        if str(error) != self._told:
            self._told = str(error)
            log.warning("%s: trying again, for %.0f s", error, self._deadline.left())
        time.sleep(pause)


# --- the input file -----------------------------------------------------------------------------


class Source:
    """An input file, open for reading; remembers how it was to notice if it changes. Any thread."""

    def __init__(self, path: Path) -> None:
        """Open a regular file. Raises ``SourceError`` for anything else."""
        self._path = path
        try:
            facts = os.stat(path)
            if not stat.S_ISREG(facts.st_mode):
                raise SourceError(f"{path}: {_kind(facts.st_mode)}")
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise SourceError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        self._facts = os.fstat(self._fd)
        self.size = self._facts.st_size
        try:
            if not self.size and self._has_more():
                raise SourceError(f"{path}: says it is empty but is not; copy it to a regular file")
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The name without folders, as text that has a UTF-8 form."""
        return os.fsencode(self._path.name).decode("utf-8", "replace")

    def _has_more(self) -> bool:
        try:
            return bool(os.pread(self._fd, 1, self.size))
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``SourceError`` if that cannot be."""
        while view:
            try:
                size = os.preadv(self._fd, [view], offset)
            except OSError as error:
                raise SourceError(f"{self._path}: {error.strerror}") from None
            if not size:
                raise SourceError(f"{self._path}: became shorter while it was sent; send it again")
            view, offset = view[size:], offset + size

    def head(self, length: int, algorithm: str) -> str:
        """Return the digest of the first ``length`` bytes, in hexadecimal."""
        view = memoryview(bytearray(min(length, self.size)))
        self.read(view, 0)
        return hashlib.new(algorithm, view).hexdigest()

    def check_unchanged(self) -> None:
        """Raise ``SourceError`` if the file is not the one that was opened, as it was then."""
        now = os.fstat(self._fd)
        same = (now.st_size, now.st_mtime_ns) == (self._facts.st_size, self._facts.st_mtime_ns)
        with contextlib.suppress(OSError):  # deleted: what was open has been sent
            same = same and os.path.samestat(os.stat(self._path), now)
        if not same:
            raise SourceError(f"{self._path}: changed while it was sent; send it again")

    def close(self) -> None:
        os.close(self._fd)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "is a folder; pack it into one file first, for example with tar"
    return "is not a regular file"


# --- one file's journey -------------------------------------------------------------------------


class Upload:
    """One file on its way out: what was hashed, what is not acknowledged.

    The lock protects every attribute that begins with an underscore. The three numbers of bytes are
    written under it, too, and read without. ``digests`` is written by the reader only, always
    before the block in question can be asked for.
    """

    def __init__(
        self, source: Source, algorithm: str, block_size: int, ready: FileReady, ring: Ring
    ) -> None:
        self.source = source
        self.number = ready.transfer
        self.blocks = Blocks(source.size, block_size)
        self.over = False  # set by main: whoever still works for it stops
        self.repairs = 0  # main's own, like the next
        self.repaired: list[str] = []  # what to tell about the first of them
        self.spent = Spent()
        self.digests = bytearray()  # running digest of each block, one behind the other
        self._digest_size = DIGEST_SIZES[algorithm]
        self._hash = hashlib.new(algorithm)
        self._ring = ring
        self._lock = threading.Lock()
        self.free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()  # buffers, see Reader
        self._held = self._flags(ready.have)  # 1 for a block that the server claims to have
        self._read = 0  # blocks
        self._sent_at: dict[int, float] = {}  # when each block that is awaited was sent last
        self._usual = 0.0  # seconds from there to the acknowledgement, smoothed
        self._moved_at = time.monotonic()  # when the last acknowledgement came ...
        # ... and it with those before it
        self._moves: deque[float] = deque(maxlen=config.STUCK_ROUNDS * config.MAX_STREAMS)
        self._twice: set[int] = set()  # went two ways, because the first lagged
        self._awaited: Counter[int] = Counter()  # acknowledgements owed for each block; a block
        # that is asked for again before its first acknowledgement came is owed two
        self.acknowledged = 0  # bytes that the server has
        self.carried = 0  # those of them that this session brought
        self.wire_bytes = 0  # of payload that were sent
        self._error: TransferError | None = None

    def _flags(self, held: Spans) -> bytearray:
        if held and held[-1][1] > self.blocks.count:
            raise RemoteProtocolError("the server has blocks that the file does not have")
        flags = bytearray(self.blocks.count)
        for first, end in held:
            flags[first:end] = b"\1" * (end - first)
        return flags

    @property
    def resumed_bytes(self) -> int:
        """The bytes that need not be sent, because the server has them."""
        with self._lock:
            held = self._held.count(1) * self.blocks.block_size
            short = self.blocks.block_size * self.blocks.count - self.blocks.size
            return held - (short if self._held[-1:] == b"\1" else 0)

    @property
    def digest(self) -> str:
        """The digest of what has been hashed, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def _stuck(self) -> float:
        """How many seconds without an acknowledgement are too many for a stream (any)."""
        return max(config.STUCK, config.STUCK_TIMES * self._usual)

    @property
    def still(self) -> float:
        """How many seconds ago the last acknowledgement came, on any stream (any)."""
        return time.monotonic() - self._moved_at

    def passed_by(self, silent: float, streams: int) -> bool:
        """Whether others got on while a stream heard nothing for ``silent`` seconds (a sender).

        Where a limit on the server lets ``streams`` of them have their turn one after the other,
        they do so once: who is passed by was left out twice.
        """
        if silent <= self._stuck or self.still >= silent / 2:
            return False
        with self._lock:
            rounds = list(self._moves)[-config.STUCK_ROUNDS * streams :]
        whole = len(rounds) == config.STUCK_ROUNDS * streams
        return whole and time.monotonic() - rounds[0] < silent

    @property
    def read(self) -> bool:
        """Whether the whole file has been read and hashed."""
        return self._read == self.blocks.count  # one read: no lock needed

    @property
    def delivered(self) -> bool:
        """Whether every block has been acknowledged; raises what a thread of ours ran into."""
        with self._lock:
            if self._error:
                raise self._error
            return self._read == self.blocks.count and not self._awaited

    def fail(self, error: TransferError) -> None:
        """Let main raise ``error`` (any thread)."""
        with self._lock:
            self._error = self._error or error
        self._ring()

    def hash_block(self, block: int, view: memoryview) -> bool:
        """Take the next block of the file into the running digest (reader).

        Returns whether the server has it: then it wants the digest and not the bytes.
        """
        self._hash.update(view)
        self.digests += self._hash.digest()
        with self._lock:
            self._awaited[block] += 1
            self._read = block + 1
            return self._held[block] == 1

    def digest_of(self, block: int) -> bytes:
        """Return the running digest of ``block``."""
        start = block * self._digest_size
        return bytes(self.digests[start : start + self._digest_size])

    def sent(self, block: int, size: int) -> None:
        """Note that ``block`` goes out with ``size`` bytes of payload (a sender)."""
        with self._lock:
            self._note_sent(block)
            self.wire_bytes += size

    def _note_sent(self, block: int) -> None:
        self._sent_at.pop(block, None)  # so that the oldest stay in front
        self._sent_at[block] = time.monotonic()

    def paced(self, seconds: float) -> None:
        """Note that the limit keeps a stream from sending (a sender)."""
        with self._lock:
            self.spent.paced.add(seconds)

    def confirm(self, block: int) -> None:
        """Note an acknowledgement (a sender): of a block that went two ways the first counts."""
        with self._lock:
            if block not in self._awaited:  # for its number a Counter would take longer
                return
            self._awaited[block] -= 1
            if self._awaited[block] > 0:
                return
            del self._awaited[block]
            self._moved_at = time.monotonic()
            self._moves.append(self._moved_at)
            took = self._moved_at - self._sent_at.pop(block, self._moved_at)
            self._usual += (took - self._usual) / (8 if self._usual else 1)
            self.acknowledged += self.blocks.length(block)
            self.carried += 0 if self._held[block] else self.blocks.length(block)
            done = self._read == self.blocks.count and not self._awaited
        if done:
            self._ring()

    def owes(self, block: int) -> bool:
        """Whether an acknowledgement of ``block`` is still wanted (a sender)."""
        with self._lock:
            return block in self._awaited

    def late(self, most: int, *, hasty: bool) -> list[int]:
        """Return up to ``most`` blocks that lag at the end of the file, to go another way (main).

        ``hasty`` where what is sent twice costs nobody anything: on a link with room and a long
        round trip. Elsewhere a block lags only when its stream is stuck.
        """
        patience = max(config.LATE_LEAST, config.LATE * self._usual) if hasty else self._stuck
        with self._lock:
            if self._read < self.blocks.count:
                return []
            limit = time.monotonic() - patience
            late = [block for block, at in self._sent_at.items() if at < limit][:most]
            for block in late:
                self._note_sent(block)
            self._twice.update(late)
            return late

    def went_twice(self, block: int) -> bool:
        """Whether ``late`` has ever named ``block`` (a sender)."""
        with self._lock:
            return block in self._twice

    def ask_again(self, block: int) -> bool:
        """Owe the bytes of ``block`` (main); ``False`` if the reader has yet to come to it.

        Raises ``RemoteProtocolError`` for one that is asked for over and over.
        """
        with self._lock:
            self._held[block] = 0
            if block >= self._read:
                return False
            if self._awaited[block] > MOST_OWED:
                raise RemoteProtocolError("the server asks for the same block without end")
            if not self._awaited[block]:
                self.acknowledged -= self.blocks.length(block)
            self._awaited[block] += 1
            return True


Ring = Callable[[], None]


@dataclass
class Block:
    """A block to be sent: from ``view`` while it is in memory, else read from the file again.

    Of one that the server holds only the running digest is sent.
    """

    upload: Upload
    index: int
    view: memoryview | None = None
    held: bool = False

    def free_buffer(self) -> None:
        """Give the buffer back to the reader (a sender)."""
        if self.view is not None:
            buffer, self.view = self.view.obj, None
            self.upload.free.put(buffer)  # type: ignore[arg-type]  # the reader made it


class BlockQueue:
    """Blocks to be sent, and the senders that have nothing to do. The lock protects both.

    A sender waits on its socket and its waker together, so that it hears acknowledgements, a lost
    connection and new blocks alike.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[Block] = deque()
        self._idle: dict[Waker, None] = {}  # the one that became idle last is the first to be woken

    def put(self, block: Block) -> None:
        """Add a block and wake one idle sender."""
        with self._lock:
            self._blocks.append(block)
            waker = self._idle.popitem()[0] if self._idle else None
        if waker:
            waker.ring()

    def get(self, waker: Waker) -> Block | None:
        """Take a block, or be noted as idle: ``waker`` rings when there is one."""
        with self._lock:
            self._idle.pop(waker, None)
            if self._blocks:
                return self._blocks.popleft()
            self._idle[waker] = None
            return None

    def leave(self, waker: Waker) -> None:
        """Stop being idle; a block meant for this sender goes to another."""
        with self._lock:
            self._idle.pop(waker, None)
            other = self._idle.popitem()[0] if self._blocks and self._idle else None
        if other:
            other.ring()

    def clear(self) -> None:
        with self._lock:
            self._blocks.clear()


class Spent:
    """Where the time of one file went, in seconds.

    The first two are the reader's, ``paced`` belongs to the upload's lock, the rest is known only
    when the verdict has come.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.reading = 0.0  # from the source
        self.hashing = 0.0
        self.paced = Pauses()  # of the senders, by our own limit

    def bottleneck(self, verdict: IntegrityOk, waits: tuple[float, float]) -> str:
        """Name what everything else waited for; ``waits`` is what the connections say of it."""
        total = time.monotonic() - self.began
        if total < config.NAMEABLE:
            return ""
        if self.reading + self.hashing > total * config.MOSTLY:
            return SOURCE if self.reading > self.hashing else HASHING
        busy, no_room = waits
        shares = (
            (LIMIT, self.paced.seconds / total),
            (SERVER_LIMIT, verdict.limited / 1000 / total),
            (SERVER_DISK, verdict.disk / 1000 / total),
            (SERVER_HASHING, verdict.hashing / 1000 / total),
            (SERVER, no_room / busy if busy else 0.0),
        )
        return next((name for name, share in shares if share > config.MOSTLY), NETWORK)


SOURCE, HASHING, LIMIT, NETWORK = "source disk", "hashing", "limit", "network"
SERVER, SERVER_DISK, SERVER_HASHING = "server", "server disk", "server hashing"
SERVER_LIMIT = "server limit"
_ADVICE = {
    SOURCE: "reading the file here",
    HASHING: "hashing here",
    LIMIT: "the limit of --limit",
    NETWORK: "the network",
    SERVER: "the server, which has others to serve or is slow",
    SERVER_DISK: "the server's disk",
    SERVER_HASHING: "hashing on the server",
    SERVER_LIMIT: "the server's limit for you",
}


def _advice(bottleneck: str, settings: ClientSettings) -> str:
    """Say what the time went into, and which option might help."""
    options = []
    if bottleneck in (HASHING, SERVER_HASHING) and settings.digest == "md5":
        options.append("--digest sha256")
    if bottleneck == NETWORK and settings.streams is not None:
        options.append("--streams auto")
    if bottleneck in (NETWORK, SERVER_LIMIT, LIMIT) and not settings.compress:
        options.append("--compress")
    hint = f" ({' or '.join(options)} may be faster)" if options else ""
    return f"; held up by {_ADVICE[bottleneck]}{hint}" if bottleneck else ""


class Reader(threading.Thread):
    """Reads a file once, in order, hashes it, and hands blocks to the senders.

    The upload's ``free`` holds the buffers that are not in use: when all are, the reader waits.
    ``None`` in it is a call to look whether the upload is over.
    """

    def __init__(self, upload: Upload, blocks: BlockQueue, buffers: int) -> None:
        super().__init__(name="reader", daemon=True)
        self._upload = upload
        self._blocks = blocks
        for _ in range(buffers):
            upload.free.put(bytearray())  # grows when it is used: small files need few

    def run(self) -> None:
        """Read it all, or until the upload is over."""
        try:
            for index in range(self._upload.blocks.count):
                if not self._read_block(index):
                    return
        except TransferError as error:
            self._upload.fail(error)
        except Exception as error:  # a bug of ours must not leave main waiting
            log.exception("the reader failed")
            self._upload.fail(TransferError(f"internal error: {error!r}"))

    def _read_block(self, index: int) -> bool:
        buffer = self._upload.free.get()
        if buffer is None or self._upload.over:
            return False
        spent, began = self._upload.spent, time.monotonic()
        blocks = self._upload.blocks
        length = blocks.length(index)
        view = memoryview(buffer if len(buffer) >= length else bytearray(length))[:length]
        self._upload.source.read(view, blocks.offset(index))
        read = time.monotonic()
        held = self._upload.hash_block(index, view)
        spent.reading += read - began
        spent.hashing += time.monotonic() - read
        self._blocks.put(Block(self._upload, index, view, held))
        return True


# --- compression --------------------------------------------------------------------------------


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Compression:
    """Compresses the blocks for which that pays; one for a session, used by all of its senders.

    A block goes raw while the senders hardly wait for the link, for then it is not the link that
    holds them up; and while more processor time has been used than ``COMPRESS_SHARE`` allows. One
    that does not shrink goes raw, too, and of the next ones only a small sample is tried, after
    pauses that grow: what cannot be compressed costs next to nothing.

    The lock protects what is known of the link and of the last blocks; one read needs none.
    """

    def __init__(self, codec: int, streams: int) -> None:
        (name,) = (name for name, number in COMPRESSIONS.items() if number == codec)
        self._codec = codec
        self._quick, self._thorough = config.COMPRESS_LEVELS[name]
        self._memory = config.COMPRESS_MEMORY * streams  # seconds of all senders together
        share = config.COMPRESS_SHARE * _processors()
        self._budget = TokenBucket(share, config.COMPRESS_BURST)  # of processor seconds
        self._budget.take(-share * config.COMPRESS_BURST / 2)  # half of it is saved up already
        self._lock = threading.Lock()
        self._waiting = 0.5  # part of their time that senders wait for the link; at first a guess
        self._shrinks = False  # whether the last block that was tried did
        self._pause = 0  # blocks that go raw until the next sample ...
        self._left = 0  # ... and how many of them are left

    def pack(self, view: memoryview, behind: int) -> tuple[int, memoryview]:
        """Return the codec and the payload that a block is to be sent with (a sender).

        ``behind`` is the number of the sender's blocks that are not acknowledged.
        """
        level = self._level(behind)
        if level is not None and (self._shrinks or self._sample_shrinks(view)):
            payload = self._compress(view, level)
            shrinks = _shrinks(payload, view)
            self._learn(shrinks=shrinks)
            if shrinks:
                return self._codec, payload
        return CODEC_RAW, view

    def note_wait(self, waited: float, worked: float, behind: int) -> None:
        """Note how many seconds a sender waited for the link, and how many it did not."""
        seconds = waited + worked
        with self._lock:
            compresses = self._waiting >= config.COMPRESS_WAIT / 2
            if waited or behind <= config.COMPRESS_BEHIND or not compresses:
                weight = min(1.0, seconds / self._memory)
                self._waiting += weight * (waited / seconds - self._waiting)

    def _level(self, behind: int) -> int | None:
        """Return how thoroughly to compress now, ``None`` for not at all.

        In doubt, between half of ``COMPRESS_WAIT`` and all of it, a block goes raw only where the
        link would run dry. On a slow link raw blocks would fill the system's buffers before anybody
        has to wait, and the rest would stand behind them.
        """
        waiting = self._waiting
        busy, saved = behind > config.COMPRESS_BEHIND, self._budget.saved
        least = config.COMPRESS_WAIT / 2 if busy else config.COMPRESS_WAIT
        if waiting < least or saved < 0:
            return None
        return self._thorough if (busy or waiting > 0.5) and saved > 0.5 else self._quick

    def _sample_shrinks(self, view: memoryview) -> bool:
        """Try the middle of a block, if it is time to."""
        with self._lock:
            if self._left > 0:
                self._left -= 1
                return False
        start = max(0, len(view) - config.COMPRESS_SAMPLE) // 2
        sample = view[start : start + config.COMPRESS_SAMPLE]
        shrinks = _shrinks(self._compress(sample, self._quick), sample)
        if not shrinks:
            self._learn(shrinks=False)
        return shrinks

    def _learn(self, *, shrinks: bool) -> None:
        with self._lock:
            self._shrinks = shrinks
            longer = min(max(1, 2 * self._pause), config.COMPRESS_PAUSE)
            self._left = self._pause = 0 if shrinks else longer

    def _compress(self, view: memoryview, level: int) -> memoryview:
        """Do it, and pay for it."""
        began = time.thread_time()
        payload = compress(self._codec, level, view)
        self._budget.take(time.thread_time() - began)
        return payload


def _shrinks(payload: memoryview, view: memoryview) -> bool:
    return len(payload) < config.COMPRESS_WORTH * len(view)


# --- connections --------------------------------------------------------------------------------


class Stop(Exception):  # noqa: N818  (not an error)
    """The session ends: whoever waits stops waiting."""


class UnknownHostError(ConnectionLostError):
    """There is no such host; trying again would not help."""


def _resolve(host: str, port: int) -> list[Any]:
    """Find the addresses of ``host``. Raises ``ConnectionLostError`` when there are none."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        later = getattr(error, "errno", None) == socket.EAI_AGAIN  # the name service is away
        kind = ConnectionLostError if later else UnknownHostError
        raise kind(f"{printable(host)}: {reason}") from None


def _open_socket(
    family: int, address: Any, until: Callable[[socket.socket], bool]
) -> socket.socket:
    """Connect; ``until`` waits for that and says whether it has happened. Raises ``OSError``."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            connected = until(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            code = code if connected else errno.ETIMEDOUT
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(settings: ClientSettings, timeout: float, tls: ssl.SSLContext | None) -> Connection:
    """Connect to the first address of the server that answers; each has its share of the time."""
    host, port = settings.server, settings.port
    problem = OSError(0, "no address")
    addresses, deadline = _resolve(host, port), Deadline(timeout)
    for number, (family, _, _, _, address) in enumerate(addresses):
        share = deadline.left() / (len(addresses) - number)
        try:
            sock = _open_socket(family, address, partial(wait, timeout=share, write=True))
        except OSError as error:
            problem = error
        else:
            return Connection(sock, Side.CLIENT, tls, host)
    raise lost(f"{printable(host)}:{port}", problem)


def _jittered(pause: float) -> float:
    """Spread retries, so that many clients do not come back in the same instant."""
    return pause * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)


def _hear_hello(connection: Connection, settings: ClientSettings) -> Hello:
    """Wait for the server's HELLO. Raises ``RemoteProtocolError`` for one of no use to us."""
    hello = connection.answer(settings.timeout)
    if not isinstance(hello, Hello) or hello.version != VERSION:
        raise RemoteProtocolError(f"the server does not speak version {VERSION}")
    if settings.digest not in hello.features:
        raise RemoteProtocolError(f"the server does not know {settings.digest}")
    return hello


def _show_token(connection: Connection, settings: ClientSettings) -> tuple[Hello, AuthOk]:
    """Log in with a token. Who reads it on the way can use it: only where nobody can.

    So the server's HELLO comes first: another program at this port must not be shown it.
    """
    assert settings.token is not None
    if not connection.secure and not is_loopback(str(connection.address[1][0])):
        raise UsageError("a token is shown to the server only over TLS: add --tls")
    hello = _hear_hello(connection, settings)
    welcome = connection.call(AuthStart(TOKEN, settings.token), settings.timeout)
    if not isinstance(welcome, AuthOk):
        raise AuthenticationError("the server does not take tokens")
    return hello, welcome


def _prove_password(connection: Connection, settings: ClientSettings) -> tuple[Hello, AuthOk]:
    """Prove that we know the password and let the server prove that it knows us (RFC 5802).

    Over TLS the server's HELLO comes first: only it says whether the login can be bound to our
    connection, which may end in front of the server.
    """
    assert settings.password is not None  # send_files has found it
    certificate = connection.certificate
    binding = auth.server_end_point(certificate) if certificate else None
    hello = _hear_hello(connection, settings) if binding else None
    plus = hello is not None and auth.SCRAM_PLUS in hello.features
    login = auth.ScramClient(settings.user, settings.password, binding=binding, plus=plus)
    connection.send(AuthStart(login.mechanism, login.first()))
    hello = hello or _hear_hello(connection, settings)
    challenge = connection.answer(settings.timeout)
    if not isinstance(challenge, AuthChallenge):
        raise AuthenticationError("the server let us in without a proof of its own")
    welcome = connection.call(AuthResponse(login.respond(challenge.data)), settings.timeout)
    assert isinstance(welcome, AuthOk)
    login.check_server(welcome.data)
    return hello, welcome


class Sender:
    """One of the pool's threads, with one long-lived data connection that carries every file."""

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self._number = number
        self._extra: deque[Block] = deque()  # for this sender and no other; main puts them there
        self._settings = session.settings
        self._waker = Waker()
        self.connection: Connection | None = None  # the latest; main asks it how it goes
        self._unacknowledged: dict[tuple[int, int], list[Block]] = {}
        self._pause = config.RETRY_FIRST
        self._bad_frames = 0  # since the last acknowledgement
        self._silence = Deadline(self._settings.timeout)  # of the server, on this connection
        self._congestion = ""  # what was chosen for this connection; "" is the system's own
        self._system = ""  # what that is
        self._waited = 0.0  # seconds, for the link, since ...
        self._told_at = time.monotonic()  # ... the last block was compressed, or went raw

    def stop(self) -> None:
        """End whatever it waits for, once the session is ending (main)."""
        self._waker.ring()
        if self.connection:
            self.connection.cut()

    def close(self) -> None:
        """Release what ``stop`` needs, when the thread has ended (main)."""
        self._waker.close()

    def wake(self) -> None:
        """Have it look whether there is something to do (main)."""
        self._waker.ring()

    @property
    def free(self) -> bool:
        """Whether nothing is under way on it (any): a stale answer costs a block sent twice."""
        return self.connection is not None and not self._unacknowledged and not self._extra

    def hand(self, block: Block) -> None:
        """Have this very sender send ``block`` (main)."""
        self._extra.append(block)
        self._waker.ring()

    def run(self) -> None:
        """Send blocks until the session ends; a lost connection is replaced."""
        with contextlib.suppress(Stop):
            while not self._session.ending.is_set():
                try:
                    self._connect_and_send()
                except SessionLostError:
                    raise  # main has to log in again
                except (ConnectionLostError, RemoteProtocolError) as error:
                    self._bad_frames += isinstance(error, RemoteProtocolError)
                    if self._bad_frames >= config.BAD_FRAMES:
                        raise
                    done = self._unacknowledged and not self._owed()  # all of it went another way
                    self._give_back()
                    if not done:
                        self._pause_after(error)

    def _connect_and_send(self) -> None:
        """Use a new data connection until it is lost or the session ends."""
        self._waker.quiet()  # a ring that came too late for the last connection
        if self._session.ending.is_set():  # looked at after quiet: it is set before the ring
            raise Stop
        family, address = self._session.address
        try:
            sock = _open_socket(family, address, self._until_connected)
        except OSError as error:
            raise lost(f"{address[0]}:{address[1]}", error) from error
        self.connection = Connection(sock, Side.CLIENT, self._session.tls, self._settings.server)
        try:
            if self._session.ending.is_set():  # again: ``stop`` may have found nothing to cut
                raise Stop
            self.connection.secure_channel(self._settings.timeout)
            if self._session.far:
                self.connection.keep_unsent(config.UNSENT)
            self._congestion, self._system = "", self.connection.congestion
            self._adapt(self.connection)
            self.connection.send(Hello(VERSION, FEATURES))
            self.connection.send(Attach(self._session.token))  # and blocks, before any answer
            self._send_blocks(self.connection)
        finally:
            self.connection.close()

    def _adapt(self, connection: Connection) -> None:
        """Have TCP go by what main wants it to go by."""
        self._congestion = self._session.streams.congestion
        connection.choose_congestion(self._congestion or self._system)
        self._session.congestion = connection.congestion

    def _until_connected(self, sock: socket.socket) -> bool:
        """Wait for ``sock``; ``False`` if it takes too long. Raises ``Stop``."""
        deadline = Deadline(self._settings.timeout)
        while not wait(sock, deadline.left(), write=True, waker=self._waker):
            self._waker.quiet()
            if self._session.ending.is_set():
                raise Stop
            if deadline.passed:
                return False
        return True

    def _pause_after(self, error: TransferError) -> None:
        if self._session.ending.is_set():
            return
        pause = _jittered(self._pause)
        self._pause = min(2 * self._pause, config.RETRY_LONGEST)
        level = self._session.loss_level()
        log.log(level, "a data connection was lost (%s); again in %.1f s", error, pause)
        self._session.ending.wait(pause)

    def _give_back(self) -> None:
        blocks = list(itertools.chain.from_iterable(self._unacknowledged.values()))
        self._unacknowledged.clear()
        self._session.queue.leave(self._waker)
        for block in blocks:
            if block.upload.owes(block.index):
                self._session.queue.put(block)

    def _send_blocks(self, connection: Connection) -> None:
        """Send what the queue has, hear acknowledgements as they come; ends by an exception."""
        self._silence.put_off()
        in_a_row = 0
        while True:
            if self._congestion != self._session.streams.congestion:
                self._adapt(connection)
            block = self._next_block()
            if block:
                if not self._unacknowledged:
                    self._silence.put_off()
                self._pace(connection, block, self.send_file_block(connection, block))
                in_a_row += 1
                if in_a_row < config.ACK_EVERY:
                    continue
            in_a_row = 0
            if block or self._wait(connection):
                self._hear_acks(connection)

    def _pace(self, connection: Connection, block: Block, sent: int) -> None:
        """Stay away for as long as the limit says of ``sent`` bytes, hearing acknowledgements."""
        bucket = self._session.bucket
        if bucket is None or not sent:
            return
        began = time.monotonic()
        seconds = bucket.take(sent)
        pause = Deadline(seconds)
        block.upload.paced(seconds)
        while not pause.passed:
            if connection.wait(pause.left(), waker=self._waker):
                self._hear_acks(connection)
            elif self._waker.quiet() and self._session.ending.is_set():
                raise Stop
        self._silence.put_off()  # what was not asked for cannot have been answered
        self._waited += time.monotonic() - began

    def _next_block(self) -> Block | None:
        if self._number >= self._session.streams.count:  # fewer are wanted
            self._session.queue.leave(self._waker)
            return None
        if len(self._unacknowledged) >= config.MAX_UNACKNOWLEDGED:
            return None
        block = self._take_block()
        while block and block.upload.over:
            block.free_buffer()
            block = self._take_block()
        return block

    def _take_block(self) -> Block | None:
        if not self._extra:
            return self._session.queue.get(self._waker)
        self._session.queue.leave(self._waker)  # who is busy is not to be woken for the next one
        return self._extra.popleft()

    def _leave_if_overtaken(self) -> None:
        """Raise if the others leave this one behind: a new connection is faster."""
        oldest = next(iter(self._unacknowledged.values()), None)
        if not oldest:
            return
        upload = oldest[0].upload
        if upload.over and upload.went_twice(oldest[0].index):
            raise ConnectionLostError("it lags, and what it carries went another way")
        if upload.passed_by(self._silence.lasted, self._session.streams.count):
            raise ConnectionLostError("it lags behind the others")

    def _patience_left(self) -> float:
        """Return for how many seconds more the server may be silent before this counts as dead.

        While others get on, it has the time in which ``passed_by`` finds it too slow: with a limit
        on the server many streams wait long for their turn, and one that is given up meanwhile
        would keep its place there until that turn comes.
        """
        oldest = next(iter(self._unacknowledged.values()), None)
        others = self._settings.timeout - oldest[0].upload.still if oldest else 0.0
        return max(self._silence.left(), others)

    def _owed(self) -> bool:
        """Whether the server owes us an acknowledgement that somebody waits for."""
        return any(not of[0].upload.over for of in self._unacknowledged.values())

    def _wait(self, connection: Connection, *, write: bool = False) -> bool:
        """Wait for the server or a new block; return whether the server has something for us."""
        owed = write or self._owed()
        most = min(self._patience_left(), config.STUCK / 2) if owed else FOREVER
        ready = connection.wait(most, write=write, waker=self._waker)
        if not ready:
            self._waker.quiet()
        if self._session.ending.is_set():
            raise Stop
        self._leave_if_overtaken()
        if not ready and owed and not self._patience_left():
            raise ConnectionLostError(f"no sign of the server for {self._settings.timeout:g} s")
        return ready

    def _hear_acks(self, connection: Connection) -> None:
        for ack in connection.receive_acks():
            blocks = self._unacknowledged.get(ack)
            if not blocks:
                raise RemoteProtocolError("the server acknowledges a block it was never sent")
            blocks.pop().upload.confirm(ack.block)
            if not blocks:
                del self._unacknowledged[ack]
            self._pause, self._bad_frames = config.RETRY_FIRST, 0
            self._silence.put_off()

    def send_file_block(self, connection: Connection, block: Block) -> int:
        """Send one block, chunk by chunk; its buffer goes back to the reader.

        Returns the bytes of its payload.
        """
        upload, index = block.upload, block.index
        sent = 0
        try:
            codec, payload = self._payload(block)
            sent = len(payload)
            self._unacknowledged.setdefault((upload.number, index), []).append(block)
            length, digest = upload.blocks.length(index), upload.digest_of(index)
            header = BlockHeader(upload.number, index, length, sent, codec, digest)
            upload.sent(index, sent)
            self._push(connection, encode_header(header), payload)
        except SourceError as error:
            upload.fail(error)
        finally:
            block.free_buffer()
        block_log.debug("block %d %s", index, "is held" if block.held else "sent")
        return sent

    def _payload(self, block: Block) -> tuple[int, memoryview]:
        """Return what to send of a block, and its codec. Raises ``SourceError``."""
        if block.held:
            return CODEC_HELD, memoryview(b"")
        view = block.view or self._read_again(block)
        compression = self._session.compression
        if compression is None:
            return CODEC_RAW, view
        behind = len(self._unacknowledged)
        self._tell_wait(compression, behind)
        return compression.pack(view, behind)

    def _tell_wait(self, compression: Compression, behind: int) -> None:
        """Say how long the link has made us wait since the last block."""
        now = time.monotonic()
        worked = min(max(now - self._told_at - self._waited, 1e-6), config.COMPRESS_IDLE)
        compression.note_wait(self._waited, worked, behind)
        self._waited, self._told_at = 0.0, now

    def _push(self, connection: Connection, header: bytes, view: memoryview) -> None:
        """Send chunk by chunk; the header goes in one segment with the first."""
        chunk = self._settings.chunk_size
        connection.push(header, view[:chunk])
        for start in range(chunk, len(view), chunk):
            if connection.unsent:
                self._drain(connection)
            connection.push(view[start : start + chunk])
        if connection.unsent:
            self._drain(connection)

    def _read_again(self, block: Block) -> memoryview:
        """Read a block that was sent before; what changed since then, the server will notice."""
        blocks = block.upload.blocks
        view = memoryview(bytearray(blocks.length(block.index)))
        block.upload.source.read(view, blocks.offset(block.index))
        return view

    def _drain(self, connection: Connection) -> None:
        """Wait until the system has taken everything; hear acknowledgements meanwhile."""
        began = time.monotonic()
        while not connection.flush():
            unsent = connection.unsent
            self._wait(connection, write=True)
            self._hear_acks(connection)
            if connection.flush() or connection.unsent < unsent:
                self._silence.put_off()
        self._waited += time.monotonic() - began


# --- how many streams ---------------------------------------------------------------------------


class Climber:
    """Looks for the number of streams that carries the most, by acknowledged bytes alone.

    More are tried for as long as they pay; later, now and then, some more or some fewer. Knows no
    socket and no clock: instants come in seconds, of any clock.
    """

    def __init__(
        self, first: int, most: int, period: float, full: Callable[[], bool] = lambda: False
    ) -> None:
        """Start with ``first`` streams; measure for ``period`` seconds between two changes.

        ``full`` says whether the link cannot carry more, as far as one can see that without trying.
        """
        self.count = first
        self._full = full
        self._most = most
        self._period = period
        self.measured_since = 0.0
        self._before: tuple[int, float] | None = None  # streams and goodput before the trial
        self._up = True  # the way of the trial that runs or comes next
        self._steep = True  # double until it does not pay
        self._hold_until = 0.0
        self._last = self._rested = 0.0  # goodput: of the last period, and before the last turn
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Measure anew from ``now`` on."""
        self.measured_since, self._bytes = now, 0

    def look(self, now: float, carried: int) -> int:
        """Take the bytes that were acknowledged since the last look; return the streams to use."""
        elapsed = now - self.measured_since
        self._bytes += carried if elapsed > 0 else 0
        if elapsed >= self._period * (1 if self._steep else config.STREAM_CARE) and self._bytes:
            goodput = self._bytes / elapsed
            self.begin(now)
            self._judge(goodput, now)
        return self.count

    def _judge(self, goodput: float, now: float) -> None:
        steady, self._last = goodput < self._last * config.STREAM_GAIN, goodput
        if self._before is None:
            if goodput < self._rested * config.STREAM_DROP:  # the link is not what it was
                self._up, self._steep, self._hold_until = True, True, now
            if steady and now >= self._hold_until and not (self._up and self._full()):
                self._try(goodput, now)  # not steady: those there are still get going
            return
        (count, before), self._before = self._before, None
        if goodput >= before * (config.STREAM_GAIN if self._up else 1):
            self._try(goodput, now)
        else:
            self.count, self._rested = count, before
            self._turn(now)

    def _try(self, goodput: float, now: float) -> None:
        """Go one step further the same way, or turn where there is no further."""
        step = self.count if self._steep else max(1, self.count // (2 if self._up else 4))
        count = max(1, min(self._most, self.count + (step if self._up else -step)))
        if count == self.count:
            self._turn(now)
            return
        self._before, self.count = (self.count, goodput), count
        self.begin(now + self._period)  # what was under way is no part of the trial

    def _turn(self, now: float) -> None:
        self._up, self._steep = not self._up, False
        self._hold_until = now + config.STREAM_HOLD


class Streams:
    """The senders of a session: those that work, and how many should. Main's own.

    Senders read ``count`` and ``congestion`` without a lock: who reads them late sends one block
    more in the old way.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.most = session.settings.streams or config.AUTO_STREAMS
        self.count = 0  # senders with a lower number may send
        self.congestion = ""  # what TCP shall go by; "" is the system's own choice
        self._pool = ThreadPoolExecutor(self.most, thread_name_prefix="sender")
        self._senders: list[Sender] = []
        self._futures: list[Future[None]] = []
        self._climber: Climber | None = None
        self._climbed = 0  # where the climber was at the last look
        self._carried = 0  # bytes of the file, at the last look

    def start(self) -> None:
        """Begin with as many as the settings and the link suggest."""
        first, far = self._session.settings.streams, self._session.far
        if first is None:
            first = config.FAR_STREAMS if far else config.STREAMS
            period = max(config.STREAM_PERIOD, config.STREAM_TRIPS * self._session.round_trip)
            self._climber = Climber(first, self.most + far, period, self._full)  # far: see _use
        self._use(first)

    def _use(self, count: int) -> None:
        """Use ``count`` streams; one more than the most means all of them, and another TCP."""
        self._climbed = count
        chosen = self._session.far and (count > self.most or self._climber is None)
        self.congestion = self._session.settings.congestion if chosen else ""
        self.count = min(count, self.most)
        while len(self._senders) < self.count:
            sender = Sender(self._session, len(self._senders))
            self._senders.append(sender)
            self._futures.append(self._pool.submit(sender.run))
        for sender in self._senders:
            sender.wake()

    def begin(self) -> None:
        """A file begins: what was before says nothing, and who still lags with it shall not."""
        for sender in self._senders:
            sender.wake()
        self._carried = 0
        if self._climber:
            self._climber.begin(time.monotonic())

    def look(self, upload: Upload) -> None:
        """Change the number where that may pay; help blocks that lag at the end."""
        carried = upload.carried
        if self._climber:
            count = self._climber.look(time.monotonic(), max(0, carried - self._carried))
            if count != self._climbed:
                self._use(count)
                log.debug("data connections: %d (%s)", self.count, self.congestion or "as usual")
        self._carried = carried
        if upload.read:
            self._help(upload)

    def _help(self, upload: Upload) -> None:
        """Send the last blocks that lag another way, too: there is nothing else to send."""
        free = [sender for sender in self._senders[: self.count] if sender.free]
        hasty = self._session.far and not self._full()
        for sender, block in zip(free, upload.late(len(free), hasty=hasty)):
            block_log.debug("block %d lags: it goes another way, too", block)
            sender.hand(Block(upload, block))

    def _full(self) -> bool:
        """Whether what is sent waits on a far link, so that more of it would only wait longer."""
        connections = [sender.connection for sender in self._senders[: self.count]]
        waits = sorted(one.queueing if one else 1.0 for one in connections)
        return self._session.far and waits[len(waits) // 2] > config.FULL

    def waits(self) -> tuple[float, float]:
        """Return how long data was under way, and how much of that the server had no room."""
        waits = [sender.connection.waits for sender in self._senders if sender.connection]
        return sum(busy for busy, _ in waits), sum(no_room for _, no_room in waits)

    def check(self) -> None:
        """Raise what a sender ended with."""
        for future in self._futures:
            if future.done():
                future.result()
                raise ConnectionLostError("a sender has ended")

    def stop(self) -> None:
        """End whatever they wait for, once the session is ending."""
        for sender in self._senders:
            sender.stop()

    def close(self) -> None:
        """Wait for their end and release them."""
        self._pool.shutdown(wait=True)
        for sender in self._senders:
            sender.close()


# --- the session --------------------------------------------------------------------------------


class Session:
    """Logged in on a coordinator connection, with senders that stay for every file. Main's own.

    Use it as a context manager: leaving it says goodbye and ends the threads.
    """

    def __init__(self, settings: ClientSettings, progress: Progress, patience: Patience) -> None:
        self.settings = settings
        self.progress = progress
        self._lost_at = 0.0  # when a lost data connection was last told of
        self._patience = patience
        self.queue = BlockQueue()
        self.streams = Streams(self)
        self.round_trip = 0.0  # seconds
        self.congestion = ""  # what a data connection said of it last
        self.ending = threading.Event()
        self.token = ""
        self.address: tuple[int, Any] = (0, None)  # family and address of the server
        self.bucket = TokenBucket(settings.limit) if settings.limit else None
        self.compression: Compression | None = None
        self.tls = auth.client_tls(settings.ca) if settings.tls or settings.ca else None
        self._coordinator: Connection | None = None
        self._waker = Waker()

    def __enter__(self) -> Session:
        """Connect, log in, start the senders. Raises below ``TransferError``."""
        try:
            self._log_in()
            self.streams.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye, end the senders, release everything.

        Goodbye says that the last verdict was read: a session that broke off must not say it.
        """
        self.ending.set()
        self.streams.stop()
        if self._coordinator:
            with contextlib.suppress(TransferError):
                if self._coordinator.state is State.READY:
                    self._coordinator.send(Goodbye())
            self._coordinator.close()
        self.streams.close()
        self._waker.close()

    def _log_in(self) -> None:
        settings = self.settings
        self.progress.phase("connecting")
        timeout = self._patience.left()
        coordinator = self._coordinator = _connect(settings, timeout, self.tls)
        coordinator.secure_channel(timeout)
        coordinator.send(Hello(VERSION, FEATURES))
        log_in = _prove_password if settings.token is None else _show_token
        hello, welcome = log_in(coordinator, settings)
        self.token, self.address = welcome.token, coordinator.address
        self.round_trip = coordinator.round_trip
        self._patience.stood()
        who = "by token" if settings.token else f"as {settings.user}"
        how = " over TLS" if coordinator.secure else ""
        coordinator_log.info("logged in at %s%s %s (priority %d)",
                             coordinator.peer, how, who, welcome.priority)  # fmt: skip
        if settings.compress:
            self.compression = self._choose_compression(hello)

    def _choose_compression(self, hello: Hello) -> Compression | None:
        codec = common_codec(hello.features)
        if codec == CODEC_RAW:
            log.warning("the server takes nothing compressed: blocks go as they are")
            return None
        return Compression(codec, self.settings.streams or config.STREAMS)

    @property
    def _control(self) -> Connection:
        assert self._coordinator is not None  # __enter__ has made it
        return self._coordinator

    @property
    def far(self) -> bool:
        """Whether the server is far away (any)."""
        return self.round_trip >= config.FAR

    def block_size(self, size: int) -> int:
        """Return the bytes of a block for a file of ``size`` bytes.

        It depends on nothing that the link may do: an attempt to go on has to arrive at the same.
        """
        settings, most = self.settings, config.MAX_BLOCK_SIZE
        block_size = settings.block_size or config.BLOCK_SIZE
        if settings.block_size is None:
            while size > block_size * config.AUTO_BLOCKS and block_size < most:
                block_size = min(2 * block_size, most)
        if settings.limit:  # each stream should have something to do in every second
            share = settings.limit // (settings.streams or config.STREAMS)
            block_size = min(block_size, max(config.MIN_BLOCK_SIZE, share))
        return block_size

    def loss_level(self) -> int:
        """Return how loud to tell of a lost data connection: they are often lost together."""
        now, before = time.monotonic(), self._lost_at
        self._lost_at = now
        return logging.DEBUG if now - before < 1 else logging.WARNING

    def send(self, path: Path) -> Receipt:
        """Send one file and return its receipt. Raises below ``TransferError``."""
        source = Source(path)
        began = self._patience.began = self._patience.began or time.monotonic()
        try:
            self.progress.begin(source.name, source.size)
            upload = self._start(source)
            receipt = self._send_upload(upload)
            self.progress.move(source.size)
        except ConnectionLostError:
            raise  # the bar stays: the next session goes on with it
        except BaseException:
            self.progress.end()
            raise
        finally:
            source.close()
        self.progress.end()
        seconds = time.monotonic() - began
        return self._finished(dataclasses.replace(receipt, seconds=seconds))

    def _finished(self, receipt: Receipt) -> Receipt:
        if receipt.verdict == "INTEGRITY_FAILED":
            raise FailedIntegrityError(f"{receipt.name}: the file did not arrive intact", receipt)
        rate = receipt.bytes / max(receipt.seconds, 1e-9)
        why, length = "", receipt.bytes - receipt.resumed_bytes
        if self.settings.compress and length:
            why = f", compressed to {100 * receipt.wire_bytes / length:.0f} %"
        why += _advice(receipt.bottleneck, self.settings)
        log.info("%s arrived: %s in %.2f s (%s/s)%s", receipt.name, format_size(receipt.bytes),
                 receipt.seconds, format_size(rate), why, extra=SUCCESS)  # fmt: skip
        return receipt

    def _start(self, source: Source) -> Upload:
        """Announce a file and wait until the server is ready for it."""
        settings = self.settings
        if self._control.state is not State.READY:
            raise ConnectionLostError("the server did not say that the last file is given up")
        self.progress.phase("waiting")
        size, algorithm = self.block_size(source.size), settings.digest
        resume = settings.resume or self._patience.achieved  # at least what we sent ourselves
        head = source.head(size, algorithm)
        self._control.send(FileStart(source.name, source.size, size, algorithm, head, resume))
        position = 0
        while True:
            message = self._control.answer(settings.timeout)
            if isinstance(message, FileReady):
                return self._ready(source, size, message)
            self._patience.moved()
            if isinstance(message, Queued) and message.position != position:
                position = message.position
                coordinator_log.info("waiting for our turn: position %d", position)
            self._refuse_rejected(source.name, message)

    def _ready(self, source: Source, block_size: int, ready: FileReady) -> Upload:
        upload = Upload(source, self.settings.digest, block_size, ready, self._waker.ring)
        if upload.resumed_bytes:
            had, size = format_size(upload.resumed_bytes), format_size(source.size)
            coordinator_log.info("going on with %s: the server has %s of %s",
                                 source.name, had, size)  # fmt: skip
        return upload

    def _send_upload(self, upload: Upload) -> Receipt:
        """Have an upload read, sent and judged; whatever happens, nobody works for it after."""
        self.progress.phase("sending")
        size = upload.blocks.block_size
        buffers = min(self.streams.most + config.READ_AHEAD, config.READ_AHEAD_BYTES // size)
        reader = Reader(upload, self.queue, buffers)
        try:
            reader.start()
            return self._supervise(upload)
        except SourceError:
            self._cancel()
            raise
        finally:
            upload.over = True
            upload.free.put(None)
            if reader.ident is not None:  # not interrupted before it began
                reader.join()
            self.queue.clear()

    def _supervise(self, upload: Upload) -> Receipt:
        """Answer the server while blocks flow; return the verdict's receipt."""
        self.streams.begin()
        complete = claimed = False  # what TRANSFER_COMPLETE has said; the latter since a MISSING
        silence = Deadline(config.PATIENCE * self.settings.timeout)  # senders reconnect meanwhile
        heard = Deadline(self.settings.timeout)  # of the server, once it is its turn
        moved = (0, 0)  # bytes acknowledged, bytes verified
        while True:
            self.streams.check()
            if not claimed and upload.delivered:
                complete = claimed = self._complete(upload, delivered=True)
            elif not complete and upload.read:
                complete = self._complete(upload, delivered=False)
            message = self._next_message()
            if isinstance(message, Missing) and message.transfer == upload.number:
                self._send_again(upload, message)
                claimed = False
            elif message:
                receipt = self._judged(upload, message)
                if receipt:
                    return receipt
            if message or not claimed:
                heard.put_off()
            self.streams.look(upload)
            verified = max(moved[1], message.verified if isinstance(message, Verifying) else 0)
            if (upload.acknowledged, verified) != moved:
                moved = upload.acknowledged, verified
                self.progress.move(moved[0])
                self._patience.moved(*moved)
                silence.put_off()
            if silence.passed or heard.passed:
                raise ConnectionLostError(f"{self._control.peer}: no progress for too long")

    def _next_message(self) -> Message | None:
        """Return the next message, or ``None`` after a moment or when a thread of ours rang."""
        message = self._control.receive()
        if message is None:
            self._control.wait(
                config.BAR_INTERVAL, write=not self._control.flush(), waker=self._waker
            )
            self._waker.quiet()
            message = self._control.receive()
        if message:
            raise_error(message)
        if isinstance(message, Ping) and not self._control.unsent:  # else one answer is on its way
            self._control.send(Pong())
        return message

    def _complete(self, upload: Upload, *, delivered: bool) -> bool:
        """Say that all is read, or delivered: the sooner, the sooner there is a verdict."""
        upload.source.check_unchanged()
        if delivered:
            self.progress.phase("verifying")
        self._control.send(TransferComplete(upload.number, upload.digest, delivered))
        return True

    def _send_again(self, upload: Upload, message: Missing) -> None:
        self.progress.phase("sending")
        for first, end in message.blocks:
            if end > upload.blocks.count:
                raise RemoteProtocolError("the server asks for a block that the file does not have")
            if upload.repairs < config.REPAIRS_TOLD:
                what = _what_happened(upload.blocks, first, end, message.reason)
                upload.repaired.append(what)
                log.warning("%s: sent again", what)
            upload.repairs += 1
            for index in range(first, end):
                if upload.ask_again(index):
                    self.queue.put(Block(upload, index))

    @staticmethod
    def _tell_repairs(upload: Upload) -> None:
        """Say that what was repaired is right now."""
        for what in upload.repaired:
            log.info("%s: sent again, ok", what, extra=SUCCESS)
        more = upload.repairs - len(upload.repaired)
        if more > 0:
            log.info("and %d more, all ok", more, extra=SUCCESS)

    def _judged(self, upload: Upload, message: Message) -> Receipt | None:
        """Turn a verdict into a receipt; other messages only show that the server lives."""
        self._refuse_rejected(upload.source.name, message)
        if isinstance(message, IntegrityFailed):
            upload.source.check_unchanged()  # then that was the reason
            log.error("%s: %s", upload.source.name, printable(message.reason))
            return self._receipt(upload, None)
        if not isinstance(message, IntegrityOk):
            return None
        if (message.digest, message.size) != (upload.digest, upload.source.size):
            raise RemoteProtocolError("the server's verdict is about another file")
        self._tell_repairs(upload)
        return self._receipt(upload, message)

    def _receipt(self, upload: Upload, verdict: IntegrityOk | None) -> Receipt:
        waits = self.streams.waits()
        return Receipt(
            verdict="INTEGRITY_OK" if verdict else "INTEGRITY_FAILED",
            name=upload.source.name,
            saved_as=verdict.saved_as if verdict else "",
            bytes=upload.source.size,
            digest=upload.digest,
            algorithm=self.settings.digest,
            seconds=0.0,
            blocks=upload.blocks.count,
            resent_blocks=verdict.resent_blocks if verdict else 0,
            resumed_bytes=upload.resumed_bytes,
            streams=self.streams.count,
            durable=verdict.durable if verdict else False,
            congestion=self.congestion,
            bottleneck=upload.spent.bottleneck(verdict, waits) if verdict else "",
            wire_bytes=upload.wire_bytes,
        )

    def _refuse_rejected(self, name: str, message: Message) -> None:
        if isinstance(message, Rejected) and message.code in PASSING:
            raise ConnectionLostError(f"{name}: {printable(message.reason)}")
        if isinstance(message, Rejected):
            raise RejectedError(message.code, f"{name}: rejected: {printable(message.reason)}")

    def _cancel(self) -> None:
        """Give the file up and wait until the server has: the session is then free for the next."""
        with contextlib.suppress(ConnectionLostError):  # the next file will notice
            deadline = Deadline(self.settings.timeout)
            self._control.send(Cancel())
            while self._control.state is State.CANCELLING:
                self._control.answer(deadline.left())


_WHYS = {
    Why.DAMAGED: "was damaged on the way",
    Why.LOST: "did not arrive",
    Why.CHANGED: "changed since the last attempt",
    Why.ALTERED: "was altered on the server",
}


def _what_happened(blocks: Blocks, first: int, end: int, reason: str) -> str:
    which = f"block {first}" if end == first + 1 else f"blocks {first} to {end - 1}"
    why = _WHYS.get(reason, "is wanted again")
    return f"{which} (offset {blocks.offset(first)}) {why}"


# --- the progress bar ---------------------------------------------------------------------------


class Bar(Progress):
    """tqdm's bar on standard error, over acknowledged bytes, with rate, ETA and the phase."""

    def __init__(self, handler: config.BarSafeHandler) -> None:
        # here, because the import takes 30 ms that nobody without a bar should pay
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.monitor_interval = 0  # its extra thread is for bars that nobody moves
        self._tqdm = tqdm
        self._bar: Any = None
        self._name = ""
        handler.around = lambda: tqdm.external_write_mode(file=sys.stderr)

    def begin(self, name: str, size: int) -> None:
        """Open the bar of one file, or go on with it in another session."""
        if self._bar is not None and (self._name, self._bar.total) == (printable(name), size):
            return
        self.end()
        self._name = printable(name)
        self._bar = self._tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024,
                               mininterval=config.BAR_INTERVAL, dynamic_ncols=True)  # fmt: skip

    def phase(self, phase: str) -> None:
        if self._bar is None:
            self._bar = self._tqdm(bar_format="{desc}", leave=False)
        self._bar.set_description(f"{phase} {self._name}".strip())

    def move(self, acknowledged: int) -> None:
        self._bar.update(acknowledged - self._bar.n)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


# --- the demonstration --------------------------------------------------------------------------


def _make_sample(path: Path) -> None:
    """Write a sample file of numbered lines; in one step, so that half a sample never stays."""
    log.info("making a sample file: %s (%s)", path, format_size(config.DEMO_FILE_SIZE))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    left = config.DEMO_FILE_SIZE
    with open(unfinished, "wb") as file:
        for part in range(1 << 30):
            lines = (f"line {part:6}.{line:04} {os.urandom(24).hex()}\n" for line in range(1000))
            left -= file.write("".join(lines).encode()[:left])
            if not left:
                break
    os.replace(unfinished, path)


@contextlib.contextmanager
def _demo_server(log_level: str) -> Iterator[int]:
    """Run a real server.py on a free port; give the port, stop it at the end."""
    import subprocess  # noqa: PLC0415  (4 ms that nobody but the demo should pay)

    script = Path(__file__).resolve().with_name("server.py")
    command = [sys.executable, str(script), "--port", "0", "--log-level", log_level]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first.startswith("Listening on "):
                raise UsageError("the server did not start; its own message says why")
            yield int(first.rpartition(":")[2])
        finally:
            process.terminate()


def _md5_of(path: Path) -> str:
    digest = hashlib.md5()  # noqa: S324  (what the card asks for)
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(config.MB), b""):
            digest.update(part)
    return digest.hexdigest()


def _demo(arguments: argparse.Namespace, progress: Progress, reporter: Reporter) -> None:
    """Do the whole main job once: server, sample, transfer, both MD5 sums, throughput."""
    path, *more = arguments.files or [DEFAULT_FILE]
    if more:
        raise UsageError("--demo takes one FILE")
    arguments.user = "user1"
    password, _priority = auth.DEMO_ACCOUNTS[arguments.user]
    if not path.exists():
        _make_sample(path)
    with _demo_server(arguments.log_level) as port:
        settings = dataclasses.replace(_settings(arguments), server="localhost", port=port,
                                       password=password, tls=False, ca=None)  # fmt: skip
        (receipt,) = send_files([path], settings, progress, reporter.report)
    saved = Path("output") / receipt.saved_as
    sums = {name: _md5_of(name) for name in (path, saved)}
    for name, digest in sums.items():
        reporter.say(f"md5 {digest}  {printable(str(name))}")
    if len(set(sums.values())) > 1:
        raise IntegrityError("the two files differ")
    rate = format_size(receipt.bytes / receipt.seconds)
    reporter.say(f"the same: {format_size(receipt.bytes)} in {receipt.seconds:.2f} s ({rate}/s)")


# --- the command line ---------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    size, number = config.parse_size, config.argument
    low, high = config.MIN_BLOCK_SIZE, config.MAX_BLOCK_SIZE
    blocks = config.or_auto(number(size, low, high, "a block has 4K to 4M"))
    chunks = number(size, 1024, high, "a chunk has 1K to 4M")
    most = config.MAX_STREAMS
    streams = config.or_auto(number(int, 1, most, f"1 to {most} streams, or auto"))
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Send files and have it proven that they arrived."
    )
    add = parser.add_argument
    # fmt: off
    add("files", nargs="*", type=Path, metavar="FILE", help=f"what to send ({DEFAULT_FILE})")
    add("--server", default=config.DEFAULT_HOST, metavar="HOST",
        help="where server.py runs (localhost)")
    add("--port", type=config.port_argument(1), default=config.DEFAULT_PORT, help="its port (4455)")
    add("--user", default="user1", metavar="NAME", help="who we are (user1)")
    add("--password-file", type=Path, metavar="FILE",
        help=f"holds the password; else it comes from {auth.PASSWORD_VARIABLE} or a prompt")
    add("--token-file", type=Path, metavar="FILE",
        help="holds a token made with auth.py token, instead of user and password")
    add("--tls", action="store_true", help="encrypt, and check the server's certificate")
    add("--ca", type=Path, metavar="FILE",
        help="trust these certificates instead of the system's; implies --tls")
    add("--streams", type=streams, default=config.STREAMS, metavar="N|auto",
        help="data connections, or as many as pay (4)")
    add("--block-size", type=blocks, default=config.BLOCK_SIZE, metavar="SIZE|auto",
        help="bytes that are sent, checked and repaired together (200K)")
    add("--congestion", default=config.CONGESTION, metavar="NAME",
        help="TCP congestion control on far links, where the system allows it (bbr)")
    add("--chunk-size", type=chunks, default=config.CHUNK_SIZE, metavar="SIZE",
        help="bytes of one send call (50K)")
    add("--digest", choices=list(DIGEST_SIZES), default="md5", help="what proves the file (md5)")
    add("--no-resume", dest="resume", action="store_false",
        help="begin anew, whatever an interrupted attempt has left")
    add("--compress", action="store_true",
        help="compress blocks where that pays: on links slower than this machine compresses")
    add("--limit", type=config.rate_argument(1024), metavar="RATE",
        help="bytes a second, all streams together, such as 500K or 10M (no limit)")
    add("--timeout", type=config.seconds_argument(2), default=config.TIMEOUT, metavar="SECONDS",
        help="longest time without progress, at least 2 (30)")
    add("--quiet", action="store_true", help="no bar, and only what goes wrong in the log")
    add("--json", action="store_true", help="one JSON object for each file on standard output")
    add("--demo", action="store_true", help="start a server, send a sample, compare, stop it")
    # fmt: on
    config.add_log_level(parser)
    return parser


def _settings(arguments: argparse.Namespace) -> ClientSettings:
    """Make the settings of a command line, but for what proves who we are."""
    given = vars(arguments)
    names = {item.name for item in dataclasses.fields(ClientSettings)} - {"password", "token"}
    return ClientSettings(**{name: given[name] for name in names})


def _with_proof(settings: ClientSettings, arguments: argparse.Namespace) -> ClientSettings:
    """Add the token or the password. Raises below ``TransferError`` where there is none."""
    if arguments.token_file:
        return dataclasses.replace(settings, token=auth.read_token(arguments.token_file))
    try:
        password = auth.read_password(arguments.user, arguments.password_file, arguments.server)
    except UsageError:
        _resolve(arguments.server, arguments.port)  # that there is no such host is the better news
        raise
    return dataclasses.replace(settings, password=password)


def _receipt_line(receipt: Receipt) -> str:
    saved = f"saved as {receipt.saved_as}, " if receipt.saved_as else "nothing saved, "
    facts = f"{format_size(receipt.bytes)} in {receipt.seconds:.2f} s, {saved}{receipt.algorithm}"
    return printable(f"{receipt.verdict} {facts} {receipt.digest}  {receipt.name}")


class Interrupt(BaseException):  # no Exception: nothing on its way up may take it for an error
    """The user stopped the program."""

    exit_code = 130


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _handle_signals() -> None:
    """Turn SIGINT and SIGTERM into an exception in the main thread; the second one ends at once."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        for number in _SIGNALS:
            signal.signal(number, lambda *_: os._exit(Interrupt.exit_code))
        raise Interrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)


class Reporter:
    """Tells what became of each file: verdicts on standard output, errors in the log."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.told: list[TransferError] = []

    def report(self, _path: Path, outcome: Receipt | TransferError) -> None:
        """Tell it. Raises ``UsageError`` where standard output takes nothing."""
        receipt = getattr(outcome, "receipt", outcome)  # INTEGRITY_FAILED has one, too
        if isinstance(receipt, Receipt):
            facts = dataclasses.asdict(receipt)
            self._print(json.dumps(facts) if self._as_json else _receipt_line(receipt))
        if isinstance(outcome, TransferError):
            log.error("%s", outcome)
            self.told.append(outcome)

    def say(self, line: str) -> None:
        """Print what is not about one file, unless a program reads standard output."""
        if not self._as_json:
            self._print(line)

    @staticmethod
    def _print(line: str) -> None:
        try:
            config.say(line)
        except OSError as error:
            raise UsageError(f"cannot write to standard output: {error.strerror}") from None


def _send(arguments: argparse.Namespace, progress: Progress, reporter: Reporter) -> None:
    files = arguments.files or [DEFAULT_FILE]
    if files == [DEFAULT_FILE] and not DEFAULT_FILE.exists():
        raise UsageError(f"there is no {DEFAULT_FILE}: name a FILE, or try --demo")
    settings = _with_proof(_settings(arguments), arguments)
    send_files(files, settings, progress, reporter.report)


def _run(arguments: argparse.Namespace, handler: config.BarSafeHandler) -> int:
    """Do what the command line says; say in one line what went wrong, and return the exit code."""
    progress = Bar(handler) if sys.stderr.isatty() and not arguments.quiet else Progress()
    reporter = Reporter(as_json=arguments.json)
    try:
        try:
            (_demo if arguments.demo else _send)(arguments, progress, reporter)
        finally:
            progress.end()
    except TransferError as error:
        if error not in reporter.told:
            log.error("%s%s", error, GO_ON if isinstance(error, ConnectionLostError) else "")
        return error.exit_code
    except OSError as error:  # out of descriptors, say
        log.error("%s", error)
        return UsageError.exit_code
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run ``python client.py``; return its exit code."""
    config.make_output_safe()
    config.keep_own_rights()
    arguments = _parser().parse_args(argv)
    if arguments.quiet:
        arguments.log_level = "WARNING"
    handler = config.setup_logging(arguments.log_level)
    try:
        _handle_signals()
        code = _run(arguments, handler)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the end is near enough
    except Interrupt:
        log.error("interrupted%s", GO_ON)
        return Interrupt.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
