"""What is sent: an input file, or anything that can be read like one."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Collection, Iterator, Sequence

import config
from lft.client.inventory import Contents
from lft.files import fetch, read_run
from lft.holes import next_data, zeros
from protocol import FIRST_TIME, LAST_TIME, SourceError

if TYPE_CHECKING:
    from lft.sums import TreeHash
    from protocol import ManifestPart


class Input:
    """What a client sends. Any thread may call any method, unless a docstring says otherwise."""

    sized = True  # whether the size is known before the end
    grew = False  # whether more was added while it was sent, and nothing else happened
    waiting = False  # whether the reader waits for more of it to come
    entries: int | None = None  # of a directory: files, directories and links in it
    contents = Contents()

    def __init__(self, name: str, size: int = 0) -> None:
        self.name = os.fsencode(name).decode("utf-8", "replace")  # as text that has a UTF-8 form
        self.size = size  # bytes; a bound that no file reaches until it is known

    @property
    def repeatable(self) -> bool:
        """Whether another attempt could send it from the start."""
        return True

    @property
    def attributes(self) -> dict[str, int]:
        """What the file on the server may keep: the fields of a FILE_START."""
        return {}

    def listing(self, _features: Collection[str]) -> Iterator[ManifestPart]:
        """Give the messages that follow FILE_START, for a server that has these features.

        There are none except for a directory.
        """
        return iter(())

    def lines(self) -> Iterator[str]:
        """Give a line for each thing in a directory."""
        return iter(())

    def new_hash(self, algorithm: str) -> hashlib._Hash | TreeHash:
        """Return what the bytes are hashed by."""
        return hashlib.new(algorithm)

    def files_in(self, size: int) -> int:
        """Return how many files are complete with the first ``size`` bytes."""
        return int(size >= self.size)

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``SourceError`` where that cannot be."""
        raise NotImplementedError

    def read_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill ``views``, one behind the other, from ``offset``. Raises as ``read`` does."""
        for view in views:
            self.read(view, offset)
            offset += len(view)

    def head(self, length: int, algorithm: str) -> str:
        """Return the digest of the first ``length`` bytes, in hexadecimal."""
        raise NotImplementedError

    def look(self) -> bool:
        """Return whether it is as it was when it was opened, as far as one look can tell."""
        return True

    def prove_unchanged(self, _algorithm: str, _digest: str) -> bool:
        """Prove that what was sent is still what there is; return whether that is done."""
        return True

    def doubt(self) -> None:
        """Prove anew what has been proven (main)."""

    def begin_again(self, error: SourceError) -> None:
        """Get ready to be announced once more after ``error``; raise it where that is no use."""
        raise error

    def release(self, verified: int) -> None:
        """Note that the server has verified so many bytes from the start (main)."""

    def stop(self) -> None:
        """Let the reader stop, whatever it waits for (main)."""

    def close(self) -> None:
        """Release everything."""


class OpenFile:
    """A regular file that is open for reading; holes on the disk are not read. Any thread."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor."""
        self.descriptor = descriptor
        self.facts = os.fstat(descriptor)
        self._sparse = self.facts.st_blocks * 512 < self.facts.st_size
        self._hole = (0, -1)  # the one found last: its start and end
        self._fetched = 0  # up to where the system was asked to read ahead

    def read_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill ``views``, one behind the other, from ``offset``.

        Raises ``OSError``, also where the file is shorter than that.
        """
        if not self._sparse:
            self._read(views, offset)
            return
        for view in views:
            if self._is_hole(offset, offset + len(view)):
                view[:] = zeros(len(view))
            else:
                self._read([view], offset)
            offset += len(view)

    def _read(self, views: Sequence[memoryview], offset: int) -> None:
        size = sum(map(len, views))
        if self._fetched <= offset + config.FETCH_AHEAD - config.FETCH_STEP:
            self._fetch(offset + size)
        if read_run(self.descriptor, views, offset) < size:
            raise OSError(errno.ENODATA, "became shorter while it was sent")

    def _fetch(self, start: int) -> None:
        """Have the system read on from ``start``, further than it does by itself."""
        end = min(start + config.FETCH_AHEAD, self.facts.st_size)
        start, self._fetched = max(start, self._fetched), end
        if start < end:
            fetch(self.descriptor, start, end - start)

    def _is_hole(self, start: int, end: int) -> bool:
        """Return whether the disk has nothing there; asked once for each hole."""
        hole_start, hole_end = self._hole
        if not hole_start <= start <= hole_end:
            found = next_data(self.descriptor, start)
            hole_end = self.facts.st_size if found is None else found
            self._hole = start, hole_end
        return end <= min(hole_end, os.fstat(self.descriptor).st_size)

    def close(self) -> None:
        """Close it."""
        os.close(self.descriptor)


class Source(Input):
    """An input file, open for reading, that notices when it changes. Any thread."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Open a regular file. Raises ``SourceError`` for anything else.

        It is sent as ``name``, which without one is its own, without folders.
        """
        super().__init__(name or path.name)
        self._path = path
        try:
            facts = os.stat(path)
            if not stat.S_ISREG(facts.st_mode):
                raise SourceError(f"{path}: {_kind(facts.st_mode)}")
            self._file = OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise SourceError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        self._facts = self._file.facts
        self._proof: hashlib._Hash | None = None  # of the part that was read anew to show that
        self._proven = 0  # bytes of it
        self.size = self._facts.st_size
        try:
            if not self.size and self._has_more():
                raise SourceError(f"{path}: says it is empty but is not; copy it to a regular file")
        except BaseException:
            self.close()
            raise

    @property
    def attributes(self) -> dict[str, int]:
        """Permission bits, and the time of the last change."""
        return {"mode": self._facts.st_mode & 0o777, "mtime": time_of(self._facts)}

    def _has_more(self) -> bool:
        try:
            return bool(os.pread(self._file.descriptor, 1, self.size))
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``SourceError`` if the file is shorter."""
        self.read_run([view], offset)

    def read_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill ``views``, one behind the other, from ``offset``. Raises as ``read`` does."""
        try:
            self._file.read_run(views, offset)
        except OSError as error:
            again = "; send it again" if error.errno == errno.ENODATA else ""
            raise SourceError(f"{self._path}: {error.strerror}{again}") from None

    def head(self, length: int, algorithm: str) -> str:
        """Return the digest of the first ``length`` bytes, in hexadecimal."""
        view = memoryview(bytearray(min(length, self.size)))
        self.read(view, 0)
        return hashlib.new(algorithm, view).hexdigest()

    def prove_unchanged(self, algorithm: str, digest: str) -> bool:
        """Prove that the file still has the bytes that were sent; return whether that is done.

        ``digest`` is that of these bytes, in hexadecimal. A file that was only added to, such as a
        log, is read once more, a part with each call: in the end ``grew`` says so. Raises
        ``SourceError`` if the bytes are others.
        """
        return self.look() or self.grew or self._prove_some(algorithm, digest)

    def look(self) -> bool:
        """Return whether the file is as it was; ``False`` if bytes may only have been added.

        Raises ``SourceError`` for any other change: what is sent from then on would be worthless.
        """
        now = os.fstat(self._file.descriptor)
        same = (now.st_size, now.st_mtime_ns) == (self._facts.st_size, self._facts.st_mtime_ns)
        grows = now.st_size >= self.size if self.grew else now.st_size > self.size
        if self._is_replaced(now) or not (same or grows):
            raise self._changed()
        return same

    def _changed(self) -> SourceError:
        return SourceError(f"{self._path}: changed while it was sent; send it again")

    def _is_replaced(self, now: os.stat_result) -> bool:
        """Return whether another file has the name; of a deleted one the open file was sent."""
        try:
            return not os.path.samestat(os.stat(self._path), now)
        except OSError:
            return False

    def _prove_some(self, algorithm: str, digest: str) -> bool:
        """Read on in the bytes that were sent; return whether the file still begins with them."""
        proof = self._proof = self._proof or hashlib.new(algorithm)
        view = memoryview(bytearray(min(config.PROVE_STRETCH, self.size - self._proven)))
        self.read(view, self._proven)
        proof.update(view)
        self._proven += len(view)
        if self._proven < self.size:
            return False
        if proof.hexdigest() != digest:
            raise self._changed()
        self.grew = True
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "is a pipe; to send what comes out of it, name - and give it as standard input"
    return "is not a regular file"


def time_of(facts: os.stat_result) -> int:
    """Return the time of the last change in nanoseconds since 1970, or the nearest one we send."""
    return max(FIRST_TIME, min(facts.st_mtime_ns, LAST_TIME))


def name_of(path: Path) -> str:
    """Return what a file or directory is called, also where its path does not say it: ``..``.

    As text that has a UTF-8 form; the root of all directories has no name.
    """
    name = path.name
    if name in ("", ".."):
        name = os.path.basename(os.path.realpath(path))
    return os.fsencode(name).decode("utf-8", "replace")
