"""A part file that other servers see, too: its lock keeps them from it as long as it is open."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Callable, ContextManager, Iterator

from lft.files import link_descriptor, open_directory
from lft.store.attributes import open_again
from lft.store.fencedjournal import SharedJournal, clear_names
from lft.store.journal import Claims, Facts, NoJournal
from lft.store.locks import HeldElsewhereError, holds, take
from lft.store.part import Part
from lft.store.partfile import TRIAL, PartFile
from lft.store.paths import names_file, native


def prefix_of(user: str, name: str) -> str:
    """Return how the names of all part files begin that a user's file of this name may have."""
    return hashlib.sha256(json.dumps([user, name]).encode()).hexdigest()[:24] + "-"


def new_stem(user: str, name: str) -> str:
    """Return a name that was never used; ``O_EXCL`` sees to it that it is not used twice."""
    return f"{prefix_of(user, name)}{time.time_ns():016x}"


@contextlib.contextmanager
def given_up(part: Part) -> Iterator[None]:
    """Let go of ``part`` where it cannot be locked, and remove one that is of no use to anyone."""
    try:
        yield
    except ValueError:
        part.remove()
        raise
    except BaseException:
        part.close()
        raise


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Do something that no counter has to know of."""
    yield


class FencedPartFile(PartFile):
    """A part file in a directory that several servers share.

    It is locked on the descriptor that it is written through, from ``create`` or ``lock`` on until
    it is closed. What others did before that is looked at after it, never before.

    Its name is derived from user and name of the file, and numbered by the clock. So each name
    means the same file for ever: a network file system may remember a name for some seconds.

    A published one is not written to any more. While another server has it, it can be read all the
    same, to give its verdict; then only the other server removes its name.
    """

    JOURNAL = SharedJournal

    def __init__(self, output: Path, stem: str, facts: Facts) -> None:
        """Stand for a file that ``create`` or ``lock`` opens."""
        super().__init__(output, stem, facts)
        # what has to be done around the moment in which the file gets its final name
        self.counted: Callable[[], ContextManager[None]] = uncounted
        self._owned = False

    # -- whose it is

    def _make_own(self) -> None:
        """Lock the new file. Raises ``OSError`` where another server was faster to remove it."""
        self._owned = take(self._fd)
        if not self._owned:
            raise BlockingIOError(errno.EAGAIN, "another server looks at the new part file")

    def lock(self) -> None:
        """Open the file and lock it, then see what became of it.

        Raises ``HeldElsewhereError`` while another server has it, unless it is published,
        ``ValueError`` if it is not ours or was published and removed, ``OSError``.
        """
        self._fd = open_again(self._path, os.O_RDWR, self._path)
        self.made_at = 0.0  # as for a file that is reopened
        with given_up(self):
            self._owned = take(self._fd)
            self._look_again()
            if not self._owned and not self.published:
                raise HeldElsewhereError(self._claimed_bytes())

    def _look_again(self) -> None:
        """Read the journal, which the last owner has changed, and see whether it published."""
        facts = os.fstat(self._fd)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        if not names_file(self._path, facts):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.facts = self._journal.facts()
        noted = self._journal.says_published(self.facts)
        if not self._owned:
            self.published = noted and names_file(self._final, facts)
            return
        self._end_trial()
        clear_names(self._path)
        moved = noted or self._names() > 1
        self.published = moved and self._has_final_name()
        if moved and not self.published:
            raise ValueError("published, and moved or removed since")

    def _has_final_name(self) -> bool:
        """Return whether the final name leads to this file.

        Whether a name exists, a network file system may remember from before: NFS for 7 s. Making a
        link never answers from memory, and has it look again.
        """
        if names_file(self._final, os.fstat(self._fd)):
            return True
        self._try_link(self._final.parent, native(self.facts.saved_as))
        return names_file(self._final, os.fstat(self._fd))

    def _names(self) -> int:
        """Return how many names the file has: with a further one, or NFS may answer from memory."""
        trial = self._path.with_suffix(TRIAL)
        with contextlib.suppress(FileNotFoundError):  # of a server that was killed just then
            trial.unlink()
        with open_directory(trial.parent) as folder:
            link_descriptor(self._fd, self._path, folder, trial.name)
        try:
            return os.fstat(self._fd).st_nlink - 1
        finally:
            trial.unlink()

    def _try_link(self, place: Path, name: str) -> None:
        """Have the file system look whether a name exists; make nothing."""
        with contextlib.suppress(FileExistsError, FileNotFoundError), open_directory(place) as to:
            link_descriptor(self._fd, self._path, to, name)
            os.unlink(name, dir_fd=to)

    def _claimed_bytes(self) -> int:
        """Return about how much of the file its journal claims."""
        records = self._path.with_suffix(".journal").stat().st_size // (4 + self.facts.digest_size)
        return min(self.facts.size, records * self.facts.block_size)

    def _check_owned(self) -> None:
        """Raise ``OSError`` if the file is not ours any more: this machine was cut off."""
        try:
            owned = self._owned and holds(self._fd)
            if owned and not self.facts.unsized:
                self._journal.facts()
        except (OSError, ValueError):
            owned = False
        if not owned:
            self.trusted = False
            raise OSError(errno.ESTALE, "another server has taken the unfinished file over")

    # -- as any part file

    def reopen(self, facts: Facts) -> None:
        """Use a file that ``lock`` opened. Raises ``ValueError`` if it is unfit for ``facts``."""
        self._claims_some = True  # until the journal has been read
        if self.published and not facts.size == self.facts.size == os.fstat(self._fd).st_size:
            raise ValueError("it was published, and there is another size by now")

    def go_on(self, facts: Facts) -> Claims:
        """Use the reopened file; the journal of one that another server has stays as it is."""
        if self._owned:
            return super().go_on(facts)
        self.facts = facts._replace(saved_as=self.facts.saved_as, directory=self.facts.directory)
        claims = self._journal.load(self.facts)
        self._journal = NoJournal(self._path.with_suffix(".journal"))
        return claims

    def publish(self) -> str:
        """Give the file its final name, if it is still ours. Raises ``OSError``."""
        if not self.published:
            self._check_owned()
        return super().publish()

    def _link(self, folder: int, name: str) -> None:
        with self.counted():
            super()._link(folder, name)

    def remove(self) -> None:
        """Remove the unfinished name, if the file is still ours, and close the file."""
        if self._owned and holds(self._fd):
            super().remove()
        else:
            self.close()

    def remove_if_free(self) -> bool:
        """Remove what is left of a file of no use, unless another server has it."""
        with contextlib.suppress(FileNotFoundError):
            self._fd = open_again(self._path, os.O_RDWR, self._path)
        free = self._fd < 0 or take(self._fd)
        if free:
            super().remove()
        else:
            self.close()
        return free

    def close(self) -> None:
        """Close the file; other servers may take it then."""
        super().close()
        self._owned = False
