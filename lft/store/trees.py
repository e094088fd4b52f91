"""One directory that is not finished."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Iterable, Iterator, Sequence, TypeVar

import config
from lft.files import flush_descriptor, open_directory
from lft.holes import is_zero
from lft.manifest import Manifest
from lft.store.attributes import adopt_defaults
from lft.store.carried import carry, fits
from lft.store.journal import NO_FACTS, Claims, Facts
from lft.store.part import Part, StaleError
from lft.store.partfile import SUFFIXES, PartFile
from lft.store.paths import (
    PARTIAL,
    make_directory,
    native,
    output_name,
    unique,
)
from lft.store.removal import removing
from lft.store.treebytes import TreeBytes, flush_many
from lft.store.treefinishing import (
    Attributes,
    bits_of,
    check_sizes,
    clear_trials,
    name_sums,
    take_sums_back,
    write_sums,
)
from lft.store.treemaking import check_room, make, make_again, make_links
from lft.store.treeroot import TreeRoot

log = logging.getLogger("server")

LEFT_BEHIND = (*SUFFIXES, ".tree")  # by parts of both kinds
TREE, SUMS = "tree", "sums"  # in the folder of a part tree; what begins like the first is it, too
Self = TypeVar("Self", bound="PartTree")


class PartTree(Part):
    """A directory that is not finished: ``.partial/<stem>.tree``, which only we can enter.

    The directory itself is built in there as ``tree``. So it gets its final name by one step, as
    whole as it is, and what is made in it has group and rights as if it were made where it will be.
    Directories, empty and large files are made before a block comes, the others when their first
    block does; links come last, and are never followed. The sums of its files lie beside it.

    ``write_run`` and ``read`` work at distinct places and need no lock (``TreeBytes`` has one). All
    methods run on a worker and may wait for the disk.
    """

    def __init__(self, output: Path, stem: str, facts: Facts) -> None:
        """Stand for a tree that ``create`` or ``reopen`` opens."""
        super().__init__(output, stem, facts)
        self._folder = output / PARTIAL / folder_of(stem)
        self._name = TREE  # in there
        self._opened: TreeBytes | None = None
        self._before: Manifest | None = None  # of the attempt that left it
        self._making: Iterator[None] = iter(())  # what is left of making it

    @property
    def _bytes(self) -> TreeBytes:
        assert self._opened is not None  # while it is in use
        return self._opened

    @property
    def _root(self) -> TreeRoot:
        return self._bytes.root

    @property
    def unfinished(self) -> Path:
        """Where it stands until it has its final name."""
        return self._folder / self._name

    @property
    def _sums(self) -> Path:
        return self._folder / self._name.replace(TREE, SUMS, 1)

    @property
    def _sums_name(self) -> str:
        return f"{native(self.facts.saved_as)}.{self.facts.digest}"

    @property
    def _trial(self) -> Path:
        return self._final.with_name(f".{self._sums_name[1:]}")  # of the longer of its two names

    @property
    def _public_sums(self) -> Path:
        return self._final.with_name(self._sums_name)

    # -- beginning

    @classmethod
    def create(cls: type[Self], output: Path, facts: Facts, stem: str = "") -> Self:
        """Make a new tree; ``reserve_some`` follows. Raises ``OSError`` and leaves nothing."""
        part = cls(output, stem or secrets.token_hex(8), facts)
        check_room(output, facts.size, len(facts.manifest or ()))
        os.mkdir(part._folder, 0o700)
        try:
            with open_directory(part._final.parent) as folder:
                adopt_defaults(part._folder, folder)
            os.mkdir(part.unfinished, 0o700)
            part._open_as(facts)
            part._journal.begin(facts)
        except OSError:
            part.close()
            remove_leftover(output, part.stem)
            raise
        part._making = make(part._root, part._folder, set())
        return part

    def _open_as(self, facts: Facts) -> None:
        """Open the directory as that of ``facts``. Raises ``OSError``."""
        assert facts.manifest is not None  # it is a tree
        root = TreeRoot(self._final if self.published else self.unfinished, facts.manifest)
        self._opened = TreeBytes(root, published=self.published)

    def look(self) -> None:
        """See whether the tree has its final name. Raises ``ValueError`` if it is not ours now."""
        self._name = _name_in(self._folder)
        try:
            facts = os.lstat(self.unfinished)
            self.published = False
        except FileNotFoundError:
            facts = os.lstat(self._final)
            self.published = True
        if not stat.S_ISDIR(facts.st_mode):
            raise ValueError("not a directory")
        if not self.published and self._journal.says_published(self.facts):
            raise ValueError("published, and moved or removed since")

    def recover(self) -> None:
        """Look at what an earlier run left; sums without their tree go. Raises as ``look``."""
        super().recover()
        if not self.published:
            self._clear()

    def _clear(self) -> None:
        """Take back what was made for a moment when a server was killed. Raises ``OSError``."""
        take_sums_back(self._sums, self._public_sums)
        clear_trials(self._folder, {self._name, self._sums.name}, self._trial)

    def begins_with(self, facts: Facts) -> bool:
        """Return whether the tree, which rests, has most of its bytes in ``facts`` as well.

        A published one has to be the same.
        """
        assert facts.manifest is not None  # it is a tree, too
        try:
            before = self._journal.manifest()
        except (OSError, ValueError) as error:  # it may be taken just now
            log.debug("%s: %s", self.stem, error)
            return False
        return before == facts.manifest if self.published else fits(before, facts.manifest)

    def reopen(self, facts: Facts) -> None:
        """Open what an earlier attempt left; ``go_on`` follows. Raises ``OSError``.

        Raises ``ValueError`` for a tree that is unfit for ``facts``.
        """
        self._claims_some = True  # until the journal has been read
        self.look()
        self._before = self._journal.manifest()
        if self.published and self._before != facts.manifest:
            raise ValueError("it was published, and there is another by now")
        if not self.published:
            os.chmod(self.unfinished, 0o700)
        self._open_as(facts)

    def go_on(self, facts: Facts) -> Claims:
        """Use the reopened tree for ``facts``; return what its journal claims.

        Where the tree has changed, what was claimed of it is claimed where it lies by now.
        """
        facts = facts._replace(saved_as=self.facts.saved_as)
        before, self._before = self._before, None
        assert before is not None  # it is reopened
        if self.published:
            facts = facts._replace(directory=self.facts.directory)
        if before == facts.manifest:
            claims = self._journal.load(facts)
            self._renew_journal(facts, claims)
        else:
            claims = carry(self._journal.load(self.facts), before, facts)
            self._journal.begin(facts, claims)
        self.facts = facts
        if self.published:
            self._note_published()
        else:
            check_room(self._output, (facts.blocks.count - claims.count) * facts.block_size)
            self._making = make_again(self._root, self._folder)
        self._claims_some = claims.count > 0
        return claims

    def try_name(self) -> None:
        """See that the tree can get its final name; said before a byte is sent.

        A directory gets a name of the same shape, from the same place, and is removed.
        """
        if self.published:
            return
        made = self._folder / self._trial.name
        os.mkdir(made, 0o700)
        try:
            os.rename(made, self._trial)
        except OSError:
            os.rmdir(made)
            raise
        os.rmdir(self._trial)

    # -- making what is in it

    def reserve_some(self, seconds: float) -> bool:
        """Make directories and files for about ``seconds``; return whether there are more to make.

        Raises ``OSError``, and ``RejectedError`` where two entries become one.
        """
        until = time.monotonic() + seconds
        return any(time.monotonic() >= until for _ in self._making)

    # -- bytes

    def write_run(self, views: Sequence[memoryview], offset: int) -> None:
        """Put ``views``, one behind the other, at ``offset`` of the tree.

        A published tree is not written to. Raises ``StaleError`` where it has other bytes.
        """
        if not self.published:
            self._bytes.write_run(views, offset)
        elif not self._bytes.holds(views, offset):
            raise StaleError

    def dig(self, view: memoryview, offset: int) -> None:
        """Have holes in large files where they have the bytes of ``view``, if these are zeros."""
        if not self.published and is_zero(view):
            self._bytes.dig(view, offset)

    def read(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset`` of the tree; what is not there reads as zeros.

        A power cut may have taken a file whose blocks the journal claims: their digests tell.
        """
        try:
            self._bytes.read(view, offset)
        except OSError:
            self.trusted = False
            raise

    def flush(self, proven: int = 0) -> None:
        """Bring the bytes written so far to the disk, and the journal's claims after them.

        The names of new files are brought there by ``finish``: until then a file that a power cut
        takes is sent again.
        """
        try:
            self._bytes.flush(proven)
        except OSError:
            self.trusted = False
            raise
        self._flush_journal()

    # -- the end

    def finish(self, sums: Iterable[bytes]) -> None:
        """Give all entries their links, bits and times, write the sums, and flush all of it.

        Raises ``OSError``; after that ``reopen`` makes the tree fit to be written again.
        """
        self._bytes.close()
        try:
            if not self.published:
                check_sizes(self._root)
                make_links(self._root)
                write_sums(self._sums, sums)
            attributes = Attributes(self._root, self.facts, self._folder)
            attributes.set_all(writable=not self.published)
            if not flush_many(self._root, len(self._root.manifest)):
                attributes.set_all(writable=not self.published, flush=True)
            self.kept = attributes.kept
        except OSError:
            self.trusted = False
            raise
        self._flush_journal()

    def publish(self) -> str:
        """Give the finished tree its final name, its sums beside it; return that name."""
        make_directory(self._output, self.facts.directory)
        with open_directory(self._final.parent) as folder:
            if self.published:
                flush_descriptor(folder)
                return self.facts.place
            while not self.published:
                try:
                    name_sums(self._sums, self._public_sums)
                    self._rename(folder)
                    self.published = True
                except FileExistsError:
                    self._choose_another_name()
            self._shut()
            try:
                flush_descriptor(folder)
            except OSError:  # the disk may not have the name: the client will hear of no success
                self._take_name_back(folder)
                raise
        self._note_published()
        return self.facts.place

    def _rename(self, folder: int) -> None:
        from lft.renaming import rename_new  # noqa: PLC0415  (it loads ctypes)

        with open_directory(self._folder) as own:
            rename_new(own, self._name, folder, native(self.facts.saved_as))

    def _shut(self) -> None:
        """Take the bit from the published tree that only its renaming needed."""
        if not bits_of(self.facts) & stat.S_IWUSR:
            bits = stat.S_IMODE(os.fstat(self._root.descriptor).st_mode)
            os.fchmod(self._root.descriptor, bits & ~stat.S_IWUSR)
            flush_descriptor(self._root.descriptor)

    def _choose_another_name(self) -> None:
        """Take another name; the journal must know it before the tree has it."""
        take_sums_back(self._sums, self._public_sums)
        name = output_name(self.facts.name, unique(), most=len(self.facts.saved_as.encode()))
        self.facts = self.facts._replace(saved_as=name)
        self._journal.begin(self.facts, self._journal.load(self.facts))

    def _take_name_back(self, folder: int) -> None:
        self.published = self.trusted = False
        take_sums_back(self._sums, self._public_sums)
        with contextlib.suppress(OSError):
            os.rename(native(self.facts.saved_as), self.unfinished, src_dir_fd=folder)

    def close(self) -> None:
        """Close the tree; it stays on the disk."""
        self._making = iter(())
        self.facts = self.facts._replace(manifest=None)
        opened, self._opened = self._opened, None
        if opened:
            opened.close()
            opened.root.close()
        self._journal.close()

    def remove(self) -> None:
        """Remove what is unfinished; a published tree keeps its final name."""
        if not self.published:
            take_sums_back(self._sums, self._public_sums)
        self.close()
        remove_leftover(self._output, self.stem)


def _name_in(folder: Path) -> str:
    """Return what a tree is called in its folder: several servers give it other names in turn."""
    with contextlib.suppress(FileNotFoundError):
        return next((name for name in os.listdir(folder) if name.startswith(TREE)), TREE)
    return TREE


def kind_of(facts: Facts) -> type[Part]:
    """Return what kind of part is for these facts."""
    return PartTree if facts.is_tree else PartFile


def folder_of(stem: str) -> str:
    """Return the name of the folder of a part tree."""
    return f"{stem}.tree"


def remove_leftover(output: Path, stem: str) -> None:
    """Remove what belongs to one part, of either kind; without its journal it is nothing.

    Of a large tree the rest stays for ``Waste``, or the next start.
    """
    PartFile(output, stem, NO_FACTS).remove()
    for _ in itertools.islice(removing(output / PARTIAL, folder_of(stem)), config.REMOVE_AT_ONCE):
        continue
