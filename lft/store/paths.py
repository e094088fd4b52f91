"""Names and directories below the output directory, made harmless."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Callable, NamedTuple

import config
from lft.files import flush_directory
from lft.terminal import is_hidden, printable
from protocol import RejectedError

PARTIAL = ".partial"  # the folder below the output directory for unfinished files
COUNTERS = "counters"  # a folder in it, where several servers count together
_PREFIX = "server_received_"
MAX_NAME_BYTES = 255  # of a file name, on every common file system
MAX_EXTENSION_BYTES = 32  # what is longer is no extension, just a dot somewhere in the name
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # by a file system


class NoSpaceError(OSError):
    """The disk has no room for ``needed`` bytes: only ``free`` bytes are free."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.needed = needed
        self.free = free


def free_bytes(directory: Path) -> int:
    """Return the bytes that are free for us on the file system of ``directory``."""
    facts = os.statvfs(directory)
    return facts.f_bavail * facts.f_frsize


def safe_name(name: str) -> str:
    """Return a client's file name without folders, hidden characters or terminal controls.

    Raises ``RejectedError`` for a name that names no file at all. Runs on any thread.
    """
    if not name.strip(". "):
        raise RejectedError("name", f"not a file name: {printable(name[:40])!r}")
    return _harmless_end("".join("_" if _is_unsafe(char) else char for char in name))


def _is_unsafe(char: str) -> bool:
    return char in "/\\:\0" or is_hidden(char)


def _harmless_end(name: str) -> str:
    """Replace a dot or space at the end: Windows drops these, and two names become one."""
    return name[:-1] + "_" if name.endswith((".", " ")) else name


def output_name(original: str, unique: str, most: int = MAX_NAME_BYTES) -> str:
    """Return ``server_received_<unique>_<original>`` in ``most`` bytes (any).

    If need be, the stem is shortened.
    """
    prefix = f"{_PREFIX}{unique}_"
    stem, extension = os.path.splitext(original)
    if len(extension.encode()) > MAX_EXTENSION_BYTES:
        stem, extension = original, ""
    room = most - len((prefix + extension).encode())
    return _harmless_end(prefix + stem.encode()[:room].decode(errors="ignore") + extension)


def longest_name(output: Path) -> int:
    """Return the bytes that a name may have in ``output``: less on an encrypted file system."""
    try:
        return min(MAX_NAME_BYTES, os.pathconf(output, "PC_NAME_MAX"))
    except (OSError, ValueError):  # it does not say
        return MAX_NAME_BYTES


def native(name: str) -> str:
    """Return ``name`` as Python's file functions take it to be UTF-8, whatever the locale is."""
    return os.fsdecode(name.encode())


def unique() -> str:
    """Return the time and a random part: what makes an output name the only one (any)."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def open_regular(path: str, flags: int, folder: int | None = None) -> int:
    """Open a file, of an open ``folder``, without following a link or waiting for a FIFO."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return os.open(path, flags, dir_fd=folder)


def names_file(path: Path, facts: os.stat_result) -> bool:
    """Return whether ``path`` is a name of the file that ``facts`` describe."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), facts)
    except OSError:
        return False


def make_directory(output: Path, relative: str) -> Path:
    """Make a user's directory below ``output`` and return it (a worker).

    Raises ``OSError`` where a part of it is a symlink or a file.
    """
    path = output
    for part in native(relative).split("/") if relative else ():
        parent, path = path, path / part
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            flush_directory(parent)
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return path


def tried_as(name: str) -> str:
    """Return the hidden name of the same length that is tried in place of a published file's."""
    return f".{name[1:]}"


def counted(size: int) -> int:
    """Return the bytes that a file of ``size`` bytes counts in a quota: an empty file has some."""
    return max(size, config.LEAST_COUNTED)


class Used(NamedTuple):
    """What the published files and trees of a directory count together."""

    total: int
    trees: bool  # whether there are trees: what changes in these does not change the directory


def _skips_none(_name: str) -> bool:
    """Skip no file of a directory."""
    return False


def used_bytes(directory: Path, skips: Callable[[str], bool] = _skips_none) -> Used:
    """Count the published files and trees of ``directory`` (a worker).

    Except those whose name ``skips`` says so, and names that are only tried for a moment.
    """
    total, trees, waiting, tried = 0, False, [directory], tried_as(_PREFIX)
    while waiting:
        here = waiting.pop()
        with contextlib.suppress(FileNotFoundError, PermissionError), os.scandir(here) as entries:
            for entry in entries:
                if here is directory and (entry.name.startswith(tried) or skips(entry.name)):
                    continue
                inside = here is not directory or entry.name.startswith(_PREFIX)
                if entry.is_dir(follow_symlinks=False) and inside:
                    waiting.append(Path(entry.path))
                    trees = True
                total += _counted_entry(entry, inside=inside)
    return Used(total, trees)


def _counted_entry(entry: os.DirEntry[str], *, inside: bool) -> int:
    """Return what one entry counts: a file anywhere, all others in published trees only."""
    if entry.is_file(follow_symlinks=False):
        with contextlib.suppress(FileNotFoundError):
            return counted(entry.stat(follow_symlinks=False).st_size)
    return config.LEAST_COUNTED if inside else 0


def reason_of(error: Exception) -> str:
    """Return what the system says of an error, without the path; otherwise its own text."""
    return getattr(error, "strerror", None) or str(error)


def explain(error: OSError, directory: str) -> str:
    """Say why no file can get its name in ``directory``, below the output directory (any)."""
    where = f"directory {directory}" if directory else "the output directory"
    reasons = {
        errno.EXDEV: f"another file system or quota begins at {where}",
        errno.EACCES: f"the server may not write to {where}",
        errno.EPERM: f"the server may not write to {where}",
        errno.EROFS: f"{where} is read-only",
        errno.ENOTDIR: f"{where} is a link or a file",
        errno.ELOOP: f"{where} is a link or a file",
        errno.ENAMETOOLONG: f"the name is too long for the file system of {where}",
        errno.EINVAL: f"the file system of {where} does not take the name",
        errno.EILSEQ: f"the file system of {where} does not take the name",
    }
    return reasons.get(error.errno or 0, f"the server cannot write to {where}: {reason_of(error)}")
