"""What is still to be done for published files, on the disk: a kill forgets none of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from lft.files import flush_directory, sync_data
from lft.store.history import Outcome, own_name
from lft.store.paths import PARTIAL, native, open_regular

_FOLDER = "received"
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
        self._folder = output / PARTIAL / own_name(_FOLDER, server)

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
        return [name for name in found if not name.endswith(_NEW)]

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
