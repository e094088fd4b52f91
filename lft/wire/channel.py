"""The bytes of one socket, with TLS or without, for one owner at a time; nothing of a protocol."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from lft.wire.proxy_protocol import Origin
from lft.wire.sockets import Buffer, Waker, lost, peer_address, peer_name, wait
from lft.wire.stream import Stream
from lft.wire.tcp import Tcp
from protocol import Side

if TYPE_CHECKING:  # slow to load, and most runs do without
    import ssl


class Channel:
    """The bytes of one socket, in and out, with TLS or without.

    Only ``wait`` blocks. A channel is owned by one thread at a time, so there is no lock; other
    threads may only call ``cut`` and ask ``tcp``.
    """

    def __init__(
        self,
        sock: socket.socket,
        side: Side,
        tls: ssl.SSLContext | None = None,
        host: str | None = None,
        plain_words: bytes = b"",
    ) -> None:
        """With ``tls``, a client names the ``host`` that the server's certificate must be for.

        A server says its ``plain_words`` to a client that speaks no TLS.
        """
        self.address = sock.family, peer_address(sock)  # to connect to it again
        self.origin: Any = self.address[1]  # where the peer is: elsewhere if a balancer hands it on
        self.peer = peer_name(self.origin)
        self.tcp = Tcp(sock)
        self._socket = sock
        self._stream = Stream(sock, self.peer)
        if tls:
            from lft.wire.tls_stream import TlsStream  # noqa: PLC0415  (it loads ssl)

            self._stream = TlsStream(sock, self.peer, side, tls, host, plain_words)
        sock.setblocking(False)
        self.tcp.tune()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.peer}, {self.unsent} bytes unsent>"

    def introduce(self, origin: Origin) -> None:
        """Note where the peer is, of a new connection that a balancer hands on."""
        self.origin = origin
        self.peer = self._stream.peer = peer_name(origin)

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def secure(self) -> bool:
        """Whether an eavesdropper can neither read nor change what is said."""
        return self._stream.secure

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER form, if there is one."""
        return self._stream.certificate

    @property
    def unsent(self) -> int:
        """The bytes that ``flush`` has still to send."""
        return self._stream.unsent

    @property
    def pending(self) -> bool:
        """Whether something can be received that a poll of the socket does not show."""
        return self._stream.pending

    def whole_chunk(self, size: int) -> int:
        """Return how many bytes of a block to hand over at a time, where ``size`` are wanted."""
        return self._stream.whole_chunk(size)

    def push(self, *parts: Buffer) -> None:
        """Send as much of ``parts`` as the socket takes now; ``flush`` sends the rest."""
        self._stream.push(*parts)

    def hold(self, *parts: Buffer) -> None:
        """Have ``parts`` wait for ``flush``, which sends many with one call."""
        self._stream.hold(*parts)

    def flush(self) -> bool:
        """Send as much of what is unsent as the socket takes now; return whether all is out."""
        return self._stream.flush()

    def send_file(self, descriptor: int, offset: int, most: int) -> int | None:
        """Send up to ``most`` bytes of a file from ``offset``; return how many those were.

        ``None`` means that the socket has no room now, 0 that the file ends there. Nothing may be
        unsent. Without TLS the system copies them, and they never come here. Raises ``OSError`` for
        what the disk says, ``ConnectionLostError`` for the connection.
        """
        if self.secure:
            data = os.pread(descriptor, most, offset)
            self._stream.push(data)
            return len(data)
        try:
            return os.sendfile(self.fileno(), descriptor, offset, most)
        except (BlockingIOError, InterruptedError):
            return None
        except (BrokenPipeError, ConnectionError) as error:
            raise lost(self.peer, error) from error

    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none if there are none yet.

        Raises ``ConnectionLostError`` at the end of the stream.
        """
        return self._stream.receive(most)

    def receive_into(self, *views: memoryview) -> int:
        """Fill ``views``, one behind the other, with what is here.

        Returns the bytes, 0 if there are none yet. Views that are not filled mean that there was
        no more. Raises ``ConnectionLostError`` at the end of the stream.
        """
        return self._stream.receive_into(*views)

    def wait(self, timeout: float, *, write: bool = False, waker: Waker | None = None) -> bool:
        """Wait until there is something to read (or room to write), or ``waker`` rings.

        Returns whether the socket is ready. Blocks for up to ``timeout`` seconds: never call it
        under a lock.
        """
        return self.pending or wait(self._socket, timeout, write=write, waker=waker)

    def finish(self) -> None:
        """Say that no more will come from this side; the peer can still be heard.

        While something is unsent this says less or nothing: repeat it once that has been flushed.
        """
        self._stream.finish()

    def discard(self) -> bool:
        """Throw away what has come, up to a limit; return whether the peer has closed."""
        return self._stream.discard()

    def cut(self) -> None:
        """Wake the owner with an end of stream (any thread)."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # no longer connected, so nothing waits for it

    def close(self) -> None:
        """Give the socket back to the system."""
        self._socket.close()
