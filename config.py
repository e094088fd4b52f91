"""Tunables, settings, sizes and rates in words, and how log lines look.

What lives here: every number that somebody may want to change, each with its reason; the frozen
settings that ``server.py`` and ``client.py`` are started with; the parsing of ``200K``; the look of
the log. What does not: sockets, secrets, and the constants of the wire (``protocol.py``), which two
machines must agree on and nobody may tune alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import unicodedata
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, TextIO

KB = 1024
MB = 1024 * KB
GB = 1024 * MB

# --- both sides ---------------------------------------------------------------------------------

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 4455
CHUNK_SIZE = 1024 * 50  # bytes of one send call
BLOCK_SIZE = 1024 * 200  # bytes of one block: the unit of sending, retry and checksum
MIN_BLOCK_SIZE = 4 * KB  # smaller ones cost more in headers and calls than they carry
MAX_BLOCK_SIZE = 4 * MB  # each data connection may hold one block in memory
AUTO_BLOCKS = 2**16  # the most for --block-size auto: blocks double beyond, from 13 GB on, so that
# journal and lists stay at some MB
KEEPALIVE_IDLE = 30  # seconds of silence before the system asks whether the peer is alive
KEEPALIVE_INTERVAL = 10  # seconds between two such questions
KEEPALIVE_PROBES = 3  # unanswered questions before the connection counts as lost
UNANSWERED_TIMEOUT = 120  # seconds the system goes on with bytes that the peer's system does not
# acknowledge: an outage of a minute, with the pauses between attempts that TCP makes by then

BURST = 0.1  # seconds of a rate limit that may be made up for at once after a pause
LEAST_LIMIT = 64 * KB  # bytes a second, for a server: a block of 200 KB then comes every 3 s, and
# a client gives its connections up after 30 s in which none gets an acknowledgement

# --- the client ---------------------------------------------------------------------------------

STREAMS = 4  # data connections, one sender thread each
AUTO_STREAMS = 48  # the most that --streams auto takes: at 100 ms and 0.1 % loss a stream carries
# some 5 Mbit/s, so these fill 200 Mbit/s; a server takes MAX_STREAMS, dead ones included
FAR_STREAMS = 24  # the first on a far link: together they start where one is after 4 round trips
STREAM_PERIOD = 0.3  # seconds over which goodput is measured at least before the number changes ...
STREAM_TRIPS = 4  # ... and so many round trips; as long before that new streams get going
STREAM_GAIN = 1.1  # times the goodput that more streams must bring to be kept; noise is less
STREAM_DROP = 0.8  # of the goodput at the last trial, below which all is tried anew
FULL = 1.25  # times its least round trip, from which on a link has a queue and carries no more
STREAM_CARE = 4  # times as long it is measured after the first trial that brought nothing
STREAM_HOLD = 5.0  # seconds between two trials once one has brought nothing
FAR = 0.005  # seconds of a round trip from which on a link is a far one: no local network has that
CONGESTION = "bbr"  # what decides how fast TCP goes on a far link, where the system lets us choose:
# one bbr stream fills a link on which losses hold a cubic one at a fortieth. Many of them overrun
# the queue before a link that is not lossy: --streams auto tries it last
UNSENT = 64 * 1024  # bytes a far connection holds more than it has sent: 2 ms of 200 Mbit/s for
# its sender to wake; more of them would be bound to a stream that may turn out slow
MAX_STREAMS = 64  # of a session, on both sides: more threads cost more than they bring
STUCK = 4.0  # seconds without an acknowledgement, while other streams get some, after which one
# is replaced: TCP doubles its pauses, after some outages in a row to half a minute ...
STUCK_TIMES = 4  # ... and so many times the usual time to an acknowledgement, for slow links ...
STUCK_ROUNDS = 2  # ... and so many blocks of each of the others, for links with a limit
LATE = 1.0  # times the usual time to an acknowledgement, then a last block goes another way, too:
# without that the end took up to 2 s longer over 100 ms; sooner, and a link carries much twice
LATE_LEAST = 0.2  # seconds; below that waiting costs less than sending twice. Both are for links
# that are far and have room: on others a stream must be stuck
MOSTLY = 0.5  # of the time of a file: what takes more is called its bottleneck
NAMEABLE = 0.3  # seconds of a file from which on it is worth naming
READ_AHEAD = 12  # blocks in memory beyond one for each stream: enough to keep senders busy ...
READ_AHEAD_BYTES = 48 * MB  # ... and no more than this, whatever the size of a block
MAX_UNACKNOWLEDGED = 1024  # blocks in flight on one connection: 200 MB, more than a 10 Gbit/s link
# with 100 ms holds; bounds what a server that never answers can make us remember
TIMEOUT = 30.0  # seconds without progress before an attempt counts as dead
PATIENCE = 10  # times TIMEOUT: how long a lost connection is tried again without progress
RETRY_FIRST = 0.5  # seconds before the second attempt, doubled each time ...
RETRY_LONGEST = 30.0  # ... up to this
RETRY_MOST = 6  # sessions in a row that stood and brought the file no further than one before
BAD_FRAMES = 3  # data connections in a row that may bring nonsense: a bit flipped where no digest
# looks is mended by another connection, a server that talks nonsense is not
REPAIRS_TOLD = 5  # repaired blocks named in the log, for one file; of the others their number
ACK_EVERY = 8  # blocks sent in a row before a busy sender looks for acknowledgements
COMPRESS_LEVELS = {"zlib": (4, 6), "zstd": (1, 7)}  # in a hurry, and with time to spare: of text
# the higher one leaves a twentieth to a seventh less, and takes two to four times as long
COMPRESS_WAIT = 0.2  # of their time senders must wait for the link, else it is not what holds them
# up: 0.04 to 0.12 was measured over loopback, 0.9 at 10 MB/s
COMPRESS_MEMORY = 1.0  # seconds after which two thirds of that are forgotten
COMPRESS_IDLE = 0.1  # seconds at most that count as not waiting, between two blocks of a sender:
# a pause between two files says nothing of the link
COMPRESS_BEHIND = 8  # blocks of a sender that are not acknowledged: with more the link is behind,
# even where nobody waits yet because the system's buffers are not full
COMPRESS_SHARE = 0.5  # of this machine's processors: the rest is for hashing, TLS and other people
COMPRESS_BURST = 1.0  # seconds of that share that may be used at once: until those buffers are full
COMPRESS_WORTH = 0.95  # of its length is the most that a compressed block may have: who unpacks it
# has work with it, too
COMPRESS_SAMPLE = 4 * KB  # of a block, where the one before did not shrink: 50 us
COMPRESS_PAUSE = 4  # blocks at most between two samples: 800 KB, soon gone when text begins again
BAR_INTERVAL = 0.1  # seconds between two looks of the progress bar
DEMO_FILE_SIZE = 64 * MB  # the sample that --demo makes

# --- the server ---------------------------------------------------------------------------------

RECEIVE_SIZE = 200 * KB  # bytes one receive call may take: what has come, up to a whole block
WORKERS = 10  # threads that do all work; the main thread only watches
MAX_ACTIVE_TRANSFERS = 16  # receiving at once: 64 connections' buffers, and disks dislike more;
# those of lower priority do not count
MAX_WAITING_TRANSFERS = 1000  # asked for but not yet admitted
MAX_CONNECTIONS = 4096  # of all kinds; further ones are closed at once
MAX_OF_ADDRESS = 2048  # connections of one address (of IPv6: one /64, which every household has to
# choose from): a company with 400 clients may sit behind it
MAX_STRANGERS = 1024  # connections that have not logged in; for each one more the oldest one goes
MAX_TRANSFERS_OF_USER = 64  # receiving or waiting, so that one user cannot fill the queue
LEAST_COUNTED = 4 * KB  # bytes that a file counts in a quota, as on most disks: else millions of
# empty ones would cost nothing
MAX_PARTS_OF_USER = 64  # unfinished files kept for one user; for each one more the oldest one goes
LISTEN_BACKLOG = 512  # connections the system may hold until they are accepted
GRACE = 10.0  # seconds for running transfers to end after a stop signal
EXIT_TIMEOUT = 10.0  # seconds for the workers to end after that; a stuck disk must not hold us here
LOGIN_TIMEOUT = 20.0  # seconds from accept to a finished login, however slowly bytes come
IDLE_TIMEOUT = 600.0  # seconds a logged-in session may do nothing
STALL_TIMEOUT = 120.0  # seconds without a new block before a transfer is given up
BLOCK_TIMEOUT = 300.0  # seconds for one block from its first to its last byte
CLOSING_TIMEOUT = 2.0  # seconds for a peer to read our last words before the connection is cut
TICK = 0.5  # seconds between two looks at the clocks of all connections
REPORT_EVERY = 1.0  # seconds between two words to a client of its progress or place in the queue
LINGER = 0.05  # seconds a worker stays with a silent connection while nobody else is ready:
# long beside the gap between two blocks on a busy connection, short beside a person's patience
URGENCY = 5.0  # one step of priority weighs as much as this many seconds of waiting, for transfers
# that wait to be admitted ...
LEAD = 0.1  # ... and this many for units of work: longer than the queue of a busy server, and short
# enough for somebody who logs in beside a flood of high priority
HOLD = 0.02  # seconds, at most, for which a block of higher priority holds the others back: it
# bridges the gaps between two blocks on busy processors; with 0.005 an urgent file took 1.8 times
# as long beside others as alone, with 0.02 1.4 times
HOLD_RATE = 50 * MB  # bytes a second that hold the others back all the time; slower ones, from a
# slow link, do so in proportion: 12 MB/s would else keep six fast clients waiting, for nothing
LONGEST_HOLD = 1.0  # seconds between two blocks of a connection that is held back: its client may
# give up after 2 s without an acknowledgement (--timeout)
FLUSH_EVERY = 64 * MB  # bytes written before they are flushed in the background
MAX_FLUSHES = 2  # at once, over all transfers: a flush holds a worker, and the disk is one
HASH_STRETCH = 16  # blocks hashed before a worker looks whether someone more urgent waits
HASH_BATCH = 8  # blocks that must have arrived before hashing them is worth a unit of work
KEEP_FOR_HASHING = 24 * MB  # of all transfers, in memory between writing and hashing: to read
# a block back costs a tenth of hashing it, and the hash is what everybody waits for
PROBE_TIMEOUT = 3.0  # seconds for the owner of a part file to show that it lives, when another
# client wants to go on with it: many round trips, and a resume should begin within 5
KEEP_PARTIAL = 7 * 86400.0  # seconds an unfinished file is kept for somebody to go on with it
KEEP_ANSWER = 3600.0  # seconds a verdict is kept whose arrival the client has not confirmed
CERTIFICATE_TRIES = 5  # to read a certificate that is replaced meanwhile: once more will do
EXPIRE_EVERY = 600.0  # seconds between two looks for what has been kept for too long
MAX_BLOCKS = 2**26  # of one file, a byte of memory each: 13 TB in blocks of 200 KB
MAX_ROUNDS = 5  # repairs in a row without progress before a transfer counts as failed
MAX_QUEUED_BYTES = 256 * KB  # answers a peer may leave unread before it is cut off
SPARE_BUFFERS = 28 * MB  # of block buffers kept for the next block: more than KEEP_FOR_HASHING, so
# that what comes back from there is not freed and allocated anew all the time
MAX_AHEAD = 100_000  # blocks a transfer may be ahead of its first gap: 280 bytes of memory each
ACK_DELAY = 0.1  # seconds an acknowledgement may wait for others, should blocks come without end
PROGRESS_LINES = 10  # log lines for one transfer, whatever its size


@dataclass(frozen=True)
class ClientSettings:
    """How to send: see ``python client.py --help`` for the meaning of each field.

    ``password`` of ``None`` means the demo account's own, if it is one; with a ``token`` none is
    needed. A ``ca`` implies ``tls``.
    """

    server: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    user: str = "user1"
    password: str | None = field(default=None, repr=False)
    streams: int | None = STREAMS  # None: as many as pay
    block_size: int | None = BLOCK_SIZE  # None: what suits the file
    chunk_size: int = CHUNK_SIZE
    digest: str = "md5"
    timeout: float = TIMEOUT
    resume: bool = True
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None
    limit: int | None = None  # bytes a second
    congestion: str = CONGESTION  # "" leaves it to the system
    compress: bool = False


@dataclass(frozen=True)
class ServerSettings:
    """How to serve: see ``python server.py --help`` for the meaning of each field."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    output: Path = Path("output")
    workers: int = WORKERS
    credentials: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_file_size: int | None = None
    allow_ext: tuple[str, ...] = ()
    limit: int | None = None  # bytes a second, of all clients together
    grace: float = GRACE
    max_active: int = MAX_ACTIVE_TRANSFERS
    login_timeout: float = LOGIN_TIMEOUT
    idle_timeout: float = IDLE_TIMEOUT
    stall_timeout: float = STALL_TIMEOUT
    block_timeout: float = BLOCK_TIMEOUT


# --- sizes and command line ---------------------------------------------------------------------

_UNITS = {"": 1, "K": KB, "M": MB, "G": GB}


def parse_size(text: str) -> int:
    """Turn ``200K``, ``1.5G`` or ``4096`` into bytes; 1 K is 1024.

    Raises ``ValueError`` for anything else, including zero.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)\s*([KMG]?)(?:i?B)?", text.strip(), re.I | re.A)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"not a size: {printable(text)!r} (try 200K, 1.5M, 2G)")
    return size


def format_size(size: float) -> str:
    """Give bytes as people read them: ``1.5 GB``, with 1 KB = 1024 bytes."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def argument(parse: Callable[[str], int], low: int, high: int, what: str) -> Callable[[str], int]:
    """Make an argparse type: ``parse`` the text, accept only ``low`` to ``high``."""

    def convert(text: str) -> int:
        try:
            value = parse(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{what}, not {printable(text)!r}")
        return value

    return convert


def or_auto(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    """Make an argparse type that also takes ``auto``, which becomes ``None``."""
    return lambda text: None if text == "auto" else parse(text)


def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make an argparse type of ``parse`` whose error says what its ``ValueError`` says."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def rate_argument(least: int) -> Callable[[str], int]:
    """Make the argparse type of ``--limit``: bytes a second."""
    what = f"a rate of at least {format_size(least)} a second, such as 500K or 10M"
    return argument(parse_size, least, 2**62, what)


def port_argument(least: int = 0) -> Callable[[str], int]:
    """Make the argparse type of ``--port``; only who listens may say 0, for a free one."""
    return argument(int, least, 65535, f"a port is a number from {least} to 65535")


def seconds_argument(low: float) -> Callable[[str], float]:
    """Make the argparse type of a duration: seconds, from ``low`` to a day."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= 86400:
            what = f"a number of seconds from {low:g} to 86400"
            raise argparse.ArgumentTypeError(f"{what}, not {printable(text)!r}")
        return value

    return convert


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-level``, the same on every command line."""
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    parser.add_argument(
        "--log-level",
        default="INFO",
        choices=levels,
        type=str.upper,
        metavar="LEVEL",
        help="DEBUG (a line for each block), INFO, WARNING or ERROR",
    )


# --- the log ------------------------------------------------------------------------------------

SUCCESS = {"sign": "✅"}  # pass as ``extra`` to a logger for good news

_SIGNS = {"coordinator": "🔷", "block": "🔵"}  # by component; errors get theirs by level
_COLOURS: dict[str, str] = {"✅": "32", "❌": "31", "🔷": "36", "🔵": "34", "⚠️": "33"}
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co")  # Unicode categories a terminal acts on


def printable(text: str) -> str:
    r"""Give ``text`` with every character that could act on a terminal as ``\x1b``, ``\u202e``.

    Control and format characters, lone surrogates and line separators are replaced; the rest,
    emoji and all scripts, stays. Nothing a peer sent reaches a terminal or a log but through here.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _HIDDEN
        else char
        for char in text
    )


class LogFormatter(logging.Formatter):
    """One line: time, level, component, sign, message; in colour on a terminal."""

    def __init__(self, colour: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with everything in it made safe to print."""
        sign = self._sign(record)
        message = printable(record.getMessage())
        time = self.formatTime(record, self.datefmt)
        line = f"{time} {record.levelname:<7} {record.name:<11} {sign} {message}"
        if self._colour and sign in _COLOURS:
            line = f"\x1b[{_COLOURS[sign]}m{line}\x1b[0m"
        if record.exc_info:  # only for a bug of our own
            trace = self.formatException(record.exc_info).split("\n")
            line = "\n    ".join([line] + [printable(part) for part in trace])
        return line

    @staticmethod
    def _sign(record: logging.LogRecord) -> str:
        if record.levelno >= logging.ERROR:
            return "❌"
        if record.levelno >= logging.WARNING:
            return "⚠️"
        return getattr(record, "sign", None) or _SIGNS.get(record.name, "·")


class BarSafeHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not generic before 3.11
    """Writes log lines to standard error without tearing a progress bar that stands there.

    ``around`` is entered for each line: tqdm's ``external_write_mode`` while a bar is shown.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with self.around():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Let a line go that nobody takes, on a full disk say; a bug of ours is still told."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def wants_colour(stream: TextIO) -> bool:
    """Say whether to colour: only on a terminal, and never with ``NO_COLOR`` (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def setup_logging(level: str) -> BarSafeHandler:
    """Send every log line of this process to standard error; return the handler that does it."""
    handler = BarSafeHandler(sys.stderr)
    handler.setFormatter(LogFormatter(wants_colour(sys.stderr)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    return handler


def make_output_safe() -> None:
    """Let standard output and error write any name, whatever the terminal's encoding.

    A standard stream that was closed before we began leads nowhere from now on.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order each takes its own descriptor again
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (it stays)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def keep_own_rights() -> None:
    """Let no umask take from us what we make ourselves; what it says of others holds.

    Call it before there are threads: the umask can only be read by setting it.
    """
    mask = os.umask(0o077)
    os.umask(mask & 0o077)


def say(line: str) -> None:
    """Print a line on standard output, at once. Raises ``OSError`` where it cannot be written.

    Python keeps such a line and tries again at its end, which would change the exit code: from then
    on standard output leads nowhere.
    """
    try:
        print(line, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise
