"""Which server owns an output directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from lft.store.paths import PARTIAL
from protocol import UsageError


class OutputDirectory:
    """An output directory while this server owns it: one server for one directory.

    The kernel gives the lock back when the process ends, however it ends.
    """

    def __init__(self, path: Path) -> None:
        """Take the directory (main). Raises ``UsageError`` if that cannot be."""
        self._lock = _open_lock(path)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise UsageError(f"another server already writes to {path}") from None

    def release(self) -> None:
        """Give the directory back (main)."""
        os.close(self._lock)


def _open_lock(path: Path) -> int:
    """Open the lock file of an output directory, making both. Raises ``UsageError``."""
    try:
        (path / PARTIAL).mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path / PARTIAL / "lock", flags, 0o600)
    except OSError as error:
        raise UsageError(f"output directory {path}: {error.strerror}") from None
