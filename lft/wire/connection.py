"""One socket, the dialogue on it, and the bytes on their way out."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Collection, Iterable

from lft.clock import Deadline
from lft.terminal import printable
from lft.wire.frames import PLAIN, Ack, FrameReader, encode
from lft.wire.sockets import (
    Buffer,
    Waker,
    lost,
    peer_address,
    peer_name,
    wait,
)
from lft.wire.tcp import Tcp
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    Dialogue,
    Error,
    Message,
    RemoteProtocolError,
    SessionLostError,
    Side,
    State,
    TransferError,
)

if TYPE_CHECKING:  # ssl is slow to load, and most runs do without
    import ssl

    from lft.wire.tls import TlsLayer

_MOST_PARTS = 64  # handed to the system in one call; it takes 1024 at most
TLS_READ = 256 * 1024  # bytes one call may take from a socket that speaks TLS
_rooms = threading.local()


def _tls_layer(context: ssl.SSLContext, side: Side, host: str | None) -> TlsLayer:
    from lft.wire.tls import TlsLayer  # noqa: PLC0415  (it loads ssl)

    return TlsLayer(context, side, host)


def _room() -> memoryview:
    """Return this thread's buffer for what comes before it is opened.

    One for each thread and not for each connection: a thousand idle ones would take 256 MB.
    """
    if not hasattr(_rooms, "view"):
        _rooms.view = memoryview(bytearray(TLS_READ))
    view: memoryview = _rooms.view
    return view


class Connection:
    """One socket, the dialogue on it, and the bytes on their way out.

    The socket never blocks; who wants to wait calls ``wait``. Owned by one thread at a time: there
    is no lock, and only ``cut`` may be called by a thread that is not the owner.
    """

    def __init__(
        self,
        sock: socket.socket,
        side: Side,
        tls: ssl.SSLContext | None = None,
        host: str | None = None,
    ) -> None:
        self._socket = sock
        self._tls = _tls_layer(tls, side, host) if tls else None
        self._frames = FrameReader()
        self._out: deque[memoryview] = deque()
        self.unsent = 0  # bytes in _out
        self.dialogue = Dialogue(side)
        self.address = sock.family, peer_address(sock)  # to connect to it again
        self.peer = peer_name(self.address[1])
        sock.setblocking(False)
        self.tcp = Tcp(sock)
        self.tcp.tune()

    def __repr__(self) -> str:
        return f"<Connection to {self.peer}, {self.state.value}, {self.unsent} bytes unsent>"

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def state(self) -> State:
        return self.dialogue.state

    @property
    def mid_frame(self) -> bool:
        return len(self._frames) > 0

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read or change what is said."""
        return self._tls is not None

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER form, where there is one."""
        return self._tls.certificate if self._tls else None

    @property
    def pending(self) -> bool:
        """Whether something can be received that the socket will not tell of."""
        return self._tls is not None and self._tls.pending

    # -- out

    def send(self, message: Message) -> None:
        """Say ``message`` as far as the socket takes it now; ``flush`` sends the rest."""
        self.dialogue.sent(message)
        self.push(encode(message))

    def push(self, *parts: Buffer) -> None:
        """Add bytes to what is on its way out and send what the socket takes now."""
        if self._tls:
            if not self._tls.ready:
                return  # last words to somebody who has not shaken hands: they cannot be said
            self._tls.write(part for part in parts if part)
            parts = (self._tls.outgoing(),)
        self._push_raw(*parts)

    def _push_raw(self, *parts: Buffer) -> None:
        size = sum(map(len, parts))
        sent = 0 if self._out else self._send_some(parts)
        if sent < size:
            self._out += [memoryview(part) for part in parts if part]
            self.unsent += size
            self._drop(sent)

    def flush(self) -> bool:
        """Send what the socket takes without waiting; return whether everything is out."""
        while self._out:
            sent = self._send_some(list(itertools.islice(self._out, _MOST_PARTS)))
            if not sent:
                return False
            self._drop(sent)
        return True

    def _send_some(self, parts: Collection[Buffer]) -> int:
        """Hand ``parts`` to the system in one call; return the bytes it took."""
        try:
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise lost(self.peer, error) from error

    def _drop(self, sent: int) -> None:
        self.unsent -= sent
        while sent:
            part = self._out.popleft()
            if sent < len(part):
                self._out.appendleft(part[sent:])
            sent -= min(sent, len(part))

    # -- in

    def receive(self) -> Message | None:
        """Return the next message, or ``None`` if it is not all here yet. Never waits.

        Raises ``ConnectionLostError`` at the end of the stream, ``RemoteProtocolError`` for a
        message that is malformed or out of place.
        """
        frame = self._next_frame()
        if isinstance(frame, Ack):
            raise RemoteProtocolError("an acknowledgement out of place")
        if frame is not None:
            self.dialogue.received(frame)
        return frame

    def receive_acks(self) -> Iterable[Ack]:
        """Give the acks that are here. Raises as ``receive`` does, and what an ERROR says."""
        self._frames.takes_acks = True
        frame = self._next_frame()
        while frame is not None:
            if isinstance(frame, Ack):
                yield frame
            else:
                self.dialogue.received(frame)
                raise_error(frame)
            frame = self._frames.next()

    def _next_frame(self) -> Message | Ack | None:
        frame = self._frames.next()
        while frame is None:
            data = self._receive_some()
            if data is None:
                return None
            self._frames.feed(data)
            frame = self._frames.next()
        return frame

    def _receive_some(self) -> bytes | None:
        if self._tls:
            view = memoryview(bytearray(16 * 1024))
            size = self._open_into(self._tls, view)
            return bytes(view[:size]) if size else None
        try:
            data = self._socket.recv(16 * 1024)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise lost(self.peer, error) from error
        if not data:
            raise ConnectionLostError(f"{self.peer} closed the connection")
        return data

    def receive_into(self, view: memoryview) -> int:
        """Fill ``view`` with what is here; return the bytes, 0 when it would have to wait.

        Raises ``ConnectionLostError`` at the end of the stream. Less than the view has room for
        means that there was no more.
        """
        if self.mid_frame:  # the first block came in one piece with ATTACH
            return self._frames.take_into(view)
        return self._open_into(self._tls, view) if self._tls else self._raw_into(view)

    def _open_into(self, tls: TlsLayer, view: memoryview) -> int:
        """Fill ``view`` from what the TLS layer has, and that from the socket."""
        filled = tls.read_into(view) if tls.ready else 0
        try:
            while filled < len(view) and self._feed(tls):
                if not tls.ready:
                    self._shake_hands(tls)
                if tls.ready:
                    filled += tls.read_into(view[filled:])
        except ConnectionLostError:
            if not filled:  # else the next call finds it again: what came before must not be lost
                raise
        return filled

    def _feed(self, tls: TlsLayer) -> bool:
        """Hand the TLS layer what has come; return whether there was something."""
        room = _room()
        came = self._raw_into(room)
        tls.feed(room[:came])
        return came > 0

    def _shake_hands(self, tls: TlsLayer) -> None:
        try:
            tls.shake_hands()
        except RemoteProtocolError as error:
            if error.code == PLAIN and self.dialogue.side is Side.SERVER:  # it can read this
                self._push_raw(encode(Error(PLAIN, "TLS is spoken here: add --tls")))
            raise
        finally:  # an alert, too, should leave
            self._push_raw(tls.outgoing())

    def secure_channel(self, timeout: float) -> None:
        """Shake hands, waiting for the server; for the client only. Without TLS there is nothing.

        Raises ``AuthenticationError`` for a certificate that is not to be trusted.
        """
        deadline = Deadline(timeout)
        if self._tls:
            self._shake_hands(self._tls)
        while self._tls and not self._tls.ready:
            if deadline.passed:
                raise ConnectionLostError(f"{self.peer} did not answer for {timeout:g} s")
            self.wait(deadline.left(), write=not self.flush())
            self._feed(self._tls)
            self._shake_hands(self._tls)

    def _raw_into(self, view: memoryview) -> int:
        try:
            size = self._socket.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise lost(self.peer, error) from error
        if not size:
            raise ConnectionLostError(f"{self.peer} closed the connection")
        return size

    # -- waiting and ending

    def wait(self, timeout: float, *, write: bool = False, waker: Waker | None = None) -> bool:
        """Wait until there is something to read (or room to write), or ``waker`` rings.

        Takes seconds; returns whether the socket is ready. May block: never call it under a lock.
        """
        return self.pending or wait(self._socket, timeout, write=write, waker=waker)

    def call(self, message: Message, timeout: float) -> Message:
        """Send ``message``, wait for the answer. Takes seconds; for the client only."""
        self.send(message)
        return self.answer(timeout)

    def answer(self, timeout: float) -> Message:
        """Wait for one message. Raises what an ERROR says, ``ConnectionLostError`` in silence."""
        deadline = Deadline(timeout)
        while True:
            message = self.receive()
            if message is not None:
                raise_error(message)
                return message
            if deadline.passed:
                raise ConnectionLostError(f"{self.peer} did not answer for {timeout:g} s")
            self.wait(deadline.left(), write=not self.flush())

    def finish(self) -> None:
        """Say that nothing more will come from us; the peer can still be heard.

        What finds no room stays unsent: then say it again when that has been flushed.
        """
        if self._tls and self._tls.ready:
            self._tls.say_goodbye()
            with contextlib.suppress(ConnectionLostError):
                self._push_raw(self._tls.outgoing())
        if self.unsent:
            return  # after the shutdown it could not leave, and the socket would claim to have room
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer was faster

    def discard(self) -> bool:
        """Throw away what has come, up to a limit; return whether the peer has closed."""
        room = _room()  # what it says is not even opened
        try:
            for _ in range(16):  # a peer that floods us must not keep the caller here
                if not self._raw_into(room):
                    return False
        except ConnectionLostError:
            return True
        return False

    def cut(self) -> None:
        """Wake the owner with an end of stream, from any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # not connected any more: nobody waits

    def close(self) -> None:
        """Give the socket back to the system."""
        self._socket.close()


_ERRORS: dict[str, type[TransferError]] = {
    "authentication": AuthenticationError,
    "session": SessionLostError,
    "transfer": ConnectionLostError,
    "shutdown": ConnectionLostError,
    "timeout": ConnectionLostError,
    "busy": ConnectionLostError,
    "internal": ConnectionLostError,
}


def raise_error(message: Message) -> None:
    """Raise what the server says in an ERROR; any other message passes."""
    if isinstance(message, Error):
        raise _ERRORS.get(message.code, RemoteProtocolError)(printable(message.reason))
