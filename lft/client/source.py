"""The input file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

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

    def check_unchanged(self) -> None:
        """Raise ``SourceError`` if the file was changed or replaced since it was opened."""
        now = os.fstat(self._fd)
        same = (now.st_size, now.st_mtime_ns) == (self._facts.st_size, self._facts.st_mtime_ns)
        with contextlib.suppress(OSError):  # deleted: the file that is open was sent
            same = same and os.path.samestat(os.stat(self._path), now)
        if not same:
            raise SourceError(f"{self._path}: changed while it was sent; send it again")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "is a folder; pack it into one file first, for example with tar"
    return "is not a regular file"
