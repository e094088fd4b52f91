"""What is in a directory that is to be sent: a walk through it, before a byte is read."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from pathlib import Path
from typing import Sequence

import config
from lft.client.exclusion import Exclusion
from lft.client.inventory import Reasons, note
from lft.client.source import time_of
from lft.manifest import Entry, Kind, Manifest, check_path, check_target

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STRANGE = {
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_SHORT = 200  # characters of a path that cannot be too long, nor can its last part
_OUTSIDE = "outside link"
_BAD_NAME = "bad name"
_FALSE = "virtual file"


class TooLargeError(Exception):
    """A directory has more than can be announced."""


class Walk:
    """Looks at all that is in a directory, without following a link. One thread's own.

    ``left_out`` has what a directory on the server cannot have, ``unreadable`` what we may not
    read, each by its reason; what vanishes meanwhile was never there.
    """

    def __init__(self, directory: int, exclusion: Exclusion) -> None:
        """Walk through an open directory. Raises ``TooLargeError``."""
        self.left_out: Reasons = {}
        self.unreadable: Reasons = {}
        self.excluded = 0  # entries, without what is in them
        self._exclusion = exclusion
        self._found: list[tuple[Entry, os.stat_result]] = []
        self._hides_sizes: dict[int, bool] = {}  # by device
        self._enter(directory, "")
        self._found.sort(key=lambda one: one[0].path)  # as the bytes of UTF-8 would be sorted
        try:
            self.manifest = Manifest(entry for entry, _ in self._found)
        except ValueError as error:
            raise TooLargeError(str(error)) from None
        self._inodes = array("Q", [facts.st_ino for _, facts in self._found])
        self._sizes = array("q", [facts.st_size for _, facts in self._found])
        self._times = array("q", [entry.mtime for entry, _ in self._found])
        del self._found

    def change_of(self, index: int, facts: os.stat_result) -> str:
        """Say what happened to an entry, of which these are the facts now; "" for nothing."""
        if facts.st_ino != self._inodes[index]:
            return "replaced"
        if time_of(facts) == self._times[index] and facts.st_size == self._sizes[index]:
            return ""
        return "" if stat.S_ISDIR(facts.st_mode) else "changed"  # what is in it is looked at, too

    def _enter(self, directory: int, prefix: str) -> None:
        """Note all that is in an open directory, and below; ``prefix`` is its path and a slash."""
        with os.scandir(directory) as found:
            entries = list(found)
        for one in entries:
            try:
                self._take(directory, prefix + one.name, one)
            except FileNotFoundError:
                continue
            except OSError as error:
                note(self.unreadable, error.strerror or str(error), prefix + one.name)
        if len(self._found) > config.MAX_TREE_ENTRIES:  # stop while there is memory
            raise TooLargeError(f"more than {config.MAX_TREE_ENTRIES:,} entries")

    def _take(self, directory: int, path: str, one: os.DirEntry[str]) -> None:
        facts = one.stat(follow_symlinks=False)
        kind = stat.S_IFMT(facts.st_mode)
        if self._exclusion.covers(path, directory=kind == stat.S_IFDIR):
            self.excluded += 1
            return
        if not _is_sendable(path, one.name):
            note(self.left_out, _BAD_NAME, path)
            return
        if kind == stat.S_IFREG:
            self._take_file(directory, path, facts)
        elif kind == stat.S_IFDIR:
            self._take_directory(directory, path, facts)
        elif kind == stat.S_IFLNK:
            self._take_link(directory, path, facts)
        else:
            note(self.left_out, _STRANGE.get(kind, "thing of no known kind"), path)

    def _take_file(self, directory: int, path: str, facts: os.stat_result) -> None:
        if not facts.st_size and self._may_hide_sizes(directory, facts):
            note(self.left_out, _FALSE, path)
        elif not _may_read(directory, path, facts):
            note(self.unreadable, os.strerror(errno.EACCES), path)
        else:
            self._add(Kind.FILE, path, facts, facts.st_size)

    def _take_directory(self, directory: int, path: str, facts: os.stat_result) -> None:
        name = path.rpartition("/")[2]
        below = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            self._add(Kind.DIRECTORY, path, facts)
            self._enter(below, f"{path}/")
        finally:
            os.close(below)

    def _take_link(self, directory: int, path: str, facts: os.stat_result) -> None:
        target = os.readlink(path.rpartition("/")[2], dir_fd=directory)
        try:
            check_target(path, target)
        except ValueError:
            note(self.left_out, _OUTSIDE, path)
            return
        entry = Entry(Kind.LINK, path, mtime=time_of(facts), target=target)
        self._found.append((entry, facts))

    def _add(self, kind: Kind, path: str, facts: os.stat_result, size: int = 0) -> None:
        entry = Entry(kind, path, size, facts.st_mode & 0o777, time_of(facts))
        self._found.append((entry, facts))

    def _may_hide_sizes(self, directory: int, facts: os.stat_result) -> bool:
        """Return whether a file on this device may have bytes although it has no size.

        Those of /proc and /sys do; such a file system has no blocks.
        """
        device = facts.st_dev
        if device not in self._hides_sizes:
            self._hides_sizes[device] = not os.fstatvfs(directory).f_blocks
        return self._hides_sizes[device]


def _is_sendable(path: str, name: str) -> bool:
    """Return whether a manifest takes ``path``, of which all except the last ``name`` is in it."""
    if name.isascii() and name.isprintable() and len(path) <= _SHORT:  # nearly all of them
        return path.count("/") < config.MAX_DEPTH
    try:
        check_path(path)
    except ValueError:
        return False
    return True


def size_up(path: Path, patterns: Sequence[str]) -> tuple[int, int]:
    """Return how many bytes and files a directory has. Raises ``OSError``."""
    descriptor = os.open(path, DIRECTORY)
    try:
        manifest = Walk(descriptor, Exclusion(patterns)).manifest
    except TooLargeError:
        return 0, 0  # it is not sent
    finally:
        os.close(descriptor)
    return manifest.size, manifest.files


def _may_read(directory: int, path: str, facts: os.stat_result) -> bool:
    """Return whether we may read a file; the system is asked only where its bits leave a doubt."""
    if facts.st_mode & 0o444 == 0o444 or not os.geteuid():
        return True
    name, as_effective = path.rpartition("/")[2], os.access in os.supports_effective_ids
    return os.access(name, os.R_OK, dir_fd=directory, effective_ids=as_effective)
