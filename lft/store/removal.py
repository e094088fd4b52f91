"""Removing a tree of many entries, some at a time."""

from __future__ import annotations

import os
from typing import Iterator


def remove_tree(path: bytes, folder: int) -> Iterator[None]:
    """Remove the directory ``path`` in the open directory ``folder``; a step for each entry.

    Links are not followed, and directories that shut us out are opened. Raises ``OSError``.
    """
    found, waiting = [], [path]
    while waiting:
        one = waiting.pop()
        found.append(one)
        os.chmod(one, 0o700, dir_fd=folder)
        for name, is_directory in _scan(one, folder):
            if is_directory:
                waiting.append(one + b"/" + name)
            else:
                os.unlink(one + b"/" + name, dir_fd=folder)
            yield
    for one in reversed(found):
        os.rmdir(one, dir_fd=folder)
        yield


def _scan(path: bytes, folder: int) -> list[tuple[bytes, bool]]:
    """Return the names in a directory, and which of them are directories."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        with os.scandir(descriptor) as entries:
            return [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
    finally:
        os.close(descriptor)
