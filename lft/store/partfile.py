"""One output file that is not finished."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Callable

from lft.files import flush_directory, open_directory, sync_data
from lft.store.journal import Claims, Facts, Journal
from lft.store.paths import (
    NO_SPACE,
    PARTIAL,
    UNKNOWN_HERE,
    is_same_file,
    make_directory,
    open_carefully,
    output_name,
    unique,
)

log = logging.getLogger("server")


class StaleError(Exception):
    """The client's file is another than the one that was published; nothing of it can be used."""


class PartFile:
    """An output file that is not finished, below ``.partial``, with a name of the server's making.

    ``write`` and ``read`` work at distinct places and need no lock; ``Transfer`` sees to it that
    nobody uses it after ``close``. All of it runs on a worker and may wait for the disk.

    Once published it stays, as a second name of the whole file, until the client has confirmed the
    verdict; it is not written to any more.
    """

    def __init__(self, output: Path, stem: str, facts: Facts) -> None:
        """Stand for a file that ``create`` or ``reopen`` opens."""
        self.facts = facts
        self.stem = stem
        self.published = False
        self.trusted = True  # whether the disk has taken what it was given
        self.rested_at = 0.0  # when it was let go
        self._claims_some = False
        self._told_full = False
        self._output = output
        self._path = output / PARTIAL / f"{stem}.part"
        self._journal = Journal(output / PARTIAL / f"{stem}.journal")
        self._fd = -1

    def __repr__(self) -> str:
        return f"<PartFile {self._path.name}>"

    @classmethod
    def create(cls, output: Path, facts: Facts) -> PartFile:
        """Make a new one and reserve its space. Raises ``OSError`` and leaves nothing."""
        part = cls(output, secrets.token_hex(8), facts)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        part._fd = os.open(part._path, flags, 0o666)
        try:
            part._reserve(facts.size)
            part._journal.begin(facts)
        except OSError:
            part.remove()
            raise
        return part

    def reopen(self, facts: Facts, check: Callable[[], None] = lambda: None) -> Claims:
        """Open one that an earlier attempt left, for ``facts``; return what its journal claims.

        ``check`` may object before space is reserved. Raises ``OSError``, ``ValueError`` if unfit.
        """
        self._claims_some = True  # till we know better
        self.look()
        path, flags = (self._final, os.O_RDONLY) if self.published else (self._path, os.O_RDWR)
        self._fd = open_carefully(str(path), flags)
        facts = facts._replace(saved_as=self.facts.saved_as)
        if self.published:
            facts = facts._replace(directory=self.facts.directory)
        if self.published and not facts.size == self.facts.size == os.fstat(self._fd).st_size:
            raise ValueError("it was published, and there is another size by now")
        if not self.published:
            check()  # the file may have grown, and others may rest beside this one
            self._reserve(facts.size)
        claims = self._journal.load(facts)  # takes memory for each block: there is room for all
        self._renew_journal(facts, claims)
        self.facts = facts
        if self.published:
            self._note_published()
        self._claims_some = any(claims.flags)
        return claims

    def _renew_journal(self, facts: Facts, claims: Claims) -> None:
        """Write the journal anew; on a full disk the old one has to do, if it is for this size."""
        try:
            self._journal.begin(facts, claims)
        except OSError as error:
            if error.errno not in NO_SPACE or facts != self.facts:
                raise
            self._journal.go_on(facts)

    def recover(self) -> None:
        """Look at what an earlier run left, and note what it may not have noted any more.

        Raises as ``look`` does.
        """
        self.look()
        if self.published and not self._journal.says_published(self.facts):
            try:
                self._journal.go_on(self.facts)
                self._note_published()
            finally:
                self._journal.close()

    def look(self) -> None:
        """See whether it has its final name. Raises ``ValueError`` if it is not ours any more."""
        try:
            facts = os.lstat(self._path)
        except FileNotFoundError:  # published by renaming
            facts = os.lstat(self._final)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        self.published = is_same_file(self._final, facts)
        moved = facts.st_nlink > 1 or self._journal.says_published(self.facts)
        if moved and not self.published:
            raise ValueError("published, and moved or removed since")  # not ours to write to

    @property
    def _final(self) -> Path:
        return self._output / self.facts.place

    def _reserve(self, size: int) -> None:
        facts, own = os.statvfs(self._output), os.fstat(self._fd).st_blocks * 512
        if size - own > facts.f_bavail * facts.f_frsize:  # some would write zeros until full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.truncate(self._fd, size)
        try:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno not in UNKNOWN_HERE:
                raise

    def write(self, payload: memoryview, offset: int) -> None:
        """Put ``payload`` at ``offset``. Raises ``StaleError`` for a file that is published."""
        if self.published:
            raise StaleError
        while payload:
            written = os.pwrite(self._fd, payload, offset)
            payload, offset = payload[written:], offset + written

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``OSError`` if somebody cut the file short."""
        try:
            while view:
                size = os.preadv(self._fd, [view], offset)
                if not size:
                    raise OSError(errno.EIO, "the part file was truncated by somebody else")
                view, offset = view[size:], offset + size
        except OSError:
            self.trusted = False  # or every attempt to resume it would end here
            raise

    @property
    def worth_keeping(self) -> bool:
        """Whether somebody could go on with it, or ask for its verdict again."""
        return self.trusted and (self._claims_some or self.published)

    def note(self, records: bytes) -> None:
        """Claim written blocks in the journal.

        On a full disk they stay unclaimed: the room for the file itself is reserved, so it can
        still arrive, and only who breaks off has to send those blocks again.
        """
        if not records or self.published:
            return
        try:
            self._journal.append(records)
            self._claims_some = True
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            if not self._told_full:
                log.warning("%s: disk full: what comes from here on could not be resumed later",
                            self.facts.name)  # fmt: skip
            self._told_full = True

    def flush(self, proven: int = 0) -> None:
        """Bring what was written so far to the disk itself, and the journal's claims after it.

        The first ``proven`` bytes are not needed in memory any more: to use their pages again is
        cheaper than to touch new ones (in a virtual machine 0.6 against 1.2 s of processor time for
        1 GiB), and a large file does not push everybody else's out.

        An error is final: the system has dropped what it could not write, and a second try would
        succeed without it (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
        """
        try:
            sync_data(self._fd)
        except OSError:
            self.trusted = False
            raise
        try:
            self._journal.flush()
        except OSError as error:  # the data is safe all the same
            log.debug("%s: %s", self.stem, error)
        if proven and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # it is only advice
                os.posix_fadvise(self._fd, 0, proven, os.POSIX_FADV_DONTNEED)

    def publish(self) -> str:
        """Give the flushed file its final name without replacing anything; return that name.

        Returns only after the name, too, is on the disk. A file that was published before a kill
        keeps the name it got then.
        """
        if self.published and is_same_file(self._final, os.fstat(self._fd)):
            flush_directory(self._final.parent)
        else:
            self._give_name()
            self._note_published()
        return self.facts.place

    def _note_published(self) -> None:
        """Have the journal say for ever whose second name this is.

        Else who removed the published file would leave a hidden copy, taken for unfinished.
        """
        try:
            self._journal.note_published(self.facts)
        except OSError as error:  # a full disk, say: the file is there all the same
            log.debug("%s: %s", self.stem, error)

    def _give_name(self) -> None:
        self.published = False
        make_directory(self._output, self.facts.directory)
        with open_directory(self._final.parent) as folder:  # there may be no descriptor left later
            while not self.published:
                try:
                    self._link(self._final)
                    self.published = True
                except FileExistsError:  # somebody else's: the journal must know the other first
                    name = output_name(self.facts.name, unique())
                    self.facts = self.facts._replace(saved_as=name)
                    self._journal.begin(self.facts, self._journal.load(self.facts))
            try:
                os.fsync(folder)
            except OSError:  # the disk may not have the name: the client will hear of no success
                self.published = self.trusted = False
                with contextlib.suppress(OSError):
                    os.unlink(self._final)
                raise

    def _link(self, path: Path) -> None:
        try:
            os.link(self._path, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (*UNKNOWN_HERE, errno.EPERM, errno.EMLINK):
                raise
            if os.path.lexists(path):  # no hard links here: the random name makes this safe enough
                raise FileExistsError(path) from None
            os.rename(self._path, path)

    def close(self) -> None:
        """Close it; it stays on the disk."""
        self._journal.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close it and remove the unfinished name; a published file keeps its final one."""
        self.close()
        for suffix in (".journal", ".new", ".part"):  # without its journal a part file is nothing
            try:
                self._path.with_suffix(suffix).unlink()
            except FileNotFoundError:
                continue
            except OSError as error:  # nobody's transfer must hang on it; a later look cleans up
                log.warning("cannot remove %s: %s", self._path.name, error.strerror)

    def age(self) -> float:
        """Return the seconds since its journal was last written to."""
        return time.time() - self._path.with_suffix(".journal").stat().st_mtime
