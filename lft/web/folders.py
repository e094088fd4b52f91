"""The files of the output directory: listed and opened by descriptors, never through a link."""

from __future__ import annotations

import base64
import contextlib
import errno
import heapq
import itertools
import json
import os
import re
import stat
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Set, Tuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO is not waited for
_SHOWN = re.compile(r"(?!\.)[^/\x00-\x1f\x7f\ud800-\udfff]+")
MOST_PARTS = 130  # of a path: a directory has up to 128 levels (protocol), and stands in one
MOST_LISTED = 1000  # entries of one page


class AbsentError(Exception):
    """There is no such file or directory, or not for this user: the answer is the same."""


def split_path(path: str) -> tuple[str, ...]:
    """Return the parts of a decoded path below the output directory.

    Raises ``AbsentError`` for one that could lead elsewhere, or to what is not shown: names with a
    dot first are the server's own (``.partial``), or nobody's business.
    """
    parts = tuple(path.split("/")) if path else ()
    if len(parts) > MOST_PARTS or not all(map(is_shown, parts)):
        raise AbsentError
    return parts


def is_shown(name: str) -> bool:
    """Return whether a name is one of a file that may be listed and fetched.

    It is one that a URL can say: UTF-8 without control characters, as all names are that the server
    gives.
    """
    return _SHOWN.fullmatch(name) is not None


def is_within(parts: Sequence[str], directory: Sequence[str]) -> bool:
    """Return whether a path is ``directory`` or below it, part by part: /ann is not /annex."""
    return tuple(parts[: len(directory)]) == tuple(directory)


@contextlib.contextmanager
def open_folder(root: int, parts: Sequence[str]) -> Iterator[int]:
    """Open a directory below the open directory ``root``. Raises ``AbsentError``, ``OSError``.

    Each part is opened from the one before it, and none may be a link: so nothing that another
    program puts into the way meanwhile leads out.
    """
    descriptor = os.dup(root)
    try:
        for part in parts:
            inner = _open(part, _FOLDER, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(root: int, parts: Sequence[str]) -> tuple[int, os.stat_result]:
    """Open a regular file below ``root``; return its descriptor, which is the caller's to close.

    Raises ``AbsentError``, ``OSError``.
    """
    if not parts:
        raise AbsentError
    with open_folder(root, parts[:-1]) as folder:
        descriptor = _open(parts[-1], _FILE, folder)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise AbsentError
    return descriptor, facts


_ABSENT = (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError)
_NO_SUCH = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO, errno.EILSEQ)


def _open(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except (*_ABSENT, ValueError):  # ValueError: a NUL, or what the file system cannot say
        raise AbsentError from None
    except OSError as error:
        if error.errno in _NO_SUCH:
            raise AbsentError from None
        raise


# --- listing ------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One file or directory, as the disk has it."""

    name: str
    is_folder: bool
    size: int
    modified: int  # nanoseconds since 1970


_TOGETHER = 500  # names that are judged together
Wanted = Callable[[List[str]], Set[str]]
Place = Tuple[Any, ...]  # where an entry stands in an order; its name comes last
ORDERS: dict[str, Callable[[os.DirEntry[str]], Place]] = {
    "name": lambda one: (one.name,),
    "size": lambda one: (_size(one), one.name),
    "time": lambda one: (one.stat(follow_symlinks=False).st_mtime_ns, one.name),
}


def _size(one: os.DirEntry[str]) -> int:
    is_folder = one.is_dir(follow_symlinks=False)
    return 0 if is_folder else one.stat(follow_symlinks=False).st_size


class Order(NamedTuple):
    """How a listing is sorted."""

    key: str = "name"
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> Order:
        """Read ``time``, or ``-time`` for the newest first. Raises ``ValueError``."""
        order = cls(text.lstrip("-"), text.startswith("-"))
        if order.key not in ORDERS or text not in (order.key, f"-{order.key}"):
            raise ValueError(f"sort must be one of {', '.join(ORDERS)}, with - for the reverse")
        return order


class Page(NamedTuple):
    """Some entries of a directory in order, and how to ask for those behind them."""

    entries: list[Entry]
    next: str | None


def list_page(
    folder: int, after: str, limit: int, order: Order, wanted: Wanted | None = None
) -> Page:
    """Return up to ``limit`` entries of an open directory that come behind ``after``.

    ``after`` is the ``next`` of the page before it, or empty. What is neither a regular file nor a
    directory is left out, links among it. ``wanted`` says which of some names may be listed, all
    if there is none. Raises ``ValueError`` for an ``after`` that is none.
    """
    start, down = _parse_cursor(after, order), order.descending
    places = _places(folder, order)
    if start:
        places = (one for one in places if (one < start if down else one > start))
    if wanted is None:
        found = (heapq.nlargest if down else heapq.nsmallest)(limit + 1, places)
    else:
        found = list(itertools.islice(_judged(sorted(places, reverse=down), wanted), limit + 1))
    page = found[:limit]
    further = cursor(page[-1]) if len(found) > limit else None
    return Page([one for one in (_look(folder, place[-1]) for place in page) if one], further)


def _places(folder: int, order: Order) -> Iterator[Place]:
    """Give where each entry stands that may be shown."""
    place = ORDERS[order.key]
    with os.scandir(folder) as listed:
        for one in listed:
            if is_shown(one.name):
                shown = one.is_file(follow_symlinks=False) or one.is_dir(follow_symlinks=False)
                with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                    if shown:
                        yield place(one)


def _judged(places: Sequence[Place], wanted: Wanted) -> Iterator[Place]:
    """Give those of ``places`` whose names are wanted."""
    for start in range(0, len(places), _TOGETHER):
        some = places[start : start + _TOGETHER]
        names = wanted([place[-1] for place in some])
        yield from (place for place in some if place[-1] in names)


def _look(folder: int, name: str) -> Entry | None:
    """Look at a file's size and time; ``None`` for one that has gone meanwhile."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    is_folder = stat.S_ISDIR(facts.st_mode)
    return Entry(name, is_folder, 0 if is_folder else facts.st_size, facts.st_mtime_ns)


def cursor(place: Place) -> str:
    """Return what names the place of an entry, in letters that a URL may have."""
    text = json.dumps(place, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _parse_cursor(after: str, order: Order) -> Place | None:
    """Read a cursor. Raises ``ValueError``."""
    if not after:
        return None
    try:
        padded = after.encode("ascii") + b"=" * (-len(after) % 4)
        place = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, TypeError, RecursionError):
        raise ValueError("after must be the next of the page before it") from None
    types = [str] if order.key == "name" else [int, str]
    if not isinstance(place, list) or [type(value) for value in place] != types:
        raise ValueError("after must be the next of a page in the same order")
    return tuple(place)
