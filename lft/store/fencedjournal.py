"""Journals that other servers see, too; the lock of a directory's says whose the directory is."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from lft.files import open_directory
from lft.store.journal import NEW, Journal
from lft.store.locks import holds, take


class SharedJournal(Journal):
    """A journal that, until it is whole, stands under a name that was never used.

    A network file system may remember for a second what a name led to. Under the same name again,
    GlusterFS opened the journal that another server had renamed from there, and emptied it.
    """

    def free_name(self) -> Path:
        """Return such a name."""
        return self._path.with_name(f"{self._path.stem}-{secrets.token_hex(4)}{NEW}")


def clear_names(path: Path) -> None:
    """Remove what killed owners left under such names for a journal. Raises ``OSError``."""
    for name in os.listdir(path.parent):
        if name.startswith(f"{path.stem}-") and name.endswith(NEW):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.with_name(name))


class FencedJournal(SharedJournal):
    """A journal that is locked on the descriptor it is written through, until it is closed.

    One that is written anew is locked before it stands in the place of the old one, which is let go
    after that. So whoever opens the one that is in place, and gets its lock, has it alone.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._locked = -1  # the descriptor of the one in place; ``_fd`` may be a newer one's

    def lock(self) -> bool:
        """Open the journal that is in place and lock it; ``False`` while another server has it.

        Raises ``OSError``: ``FileNotFoundError`` where it is gone.
        """
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            owned = take(descriptor)
            if not owned or self._is_in_place(descriptor):
                break
            os.close(descriptor)  # its owner has put another one in its place
        if owned:
            self._fd = self._locked = descriptor
        else:
            os.close(descriptor)
        return owned

    def _is_in_place(self, descriptor: int) -> bool:
        """Return whether the name leads to an open file, by a directory that is opened for it.

        Otherwise a network file system may answer from memory.
        """
        with open_directory(self._path.parent) as folder:
            try:
                facts = os.stat(self._path.name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
        return os.path.samestat(facts, os.fstat(descriptor))

    @property
    def path(self) -> Path:
        """Where it stands."""
        return self._path

    @property
    def is_ours(self) -> bool:
        """Whether the lock has been taken, and this machine was not cut off since."""
        return self._locked >= 0 and holds(self._locked)

    def check(self) -> None:
        """Raise ``OSError`` unless it is ours."""
        if not self.is_ours:
            raise OSError(errno.ESTALE, "another server has taken the unfinished directory over")

    def _open(self, path: Path, flags: int) -> None:
        """Open and lock a new one; that in place is open already."""
        if path == self._path:
            return
        descriptor = os.open(path, flags | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if not take(descriptor):
            os.close(descriptor)
            raise BlockingIOError(errno.EAGAIN, "another server writes the journal")
        self._fd = descriptor

    def _put_in_place(self, fresh: Path) -> None:
        if self._locked >= 0:
            self.check()
        super()._put_in_place(fresh)
        before, self._locked = self._locked, self._fd
        if before >= 0:
            os.close(before)

    def close(self) -> None:
        """Close it; but a new one that did not come into its place leaves the old one open."""
        newer = self._fd != self._locked
        super().close()
        if newer:
            self._fd = self._locked
        else:
            self._locked = -1
