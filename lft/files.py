"""What every room needs of files: their flushing and the rights of new ones."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Iterator


def keep_own_rights() -> None:
    """Let no umask take from us what we make ourselves; what it says of others holds.

    Call it before there are threads: the umask can only be read by setting it.
    """
    mask = os.umask(0o077)
    os.umask(mask & 0o077)


sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


@contextlib.contextmanager
def open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def flush_directory(path: Path) -> None:
    with open_directory(path) as descriptor:
        os.fsync(descriptor)


def read_full(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill ``view`` from ``offset``; return the bytes read, fewer only at the end of the file."""
    filled = 0
    while filled < len(view):
        size = os.preadv(descriptor, [view[filled:]], offset + filled)
        if not size:
            break
        filled += size
    return filled


def link_descriptor(descriptor: int, source: Path, folder: int, name: str) -> None:
    """Give an open file the further name ``name`` in a directory, without replacing anything.

    ``source`` is a name that the file had when it was opened: where the system can link a
    descriptor (Linux with /proc: open(2), O_TMPFILE), what stands there by now does not matter;
    elsewhere it must still be the same file. Raises ``OSError``.
    """
    by_descriptor = f"/proc/self/fd/{descriptor}"
    if os.path.lexists(by_descriptor):
        os.link(by_descriptor, name, dst_dir_fd=folder, follow_symlinks=True)
        return
    if not os.path.samestat(os.stat(source, follow_symlinks=False), os.fstat(descriptor)):
        raise OSError(errno.ESTALE, "the file was moved or replaced")
    os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
