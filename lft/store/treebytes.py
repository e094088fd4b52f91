"""The bytes of a tree: which of them are in which file, and on the disk."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import NamedTuple, Sequence

import config
from lft.files import forget, holds, read_full, sync_data, write_all
from lft.holes import make_hole
from lft.store.open_files import OpenFiles
from lft.store.part import write_sparse
from lft.store.treeroot import TreeRoot


class Piece(NamedTuple):
    """Bytes for one file of a tree, one behind the other."""

    entry: int
    offset: int  # in the file
    views: list[memoryview]

    @property
    def length(self) -> int:
        """The bytes."""
        return sum(map(len, self.views))


class TreeBytes:
    """Reads and writes the files of an open tree, as if they were one. Any worker.

    Small files are made here, when their first bytes come. The lock protects ``_dirty``.
    """

    def __init__(self, root: TreeRoot, *, published: bool) -> None:
        self.root = root
        self._published = published  # since an earlier run: it is only read
        self._files = OpenFiles()
        self._lock = threading.Lock()
        self._dirty: set[int] = set()  # entries of files that were written and not flushed

    def _open(self, entry: int) -> int:
        """Open a file that stays open for the next blocks."""
        if self._published:
            return self.root.open_published(entry)
        return self.root.open(entry, os.O_RDWR | os.O_CREAT)

    def close(self) -> None:
        """Close the files that are open; the next call opens them again."""
        self._files.close()

    def _pieces(self, views: Sequence[memoryview], offset: int) -> list[Piece]:
        """Return which bytes of ``views``, which begin at ``offset``, belong to which file."""
        length = sum(map(len, views))
        first = next(iter(self.root.manifest.segments(offset, length)), None)
        if first and first.length == length:  # of a large file: as fast as if it were alone
            return [Piece(first.entry, first.offset, list(views))]
        found: list[Piece] = []
        for view in views:
            at = 0
            for entry, start, length in self.root.manifest.segments(offset, len(view)):
                if not (found and found[-1].entry == entry):
                    found.append(Piece(entry, start, []))
                found[-1].views.append(view[at : at + length])
                at += length
            offset += len(view)
        return found

    def _is_large(self, entry: int) -> bool:
        return self.root.manifest.size_of(entry) >= config.LARGE_IN_TREE

    # -- writing

    def write_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Put ``views``, one behind the other, at ``offset``; in large files holes for zeros."""
        pieces = self._pieces(views, offset)
        for piece in pieces:
            size = self.root.manifest.size_of(piece.entry)
            if piece.length == size:
                self._write_whole(piece, size)
            else:
                with self._files.use(piece.entry, self._open) as file:
                    _put(file, piece, size)
        with self._lock:
            self._dirty.update(piece.entry for piece in pieces)

    def _write_whole(self, piece: Piece, size: int) -> None:
        """Write a file that came with one run."""
        file = self.root.open(piece.entry, os.O_WRONLY | os.O_CREAT)
        try:
            _put(file, piece, size)
        finally:
            os.close(file)

    def dig(self, view: memoryview, offset: int) -> None:
        """Have holes in large files in place of ``view``, which is zeros."""
        for entry, start, length in self.root.manifest.segments(offset, len(view)):
            if self._is_large(entry):
                with self._files.use(entry, self._open) as file:
                    make_hole(file, start, length)

    def flush(self, proven: int = 0) -> None:
        """Bring the bytes written so far to the disk. Raises ``OSError``.

        Of a file among the first ``proven`` bytes the memory is given back: see ``Part.flush``.
        """
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        manifest = self.root.manifest
        if flush_many(self.root, len(dirty)):
            return
        for entry in dirty:
            file = self.root.open(entry, os.O_RDONLY)
            try:
                sync_data(file)
                forget(file, proven - manifest.start(manifest.number_of(entry)))
            finally:
                os.close(file)

    # -- reading

    def holds(self, views: Sequence[memoryview], offset: int) -> bool:
        """Return whether the tree has the bytes of ``views``, one behind the other, there."""
        return all(map(self._holds, self._pieces(views, offset)))

    def _holds(self, piece: Piece) -> bool:
        with self._files.use(piece.entry, self._open) as file:
            return holds(file, piece.views, piece.offset)

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``; what is not there reads as zeros. Raises ``OSError``."""
        at = 0
        for entry, start, length in self.root.manifest.segments(offset, len(view)):
            filled, part = 0, view[at : at + length]
            with contextlib.suppress(FileNotFoundError), self._files.use(entry, self._open) as file:
                filled = read_full(file, part, start)
            part[filled:] = bytes(length - filled)
            at += length


def _put(file: int, piece: Piece, size: int) -> None:
    """Write bytes of a file of ``size`` bytes; only large ones are looked through for zeros."""
    put = write_sparse if size >= config.LARGE_IN_TREE else write_all
    put(file, piece.views, piece.offset)


def flush_many(root: TreeRoot, files: int) -> bool:
    """Flush so many files of a tree with one call, where that is faster; otherwise do nothing."""
    if files < 2:
        return False
    from lft.syncfs import flush_together  # noqa: PLC0415  (it loads ctypes)

    return flush_together(root.descriptor, files)
