"""Names and directories below the output directory, made harmless."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
import unicodedata
from pathlib import Path

import config
from lft.files import flush_directory
from lft.terminal import printable
from protocol import RejectedError

PARTIAL = ".partial"  # the folder below the output directory for what is not finished
MAX_NAME_BYTES = 255  # of a file name, on every common file system
_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories that hide or act


def safe_name(name: str) -> str:
    """Make a client's file name harmless: no folder, nothing hidden, nothing a terminal acts on.

    Raises ``RejectedError`` for one that names no file at all. Runs on any thread.
    """
    safe = "".join(
        "_" if char in "/\\:\0" or unicodedata.category(char) in _UNSAFE else char for char in name
    )
    if not name.strip(". "):
        raise RejectedError("name", f"not a file name: {printable(name[:40])!r}")
    return _ended(safe)


def _ended(name: str) -> str:
    """Let no dot or space be the last: Windows drops these, and two names become one."""
    return name[:-1] + "_" if name.endswith((".", " ")) else name


def output_name(original: str, unique: str) -> str:
    """Return ``server_received_<unique>_<original>``, its stem shortened if need be (any)."""
    prefix = f"server_received_{unique}_"
    stem, extension = os.path.splitext(original)
    if len(extension.encode()) > 32:  # not an extension, just a dot somewhere
        stem, extension = original, ""
    room = MAX_NAME_BYTES - len((prefix + extension).encode())
    return _ended(prefix + stem.encode()[:room].decode(errors="ignore") + extension)


def unique() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
UNKNOWN_HERE = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # to a file system
OURS = (*NO_SPACE, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOMEM)


def open_carefully(path: str, flags: int) -> int:
    """Open a file in ``.partial`` only if it is one."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)


def is_same_file(path: Path, facts: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), facts)
    except OSError:
        return False


def make_directory(output: Path, relative: str) -> Path:
    """Make a user's directory below ``output``, no symlink and no mount; return it (a worker)."""
    path = output
    for part in relative.split("/") if relative else ():
        parent, path = path, path / part
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            flush_directory(parent)
        facts = os.lstat(path)
        if not stat.S_ISDIR(facts.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if facts.st_dev != os.stat(output).st_dev:  # no part file could be moved there
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
    if relative:
        _refuse_bind_mount(output, path)
    return path


def _refuse_bind_mount(output: Path, path: Path) -> None:
    """Raise ``OSError`` where ``path`` is a mount of the same device: nothing can be moved there.

    Only the system knows: to link a folder is forbidden anyway, and it says first what else is.
    """
    try:
        os.link(output / PARTIAL, path / PARTIAL)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise


def counted(size: int) -> int:
    """Return what a file of ``size`` bytes counts in a quota: empty ones take room as well."""
    return max(size, config.LEAST_COUNTED)


def used_bytes(directory: Path) -> int:
    """Return what the files that users have in ``directory`` count together. Any worker."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    total += counted(entry.stat(follow_symlinks=False).st_size)
    return total


def reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
