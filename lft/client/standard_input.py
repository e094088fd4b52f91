"""Standard input as a source: read once, of unknown size, and kept until it has arrived."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import select
import sys
import threading
from pathlib import Path
from typing import Collection

import config
from lft.client.source import Input
from lft.wire.sockets import Waker
from protocol import MAX_FILE_SIZE, ConnectionLostError, SourceError

log = logging.getLogger("client")

STANDARD_INPUT = Path("-")  # what stands for it among the files ...
NAME = "stdin"  # ... and what it is called where no name is given
DESCRIPTOR = 0


class InterruptedSourceError(SourceError):
    """The connection was lost, and what had been read of the source cannot be read again."""

    exit_code = 5


def interrupted(source: Input, error: ConnectionLostError) -> InterruptedSourceError:
    """Return what a lost connection means for a source that cannot be sent again."""
    advice = "standard input cannot be read again: run the whole command anew"
    return InterruptedSourceError(f"{source.name}: {error}; {advice}")


def file_argument(text: str) -> Path:
    """Return the path that a command line names; ``./-`` is a file of that name.

    Raises ``argparse.ArgumentTypeError`` for an empty name, which is no folder in which we are.
    """
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is empty")
    path = Path(text)
    return path.absolute() if path == STANDARD_INPUT and text != str(path) else path


def is_typed(files: Collection[Path]) -> bool:
    """Return whether one of ``files`` is typed at a terminal, where nothing else must be shown."""
    return STANDARD_INPUT in files and not _is_closed() and os.isatty(DESCRIPTOR)


class StandardInput(Input):
    """Standard input, up to its end. The lock protects what is kept of it.

    A block stays in memory until the server has verified it, since it may have to be sent again. So
    memory is bounded, and the reader waits while ``UNSIZED_WINDOW`` bytes are not verified.
    """

    sized = False

    def __init__(self, name: str, descriptor: int = DESCRIPTOR) -> None:
        """Look at standard input and read nothing. Raises ``SourceError`` if it is closed."""
        super().__init__(name, MAX_FILE_SIZE)
        self._fd = descriptor
        if descriptor == DESCRIPTOR and _is_closed():
            raise SourceError("standard input is closed")
        self._waker = Waker()
        self._lock = threading.Lock()
        self._kept: dict[int, bytes] = {}  # by offset, in the order of the file
        self._kept_bytes = 0
        self._read = 0  # bytes; the reader's own
        self._stopped = False

    @property
    def repeatable(self) -> bool:
        """Whether nothing has been read yet."""
        return not self._read

    def fill(self, view: memoryview) -> int:
        """Read and keep the next block; return its length: less only at the end (the reader)."""
        self._await_room(len(view))
        filled = 0
        while filled < len(view) and not self._stopped:
            size = self._read_some(view[filled:])
            if not size:
                break
            filled += size
            self._read += size
        self._keep(view[:filled])
        return filled

    def _await_room(self, size: int) -> None:
        while self._kept_bytes + size > config.UNSIZED_WINDOW and not self._stopped:
            self._wait_for(self._waker.fileno())

    def _read_some(self, view: memoryview) -> int:
        """Wait for some bytes; 0 at the end, or once the file has been given up."""
        if not self._read and os.isatty(self._fd):
            log.warning("reading from the terminal: Ctrl-D at the start of a line ends it")
        self.waiting = True
        try:
            while not self._stopped:
                ready = self._wait_for(self._fd, self._waker.fileno())
                if self._stopped or self._fd not in ready:  # a read would wait, whatever stops us
                    continue
                with contextlib.suppress(BlockingIOError):
                    return os.readv(self._fd, [view])
            return 0
        except OSError as error:
            raise SourceError(f"standard input: {error.strerror}") from None
        finally:
            self.waiting = False

    def _wait_for(self, *descriptors: int) -> list[int]:
        """Wait until one of ``descriptors`` can be read; return those that can."""
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll()
        self._waker.quiet()
        return [descriptor for descriptor, _ in ready]

    def _keep(self, view: memoryview) -> None:
        with self._lock:
            self._kept[self._read - len(view)] = bytes(view)
            self._kept_bytes += len(view)

    def read(self, view: memoryview, offset: int) -> None:
        """Give a block again. Raises ``SourceError`` for one that the server had verified."""
        with self._lock:
            kept = self._kept.get(offset, b"")
        if len(kept) != len(view):
            raise SourceError("standard input cannot be read again, as the server wants")
        view[:] = kept

    def release(self, verified: int) -> None:
        """Forget the blocks within the first ``verified`` bytes (main)."""
        with self._lock:
            while self._kept:
                offset = next(iter(self._kept))
                if offset + len(self._kept[offset]) > verified:
                    break
                self._kept_bytes -= len(self._kept.pop(offset))
        self._waker.ring()

    def head(self, _length: int, algorithm: str) -> str:
        """Return the digest of nothing: no byte is read before the server wants it."""
        return hashlib.new(algorithm).hexdigest()

    def stop(self) -> None:
        """Let the reader stop, whatever it waits for (main)."""
        self._stopped = True
        self._waker.ring()

    def close(self) -> None:
        """Release what was kept; standard input itself stays open."""
        self._waker.close()
        self._kept.clear()


def _is_closed() -> bool:
    """Return whether the program was started without standard input (``make_output_safe``)."""
    return sys.stdin is None or sys.stdin.name == os.devnull
