"""What is published already: found again, to be proven the same as what a client has."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import logging
import os
import stat
from pathlib import Path
from typing import Callable, Iterable, Iterator, Sequence

from lft.files import open_directory, read_full
from lft.manifest import Kind
from lft.store.history import Outcome
from lft.store.journal import OUR_NAME, Claims, Facts, NoJournal
from lft.store.part import Part, StaleError
from lft.store.partfile import PartFile
from lft.store.paths import names_file, native, open_regular, reason_of
from lft.store.treeroot import TreeRoot
from lft.store.trees import PartTree

log = logging.getLogger("server")

Published = Callable[[str, str], Sequence[Outcome]]  # of a user, by a name: the newest first


class Catalog:
    """Finds what was published for a user under a name (a worker).

    The history says where that was. What stands there by now is only read: its digests tell
    whether it is still that, and the same as what the client has. Of the newest ten, the first is
    compared whole that has the size and the first block of a file, or the entries of a directory.
    """

    def __init__(self, output: Path, published: Published) -> None:
        self._output = output
        self._published = published

    def find(self, facts: Facts) -> tuple[Part, Claims] | None:
        """Open the newest that may be the same as ``facts``; all of it is claimed to be."""
        for name in self._names(facts):
            wanted = facts._replace(saved_as=name, mode=None, mtime=None)
            kind = FoundTree if facts.is_tree else FoundFile
            part: Found = kind(self._output, wanted)
            try:
                part.open()
            except (OSError, ValueError) as error:
                log.debug("%s is not what %s announces: %s", name, facts.user, reason_of(error))
                part.close()
            else:
                return part, _all_of(wanted)
        return None

    def _names(self, facts: Facts) -> Iterator[str]:
        """Give the names in the user's directory that the history knows."""
        folder = f"{facts.directory}/" if facts.directory else ""
        for outcome in self._published(facts.user, facts.name):
            name = outcome.saved_as[len(folder) :]
            ours = outcome.saved_as.startswith(folder) and OUR_NAME.fullmatch(name)
            if ours and outcome.size == facts.size:
                yield name


def _all_of(facts: Facts) -> Claims:
    claims = Claims(facts.blocks.count, facts.digest_size)
    claims.flags[:] = b"\1" * len(claims.flags)
    return claims


class Found(Part):
    """What an earlier transfer has published. Nothing of it is written, removed or renamed."""

    found = True

    def __init__(self, output: Path, facts: Facts) -> None:
        """Stand for what ``facts`` name, which ``open`` opens."""
        super().__init__(output, "found", facts)
        self.published = True
        self._journal = NoJournal(self._final)
        self._first_seen: int | None = None  # its state, before it was compared

    def open(self) -> None:
        """Open it. Raises ``OSError``, and ``ValueError`` where it is something else."""
        self._open()
        self._first_seen = self._state()
        if self._first_seen is None:
            raise ValueError("something else is there")

    @abc.abstractmethod
    def _open(self) -> None:
        """Open it, or raise as ``open``."""

    @abc.abstractmethod
    def _state(self) -> int | None:
        """Return a number that any change makes another one, ``None`` for something else."""

    @property
    @abc.abstractmethod
    def _descriptor(self) -> int:
        """What it is open as."""

    def publish(self) -> str:
        """Return the name that it has.

        Raises ``StaleError`` if it has another one by now, or was changed while it was compared.
        """
        same = self._state() == self._first_seen
        if not same or not names_file(self._final, os.fstat(self._descriptor)):
            raise StaleError
        return self.facts.place

    def remove(self) -> None:
        """Close it; it stays."""
        self.close()


class FoundFile(Found, PartFile):
    """A published file."""

    def _open(self) -> None:
        """Open it. Raises ``ValueError`` where its first block is another one, too."""
        with open_directory(self._final.parent) as folder:
            self._fd = open_regular(native(self.facts.saved_as), os.O_RDONLY, folder)
        first = memoryview(bytearray(min(self.facts.block_size, self.facts.size)))
        read_full(self._fd, first, 0)
        if hashlib.new(self.facts.digest, first).hexdigest() != self.facts.head:
            raise ValueError("it begins with other bytes")

    def _state(self) -> int | None:
        facts = os.fstat(self._fd)
        same = stat.S_ISREG(facts.st_mode) and facts.st_size == self.facts.size
        return facts.st_mtime_ns if same else None

    @property
    def _descriptor(self) -> int:
        return self._fd

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``StaleError`` where that cannot be."""
        with _stale_if_lost():
            super().read(view, offset)


class FoundTree(Found, PartTree):
    """A published directory."""

    def _open(self) -> None:
        self._open_as(self.facts)

    def _state(self) -> int | None:
        return _state_of(self._root)

    @property
    def _descriptor(self) -> int:
        return self._root.descriptor

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``StaleError`` where that cannot be."""
        with _stale_if_lost():
            super().read(view, offset)

    def finish(self, _sums: Iterable[bytes]) -> None:
        """Leave bits, times and links as they are."""
        self._bytes.close()


@contextlib.contextmanager
def _stale_if_lost() -> Iterator[None]:
    """Raise ``StaleError`` where the disk does not give what was there: then it is sent."""
    try:
        yield
    except OSError as error:
        raise StaleError from error


def _state_of(root: TreeRoot) -> int | None:
    """Return a number that a change of any entry makes another one.

    There is none unless a directory has just what its manifest says, by names, kinds and sizes.
    """
    manifest, seen, state = root.manifest, 0, 0
    for folder in (b"", *map(manifest.path, manifest.of_kind(Kind.DIRECTORY))):
        for name, facts in root.scan(folder):
            index = manifest.find(b"/".join((folder, name)) if folder else name)
            if index is None or not _is_as_told(root, index, facts):
                return None
            seen += 1
            state += hash((index, facts.st_ino, facts.st_mtime_ns))
    return state if seen == len(manifest) else None


def _is_as_told(root: TreeRoot, index: int, facts: os.stat_result) -> bool:
    kind = root.manifest.kind(index)
    if kind is Kind.DIRECTORY:
        return stat.S_ISDIR(facts.st_mode)
    if kind is Kind.LINK:
        target = root.manifest[index].target.encode()
        path = root.manifest.path(index)
        return stat.S_ISLNK(facts.st_mode) and os.readlink(path, dir_fd=root.descriptor) == target
    same = stat.S_ISREG(facts.st_mode) and facts.st_size == root.manifest.size_of(index)
    return same and os.access(root.manifest.path(index), os.R_OK, dir_fd=root.descriptor)
