"""What a directory holds, counted by several servers together."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import time
import zlib
from pathlib import Path
from typing import Iterator

import config
from lft.files import open_directory
from lft.store.journal import Facts, Journal
from lft.store.locks import take_within
from lft.store.paths import COUNTERS, PARTIAL, names_file, native, used_bytes

_READ = 64 * 1024  # bytes read in one call: 1300 unfinished files


class Account:
    """The counter of one directory, while this thread has it locked.

    It tells what the published files count together, as of a time of change of the directory, and
    each unfinished file by its part file.
    """

    def __init__(self, counters: Counters, directory: str, descriptor: int) -> None:
        """Read the counter from an open file; begin it anew where it makes no sense."""
        self.directory = directory
        self.total = 0
        self.parts: dict[str, int] = {}
        self._changed = -1  # the directory, in nanoseconds; -1 if it is to be counted
        self._counters = counters
        self._descriptor = descriptor
        self._text = b""
        self._read()

    @property
    def used(self) -> int:
        """What published and unfinished files count together."""
        return self.total + sum(self.parts.values())

    def _read(self) -> None:
        parts = iter(lambda: os.pread(self._descriptor, _READ, sum(map(len, read))), b"")
        read: list[bytes] = []
        for part in parts:  # to the end, of which others have moved the place
            read.append(part)
        self._text = b"".join(read)
        check, _, values = self._text.partition(b" ")
        try:
            if check != b"%08x" % zlib.crc32(values):
                raise ValueError
            self.total, self._changed, self.parts = json.loads(values)
        except ValueError:  # new, or its server was killed while it wrote
            self.parts = self._counters.unfinished(self.directory)

    def write(self) -> None:
        """Write the counter, if it has changed. Raises ``OSError``."""
        values = json.dumps([self.total, self._changed, self.parts]).encode()
        text = b"%08x %s" % (zlib.crc32(values), values)
        if text != self._text:
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))

    def count(self, *, surely: bool = False) -> None:
        """Count the directory, if another program has changed it, but not too often.

        Unfinished files are looked at ``surely`` if one is to be refused for them, and before the
        published ones: what is published meanwhile may count twice, but is never left out.
        """
        changed = self._counters.changed(self.directory)
        again = self._counters.may_count(
            self.directory, same=changed == self._changed, surely=surely
        )
        again = again or self._changed < 0  # it knows of no published file: no time is too much
        if again or surely:
            self.parts = self._counters.still_unfinished(self.directory, self.parts)
        if again:
            self.total, self._changed = self._counters.published(self.directory), changed

    @contextlib.contextmanager
    def publishing(self, stem: str, counts: int) -> Iterator[None]:
        """Have a file count as published that gets its name within this."""
        current = self._counters.changed(self.directory) == self._changed
        yield
        self.parts.pop(stem, None)
        self.total += counts
        if current:
            self._changed = self._counters.changed(self.directory)


class Counters:
    """The counters of all directories, each a file below ``.partial`` that one server locks.

    A file counts from the moment on in which its part file is made, under the same lock. So two
    uploads that race for a quota never exceed it, at whichever servers. A server that is killed
    leaves too much in a counter, never too little; before a file is refused for it, it is counted
    anew. All methods run on workers.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._folder = output / PARTIAL / COUNTERS
        # when we counted a directory, the seconds it took, and whether there were trees
        self._counted: dict[str, tuple[float, float, bool]] = {}

    @contextlib.contextmanager
    def open(self, directory: str, *, make: bool = True) -> Iterator[Account]:
        """Lock a directory's counter for a moment; what has changed is written at the end.

        Raises ``BlockingIOError`` if another server does not let go of it, ``FileNotFoundError``
        unless there is one, or it is to be made.
        """
        descriptor = self._open(directory, make=make)
        try:
            if not take_within(config.COUNTER_PATIENCE, descriptor):
                raise BlockingIOError(errno.EAGAIN, "another server counts the directory")
            account = Account(self, directory, descriptor)
            try:
                yield account
            finally:
                account.write()
        finally:
            os.close(descriptor)

    def _open(self, directory: str, *, make: bool) -> int:
        if make:
            self._folder.mkdir(exist_ok=True, mode=0o700)
        name = hashlib.sha256(directory.encode()).hexdigest()[:24]
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        return os.open(self._folder / name, flags, 0o600)

    @contextlib.contextmanager
    def publishing(self, facts: Facts, stem: str) -> Iterator[None]:
        """Have a file count as published that gets its name within this, where a quota counts it.

        Otherwise, and where another server does not let go of the counter, it is counted with the
        directory.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                account = stack.enter_context(self.open(facts.directory, make=False))
                stack.enter_context(account.publishing(stem, facts.counts))
            yield

    def release(self, directory: str, stem: str) -> None:
        """Count an unfinished file no more, which is gone; at the latest when a quota is full."""
        with contextlib.suppress(OSError), self.open(directory, make=False) as account:
            account.parts.pop(stem, None)

    # -- what the disk says

    def changed(self, directory: str) -> int:
        """Return when a directory was changed, in nanoseconds; 0 if there is none.

        To open it has a network file system look, which otherwise answers from memory.
        """
        try:
            with open_directory(self._output / native(directory)) as folder:
                return os.fstat(folder).st_mtime_ns
        except FileNotFoundError:
            return 0

    def may_count(self, directory: str, *, same: bool, surely: bool) -> bool:
        """Return whether to count a directory again, the ``same`` as it was or not.

        That takes some of the time, not all of it.
        """
        counted_at, took, trees = self._counted.get(directory, (-math.inf, 0.0, False))
        same &= not (surely and trees)  # what changes in these does not change the directory
        seldom = took if surely else config.COUNT_SELDOM * took
        return time.monotonic() >= counted_at + (config.COUNT_AGAIN if same else seldom)

    def published(self, directory: str) -> int:
        """Count the published files of a directory."""
        began = time.monotonic()
        total, trees = used_bytes(self._output / native(directory))
        self._counted[directory] = began, time.monotonic() - began, trees
        return total

    def unfinished(self, directory: str) -> dict[str, int]:
        """Return what each unfinished file of a directory counts, by the stem of its part file."""
        found = {}
        for stem in self._stems(".journal"):
            with contextlib.suppress(OSError, ValueError):
                facts = self._journal(stem).facts()
                if facts.directory == directory and not self._is_published(stem, facts):
                    found[stem] = facts.counts
        return found

    def still_unfinished(self, directory: str, parts: dict[str, int]) -> dict[str, int]:
        """Return those of ``parts`` that are there, and not published."""
        there = self._stems(".part", ".tree")
        return {
            stem: size
            for stem, size in parts.items()
            if stem in there and self._counts(stem, directory)
        }

    def _counts(self, stem: str, directory: str) -> bool:
        """Return whether a part file counts as unfinished; one of unknown size has no journal."""
        try:
            facts = self._journal(stem).facts()
            return facts.directory == directory and not self._is_published(stem, facts)
        except (OSError, ValueError):
            return True

    def _is_published(self, stem: str, facts: Facts) -> bool:
        if self._journal(stem).says_published(facts):
            return True
        final = self._output / native(facts.place)
        if facts.is_tree:  # no other has this name, and it has it only then
            return os.path.lexists(final)
        part = os.stat(self._folder.parent / f"{stem}.part", follow_symlinks=False)
        return names_file(final, part)

    def _journal(self, stem: str) -> Journal:
        return Journal(self._folder.parent / f"{stem}.journal")

    def _stems(self, *suffixes: str) -> set[str]:
        names = map(os.path.splitext, os.listdir(self._folder.parent))
        return {stem for stem, ending in names if ending in suffixes}
