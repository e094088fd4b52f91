"""Sockets: waking, waiting, connecting, and what their errors mean."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
from typing import Any, Callable, Union

from lft.addresses import HopelessError, place
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


_REASONS = {
    errno.ECONNREFUSED: "nothing listens there",
    errno.ECONNRESET: "the connection was reset",
    errno.EPIPE: "the connection was closed",
    errno.ETIMEDOUT: "no answer",
    errno.ENETUNREACH: "there is no way to that network from here",
    errno.EADDRNOTAVAIL: "this machine has no address that can reach it (is IPv6 off here?)",
    errno.EAFNOSUPPORT: "this machine does not know such addresses (is IPv6 off here?)",
    errno.EACCES: "this machine does not let us connect there (a firewall, perhaps)",
    errno.EPERM: "this machine does not let us connect there (a firewall, perhaps)",
    errno.EINVAL: "no server can have this address",
}
_ADVICE = {  # for connections that were never made
    errno.ECONNREFUSED: "; start server.py there, or check --port",
    errno.ETIMEDOUT: "; check --server, and the firewalls on the way",
}
_FINAL = {errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM, errno.EINVAL}
NO_WAY = _FINAL | {errno.ENETUNREACH, errno.EADDRNOTAVAIL}  # what says nothing about the server


def lost(peer: str, error: OSError) -> ConnectionLostError:
    """Put the system's error about a connection into plain words; no other place does."""
    return ConnectionLostError(_in_words(peer, error))


def unreached(peer: str, error: OSError, *, by_name: bool) -> ConnectionLostError:
    """Put the error of a connection that was never made into words.

    It is a ``HopelessError`` where the reason lies here and stays; a host given ``by_name`` may
    have another address the next time.
    """
    final = error.errno in (_FINAL if by_name else NO_WAY)
    words = _in_words(peer, error) + _ADVICE.get(error.errno or 0, "")
    return (HopelessError if final else ConnectionLostError)(words)


def _in_words(peer: str, error: OSError) -> str:
    timed_out = isinstance(error, socket.timeout)
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return f"{peer}: {'no answer' if timed_out else reason}"


def peer_address(sock: socket.socket) -> Any:
    try:
        return sock.getpeername()
    except OSError:  # the peer has gone already
        return None


def peer_name(address: Any) -> str:
    return place(*address[:2]) if isinstance(address, tuple) else "the peer"


def open_socket(
    family: int, address: Any, until_connected: Callable[[socket.socket], bool]
) -> socket.socket:
    """Connect; ``until_connected`` waits for it and returns whether it was in time.

    Raises ``OSError``.
    """
    sock = begin_to_connect(family, address)
    try:
        if not until_connected(sock):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        check_connected(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def begin_to_connect(family: int, address: Any) -> socket.socket:
    """Return a socket that can be written to once it is connected. Raises ``OSError``."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _check(sock.connect_ex(address))
    except BaseException:
        sock.close()
        raise
    return sock


def check_connected(sock: socket.socket) -> None:
    """Raise the ``OSError`` that an attempt to connect has ended with, if any."""
    _check(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def _check(code: int) -> None:
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, os.strerror(code))
