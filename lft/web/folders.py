"""The files of the output directory: listed and opened by descriptors, never through a link."""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import json
import os
import re
import stat
import time
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


STEP = 0.004  # seconds of a step: so long others may have to wait for the worker
_TOGETHER = 100  # entries between two looks at the clock
_JUDGED_TOGETHER = 500  # names that the history is asked about at once
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


class Listing:
    """Finds a page of a directory, a short step at a time, however many entries that has.

    The page has up to ``limit`` entries that come behind ``after``, which is the ``next`` of the
    page before it, or empty. What is neither a regular file nor a directory is left out, links
    among it. ``wanted`` says which of some names may be listed, all if there is none. What it keeps
    is of the size of a page.
    """

    def __init__(
        self, folder: int, after: str, limit: int, order: Order, wanted: Wanted | None = None
    ) -> None:
        """List the open directory ``folder``, which is the caller's to close, after this.

        Raises ``ValueError`` for an ``after`` that is none, ``OSError``.
        """
        self._start = _parse_cursor(after, order)
        self._folder = folder
        self._limit = limit
        self._order = order
        self._wanted = wanted
        self._best: list[Place] = []  # in order: the page so far, and one more
        self._found: list[Place] = []  # perhaps of the page
        self._listed = os.scandir(folder)

    def go_on(self) -> Page | None:
        """Look at some more entries; return the page once that were all. Raises ``OSError``."""
        until = time.monotonic() + STEP
        while time.monotonic() < until:
            some = list(itertools.islice(self._listed, _TOGETHER))
            self._found += filter(self._may_be_of_page, self._places(some))
            if len(self._found) >= _JUDGED_TOGETHER or len(some) < _TOGETHER:
                self._judge()
            if len(some) < _TOGETHER:
                return self._page()
        return None

    def _places(self, some: Sequence[os.DirEntry[str]]) -> Iterator[Place]:
        """Give where each of ``some`` stands that may be shown."""
        place = ORDERS[self._order.key]
        for one in some:
            if is_shown(one.name):
                shown = one.is_file(follow_symlinks=False) or one.is_dir(follow_symlinks=False)
                with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                    if shown:
                        yield place(one)

    def _may_be_of_page(self, place: Place) -> bool:
        """Return whether a place is behind the start, and before the end as far as known."""
        full = len(self._best) > self._limit
        if self._order.descending:
            inside = not self._start or place < self._start
            return inside and not (full and place < self._best[-1])
        inside = not self._start or place > self._start
        return inside and not (full and place > self._best[-1])

    def _judge(self) -> None:
        """Take those that were found and are wanted, as far as they fit."""
        found, self._found = self._found, []
        if self._wanted and found:
            names = self._wanted([place[-1] for place in found])
            found = [place for place in found if place[-1] in names]
        best = sorted(self._best + found, reverse=self._order.descending)
        self._best = best[: self._limit + 1]

    def _page(self) -> Page:
        page = self._best[: self._limit]
        further = cursor(page[-1]) if len(self._best) > self._limit else None
        looked = (_look(self._folder, place[-1]) for place in page)
        return Page([one for one in looked if one], further)

    def close(self) -> None:
        """Let the directory go."""
        self._listed.close()


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
