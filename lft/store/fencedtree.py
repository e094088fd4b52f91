"""A part tree that other servers see, too: the lock of its journal keeps them from it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Callable, ContextManager, Iterable, Iterator, TypeVar, Union

from lft.files import open_directory
from lft.manifest import Manifest
from lft.store.fenced import FencedPartFile, given_up, uncounted
from lft.store.fencedjournal import FencedJournal, clear_names
from lft.store.journal import NO_FACTS, Claims, Facts, Journal, NoJournal
from lft.store.locks import HeldElsewhereError, take
from lft.store.paths import PARTIAL, names_file
from lft.store.treebytes import TreeBytes
from lft.store.treeroot import TreeRoot
from lft.store.trees import TREE, PartTree, remove_leftover

Self = TypeVar("Self", bound="FencedTree")


Fenced = Union[FencedPartFile, "FencedTree"]


class FencedRoot(TreeRoot):
    """The directory of a tree, each file of which is locked on the descriptor that writes to it.

    The lock is a shared one, since several workers may have a file open; whose the tree is says the
    journal. That is looked at behind the lock: a machine that was cut off before it hears so then,
    and one that is cut off after it has lost both, and NFS fails its writes. It is looked at before
    a file is made, too, so that such a machine makes none.
    """

    def __init__(self, path: Path, manifest: Manifest, journal: FencedJournal) -> None:
        """Open the directory at ``path``. Raises ``OSError``."""
        super().__init__(path, manifest)
        self._journal = journal

    def open(self, index: int, flags: int) -> int:
        """Open a file or directory. Raises ``OSError``, also where the tree is not ours any more.

        To write is to read as well: NFS gives a shared lock to a reader only.
        """
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return super().open(index, flags)
        if flags & os.O_CREAT:
            self._journal.check()
        file = super().open(index, flags & ~os.O_WRONLY | os.O_RDWR)
        try:
            if not take(file, shared=True):
                raise BlockingIOError(errno.EAGAIN, "another server writes to the file")
            self._journal.check()
        except BaseException:
            os.close(file)
            raise
        return file


class FencedTree(PartTree):
    """A part tree in a directory that several servers share.

    Its journal is locked, from ``create`` or ``lock`` on until it is closed, and each file as long
    as it is open for writing. Each owner gives the tree another name in its folder, so that the
    last one, if it comes back after it was cut off, cannot publish it. What it does by names inside
    the tree no lock fences: it looks at the journal's lock before each such step.

    A published one is not written to any more. While another server has it, it can be read all the
    same, to give its verdict; then only the other server removes what is left of it.
    """

    def __init__(self, output: Path, stem: str, facts: Facts) -> None:
        """Stand for a tree that ``create`` or ``lock`` opens."""
        super().__init__(output, stem, facts)
        # what has to be done around the moment in which the tree gets its final name
        self.counted: Callable[[], ContextManager[None]] = uncounted
        self._lock = FencedJournal(output / PARTIAL / f"{stem}.journal")
        self._journal: Journal = self._lock
        self._owned = False

    # -- whose it is

    def lock(self) -> None:
        """Lock the journal, then see what became of the tree.

        Raises ``HeldElsewhereError`` while another server has it, unless it is published,
        ``ValueError`` if it is not ours or was published and removed, ``OSError``.
        """
        with given_up(self):
            self._owned = self._lock.lock()
            self._look_again()
            if not self._owned and not self.published:
                raise HeldElsewhereError(self._claimed_bytes(), "directory")

    def _look_again(self) -> None:
        """Read the journal, which the last owner has changed, and see whether it published."""
        self.facts = self._lock.facts()
        if not self.facts.is_tree:
            raise ValueError("not the journal of a tree")
        if not self._owned:
            self.published = self._lock.says_published(self.facts)
            return
        clear_names(self._lock.path)
        if self._lock.says_published(self.facts):
            self.look()
        else:
            self.recover()

    def look(self) -> None:
        """See whether it has its final name, by directories that are opened for it.

        Otherwise a network file system may answer from memory. Raises as any tree's.
        """
        with contextlib.suppress(FileNotFoundError), open_directory(self._final.parent):
            pass
        try:
            super().look()
        except FileNotFoundError:
            raise ValueError("published, and moved or removed since") from None

    def recover(self) -> None:
        """Look at what an earlier owner left, as any tree does; the journal stays open."""
        self.look()
        if self.published:
            self._lock.go_on(self.facts)
            self._note_published()
        else:
            self._clear()
            self._rename_unfinished()

    def _rename_unfinished(self) -> None:
        """Give the tree a name that no earlier owner knows; its sums are written anew."""
        with contextlib.suppress(FileNotFoundError):
            self._sums.unlink()
        before, self._name = self.unfinished, f"{TREE}-{secrets.token_hex(4)}"
        os.rename(before, self.unfinished)

    def _claimed_bytes(self) -> int:
        """Return about how much of the tree its journal claims."""
        return min(self.facts.size, self._lock.count() * self.facts.block_size)

    def _check_owned(self) -> None:
        """Raise ``OSError`` if the tree is not ours any more: this machine was cut off."""
        try:
            self._lock.check()
        except OSError:
            self.trusted = False
            raise

    # -- as any part tree

    def _open_as(self, facts: Facts) -> None:
        if self.published:
            super()._open_as(facts)
            return
        assert facts.manifest is not None  # it is a tree
        root = FencedRoot(self.unfinished, facts.manifest, self._lock)
        self._opened = TreeBytes(root, published=False)

    @classmethod
    def create(cls: type[Self], output: Path, facts: Facts, stem: str = "") -> Self:
        """Make a new tree, which is ours from then on. Raises ``OSError`` and leaves nothing."""
        part = super().create(output, facts, stem)
        part._owned, part._making = True, part._while_owned(part._making)
        return part

    def go_on(self, facts: Facts) -> Claims:
        """Use the reopened tree; the journal of one that another server has stays as it is."""
        if self._owned:
            claims = super().go_on(facts)
            self._making = self._while_owned(self._making)
            return claims
        self.facts = facts._replace(saved_as=self.facts.saved_as, directory=self.facts.directory)
        claims = self._lock.load(self.facts)
        self._journal = NoJournal(self._final)
        return claims

    def _while_owned(self, steps: Iterator[None]) -> Iterator[None]:
        """Go the steps, each of them only if the tree is still ours."""
        more = True
        while more:
            self._check_owned()
            more = next(steps, self) is not self
            if more:
                yield

    def finish(self, sums: Iterable[bytes]) -> None:
        """Do what any tree does at its end, if it is still ours. Raises ``OSError``."""
        if not self.published:
            self._check_owned()
        super().finish(sums)

    def publish(self) -> str:
        """Give the tree its final name, if it is still ours. Raises ``OSError``."""
        if not self.published:
            self._check_owned()
        return super().publish()

    def _rename(self, folder: int) -> None:
        """Rename the tree; one that has its final name by now, by whatever call, is published."""
        with self.counted():
            try:
                super()._rename(folder)
            except (FileExistsError, FileNotFoundError):
                if not names_file(self._final, os.fstat(self._root.descriptor)):
                    raise

    def close(self) -> None:
        """Close the tree; other servers may take it then."""
        super().close()
        self._lock.close()  # unless it was the journal
        self._owned = False

    def remove(self) -> None:
        """Remove what is unfinished, if the tree is still ours, and close it.

        The journal goes first: without it no server takes the rest, however long that takes.
        """
        if self._owned and self._lock.is_ours:
            with contextlib.suppress(FileNotFoundError):
                self._lock.path.unlink()
            super().remove()
        else:
            self.close()

    def remove_if_free(self) -> bool:
        """Remove what is left of a tree of no use, unless another server has it."""
        with contextlib.suppress(FileNotFoundError):
            self._owned = self._lock.lock()
            if not self._owned:
                return False
            self._lock.path.unlink()
        self.close()
        remove_leftover(self._output, self.stem)
        return True


def fenced(output: Path, stem: str, facts: Facts) -> Fenced:
    """Stand for a part of the kind that is for these facts."""
    return (FencedTree if facts.is_tree else FencedPartFile)(output, stem, facts)


def remove_useless(output: Path, stem: str) -> bool:
    """Remove what is left of a part of either kind, unless another server has it."""
    is_tree = (output / PARTIAL / f"{stem}.tree").exists()
    return (FencedTree if is_tree else FencedPartFile)(output, stem, NO_FACTS).remove_if_free()
