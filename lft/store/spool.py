"""What is still to be done for published files, on the disk: a kill forgets none of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import time
from pathlib import Path
from typing import Iterator, NamedTuple

from lft.files import flush_directory, sync_data
from lft.store.history import Outcome, own_name
from lft.store.paths import PARTIAL, native, open_regular

FOLDER = "received"
_HIDDEN = "."  # what the name of a file begins with that is no note
_NEW = ".new"  # what the name of a note ends with until it is whole
_MAX_BYTES = 64 * 1024  # of a note: names and reasons of some hundred characters


class Left(NamedTuple):
    """What a note of an earlier run says, and what has become of its file."""

    entry: Outcome
    published: bool  # and not moved on or removed since
    confirmed: bool  # whether the client has read the verdict, or had its time for that


class Spool:
    """A folder with a note for each file whose program has not run to its end.

    A note is written before its file gets the final name, and removed after its program has ended.
    All methods run on any thread but main, and may wait for the disk.
    """

    def __init__(self, output: Path, server: str = "") -> None:
        """``server`` tells the servers apart that share ``output``: each has its own notes."""
        self._output = output
        self._folder = output / PARTIAL / own_name(FOLDER, server)

    def open(self) -> None:
        """Show other servers that this one runs: there are none."""

    def close(self) -> None:
        """Let other servers take over what is left."""

    def is_ours(self, _name: str) -> bool:
        """Return whether no other server has taken over a note."""
        return True

    def take_over(self) -> list[str]:
        """Move the notes of servers that do not run any more here; return their names in order.

        A server that has the directory alone takes those of all others. Raises ``OSError``.
        """
        return sorted(itertools.chain.from_iterable(map(self._empty, self._others())))

    def _others(self) -> list[Path]:
        names = os.listdir(self._output / PARTIAL)
        alike = [name for name in names if name == FOLDER or name.startswith(f"{FOLDER}-")]
        return [self._output / PARTIAL / name for name in alike if name != self._folder.name]

    def _empty(self, folder: Path) -> Iterator[str]:
        """Move all notes of a folder here, and remove it; give their names."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # another server was faster
                if name.startswith(_HIDDEN) or name.endswith(_NEW):
                    os.unlink(folder / name)
                else:
                    os.rename(folder / name, self._folder / name)
                    yield name
        flush_directory(self._folder)
        with contextlib.suppress(OSError):  # another server makes it anew
            folder.rmdir()

    def add(self, entry: Outcome, stem: str, unfinished: Path) -> str:
        """Write a note of a file that is not published yet; return the name of the note.

        ``unfinished`` is its part file or part tree, whose journal is named by ``stem``. The note
        is on the disk then, with what tells the file from any other under its name. Raises
        ``OSError`` and leaves nothing.
        """
        inode = os.stat(unfinished, follow_symlinks=False).st_ino
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fresh = self._folder / f"{name}{_NEW}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(fresh, flags, 0o600), "wb", buffering=0) as file:
                facts = {**entry._asdict(), "inode": inode, "stem": stem}
                text = json.dumps(facts).encode()
                if file.write(text) < len(text):
                    raise OSError("the note was cut short")
                sync_data(file.fileno())
            os.rename(fresh, self._folder / name)
            flush_directory(self._folder)
        except OSError:
            self.remove(fresh.name)
            raise
        return name

    def names(self) -> list[str]:
        """Return the names of all notes, the oldest first; remove what is no whole note."""
        try:
            found = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        for name in found:
            if name.endswith(_NEW):
                self.remove(name)
        return [name for name in found if not name.endswith(_NEW) and name[0] != _HIDDEN]

    def read(self, name: str) -> Left:
        """Return what a note of an earlier run says, and how it is with its file now.

        Raises ``OSError``, ``ValueError`` for a note that is not ours.
        """
        with open(self._folder / name, "rb", opener=open_regular) as file:
            facts = json.loads(file.read(_MAX_BYTES))
        try:
            inode, stem = facts.pop("inode"), facts.pop("stem")
            entry = Outcome(**facts)
            place = self._output / native(entry.saved_as)
            confirmed = not os.path.lexists(self._output / PARTIAL / f"{stem}.journal")
        except (AttributeError, KeyError, TypeError):
            raise ValueError("not a note of ours") from None
        published = False
        with contextlib.suppress(OSError):
            published = os.stat(place, follow_symlinks=False).st_ino == inode
        return Left(entry, published, confirmed)

    def remove(self, name: str) -> None:
        """Remove a note, if it is there. Raises no ``OSError``: a program may run once more."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / name)
