"""Which server owns an output directory."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from lft.store.paths import PARTIAL
from protocol import UsageError


class OutputDirectory:
    """An output directory while this server owns it: one server for one directory.

    The kernel gives the lock back when the process ends, however it ends. The directory is held
    open as well: that tells it from any other that comes to stand at its path.
    """

    def __init__(self, path: Path) -> None:
        """Take the directory (main). Raises ``UsageError`` if that cannot be."""
        self._path = path
        self.made = not path.exists()  # by us
        self._lock = _open_lock(path)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UsageError(f"another server already writes to {path}") from None
        except OSError as error:
            self.release()
            raise UsageError(f"the file system of {path} has no locks: {error.strerror}") from None

    def check_in_place(self) -> None:
        """Raise ``OSError`` unless the path still leads to this directory (a worker).

        The directory may have been moved, a copy put in its place, or its disk unmounted. A file
        that is published then would be out of sight, or vouched for where it does not stand.
        """
        try:
            in_place = os.path.samestat(os.stat(self._path), os.fstat(self.descriptor))
        except FileNotFoundError:
            in_place = False
        if not in_place:
            reason = "the output directory was moved, replaced or unmounted; restart the server"
            raise OSError(errno.ESTALE, reason)

    def release(self) -> None:
        """Give the directory back (main)."""
        os.close(self.descriptor)
        os.close(self._lock)


def _open_lock(path: Path) -> int:
    """Open the lock file of an output directory, making both. Raises ``UsageError``."""
    try:
        (path / PARTIAL).mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path / PARTIAL / "lock", flags, 0o600)
    except OSError as error:
        raise UsageError(f"output directory {path}: {error.strerror}") from None
