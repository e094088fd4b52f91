"""Which servers own an output directory."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import config
from lft.files import sync_data
from lft.store.locks import take, take_within
from lft.store.paths import COUNTERS, PARTIAL
from protocol import UsageError


class OutputDirectory:
    """An output directory while this server owns it: alone, or with others that share it.

    The kernel gives the lock back when the process ends, however it ends. The directory is held
    open as well: that tells it from any other that comes to stand at its path.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """Take the directory (main). Raises ``UsageError`` if that cannot be."""
        self._path = path
        self.made = not path.exists()  # by us
        self._lock = _open_lock(path)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._take(shared=shared)
        except OSError as error:
            self.release()
            raise UsageError(f"the file system of {path} has no locks: {error.strerror}") from None
        except UsageError:
            self.release()
            raise

    def _take(self, *, shared: bool) -> None:
        """Lock the directory. Raises ``UsageError`` while another server has it."""
        alone = take(self._lock)
        if not shared and not alone:
            reason = f"another server already writes to {self._path}"
            raise UsageError(f"{reason} (several may, if each has --shared)")
        if shared and alone:  # a server without --shared counts nothing there
            self._begin_counters_anew()
        # one that starts at the same time may be alone for a moment
        if shared and not take_within(config.ALONE_FOR, self._lock, shared=True):
            raise UsageError(f"another server without --shared already writes to {self._path}")

    def _begin_counters_anew(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._path / PARTIAL / COUNTERS):
                os.unlink(entry.path)

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

    def ask(self, *, write: bool) -> None:
        """Have the file system answer, and with ``write`` the disk below it, too (a worker).

        May take for ever. Raises ``OSError``. What is known of a file system over the network is
        asked anew each time; a local one knows it by heart, so only a write reaches the disk.
        """
        os.fstatvfs(self.descriptor)
        if write:
            os.pwrite(self._lock, b"\n", 0)
            sync_data(self._lock)

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
