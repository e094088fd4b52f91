"""Runs inside a machine: writes through a server's own descriptor, or looks for what was written.

    python zombie.py write PID          in place of the server PID, which does not know that it lost
    python zombie.py watch FOLDER       on the disk of the storage, until it is ended

``write`` takes the descriptor of the part file out of the running server, so its lock is the
server's own. Once there is a file ``/run/go`` it puts marked pages over the beginning, the middle
and the end of the part file and has them flushed, which takes until the network is back. It does
the same again, and says what became of each. ``watch`` names each file in which it ever sees a
mark.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import time
from pathlib import Path

MARK = b"written by a zombie "
_PAGE = 4096
_PIDFD_GETFD = 438


def _places(size: int) -> list[int]:
    """Return where the marks go: whole pages, so that nothing has to be read for them."""
    return [0, size // 2 // _PAGE * _PAGE, (size - 1) // _PAGE * _PAGE]


def _descriptor(process: int) -> int:
    """Return the very descriptor through which a server writes its part file."""
    for link in Path(f"/proc/{process}/fd").iterdir():
        if os.readlink(link).endswith(".part"):
            pidfd, call = os.pidfd_open(process), ctypes.CDLL(None, use_errno=True).syscall
            return int(call(_PIDFD_GETFD, pidfd, int(link.name), 0))
    raise SystemExit("no part file is open")


def _write(descriptor: int) -> str:
    """Write the marks and have them flushed; return what came of it."""
    page = (MARK * _PAGE)[:_PAGE]
    try:
        for place in _places(os.fstat(descriptor).st_size):
            os.pwrite(descriptor, page, place)
        os.fsync(descriptor)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "arrived"


def _watch(folder: Path) -> None:
    seen: set[Path] = set()
    while True:
        for path in set(folder.rglob("*")) - seen:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                for place in _places(path.stat().st_size or 1):
                    if MARK in os.pread(file.fileno(), _PAGE, place):
                        seen.add(path)
                        print(path.name, flush=True)
        time.sleep(0.05)


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1] == "watch":
        _watch(Path(sys.argv[2]))
    descriptor = _descriptor(int(sys.argv[2]))
    print("begun", flush=True)
    while not Path("/run/go").exists():
        time.sleep(0.05)
    print("cut off:", _write(descriptor), flush=True)
    print("back:", _write(descriptor), flush=True)


if __name__ == "__main__":
    main()
