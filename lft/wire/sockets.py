"""Sockets: waking, waiting, connecting, and what their errors mean."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
from typing import Any, Callable, Union

from protocol import ConnectionLostError

Socket = socket.socket  # for rooms that hand one on


class Waker:
    """A bell that any thread or signal handler rings, to wake the thread that waits for it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._read

    def ring(self) -> None:
        """Wake the waiting thread. Never blocks, never raises: a signal handler may call it.

        A full pipe wakes it anyway, and no thread waits at a closed one.
        """
        with contextlib.suppress(OSError):
            os.write(self._write, b"\0")

    def quiet(self, rings: int = 4096) -> bool:
        """Take back up to ``rings`` rings; return whether there was one."""
        try:
            return bool(os.read(self._read, rings))
        except BlockingIOError:
            return False

    def close(self) -> None:
        both = self._read, self._write
        self._read = self._write = -1  # their numbers will soon belong to other files
        for descriptor in both:
            os.close(descriptor)


Buffer = Union[bytes, bytearray, memoryview]


def wait(
    sock: socket.socket, timeout: float, *, write: bool = False, waker: Waker | None = None
) -> bool:
    """Wait for ``sock`` or ``waker``, up to ``timeout`` seconds; return whether ``sock`` is ready.

    Uses poll rather than select, which cannot take the descriptors above 1023 of a busy server.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN | (select.POLLOUT if write else 0))
    if waker is not None:
        poll.register(waker, select.POLLIN)
    ready = poll.poll(math.ceil(timeout * 1000))
    return any(descriptor == sock.fileno() for descriptor, _ in ready)


def lost(peer: str, error: OSError) -> ConnectionLostError:
    """Put the system's error about a connection into plain words; no other place does."""
    known = {
        errno.ECONNREFUSED: "nothing listens there",
        errno.ECONNRESET: "the connection was reset",
        errno.EPIPE: "the connection was closed",
        errno.ETIMEDOUT: "no answer",
    }
    timed_out = isinstance(error, socket.timeout)
    reason = "no answer" if timed_out else known.get(error.errno or 0, error.strerror or str(error))
    return ConnectionLostError(f"{peer}: {reason}")


def peer_address(sock: socket.socket) -> Any:
    try:
        return sock.getpeername()
    except OSError:  # the peer has gone already
        return None


def peer_name(address: Any) -> str:
    return "{}:{}".format(*address[:2]) if isinstance(address, tuple) else "the peer"


def open_socket(
    family: int, address: Any, until_connected: Callable[[socket.socket], bool]
) -> socket.socket:
    """Connect; ``until_connected`` waits for it and returns whether it was in time.

    Raises ``OSError``.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            connected = until_connected(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            code = code if connected else errno.ETIMEDOUT
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
