"""Removing a tree of many entries, some at a time."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from pathlib import Path
from typing import Iterator

from lft.files import open_directory
from lft.store.paths import reason_of

log = logging.getLogger("server")

_SOME = 1000  # names that are read together: those of 100,000 would hold a slice up


def remove_tree(path: bytes, folder: int) -> Iterator[None]:
    """Remove the directory ``path`` in the open directory ``folder``; a step for each entry.

    Links are not followed, and directories that shut us out are opened. What another has removed
    meanwhile is gone, too. Raises ``OSError``.
    """
    left = [path]  # each directory behind the one that it is in
    while left:
        one = left[-1]
        some = _some_in(one, folder)
        for name, is_directory in some:
            if is_directory:
                left.append(one + b"/" + name)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(one + b"/" + name, dir_fd=folder)
            yield
        if not some:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(one, dir_fd=folder)
            left.pop()
            yield


def _some_in(path: bytes, folder: int) -> list[tuple[bytes, bool]]:
    """Return some names in a directory, and which of them are directories."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as undo:
        try:
            os.chmod(path, 0o700, dir_fd=folder)
            descriptor = os.open(path, flags, dir_fd=folder)
        except FileNotFoundError:
            return []
        undo.callback(os.close, descriptor)
        entries = undo.enter_context(os.scandir(descriptor))
        some = itertools.islice(entries, _SOME)
        return [(os.fsencode(one.name), one.is_dir(follow_symlinks=False)) for one in some]


def removing(folder: Path, name: str) -> Iterator[None]:
    """Remove the directory ``name`` in ``folder``, a step for each entry; say what keeps it."""
    try:
        with open_directory(folder) as descriptor:
            yield from remove_tree(name.encode(), descriptor)
    except OSError as error:  # no transfer must hang on it; a later look cleans up
        log.warning("cannot remove %s: %s", name, reason_of(error))
