"""Locks of the file system: they tell servers on several machines whose a file is.

flock(2) on the very descriptor that a file is written through. The kernel gives a lock back when
its process ends, however it ends, and a network file system when a machine has been silent for a
lease. Such a machine may come back and still believe in its lock. NFS then fails its writes with
``EIO``, since the lock was on the file that it writes: with the lock on another file they arrived
(measured with NFSv4.2). So no file of another name is ever locked in place of the one that is
written.
"""

from __future__ import annotations

import errno
import fcntl
import time

_HELD = (errno.EAGAIN, errno.EACCES)  # flock(2) and fcntl(2) say it so


class HeldElsewhereError(Exception):
    """Another server has what an earlier attempt left: ``size`` bytes, at most."""

    def __init__(self, size: int, what: str = "file") -> None:
        super().__init__(f"another server has not let go of the unfinished {what} yet")
        self.size = size


def take(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file; ``False`` while another has it. Raises ``OSError`` if that cannot be.

    One that is locked already stays so.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True


def holds(descriptor: int) -> bool:
    """Return whether the lock that was taken is still ours.

    A machine that was cut off has lost it, and hears that it cannot be taken again.
    """
    try:
        return take(descriptor)
    except OSError:
        return False


def take_within(seconds: float, descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file that others hold for moments only; ``False`` after ``seconds``.

    It asks again and again: a call that waits could not be ended when a server stands still that
    has the lock.
    """
    until, pause = time.monotonic() + seconds, 0.001
    while not take(descriptor, shared=shared):
        if time.monotonic() >= until:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True
