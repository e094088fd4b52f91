"""One output file that is not finished."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Iterable, Sequence, TypeVar

import config
from lft.files import (
    flush_descriptor,
    forget,
    holds,
    link_descriptor,
    open_directory,
    read_full,
    sync_data,
)
from lft.holes import is_zero, make_hole
from lft.store.attributes import open_again, take_access
from lft.store.journal import Claims, Facts
from lft.store.part import Part, StaleError, write_sparse
from lft.store.paths import (
    PARTIAL,
    UNSUPPORTED,
    NoSpaceError,
    free_bytes,
    make_directory,
    names_file,
    native,
    open_regular,
    output_name,
    tried_as,
    unique,
)

log = logging.getLogger("server")


Self = TypeVar("Self", bound="PartFile")
TRIAL = ".trial"  # a further name of a part file, for a moment
SUFFIXES = (".journal", ".new", TRIAL, ".upload", ".part")  # the journal goes first
NO_LINKS = (*UNSUPPORTED, errno.EPERM, errno.EMLINK)  # what a file system without hard links says


class PartFile(Part):
    """An output file that is not finished, below ``.partial``, with a name that the server made.

    ``write`` and ``read`` work at distinct places and need no lock; the transfer sees to it that no
    worker uses the part file after ``close``. All methods run on a worker and may wait for the
    disk.

    A published part file stays, as a second name of the whole file, until the client has confirmed
    the verdict; it is not written to any more.
    """

    def __init__(self, output: Path, stem: str, facts: Facts) -> None:
        """Stand for a file that ``create`` or ``reopen`` opens."""
        super().__init__(output, stem, facts)
        self.reserved = 0  # bytes from the start that are reserved
        self.ends_at: int | None = None  # the size of one that grew, once it is known for good
        self._path = output / PARTIAL / f"{stem}.part"
        self._fd = -1

    @property
    def unfinished(self) -> Path:
        """Where it stands until it has its final name."""
        return self._path

    # -- beginning

    @classmethod
    def create(cls: type[Self], output: Path, facts: Facts, stem: str = "") -> Self:
        """Make a new part file; ``reserve_some`` follows. Raises ``OSError`` and leaves nothing."""
        part = cls(output, stem or secrets.token_hex(8), facts)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        part._fd = os.open(part._path, flags, 0o666)
        part.made_at = 0.0 if facts.unsized else time.monotonic()
        try:
            part._make_own()
            part.set_size(facts.size)
            part._journal.begin(facts)
        except OSError:
            part.remove()
            raise
        return part

    def _make_own(self) -> None:
        """Keep other servers from the open file: they stay out of the whole directory."""

    def reopen(self, facts: Facts) -> None:
        """Open what an earlier attempt left; ``go_on`` follows. Raises ``OSError``.

        Raises ``ValueError`` for a part file that is unfit for ``facts``.
        """
        self._claims_some = True  # until the journal has been read
        self.made_at = 0.0  # errors of what was written before are not told to a new descriptor
        self.look()
        path, flags = (self._final, os.O_RDONLY) if self.published else (self._path, os.O_RDWR)
        self._fd = open_again(path, flags, self._path)
        if self.published and not facts.size == self.facts.size == os.fstat(self._fd).st_size:
            raise ValueError("it was published, and there is another size by now")

    def go_on(self, facts: Facts) -> Claims:
        """Use the reopened file for ``facts``; return what its journal claims.

        ``reserve_some`` follows, as for a new one.
        Raises ``OSError`` where the file has grown and there is no space, ``ValueError`` for a
        journal that is not ours.
        """
        facts = facts._replace(saved_as=self.facts.saved_as)
        if self.published:
            facts = facts._replace(directory=self.facts.directory)
        else:
            self.set_size(facts.size)
        claims = self._journal.load(facts)  # takes memory for each block: there is room for all
        self._renew_journal(facts, claims)
        self.facts = facts
        if self.published:
            self._note_published()
        self._claims_some = claims.count > 0
        return claims

    def look(self) -> None:
        """See whether the file has its final name. Raises ``ValueError`` if it is not ours now."""
        try:
            facts = os.lstat(self._path)
        except FileNotFoundError:  # published by renaming
            facts = os.lstat(self._final)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        self.published = names_file(self._final, facts)
        moved = facts.st_nlink > 1 or self._journal.says_published(self.facts)
        if moved and not self.published:
            raise ValueError("published, and moved or removed since")  # not ours to write to

    def set_size(self, size: int) -> None:
        """Give the file its size. Raises ``OSError`` where the disk has no room for it.

        One that grew as it came is here: what it lacks are holes. It takes no space any more, which
        would make it longer again.
        """
        free, own = free_bytes(self._output), os.fstat(self._fd).st_blocks * 512
        if size - own > free and not self.facts.unsized:
            raise NoSpaceError(size - own, free)
        os.truncate(self._fd, size)
        anew = size and hasattr(os, "posix_fallocate") and not self.facts.unsized
        self.reserved = 0 if anew else size

    def reserve_some(self, seconds: float) -> bool:
        """Reserve space for about ``seconds``; return whether there is more to reserve.

        Where a file system cannot reserve, the C library writes a byte to each of its blocks: so a
        slice at a time, or a large file would hold a worker for minutes. Raises ``OSError``.
        """
        if self.published:
            return False  # it has its space, and is not written to any more
        size, until = os.fstat(self._fd).st_size, time.monotonic() + seconds
        while self.reserved < size:
            length = min(config.RESERVE_SLICE, size - self.reserved)
            try:
                os.posix_fallocate(self._fd, self.reserved, length)
            except OSError as error:
                if error.errno == errno.ENOSPC:  # taken meanwhile
                    raise NoSpaceError(size - self.reserved, free_bytes(self._output)) from error
                if error.errno not in UNSUPPORTED:
                    raise
                length = size - self.reserved
            self.reserved += length
            if time.monotonic() >= until:
                break
        return self.reserved < size

    def reserve_to(self, size: int) -> None:
        """Reserve the first ``size`` bytes of a file that grows. Raises ``OSError``.

        Where that cannot be, writing them finds out whether there is space. One that has its end by
        now, set by another worker, keeps it.
        """
        start = self.reserved
        if size > start and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._fd, start, size - start)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
        self.reserved = max(size, self.reserved)
        if self.ends_at is not None:
            os.truncate(self._fd, self.ends_at)

    def try_name(self) -> None:
        """See that the file can get its final name; said before a byte is sent.

        A name of the same shape is given and taken away again. Raises ``OSError`` for a directory
        that takes no files, or not from here, and for a name that the file system does not take.
        """
        if self.published:
            return
        trial = native(tried_as(self.facts.saved_as))
        with open_directory(self._final.parent) as folder:
            try:
                link_descriptor(self._fd, self._path, folder, trial)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(trial, flags, 0o600, dir_fd=folder))
            os.unlink(trial, dir_fd=folder)

    def recover(self) -> None:
        """Look at what an earlier run left; a name that it only tried goes. Raises as ``look``."""
        self._end_trial()
        super().recover()

    def _end_trial(self) -> None:
        """Take the name away that a server has left which was killed while it tried it."""
        with contextlib.suppress(OSError), open_directory(self._final.parent) as folder:
            os.unlink(native(tried_as(self.facts.saved_as)), dir_fd=folder)

    def begins_with(self, facts: Facts) -> bool:
        """Return whether the part file, which rests, has the first block of ``facts`` in it."""
        length = min(facts.block_size, facts.size)
        try:
            with open(self._path, "rb", opener=open_regular) as file:
                return hashlib.new(facts.digest, file.read(length)).hexdigest() == facts.head
        except OSError as error:  # it may be taken just now
            log.debug("%s: %s", self.stem, error)
            return False

    # -- bytes

    def write_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Put ``views``, one behind the other, at ``offset``; holes, in place of zeros, if it can.

        A published file is not written to: the last blocks before its publication may lack their
        claim, so they come again. Raises ``StaleError`` where it has other bytes.
        """
        if self.published:
            if not holds(self._fd, views, offset):
                raise StaleError
            return
        write_sparse(self._fd, views, offset)

    def dig(self, view: memoryview, offset: int) -> None:
        """Have a hole where the file has the bytes of ``view``, if these are zeros.

        A resume reserves space for all of the file anew, also where there was a hole.
        """
        if not self.published and is_zero(view):
            make_hole(self._fd, offset, len(view))

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises ``OSError`` where the file has been cut short.

        The file is not trusted after an error: every attempt to resume it would end here.
        """
        try:
            if read_full(self._fd, view, offset) < len(view):
                raise OSError(errno.EIO, "the part file was truncated by another program")
        except OSError:
            self.trusted = False
            raise

    def flush(self, proven: int = 0) -> None:
        """Bring the bytes written so far to the disk, and the journal's claims after them.

        The first ``proven`` bytes are not needed in memory any more: to use their pages again is
        cheaper than to touch new ones (in a virtual machine 0.6 against 1.2 s of processor time for
        1 GiB), and a large file does not push the files of others out.

        An error is final: the system has dropped the bytes that it could not write, and a second
        try would succeed without them (Rebello et al., "Can Applications Recover from fsync
        Failures?", 2020).
        """
        try:
            sync_data(self._fd)
        except OSError:
            self.trusted = False
            raise
        self._flush_journal()
        forget(self._fd, proven)

    def flush_with(self, files: int) -> bool:
        from lft.syncfs import flush_together  # noqa: PLC0415  (it loads ctypes, and few need it)

        return flush_together(self._fd, files)

    # -- the final name

    def finish(self, _sums: Iterable[bytes]) -> None:
        """Bring the whole file to the disk. Raises ``OSError``."""
        self.flush()

    def publish(self) -> str:
        """Give the flushed file its final name without replacing anything; return that name.

        The name, too, is on the disk then. A file that was published before a kill keeps the name
        it got then.
        """
        if self.published and names_file(self._final, os.fstat(self._fd)):
            with open_directory(self._final.parent) as folder:
                if self.facts.keeps:
                    self._take_access(folder)
                flush_descriptor(folder)
        else:
            self._give_name()
            self._note_published()
        return self.facts.place

    def _give_name(self) -> None:
        if os.fstat(self._fd).st_size != self.facts.size:
            self.trusted = False
            raise OSError(errno.EIO, "the part file was made longer or shorter by another program")
        self.published = False
        make_directory(self._output, self.facts.directory)
        with open_directory(self._final.parent) as folder:  # later there may be no descriptor left
            self._take_access(folder)
            while not self.published:
                try:
                    self._link(folder, native(self.facts.saved_as))
                    self.published = True
                except FileExistsError:
                    # ours, if a network file system did twice what it was asked once, or another
                    # server published the file; otherwise that of another file
                    self.published = names_file(self._final, os.fstat(self._fd))
                    if not self.published:
                        self._choose_another_name()
            try:
                flush_descriptor(folder)
            except OSError:  # the disk may not have the name: the client will hear of no success
                self._take_name_back()
                raise

    def _take_access(self, folder: int) -> None:
        try:
            trial = self._journal.free_name()
            self.kept = take_access(self._fd, self.facts, folder, trial)
        except OSError:
            self.trusted = False
            raise

    def _choose_another_name(self) -> None:
        """Take another name; the journal must know it before the file has it."""
        name = output_name(self.facts.name, unique())
        self.facts = self.facts._replace(saved_as=name)
        self._journal.begin(self.facts, self._journal.load(self.facts))

    def _take_name_back(self) -> None:
        self.published = self.trusted = False
        with contextlib.suppress(OSError):
            os.unlink(self._final)

    def _link(self, folder: int, name: str) -> None:
        """Name the open file, the one that was hashed, whatever stands at its path by now."""
        try:
            link_descriptor(self._fd, self._path, folder, name)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if name in os.listdir(folder):  # no hard links here: a random name is safe enough
                raise FileExistsError(name) from None
            if not names_file(self._path, os.fstat(self._fd)):
                raise OSError(errno.ESTALE, "the part file was moved or replaced") from None
            os.rename(self._path, name, dst_dir_fd=folder)

    # -- the end

    def close(self) -> None:
        """Close the file; it stays on the disk."""
        self._journal.close()
        descriptor, self._fd = self._fd, -1  # its number will soon belong to another file
        if descriptor < 0:
            return
        try:
            os.close(descriptor)
        except OSError as error:  # a network file system may say only now what it did not take
            self.trusted = self.published
            log.warning("%s: %s", self._path.name, error.strerror)

    def remove(self) -> None:
        """Remove the unfinished name and close the file; a published file keeps the final one.

        The name goes first: other servers may take the file once it is closed.
        """
        start = os.fspath(self._path.with_suffix(""))
        for suffix in SUFFIXES:
            try:
                os.unlink(start + suffix)
            except FileNotFoundError:
                continue
            except OSError as error:  # no transfer must hang on it; a later look cleans up
                log.warning("cannot remove %s: %s", self._path.name, error.strerror)
        self.close()
