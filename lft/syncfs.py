"""Many files flushed with one call to the system. It loads ctypes: import it where it is used."""

from __future__ import annotations

import contextlib
import ctypes
import os

import config

# Where syncfs(2) waits until all is on the disk, and tells of errors; statfs(2) has the numbers.
_EXT4, _XFS, _BTRFS, _F2FS, _TMPFS = 0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994
_FLUSHED_AT_ONCE = (_EXT4, _XFS, _BTRFS, _F2FS, _TMPFS)
_TELLS_ERRORS = (5, 8)  # of Linux: before that, syncfs(2) succeeds where the disk has failed

_libc = ctypes.CDLL(None, use_errno=True)


def flush_together(descriptor: int, files: int) -> bool:
    """Flush all of the file system of ``descriptor`` at once, where that is faster than ``files``.

    Returns ``False``, having done nothing, where it is not, or where the system cannot: then flush
    each by itself. ``descriptor`` is that of a file or a directory there, open since before the
    first of the bytes in question was written: of errors the system tells those that came since.
    Raises ``OSError``, which is final for all of these files, as that of fsync(2) is for one.
    """
    if files < 2 or not _knows_syncfs() or dirty_bytes() > files * config.DIRTY_FOR_FILE:
        return False
    if _kind_of(descriptor) not in _FLUSHED_AT_ONCE:
        return False
    if _libc.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return True


def _knows_syncfs() -> bool:
    system = os.uname()
    numbers = [part for part in system.release.partition("-")[0].split(".") if part.isdigit()]
    told = system.sysname == "Linux" and tuple(map(int, numbers[:2])) >= _TELLS_ERRORS
    return told and hasattr(_libc, "syncfs")


def _kind_of(descriptor: int) -> int:
    """Return the kind of a file system as statfs(2) has it; 0 where that fails."""
    facts = ctypes.create_string_buffer(256)  # a struct statfs has 120 bytes or less, f_type first
    return 0 if _libc.fstatfs(descriptor, facts) else ctypes.c_long.from_buffer(facts).value


def dirty_bytes() -> int:
    """Return what the system has still to write, of all programs; without bound if unknown."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
        return sum(1024 * int(lines.get(key, "0").split()[0]) for key in ("Dirty", "Writeback"))
    return 2**63
