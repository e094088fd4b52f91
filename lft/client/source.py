"""The input file."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import config
from lft.files import read_full
from protocol import SourceError


class Source:
    """An input file, open for reading, that notices when it changes. Any thread."""

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
        self.grew = False  # whether more was added while it was sent
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
        """Fill ``view`` from ``offset``. Raises ``SourceError`` if the file is shorter."""
        try:
            size = read_full(self._fd, view, offset)
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None
        if size < len(view):
            raise SourceError(f"{self._path}: became shorter while it was sent; send it again")

    def head(self, length: int, algorithm: str) -> str:
        """Return the digest of the first ``length`` bytes, in hexadecimal."""
        view = memoryview(bytearray(min(length, self.size)))
        self.read(view, 0)
        return hashlib.new(algorithm, view).hexdigest()

    def check_unchanged(self, algorithm: str, digest: str) -> None:
        """Raise ``SourceError`` if the file no longer has the bytes that were sent.

        ``digest`` is that of these bytes, in hexadecimal. A file that was only added to, such as a
        log, is read once more to prove that: then ``grew`` says so, and the rest is as it was.
        """
        now = os.fstat(self._fd)
        same = (now.st_size, now.st_mtime_ns) == (self._facts.st_size, self._facts.st_mtime_ns)
        if self._is_replaced(now) or not (same or self._has_only_grown(now, algorithm, digest)):
            raise SourceError(f"{self._path}: changed while it was sent; send it again")

    def _is_replaced(self, now: os.stat_result) -> bool:
        """Return whether another file has the name; of a deleted one the open file was sent."""
        try:
            return not os.path.samestat(os.stat(self._path), now)
        except OSError:
            return False

    def _has_only_grown(self, now: os.stat_result, algorithm: str, digest: str) -> bool:
        """Return whether the file still begins with the bytes that were sent."""
        if not self.grew and now.st_size > self.size:
            self.grew = self._digest(algorithm) == digest
        return self.grew and now.st_size >= self.size

    def _digest(self, algorithm: str) -> str:
        """Return the digest of the first ``size`` bytes, read anew."""
        found, view = hashlib.new(algorithm), memoryview(bytearray(config.MB))
        for start in range(0, self.size, len(view)):
            part = view[: self.size - start]
            self.read(part, start)
            found.update(part)
        return found.hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "is a folder; pack it into one file first, for example with tar"
    return "is not a regular file"
