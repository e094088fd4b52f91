"""Tunables, settings, sizes and rates in words, and how log lines look.

What lives here: every number that somebody may want to change, each with its reason; the frozen
settings that ``server.py`` and ``client.py`` are started with; the parsing of ``200K``; the look of
the log. What does not: sockets, secrets, and the constants of the wire (``protocol.py``), which two
machines must agree on and nobody may tune alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RELEASE = "1.1.0"  # of the three programs; the newest entry of .github/CHANGELOG.md is the same

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
RESERVED_DESCRIPTORS = (
    256  # open files that connections leave free: a transfer has two, and a third
)
# while it gets its name; the log, the pool and Python's modules have some
MAX_HALF_OF_USER = 64 * MB  # of blocks of one user that have begun to come: 16 streams of 4 MB ...
MAX_HALF = 512 * MB  # ... and of all users: a header of 56 bytes makes the server hold a block
TELL_AGAIN = 60.0  # seconds between two warnings of the same lack
MAX_OF_ADDRESS = 2048  # connections of one address (of IPv6: one /64, which every household has to
# choose from): a company with 400 clients may sit behind it
MAX_STRANGERS = 1024  # connections that have not logged in; for each one more the oldest one goes
MAX_TRANSFERS_OF_USER = 64  # receiving or waiting, so that one user cannot fill the queue
LEAST_COUNTED = 4 * KB  # bytes that a file counts in a quota, as on most disks: else millions of
# empty ones would cost nothing
COUNT_AGAIN = 600.0  # seconds for which the bytes in a directory are taken to be as counted, unless
# it has changed ...
COUNT_SELDOM = 20  # ... and times as long as counting takes, if it has: a twentieth of one worker
MAX_PARTS_OF_USER = 64  # unfinished files kept for one user; for each one more the oldest one goes
LISTEN_BACKLOG = 512  # connections the system may hold until they are accepted
GRACE = 10.0  # seconds for running transfers to end after a stop signal
EXIT_TIMEOUT = 10.0  # seconds for the workers to end after that; a stuck disk must not hold us here
LOGIN_TIMEOUT = 20.0  # seconds from accept to a finished login, however slowly bytes come
IDLE_TIMEOUT = 600.0  # seconds a logged-in session may do nothing
STALL_TIMEOUT = 120.0  # seconds without a new block before a transfer is given up
BLOCK_TIMEOUT = 300.0  # seconds for one block from its first to its last byte
LOG_QUEUE = 10_000  # log lines that may wait to be written; more are dropped and counted
LOG_PATIENCE = 2.0  # seconds for the last of them to be written at the end
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
RESERVE_SLICE = 16 * MB  # reserved in one call: where the file system cannot, a byte is written to
# each of its blocks, 4096 of them ...
RESERVE_FOR = 0.05  # ... and for so many seconds in one unit of work
MAX_RESERVING = 2  # transfers that reserve space at once: it may keep the disk busy
HASH_STRETCH = 16  # blocks hashed before a worker looks whether someone more urgent waits
HASH_BATCH = 8  # blocks that must have arrived before hashing them is worth a unit of work
KEEP_FOR_HASHING = 24 * MB  # of all transfers, in memory between writing and hashing: to read
# a block back costs a tenth of hashing it, and the hash is what everybody waits for
PROBE_TIMEOUT = 3.0  # seconds for the owner of a part file to show that it lives, when another
# client wants to go on with it: many round trips, and a resume should begin within 5
SCAN_STRETCH = 100  # part files looked at in one unit of work at the start: 10 ms
KEEP_PARTIAL = 7 * 86400.0  # seconds an unfinished file is kept for somebody to go on with it
KEEP_AFTER_START = (
    3600.0  # seconds an unfinished file that the start found is kept in any case: its
)
# age is known only by the clock of the disk, which may be days off when a machine starts
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

# --- accounts -----------------------------------------------------------------------------------


ITERATIONS = 100_000  # of the password hash: about 25 ms for one login, and for each guess at a
# password from a stolen credential file
TOKEN_LIFETIME = "30d"  # noqa: S105  (how long a token is good for, unless auth.py is told)
TOKEN_LEEWAY = 60  # seconds the clock that made a token may be ahead of ours; none for a token's
# end, which our own clock decides
READ_AGAIN_AFTER = 5.0  # seconds until a credential file that could not be read is tried once more
FIRST_DELAY = 0.5  # seconds a login waits after a failed one, doubled with each further failure ...
LONGEST_DELAY = 15.0  # ... up to this: a login must still end within LOGIN_TIMEOUT
LONGEST_SHARED_DELAY = 2.0  # seconds that failures of others may cost a right user: those at the
# same address, and guesses at the same account from elsewhere
GUESSES_AT_ONCE = 8  # of one user from one address may wait like that at the same time
FREE_PAIR = 2  # failures of one user from one address that cost nothing: slips of the finger
FREE_ADDRESS = 10  # failures from one address that cost nothing: many people may share one
FREE_ACCOUNT = 20  # failures of one user from anywhere that cost nothing
FAILURES_HALVE_AFTER = 60.0  # seconds after which half of the failures are forgotten
FAILURE_COUNTERS = 2**15  # counters in each of four rows, for users at their addresses: 3 MB; with
# 500 failed logins of made-up users a second they delay no other user


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
