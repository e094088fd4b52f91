"""Making what is in a tree before its blocks come, a step at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Iterator

import config
from lft.manifest import Kind
from lft.store.paths import UNSUPPORTED, NoSpaceError, free_bytes, native
from lft.store.removal import remove_tree
from lft.store.treeroot import TreeRoot
from lft.terminal import printable
from protocol import RejectedError

# names that are one to some file system: by case, Unicode form or ending
_ALIKE = ("lft-\u00e9", "LFT-\u00c9", "lft-e\u0301", "lft-\u00e9.")

# what a file system says of a name that it does not take; FUSE's exFAT says the first one
_NO_NAME = (errno.ENOENT, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)
_TRIAL = "trial"  # of a link, in the folder of a part tree


def check_room(output: Path, size: int, entries: int = 0) -> None:
    """Raise ``OSError`` where the disk has no room for so many bytes, or so many new entries."""
    needed = size + entries * config.LEAST_COUNTED
    free, facts = free_bytes(output), os.statvfs(output)
    if needed > free:
        raise NoSpaceError(needed, free)
    if facts.f_files and entries > facts.f_favail:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make(root: TreeRoot, folder: Path, there: set[int]) -> Iterator[None]:
    """Make what is not ``there``: directories, empty and large files. A step for each.

    Small files are made when their bytes come. But where the file system, that of ``folder``, takes
    some names for others, all is made now, to find two entries that are one before a byte is asked
    for: that raises ``RejectedError``. Raises ``OSError`` as well.
    """
    manifest, folds = root.manifest, takes_names_for_others(folder)
    for index in manifest.of_kind(Kind.DIRECTORY):
        if index not in there:
            _make_entry(root, index)
            yield
    for index in manifest.of_kind(Kind.FILE):
        size = manifest.size_of(index)
        large = size >= config.LARGE_IN_TREE
        if index not in there and (folds or large or not size):
            _make_entry(root, index)
            yield
        if large:
            yield from _reserve(root, index, size)
    if folds:
        make_links(root)
    else:
        _try_link(root, folder)


def make_again(root: TreeRoot, folder: Path) -> Iterator[None]:
    """Bring what an earlier attempt left to the shape of the manifest; make what it lacks."""
    there: set[int] = set()
    yield from _sweep(root, there)
    yield from make(root, folder, there)


def make_links(root: TreeRoot) -> None:
    """Make the symbolic links that are not there. Raises as ``make``."""
    for index in root.manifest.of_kind(Kind.LINK):
        path, target = root.manifest.path(index), root.manifest[index].target.encode()
        try:
            os.symlink(target, path, dir_fd=root.descriptor)
        except FileExistsError:
            is_ours = stat.S_ISLNK(root.lstat(path).st_mode)
            if not is_ours or os.readlink(path, dir_fd=root.descriptor) != target:
                raise _collision(root, path) from None
        except OSError as error:
            raise _refusal(path, error) from None


def _try_link(root: TreeRoot, folder: Path) -> None:
    """See that the file system has symbolic links, if the tree has one. Raises as ``make``."""
    index = next(root.manifest.of_kind(Kind.LINK), None)
    if index is None:
        return
    trial = folder / _TRIAL
    try:
        with contextlib.suppress(FileExistsError):
            os.symlink("nowhere", trial)
        os.unlink(trial)
    except OSError as error:
        raise _refusal(root.manifest.path(index), error) from None


def _refusal(path: bytes, error: OSError) -> Exception:
    """Say which link a file system does not take; otherwise give ``error`` back."""
    if error.errno not in (*UNSUPPORTED, errno.EPERM):
        return error
    name = printable(path.decode())
    text = f"{name!r} is a symbolic link, and the server's file system has none: exclude it"
    return RejectedError("name", text)


def takes_names_for_others(folder: Path) -> bool:
    """Return whether the file system of ``folder`` does so; also if it cannot be found out."""
    trial, *others = (folder / native(name) for name in _ALIKE)
    try:
        trial.touch(exist_ok=False)
        return any(map(os.path.lexists, others))
    except OSError:  # it does not take the name
        return True
    finally:
        with contextlib.suppress(OSError):
            trial.unlink()


def _sweep(root: TreeRoot, there: set[int]) -> Iterator[None]:
    """Remove what is not in the manifest, and links; note in ``there`` which entries are."""
    folders = [b""]
    while folders:
        folder = folders.pop()
        for name, facts in root.scan(folder):
            path = folder + b"/" + name if folder else name
            index = root.manifest.find(path)
            kind = None if index is None else root.manifest.kind(index)
            if index is not None and kind is Kind.DIRECTORY and stat.S_ISDIR(facts.st_mode):
                there.add(index)
                folders.append(path)
                os.chmod(path, 0o700, dir_fd=root.descriptor)
            elif index is not None and kind is Kind.FILE and stat.S_ISREG(facts.st_mode):
                there.add(index)
                _cut(root, index, facts)
            elif stat.S_ISDIR(facts.st_mode):
                yield from remove_tree(path, root.descriptor)
            else:
                os.unlink(path, dir_fd=root.descriptor)
            yield


def _cut(root: TreeRoot, index: int, facts: os.stat_result) -> None:
    """Let us write to a file of an earlier attempt, and cut off what it has too much."""
    if stat.S_IMODE(facts.st_mode) & 0o600 != 0o600:
        os.chmod(root.manifest.path(index), 0o600, dir_fd=root.descriptor)
    if facts.st_size > root.manifest.size_of(index):
        file = root.open(index, os.O_WRONLY)
        try:
            os.truncate(file, root.manifest.size_of(index))
        finally:
            os.close(file)


def _make_entry(root: TreeRoot, index: int) -> None:
    path = root.manifest.path(index)
    try:
        if root.manifest.kind(index) is Kind.DIRECTORY:
            os.mkdir(path, 0o700, dir_fd=root.descriptor)
        else:
            os.close(root.open(index, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise _collision(root, path) from None
    except OSError as error:
        if error.errno not in _NO_NAME:
            raise
        text = f"the server cannot make {printable(path.decode())!r}: {error.strerror}"
        raise RejectedError("name", text) from None


def _collision(root: TreeRoot, path: bytes) -> RejectedError:
    """Say which two entries are one to the file system.

    Where inode numbers do not last (some file systems of FUSE) their names have to tell.
    """
    facts = root.lstat(path)
    folder, _, name = path.rpartition(b"/")
    twins = [other for other, its in root.scan(folder)
             if os.path.samestat(its, facts) or _folded(other) == _folded(name)]  # fmt: skip
    one, other = (repr(printable(each.decode(errors="replace"))) for each in (*twins, name)[-2:])
    return RejectedError("name", f"{one} and {other} are one to the server's file system")


def _folded(name: bytes) -> str:
    """Return what names have in common that differ by case, Unicode form or ending."""
    import unicodedata  # noqa: PLC0415  (few servers need it)

    text = unicodedata.normalize("NFKD", name.decode(errors="replace"))
    return unicodedata.normalize("NFKC", text.casefold()).rstrip(". ")


def _reserve(root: TreeRoot, index: int, size: int) -> Iterator[None]:
    """Give a large file its size and its space, slice by slice. Raises ``OSError``."""
    file = root.open(index, os.O_WRONLY)
    try:
        os.truncate(file, size)
        slices = range(0, size, config.RESERVE_SLICE) if hasattr(os, "posix_fallocate") else ()
        for start in slices:
            os.posix_fallocate(file, start, min(config.RESERVE_SLICE, size - start))
            yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(file)
