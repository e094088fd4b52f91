"""The bytes of one socket, in and out, without ever waiting."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import deque
from typing import Collection

from lft.wire.sockets import Buffer, lost
from protocol import ConnectionLostError

PLAIN = "plain"  # the code of an error: no TLS where it should be
_MOST_PARTS = 64  # handed to the system in one call, which takes 1024 at most
_DISCARDED_TOGETHER = 16  # reads; a peer that floods us must not keep the caller
_SCRATCH = 256 * 1024  # bytes
_threads_own = threading.local()


def scratch() -> memoryview:
    """Return this thread's buffer for bytes that are opened, or thrown away, at once.

    One for each thread, not for each connection: a thousand idle connections would hold 256 MB.
    """
    if not hasattr(_threads_own, "scratch"):
        _threads_own.scratch = memoryview(bytearray(_SCRATCH))
    view: memoryview = _threads_own.scratch
    return view


class Stream:
    """The bytes of one socket, in and out; what the system does not take yet waits here.

    ``TlsStream`` is the same with TLS. Every method raises ``ConnectionLostError`` when the
    connection is lost; the receiving ones at the end of the stream, too.
    """

    secure = False  # whether an eavesdropper could neither read nor change the bytes

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.unsent = 0  # bytes in _out
        self._out: deque[memoryview] = deque()
        self._socket = sock
        self.peer = peer

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER form, if there is one."""
        return None

    @property
    def pending(self) -> bool:
        """Whether bytes can be received that a poll of the socket does not show."""
        return False

    def shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is over."""
        return True

    def whole_chunk(self, size: int) -> int:
        """Return how many bytes to hand over at a time where ``size`` are wanted: here just these.

        Over TLS they fill whole records.
        """
        return size

    def push(self, *parts: Buffer) -> None:
        """Send as much of ``parts`` as the system takes now; the rest waits for ``flush``."""
        size = sum(map(len, parts))
        sent = 0 if self._out else self._hand_over(parts)
        if sent < size:
            Stream.hold(self, *parts)
            self._forget(sent)

    def hold(self, *parts: Buffer) -> None:
        """Have ``parts`` wait for ``flush``, which sends many with one call."""
        self._out += [memoryview(part) for part in parts if part]
        self.unsent += sum(map(len, parts))

    def flush(self) -> bool:
        """Send as much of what waits as the system takes now; return whether all is out."""
        while self._out:
            sent = self._hand_over(list(itertools.islice(self._out, _MOST_PARTS)))
            if not sent:
                return False
            self._forget(sent)
        return True

    def _hand_over(self, parts: Collection[Buffer]) -> int:
        """Hand ``parts`` to the system in one call; return the bytes it took."""
        try:
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise lost(self.peer, error) from error

    def _forget(self, sent: int) -> None:
        """Drop the first ``sent`` bytes of what waits: the system has them."""
        self.unsent -= sent
        if not self.unsent:
            self._out.clear()
            return
        while sent:
            part = self._out.popleft()
            size = len(part)
            if sent < size:
                self._out.appendleft(part[sent:])
                return
            sent -= size

    def receive(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none if there are none yet."""
        try:
            data = self._socket.recv(most)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise lost(self.peer, error) from error
        if not data:
            raise ConnectionLostError(f"{self.peer} closed the connection")
        return data

    def receive_into(self, *views: memoryview) -> int:
        """Fill ``views``, one behind the other, with what is here.

        Returns the bytes, 0 if there are none yet. Views that are not filled mean that there was
        no more.
        """
        try:
            size = self._socket.recvmsg_into(views)[0]
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise lost(self.peer, error) from error
        if not size:
            raise ConnectionLostError(f"{self.peer} closed the connection")
        return size

    def discard(self) -> bool:
        """Throw away what has come, up to a limit; return whether the stream has ended."""
        room = scratch()
        try:
            for _ in range(_DISCARDED_TOGETHER):
                if not Stream.receive_into(self, room):  # with TLS, too: it need not be opened
                    return False
        except ConnectionLostError:
            return True
        return False

    def finish(self) -> None:
        """End the stream to the peer, whose own still comes.

        While something is unsent this does nothing: repeat it once that has been flushed.
        """
        if self.unsent:
            return  # after the shutdown it could not leave, and the socket would claim to have room
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer was faster
