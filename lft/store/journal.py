"""The record beside a part file: what the file is for, and which blocks are in it."""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import json
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, Iterator, NamedTuple

import config
from lft.files import sync_data
from lft.manifest import Entry, Manifest, entry_of, parts_of
from lft.store.paths import counted, open_regular
from protocol import DIGEST_SIZES, MAX_CONTROL_FRAME, MAX_SPANS, Blocks, ManifestPart, Spans

MAX_FIRST_LINE = 32 * 1024  # bytes of a journal's first line: a name and a directory of 1024
# characters, a user and a final name of 255, each up to 12 bytes in JSON
NEW = ".new"  # what its name ends with until it is whole
TREE = "tree"  # in place of a digest
_TREE = "counted_as"  # a key that the first line has for a tree only
_INDEX = struct.Struct("!I")
_CLAIMS_TOGETHER = 64  # blocks whose digests have memory together
_TOGETHER = 4096  # records read or written in one call: 1 ms
_PUBLISHED = 2**32 - 1  # in place of a block index; no file has that many (config.MAX_BLOCKS)
OUR_NAME = re.compile(r"server_received_[^/\0]+")


class Facts(NamedTuple):
    """What a part file is for, as the first line of its journal says.

    The client says anew in each attempt what is not ``JOURNALED``.
    """

    user: str
    name: str  # made harmless
    size: int
    block_size: int
    digest: str  # the algorithm
    saved_as: str  # the name that the file gets when it is whole
    directory: str = ""  # where that is, below the output directory
    head: str = ""  # the digest of the first block
    mode: int | None = None  # permission bits that the file is to have, if any are preserved
    mtime: int | None = None  # nanoseconds since 1970, likewise
    unsized: bool = False  # whether the size is the least that it will have; there is no journal
    file: int | None = None  # what the client calls it in its session, if that has several
    skips: bool = False  # whether a published file that is the same will do
    # of a tree, whose ``head`` is TREE: all that is in it, while it is in use, and what it counts
    # in a quota
    manifest: Manifest | None = None
    counted_as: int = 0

    @property
    def journaled(self) -> dict[str, object]:
        """What the journal says."""
        tree = {_TREE: self.counted_as} if self.is_tree else {}
        return {**dict(zip(JOURNALED, self)), **tree}

    @property
    def keeps(self) -> bool:
        """Whether the file is to keep permission bits or its time."""
        return (self.mode, self.mtime) != (None, None)

    @property
    def place(self) -> str:
        """The final name with its directory, as the client is told."""
        return f"{self.directory}/{self.saved_as}" if self.directory else self.saved_as

    @property
    def is_tree(self) -> bool:
        """Whether it is a directory."""
        return self.head == TREE

    @property
    def has_many_entries(self) -> bool:
        """Whether it is a tree of which one at a time should be looked for, or made."""
        return self.manifest is not None and len(self.manifest) > config.MANY_ENTRIES

    @property
    def counts(self) -> int:
        """The bytes that it counts in a quota."""
        return self.counted_as or counted(self.size)

    @property
    def key(self) -> tuple[object, ...]:
        """What two attempts at the same file have in common; the size may have grown."""
        return self.user, self.name, self.block_size, self.digest, self.head

    @property
    def is_upload(self) -> bool:
        """Whether it is for an upload over HTTP: then ``head`` is its id, which no digest is.

        By its length: an upload whose digest has 32 bytes has an id of 16, and one of 16 has 32.
        """
        return len(self.head) not in (0, 2 * self.digest_size) and not self.is_tree

    def alike(self, other: Facts) -> bool:
        """Return whether ``other`` may be the same file, in other blocks or by another digest."""
        fits = self.size <= other.size or self.is_tree  # which may have less in it by now
        same = (self.user, self.name, self.is_tree) == (other.user, other.name, other.is_tree)
        return same and fits

    @property
    def blocks(self) -> Blocks:
        """How the file falls into blocks."""
        return Blocks(self.size, self.block_size)

    @property
    def digest_size(self) -> int:
        """The bytes of a running digest."""
        return DIGEST_SIZES[self.digest]

    @property
    def sane(self) -> bool:
        """Whether a journal of ours can say this; its paths then lead nowhere else."""
        plain = not any(part in ("", ".", "..") for part in self.place.split("/"))
        fits = self.digest in DIGEST_SIZES and self.size >= 0 and self.block_size > 0
        return plain and fits and OUR_NAME.fullmatch(self.saved_as) is not None


JOURNALED = Facts._fields[:8]
_FACT_TYPES = [str, str, int, int, str, str, str, str]
NO_FACTS = Facts("", "", 0, 1, "md5", "none")


class Claims:
    """The blocks that a journal says are in its part file, with their running digests.

    A claim is no proof: the blocks are hashed again before anything relies on them. One without a
    digest, which was of another kind or of another tree, is as good: its digest is zeros.
    """

    def __init__(self, count: int, digest_size: int) -> None:
        self.flags = bytearray(count)  # 1 for each block that is claimed
        self._digests: dict[int, bytearray] = {}  # of so many blocks together, once one is claimed
        self._size = digest_size

    def add(self, block: int, digest: bytes) -> None:
        """Claim one block; a block that the file does not have is ignored."""
        if block < len(self.flags):
            self.flags[block] = 1
            if not any(digest):
                return
            part, at = divmod(block, _CLAIMS_TOGETHER)
            digests = self._digests.get(part)
            if digests is None:  # the file may be huge, and its journal short
                digests = self._digests[part] = bytearray(_CLAIMS_TOGETHER * self._size)
            digests[at * self._size : (at + 1) * self._size] = digest

    def digest_of(self, block: int) -> bytes:
        """Return what the journal says of ``block``, whether that is claimed or not."""
        part, at = divmod(block, _CLAIMS_TOGETHER)
        digests = self._digests.get(part, b"")
        return bytes(digests[at * self._size : (at + 1) * self._size]) or bytes(self._size)

    def lacks_digest(self, block: int) -> bool:
        """Return whether the digest of ``block`` is not known."""
        return not any(self.digest_of(block))

    def records(self) -> Iterator[bytes]:
        """Give the claims as a journal has them, some at a time."""
        blocks = itertools.chain.from_iterable(itertools.starmap(range, self._runs()))
        for some in iter(lambda: list(itertools.islice(blocks, _TOGETHER)), []):
            yield b"".join(record(block, self.digest_of(block)) for block in some)

    @property
    def count(self) -> int:
        """How many blocks are claimed."""
        return self.flags.count(1)

    @property
    def spans(self) -> Spans:
        """The claimed blocks as ranges, at most as many as fit a message."""
        return tuple(itertools.islice(self._runs(), MAX_SPANS))

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Give the claimed blocks as ranges, with searches that take no time for what is absent."""
        end = 0
        while True:
            first = self.flags.find(1, end)
            if first < 0:
                return
            end = self.flags.find(0, first)
            end = end if end >= 0 else len(self.flags)
            yield first, end


def record(block: int, digest: bytes) -> bytes:
    """Make a journal's record of one block (any)."""
    return _INDEX.pack(block) + digest


class Journal:
    """The file beside a part file that claims its blocks.

    One line of JSON, then records of one size: block index (4 bytes) and running digest. Nothing in
    it is believed without a proof: torn, lost or full of garbage, it costs time. But only its first
    line ties a published file to its client, so it is flushed with the data: a verdict that a power
    cut swallowed is given again, and the file is not taken a second time.
    """

    VERSION = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def begin(self, facts: Facts, claims: Claims | None = None) -> None:
        """Write a new journal in place of the old one; keep it open for ``append``."""
        fresh = self.free_name()
        first = json.dumps({"journal": self.VERSION, **facts.journaled})
        self._open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            self.append(first.encode() + b"\n")
            for line in _lines_of(facts.manifest):
                self.append(line)
            for records in claims.records() if claims else ():
                self.append(records)
            self._put_in_place(fresh)
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise

    def go_on(self, facts: Facts) -> None:
        """Open the journal that is there for ``append``, without a torn end. Raises ``OSError``."""
        self._open(self._path, os.O_RDWR)
        with open(self._path, "rb", opener=open_regular) as file:
            _skip_manifest(file, _parse(file.readline(MAX_FIRST_LINE)))
            first = file.tell()
        torn = (os.fstat(self._fd).st_size - first) % (_INDEX.size + facts.digest_size)
        os.ftruncate(self._fd, os.fstat(self._fd).st_size - torn)

    def free_name(self) -> Path:
        """Return where a new one stands until it is whole."""
        return self._path.with_suffix(NEW)

    def _put_in_place(self, fresh: Path) -> None:
        os.replace(fresh, self._path)

    def _open(self, path: Path, flags: int) -> None:
        self.close()
        self._fd = os.open(path, flags | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def append(self, records: bytes) -> None:
        """Add ``records``, or nothing. One thread at a time. Raises ``OSError``."""
        written = os.write(self._fd, records)
        if written < len(records):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Bring the journal to the disk (0.2 ms after its data). Raises ``OSError``."""
        sync_data(self._fd)

    def note_published(self, facts: Facts) -> None:
        """Add that the file has its final name; its age counts from now. Raises ``OSError``."""
        self.append(_note_of_publication(facts))

    def says_published(self, facts: Facts) -> bool:
        """Return whether ``note_published`` wrote last. Raises ``OSError``."""
        note = _note_of_publication(facts)
        with open(self._path, "rb", opener=open_regular) as file:
            start = max(0, os.fstat(file.fileno()).st_size - len(note))
            return os.pread(file.fileno(), len(note), start) == note

    def facts(self) -> Facts:
        """Return what the file is for. Raises ``ValueError`` for a journal that is not ours.

        At a start with ten thousand journals all transfers wait for this: no file object is made.
        """
        descriptor = open_regular(str(self._path), os.O_RDONLY)
        try:
            return _parse(os.read(descriptor, MAX_FIRST_LINE).partition(b"\n")[0])
        finally:
            os.close(descriptor)

    def count(self) -> int:
        """Return how many records there are. Raises ``OSError``, ``ValueError``."""
        with open(self._path, "rb", opener=open_regular) as file:
            facts = _parse(file.readline(MAX_FIRST_LINE))
            _skip_manifest(file, facts)
            size = os.fstat(file.fileno()).st_size - file.tell()
        return size // (_INDEX.size + facts.digest_size)

    def manifest(self) -> Manifest:
        """Return what is in a tree. Raises ``ValueError`` for a journal that is not of one."""
        with open(self._path, "rb", opener=open_regular) as file:
            if not _parse(file.readline(MAX_FIRST_LINE)).is_tree:
                raise ValueError("not the journal of a tree")
            return Manifest(itertools.chain.from_iterable(map(_entries_of, _manifest_lines(file))))

    def stat(self) -> os.stat_result:
        """Return what the system knows of the file. Raises ``OSError``."""
        return os.stat(self._path)

    def load(self, facts: Facts) -> Claims:
        """Return the claimed blocks; ``facts`` may have another size than the journal itself."""
        count = facts.blocks.count
        with open(self._path, "rb", opener=open_regular) as file:
            journaled = _parse(file.readline(MAX_FIRST_LINE))
            _skip_manifest(file, journaled)
            claims = Claims(count, facts.digest_size)
            known = journaled.digest == facts.digest
            for block, digest in _records(file, journaled.digest_size):
                claims.add(block, digest if known else b"")
        old = journaled.blocks
        for block in {old.count - 1, facts.blocks.count - 1}:  # the last one may have been short
            if 0 <= block < facts.blocks.count and old.length(block) != facts.blocks.length(block):
                claims.flags[block] = 0
        return claims

    def close(self) -> None:
        """Close the journal; what the disk says then concerns claims only."""
        descriptor, self._fd = self._fd, -1  # its number will soon belong to another file
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class NoJournal(Journal):
    """In place of the journal of a file that no attempt will go on with."""

    def begin(self, _facts: Facts, _claims: Claims | None = None) -> None:
        """Write nothing."""

    def append(self, _records: bytes) -> None:
        """Write nothing."""

    def flush(self) -> None:
        """Have nothing to flush."""

    def load(self, _facts: Facts) -> Claims:
        """Claim nothing."""
        return Claims(0, 0)


def _note_of_publication(facts: Facts) -> bytes:
    return record(_PUBLISHED, bytes(facts.digest_size))


def _lines_of(manifest: Manifest | None) -> Iterator[bytes]:
    """Give the lines that a journal has between its first one and the records: of a tree only."""
    if manifest is not None:
        for part in parts_of(manifest):
            yield json.dumps(part.entries).encode() + b"\n"
        yield b"\n"


def _manifest_lines(file: BinaryIO) -> Iterator[bytes]:
    """Give those lines but the last, which is empty. Raises ``ValueError`` where they end early."""
    while True:
        line = file.readline(MAX_CONTROL_FRAME)
        if line == b"\n":
            return
        if not line.endswith(b"\n"):
            raise ValueError("the manifest in the journal is torn")
        yield line


def _entries_of(line: bytes) -> Iterator[Entry]:
    return map(entry_of, ManifestPart(tuple(map(tuple, json.loads(line)))).entries)


def _skip_manifest(file: BinaryIO, facts: Facts) -> None:
    """Go on to the records."""
    if facts.is_tree:
        collections.deque(_manifest_lines(file), maxlen=0)


def _records(file: BinaryIO, digest_size: int) -> Iterator[tuple[int, bytes]]:
    """Give block index and digest of each whole record.

    Read some at a time: a journal of a million blocks is not held in memory, and each read lets
    other threads have the interpreter.
    """
    layout = struct.Struct(f"!I{digest_size}s")
    while True:
        data = file.read(_TOGETHER * layout.size)
        whole = len(data) - len(data) % layout.size
        yield from layout.iter_unpack(data[:whole])
        if len(data) < _TOGETHER * layout.size:
            return


def _parse(line: bytes) -> Facts:
    """Read a journal's first line. Raises ``ValueError`` for anything that is not ours."""
    try:
        values = json.loads(line)
    except RecursionError:
        raise ValueError("not a journal of ours") from None
    if not isinstance(values, dict) or values.pop("journal", None) != Journal.VERSION:
        raise ValueError("not a journal of this version")
    if [type(values.get(key)) for key in JOURNALED] != _FACT_TYPES:
        raise ValueError("not a journal of ours")
    of_tree = [_TREE] if values["head"] == TREE else []
    if values.keys() != {*JOURNALED, *of_tree} or type(values.get(_TREE, 0)) is not int:
        raise ValueError("a journal of another version")
    facts = Facts(**values)
    if not facts.sane:
        raise ValueError("not a journal of ours")
    return facts
