"""Every number that can be tuned, with its reason, and the settings of client and server.

A peer may have other numbers than we do. What two machines must agree on stands in ``protocol.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

from lft.records import Check, Record, field, flag, is_whole

RELEASE = "1.4.0"  # of the three programs; the newest entry of .github/CHANGELOG.md is the same

KB = 1024
MB = 1024 * KB
GB = 1024 * MB

# --- both sides ---------------------------------------------------------------------------------

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 4455
CHUNK_SIZE = 1024 * 50  # bytes of a block that are handed to the system as one piece
BLOCK_SIZE = 1024 * 200  # bytes of one block: the unit of sending, repair and checksum
MIN_BLOCK_SIZE = 4 * KB  # smaller blocks cost more in headers and calls than they carry
MAX_BLOCK_SIZE = 4 * MB  # each data connection may hold one block in memory

# Blocks of one file before --block-size auto doubles their size, which begins at 13 GB, or at 64 GB
# where they have a MB: journal and lists stay at some MB.
AUTO_BLOCKS = 2**16

# Bytes of a block with --block-size auto, of a file of so many bytes, unless the link is far: over
# loopback a tenth less processor time than with 200 KB. On a far link more would wait for one loss.
AUTO_BLOCK_SIZE = 1 * MB
AUTO_LARGE = 64 * MB

# Bytes of neighbouring blocks that are read, sent, received and written together, at most: half of
# the processor time beside hashing goes into calls, wake-ups and locks, and not into bytes. 1 GiB
# took 0.92 times as long as with half of it, and with 3 MB no less ...
RUN_SIZE = 10 * BLOCK_SIZE
RUN_BLOCKS = 16  # ... and blocks of them, so that many small ones make no list without end

# Seconds that a run of blocks may take: after a longer one, the next is half as long. So on a slow
# link, and before a slow disk, a run is a block.
RUN_SECONDS = 0.05

KEEPALIVE_IDLE = 30  # seconds of silence before the system asks whether the peer is alive
KEEPALIVE_INTERVAL = 10  # seconds between two such questions
KEEPALIVE_PROBES = 3  # unanswered questions before the connection counts as lost

# Seconds for which the system sends bytes again that the peer's system does not acknowledge. They
# cover an outage of a minute: by then TCP pauses for as long between two attempts.
UNANSWERED_TIMEOUT = 120

BURST = 0.1  # seconds of a rate limit that may be used up at once after a pause

# Bytes a second, the lowest limit of a server. With it a block of 200 KB takes 3 s; a client gives
# up after 30 s in which none of its connections gets an acknowledgement.
LEAST_LIMIT = 64 * KB

# Bytes of a file that cost a server's limit as much as a byte on the wire: of a block of zeros a
# thousandth is sent, of one that the server holds nothing, yet it is unpacked and hashed. So going
# on with a file takes no more than a 64th of the time that it took to bring it there.
UNSENT_PER_BYTE = 64

# Entries of one directory that is sent: 200,000 take 35 MB of memory on each side and 20 s to make
# on a slow disk. What has more is sent by its directories, or packed ...
MAX_TREE_ENTRIES = 200_000
MAX_MANIFEST_BYTES = 32 * MB  # ... and bytes of all their paths: 160 for each of so many
MAX_DEPTH = 128  # directories within each other; more than any program makes by intent
MAX_PATH_BYTES = 3000  # of a path in a tree: with those before it, it has to stay below 4096
SUMS_SUFFIX_BYTES = 7  # of ".sha256", which the name of a directory's sums has behind its own
MAX_COMPONENT_BYTES = 255  # of one name, on every common file system

# Bytes of a file in a tree from which on it has its space reserved, and holes in place of zeros:
# for smaller ones the calls would cost more than they bring.
LARGE_IN_TREE = 4 * MB
OPEN_IN_TREE = 2  # files of a tree that stay open for the next blocks, beyond those in use

# --- the client: streams ------------------------------------------------------------------------

DIGESTS = ("md5", "sha256")  # what can prove a file; protocol.py has the bytes of each
STREAMS = 4  # data connections, with a sender thread each
MAX_STREAMS = 64  # of one session, on both sides: more threads cost more than they bring

# The most streams with --streams auto. At 100 ms and 0.1 % loss a stream carries 5 Mbit/s, so these
# fill 200 Mbit/s. Dead connections count too for a server, which allows MAX_STREAMS.
AUTO_STREAMS = 48

FAR = 0.005  # seconds of a round trip from which on a link is far: a local network is below it
FAR_STREAMS = 24  # streams to begin with on a far link: one alone needs 4 round trips to carry that
STREAM_PERIOD = 0.3  # seconds, at least, of measuring goodput before the number changes ...
STREAM_TRIPS = 4  # ... and so many round trips, at least; new streams get as long to speed up
STREAM_GAIN = 1.1  # times the goodput that more streams must bring to stay; noise is less than that
STREAM_DROP = 0.8  # of the goodput before the last trial: below it, the search begins anew
STREAM_CARE = 4  # times as long each measurement takes, after the first trial that did not pay
STREAM_HOLD = 5.0  # seconds before the next trial, after one that did not pay
FULL = 1.25  # times its least round trip: above it a link has a queue, and carries no more

# How TCP chooses its rate on a far link, where the system lets us. Where losses hold a stream with
# cubic at a fortieth of the link, one with bbr fills it. On a link without losses many streams with
# bbr overrun the queue, so --streams auto tries it last.
CONGESTION = "bbr"

# Bytes that a far connection may hold before they are sent: its sender has 2 ms to wake up at
# 200 Mbit/s. Bytes held are bound to their stream, which may turn out to be slow.
UNSENT = 64 * 1024

# Seconds without an acknowledgement after which a stream is replaced, if other streams get some:
# TCP doubles its pauses, after some outages in a row up to half a minute ...
STUCK = 4.0
STUCK_TIMES = 4  # ... and times the usual time to an acknowledgement, for slow links ...
STUCK_ROUNDS = 2  # ... and acknowledgements for each other stream meanwhile, for links with a limit

# Times the usual time to an acknowledgement, after which another stream sends one of the last
# blocks, too. Without it the end took up to 2 s longer at 100 ms; with less, much is sent twice.
# This and LATE_LEAST are for far links without a queue; on others a stream must be stuck.
LATE = 1.0
LATE_LEAST = 0.2  # seconds at least: a shorter wait costs less than to send a block twice

# --- the client: files and retries --------------------------------------------------------------

MOSTLY = 0.5  # of the time of a file: whatever takes more is called its bottleneck
NAMEABLE = 5.0  # seconds that a file must take for its bottleneck to be named: less is no bother
READ_AHEAD = 12  # blocks in memory beyond a run for each stream, to keep the senders busy ...
READ_AHEAD_BYTES = 48 * MB  # ... and no more than this, whatever the size of a block

# Bytes of a file that the system is asked to have in memory before the reader comes to them, and
# in what steps: what Linux reads ahead by itself is set for each disk, and may be far too little or
# too much. 1 GiB that was on the disk alone took 1.04 times as long as with 128 KB of that, 0.77
# times as long as with 8 MB; with 32 MB of ours 1.20 and 0.81.
FETCH_AHEAD = 8 * MB
FETCH_STEP = 2 * MB

# Bytes of files that have been announced and are still to be read, at most, for another one to be
# announced: enough for the time until the server is ready for it, at 50 ms and 1 GB/s. So a large
# file lets the next one begin when it is nearly done, and no sooner.
ANNOUNCE_BELOW = 4 * MB
READ_BESIDE = (
    1 * MB
)  # ... and for the next one to be read: small files need not wait for each other
LOOK_AT_SOURCE = 1.0  # seconds between two looks whether the file that is sent is still the same

PROVE_STRETCH = 8 * MB  # of a file that grew, read again between two looks at the server: 30 ms

# Blocks in flight on one connection: 200 MB, more than a link of 10 Gbit/s and 100 ms holds. It
# bounds what we remember when a server never answers.
MAX_UNACKNOWLEDGED = 1024

TIMEOUT = 30.0  # seconds without progress before an attempt counts as dead
LEAST_TIMEOUT = 0.1  # ... at least: for programs and tests; the command line asks for 2
PATIENCE = 10  # times TIMEOUT: how long we try to replace a lost connection without progress
# Seconds more for each entry of a directory, which gets bits and a time, and is flushed, after its
# last byte: 3 ms on GlusterFS, and far more on a busy machine. All that time its server can only
# say that it lives.
ENTRY_PATIENCE = 0.1
NAME_PATIENCE = 3.0  # seconds for which no name service may answer at the start: a moment's gap
ATTEMPT_DELAY = 0.25  # seconds until the next address of a name is tried beside it (RFC 8305)
RETRY_FIRST = 0.5  # seconds before the second attempt, doubled each time ...
RETRY_LONGEST = 30.0  # ... up to this
RETRY_MOST = 6  # sessions in a row that logged in and brought the file no further

# Data connections in a row on which the server may break the protocol. A new connection mends a bit
# that flipped where no digest covers it; it does not mend a wrong server.
BAD_FRAMES = 3

# Bytes of a directory that may change while it is sent, and are sent again in the same run ...
TREE_LITTLE = 64 * MB
TREE_PART = 8  # ... or this part of them, an eighth, if that is more ...
TREE_ROUNDS = 3  # ... so many times: what changes all the time is no more still at the next
LOOK_ENTRIES = 1000  # entries looked at again between two looks at the server: 10 ms
PATHS_TOLD = 3  # paths in a directory that the log names for one reason; it counts the others

FAILED_TOLD = 10  # files that did not arrive, in the last line; it gives the number of the rest
QUEUED_EVERY = 5.0  # seconds between two log lines that tell our place in the server's queue
REPAIRS_TOLD = 5  # repaired blocks of one file that the log names; it gives the number of the rest
ACK_EVERY = 8  # blocks that a busy sender sends in a row before it looks for acknowledgements
BAR_INTERVAL = 0.1  # seconds between two updates of the progress bar
LINE_INTERVAL = 60.0  # seconds, at least, between two lines of progress, where there is no bar ...
LINE_PART = 0.1  # ... and the part of the file, at least: ten lines for a file of any size
RATE_EVERY = 0.5  # seconds between two looks at the rate: a person reads no faster
RATE_MEMORY = 4.0  # seconds for which the rate in the bar is smoothed ...
LEFT_MEMORY = 20.0  # ... and that from which the time left follows, which should be steady
STILL = 5.0  # seconds without progress before the bar says so: a slow link needs 3 s for a block
SUSPENDED = 2.0  # seconds without a turn of the main loop, which has ten a second: it was stopped
DEMO_FILE_SIZE = 64 * MB  # of the sample that --demo makes

# --- both sides: files of unknown size --------------------------------------------------------

# Bytes that the client keeps of such a file until the server has verified them: they cannot be read
# again. One window for each round trip: at 100 ms that is 640 MB/s at most.
UNSIZED_WINDOW = 64 * MB
UNSIZED_REPORT = 4 * MB  # verified bytes between two reports of the server to the client
UNSIZED_AHEAD = 256 * MB  # how far behind what is verified a block may be: more than that window
SIGN_OF_LIFE = 10.0  # seconds between two signs of a client that waits for its source

# --- the client: compression --------------------------------------------------------------------

# Two levels of each codec: in a hurry, and with time to spare. Of text the higher one leaves 5 to
# 15 % less, and takes two to four times as long.
COMPRESS_LEVELS = {"zlib": (4, 6), "zstd": (1, 7)}

# The part of their time for which senders must wait for the link before compression helps: 0.04 to
# 0.12 was measured over loopback, 0.9 at 10 MB/s.
COMPRESS_WAIT = 0.2
COMPRESS_MEMORY = 1.0  # seconds after which two thirds of a measured wait are forgotten

# Seconds between two blocks of a sender that count, at most, as time without a wait: a pause
# between two files tells nothing about the link.
COMPRESS_IDLE = 0.1

# Blocks of a sender without an acknowledgement: with more the link is behind, even if no sender
# waits yet because the system's buffers still have room.
COMPRESS_BEHIND = 8

COMPRESS_SHARE = 0.5  # of the processors: the rest is for hashing, TLS and other programs
COMPRESS_BURST = 1.0  # seconds of that share that may be used at once, while those buffers fill

# Times its length: a block that does not become shorter goes raw, since unpacking costs time, too.
COMPRESS_WORTH = 0.95
COMPRESS_SAMPLE = 4 * KB  # of a block that are tried first, if the last one did not shrink: 50 us
COMPRESS_PAUSE = 4  # blocks at most between two samples: 800 KB, soon sent when text begins again

# --- the server: limits -------------------------------------------------------------------------

WORKERS = 10  # threads that do all work; the main thread only watches

# Transfers that receive at once: they have the buffers of 64 connections, and disks are slower with
# more. Transfers of lower priority do not count, and where one user has several, each of as many
# other users has a place all the same: no more than twice as many receive at one priority.
MAX_ACTIVE_TRANSFERS = 16
# Files that receive at once where sessions have several in one place: each has two descriptors, and
# at 50 ms so many bring a thousand small files a second.
MAX_BESIDE = 64
MAX_WAITING_TRANSFERS = 1000  # sessions, or files of those that have others, that wait
MAX_CONNECTIONS = 4096  # of all kinds; any more are closed at once

# Open files that connections must leave free: a transfer has two, and a third when it is published,
# and MAX_BESIDE of them may run; log, pool and Python's modules have some.
RESERVED_DESCRIPTORS = 256

# Bytes of one user's blocks that have begun to come, since a header of 56 bytes makes the server
# hold a whole block: 16 streams with blocks of 4 MB ...
MAX_HALF_OF_USER = 64 * MB
MAX_HALF = 512 * MB  # ... and of those of all users

# Bytes of the manifests of one user's directories, which the server holds from announcement to
# verdict: the largest one, or many of some thousand entries ...
MAX_MANIFESTS_OF_USER = 64 * MB
MAX_MANIFESTS = 256 * MB  # ... and of those of all users
TELL_AGAIN = 60.0  # seconds between two warnings of the same shortage

# Connections from one IPv4 address, or from one /64 of IPv6, which a single household has. 400
# clients of a company may share one address.
MAX_OF_ADDRESS = 2048

# Connections of balancers that have not said from where they come: that takes a round trip. Each
# one more replaces the oldest one.
MAX_NEWCOMERS = 128
MAX_STRANGERS = 1024  # connections that have not logged in; each one more replaces the oldest one

# Of as many connections, or the same part of fewer: sessions of one user, for 200 clients and those
# that come back before the server knows that they were cut off; data connections of one user; and
# of all users, so that there is always room for one that logs in.
MAX_SESSIONS_OF_USER = 512
MAX_STREAMS_OF_USER = 1536
MAX_STREAMS_OF_ALL = 3072
MAX_TRANSFERS_OF_USER = 64  # sessions that receive or wait: no one user can fill the queue

# Bytes that a file counts in a quota at least, as on most disks: otherwise millions of empty files
# would cost nothing.
LEAST_COUNTED = 4 * KB

# A directory that seems unchanged is counted again after so many seconds ...
COUNT_AGAIN = 600.0
COUNT_SELDOM = 20  # ... a changed one after so many times as counting takes: 5 % of one worker
MAX_PARTS_OF_USER = 64  # unfinished files kept for one user; each one more replaces the oldest one
MAX_BLOCKS = 2**26  # of one file, a byte of memory each: 13 TB in blocks of 200 KB
MAX_ASKED = 2**16  # blocks that one MISSING looks through: 2 ms; more follow in the next one
MAX_ROUNDS = 5  # repairs in a row without progress before a transfer fails
MAX_QUEUED_BYTES = 256 * KB  # of answers that a peer may leave unread before it is cut off
MAX_AHEAD = 100_000  # blocks behind the first gap of a file: 280 bytes of memory each
LISTEN_BACKLOG = 512  # connections that the system may hold until they are accepted
PORT_TRIES = 20  # to find one port that is free on all addresses, with --port 0

# Bytes of log that one user, or the strangers of one network, may cause in a second, and at once
# after a pause: 30 lines a second, 2000 at once. Files that were saved are logged in any case.
LOG_RATE = 4 * KB
LOG_BURST = 256 * KB
LOG_LINE = 40  # bytes of a line around its message, as counted there
LOG_OWNERS = 1024  # users and networks for which these are remembered
LOG_QUEUE = 10_000  # log lines that may wait to be written; any more are dropped and counted

# --- the server: times --------------------------------------------------------------------------

LOGIN_TIMEOUT = 20.0  # seconds from accept to a finished login, however slowly bytes come
IDLE_TIMEOUT = 600.0  # seconds for which a session may do nothing after its login
LISTING_TIMEOUT = 600.0  # seconds for a manifest: the longest one needs 60 KB/s
STALL_TIMEOUT = 120.0  # seconds without a new block before a transfer is given up
BLOCK_TIMEOUT = 300.0  # seconds for one block, from its first byte to its last one
CLOSING_TIMEOUT = 2.0  # seconds for a peer to read our last message before the connection is cut

# Seconds for running transfers to end after a stop signal. With the two below it makes 9 s at most:
# ``docker stop`` kills after 10 s what has not ended.
GRACE = 5.0
EXIT_TIMEOUT = 3.0  # seconds after that for the workers to end: one may hang in a dead disk
LOG_PATIENCE = 1.0  # seconds for the last log lines to be written at the end

# Seconds for a balancer to say from where a connection comes: it does so at once, and a lost packet
# is sent again within 3 s.
PROXY_TIMEOUT = 5.0

DISK_ASKED_EVERY = 5.0  # seconds between two looks whether the disk still answers

# Seconds without an answer after which new connections are refused. A flush of 64 MB takes as long
# on a stick that writes 2 MB/s, so a disk that is only slow keeps no client out.
DISK_PATIENCE = 30.0
TICK = 0.5  # seconds between two checks of all deadlines
REPORT_EVERY = 1.0  # seconds between two reports to a client: its progress or place in the queue

# Seconds for which the owner of a part file may show that it is alive, when another client wants to
# resume it: many round trips, yet a resume should begin within 5 s.
PROBE_TIMEOUT = 3.0
KEEP_PARTIAL = 7 * 86400.0  # seconds for which an unfinished file can be resumed

# Seconds for which an unfinished file that the server finds at its start is kept in any case: only
# the clock tells its age, and that may be days off when a machine starts.
KEEP_AFTER_START = 3600.0
KEEP_ANSWER = 3600.0  # seconds for which a verdict is kept that the client has not confirmed
EXPIRE_EVERY = 600.0  # seconds between two searches for what has been kept for too long
CERTIFICATE_NOTICE = 14 * 86400.0  # seconds before its end from which on the log warns of it ...
CERTIFICATE_LOOK_EVERY = 86400.0  # ... once a day
CERTIFICATE_TRIES = 5  # times to read certificate and key, which may be replaced just then

# --- several servers on one output directory ----------------------------------------------------

# Seconds for which a file waits, at most, for what another server holds of it: NFS keeps the lock
# of a dead machine for a lease, 90 s. Sending it anew often takes less, so no file waits longer
# than that takes at REREAD_RATE ...
HELD_PATIENCE = 150.0
HELD_LEAST = 10.0  # ... but so long in any case: the lock of a dead process is free in 1 s
# Seconds without a request after which an upload over HTTP is let go, for any server to go on with:
# longer than between two pieces, and shorter than another server waits for it.
UPLOAD_RESTS_AFTER = 3.0
USELESS_FOR = 3600.0  # seconds for which a part file without journal stays: it may be new
ALONE_FOR = 2.0  # seconds for which a server that starts waits for one that starts just then
COUNTER_PATIENCE = 2.0  # seconds for which a counter is waited for, which others lock for 10 ms

# --- the server: who goes first -----------------------------------------------------------------

# Seconds for which a worker stays with a silent connection while no other one is ready: long for
# the gap between two blocks on a busy connection, short for a person who waits.
LINGER = 0.05

# One step of priority weighs as much as so many seconds of waiting, for a transfer that waits to be
# admitted ...
URGENCY = 5.0

# ... and as so many for a unit of work: longer than the queue of a busy server. Further steps are
# worth less and less, all together as much as a person waits without asking why.
LEAD = 0.1
LONGEST_LEAD = 1.0

# Workers that users leave to connections that have not logged in: all others may wait for the disk.
LOGIN_WORKERS = 1

# Seconds, at most, for which a block of higher priority holds back the others: it covers the gap
# between two blocks on busy processors. With 0.005 an urgent file took 1.8 times as long beside
# others as alone, with 0.02 it took 1.4 times.
HOLD = 0.02

# Bytes a second that hold back the others all the time. Those of a slow link do so in proportion:
# otherwise 12 MB/s would hold back six fast clients for nothing.
HOLD_RATE = 50 * MB

# Seconds between two blocks of a connection that is held back, at most: its client may give up
# after 2 s without an acknowledgement (--timeout).
LONGEST_HOLD = 1.0

# --- the server: disk and memory ----------------------------------------------------------------

RECEIVE_SIZE = 200 * KB  # bytes that one receive call takes, at most: a whole block
FLUSH_EVERY = 64 * MB  # bytes written before they are flushed in the background
MAX_FLUSHES = 2  # at once, of all transfers: each takes a worker, and there is one disk

# Files published at once: each waits for the disk with a worker, for seconds where that is busy.
# With MAX_FLUSHES and MAX_RESERVING some workers are left for blocks.
MAX_PUBLISHING = 4

# Files of so many bytes, and less, that wait for a place are published together, up to so many:
# one flush for all of them.
SHARES_FLUSH = 1 * MB
MAX_TOGETHER = 16

# Bytes that all programs together may have unwritten in memory, for each file of a group that is
# flushed by one syncfs(2): it writes those of others, too. On the disk measured the flushes of a
# file took 0.8 ms, and a megabyte of another program 0.7 ms; on a slow disk both take more.
DIRTY_FOR_FILE = 1 * MB

# Bytes of space reserved in one call. Where the file system cannot reserve, the system writes a
# byte to each of its blocks, 4096 of them ...
RESERVE_SLICE = 16 * MB
RESERVE_FOR = 0.05  # ... and seconds of such calls in one unit of work

# Entries of a tree that are removed at once, which takes some 50 ms. 100,000 take up to ten
# seconds, and neither transfers nor a stop should wait for them ...
REMOVE_AT_ONCE = 2000
REMOVE_FOR = 0.05  # ... so the others go in units of work of so many seconds
MAX_RESERVING = 2  # transfers that reserve space at once: they may keep the disk busy

# Blocks of a file from which on its journal is read by one worker at a time: that takes Python 1 s
# for a million blocks, which all other threads feel.
MANY_BLOCKS = 100_000
MANY_ENTRIES = 5000  # of a tree, likewise: to read its manifest takes 15 us for each
TREES_TRIED = 4  # unfinished trees of one name that are read to find the one to go on with
SCAN_STRETCH = 100  # part files looked at in one unit of work at the start: 10 ms
SCAN_AGAIN = 5.0  # seconds until that look is tried again where the disk did not let us
REREAD_RATE = 10 * MB  # bytes a second at which a client may have to read a file again that grew
HASH_STRETCH = 16  # blocks hashed before a worker looks for more urgent work
HASH_BATCH = 8  # blocks that must be there to be worth a unit of work for the hash

# Bytes of all transfers kept in memory between writing and hashing. To read a block back costs a
# tenth of hashing it, and all else waits for the hash.
KEEP_FOR_HASHING = 24 * MB

# Bytes of free buffers kept for the next blocks: more than KEEP_FOR_HASHING, so that buffers that
# come back from there need not be freed and allocated all the time.
SPARE_BUFFERS = 28 * MB
ACK_DELAY = 0.1  # seconds an acknowledgement may wait for more of them, while blocks keep coming
PROGRESS_LINES = 10  # log lines for one transfer, whatever its size

# --- the server: what became of files -----------------------------------------------------------

HISTORY_AGE = 366 * 86400.0  # seconds for which the history keeps an entry, a year and a day ...
HISTORY_RECEIVED = 200_000  # ... and of so many files that arrived, 160 MB at most, ...
HISTORY_OTHERS = 50_000  # ... and of so many that did not: who is refused all day fills this alone
HISTORY_QUEUE = 10_000  # entries that may wait to be written; any more are dropped and counted
HISTORY_GATHER = 0.2  # seconds for which entries gather, so that one write takes them all
HISTORY_LOCK_WAIT = 1.0  # seconds for another program to let go of the history
HISTORY_AGAIN = 10.0  # seconds until a history that could not be written is tried again
HISTORY_PRUNE_EVERY = 1000  # entries written before the oldest are looked at
PROGRAMS = 2  # of --on-received at once: they share machine and link with what comes in
PROGRAM_TIMEOUT = 3600.0  # seconds for one of them: it may send a huge file on, and it may hang
PROGRAM_CLOSING = 1.0  # seconds from the request to end until it is killed
TAKE_OVER_EVERY = 30.0  # seconds between two looks for what servers left that run no more
PROGRAM_AGAIN = 10.0  # seconds until a program is tried again that could not be started
HISTORY_CLOSING = 2.0  # seconds for the last entries at the end, before it goes on without them
# --- the server: HTTP ---------------------------------------------------------------------------

MAX_HEAD = 16 * KB  # bytes of a request before its body: twice what Apache and nginx take in a line
MAX_TARGET = 8000  # characters of its target: the least that RFC 9112, 3, wants to be taken
MAX_METHOD = 32  # characters of its method; the longest that is registered has 17
MAX_FIELDS = 100  # header fields; a browser sends 15
MAX_JSON_BODY = 16 * KB  # bytes of a body that is read as a whole: a login has 300
REQUESTS_PER_UNIT = 16  # of one connection before others get their turn
HTTP_IDLE = 65.0  # seconds for which a connection may wait for its next request: a minute's poll
HTTP_SLICE = 2 * MB  # bytes of a file that a worker sends before it looks for more urgent work
EVENTS_EVERY = 0.5  # seconds between two looks at the transfers, for those that watch them
EVENTS_KEPT = 1000  # events that a stream can still be told of that was cut off for a moment
MAX_WATCHERS = 64  # streams of events of one user: a stream for each tab of a few browsers
SILENT_STREAM = 15.0  # seconds without an event after which a comment shows that the stream lives
HISTORY_PAGE = 100  # entries of the history in a page, unless fewer or more are asked for ...
HISTORY_LONGEST_PAGE = 1000  # ... up to this: half a MB of JSON
WEB_SESSIONS = 4096  # logins by browsers that are remembered; each one more ends the oldest one
WEB_SESSION_IDLE = 3600.0  # seconds without a request after which such a login ends ...
WEB_SESSION_LIFETIME = 12 * 3600.0  # ... and the longest that it holds: a working day
WEB_LOGINS = 1024  # logins that have begun; each one more ends the oldest one
WEB_LOGINS_OF_USER = 64  # of both kinds, for a user or for a network that has not logged in yet

# Passwords of HTTP Basic that are derived at once: with 25 ms each, they would otherwise take all
# processors. Any more try again so many seconds later.
DERIVATIONS = 1
DERIVE_AGAIN = 0.05
DERIVED_KEPT = 1024  # derived passwords that are remembered, so that a request costs none

# --- accounts -----------------------------------------------------------------------------------

# Rounds of the password hash: about 25 ms for one login, and for each guess at a password from a
# stolen credential file.
ITERATIONS = 100_000
TOKEN_LIFETIME = "30d"  # noqa: S105  (how long a token is valid, unless auth.py is told)

# Seconds by which the clock that made a token may be ahead of ours. A token's end has no such
# leeway, because our own clock has set it.
TOKEN_LEEWAY = 60
READ_AGAIN_AFTER = 5.0  # seconds until a credential file that could not be read is tried once more
FIRST_DELAY = 0.5  # seconds that a login waits after a failed one, doubled with each failure ...
LONGEST_DELAY = 15.0  # ... up to this: a login must still end within LOGIN_TIMEOUT

# Seconds that the failures of others may cost a user with the right password: failures at the same
# address, and guesses at the same account from elsewhere.
LONGEST_SHARED_DELAY = 2.0
GUESSES_AT_ONCE = 8  # logins of one user from one address that may wait like that at once
FREE_PAIR = 2  # failures of one user from one address that cost nothing: typing errors
FREE_ADDRESS = 10  # failures from one address that cost nothing: many people may share it
FREE_ACCOUNT = 20  # failures of one user from anywhere that cost nothing
FAILURES_HALVE_AFTER = 60.0  # seconds after which half of the failures are forgotten

# Counters in each of four rows, for users at their addresses: 3 MB. 500 failed logins a second of
# made-up users delay no other user.
FAILURE_COUNTERS = 2**15


# What a setting may be: in code, and in words.
Rule = Tuple[Check, str]


def _or_none(rule: Rule) -> Rule:
    accepts, wants = rule
    return lambda v: v is None or accepts(v), f"{wants}, or None"


def _number(low: int, high: int) -> Rule:
    return lambda v: is_whole(v, low, high), f"a number from {low} to {high}"


def _seconds(least: float) -> Rule:
    most = 365 * 86400
    wants = f"a number of seconds, at least {least}"
    return lambda v: type(v) in (int, float) and least <= v <= most, wants


def _text(wants: str, least: int = 1) -> Rule:
    return lambda v: isinstance(v, str) and len(v) >= least, wants


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) and one for one in value)


_DIGEST: Rule = (lambda v: v in DIGESTS), f"one of {', '.join(DIGESTS)}"
_IF_EXISTS: Rule = (lambda v: v in ("keep", "skip")), "keep or skip"
_PATH: Rule = (lambda v: isinstance(v, Path)), "a pathlib.Path"
_PATTERNS: Rule = _are_texts, "a tuple of patterns"
_RATE: Rule = (lambda v: is_whole(v, 1, 2**62)), "a number of bytes a second, at least 1"


class ClientSettings(Record):
    """How to send; ``python client.py --help`` has an option for each field except ``password``.

    Raises ``ValueError`` with the name of a field that is not as it must be.
    """

    server: str = field(*_text("a host name or an address"), default=DEFAULT_HOST)
    port: int = field(*_number(1, 65535), default=DEFAULT_PORT)  # of TCP
    user: str = field(*_text("the name of an account"), default="user1")
    # Of the account. None: the demo accounts have their own; for others the environment variable
    # LFT_PASSWORD has it, or a prompt asks for it.
    password: str | None = field(*_or_none(_text("text", 0)), default=None, shown=False)
    # Data connections; None: as many as bring more.
    streams: int | None = field(*_or_none(_number(1, MAX_STREAMS)), default=STREAMS)
    # Bytes of a block; None: by the size of the file and the link.
    block_size: int | None = field(
        *_or_none(_number(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE)), default=BLOCK_SIZE
    )
    # Bytes of a block that are handed to the system as one piece; None: all of it. Over TLS they
    # are rounded up to whole records.
    chunk_size: int | None = field(*_or_none(_number(1, MAX_BLOCK_SIZE)), default=CHUNK_SIZE)
    digest: str = field(*_DIGEST, default="md5")  # what proves the file
    # Seconds without progress, until an attempt counts as dead.
    timeout: float = field(*_seconds(LEAST_TIMEOUT), default=TIMEOUT)
    resume: bool = flag(default=True)  # False: send all, also what an earlier attempt delivered
    # Made by auth.py; takes the place of user and password.
    token: str | None = field(*_or_none(_text("text")), default=None, shown=False)
    tls: bool = flag(default=False)  # encrypt, and check the server's certificate
    ca: Path | None = field(*_or_none(_PATH), default=None)  # certificates to trust; implies tls
    limit: int | None = field(
        *_or_none(_RATE), default=None
    )  # all streams together; None: no limit
    # TCP's congestion control, on links with a long round trip; "" leaves it to the system.
    congestion: str = field(*_text("text", 0), default=CONGESTION)
    compress: bool = flag(default=False)  # compress blocks where the link is slower than that
    preserve: bool = flag(default=False)  # keep permission bits and the time of the last change
    name: str | None = field(*_or_none(_text("a file name")), default=None)  # on the server
    exclude: tuple[str, ...] = field(*_PATTERNS, default=())  # of fnmatch: what is left out
    strict: bool = flag(default=False)  # refuse a directory of which something would be left out
    # "skip": do not send what the server has from us under the same name, if it is the same.
    if_exists: str = field(*_IF_EXISTS, default="keep")


class ServerSettings(Record):
    """How to serve: ``python server.py --help`` tells the meaning of each field."""

    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    port: int = DEFAULT_PORT
    output: Path = Path("output")
    shared: bool = False  # with other servers, which may run on other machines
    workers: int = WORKERS
    credentials: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_file_size: int | None = None
    allow_ext: tuple[str, ...] = ()
    limit: int | None = None  # bytes a second, of all clients together
    proxy_from: tuple[str, ...] = ()  # networks of balancers that send a PROXY header
    on_received: Path | None = None  # a program that is run for each file
    grace: float = GRACE
    max_active: int = MAX_ACTIVE_TRANSFERS
    login_timeout: float = LOGIN_TIMEOUT
    idle_timeout: float = IDLE_TIMEOUT
    stall_timeout: float = STALL_TIMEOUT
    block_timeout: float = BLOCK_TIMEOUT
    http: tuple[str, int] | None = None  # host and port for browsers and other programs
