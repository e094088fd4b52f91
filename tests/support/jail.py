"""Programs as another user, on a file system that they cannot write to; only root can do that."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Iterator

from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE

PROGRAM = ("server.py", "auth.py", "config.py", "protocol.py", "lft")
USER = 10001  # of no account on this machine

# $1 stays writable, everything else of this file system is not; the rest is a command
_READ_ONLY = f"""
mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift
exec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all -- "$@"
"""

# $1 is the root, $2 its /data, $3 the user; process 1 of its own, with a kernel's file systems
_CONTAINER = """
root=$1 data=$2 user=$3; shift 3
mount --bind "$root" "$root" && mount --rbind /usr "$root/usr" && mount --bind /etc "$root/etc"
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev"
mount --bind "$data" "$root/data" && mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" "$root" "$@"
"""


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that each user can enter: pytest's own are for one."""
    with tempfile.TemporaryDirectory(prefix="lft-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def installed(folder: Path) -> Path:
    """Copy the server's files there, as root would have them; return the folder."""
    folder.mkdir()
    for name in PROGRAM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def owned(path: Path, mode: int) -> Path:
    """Give a file or a folder to the user of the jail."""
    os.chown(path, USER, USER)
    path.chmod(mode)
    return path


def read_only(writable: Path, *command: str) -> list[str]:
    """Return a command line that runs ``command`` where it can write to one folder alone."""
    return ["unshare", "--mount", "sh", "-ec", _READ_ONLY, "sh", str(writable), *command]


def container(root: Path, data: Path, user: str, *command: str) -> list[str]:
    """Return a command line that runs ``command`` in a root of its own, as process 1."""
    for name in ("usr", "etc", "proc", "dev", "data"):
        (root / name).mkdir(exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return [*unshare, "sh", "-ec", _CONTAINER, "sh", str(root), str(data), user, *command]


class Manager:
    """A service manager that hears what the programs tell it (sd_notify(3))."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.place)
        place.chmod(0o666)
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hear(self, words: str) -> list[str]:
        """Wait for a datagram with the line ``words`` in it; return its lines."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            if words in lines:
                return lines
