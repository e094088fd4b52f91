"""What kind of file system a directory is on."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

# Those that several machines may mount at once, or that pass on what another machine has. What
# comes behind "fuse." is the program that serves it.
_NETWORK = re.compile(
    r"nfs4?|cifs|smb[23]?|smbfs|9p|afs|ceph|lustre|gpfs|beegfs|orangefs|ocfs2|gfs2|virtiofs|davfs"
    r"|fuse\.(?!portal|fuseblk|ext|ntfs|exfat).*"
)


def is_network(directory: Path) -> bool:
    """Return whether other machines may write to the file system of ``directory`` (any thread).

    ``False`` where the system does not say.
    """
    return _NETWORK.fullmatch(file_system(directory)) is not None


def file_system(directory: Path) -> str:
    """Return the kind of file system of ``directory``, as mount(8) calls it; "" if unknown."""
    place, found = f"{os.path.realpath(directory)}/", ("", "")
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            before, _, behind = os.fsdecode(line).partition(" - ")
            point = _unescape(before.split()[4]).rstrip("/") + "/"
            if place.startswith(point) and len(point) >= len(found[0]):
                found = point, behind.split()[0]
    return found[1]


def _unescape(path: str) -> str:
    """Undo what the kernel does to spaces and the like: an octal escape for each."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
