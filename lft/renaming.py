"""A new name for a directory that never replaces anything.

It loads ctypes: import it where it is used.
"""

from __future__ import annotations

import ctypes
import errno
import os

_NOREPLACE = 1  # of renameat2(2)
_UNKNOWN = (errno.ENOSYS, errno.EINVAL)  # to the system, to the file system

_libc = ctypes.CDLL(None, use_errno=True)


def rename_new(source: int, old: str, folder: int, name: str) -> None:
    """Move ``old`` in the open directory ``source`` to ``name`` in ``folder``.

    Raises ``FileExistsError`` where there is such a name, otherwise ``OSError``. Where the system
    cannot do both in one step, it looks and then renames: safe enough with a random name.
    """
    if not hasattr(_libc, "renameat2"):
        _look_and_rename(source, old, folder, name)
        return
    if not _libc.renameat2(source, os.fsencode(old), folder, os.fsencode(name), _NOREPLACE):
        return
    number = ctypes.get_errno()
    if number not in _UNKNOWN:
        raise OSError(number, os.strerror(number), name)
    _look_and_rename(source, old, folder, name)


def _look_and_rename(source: int, old: str, folder: int, name: str) -> None:
    if name in os.listdir(folder):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    try:
        os.rename(old, name, src_dir_fd=source, dst_dir_fd=folder)
    except OSError as error:  # another has made it meanwhile
        if error.errno != errno.ENOTEMPTY:
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
