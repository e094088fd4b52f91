"""Permission bits and the time of the last change, as a client wants them kept."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

from lft.files import adopt_access
from lft.store.journal import Facts
from lft.store.paths import open_regular

_DEFAULT_ACL = "system.posix_acl_default"
log = logging.getLogger("server")


def take_access(file: int, facts: Facts, folder: int, trial: Path) -> bool | None:
    """Give an open file the rights that ``folder`` has for it, and what its client wants kept.

    Returns whether it has the bits and the time of ``facts``, ``None`` where these name none. The
    bits lose what a new file would lose: by the umask, which ``trial`` shows, a name to make and
    remove, or by the default ACL of the folder. What is kept is on the disk then. Raises
    ``OSError`` where the disk fails.
    """
    inherits = adopt_access(file, folder, 0o666 if facts.mode is None else facts.mode)
    if not facts.keeps:
        return None
    kept = True
    try:
        if facts.mode is not None and not inherits:
            os.fchmod(file, facts.mode & _most(trial))
        if facts.mtime is not None:
            os.utime(file, ns=(os.fstat(file).st_atime_ns, facts.mtime))
    except OSError as error:  # a file system without such bits
        log.warning("%s: permission bits or time are not kept: %s", facts.name, error.strerror)
        kept = False
    os.fsync(file)  # fdatasync leaves them out
    return kept


def _most(trial: Path) -> int:
    """Return the rights that a new file gets here at most."""
    file = os.open(trial, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777)
    try:
        return stat.S_IMODE(os.fstat(file).st_mode)
    finally:
        os.close(file)
        os.unlink(trial)


class Allowed(NamedTuple):
    """The bits that new files and directories get at a place, of all that may be asked for."""

    file: int
    directory: int
    inherited: int  # by a directory from the one that it is in

    def of_directory(self, bits: int) -> int:
        """Return the bits of a directory for which ``bits`` are wanted."""
        return bits & self.directory | self.inherited


def allowed_bits(folder: Path) -> Allowed:
    """Return what the umask, or a default ACL, leaves of the bits of what is made in ``folder``.

    A file and a directory are made there, and removed. Raises ``OSError``.
    """
    trial = folder / f"trial-{secrets.token_hex(4)}"  # another server may do the same
    file = _most(trial)
    os.mkdir(trial, 0o777)
    directory = stat.S_IMODE(os.stat(trial).st_mode)
    os.rmdir(trial)
    return Allowed(file, directory & 0o777, directory & stat.S_ISGID)


def adopt_defaults(path: Path, directory: int) -> None:
    """Have what is made in ``path`` be as if it were made in the open ``directory``.

    So it is with the group of a set-gid directory and with a default ACL (acl(5)). Where the system
    does not let us, it is not.
    """
    facts = os.fstat(directory)
    inherits = facts.st_mode & stat.S_ISGID
    with contextlib.suppress(OSError):
        os.chown(path, -1, facts.st_gid if inherits else os.getegid())
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700 | inherits)
    with contextlib.suppress(OSError, AttributeError):  # no default ACL, or no ACLs at all
        os.removexattr(path, _DEFAULT_ACL)  # of .partial
    with contextlib.suppress(OSError, AttributeError):
        os.setxattr(path, _DEFAULT_ACL, os.getxattr(directory, _DEFAULT_ACL))


def open_again(path: Path, flags: int, own: Path) -> int:
    """Open a part file, or what was published from it, also where kept bits shut the server out.

    ``own`` is its name in ``.partial``, which no user can give to another file.
    """
    try:
        return open_regular(str(path), flags)
    except PermissionError:
        os.chmod(own, stat.S_IRUSR | stat.S_IWUSR)
        return open_regular(str(path), flags)
