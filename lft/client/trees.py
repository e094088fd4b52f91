"""A directory as a source: its files one behind the other, as if they were one."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from pathlib import Path
from typing import Collection, Dict, Iterator, Sequence

import config
from config import ClientSettings
from lft.client.exclusion import Exclusion
from lft.client.inventory import Contents, count_of, errors_in_words, in_words, number, some_of
from lft.client.source import Input, OpenFile, name_of, time_of
from lft.client.walk import DIRECTORY, TooLargeError, Walk
from lft.holes import zeros
from lft.manifest import Kind, Segment, parts_of
from lft.options import format_size
from lft.sums import TreeHash
from protocol import BEFORE_1970, FIRST_TIME, ManifestPart, SourceError

log = logging.getLogger("client")

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Changes = Dict[int, str]  # what happened, by the index of the entry that it happened to


class ChangedTreeError(SourceError):
    """Some of a directory changed while it was sent."""


class Files:
    """Reads the files of a directory, of which it keeps the last one open. One thread's own.

    A file must be the one that the walk has seen. What cannot be read any more is noted in
    ``changes`` and reads as zeros: so all that changed is known at the end, and is sent again at
    once. Nothing is published before that, because the client says so.
    """

    def __init__(self, root: int, walk: Walk, changes: Changes) -> None:
        self._root = root
        self._walk = walk
        self._changes = changes
        self._index = -1  # of the entry that was opened last
        self._file: OpenFile | None = None

    def read_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill ``views``, one behind the other, from ``offset`` of the tree."""
        segments = list(self._walk.manifest.segments(offset, sum(map(len, views))))
        if len(segments) == 1:  # of a large file: as fast as if it were alone
            self._read(segments[0], views)
            return
        for view in views:
            self._fill(view, offset)
            offset += len(view)

    def _fill(self, view: memoryview, offset: int) -> None:
        at = 0
        for segment in self._walk.manifest.segments(offset, len(view)):
            self._read(segment, [view[at : at + segment.length]])
            at += segment.length

    def _read(self, segment: Segment, views: Sequence[memoryview]) -> None:
        try:
            if segment.entry != self._index:
                self._open(segment.entry)
            if self._file:
                self._file.read_run(views, segment.offset)
                return
        except OSError as error:
            self._give_up(segment.entry, _what(error))
        for view in views:
            view[:] = zeros(len(view))

    def _open(self, index: int) -> None:
        """Open another file. Raises ``OSError``."""
        self.close()
        self._index = index
        descriptor = os.open(self._walk.manifest.path(index), _FILE, dir_fd=self._root)
        self._file = OpenFile(descriptor)
        change = self._walk.change_of(index, self._file.facts)
        if change:
            self._give_up(index, change)

    def _give_up(self, index: int, change: str) -> None:
        """Note what happened to a file; it is not tried again."""
        self._changes[index] = change
        self.close()
        self._index = index

    def close(self) -> None:
        """Close the file that is open."""
        file, self._file, self._index = self._file, None, -1
        if file:
            file.close()


class Tree(Input):
    """A directory with all that is in it, as it was when it was opened.

    The reader has ``read_run``; main has what a docstring says; any thread has the rest.
    """

    def __init__(self, path: Path, settings: ClientSettings) -> None:
        """Open a directory and walk through it. Raises ``SourceError`` where it cannot be sent."""
        super().__init__(settings.name or name_of(path))
        self._path = path
        self._settings = settings
        self._rounds = 0  # how often it changed while it was sent
        try:
            self._root = os.open(path, DIRECTORY)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from None
        try:
            self._walk_through()
        except BaseException:
            os.close(self._root)
            raise

    def _walk_through(self) -> None:
        """Note what is in it now. Raises ``SourceError``."""
        try:
            self._facts = os.fstat(self._root)
            self.walk = Walk(self._root, Exclusion(self._settings.exclude))
        except TooLargeError as error:
            advice = "send its directories one by one, or pack it with tar"
            raise SourceError(f"{self._path}: {error}: {advice}") from None
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None
        self._check_walk()
        manifest = self.walk.manifest
        self.size, self.entries = manifest.size, len(manifest)
        directories, links = (
            sum(1 for _ in manifest.of_kind(kind)) for kind in (Kind.DIRECTORY, Kind.LINK)
        )
        left_out = count_of(self.walk.left_out)
        self.contents = Contents(manifest.files, directories, links, self.walk.excluded, left_out)
        self._changes: Changes = {}  # written by the reader, then by main
        self._files = Files(self._root, self.walk, self._changes)
        self._looked = 0  # entries that were looked at again

    def _check_walk(self) -> None:
        """Say what is left out. Raises ``SourceError`` for what must not be left out."""
        unreadable, left_out = self.walk.unreadable, self.walk.left_out
        if unreadable:
            reason = f"cannot be read: {errors_in_words(unreadable)}; --exclude leaves them out"
            raise SourceError(f"{self._path}: {number(count_of(unreadable), 'entry')} {reason}")
        if left_out:
            what = f"{number(count_of(left_out), 'entry')} cannot be sent: {in_words(left_out)}"
            if self._settings.strict:
                raise SourceError(f"{self._path}: {what} (--strict)")
            if not self._rounds:
                log.warning("%s: left out, since %s", self._path, what)

    # -- its announcement (main)

    @property
    def attributes(self) -> dict[str, int]:
        """Its entries, and its own permission bits and time."""
        mode, mtime = self._facts.st_mode & 0o777, time_of(self._facts)
        return {"entries": len(self.walk.manifest), "mode": mode, "mtime": mtime}

    def listing(self, features: Collection[str]) -> Iterator[ManifestPart]:
        """Give the messages that tell what is in it, for a server that has these features."""
        return parts_of(self.walk.manifest, FIRST_TIME if BEFORE_1970 in features else 0)

    def head(self, _length: int, algorithm: str) -> str:
        """Return the digest of nothing: an earlier attempt is found by what is in it."""
        return hashlib.new(algorithm).hexdigest()

    def new_hash(self, algorithm: str) -> TreeHash:
        """Return what hashes its bytes, file by file."""
        return TreeHash(self.walk.manifest, algorithm)

    def files_in(self, size: int) -> int:
        """Return how many files are complete with the first ``size`` bytes."""
        return self.walk.manifest.files_in(size)

    def lines(self) -> Iterator[str]:
        """Give a line for each entry: its size, and its path with what it is."""
        for entry in self.walk.manifest:
            end = {Kind.FILE: "", Kind.DIRECTORY: "/", Kind.LINK: f" -> {entry.target}"}[entry.kind]
            size = format_size(entry.size) if entry.kind is Kind.FILE else ""
            yield f"{size:>12}  {self.name}/{entry.path}{end}"

    # -- reading

    def read_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill ``views``, one behind the other, from ``offset`` of the tree (the reader)."""
        self._files.read_run(views, offset)

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset`` of the tree, once more."""
        with contextlib.closing(Files(self._root, self.walk, self._changes)) as files:
            files.read_run([view], offset)

    # -- changes

    def look(self) -> bool:
        """Return whether going on has a point. Raises ``SourceError`` once too much changed."""
        if self._changed_bytes() > self._little:
            raise self._changed()
        return True

    @property
    def _little(self) -> int:
        """The bytes that may change while it is sent, and be sent again at once."""
        return max(config.TREE_LITTLE, self.size // config.TREE_PART)

    def _changed_bytes(self) -> int:
        sizes = self.walk.manifest
        return sum(sizes[index].size for index in list(self._changes))

    def prove_unchanged(self, _algorithm: str, _digest: str) -> bool:
        """Look at some more entries; return whether all have been looked at (main).

        Raises ``ChangedTreeError`` if any is not as it was when it was sent. A file that came
        meanwhile is none of the tree.
        """
        end = min(self._looked + config.LOOK_ENTRIES, len(self.walk.manifest))
        for index in range(self._looked, end):
            change = self._look_at(index)
            if change:
                self._changes.setdefault(index, change)
        self._looked = end
        if self._changes and end == len(self.walk.manifest):
            raise self._changed()
        return end == len(self.walk.manifest)

    def _look_at(self, index: int) -> str:
        """Say what happened to an entry; "" for nothing."""
        path = self.walk.manifest.path(index)
        try:
            facts = os.stat(path, dir_fd=self._root, follow_symlinks=False)
            if stat.S_ISLNK(facts.st_mode) and not self._leads_as_told(index):
                return "replaced"  # within a tick of the clock, and with the inode of the old one
        except OSError as error:
            return _what(error)
        return self.walk.change_of(index, facts)

    def _leads_as_told(self, index: int) -> bool:
        target = os.readlink(self.walk.manifest.path(index), dir_fd=self._root)
        return target == self.walk.manifest[index].target.encode()

    def doubt(self) -> None:
        """Look at all of it again when it is to be proven once more (main)."""
        self._looked = 0

    def _changed(self) -> ChangedTreeError:
        changes = {index: self._changes[index] for index in sorted(self._changes)}
        paths = [self.walk.manifest[index].path for index in changes]
        told = [f"{path} ({change})" for path, change in zip(paths, changes.values())]
        what = f"{number(len(told), 'entry')} changed while it was sent: {some_of(told)}"
        return ChangedTreeError(f"{self._path}: {what}")

    def begin_again(self, error: SourceError) -> None:
        """Walk through it once more, so that what changed is sent again (main).

        Raises ``SourceError`` where too much changes, or for too long.
        """
        if not isinstance(error, ChangedTreeError):
            raise error
        self._rounds += 1
        if self._rounds > config.TREE_ROUNDS or self._changed_bytes() > self._little:
            raise SourceError(f"{error}; the same command goes on where this one stopped")
        log.warning("%s; what changed is sent again", error)
        self._files.close()
        self._walk_through()

    def close(self) -> None:
        """Close what is open, once no thread reads any more."""
        self._files.close()
        os.close(self._root)


def _what(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "vanished"
    return error.strerror or str(error)
