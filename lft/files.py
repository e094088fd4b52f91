"""Calls to the system about files and directories that several rooms need."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Iterator, Sequence


def keep_own_rights() -> None:
    """Change the umask so that we can use the files we make; for other users it stays.

    Call it before there are threads: reading the umask means setting it.
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


def forget(descriptor: int, size: int) -> None:
    """Have the system keep the first ``size`` bytes of a file, which are flushed, on disk alone."""
    if size > 0 and hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # it is only advice
            os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)


def fetch(descriptor: int, offset: int, size: int) -> None:
    """Have the system read ``size`` bytes at ``offset`` into its memory, and go on meanwhile."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # it is only advice
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def flush_descriptor(directory: int) -> None:
    """Flush an open directory to the disk. Raises ``OSError``.

    Some file systems, such as exFAT under FUSE and CIFS, cannot flush a directory alone and answer
    ``EINVAL``; there is nothing more to do then.
    """
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def flush_directory(path: Path) -> None:
    """Flush a directory to the disk. Raises ``OSError``."""
    with open_directory(path) as descriptor:
        flush_descriptor(descriptor)


def adopt_access(file: int, directory: int, most: int = 0o666) -> bool:
    """Give an open file the group and the rights of a file that is made in ``directory``.

    It was made elsewhere: without this, the group of a set-gid directory and a default ACL (acl(5))
    would not hold for it; of an ACL's rights it gets ``most``. Where the system does not let us,
    the file keeps what it has. Returns whether there is an ACL.
    """
    facts = os.fstat(directory)
    with contextlib.suppress(OSError):
        if facts.st_mode & stat.S_ISGID and facts.st_gid != os.fstat(file).st_gid:
            os.fchown(file, -1, facts.st_gid)
    with contextlib.suppress(OSError, AttributeError):  # no default ACL, or no ACLs at all
        acl = os.getxattr(directory, "system.posix_acl_default")
        os.setxattr(file, "system.posix_acl_access", acl)
        os.fchmod(file, stat.S_IMODE(os.fstat(file).st_mode) & most)
        return True
    return False


def read_full(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill ``view`` from ``offset``; return the bytes read: fewer only at the end of the file."""
    filled = 0
    while filled < len(view):
        size = os.preadv(descriptor, [view[filled:]], offset + filled)
        if not size:
            break
        filled += size
    return filled


def read_run(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
    """Fill ``views``, one behind the other, from ``offset``; return the bytes read.

    They are fewer only at the end of the file.
    """
    left = filled = os.preadv(descriptor, views, offset)
    for view in views:
        had = min(left, len(view))
        left -= had
        if had < len(view):  # the system has stopped within this one
            came = read_full(descriptor, view[had:], offset + filled)
            filled += came
            if had + came < len(view):
                break
    return filled


def write_all(descriptor: int, views: list[memoryview], offset: int) -> None:
    """Put ``views``, none of them empty, one behind the other at ``offset``; change the list."""
    left = sum(map(len, views))
    while left:
        written = os.pwritev(descriptor, views, offset)
        offset += written
        left -= written
        while left and written >= len(views[0]):
            written -= len(views.pop(0))
        if left:
            views[0] = views[0][written:]


def holds(descriptor: int, views: Sequence[memoryview], offset: int) -> bool:
    """Return whether a file has the bytes of ``views``, one behind the other, at ``offset``."""
    for view in views:
        found = memoryview(bytearray(len(view)))
        if read_full(descriptor, found, offset) < len(view) or found != view:
            return False
        offset += len(view)
    return True


def link_descriptor(descriptor: int, source: Path, folder: int, name: str) -> None:
    """Give an open file another name in a directory, without replacing a file. Raises ``OSError``.

    ``source`` is the name under which the file was opened. Linux with /proc links the descriptor
    (open(2), O_TMPFILE), whatever has that name by now; elsewhere it must still be the same file.
    """
    by_descriptor = f"/proc/self/fd/{descriptor}"
    if os.path.lexists(by_descriptor):
        os.link(by_descriptor, name, dst_dir_fd=folder, follow_symlinks=True)
        return
    if not os.path.samestat(os.stat(source, follow_symlinks=False), os.fstat(descriptor)):
        raise OSError(errno.ESTALE, "the file was moved or replaced")
    os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
