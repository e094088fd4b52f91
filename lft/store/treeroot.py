"""The directory of a tree while it is open: its entries by their numbers in the manifest."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lft.manifest import Manifest

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class TreeRoot:
    """An open directory with the entries of ``manifest`` in it, or some of them. Any worker.

    Each is found from the open directory, so it does not matter that this gets another name. What
    leads to an entry are directories that no other account can enter before the tree is published;
    its last part is never followed. ``descriptor`` and ``manifest`` do not change.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Open the directory at ``path``. Raises ``OSError``."""
        self.manifest = manifest
        self.descriptor = os.open(path, _DIRECTORY)

    def close(self) -> None:
        """Close the directory."""
        os.close(self.descriptor)

    def open(self, index: int, flags: int) -> int:
        """Open a file or directory. Raises ``OSError``."""
        return os.open(self.manifest.path(index), flags | _FILE, 0o600, dir_fd=self.descriptor)

    def open_published(self, index: int) -> int:
        """Open a file to read it, also where its bits shut us out; these have to be set again."""
        try:
            return self.open(index, os.O_RDONLY)
        except PermissionError:
            os.chmod(self.manifest.path(index), stat.S_IRUSR, dir_fd=self.descriptor)
            return self.open(index, os.O_RDONLY)

    def size(self, index: int) -> int:
        """Return the bytes that a file has by now, -1 if it is not there."""
        try:
            return self.lstat(self.manifest.path(index)).st_size
        except FileNotFoundError:
            return -1

    def lstat(self, path: bytes) -> os.stat_result:
        """Return what the system knows of what is at ``path``. Raises ``OSError``."""
        return os.lstat(path, dir_fd=self.descriptor)

    def scan(self, folder: bytes) -> list[tuple[bytes, os.stat_result]]:
        """Return the names in a directory of the tree, and what they are. Raises ``OSError``."""
        descriptor = os.open(folder or b".", _DIRECTORY, dir_fd=self.descriptor)
        try:
            names = map(os.fsencode, os.listdir(descriptor))
            return [(name, os.lstat(name, dir_fd=descriptor)) for name in names]
        finally:
            os.close(descriptor)
