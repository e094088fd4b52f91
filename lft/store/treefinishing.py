"""What a tree gets when all of its bytes are there: links, bits, times and sums, on the disk."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import logging
import os
import stat
from pathlib import Path
from typing import Iterable

from lft.files import flush_descriptor
from lft.manifest import Kind
from lft.store.attributes import allowed_bits
from lft.store.journal import Facts
from lft.store.partfile import NO_LINKS
from lft.store.paths import UNSUPPORTED, names_file, reason_of
from lft.store.treeroot import TreeRoot

log = logging.getLogger("server")

_NO_BITS = (*UNSUPPORTED, errno.EPERM)  # what a file system says that has no such bits or times
# A directory that its owner cannot read would hide its bytes from a quota.
_LEAST_BITS = stat.S_IRUSR | stat.S_IXUSR


def check_sizes(root: TreeRoot) -> None:
    """Raise ``OSError`` where another program has taken or changed a file."""
    for index in root.manifest.of_kind(Kind.FILE):
        if root.size(index) != root.manifest.size_of(index):
            raise OSError(errno.EIO, "another program has changed a file of the tree")


def write_sums(path: Path, sums: Iterable[bytes], mode: str = "wb") -> None:
    """Write the sums of a tree, also to the disk. Raises ``OSError``."""
    with open(path, mode) as file:
        file.writelines(sums)
        file.flush()
        os.fsync(file.fileno())


def name_sums(ours: Path, public: Path) -> None:
    """Give the sums their final name, beside the tree.

    Raises ``FileExistsError`` where it is another file's, otherwise ``OSError``.
    """
    try:
        os.link(ours, public)
    except FileExistsError:  # ours, if a network file system did twice what it was asked once
        if not names_file(public, os.stat(ours)):
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(ours, "rb") as source:
            write_sums(public, source, mode="xb")


def take_sums_back(ours: Path, public: Path) -> None:
    """Remove the public name of the sums, if it is that of ours."""
    with contextlib.suppress(OSError):
        if filecmp.cmp(ours, public, shallow=False):
            os.unlink(public)


def clear_trials(folder: Path, keep: set[str], public: Path) -> None:
    """Remove what was made for a moment when a server was killed: in ``folder``, and ``public``.

    Raises ``OSError``.
    """
    for name in {*os.listdir(folder)} - keep:
        path = folder / name
        (os.rmdir if path.is_dir() else os.unlink)(path)  # a link, tried out, leads nowhere
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(public)


def bits_of(facts: Facts) -> int:
    """Return the bits that the directory itself is to have."""
    return 0o777 if facts.mode is None else facts.mode


class Attributes:
    """Sets the bits and times of the entries of a tree; ``kept`` says whether it could."""

    def __init__(self, root: TreeRoot, facts: Facts, folder: Path) -> None:
        """``folder`` shows what the umask or an ACL leaves of the bits. Raises ``OSError``."""
        self.kept = True
        self._root = root
        self._facts = facts
        self._allowed = allowed_bits(folder)

    def set_all(self, *, writable: bool, flush: bool = False) -> None:
        """Set those of what is in a directory first, then its own, of the tree itself last.

        With ``writable`` that can be renamed after it. With ``flush`` each is brought to the disk,
        with what is in it. Raises ``OSError``.
        """
        manifest, allowed = self._root.manifest, self._allowed
        for index in manifest.of_kind(Kind.FILE):
            self._set_entry(index, manifest.mode(index) & allowed.file, flush=flush)
        for index in manifest.of_kind(Kind.LINK):
            self._set_time(manifest.path(index), manifest.mtime(index))
        for index in reversed(list(manifest.of_kind(Kind.DIRECTORY))):
            bits = manifest.mode(index) | _LEAST_BITS
            self._set_entry(index, allowed.of_directory(bits), flush=flush)
        bits = allowed.of_directory(bits_of(self._facts) | _LEAST_BITS)
        self._set(b".", bits | (stat.S_IWUSR if writable else 0), self._facts.mtime)
        if flush:
            flush_descriptor(self._root.descriptor)

    def _set_entry(self, index: int, bits: int, *, flush: bool) -> None:
        manifest = self._root.manifest
        path, mtime = manifest.path(index), manifest.mtime(index)
        if not flush:
            self._set(path, bits, mtime)
            return
        descriptor = self._root.open_published(index)  # first: its bits may shut us out
        try:
            self._set(path, bits, mtime)
            flush_descriptor(descriptor)
        finally:
            os.close(descriptor)

    def _set(self, path: bytes, bits: int, mtime: int | None) -> None:
        try:
            os.chmod(path, bits, dir_fd=self._root.descriptor)
        except OSError as error:
            self._note_lack(error)
        if mtime is not None:
            self._set_time(path, mtime)

    def _set_time(self, path: bytes, mtime: int) -> None:
        root = self._root.descriptor
        try:
            os.utime(path, ns=(mtime, mtime), dir_fd=root, follow_symlinks=False)
        except OSError as error:
            self._note_lack(error)

    def _note_lack(self, error: OSError) -> None:
        """Note that a file system has no such bits or times; any other error is raised again."""
        if error.errno not in _NO_BITS:
            raise error
        if self.kept:
            name = self._facts.name
            log.warning("%s: bits or times are not kept: %s", name, reason_of(error))
        self.kept = False
