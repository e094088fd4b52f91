"""What is still to be done for published files, by servers that share a directory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator

import config
from lft.store.locks import holds, take, take_within
from lft.store.paths import names_file
from lft.store.spool import FOLDER, Spool

_OWNER = ".owner"  # in the folder of a server, and locked for as long as that runs


class SharedSpool(Spool):
    """The spool of a server that others share the directory with.

    A server that runs has the file ``.owner`` of its folder locked. When it ends, however it ends,
    another one takes its notes over: by renaming each, which only one can do. A machine that was
    cut off may come back, and then runs only what is still in its folder. A folder without that
    file is of a version that locks none, or of such a machine: it is taken over after an hour.
    """

    def __init__(self, output: Path, server: str) -> None:
        """``server`` tells the servers apart."""
        super().__init__(output, server)
        self._lock = -1

    def open(self) -> None:
        """Show other servers that this one runs. Raises ``OSError``.

        Where another one has the same name, both run what either leaves.
        """
        flags, taken = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, True
        while self._lock < 0 and taken:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # it is taken over just now
                self._lock = os.open(self._folder / _OWNER, flags, 0o600)
                taken = take_within(config.ALONE_FOR, self._lock)
                if not (taken and self._is_in_place()):
                    self.close()

    def close(self) -> None:
        """Let other servers take over what is left."""
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _is_in_place(self) -> bool:
        return names_file(self._folder / _OWNER, os.fstat(self._lock))

    def is_ours(self, name: str) -> bool:
        """Return whether no other server has taken over a note."""
        return os.path.lexists(self._folder / name)

    def take_over(self) -> list[str]:
        """Move the notes of servers that do not run any more here. Raises ``OSError``."""
        if self._lock >= 0 and not (holds(self._lock) and self._is_in_place()):
            self.close()  # this machine was cut off, and its notes were taken over
        self.open()
        return super().take_over()

    def _empty(self, folder: Path) -> Iterator[str]:
        """Move all notes of a folder here if its server does not run any more."""
        if folder.name == FOLDER:  # of a server that had the directory alone
            yield from super()._empty(folder)
            return
        try:
            owner = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._is_old(folder):
                yield from super()._empty(folder)
            return
        try:
            if take(owner) and names_file(folder / _OWNER, os.fstat(owner)):
                yield from super()._empty(folder)
        finally:
            os.close(owner)

    def _is_old(self, folder: Path) -> bool:
        """Return whether nothing has changed in a folder for an hour, by the clock of the disk."""
        os.utime(self._folder)
        age = os.stat(self._folder).st_mtime - os.stat(folder).st_mtime
        return age >= config.USELESS_FOR
