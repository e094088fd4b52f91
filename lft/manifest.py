"""The manifest of a directory that is sent: what is in it, and where in the whole each file lies.

Both sides hold it in this form, and both check it by the rules that stand here.
"""

from __future__ import annotations

import enum
import json
from array import array
from bisect import bisect_right
from typing import Iterable, Iterator, NamedTuple

import config
from lft.fields import Raw
from lft.terminal import is_hidden, printable
from protocol import FIRST_TIME, LAST_TIME, MAX_CONTROL_FRAME, MAX_FILE_SIZE, ManifestPart

_FRAME_ROOM = MAX_CONTROL_FRAME - 64  # bytes of a MANIFEST for its entries
_NUMBERS = 64  # bytes, at most, of all that an entry of a file has beside its path
_SHOWN = 80  # characters of a path that a refusal names


class Kind(enum.Enum):
    """What an entry is; the value is what the wire calls it."""

    FILE = "f"
    DIRECTORY = "d"
    LINK = "l"


_FILE, _DIRECTORY = ord(Kind.FILE.value), ord(Kind.DIRECTORY.value)


class Entry(NamedTuple):
    """One file, directory or symbolic link below the directory that is sent."""

    kind: Kind
    path: str  # below the directory, with "/" between its components
    size: int = 0  # bytes of a file
    mode: int = 0  # permission bits of a file or directory
    mtime: int = 0  # nanoseconds since 1970
    target: str = ""  # of a link

    @property
    def raw(self) -> Raw:
        """The entry as it is on the wire."""
        if self.kind is Kind.FILE:
            return "f", self.path, self.size, self.mode, self.mtime
        if self.kind is Kind.DIRECTORY:
            return "d", self.path, self.mode, self.mtime
        return "l", self.path, self.target, self.mtime


def entry_of(raw: Raw) -> Entry:
    """Return the entry that the wire brought; ``ManifestPart`` has seen to its shape."""
    kind = Kind(raw[0])
    if kind is Kind.FILE:
        return Entry(kind, *raw[1:])
    if kind is Kind.DIRECTORY:
        return Entry(kind, raw[1], 0, *raw[2:])
    return Entry(kind, raw[1], target=raw[2], mtime=raw[3])


class Segment(NamedTuple):
    """A stretch of one file, as a stretch of the whole tree falls into them."""

    entry: int  # of the file, its index in the manifest
    offset: int  # in the file
    length: int


class Manifest:
    """The entries of a directory, in the order of their paths as bytes, without the directory.

    Its files, in this order, are one virtual file, which is cut into blocks like any other. An
    entry is checked when it is added, so a manifest is right as far as it goes: every parent is a
    directory of it, and so nothing lies below a file or a link. Kept as columns: an entry takes
    about 75 bytes beside its path. Not changed any more once it is complete; then any thread may
    read it.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Take all ``entries``. Raises ``ValueError`` as ``add`` does."""
        self.size = 0  # bytes of all files
        self.weight = 0  # bytes of all paths and targets
        self._paths: list[bytes] = []
        self._kinds = bytearray()
        self._modes = array("H")
        self._mtimes = array("q")
        self._targets: dict[int, str] = {}  # of each link
        self._files = array("l")  # the entry of each file ...
        self._starts = array("q")  # ... and where it begins in the tree
        self._directories: set[bytes] = set()
        for entry in entries:
            self.add(entry)

    def __repr__(self) -> str:
        return f"<Manifest of {len(self)} entries, {len(self._files)} files, {self.size} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Manifest):
            return NotImplemented
        columns = "_paths", "_kinds", "_modes", "_mtimes", "_targets", "_starts", "size"
        return all(getattr(self, name) == getattr(other, name) for name in columns)

    __hash__ = None  # type: ignore[assignment]  # it is told apart by what is in it

    # -- making

    def add(self, entry: Entry) -> None:
        """Add the next entry. Raises ``ValueError`` with one line that names it if it cannot be."""
        try:
            path = check_path(entry.path)
            self._check_place(path)
            self._check_values(entry)
        except ValueError as error:
            raise ValueError(f"{printable(entry.path[:_SHOWN])!r}: {error}") from None
        self._append(path, entry)

    def _check_place(self, path: bytes) -> None:
        if self._paths and path <= self._paths[-1]:
            again = path == self._paths[-1]
            raise ValueError("it is there twice" if again else "it is out of order")
        parent = path.rpartition(b"/")[0]
        if parent and parent not in self._directories:
            raise ValueError("what it is in is no directory of this tree")

    def _check_values(self, entry: Entry) -> None:
        if not (0 <= entry.mode <= 0o777 and FIRST_TIME <= entry.mtime <= LAST_TIME):
            raise ValueError("such permission bits, or such a time, there cannot be")
        if entry.size < 0 or entry.size > MAX_FILE_SIZE - self.size:
            raise ValueError("the files are larger together than a file can be")
        if entry.kind is Kind.LINK:
            check_target(entry.path, entry.target)
        if len(self) >= config.MAX_TREE_ENTRIES:
            raise ValueError(f"more than {config.MAX_TREE_ENTRIES:,} entries")
        if self.weight > config.MAX_MANIFEST_BYTES:
            raise ValueError(f"the names have more than {config.MAX_MANIFEST_BYTES:,} bytes")

    def _append(self, path: bytes, entry: Entry) -> None:
        index = len(self._paths)
        self.weight += len(path) + len(entry.target)
        self._paths.append(path)
        self._kinds += entry.kind.value.encode()
        self._modes.append(entry.mode)
        self._mtimes.append(entry.mtime)
        if entry.kind is Kind.FILE:
            self._files.append(index)
            self._starts.append(self.size)
            self.size += entry.size
        elif entry.kind is Kind.DIRECTORY:
            self._directories.add(path)
        else:
            self._targets[index] = entry.target

    # -- reading

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Entry:
        """Return one entry, with its size looked up among those of the files."""
        kind, path = self.kind(index), self._paths[index].decode()
        if kind is Kind.LINK:
            return Entry(kind, path, mtime=self._mtimes[index], target=self._targets[index])
        size = self.size_of(index) if kind is Kind.FILE else 0
        return Entry(kind, path, size, self._modes[index], self._mtimes[index])

    def __iter__(self) -> Iterator[Entry]:
        """Give all entries: in half the time that it takes to ask for each."""
        number = 0
        columns = zip(self._paths, self._kinds, self._modes, self._mtimes)
        for index, (path, kind, mode, mtime) in enumerate(columns):
            if kind == _FILE:
                yield Entry(Kind.FILE, path.decode(), self.length(number), mode, mtime)
                number += 1
            elif kind == _DIRECTORY:
                yield Entry(Kind.DIRECTORY, path.decode(), 0, mode, mtime)
            else:
                yield self[index]

    @property
    def files(self) -> int:
        """How many files there are."""
        return len(self._files)

    def path(self, index: int) -> bytes:
        """Return the path of an entry as UTF-8: what the functions of ``os`` take as well."""
        return self._paths[index]

    def of_kind(self, kind: Kind) -> Iterator[int]:
        """Give the indexes of all entries of one kind, in order."""
        if kind is Kind.FILE:
            return iter(self._files)
        wanted = ord(kind.value)
        return (index for index, value in enumerate(self._kinds) if value == wanted)

    def mtime(self, index: int) -> int:
        """Return the time of an entry."""
        return self._mtimes[index]

    def mode(self, index: int) -> int:
        """Return the permission bits of an entry."""
        return self._modes[index]

    def kind(self, index: int) -> Kind:
        """Return what an entry is."""
        return Kind(chr(self._kinds[index]))

    def find(self, path: bytes) -> int | None:
        """Return the index of the entry with this path, ``None`` if there is none."""
        at = bisect_right(self._paths, path) - 1
        return at if at >= 0 and self._paths[at] == path else None

    # -- the files as one

    def file(self, number: int) -> int:
        """Return the entry of file ``number``, counted among the files alone."""
        return self._files[number]

    def number_of(self, index: int) -> int:
        """Return which file it is, counted among the files alone, that has this entry."""
        return bisect_right(self._files, index) - 1

    def length(self, number: int) -> int:
        """Return the bytes of file ``number``."""
        starts, after = self._starts, number + 1  # short: asked for several times a file
        return (starts[after] if after < len(starts) else self.size) - starts[number]

    def start(self, number: int) -> int:
        """Return where file ``number`` begins in the tree; behind the last one the tree ends."""
        return self._starts[number] if number < len(self._starts) else self.size

    def size_of(self, index: int) -> int:
        """Return the bytes of the file that has this entry."""
        return self.length(self.number_of(index))

    def files_in(self, size: int) -> int:
        """Return how many files are complete with the first ``size`` bytes of the tree."""
        return self.files if size >= self.size else bisect_right(self._starts, size) - 1

    def segments(self, offset: int, length: int) -> Iterable[Segment]:
        """Return the stretches of files that ``length`` bytes of the tree from ``offset`` are."""
        number, end = bisect_right(self._starts, offset) - 1, min(offset + length, self.size)
        begins = self._starts[number] if self._starts else 0
        if offset < end <= begins + self.length(number):
            return (Segment(self._files[number], offset - begins, end - offset),)
        return self._stretches(number, offset, end)

    def _stretches(self, number: int, offset: int, end: int) -> Iterator[Segment]:
        while offset < end:
            here = min(self.start(number + 1), end) - offset
            if here:  # an empty file has no bytes anywhere
                yield Segment(self._files[number], offset - self._starts[number], here)
            offset += here
            number += 1


# --- the rules of names -------------------------------------------------------------------------


def check_path(path: str) -> bytes:
    """Return ``path`` as UTF-8. Raises ``ValueError`` that says why a tree cannot have it.

    Nothing is changed to make it harmless: the proof of a directory is about names, too.
    """
    if _hides(path):
        raise ValueError("the name has characters that a terminal hides or obeys")
    encoded = path.encode()
    if not 0 < len(encoded) <= config.MAX_PATH_BYTES:
        raise ValueError(f"a path has 1 to {config.MAX_PATH_BYTES:,} bytes")
    parts = encoded.split(b"/")
    if len(parts) > config.MAX_DEPTH:
        raise ValueError(f"it lies deeper than {config.MAX_DEPTH} directories")
    for part in parts:
        if part in (b"", b".", b"..") or len(part) > config.MAX_COMPONENT_BYTES:
            raise ValueError("a part of its path is no name of a file")
    return encoded


def check_target(path: str, target: str) -> None:
    """Raise ``ValueError`` unless the link at ``path`` leads to a place in its own tree.

    What is ``..`` must stand first: behind the name of another link it would lead from there.
    """
    if _hides(target) or not 0 < len(target.encode()) <= config.MAX_PATH_BYTES:
        raise ValueError("a link to no path that there can be")
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or ups > path.count("/") or ".." in parts[ups:]:
        raise ValueError("a link that leads out of the tree")


def _hides(text: str) -> bool:
    """Return whether a character is hidden; most texts are told apart by one call."""
    return not text.isprintable() and any(map(is_hidden, text))


# --- the wire -----------------------------------------------------------------------------------


def _length_of(raw: Raw) -> int:
    """Return how many bytes an entry takes in a frame, at most: exactly only where it must be."""
    path = raw[1]
    if raw[0] != Kind.LINK.value and path.isascii() and '"' not in path and "\\" not in path:
        return len(path) + _NUMBERS
    return len(json.dumps(raw)) + 2


def parts_of(manifest: Iterable[Entry], first_time: int = FIRST_TIME) -> Iterator[ManifestPart]:
    """Give the messages that announce the entries, as many in each as a frame holds.

    Times before ``first_time`` become that.
    """
    some: list[Raw] = []
    room = _FRAME_ROOM
    for entry in manifest:
        raw = entry.raw if entry.mtime >= first_time else entry._replace(mtime=first_time).raw
        length = _length_of(raw)
        if length > room:
            yield ManifestPart(tuple(some))
            some, room = [], _FRAME_ROOM
        some.append(raw)
        room -= length
    if some:
        yield ManifestPart(tuple(some))
