"""The server: takes files in, proves that they arrived, and answers with a verdict.

What lives here: part files with their journals, the transfer, the session, the pool of workers with
its priority queue, and the main loop. What does not: the encoding of anything (``protocol.py``),
passwords (``auth.py``), and any path made from a string that a client sent.

Who does what
-------------
The main thread owns the listener, the selector and every idle connection. A connection on which
something has come goes into the work queue; the worker that takes it owns it until it gives it
back. A unit of work is short: some messages, some blocks, a stretch of hashing, one flush. A worker
never waits for a peer while somebody else is ready, and no unit waits for another. Each docstring
says on which thread a function runs: *main*, *a worker*, or *any*.

Higher priority goes first in three places: into the registry (lower ones take no room from it), in
the work queue (it is taken out first), and block by block (``RightOfWay``: while it brings bytes,
connections of lower priority rest with the main thread, unread, so that TCP quiets their clients).
Waiting raises urgency in each, so nobody starves.

Locks, in this order: ``Registry`` (sessions; which transfers receive, which wait), ``Transfer``
(one for each), ``BufferPool``. ``WorkQueue`` and ``PartStore`` have one of their own, taken alone.
Nothing is received, sent, written, hashed or logged while one is held.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until it serves, Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import enum
import errno
import fcntl
import hashlib
import heapq
import itertools
import json
import logging
import os
import re
import secrets
import selectors
import socket
import ssl
import stat
import struct
import sys
import threading
import time
import unicodedata
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import auth
import config
from config import SUCCESS, ServerSettings, format_size, printable
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    DIGEST_SIZES,
    FEATURES,
    MAX_FILE_SIZE,
    MAX_SPANS,
    TOKEN,
    VERSION,
    Attach,
    Attached,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    BlockHeader,
    BlockReader,
    Blocks,
    Cancel,
    Connection,
    ConnectionLostError,
    Error,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
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
    Side,
    Spans,
    State,
    TokenBucket,
    TransferComplete,
    TransferError,
    UsageError,
    Verifying,
    Waker,
    Why,
    decompress,
    encode_ack,
    is_loopback,
)

log = logging.getLogger("server")
coordinator_log = logging.getLogger("coordinator")
block_log = logging.getLogger("block")

PARTIAL = ".partial"  # the folder below the output directory for what is not finished
MAX_NAME_BYTES = 255  # of a file name, on every common file system
ACKS_TOGETHER = 4 * len(encode_ack(0, 0))  # bytes: one call and one wake-up for four blocks
ACK_PAUSE = 0.005  # seconds without another block after which they are sent all the same
MAX_FIRST_LINE = 32 * 1024  # bytes of a journal's first line: a name and a directory of 1024
# characters, a user and a final name of 255, each up to 12 bytes in JSON
TOO_SLOW = "too slow, or silent for too long"  # what who misses a deadline is told
MESSAGES_PER_UNIT = 16  # of one coordinator before others get their turn

# --- names --------------------------------------------------------------------------------------

_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories that hide or act


def safe_name(name: str) -> str:
    """Make a client's file name harmless: no folder, nothing hidden, nothing a terminal acts on.

    Raises ``RejectedError`` for one that names no file at all. Runs on any thread.
    """
    safe = "".join(
        "_" if char in "/\\:\0" or unicodedata.category(char) in _UNSAFE else char for char in name
    )
    if not name.strip(". "):
        raise RejectedError("name", f"not a file name: {printable(name[:40])!r}")
    return _ended(safe)


def _ended(name: str) -> str:
    """Let no dot or space be the last: Windows drops these, and two names become one."""
    return name[:-1] + "_" if name.endswith((".", " ")) else name


def output_name(original: str, unique: str) -> str:
    """Return ``server_received_<unique>_<original>``, its stem shortened if need be (any)."""
    prefix = f"server_received_{unique}_"
    stem, extension = os.path.splitext(original)
    if len(extension.encode()) > 32:  # not an extension, just a dot somewhere
        stem, extension = original, ""
    room = MAX_NAME_BYTES - len((prefix + extension).encode())
    return _ended(prefix + stem.encode()[:room].decode(errors="ignore") + extension)


def _unique() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


# --- disk ---------------------------------------------------------------------------------------

_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class BufferPool:
    """Block buffers to use again: a fresh one costs a page fault for every 4 KB. Any thread."""

    def __init__(self, keep: int, lend: int = 0) -> None:
        """Keep up to ``keep`` bytes for the next block; let ``lend`` bytes wait to be hashed."""
        self._keep = keep
        self._kept = 0  # about: two threads may miss each other, which costs a buffer
        self._spare: deque[bytearray] = deque()  # its append and pop are atomic
        self._lock = threading.Lock()  # protects the next one
        self._left = lend

    def take(self, size: int) -> memoryview:
        """Return a view of exactly ``size`` bytes with anything in it."""
        with contextlib.suppress(IndexError):
            spare = self._spare.pop()
            self._kept -= len(spare)
            if len(spare) >= size:
                return memoryview(spare)[:size]
        return memoryview(bytearray(size))

    def lend(self, size: int) -> bool:
        """Whether a block of ``size`` bytes may stay in memory until ``settle`` is called."""
        with self._lock:
            granted = size <= self._left
            self._left -= size if granted else 0
            return granted

    def settle(self, size: int) -> None:
        """Take back what was lent."""
        with self._lock:
            self._left += size

    def give(self, view: memoryview) -> None:
        """Take a buffer back; the caller must not use it any more."""
        buffer = view.obj
        assert isinstance(buffer, bytearray)  # take() made it
        if self._kept + len(buffer) <= self._keep:
            self._kept += len(buffer)
            self._spare.append(buffer)


class Facts(NamedTuple):
    """What a part file is for, as its journal says in its first line."""

    user: str
    name: str  # made harmless
    size: int
    block_size: int
    digest: str  # the algorithm
    saved_as: str  # the name it gets when it is whole
    directory: str = ""  # where, below the output directory
    head: str = ""  # the digest of its first block

    @property
    def place(self) -> str:
        """The final name with its directory, as the client is told."""
        return f"{self.directory}/{self.saved_as}" if self.directory else self.saved_as

    @property
    def key(self) -> tuple[object, ...]:
        """What two attempts at the same file have in common; the size may have grown."""
        return self.user, self.name, self.block_size, self.digest, self.head

    @property
    def blocks(self) -> Blocks:
        """How the file falls into blocks."""
        return Blocks(self.size, self.block_size)


class Claims:
    """The blocks that a journal says are in its part file, with their running digests.

    A claim and not a proof: they are hashed again before anybody relies on them.
    """

    def __init__(self, count: int, digest_size: int) -> None:
        self.flags = bytearray(count)  # 1 for each block that is claimed
        self._digests = bytearray(count * digest_size)
        self._size = digest_size

    def add(self, block: int, digest: bytes) -> None:
        """Claim one block; one that the file does not have is ignored."""
        if block < len(self.flags):
            self.flags[block] = 1
            self._digests[block * self._size : (block + 1) * self._size] = digest

    def digest_of(self, block: int) -> bytes:
        """Return what the journal says of ``block``, whether that is claimed or not."""
        return bytes(self._digests[block * self._size : (block + 1) * self._size])

    def records(self) -> bytes:
        """Return them as they stand in a journal."""
        claimed = itertools.compress(itertools.count(), self.flags)
        return b"".join(record(block, self.digest_of(block)) for block in claimed)

    @property
    def spans(self) -> Spans:
        """The claimed blocks as ranges, at most as many as fit a message."""
        found = re.finditer(rb"\x01+", self.flags)
        return tuple(match.span() for match in itertools.islice(found, MAX_SPANS))


class Journal:
    """The record beside a part file: what it is for, and which blocks have been written to it.

    One line of JSON, then records of one size: block index (4 bytes) and running digest. It is
    believed nothing without a proof: torn, lost or full of garbage, it costs time. But only its
    first line ties a published file to its client, so it is flushed with the data: a verdict that
    a power cut swallowed is given again, and the file is not taken a second time.
    """

    VERSION = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def begin(self, facts: Facts, claims: Claims | None = None) -> None:
        """Write a new one in place of what was there, and keep it open for ``append``."""
        fresh = self._path.with_suffix(".new")
        first = json.dumps({"journal": self.VERSION, **facts._asdict()})
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self.close()
        self._fd = os.open(fresh, flags, 0o600)
        try:
            self.append(first.encode() + b"\n")
            if claims:
                self.append(claims.records())
            os.replace(fresh, self._path)
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise

    def append(self, records: bytes) -> None:
        """Add ``records``, or nothing. One thread at a time. Raises ``OSError``."""
        written = os.write(self._fd, records)
        if written < len(records):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Bring it to the disk itself (0.2 ms after its data). Raises ``OSError``."""
        _sync_data(self._fd)

    def go_on(self, facts: Facts) -> None:
        """Open the one that is there for ``append``, without a torn end. Raises ``OSError``."""
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self.close()
        self._fd = os.open(self._path, flags)
        first = os.pread(self._fd, MAX_FIRST_LINE, 0).index(b"\n") + 1
        torn = (os.fstat(self._fd).st_size - first) % (_INDEX.size + DIGEST_SIZES[facts.digest])
        os.ftruncate(self._fd, os.fstat(self._fd).st_size - torn)

    def note_published(self, facts: Facts) -> None:
        """Add that the file has its final name; its age counts from now. Raises ``OSError``."""
        self.append(record(_PUBLISHED, bytes(DIGEST_SIZES[facts.digest])))

    def says_published(self, facts: Facts) -> bool:
        """Whether ``note_published`` was the last to write to it. Raises ``OSError``."""
        note = record(_PUBLISHED, bytes(DIGEST_SIZES[facts.digest]))
        with open(self._path, "rb", opener=_careful) as file:
            start = max(0, os.fstat(file.fileno()).st_size - len(note))
            return os.pread(file.fileno(), len(note), start) == note

    def facts(self) -> Facts:
        """Read what it is for. Raises ``ValueError`` for a journal that is not one of ours."""
        with open(self._path, "rb", opener=_careful) as file:
            return self._parse(file.readline(MAX_FIRST_LINE))

    def load(self, facts: Facts) -> Claims:
        """Read which blocks it claims; ``facts`` may have another size than it says itself."""
        size = DIGEST_SIZES[facts.digest]
        claims = Claims(facts.blocks.count, size)
        with open(self._path, "rb", opener=_careful) as file:
            old = self._parse(file.readline(MAX_FIRST_LINE)).blocks
            records = file.read()
        whole = len(records) - len(records) % (_INDEX.size + size)
        for block, digest in struct.iter_unpack(f"!I{size}s", records[:whole]):
            claims.add(block, digest)
        for block in {old.count - 1, facts.blocks.count - 1}:  # the last one may have been short
            if 0 <= block < facts.blocks.count and old.length(block) != facts.blocks.length(block):
                claims.flags[block] = 0
        return claims

    def _parse(self, line: bytes) -> Facts:
        try:
            values = json.loads(line)
        except RecursionError:
            raise ValueError("not a journal of ours") from None
        if not isinstance(values, dict) or values.pop("journal", None) != self.VERSION:
            raise ValueError("not a journal of this version")
        if [type(values.get(key)) for key in Facts._fields] != _FACT_TYPES:
            raise ValueError("not a journal of ours")
        if len(values) != len(Facts._fields):
            raise ValueError("a journal of another version")
        facts = Facts(**values)
        sane = facts.digest in DIGEST_SIZES and facts.size >= 0 and facts.block_size > 0
        plain = not any(part in ("", ".", "..") for part in facts.place.split("/"))
        if not sane or not plain or not _OUR_NAME.fullmatch(facts.saved_as):
            raise ValueError("not a journal of ours")
        return facts

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_INDEX = struct.Struct("!I")
_PUBLISHED = 2**32 - 1  # in place of a block index; no file has that many (config.MAX_BLOCKS)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_UNKNOWN_HERE = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # to a file system
_FACT_TYPES = [str, str, int, int, str, str, str, str]
_OUR_NAME = re.compile(r"server_received_[^/\0]+")


def record(block: int, digest: bytes) -> bytes:
    """Make a journal's record of one block (any)."""
    return _INDEX.pack(block) + digest


def _careful(path: str, flags: int) -> int:
    """Open a file in ``.partial`` only if it is one."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)


class StaleError(Exception):
    """The client's file is another than the one that was published; nothing of it can be used."""


class PartFile:
    """An output file that is not finished, below ``.partial``, with a name of the server's making.

    ``write`` and ``read`` work at distinct places and need no lock; ``Transfer`` sees to it that
    nobody uses it after ``close``. All of it runs on a worker and may wait for the disk.

    Once published it stays, as a second name of the whole file, until the client has confirmed the
    verdict; it is not written to any more.
    """

    def __init__(self, output: Path, stem: str, facts: Facts) -> None:
        """Stand for a file that ``create`` or ``reopen`` opens."""
        self.facts = facts
        self.stem = stem
        self.published = False
        self.trusted = True  # whether the disk has taken what it was given
        self.rested_at = 0.0  # when it was let go
        self._claims_some = False
        self._told_full = False
        self._output = output
        self._path = output / PARTIAL / f"{stem}.part"
        self._journal = Journal(output / PARTIAL / f"{stem}.journal")
        self._fd = -1

    def __repr__(self) -> str:
        return f"<PartFile {self._path.name}>"

    @classmethod
    def create(cls, output: Path, facts: Facts) -> PartFile:
        """Make a new one and reserve its space. Raises ``OSError`` and leaves nothing."""
        part = cls(output, secrets.token_hex(8), facts)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        part._fd = os.open(part._path, flags, 0o666)
        try:
            part._reserve(facts.size)
            part._journal.begin(facts)
        except OSError:
            part.remove()
            raise
        return part

    def reopen(self, facts: Facts, check: Callable[[], None] = lambda: None) -> Claims:
        """Open one that an earlier attempt left, for ``facts``; return what its journal claims.

        ``check`` may object before space is reserved. Raises ``OSError``, ``ValueError`` if unfit.
        """
        self._claims_some = True  # till we know better
        self.look()
        path, flags = (self._final, os.O_RDONLY) if self.published else (self._path, os.O_RDWR)
        self._fd = _careful(str(path), flags)
        facts = facts._replace(saved_as=self.facts.saved_as)
        if self.published:
            facts = facts._replace(directory=self.facts.directory)
        if self.published and not facts.size == self.facts.size == os.fstat(self._fd).st_size:
            raise ValueError("it was published, and there is another size by now")
        if not self.published:
            check()  # the file may have grown, and others may rest beside this one
            self._reserve(facts.size)
        claims = self._journal.load(facts)  # takes memory for each block: there is room for all
        self._renew_journal(facts, claims)
        self.facts = facts
        if self.published:
            self._note_published()
        self._claims_some = any(claims.flags)
        return claims

    def _renew_journal(self, facts: Facts, claims: Claims) -> None:
        """Write the journal anew; on a full disk the old one has to do, if it is for this size."""
        try:
            self._journal.begin(facts, claims)
        except OSError as error:
            if error.errno not in _NO_SPACE or facts != self.facts:
                raise
            self._journal.go_on(facts)

    def recover(self) -> None:
        """Look at what an earlier run left, and note what it may not have noted any more.

        Raises as ``look`` does.
        """
        self.look()
        if self.published and not self._journal.says_published(self.facts):
            try:
                self._journal.go_on(self.facts)
                self._note_published()
            finally:
                self._journal.close()

    def look(self) -> None:
        """See whether it has its final name. Raises ``ValueError`` if it is not ours any more."""
        try:
            facts = os.lstat(self._path)
        except FileNotFoundError:  # published by renaming
            facts = os.lstat(self._final)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        self.published = _same_file(self._final, facts)
        moved = facts.st_nlink > 1 or self._journal.says_published(self.facts)
        if moved and not self.published:
            raise ValueError("published, and moved or removed since")  # not ours to write to

    @property
    def _final(self) -> Path:
        return self._output / self.facts.place

    def _reserve(self, size: int) -> None:
        facts, own = os.statvfs(self._output), os.fstat(self._fd).st_blocks * 512
        if size - own > facts.f_bavail * facts.f_frsize:  # some would write zeros until full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.truncate(self._fd, size)
        try:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno not in _UNKNOWN_HERE:
                raise

    def write(self, payload: memoryview, offset: int) -> None:
        """Put ``payload`` at ``offset``. Raises ``StaleError`` for a file that is published."""
        if self.published:
            raise StaleError
        while payload:
            written = os.pwrite(self._fd, payload, offset)
            payload, offset = payload[written:], offset + written

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``OSError`` if somebody cut the file short."""
        try:
            while view:
                size = os.preadv(self._fd, [view], offset)
                if not size:
                    raise OSError(errno.EIO, "the part file was truncated by somebody else")
                view, offset = view[size:], offset + size
        except OSError:
            self.trusted = False  # or every attempt to resume it would end here
            raise

    @property
    def worth_keeping(self) -> bool:
        """Whether somebody could go on with it, or ask for its verdict again."""
        return self.trusted and (self._claims_some or self.published)

    def note(self, records: bytes) -> None:
        """Claim written blocks in the journal.

        On a full disk they stay unclaimed: the room for the file itself is reserved, so it can
        still arrive, and only who breaks off has to send those blocks again.
        """
        if not records or self.published:
            return
        try:
            self._journal.append(records)
            self._claims_some = True
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            if not self._told_full:
                log.warning("%s: disk full: what comes from here on could not be resumed later",
                            self.facts.name)  # fmt: skip
            self._told_full = True

    def flush(self, proven: int = 0) -> None:
        """Bring what was written so far to the disk itself, and the journal's claims after it.

        The first ``proven`` bytes are not needed in memory any more: to use their pages again is
        cheaper than to touch new ones (in a virtual machine 0.6 against 1.2 s of processor time for
        1 GiB), and a large file does not push everybody else's out.

        An error is final: the system has dropped what it could not write, and a second try would
        succeed without it (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
        """
        try:
            _sync_data(self._fd)
        except OSError:
            self.trusted = False
            raise
        try:
            self._journal.flush()
        except OSError as error:  # the data is safe all the same
            log.debug("%s: %s", self.stem, error)
        if proven and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # it is only advice
                os.posix_fadvise(self._fd, 0, proven, os.POSIX_FADV_DONTNEED)

    def publish(self) -> str:
        """Give the flushed file its final name without replacing anything; return that name.

        Returns only after the name, too, is on the disk. A file that was published before a kill
        keeps the name it got then.
        """
        if self.published and _same_file(self._final, os.fstat(self._fd)):
            _flush_directory(self._final.parent)
        else:
            self._give_name()
            self._note_published()
        return self.facts.place

    def _note_published(self) -> None:
        """Have the journal say for ever whose second name this is.

        Else who removed the published file would leave a hidden copy, taken for unfinished.
        """
        try:
            self._journal.note_published(self.facts)
        except OSError as error:  # a full disk, say: the file is there all the same
            log.debug("%s: %s", self.stem, error)

    def _give_name(self) -> None:
        self.published = False
        make_directory(self._output, self.facts.directory)
        with _directory(self._final.parent) as folder:  # there may be no descriptor left later
            while not self.published:
                try:
                    self._link(self._final)
                    self.published = True
                except FileExistsError:  # somebody else's: the journal must know the other first
                    name = output_name(self.facts.name, _unique())
                    self.facts = self.facts._replace(saved_as=name)
                    self._journal.begin(self.facts, self._journal.load(self.facts))
            try:
                os.fsync(folder)
            except OSError:  # the disk may not have the name: the client will hear of no success
                self.published = self.trusted = False
                with contextlib.suppress(OSError):
                    os.unlink(self._final)
                raise

    def _link(self, path: Path) -> None:
        try:
            os.link(self._path, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (*_UNKNOWN_HERE, errno.EPERM, errno.EMLINK):
                raise
            if os.path.lexists(path):  # no hard links here: the random name makes this safe enough
                raise FileExistsError(path) from None
            os.rename(self._path, path)

    def close(self) -> None:
        """Close it; it stays on the disk."""
        self._journal.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close it and remove the unfinished name; a published file keeps its final one."""
        self.close()
        for suffix in (".journal", ".new", ".part"):  # without its journal a part file is nothing
            try:
                self._path.with_suffix(suffix).unlink()
            except FileNotFoundError:
                continue
            except OSError as error:  # nobody's transfer must hang on it; a later look cleans up
                log.warning("cannot remove %s: %s", self._path.name, error.strerror)

    def age(self) -> float:
        """Return the seconds since its journal was last written to."""
        return time.time() - self._path.with_suffix(".journal").stat().st_mtime


def _same_file(path: Path, facts: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), facts)
    except OSError:
        return False


def make_directory(output: Path, relative: str) -> Path:
    """Make a user's directory below ``output``, no symlink and no mount; return it (a worker)."""
    path = output
    for part in relative.split("/") if relative else ():
        parent, path = path, path / part
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            _flush_directory(parent)
        facts = os.lstat(path)
        if not stat.S_ISDIR(facts.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if facts.st_dev != os.stat(output).st_dev:  # no part file could be moved there
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
    if relative:
        _refuse_bind_mount(output, path)
    return path


def _refuse_bind_mount(output: Path, path: Path) -> None:
    """Raise ``OSError`` where ``path`` is a mount of the same device: nothing can be moved there.

    Only the system knows: to link a folder is forbidden anyway, and it says first what else is.
    """
    try:
        os.link(output / PARTIAL, path / PARTIAL)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise


def counted(size: int) -> int:
    """Return what a file of ``size`` bytes counts in a quota: empty ones take room as well."""
    return max(size, config.LEAST_COUNTED)


def used_bytes(directory: Path) -> int:
    """Return what the files that users have in ``directory`` count together. Any worker."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    total += counted(entry.stat(follow_symlinks=False).st_size)
    return total


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flush_directory(path: Path) -> None:
    with _directory(path) as descriptor:
        os.fsync(descriptor)


class PartStore:
    """All part files of an output directory: which are in use, which rest for a resume.

    The lock protects the two collections; whoever took a part file out of ``_resting`` has it for
    itself. Workers call it, unless a docstring says otherwise. A ``key`` is that of ``Facts``.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._resting: list[PartFile] = []
        self._in_use: dict[PartFile, Transfer] = {}

    def scan(self) -> None:
        """Find what an earlier run left; remove what nobody can go on with (main, at start)."""
        folder = self._output / PARTIAL
        kept = 0
        for stem in sorted({path.stem for path in folder.iterdir() if path.name != "lock"}):
            try:
                part = PartFile(self._output, stem, Journal(folder / f"{stem}.journal").facts())
                part.recover()
                age = part.age()
            except (FileNotFoundError, ValueError) as error:
                log.warning("removing %s: nobody can go on with it (%s)", stem, _reason(error))
                PartFile(self._output, stem, _NO_FACTS).remove()
            except OSError as error:  # no fault of the file's: it may go at the next start
                log.warning("leaving %s alone: %s", stem, _reason(error))
            else:
                self._put(part, age)
                kept += 1
        if kept:
            log.info("unfinished files kept for their clients to go on: %d", kept)

    def _put(self, part: PartFile, age: float = 0.0) -> None:
        """Let ``part`` rest; of too many of one user the oldest goes.

        Until then it counts as in use, so that who comes for it always finds it.
        """
        oldest = None
        part.rested_at = time.monotonic() - age
        with self._lock:
            self._in_use.pop(part, None)
            self._resting.append(part)
            own = [p for p in self._resting if p.facts.user == part.facts.user]
            if len(own) > config.MAX_PARTS_OF_USER:
                oldest = min(own, key=lambda p: p.rested_at)
                self._resting.remove(oldest)
        if oldest:
            log.warning("removing %s of %s: too many unfinished files of this user",
                        oldest.facts.name, oldest.facts.user)  # fmt: skip
            oldest.remove()

    def left_bytes(self, facts: Facts, *, same: bool) -> int:
        """Return what unfinished files reserve that nobody sends; if ``same``, of this one too."""
        with self._lock:
            ended = (part for part, transfer in self._in_use.items() if transfer.ended)
            left = [part.facts for part in (*self._resting, *ended) if not part.published]
        here = (one for one in left if one.directory == facts.directory)
        return sum(counted(one.size) for one in here if same or one.key != facts.key)

    def published_bytes(self, facts: Facts) -> int:
        """Return the bytes of this same file that are published and can still be answered for."""
        with self._lock:
            known = [part.facts for part in (*self._resting, *self._in_use) if part.published]
        here = (one for one in known if one.directory == facts.directory)
        return sum(counted(one.size) for one in here if one.key == facts.key)

    def _taken(self, key: tuple[object, ...]) -> Iterator[PartFile]:
        """Take out what rests with ``key``, the last first, one each time it is asked."""
        while True:
            with self._lock:
                part = next((p for p in reversed(self._resting) if p.facts.key == key), None)
                if part is None:
                    return
                self._resting.remove(part)
            yield part

    def forget(self, key: tuple[object, ...]) -> None:
        """Remove what rests of a file that is to be sent anew."""
        for part in self._taken(key):
            part.remove()

    def create(self, transfer: Transfer) -> PartFile:
        """Return a new part file; older attempts at the same file make room for it."""
        while True:
            try:
                part = PartFile.create(self._output, transfer.facts)
            except FileNotFoundError:  # somebody has tidied up
                (self._output / PARTIAL).mkdir(exist_ok=True)  # another worker may be faster
            except OSError as error:
                full = error.errno in _NO_SPACE
                older = next(self._taken(transfer.facts.key), None) if full else None
                if older is None:
                    raise
                older.remove()
            else:
                self._use(part, transfer)
                return part

    def resume(
        self, transfer: Transfer, check: Callable[[], None] = lambda: None
    ) -> tuple[PartFile, Claims] | None:
        """Return one that rests and was for the same file, with its claims, if ``check`` agrees."""
        aside: list[PartFile] = []  # cannot be read just now: somebody may look after the disk
        try:
            for part in self._taken(transfer.facts.key):
                self._use(part, transfer)  # from now on somebody who comes for it has to wait
                claims = self._reopen(part, transfer, check, aside)
                if claims is not None:
                    return part, claims
            return None
        finally:
            for part in aside:
                self.rest(part)

    def _reopen(
        self, part: PartFile, transfer: Transfer, check: Callable[[], None], aside: list[PartFile]
    ) -> Claims | None:
        """Open ``part`` for ``transfer``, or set it aside; a bad one goes. Raises ``OSError``."""
        try:
            return part.reopen(transfer.facts, check)
        except RejectedError:
            aside.append(part)
            raise
        except (FileNotFoundError, ValueError) as error:
            log.warning("removing %s: it cannot be resumed (%s)", part.stem, _reason(error))
            self.drop(part)
        except OSError as error:
            log.warning("%s cannot be resumed: %s", part.stem, _reason(error))
            aside.append(part)
            if error.errno in _OURS:  # a new one would not go better
                raise
        return None

    def _use(self, part: PartFile, transfer: Transfer) -> None:
        with self._lock:
            self._in_use[part] = transfer

    @property
    def in_use(self) -> int:
        """How many are in use (any)."""
        return len(self._in_use)  # one read: no lock needed

    def rivals(self, transfer: Transfer) -> list[Transfer]:
        """Return the transfers whose part file ``transfer`` could go on with."""
        with self._lock:
            users = list(self._in_use.values())
        return [user for user in users if user is not transfer and user.same_file(transfer)]

    def rest(self, part: PartFile) -> None:
        """Take a part file back that its transfer has let go, for whoever comes again (any)."""
        if part not in self._in_use:
            return  # it rests already
        if part.worth_keeping:
            part.close()
            self._put(part)
        else:
            self.drop(part)

    def drop(self, part: PartFile) -> None:
        """Remove a part file that nobody needs any more (any)."""
        with self._lock:
            known = self._in_use.pop(part, None)
        if known:
            part.remove()

    def close(self) -> None:
        """Let go what is still in use, verdicts that nobody has confirmed (main, at the end)."""
        for transfer in list(self._in_use.values()):
            transfer.end()
            transfer.settle(confirmed=False)

    def expire(self) -> None:
        """Remove what nobody came back for."""
        with self._lock:
            resting = list(self._resting)
        for part in resting:
            self._expire(part)

    def _expire(self, part: PartFile) -> None:
        fresh = PartFile(self._output, part.stem, part.facts)  # somebody may use the other by now
        try:
            fresh.look()
            limit = config.KEEP_ANSWER if fresh.published else config.KEEP_PARTIAL
            if fresh.age() < limit:
                return
        except (FileNotFoundError, ValueError) as error:
            log.debug("%s: %s", part.stem, error)  # gone already: forget it
        except OSError as error:  # no fault of the file's
            log.warning("leaving %s alone: %s", part.stem, _reason(error))
            return
        with self._lock:
            if part not in self._resting:
                return  # somebody goes on with it
            self._resting.remove(part)
        if not part.published:
            log.warning("removing %s of %s: left for too long", part.facts.name, part.facts.user)
        part.remove()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


_OURS = (*_NO_SPACE, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOMEM)
_NO_FACTS = Facts("", "", 0, 1, "md5", "none")


class OutputDirectory:
    """The output directory while this server owns it: one server for one directory.

    The kernel gives the lock back when the process ends, however it ends.
    """

    def __init__(self, path: Path) -> None:
        """Take it (main). Raises ``UsageError`` if that cannot be."""
        try:
            (path / PARTIAL).mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(path / PARTIAL / "lock", flags, 0o600)
        except OSError as error:
            raise UsageError(f"output directory {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UsageError(f"another server already writes to {path}") from None

    def release(self) -> None:
        """Give it back (main)."""
        os.close(self._lock)


# --- one file's journey -------------------------------------------------------------------------


class TransferEndedError(Exception):
    """The transfer ended meanwhile; whoever still worked for it stops."""


class Unproven(NamedTuple):
    """A block in the part file that is not hashed yet."""

    block: int
    state: Block  # WRITTEN or ANNOUNCED; that it still is says that nobody has asked for it since
    digest: bytes  # the running digest the client sent
    payload: memoryview | None  # its bytes, if they are still in memory


class Due(NamedTuple):
    """What a block that came makes due; work that is due is the caller's to have done."""

    received: int  # bytes that are here by now, each block once
    hashing: bool = False
    flush: bool = False
    missing: Spans = ()  # blocks to be asked for, because the source has changed


class Stretch(NamedTuple):
    """What one turn of hashing brought."""

    more: bool  # whether another turn may find something to do
    missing: Spans = ()  # the block that was damaged, to be asked for again
    why: str = Why.DAMAGED
    judged: bool = False  # all is verified and claimed; said once, to the one who has to publish


class Block(enum.IntEnum):
    """How far a block has come; a byte of ``Transfer._states`` holds it."""

    ABSENT = 0
    ASKED = 1  # absent, and a MISSING has named it
    CLAIMED = 2  # in the part file, says the journal
    ANNOUNCED = 3  # ... and the client's digest agrees with the journal's
    WRITING = 4
    WRITTEN = 5
    VERIFIED = 6  # its running digest was computed from the part file, and is the client's


class Stage(enum.IntEnum):
    """How far a transfer has come: each stage leads to the next, as far as ``CONFIRMED``.

    From ``PUBLISHING`` a disk that refuses leads back, and nobody else; every other stage before
    ``CONFIRMED`` may lead to ``ENDED``.
    """

    OPEN = 0  # blocks come and are hashed
    JUDGED = 1  # all of them are; one worker is to publish the file
    PUBLISHING = 2
    PUBLISHED = 3  # the part file stays until the client has read the verdict, or is gone
    CONFIRMED = 4  # nobody needs the part file any more: it goes with its last user
    ENDED = 5  # somebody may go on with the part file: it rests when its last user has left


_GAPS = re.compile(b"[%c%c]+" % (Block.ABSENT, Block.CLAIMED))
_PROMISED = re.compile(b"[%c%c]+" % (Block.CLAIMED, Block.ANNOUNCED))
_READY = (Block.ANNOUNCED, Block.WRITTEN)  # to be hashed
_TO_STATES = bytes([Block.ABSENT, Block.CLAIMED]) + bytes(254)  # of the flags of Claims


class Transfer:
    """One file on its way in: which blocks are here, which of them are proven right.

    ``Block`` says which way a block goes. Memory holds a byte for each, and more only for what is
    between written and verified. The lock protects the stage and every attribute that begins with
    an underscore, but for the hash state, which belongs to the one worker that hashes.
    """

    def __init__(
        self,
        session: Session,
        start: FileStart,
        name: str,
        buffers: BufferPool,
        let_go: Callable[[Transfer, PartFile], None],
    ) -> None:
        """Stand for the file that ``start`` announces; ``let_go`` gets the part file at the end."""
        self.turn = 0  # the registry's: in which order they came in ...
        self.number = 0  # ... and what the wire calls them
        self.session = session
        self.user, self.priority = session.user, session.priority
        self.name = name
        self.resumes = start.resume
        self.blocks = Blocks(start.size, start.block_size)
        saved_as = output_name(name, _unique())
        self.facts = Facts(
            session.user, name, start.size, start.block_size, start.digest, saved_as,
            session.rights.directory, start.head,
        )  # fmt: skip
        self._digest_size = DIGEST_SIZES[start.digest]
        self.asked_at = time.monotonic()
        self.probes: dict[Transfer, float] = {}  # owners of its part file, and since when asked
        self._buffers = buffers
        self._let_go = let_go
        self._lock = threading.Lock()
        self.stage = Stage.OPEN
        self._part: PartFile | None = None
        self._states = bytearray()
        self._claims = Claims(0, 0)  # of the journal, when it began
        self._asked = 0  # blocks in state ASKED
        self._verified = 0  # blocks from the start of the file
        self._here = 0  # blocks announced, written or verified
        self._written: dict[int, Unproven] = {}  # the pool lends the payloads in there
        self._records = bytearray()  # written blocks that the journal does not claim yet
        self._claim: str | None = None  # the digest of a TRANSFER_COMPLETE that counts
        self._hashing = self._flushing = self._noting = False  # whether a worker is at it
        self._unflushed = 0
        self._received = 0  # bytes, each block once
        self._hashed_for = 0.0  # seconds; the hasher's, like the hash state
        self._wrote_for = 0.0  # seconds, of all workers together, and the last flush
        self._held_back = Pauses()  # of its data connections, by limits
        self._rounds = 0  # repairs without progress
        self._resent = 0
        self._moved_at = self.asked_at
        self._users = 0  # workers that use the part file right now
        self._publish_next = False  # the flush that runs now has to call the publisher
        self._hash = hashlib.new(start.digest)
        self.held_until = 0.0  # a stretch is hashed then at the latest, whoever has right of way
        self._looked_at = False  # whether the content fits the name

    def __repr__(self) -> str:
        return f"<Transfer {self.number}: {self._verified} of {self.blocks.count} blocks verified>"

    def same_file(self, other: Transfer) -> bool:
        """Whether ``other`` could go on with what this one has received."""
        return self.facts.key == other.facts.key

    # -- its life: any worker

    def open(self, part: PartFile, claims: Claims | None = None) -> bool:
        """Begin to receive into ``part``; ``False`` if the transfer has ended meanwhile."""
        states = claims.flags.translate(_TO_STATES) if claims else bytearray(self.blocks.count)
        with self._lock:
            if not self.ended:
                self._part, self._moved_at = part, time.monotonic()
                self._states, self._claims = states, claims or self._claims
            return not self.ended

    @contextlib.contextmanager
    def part(self) -> Iterator[PartFile]:
        """Use the part file; it stays open until the last user has left."""
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            self._users += 1
            part = self._part
        try:
            yield part
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
        self._look_last()

    def _look_last(self) -> None:
        """Let the part file go, once, when the stage is a last one and nobody uses it."""
        if self.stage < Stage.CONFIRMED:  # one read: who changes that looks as well
            return
        with self._lock:
            if self._users or self._part is None:
                return
            part, self._part = self._part, None  # nobody else is left to touch the rest
        self._buffers.settle(sum(len(one.payload or b"") for one in self._written.values()))
        try:
            part.note(bytes(self._records))
        except OSError as error:
            log.warning("%s: the journal lacks some blocks: %s", self.name, error.strerror)
        self._let_go(self, part)

    def spoil(self) -> None:
        """Let nobody go on with the part file."""
        with self._lock:
            if self._part:
                self._part.trusted = False

    def note_blocks(self) -> None:
        """Have the journal claim what was written since the last time (one worker at a time)."""
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            if self._noting or not self._records:
                return
            self._noting = True
            self._users += 1
            part, records = self._part, bytes(self._records)
            self._records.clear()
        try:
            part.note(records)
        finally:
            with self._lock:
                self._noting = False
            self._leave()

    def end(self) -> bool:
        """Let nobody begin anything; return whether it was the caller who ended it."""
        with self._lock:
            ends = self.stage < Stage.PUBLISHING
            if ends:
                self.stage = Stage.ENDED
        self._look_last()
        return ends

    def settle(self, *, confirmed: bool) -> None:
        """The client has read the verdict, or is gone: then somebody may ask for it again."""
        with self._lock:
            if self.stage is Stage.PUBLISHED:
                self.stage = Stage.CONFIRMED if confirmed else Stage.ENDED
        self._look_last()

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish the file within this. Raises ``TransferEndedError`` if somebody was faster."""
        with self._lock:
            if self.ended:
                raise TransferEndedError
            self.stage, after = Stage.PUBLISHING, Stage.JUDGED
        try:
            yield
            after = Stage.PUBLISHED
        finally:
            with self._lock:
                self.stage = after

    # -- blocks: any worker

    @property
    def receiving(self) -> bool:
        """Whether blocks may come."""
        return self._part is not None and not self.ended  # one read each: no lock needed

    @property
    def ended(self) -> bool:
        """Whether it is over; its part file may still be in use for a moment."""
        return self.stage >= Stage.PUBLISHED  # one read: no lock needed

    def lives(self, asked_at: float) -> bool:
        """Whether its client has been heard of since ``asked_at``; one read each, no lock needed.

        Blocks count a little later: what had come before may still have waited to be received.
        """
        drained = asked_at + config.PROBE_TIMEOUT / 3
        return self.session.heard_at >= asked_at or self._moved_at >= drained

    @property
    def claimed(self) -> Spans:
        """The blocks of which only the running digest is wanted."""
        return self._claims.spans

    def announce(self, block: int, digest: bytes) -> Due:
        """Take the client's digest of a block that the journal claims.

        One that differs from the journal's says that the source has changed before the end of this
        block: from here on nothing that the journal claims can be used.
        """
        digest = digest[: self._digest_size]
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            missing: Spans = ()
            if self._states[block] == Block.CLAIMED:
                if digest == self._claims.digest_of(block):
                    self._states[block] = Block.ANNOUNCED
                    self._arrived(self.blocks.length(block))
                else:
                    missing = self._distrust(block)
            return Due(self._received, self._hashing_due(), missing=missing)

    def _distrust(self, block: int) -> Spans:
        """Ask for the bytes of every block from ``block`` on that was only claimed."""
        found = _PROMISED.finditer(self._states, block)
        asked = tuple(match.span() for match in itertools.islice(found, MAX_SPANS))
        for at in itertools.chain.from_iterable(itertools.starmap(range, asked)):
            if self._states[at] == Block.ANNOUNCED:
                self._withdraw(at)
        return self._ask(asked)

    def _arrived(self, length: int) -> None:
        self._here += 1
        self._received += length
        self._moved_at = time.monotonic()

    def _withdraw(self, block: int) -> None:
        """A block that was here is not, after all."""
        self._here -= 1
        self._received -= self.blocks.length(block)

    def store(self, block: int, digest: bytes, payload: memoryview) -> Due:
        """Write a block that is not here yet; return what has become due by it.

        The buffer is the transfer's from here on: a few stay in memory, so that hashing need not
        read them back. Raises ``OSError``, ``TransferEndedError``, ``StaleError``.
        """
        part = self._claim_block(block)
        if part is None:
            self._buffers.give(payload)
            return Due(self._received)
        began = time.monotonic()
        try:
            part.write(payload, self.blocks.offset(block))
        except BaseException:
            self._leave()
            raise
        return self._note_written(block, digest, payload, time.monotonic() - began)

    @property
    def full(self) -> bool:
        """Whether to remember one more block would take memory without bound."""
        return len(self._written) > config.MAX_AHEAD  # one read: no lock needed

    def _claim_block(self, block: int) -> PartFile | None:
        """Reserve ``block`` for writing; ``None`` when it is here, or another worker is at it.

        So no block is ever written after it was verified, whatever comes twice.
        """
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            state = self._states[block]
            if state >= Block.ANNOUNCED:
                return None
            self._asked -= state == Block.ASKED
            self._states[block] = Block.WRITING
            self._users += 1
            return self._part

    def _note_written(self, block: int, digest: bytes, payload: memoryview, took: float) -> Due:
        digest, length = digest[: self._digest_size], len(payload)
        kept = payload if self._buffers.lend(length) else None
        with self._lock:
            self._wrote_for += took
            self._written[block] = Unproven(block, Block.WRITTEN, digest, kept)
            self._states[block] = Block.WRITTEN
            self._records += record(block, digest)
            self._unflushed += length
            self._arrived(length)
            due = Due(self._received, self._hashing_due(), self._flush_due())
            self._users -= 1
        self._look_last()
        if kept is None:
            self._buffers.give(payload)
        return due

    def stalled_for(self) -> float:
        """Return the seconds since a block came, 0 unless it is the client's turn."""
        with self._lock:
            complete = self._here == self.blocks.count and self._claim is not None
            waits = self._part is not None and not complete
            return time.monotonic() - self._moved_at if waits else 0.0

    # -- flushing: one worker at a time

    def _flush_due(self) -> bool:
        due = self._unflushed >= config.FLUSH_EVERY and not self._flushing
        if due:
            self._flushing, self._unflushed = True, 0
        return due

    def end_flush(self, *, done: bool) -> bool:
        """Let the next flush begin; whether the caller has to call the publisher now."""
        with self._lock:
            self._flushing = False
            if not done:  # try again after some more blocks
                self._unflushed += config.FLUSH_EVERY - config.FLUSH_EVERY // 8
            publish, self._publish_next = self._publish_next, False
            return publish

    def begin_last_flush(self) -> bool:
        """Whether the publisher may go on; else the flush that runs calls it when it has ended.

        The system tells of a write that failed only once: to one of two flushes at the same time.
        """
        with self._lock:
            self._publish_next = self._flushing
            return not self._flushing

    # -- hashing: one worker at a time

    def complete(self, digest: str, *, delivered: bool = True) -> Spans:
        """Take the client's word for the whole file; return the blocks that nobody will bring.

        Before all is ``delivered`` there are none. While a block that a MISSING named is still
        absent, that MISSING has crossed this word on the way, and another word will follow.
        """
        with self._lock:
            self._claim = digest
            if not delivered or self._asked or self._here == self.blocks.count:
                return ()
            found = _GAPS.finditer(self._states, self._verified)
            missing = tuple(match.span() for match in itertools.islice(found, MAX_SPANS))
            if missing:
                self._rounds += 1
                self._resent += sum(end - first for first, end in missing)
            return self._ask(missing)

    def _ask(self, missing: Spans) -> Spans:
        for first, end in missing:
            self._states[first:end] = bytes([Block.ASKED]) * (end - first)
            self._asked += end - first
        self._moved_at = time.monotonic()
        return missing

    def begin_hashing(self) -> bool:
        """Whether hashing is worth a unit of work; if so it is the caller's to do."""
        with self._lock:
            return self._hashing_due()

    def _hashing_due(self) -> bool:
        waiting, at_end = self._here - self._verified, self._verified == self.blocks.count
        enough = waiting >= (config.HASH_BATCH if self._claim is None else 1)
        ready = enough and self._states[self._verified] in _READY
        due = ready or (at_end and self._claim is not None)
        due = due and not self._hashing and self.stage is Stage.OPEN
        self._hashing |= due
        return due

    def hash_stretch(self) -> Stretch:
        """Hash some blocks in file order, to the first that is not right. Raises as ``store``."""
        stretch, judged = self._next_stretch()
        with self.part() as part:
            for item in stretch:
                if not self._hash_block(part, item):
                    return self._send_back(part, item)
        return Stretch(bool(stretch), judged=judged)

    def _next_stretch(self) -> tuple[list[Unproven], bool]:
        """Return the next blocks to hash; none ends the caller's turn, perhaps with judgement."""
        with self._lock:
            first = self._verified
            stretch = []
            for block in range(first, min(first + config.HASH_STRETCH, self.blocks.count)):
                if self._states[block] not in _READY:
                    break
                stretch.append(self._written.get(block) or self._announced(block))
            if stretch:
                return stretch, False
            self._hashing = False
            judged = self._claim is not None and first == self.blocks.count
            judged = judged and self.stage is Stage.OPEN
            if judged:
                self.stage = Stage.JUDGED
            return [], judged

    def _announced(self, block: int) -> Unproven:
        return Unproven(block, Block.ANNOUNCED, self._claims.digest_of(block), None)

    def _read_back(self, part: PartFile, block: int) -> memoryview:
        view = self._buffers.take(self.blocks.length(block))
        part.read(view, self.blocks.offset(block))
        return view

    def _hash_block(self, part: PartFile, item: Unproven) -> bool:
        """Hash one block; ``False``, and the hash as it was before, if that proves nothing."""
        view = item.payload or self._read_back(part, item.block)
        before, began = self._hash.copy(), time.monotonic()
        self._hash.update(view)
        self._hashed_for += time.monotonic() - began
        right = self._hash.digest() == item.digest
        with self._lock:
            if item.payload is not None:
                self._buffers.settle(len(view))
            if item.state == Block.WRITTEN:
                del self._written[item.block]
            right = right and self._states[item.block] == item.state  # else distrusted meanwhile
            if right:
                self._states[item.block] = Block.VERIFIED
                self._verified, self._rounds = item.block + 1, 0
        self._buffers.give(view)
        if not right:
            self._hash = before
        return right

    def _send_back(self, part: PartFile, item: Unproven) -> Stretch:
        """Ask for a block again that is not what it should be."""
        with self._lock:
            if self._states[item.block] != item.state:
                return Stretch(more=True)  # it has been asked for already
            if part.published:
                raise StaleError
            self._withdraw(item.block)
            self._rounds += 1
            self._resent += item.state == Block.WRITTEN
            missing = self._ask(((item.block, item.block + 1),))
        why = Why.DAMAGED if item.state == Block.WRITTEN else Why.ALTERED
        return Stretch(True, missing, why)

    def last_flush(self, part: PartFile) -> None:
        """Flush the whole file; everybody waits for that (publisher). Raises ``OSError``."""
        began = time.monotonic()
        part.flush()
        with self._lock:
            self._wrote_for += (time.monotonic() - began) * self._streams

    def held_back(self, seconds: float) -> None:
        """Note that a limit keeps one of the data connections from being received from."""
        with self._lock:
            self._held_back.add(seconds)

    @property
    def _streams(self) -> int:
        return max(1, len(self.session.streams))  # one read: a stale number makes a share coarser

    @property
    def resent(self) -> int:
        """How many blocks had to be asked for again."""
        return self._resent  # one read: no lock needed

    def receipt(self, name: str) -> IntegrityOk:
        """Say where the file stands and where the time went."""
        with self._lock:
            seconds = self._hashed_for, self._wrote_for / self._streams, self._held_back.seconds
        times = (round(1000 * one) for one in seconds)
        return IntegrityOk(name, self.blocks.size, self.digest, self.resent, True, *times)

    def content_due(self) -> bool:
        """Whether the beginning is here and nobody has looked at it; said once."""
        beginning = min(LONGEST_BEGINNING, self.blocks.size)
        due = not self._looked_at and self.verified_bytes >= beginning
        self._looked_at |= due  # only the one who hashes asks
        return due

    @property
    def hopeless(self) -> bool:
        """Whether repair was tried too often without progress."""
        return self._rounds > config.MAX_ROUNDS  # one read: no lock needed

    @property
    def claimed_digest(self) -> str | None:
        """What TRANSFER_COMPLETE said, in hexadecimal; ``None`` before it counts."""
        return self._claim  # one read: no lock needed

    @property
    def digest(self) -> str:
        """The digest of what has been hashed so far, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def verified_bytes(self) -> int:
        """How much of the file, from its start, is proven right."""
        verified = self._verified * self.blocks.block_size  # one read: no lock needed
        return min(verified, self.blocks.size)


# --- the pool and its queue ---------------------------------------------------------------------

Unit = Callable[[], None]


class WorkQueue:
    """``ThreadPoolExecutor`` whose workers take the most urgent unit first.

    Urgent is a high priority, then a long wait: a step of priority counts as ``LEAD`` seconds of
    waiting, so nobody starves. As the order of two units never changes while they wait, a heap of
    (time it came - priority x LEAD) says it all. The lock protects the heap and the counts.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Unit]] = []
        self._ages = itertools.count()
        self._busy = 0
        self._closed = False
        self._lingering = 0
        self._pressure = Waker()

    def put(self, unit: Unit, priority: int) -> None:
        """Have ``unit`` run by a worker soon (any)."""
        with self._lock:
            if self._closed:
                return  # the server ends, and everything that runs with it
            due = time.monotonic() - priority * config.LEAD
            heapq.heappush(self._heap, (due, next(self._ages), unit))
            self._pool.submit(self._run_most_urgent)
            wanted = self._lingering > 0 and self.pressed
        if wanted:
            self._pressure.ring()

    @property
    def pressed(self) -> bool:
        """Whether somebody waits while all workers are busy (any); no lock: it may be stale."""
        return len(self._heap) + self._busy > self._workers

    def _run_most_urgent(self) -> None:
        """Run one unit (a worker). What a unit raises is a bug: logged, and the worker goes on."""
        with self._lock:
            _, _, unit = heapq.heappop(self._heap)
            self._busy += 1
        try:
            unit()
        except Exception:
            log.exception("a unit of work failed")
        finally:
            with self._lock:
                self._busy -= 1

    def linger(self, connection: Connection, seconds: float) -> bool:
        """Wait for more (a worker); ``False`` if nothing came, or another needs the worker."""
        with self._lock:
            if self.pressed:
                return False
            self._lingering += 1
        try:
            ready = connection.wait(seconds, waker=self._pressure)
        finally:
            with self._lock:
                self._lingering -= 1
        if not ready:
            self._pressure.quiet(1)  # one ring is for one of us
        return ready

    def shutdown(self) -> None:
        """Wait for the units that are there already and end the workers (main)."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True)
        self._pressure.close()


class RightOfWay:
    """Who gives way to whom: while a higher priority brings bytes, lower ones are held back.

    Each byte holds back for as long as it would take at ``HOLD_RATE``, all together for ``HOLD``
    seconds at most: so what comes fast has the machine for itself, what trickles takes its part,
    and what has ended holds nobody. The highest priority that moves has the right of way.

    It is one attribute, read once and replaced as a whole, so there is no lock: of two that move at
    once one may be forgotten, until its next block, and who reads an old answer brings one block
    too many or rests for ``HOLD`` seconds too long.
    """

    def __init__(self) -> None:
        self._first = 0, 0.0  # the priority that has it, and until when

    def moved(self, priority: int, length: int) -> None:
        """Note that ``length`` bytes of ``priority`` came (any)."""
        first, until = self._first
        now = time.monotonic()
        if priority > first or now >= until:
            until = now
        elif priority < first:
            return
        self._first = priority, min(until + length / config.HOLD_RATE, now + config.HOLD)

    def pause(self, priority: int, latest: float) -> float:
        """Return the seconds for which ``priority`` gives way now, not beyond ``latest`` (any)."""
        first, until = self._first
        if priority >= first:
            return 0.0
        return max(0.0, min(until, latest) - time.monotonic())


# --- what a user may send -----------------------------------------------------------------------


class Rights(NamedTuple):
    """What one user may do here, of the server's own limits and the account's the stricter ones."""

    directory: str = ""  # below the output directory; "" is that itself
    max_file_size: int | None = None
    quota: int | None = None  # bytes in that directory, finished or not, as ``counted``
    limit: int | None = None  # bytes a second, of all sessions of the user together
    allow_ext: tuple[tuple[str, ...], ...] = ()  # a name must have one of each; none: all

    @classmethod
    def of(cls, credential: auth.Credential, settings: ServerSettings) -> Rights:
        """Return those of an account on a server."""
        sizes = [size for size in (credential.max_file_size, settings.max_file_size) if size]
        allowed = tuple(one for one in (credential.allow_ext, settings.allow_ext) if one)
        most = min(sizes, default=None)
        return cls(credential.directory, most, credential.quota, credential.limit, allowed)

    def check(self, name: str, size: int) -> None:
        """Raise ``RejectedError`` for a file that may not be sent."""
        for extensions in self.allow_ext:
            if not name.lower().endswith(extensions):
                raise RejectedError("extension", f"only {', '.join(extensions)} may be sent here")
        if self.max_file_size is not None and size > self.max_file_size:
            most = format_size(self.max_file_size)
            raise RejectedError("size", f"{format_size(size)} is more than {most}, the most here")


# How common kinds of file begin: (offset, bytes), any of them. From the specifications of each.
_BEGINNINGS: dict[str, tuple[tuple[int, bytes], ...]] = {
    ".7z": ((0, b"7z\xbc\xaf\x27\x1c"),),
    ".bmp": ((0, b"BM"),),
    ".bz2": ((0, b"BZh"),),
    ".docx": ((0, b"PK\3\4"),),
    ".flac": ((0, b"fLaC"),),
    ".gif": ((0, b"GIF87a"), (0, b"GIF89a")),
    ".gz": ((0, b"\x1f\x8b"),),
    ".iso": ((32769, b"CD001"),),
    ".jpeg": ((0, b"\xff\xd8\xff"),),
    ".jpg": ((0, b"\xff\xd8\xff"),),
    ".mkv": ((0, b"\x1a\x45\xdf\xa3"),),
    ".mov": ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free")),
    ".mp4": ((4, b"ftyp"),),
    ".pdf": ((0, b"%PDF-"),),
    ".png": ((0, b"\x89PNG\r\n\x1a\n"),),
    ".pptx": ((0, b"PK\3\4"),),
    ".tar": ((257, b"ustar"),),
    ".tgz": ((0, b"\x1f\x8b"),),
    ".tif": ((0, b"II*\0"), (0, b"MM\0*")),
    ".tiff": ((0, b"II*\0"), (0, b"MM\0*")),
    ".wav": ((0, b"RIFF"),),
    ".webp": ((8, b"WEBP"),),
    ".xlsx": ((0, b"PK\3\4"),),
    ".xz": ((0, b"\xfd7zXZ\0"),),
    ".zip": ((0, b"PK\3\4"), (0, b"PK\5\6")),
    ".zst": ((0, b"\x28\xb5\x2f\xfd"),),
}
LONGEST_BEGINNING = 33 * 1024  # bytes of a file in which its kind shows


def looks_like(name: str, head: bytes) -> bool:
    """Whether a file that begins with ``head`` is what its extension says; unknown kinds are."""
    extension = os.path.splitext(name.lower())[1]
    known = _BEGINNINGS.get(extension)
    return known is None or any(head.startswith(part, offset) for offset, part in known)


# --- sessions -----------------------------------------------------------------------------------


class Peer:
    """One connection and what the server knows of it.

    Owned by the main thread while idle, by one worker while it is served. Only ``mailbox`` may be
    touched by others: what they want said on this connection. Main may set ``gone`` at any time.
    """

    def __init__(self, connection: Connection, login_timeout: float) -> None:
        self.connection = connection
        self.network = auth.network_of(self.address)
        self.session: Session | None = None
        self.login: auth.ScramServer | None = None
        self.binding: bytes | None = None  # of our certificate, where there is TLS
        self.proof: AuthStart | AuthResponse | None = None  # to be judged ...
        self.proof_due = 0.0  # ... not before this
        self.blocks: BlockReader | None = None  # a data connection has one
        self.incoming: Transfer | None = None  # what the block on its way is for
        self.acks = bytearray()  # not sent yet
        self.acks_due = 0.0
        self.paused_until = 0.0  # nothing is to be received before
        self.held_until = 0.0  # it brings a block then at the latest, whoever has the right of way
        self.mailbox: deque[Message] = deque()
        self.deadline = time.monotonic() + login_timeout
        self.idle = False  # the selector watches it
        self.resting = False  # nobody does, until its pause is over
        self.hurried = False  # there is more to do at once
        self.leaving = False  # all is said; it may read that and close
        self.gone = False

    def __repr__(self) -> str:
        return f"<Peer {self.connection!r}>"

    @property
    def address(self) -> str:
        """The machine it comes from; ``network`` is what limits go by."""
        address = self.connection.address[1]
        return str(address[0]) if isinstance(address, tuple) else ""

    @property
    def priority(self) -> int:
        """Its session's priority; that of the least before it has logged in."""
        return self.session.priority if self.session else 0

    @property
    def mid_frame(self) -> bool:
        """Whether it owes us the rest of something; what came with ATTACH is here already."""
        return self.blocks.mid_block if self.blocks else self.connection.mid_frame

    def refuse(self, code: str, reason: str) -> None:
        """Say our last words; after them it may only read and close (its owner)."""
        self.leaving = True
        with contextlib.suppress(TransferError):
            self.connection.send(Error(code, reason))


class Session:
    """One logged-in client: its coordinator and the data connections that showed its token.

    ``transfer`` and ``unconfirmed`` are set by the worker that owns the coordinator or ends the
    transfer; others read them once and look again.
    """

    def __init__(
        self, user: str, priority: int, coordinator: Peer, rights: Rights | None = None
    ) -> None:
        self.user = user
        self.rights = rights or Rights()
        self.verifier = b""  # what the account had when it was proven
        self.buckets: tuple[TokenBucket, ...] = ()  # what limits its bytes in a second
        self.priority = priority
        self.coordinator = coordinator
        self.token = secrets.token_urlsafe(32)
        self.transfer: Transfer | None = None
        self.unconfirmed: Transfer | None = None  # published; its verdict may not have arrived
        self.heard_at = time.monotonic()  # when the coordinator said something last
        self.closed = False  # set by main: the coordinator is gone
        self.streams: set[Peer] = set()  # the registry's lock protects it

    def __repr__(self) -> str:
        return f"<Session of {printable(self.user)}, {len(self.streams)} data connections>"


class Registry:
    """Which sessions there are, which transfers receive, which wait. The lock protects all of it.

    A transfer may begin when fewer than ``max_active`` of its own priority or higher receive: lower
    ones leave it room. The others wait, the most urgent first: a step of priority counts as having
    come ``URGENCY`` seconds earlier.
    """

    def __init__(self, max_active: int) -> None:
        self._max_active = max_active
        self._lock = threading.Lock()
        self._sessions: dict[bytes, Session] = {}
        self.attached = 0  # data connections, of all sessions; to read it needs no lock
        self._unpaid: dict[str, list[float]] = {}  # ends of the pauses that users left early
        self._active: list[Transfer] = []
        self._waiting: list[Transfer] = []
        self._turns = itertools.count()

    def add(self, session: Session) -> None:
        """Let data connections find ``session`` by its token (any)."""
        with self._lock:
            self._sessions[_token_key(session.token)] = session

    def attach(self, token: str, peer: Peer) -> Session | None:
        """Give ``peer`` to the session that has ``token``, if there is one and has room (any)."""
        with self._lock:
            session = self._sessions.get(_token_key(token))
            if session and len(session.streams) >= config.MAX_STREAMS:
                raise RemoteProtocolError("too many data connections", "busy")
            if session:
                session.streams.add(peer)
                self.attached += 1
                peer.paused_until = self._turn_of(session.user)
            return session

    def detach(self, session: Session, peer: Peer) -> None:
        """Take a lost data connection out of its session (main).

        If a limit made it rest, a later one of the user does so in its place: to come back for each
        block would else be a way around the limit.
        """
        with self._lock:
            session.streams.discard(peer)
            self.attached -= 1
            if peer.paused_until > time.monotonic():
                heapq.heappush(self._unpaid.setdefault(session.user, []), peer.paused_until)

    def _turn_of(self, user: str) -> float:
        """Return until when a new connection rests, in place of one that did not stay so long."""
        turns, until = self._unpaid.pop(user, []), 0.0
        while turns and until <= time.monotonic():
            until = heapq.heappop(turns)
        if turns:
            self._unpaid[user] = turns
        return until

    def remove(self, session: Session) -> list[Peer]:
        """Forget ``session``; return its data connections (any)."""
        with self._lock:
            self._sessions.pop(_token_key(session.token), None)
            streams, session.streams = list(session.streams), set()
            return streams

    def enter(self, transfer: Transfer) -> int:
        """Number ``transfer``, admit it (0) or return its position, or refuse it (any)."""
        with self._lock:
            transfer.turn = next(self._turns)
            transfer.number = transfer.turn % (2**32 - 1) + 1
            own = [one for one in self._active + self._waiting if one.user == transfer.user]
            if len(own) >= config.MAX_TRANSFERS_OF_USER:
                raise RejectedError("busy", "too many transfers of this user; try again later")
            if self._has_room_for(transfer):
                self._active.append(transfer)
                return 0
            if len(self._waiting) >= config.MAX_WAITING_TRANSFERS:
                raise RejectedError("busy", "too many transfers wait already; try again later")
            self._waiting.append(transfer)
            self._waiting.sort(key=lambda one: one.asked_at - one.priority * config.URGENCY)
            return dict(self._positions())[transfer]

    def _has_room_for(self, transfer: Transfer) -> bool:
        before = sum(one.priority >= transfer.priority for one in self._active)
        return before < self._max_active

    def _positions(self) -> Iterator[tuple[Transfer, int]]:
        """Count, for each that waits, those of its own priority or higher up to it."""
        counts: Counter[int] = Counter()
        for one in self._waiting:
            counts[one.priority] += 1
            yield one, sum(n for priority, n in counts.items() if priority >= one.priority)

    def leave(self, transfer: Transfer) -> list[Transfer]:
        """Take ``transfer`` out; return those that are admitted in its place (any)."""
        admitted = []
        with self._lock:
            for line in (self._active, self._waiting):
                if transfer in line:
                    line.remove(transfer)
            for one in list(self._waiting):
                if self._has_room_for(one):
                    self._waiting.remove(one)
                    self._active.append(one)
                    admitted.append(one)
        return admitted

    def earlier(self, transfer: Transfer) -> list[Transfer]:
        """Return those before ``transfer`` that go to the same directory (any).

        Of two that race for the last bytes of a quota, one sees the other.
        """
        with self._lock:
            others = [one for one in self._active + self._waiting if one.turn < transfer.turn]
        place = transfer.facts.directory
        return [one for one in others if not one.ended and one.facts.directory == place]

    def active(self) -> list[Transfer]:
        """Return the transfers that receive or are verified (any)."""
        with self._lock:
            return list(self._active)

    def waiting(self) -> list[Transfer]:
        """Return those that wait, the most urgent first (any)."""
        with self._lock:
            return list(self._waiting)

    def positions(self) -> list[tuple[Transfer, int]]:
        """Return those that wait, each with its position in the queue (any)."""
        with self._lock:
            return list(self._positions())


def _token_key(token: str) -> bytes:
    """Look tokens up by their hash: how long it takes tells nothing about a right one (any)."""
    return hashlib.sha256(token.encode()).digest()


# --- what workers do ----------------------------------------------------------------------------


class Service:
    """The units of work. All of it runs on workers, unless a docstring says otherwise.

    ``post`` sends a message on somebody's coordinator connection from wherever one is.
    """

    def __init__(
        self,
        settings: ServerSettings,
        credentials: auth.Credentials,
        post: Callable[[Peer, Message], None],
        later: Callable[[float, Unit], None],
    ) -> None:
        self.settings = settings
        self.delays = auth.LoginDelay()
        self.work = WorkQueue(settings.workers)
        self.registry = Registry(settings.max_active)
        self._way = RightOfWay()
        self.stopping = False  # set by main: nothing new begins
        self._credentials = credentials
        self._post = post
        self._later = later
        self._bucket = TokenBucket(settings.limit) if settings.limit else None
        self._buckets_of: dict[tuple[str, int], TokenBucket] = {}
        self._buffers = BufferPool(config.SPARE_BUFFERS, config.KEEP_FOR_HASHING)
        self._secret = secrets.token_bytes(32)
        self._flushes = threading.BoundedSemaphore(config.MAX_FLUSHES)
        self.parts = PartStore(settings.output)
        self._seeking: deque[Transfer] = deque()  # wait for the owner of their part file to answer
        self._answers = self._handlers()

    def _handlers(self) -> dict[type[Message], Callable[[Peer, Any], None]]:
        """Return what answers each message a client may send."""
        return {
            Hello: self._on_hello,
            AuthStart: self._on_auth_start,
            AuthResponse: self._on_auth_response,
            Attach: self._on_attach,
            FileStart: self._on_file_start,
            TransferComplete: self._on_transfer_complete,
            Cancel: self._on_cancel,
            Pong: self._on_pong,
            Goodbye: self._on_goodbye,
        }

    def serve(self, peer: Peer) -> None:
        """Do one unit of work for ``peer``, whatever it sends; never raises."""
        handle = self.handle_block_transfer if peer.blocks else self.handle_file_coordinator
        try:
            handle(peer)
        except ConnectionLostError as error:
            log.debug("%s", error)
            peer.gone = True
        except RemoteProtocolError as error:
            log.warning("%s: %s", peer.connection.peer, error)
            peer.refuse(error.code, str(error))
        except AuthenticationError as error:
            log.warning("%s: login failed: %s", peer.connection.peer, error.__cause__ or error)
            peer.refuse("authentication", str(error))
        except Exception:
            log.exception("%s: internal error", peer.connection.peer)
            peer.refuse("internal", "internal error of the server")

    # -- the coordinator

    def handle_file_coordinator(self, peer: Peer) -> None:
        """Send what others want said, then read and answer a few messages."""
        moved = self._send_mail(peer)
        if peer.proof and time.monotonic() >= peer.proof_due:
            self._judge_proof(peer)
        for _ in range(MESSAGES_PER_UNIT):
            message = peer.connection.receive()
            if message is None:
                break
            moved = True
            if peer.session:
                peer.session.heard_at = time.monotonic()
            self._answers[type(message)](peer, message)
            if peer.leaving or peer.blocks:
                break
        else:
            peer.hurried = True
        self._flush(peer)
        self._put_off_deadline(peer, moved)

    @staticmethod
    def _flush(peer: Peer) -> None:
        """Send what is left, as far as the peer has room; cut off who does not read."""
        peer.connection.flush()
        if peer.connection.unsent > config.MAX_QUEUED_BYTES:
            raise ConnectionLostError(f"{peer.connection.peer} does not read our answers")

    def _send_mail(self, peer: Peer) -> bool:
        """Send the mailbox. What the dialogue no longer allows has been overtaken: a verdict or a
        CANCEL crossed it between two threads."""
        sent = False
        while peer.mailbox:
            message = peer.mailbox.popleft()
            late = isinstance(message, FileReady) and not _transfer_of(peer, message.transfer)
            if peer.connection.dialogue.allows(message) and not late:
                peer.connection.send(message)
                sent = True
        return sent

    def _put_off_deadline(self, peer: Peer, moved: bool) -> None:
        """Give more time to a peer that completed something, a last term to one that began."""
        if peer.session is None:
            return  # the whole login has one deadline, whatever trickles in
        if moved:
            idle = peer.connection.state is State.READY
            peer.deadline = time.monotonic() + self.settings.idle_timeout if idle else float("inf")
        if peer.mid_frame and peer.deadline == float("inf"):
            peer.deadline = time.monotonic() + self.settings.block_timeout

    def _on_hello(self, peer: Peer, message: Hello) -> None:
        if message.version != VERSION:
            reason = f"this server speaks version {VERSION}, the client {message.version}"
            raise RemoteProtocolError(reason, "version")
        bound = () if peer.binding is None else (auth.SCRAM_PLUS,)
        peer.connection.send(Hello(VERSION, FEATURES + bound))

    def _on_auth_start(self, peer: Peer, message: AuthStart) -> None:
        if message.mechanism == TOKEN:
            self._expect_proof(peer, message, _unnamed(peer))  # whose it is will show
            return
        login = auth.ScramServer(self._credentials, self._secret, binding=peer.binding)
        if message.mechanism != login.mechanism:
            raise RemoteProtocolError(f"this server wants {login.mechanism}", "authentication")
        peer.login = login
        peer.connection.send(AuthChallenge(login.challenge(message.data)))

    def _on_auth_response(self, peer: Peer, message: AuthResponse) -> None:
        assert peer.login is not None  # the dialogue sees to it
        self._expect_proof(peer, message, peer.login.user)

    def _expect_proof(self, peer: Peer, proof: AuthStart | AuthResponse, user: str) -> None:
        """Judge a proof now, or later where there were wrong ones: main looks at the clock."""
        delay = self.delays.attempt(user, peer.address)
        if delay == float("inf"):
            raise AuthenticationError("too many wrong passwords; try again later")
        peer.proof, peer.proof_due = proof, time.monotonic() + delay
        if delay:
            log.warning("%s: wrong passwords before: its login waits %.1f s",
                        peer.connection.peer, delay)  # fmt: skip
        else:
            self._judge_proof(peer)

    def _judge_proof(self, peer: Peer) -> None:
        """Let the client in, or raise ``AuthenticationError``."""
        proof, peer.proof = peer.proof, None
        if isinstance(proof, AuthResponse):
            assert peer.login is not None
            final = peer.login.verify(proof.data)
            user, credential = peer.login.user, peer.login.credential
            counted = user
        else:
            assert proof is not None
            if not (peer.connection.secure or is_loopback(peer.address)):  # many could read it
                raise AuthenticationError("a token may be shown over TLS only")
            user, credential = auth.verify_token(proof.data, self._credentials)
            final, counted = "", _unnamed(peer)
        self.delays.succeeded(counted, peer.address)
        self._let_in(peer, user, credential, final)

    def _let_in(self, peer: Peer, user: str, credential: auth.Credential, final: str) -> None:
        rights = Rights.of(credential, self.settings)
        session = Session(user, credential.priority, peer, rights)
        session.verifier = credential.stored_key
        session.buckets = tuple(filter(None, (self._bucket, self._bucket_of(user, rights.limit))))
        peer.session, peer.login = session, None
        self.registry.add(session)
        coordinator_log.info(
            "%s logged in as %s (priority %d)", peer.connection.peer, user, session.priority
        )
        peer.connection.send(AuthOk(final, session.token, session.priority))

    def _bucket_of(self, user: str, limit: int | None) -> TokenBucket | None:
        """Return the one bucket of a user, whatever the number of sessions."""
        return self._buckets_of.setdefault((user, limit), TokenBucket(limit)) if limit else None

    def _on_attach(self, peer: Peer, message: Attach) -> None:
        session = self.registry.attach(message.token, peer)
        if session is None:
            raise RemoteProtocolError("no such session", "session")
        peer.session = session
        peer.hurried = peer.connection.mid_frame  # its first block is here already
        peer.blocks = BlockReader(partial(self._room_for, peer), config.RECEIVE_SIZE)
        peer.deadline = float("inf")
        peer.connection.send(Attached())

    def _on_pong(self, _peer: Peer, _message: Pong) -> None:
        """That something came is all it says; it has been noted."""

    def _on_goodbye(self, peer: Peer, _message: Goodbye) -> None:
        peer.leaving = True
        if peer.session:
            self._settle(peer.session, confirmed=True)

    @staticmethod
    def _settle(session: Session, *, confirmed: bool) -> None:
        """Let go the part file of the last verdict, ``confirmed`` if the client read it (any)."""
        transfer, session.unconfirmed = session.unconfirmed, None
        if transfer:
            transfer.settle(confirmed=confirmed)

    # -- a transfer's beginning and end

    def _on_file_start(self, peer: Peer, message: FileStart) -> None:
        assert peer.session is not None
        self._settle(peer.session, confirmed=True)
        self._check_account(peer.session)
        try:
            transfer = peer.session.transfer = self._accept(peer.session, message)
            position = self.registry.enter(transfer)
            self._check_quota(transfer, anew=not transfer.resumes)
        except (RejectedError, OSError) as error:
            coordinator_log.warning("rejected %s: %s", message.name, error)
            if peer.session.transfer:  # it came as far as to have a place
                self._finish(peer.session.transfer, None)
            peer.connection.send(_rejection(error))
            return
        if position:
            coordinator_log.info("%s waits at position %d", transfer.name, position)
            peer.connection.send(Queued(position))
        else:
            self.start(self._open, transfer)

    def _check_account(self, session: Session) -> None:
        """Raise ``AuthenticationError`` if the user could not log in any more as he once did.

        A session may last for days: a closed account, a changed password must not wait for its end.
        """
        account = self._credentials.get(session.user)
        if account is None or not account.active(time.time()):
            raise AuthenticationError("the account has been closed")
        if account.stored_key != session.verifier:
            raise AuthenticationError("the account has another password by now")

    def _check_quota(self, transfer: Transfer, *, anew: bool) -> None:
        """Raise ``RejectedError`` if the directory has no room for it, reserved room counted.

        What is reserved is counted before what is there: a file that is published meanwhile may
        count twice, but never not at all. Unless it begins ``anew``, what there is of the same file
        does not count: it may be what this one goes on with.
        """
        quota = transfer.session.rights.quota
        if quota is None:
            return
        earlier = self.registry.earlier(transfer)
        others = (one for one in earlier if anew or not one.same_file(transfer))
        used = sum(counted(one.blocks.size) for one in others)
        used += self.parts.left_bytes(transfer.facts, same=anew and transfer.resumes)
        used += used_bytes(self.settings.output / transfer.facts.directory)
        used -= 0 if anew else self.parts.published_bytes(transfer.facts)
        size = counted(transfer.blocks.size)
        if used + size > quota:
            reason = f"{format_size(size)} is more than the {format_size(max(0, quota - used))}"
            least = " (what a file counts at least)" if size > transfer.blocks.size else ""
            raise RejectedError("quota", f"{reason} left of the quota{least}")

    def _accept(self, session: Session, start: FileStart) -> Transfer:
        """Look at the metadata before anything is reserved. Raises ``RejectedError``."""
        if self.stopping:
            raise RejectedError("shutdown", "the server is shutting down")
        if start.digest not in DIGEST_SIZES:
            raise RejectedError("digest", f"unknown digest; take one of {', '.join(DIGEST_SIZES)}")
        if not config.MIN_BLOCK_SIZE <= start.block_size <= config.MAX_BLOCK_SIZE:
            low, high = format_size(config.MIN_BLOCK_SIZE), format_size(config.MAX_BLOCK_SIZE)
            raise RejectedError("block_size", f"a block has {low} to {high} here")
        if Blocks(start.size, start.block_size).count > config.MAX_BLOCKS:
            raise RejectedError("size", "too many blocks; use larger ones")
        name = safe_name(start.name)
        session.rights.check(name, start.size)
        return Transfer(session, start, name, self._buffers, self._let_go)

    def start(self, unit: Callable[[Transfer], None], transfer: Transfer) -> None:
        """Have ``unit`` done for ``transfer`` by some worker (any)."""
        self.work.put(partial(self._run, unit, transfer), transfer.priority)

    def _run(self, unit: Callable[[Transfer], None], transfer: Transfer) -> None:
        """Do ``unit``; what it raises ends this transfer and nothing else."""
        try:
            unit(transfer)
        except TransferEndedError:
            return
        except StaleError:
            transfer.spoil()
            self._finish(transfer, Rejected("stale", "the file has changed since it was published"))
        except (RejectedError, OSError) as error:
            self._finish(transfer, _rejection(error))
        except Exception:
            log.exception("%s: internal error", transfer.name)
            self._finish(transfer, Rejected("internal", "internal error of the server"))

    def _open(self, transfer: Transfer) -> None:
        """Find or make the part file of an admitted transfer and let the client send."""
        if transfer.ended:
            return
        make_directory(self.settings.output, transfer.facts.directory)  # said before a byte is sent
        kept = None
        if transfer.resumes:
            rivals = self.parts.rivals(transfer)  # before the search: what rests then is found
            check = partial(self._check_quota, transfer, anew=True)
            kept = self.parts.resume(transfer, check)
            if kept is None and self._must_wait(transfer, rivals):
                self._seeking.append(transfer)
                return
            if kept is None:
                check()
        else:
            self.parts.forget(transfer.facts.key)
        part, claims = kept or (self.parts.create(transfer), None)
        if not transfer.open(part, claims):
            self.parts.rest(part)
            return
        self._log_opened(transfer, claims)
        self._post(transfer.session.coordinator, FileReady(transfer.number, transfer.claimed))

    @staticmethod
    def _log_opened(transfer: Transfer, claims: Claims | None) -> None:
        size, count = format_size(transfer.blocks.size), transfer.blocks.count
        facts = f"{transfer.name} ({size} in {count} blocks) from {transfer.user}"
        if claims:
            coordinator_log.info("resuming %s: %d blocks are here", facts, sum(claims.flags))
        else:
            coordinator_log.info("receiving %s", facts)

    def _must_wait(self, transfer: Transfer, rivals: list[Transfer]) -> bool:
        """Whether one of ``rivals`` that may be dead has the part file; it is asked to answer.

        A client notices a dead connection long before the server does, and comes back while its old
        session still stands. So who does not answer in ``PROBE_TIMEOUT`` seconds loses the file.
        """
        now = time.monotonic()
        silent = False
        for rival in rivals:
            asked_at = transfer.probes.setdefault(rival, now)
            if not rival.ended and (rival.lives(asked_at) or not rival.receiving):
                continue  # it lives, or is about to begin
            silent |= now < asked_at + self.settings.stall_timeout  # else a disk is stuck
            if now < asked_at + config.PROBE_TIMEOUT:
                self._post(rival.session.coordinator, Ping())
            else:
                self._take_from(rival)
        return silent

    def _take_from(self, rival: Transfer) -> None:
        """Let the part file of a dead session rest, so that its successor finds it."""
        if not rival.ended:
            coordinator_log.warning("%s: its client is silent, another goes on", rival.name)
        self._finish(rival, Rejected("taken", "another client goes on with this file"))
        if rival.session.unconfirmed is rival:
            self._settle(rival.session, confirmed=False)

    def look_again(self) -> None:
        """Start the search of those who wait for a part file again (main)."""
        for _ in range(len(self._seeking)):
            self.start(self._open, self._seeking.popleft())

    def _let_go(self, transfer: Transfer, part: PartFile) -> None:
        """Take back the part file of a transfer that has ended, from its last user (any)."""
        if transfer.stage is Stage.CONFIRMED:
            self.parts.drop(part)
        else:
            self.parts.rest(part)

    def _finish(self, transfer: Transfer, answer: Message | None) -> None:
        """End ``transfer`` with ``answer``, unless somebody else does (any)."""
        if transfer.end():
            self._conclude(transfer, answer)

    def _conclude(self, transfer: Transfer, answer: Message | None) -> None:
        """Say how ``transfer`` ended, and admit the next (who ended it)."""
        transfer.session.transfer = None
        if isinstance(answer, (Rejected, IntegrityFailed)):
            log.error("%s: %s", transfer.name, answer.reason)
        if answer:  # before the registry lets go of it: a stopping server waits for that
            self._post(transfer.session.coordinator, answer)
        for admitted in self.registry.leave(transfer):
            self.start(self._open, admitted)

    def abandon(self, session: Session) -> None:
        """End what a session that is gone has left."""
        transfer = session.transfer
        if transfer:
            coordinator_log.warning("%s: the client went away; it can go on later", transfer.name)
            self._finish(transfer, None)
        self._settle(session, confirmed=False)

    def turn_away(self, transfer: Transfer) -> None:
        """End a transfer that has not begun, because the server stops."""
        self._finish(transfer, Rejected("shutdown", "the server is shutting down"))

    def expire(self, transfer: Transfer) -> None:
        """End a transfer in which nothing moves any more."""
        timeout = self.settings.stall_timeout
        self._finish(transfer, Rejected("timeout", f"nothing came for {timeout:g} s"))

    def _on_cancel(self, peer: Peer, _message: Cancel) -> None:
        transfer = _transfer_of(peer)
        if transfer:
            self._finish(transfer, Rejected("cancelled", "cancelled by the client"))

    def _on_transfer_complete(self, peer: Peer, message: TransferComplete) -> None:
        transfer = _transfer_of(peer, message.transfer)
        if transfer is None:
            return  # it crossed our REJECTED or INTEGRITY_FAILED
        missing = transfer.complete(message.digest, delivered=message.delivered)
        if transfer.hopeless:
            self._fail(transfer, "blocks are still missing after several rounds")
        elif missing:
            block_log.warning("%s: asking for missing blocks %s", transfer.name, missing[:10])
            peer.connection.send(Missing(transfer.number, missing, Why.LOST))
        elif transfer.begin_hashing():
            self.start(self.verify_blocks, transfer)

    def _fail(self, transfer: Transfer, reason: str) -> None:
        transfer.spoil()
        self._finish(transfer, IntegrityFailed(transfer.digest, reason))

    # -- blocks

    def handle_block_transfer(self, peer: Peer) -> None:
        """Receive blocks while they come; stay for more only while nobody else is ready."""
        while not (self._overdue(peer) or self.gives_way(peer)):
            found = peer.blocks and peer.blocks.receive(peer.connection)
            if found:
                peer.deadline = float("inf")
                assert peer.incoming is not None  # _room_for has found it
                raw = self._unpacked(peer, *found)
                self._run(partial(self._store_block, peer, found[0], raw), peer.incoming)
                if len(peer.acks) >= ACKS_TOGETHER or time.monotonic() >= peer.acks_due:
                    self._send_acks(peer)
                if self._must_pause(peer, len(found[1])) or self.work.pressed:
                    break
            elif self.work.linger(peer.connection, ACK_PAUSE if peer.acks else config.LINGER):
                continue
            elif peer.acks:
                self._send_acks(peer)
            else:
                break
        self._send_acks(peer)
        if self._overdue(peer):  # main would find it ready, and unread, again and again
            raise RemoteProtocolError(TOO_SLOW, "timeout")
        # what came in one piece with ATTACH is in memory: no selector tells of it
        peer.hurried = peer.connection.mid_frame

    def gives_way(self, peer: Peer) -> bool:
        """Whether a data connection rests with main while a higher priority sends (its owner)."""
        pause = self._way.pause(peer.priority, peer.held_until)
        if pause:
            peer.paused_until = time.monotonic() + pause
        return pause > 0

    def _must_pause(self, peer: Peer, length: int) -> bool:
        """Whether a limit wants this connection to rest: with main, and no worker waits with it."""
        assert peer.session is not None  # it is attached
        sharers = self.registry.attached
        pause = max((one.take(length, sharers) for one in peer.session.buckets), default=0.0)
        peer.paused_until = time.monotonic() + pause
        if pause and peer.incoming:
            peer.incoming.held_back(pause)
        peer.held_until = peer.paused_until + config.LONGEST_HOLD
        return pause > 0

    def _room_for(self, peer: Peer, header: BlockHeader) -> memoryview:
        """Check a block's header before its payload; return the buffer for that.

        There is one answer for foreign, unknown, finished and expired transfers.
        """
        transfer = peer.incoming = _transfer_of(peer, header.transfer)
        if transfer is None or not transfer.receiving:
            if peer.session and peer.session.closed:  # no fault of the peer's, nothing to warn of
                raise ConnectionLostError("its session has ended")
            raise RemoteProtocolError("no such transfer", "transfer")
        blocks, length = transfer.blocks, header.wire_length
        if header.block >= blocks.count or header.raw_length != blocks.length(header.block):
            raise RemoteProtocolError("a block that is not part of the file")
        if not header.consistent:
            raise RemoteProtocolError("a block of the wrong length")
        if length and transfer.full:
            raise RemoteProtocolError("too many blocks wait for one that is missing", "busy")
        # buffers of one size, whatever comes: else the pool had none that fits the next block
        return self._buffers.take(header.raw_length)[:length] if length else memoryview(b"")

    def _unpacked(self, peer: Peer, header: BlockHeader, payload: memoryview) -> memoryview:
        """Return the bytes of the file that a block brings.

        Raises ``RemoteProtocolError`` for what cannot be: that ends the connection, but the blocks
        that came before are acknowledged, so that the client sees progress and tries again.
        """
        if header.codec in (CODEC_RAW, CODEC_HELD):
            return payload
        raw = self._buffers.take(header.raw_length)
        try:
            decompress(header.codec, payload, raw)
        except RemoteProtocolError:
            self._send_acks(peer)
            raise
        self._buffers.give(payload)
        return raw

    def _store_block(
        self, peer: Peer, header: BlockHeader, payload: memoryview, transfer: Transfer
    ) -> None:
        """Write one block, acknowledge it, and see to the work that follows from it.

        Due hashing is done here and now, while the block is warm in this processor's cache: handing
        it to another worker cost 4 % of the time of 1 GiB.
        """
        if header.codec == CODEC_HELD:
            due = transfer.announce(header.block, header.digest)
        else:
            due = transfer.store(header.block, header.digest, payload)
        peer.acks += encode_ack(header.transfer, header.block)
        self._way.moved(transfer.priority, len(payload))
        if due.flush:
            self.start(self.flush_part, transfer)
        if due.missing:
            block_log.info("%s: changed since the last attempt, from block %d on",
                           transfer.name, due.missing[0][0])  # fmt: skip
            self._ask_for(transfer, due.missing, Why.CHANGED)
        how = "held" if header.codec == CODEC_HELD else "written"
        block_log.debug("%s: block %d %s", transfer.name, header.block, how)
        self._log_progress(transfer, due.received, len(payload))
        if due.hashing:
            with contextlib.suppress(ConnectionLostError):  # the next call to receive finds that
                self._send_acks(peer)
            self.verify_blocks(transfer)

    def _log_progress(self, transfer: Transfer, received: int, length: int) -> None:
        """Log a line for each tenth of a large file."""
        size = transfer.blocks.size
        step = max(size // config.PROGRESS_LINES, config.FLUSH_EVERY)
        if received // step > (received - length) // step:
            percent = received * 100 // size
            block_log.info("%s: %d %% (%s)", transfer.name, percent, format_size(received))

    def _overdue(self, peer: Peer) -> bool:
        """Whether a half-received block has had its time, however steadily it trickles."""
        if peer.mid_frame and peer.deadline == float("inf"):
            peer.deadline = time.monotonic() + self.settings.block_timeout
        return time.monotonic() >= peer.deadline

    def _send_acks(self, peer: Peer) -> None:
        """Have the journal claim what is written, then acknowledge it."""
        peer.acks_due = time.monotonic() + config.ACK_DELAY
        if peer.acks and peer.incoming:
            self._run(Transfer.note_blocks, peer.incoming)
            peer.connection.push(bytes(peer.acks))
            peer.acks.clear()
        self._flush(peer)

    # -- hashing, flushing, publishing

    def flush_part(self, transfer: Transfer) -> None:
        """Bring what was written to the disk, in the background, unless enough flushes run."""
        done = self._flushes.acquire(blocking=False)
        if done:
            try:
                with transfer.part() as part:
                    part.flush(transfer.verified_bytes)
            finally:
                self._flushes.release()
        if transfer.end_flush(done=done):
            self.assemble_file_from_blocks(transfer)

    def verify_blocks(self, transfer: Transfer) -> None:
        """Hash what has come, in file order; ask for what is damaged; judge when all is there."""
        while not self._way.pause(transfer.priority, transfer.held_until):
            transfer.held_until = time.monotonic() + config.LONGEST_HOLD
            stretch = transfer.hash_stretch()
            self._check_content(transfer)
            if stretch.missing:
                self._repair(transfer, stretch)
            if stretch.judged:
                self.assemble_file_from_blocks(transfer)
            if not stretch.more:
                return
            if self.work.pressed:
                break
        self._go_on_hashing(transfer)

    def _go_on_hashing(self, transfer: Transfer) -> None:
        """Have hashing go on when it need not give way any more (any)."""
        pause = self._way.pause(transfer.priority, transfer.held_until)
        if pause:
            self._later(time.monotonic() + pause, partial(self._go_on_hashing, transfer))
        else:
            self.start(self.verify_blocks, transfer)

    def _check_content(self, transfer: Transfer) -> None:
        """Once its first block is verified, see that a file is what its extension says."""
        if not transfer.session.rights.allow_ext or not transfer.content_due():
            return
        view = memoryview(bytearray(min(LONGEST_BEGINNING, transfer.blocks.size)))
        with transfer.part() as part:
            part.read(view, 0)
        if not looks_like(transfer.name, bytes(view)):
            transfer.spoil()
            reason = "the content is not what the extension says"
            self._finish(transfer, Rejected("content", reason))
            raise TransferEndedError

    def _repair(self, transfer: Transfer, stretch: Stretch) -> None:
        block = stretch.missing[0][0]
        if transfer.hopeless:
            self._fail(transfer, f"block {block} arrives damaged every time")
            return
        block_log.warning("%s: block %d (offset %d) is %s: asking for it again", transfer.name,
                          block, transfer.blocks.offset(block), stretch.why)  # fmt: skip
        self._ask_for(transfer, stretch.missing, stretch.why)

    def _ask_for(self, transfer: Transfer, missing: Spans, why: str) -> None:
        self._post(transfer.session.coordinator, Missing(transfer.number, missing, why))

    def assemble_file_from_blocks(self, transfer: Transfer) -> None:
        """Compare the digests, publish the file, and only then say so."""
        if transfer.claimed_digest != transfer.digest:
            self._fail(transfer, "the digest of the file is not the one the client computed")
            return
        if not transfer.begin_last_flush():
            return  # flush_part calls us again
        with transfer.part() as part:
            transfer.last_flush(part)
            with transfer.publishing():
                name = part.publish()
            transfer.session.unconfirmed = transfer  # before the client can confirm it
            self._conclude(transfer, transfer.receipt(name))
        if transfer.session.closed:  # while we published
            self._settle(transfer.session, confirmed=False)
        facts = f"{format_size(transfer.blocks.size)}, {transfer.facts.digest} {transfer.digest}"
        log.info("saved %s (%s)", name, facts, extra=SUCCESS)


def _unnamed(peer: Peer) -> str:
    """Return what failures of a token count for: its address, and no user's account (any)."""
    return f"token from {peer.address}"


def _transfer_of(peer: Peer, number: int | None = None) -> Transfer | None:
    """Return what the peer's session sends right now, if it is (that) one (any)."""
    transfer = peer.session.transfer if peer.session else None
    return transfer if transfer and number in (None, transfer.number) else None


def _rejection(error: RejectedError | OSError) -> Rejected:
    """Say why a file is not taken; what the disk says without the server's paths (any)."""
    if isinstance(error, RejectedError):
        return Rejected(error.code, str(error))
    if error.errno in (*_NO_SPACE, errno.EFBIG):
        return Rejected("space", "not enough space on the server")
    return Rejected("disk", f"the server cannot write: {error.strerror or 'unknown error'}")


# --- the main loop ------------------------------------------------------------------------------


class Tls(NamedTuple):
    """What the server shows to clients that speak TLS."""

    context: ssl.SSLContext
    binding: bytes  # what a login is bound to (RFC 5929)

    @classmethod
    def load(cls, settings: ServerSettings) -> Tls | None:
        """Read certificate and key, if the settings name any (main). Raises ``UsageError``."""
        cert, key = settings.tls_cert, settings.tls_key
        if cert is None and key is None:
            return None
        if cert is None or key is None:
            raise UsageError("--tls-cert and --tls-key go together")
        for _ in range(config.CERTIFICATE_TRIES):
            binding = auth.certificate_binding(cert)
            context = auth.server_tls(cert, key)
            if auth.certificate_binding(cert) == binding:  # else somebody has just replaced it
                return cls(context, binding)
        raise UsageError(f"TLS certificate {cert}: it is being replaced all the time")


class Server:
    """The main thread: listener, selector, idle connections, clocks, shutdown.

    Everything runs on main but ``stop``, ``_post`` and ``_call`` (any) and ``_serve`` (a worker).
    """

    def __init__(self, settings: ServerSettings, credentials: auth.Credentials) -> None:
        """Take the output directory and the port. Raises ``UsageError`` if that cannot be."""
        self._settings = settings
        self._tls = Tls.load(settings)
        self._output = OutputDirectory(settings.output)
        try:
            self._listener = _listen(settings.host, settings.port)
        except UsageError:
            self._output.release()
            raise
        self._service = Service(settings, credentials, self._post, self._later)
        self._service.parts.scan()
        self._selector = selectors.DefaultSelector()
        self._peers: set[Peer] = set()
        self._neighbours: Counter[str] = Counter()  # connections of each network
        self._strangers: dict[Peer, None] = {}  # have not logged in, the oldest first
        self._waker = Waker()
        self._calls: deque[Callable[[], None]] = deque()
        self._rung = False
        self._paused: list[tuple[float, int, Unit]] = []  # a heap; until when, and what then
        self._pauses = itertools.count()
        self._stops = 0
        self._reload = False
        self._grace_ends = self._confirm_by = float("inf")
        self._next_tick = self._next_report = self._next_expiry = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Host as it was asked for, and the port in use."""
        return self._settings.host, self._listener.getsockname()[1]

    def stop(self) -> None:
        """Ask the loop to end (any, also a signal handler); the second time at once."""
        self._stops += 1
        self._waker.ring()

    def reload(self) -> None:
        """Ask the loop to read the certificate again (any, also a signal handler)."""
        self._reload = True
        self._waker.ring()

    def _read_certificate(self) -> None:
        """Take a renewed certificate for new connections; a bad one changes nothing."""
        self._reload = False
        try:
            self._tls = Tls.load(self._settings)
        except UsageError as error:
            log.error("the old certificate stays in use: %s", error)
        else:
            log.info("the certificate has been read again")

    def run(self) -> None:
        """Serve until ``stop``; then let running transfers end within the grace period."""
        self._selector.register(self._waker, selectors.EVENT_READ, self._on_ring)
        self._watch_listener()
        try:
            while not self._done():
                for key, _ in self._selector.select(self._timeout()):
                    self._safely(key.data)
                self._safely(self._end_pauses)
                self._safely(self._tick)
        finally:
            self._close()

    @staticmethod
    def _safely(function: Callable[[], None]) -> None:
        """Do one thing; a bug in it must not end the server for everybody."""
        try:
            function()
        except Exception:
            log.exception("internal error on the main thread")

    def _timeout(self) -> float:
        first = self._paused[0][0] if self._paused else self._next_tick
        return max(0.0, min(first, self._next_tick) - time.monotonic())

    def _done(self) -> bool:
        """Whether to leave the loop; begins the grace period when it is time."""
        if not self._stops:
            return False
        if not self._service.stopping:
            self._begin_stop()
        return self._quiet() or self._stops > 1 or time.monotonic() >= self._grace_ends

    def _quiet(self) -> bool:
        """Whether no transfer runs and every verdict has been sent."""
        if self._service.registry.active() or self._calls:
            return False
        if self._service.parts.in_use and time.monotonic() < self._confirm_by:
            return False  # a client that lives confirms its verdict in no time
        at_rest = (peer.idle or peer.resting for peer in self._peers)
        return all(at_rest) and not any(peer.connection.unsent for peer in self._peers)

    def _begin_stop(self) -> None:
        self._service.stopping = True
        self._grace_ends = time.monotonic() + self._settings.grace
        self._confirm_by = time.monotonic() + config.CLOSING_TIMEOUT
        self._unwatch_listener()
        for transfer in self._service.registry.waiting():
            self._service.start(self._service.turn_away, transfer)
        active = len(self._service.registry.active())
        if active:
            log.info("stopping: %d transfers have %g s to end", active, self._settings.grace)

    # -- calls from workers

    def _call(self, function: Callable[[], None]) -> None:
        """Have ``function`` run on main soon (any)."""
        self._calls.append(function)
        if not self._rung:  # cleared before the calls are taken: no call is overlooked
            self._rung = True
            self._waker.ring()

    def _on_ring(self) -> None:
        self._waker.quiet()
        self._rung = False
        if self._reload:
            self._read_certificate()
        self._run_calls()

    def _run_calls(self) -> None:
        while self._calls:
            self._safely(self._calls.popleft())

    def _post(self, peer: Peer, message: Message) -> None:
        """Have ``message`` sent by whoever owns ``peer`` (any)."""
        peer.mailbox.append(message)
        self._call(partial(self._nudge, peer))

    def _nudge(self, peer: Peer) -> None:
        if peer.idle:
            self._hand_over(peer)

    # -- connections

    def _watch_listener(self) -> None:
        if self._stops == 0:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _unwatch_listener(self) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._listener)

    def _accept(self) -> None:
        """Take new connections, not too many at a time."""
        for _ in range(64):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:  # out of descriptors: leave them in the backlog for a while
                log.error("cannot accept connections: %s", error.strerror)
                self._unwatch_listener()
                return
            self._welcome(sock, str(address[0]))

    def _welcome(self, sock: socket.socket, address: str = "") -> None:
        if not self._room_for(address):
            sock.close()
            return
        tls = self._tls
        try:
            connection = Connection(sock, Side.SERVER, tls.context if tls else None)
        except OSError:  # it has gone already
            sock.close()
            return
        peer = Peer(connection, self._settings.login_timeout)
        peer.binding = tls.binding if tls else None
        self._peers.add(peer)
        self._strangers[peer] = None
        self._neighbours[peer.network] += 1
        self._watch(peer)

    def _room_for(self, address: str) -> bool:
        """Whether one more connection may come; those that have not logged in make way for it.

        A newcomer is more likely to be somebody who wants to send a file than the one that has said
        nothing for the longest time.
        """
        network = auth.network_of(address)
        if self._neighbours[network] >= config.MAX_OF_ADDRESS:
            return self._make_room([peer for peer in self._unknown() if peer.network == network])
        if len(self._peers) >= config.MAX_CONNECTIONS:
            return self._make_room(self._unknown())
        if len(self._strangers) < config.MAX_STRANGERS:
            return True
        strangers = self._unknown()
        own = [peer for peer in strangers if peer.network == network]
        crowd = own if 2 * len(own) > len(strangers) else strangers  # no address pushes all out
        return len(strangers) < config.MAX_STRANGERS or self._make_room(crowd)

    def _unknown(self) -> list[Peer]:
        """Return those that have not logged in, the oldest first."""
        return [p for p in self._strangers if not (p.session or p.leaving or p.gone)]

    def _make_room(self, strangers: list[Peer]) -> bool:
        if strangers:
            self._drop(strangers[0])
        return bool(strangers)

    def _watch(self, peer: Peer) -> None:
        """Own ``peer`` until something comes."""
        events = selectors.EVENT_READ
        if peer.connection.unsent:
            events |= selectors.EVENT_WRITE
        self._selector.register(peer.connection, events, partial(self._on_ready, peer))
        peer.idle = True

    def _unwatch(self, peer: Peer) -> None:
        if peer.idle:
            self._selector.unregister(peer.connection)
            peer.idle = False

    def _on_ready(self, peer: Peer) -> None:
        if not peer.idle:
            return  # an earlier event of the same round has handed it over, or closed it
        if not peer.leaving:
            self._hand_over(peer)
        elif peer.connection.discard():
            self._forget(peer)
        elif peer.connection.unsent:
            self._unwatch(peer)
            self._say_rest(peer)

    def _hand_over(self, peer: Peer) -> None:
        """Give ``peer`` to a worker."""
        self._unwatch(peer)
        peer.resting = peer.hurried = False
        self._service.work.put(partial(self._serve, peer), peer.priority)

    def _serve(self, peer: Peer) -> None:
        """Serve ``peer`` and give it back to main (a worker)."""
        try:
            self._service.serve(peer)
        finally:
            self._call(partial(self._take_back, peer))

    def _take_back(self, peer: Peer) -> None:
        if peer.session:
            self._strangers.pop(peer, None)
        if peer.gone:
            self._forget(peer)
        elif peer.leaving:
            self._see_off(peer)
        elif peer.paused_until > time.monotonic():
            peer.resting = True
            self._rest(peer.paused_until, partial(self._go_on, peer))
        elif peer.hurried or peer.mailbox or peer.connection.pending:
            self._hand_over(peer)
        else:
            self._watch(peer)

    def _see_off(self, peer: Peer) -> None:
        """Let a peer read our last words before its connection closes.

        Closing while its bytes are unread would reset the connection and destroy those words.
        """
        self._end_session(peer)
        peer.deadline = time.monotonic() + config.CLOSING_TIMEOUT
        self._say_rest(peer)

    def _say_rest(self, peer: Peer) -> None:
        with contextlib.suppress(ConnectionLostError):  # the selector tells of that as well
            if peer.connection.flush():
                peer.connection.finish()
        self._watch(peer)

    def _forget(self, peer: Peer) -> None:
        """Close a connection and what depends on it."""
        peer.gone = True
        self._unwatch(peer)
        self._end_session(peer)
        if peer in self._peers:
            self._peers.remove(peer)
            self._strangers.pop(peer, None)
            self._neighbours[peer.network] -= 1
            if not self._neighbours[peer.network]:
                del self._neighbours[peer.network]
        peer.connection.close()

    def _end_session(self, peer: Peer) -> None:
        session, peer.session = peer.session, None
        if session is None:
            return
        if session.coordinator is not peer:
            self._service.registry.detach(session, peer)
            return
        session.closed = True
        self._service.work.put(partial(self._service.abandon, session), session.priority)
        for stream in self._service.registry.remove(session):
            self._drop(stream)

    def _drop(self, peer: Peer) -> None:
        """Close a connection that a worker may be busy with."""
        if peer.idle or peer.resting:
            self._forget(peer)
        else:
            peer.gone = True  # whatever its worker still finds
            peer.connection.cut()

    # -- clocks

    def _end_pauses(self) -> None:
        """Let those go on whose pause is over."""
        while self._paused and self._paused[0][0] <= time.monotonic():
            self._safely(heapq.heappop(self._paused)[2])

    def _rest(self, until: float, unit: Unit) -> None:
        """Do ``unit`` at that instant, not before."""
        heapq.heappush(self._paused, (until, next(self._pauses), unit))

    def _later(self, until: float, unit: Unit) -> None:
        """Have ``unit`` done on main at that instant (any)."""
        self._call(partial(self._rest, until, unit))

    def _go_on(self, peer: Peer) -> None:
        """End the pause of ``peer``, unless it has to give way: that needs no worker to see."""
        if peer.gone:  # closed while it rested
            return
        if self._service.gives_way(peer):
            self._rest(peer.paused_until, partial(self._go_on, peer))
        else:
            self._hand_over(peer)

    def _tick(self) -> None:
        """Look at every deadline, twice a second."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + config.TICK
        self._run_calls()  # should ever a ring be lost
        for peer in list(self._peers):
            if peer.idle and now >= peer.deadline:  # one that ended another's session closed it
                self._time_out(peer)
            elif peer.idle and peer.proof and not peer.leaving and now >= peer.proof_due:
                self._hand_over(peer)
        for transfer in self._service.registry.active():
            if transfer.stalled_for() > self._settings.stall_timeout:
                self._service.start(self._service.expire, transfer)
        self._service.look_again()
        self._report(now)
        if now >= self._next_expiry:
            self._next_expiry = now + config.EXPIRE_EVERY
            self._service.work.put(self._service.parts.expire, priority=0)
        if not (self._service.stopping or self._listener in self._selector.get_map()):
            self._watch_listener()

    def _time_out(self, peer: Peer) -> None:
        if peer.leaving:
            self._forget(peer)
            return
        log.info("%s: closed after too long a silence", peer.connection.peer)
        peer.refuse("timeout", TOO_SLOW)
        self._unwatch(peer)
        self._see_off(peer)

    def _report(self, now: float) -> None:
        """Tell clients that wait how far they are; it also shows them that we live."""
        if now < self._next_report:
            return
        self._next_report = now + config.REPORT_EVERY
        for transfer in self._service.registry.active():
            begun = transfer.receiving  # else its part file is looked for, or made
            report = Verifying(transfer.verified_bytes) if begun else Queued(1)
            self._post(transfer.session.coordinator, report)
        for transfer, position in self._service.registry.positions():
            self._post(transfer.session.coordinator, Queued(position))

    # -- the end

    def _close(self) -> None:
        """Cut what still runs, wait for the workers, release everything."""
        self._service.stopping = True
        self._unwatch_listener()
        self._listener.close()
        for peer in self._peers:
            if peer.idle:
                peer.refuse("shutdown", "the server is shutting down")
                peer.connection.finish()
            else:
                peer.connection.cut()
        with self._watchdog():
            for transfer in self._service.registry.active() + self._service.registry.waiting():
                transfer.end()  # workers that are at it stop at the next block
            self._service.work.shutdown()
            self._service.parts.close()
        for peer in self._peers:
            peer.connection.close()
        self._peers.clear()
        self._selector.close()
        self._waker.close()
        self._output.release()

    @contextlib.contextmanager
    def _watchdog(self) -> Iterator[None]:
        """End the process if a worker hangs, in a dead disk for example: nothing can end that."""
        patience = config.EXIT_TIMEOUT if self._stops < 2 else config.CLOSING_TIMEOUT
        watchdog = threading.Timer(patience, _give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            watchdog.join()


def _give_up() -> None:
    """Leave without the workers (the watchdog's thread)."""
    log.error("a worker hangs, probably in the disk: ending without it; transfers can go on later")
    logging.shutdown()
    os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Open the listener; IPv4 first where a name has both. Raises ``UsageError``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {printable(host)}: {error}") from None
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(config.LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        hint = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
        where = f"{printable(host)}:{port}"
        raise UsageError(f"cannot listen on {where}: {error.strerror}{hint}") from None
    listener.setblocking(False)
    return listener


# --- the command line ---------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    workers = config.argument(int, 1, 256, "a number of workers from 1 to 256")
    size = config.argument(config.parse_size, 1, MAX_FILE_SIZE, "a size such as 200K, 1.5M, 2G")
    extensions = config.checked(auth.parse_extensions)
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Receive files and prove that they arrived."
    )
    add = parser.add_argument
    # fmt: off
    add("--host", default=config.DEFAULT_HOST, help="address to listen on (localhost)")
    add("--port", type=config.port_argument(), default=config.DEFAULT_PORT,
        help="port to listen on (4455); 0 takes a free one")
    add("--output", type=Path, default=Path("output"), metavar="DIR",
        help="where files go (output/)")
    add("--workers", type=workers, default=config.WORKERS, metavar="N",
        help="threads that do the work (10)")
    add("--credentials", type=Path, metavar="FILE",
        help="users, made with auth.py; without it there are demo accounts, on loopback only")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate (and chain) for TLS, PEM; "
        "read again on SIGHUP")
    add("--tls-key", type=Path, metavar="FILE", help="its key")
    add("--max-file-size", type=size, metavar="SIZE", help="take no larger files (no limit)")
    add("--allow-ext", type=extensions, default=(), metavar=".a,.b",
        help="take only files with such names, whose content is what they say (all)")
    add("--limit", type=config.rate_argument(config.LEAST_LIMIT), metavar="RATE",
        help="bytes a second, of all clients together, such as 10M (no limit)")
    add("--grace", type=config.seconds_argument(0), default=config.GRACE, metavar="SECONDS",
        help="how long running transfers may go on at shutdown (10)")
    # fmt: on
    config.add_log_level(parser)
    return parser


def _credentials(settings: ServerSettings) -> auth.Credentials:
    """Load the accounts; the demo ones only where nobody else can reach them."""
    if settings.credentials is not None:
        return auth.CredentialStore(settings.credentials, lambda text: log.warning("%s", text))
    if not is_loopback(settings.host):
        raise UsageError(
            f"the demo accounts work on loopback only, not on {printable(settings.host)}: "
            "make accounts with auth.py add and start with --credentials"
        )
    return auth.demo_credentials()


def _serve(settings: ServerSettings) -> None:
    server = Server(settings, _credentials(settings))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    # without a certificate to read again, it says what it always did: the terminal has gone
    on_hangup = server.reload if settings.tls_cert else server.stop
    signal.signal(signal.SIGHUP, lambda *_: on_hangup())
    host, port = server.address
    try:
        config.say(f"Listening on {host}:{port}")
    except OSError as error:
        raise UsageError(f"cannot write to standard output: {error.strerror}") from error
    try:
        server.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the end is near enough
    log.info("stopped")


def main(argv: list[str] | None = None) -> int:
    """Run ``python server.py``; return its exit code."""
    config.make_output_safe()
    config.keep_own_rights()
    arguments = vars(_parser().parse_args(argv))
    config.setup_logging(arguments.pop("log_level"))
    try:
        _serve(ServerSettings(**arguments))
    except (TransferError, OSError) as error:  # OSError: no descriptors left, say
        log.error("%s", error)
        return UsageError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
