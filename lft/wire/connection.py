"""A dialogue with a peer over one socket: messages, acknowledgements, blocks."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Iterable

from lft.clock import Deadline
from lft.terminal import printable
from lft.wire.channel import Channel
from lft.wire.frames import Ack, FrameReader, encode
from lft.wire.stream import PLAIN
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    Dialogue,
    Error,
    Message,
    RemoteProtocolError,
    SentAwayError,
    SessionLostError,
    Side,
    SilenceError,
    State,
    TransferError,
    TransferOverError,
    UsageError,
)

if TYPE_CHECKING:  # slow to load, and most runs do without
    import ssl

_READ = 16 * 1024  # bytes of messages, or of acknowledgements, in one call


class Connection(Channel):
    """A dialogue with a peer over one socket: messages, acknowledgements, blocks.

    Only ``wait`` and what is built on it (``call``, ``answer``, ``secure_channel``) block.
    A connection is owned by one thread at a time, so there is no lock; other threads may only call
    ``cut`` and ask ``tcp``.
    """

    def __init__(
        self,
        sock: socket.socket,
        side: Side,
        tls: ssl.SSLContext | None = None,
        host: str | None = None,
    ) -> None:
        """With ``tls``, a client names the ``host`` that the server's certificate must be for."""
        super().__init__(sock, side, tls, host)
        self.dialogue = Dialogue(side)
        self.packs = False  # whether the peer takes manifests compressed
        self._frames = FrameReader()

    def __repr__(self) -> str:
        return f"<Connection to {self.peer}, {self.state.value}, {self.unsent} bytes unsent>"

    @property
    def state(self) -> State:
        return self.dialogue.state

    @property
    def mid_frame(self) -> bool:
        """Whether bytes that were received wait here: part of a frame, or the next frames."""
        return len(self._frames) > 0

    # -- out

    def send(self, message: Message) -> None:
        """Send as much of ``message`` as the socket takes now; ``flush`` sends the rest."""
        self.dialogue.sent(message)
        self._stream.push(encode(message, packs=self.packs))

    # -- in

    def receive(self) -> Message | None:
        """Return the next message, or ``None`` if it is not complete yet.

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
        """Give the acknowledgements that are here.

        Raises what ``receive`` raises, and what an ERROR says.
        """
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
            data = self._stream.receive(_READ)
            if not data:
                return None
            self._frames.feed(data)
            frame = self._frames.next()
        return frame

    def receive_into(self, *views: memoryview) -> int:
        """Fill ``views``, one behind the other, with what is here.

        Returns the bytes, 0 if there are none yet. Views that are not filled mean that there was
        no more. Raises ``ConnectionLostError`` at the end of the stream.
        """
        if len(self._frames):  # the first block came in one piece with ATTACH
            return sum(map(self._frames.take_into, views))
        return self._stream.receive_into(*views)

    # -- waiting

    def secure_channel(self, timeout: float) -> None:
        """Shake hands, where TLS is spoken; for the client only. Blocks.

        Raises ``AuthenticationError`` for a certificate that is not to be trusted.
        """
        deadline = Deadline(timeout)
        while not self._stream.shake_hands():
            self._wait_for_peer(deadline, timeout)

    def call(self, message: Message, timeout: float) -> Message:
        """Send ``message`` and return the answer; for the client only. Blocks."""
        self.send(message)
        return self.answer(timeout)

    def answer(self, timeout: float) -> Message:
        """Return the next message; for the client only. Blocks.

        Raises what an ERROR says, and ``ConnectionLostError`` after ``timeout`` seconds of silence.
        """
        deadline = Deadline(timeout)
        message = self.receive()
        while message is None:
            self._wait_for_peer(deadline, timeout)
            message = self.receive()
        raise_error(message)
        return message

    def _wait_for_peer(self, deadline: Deadline, timeout: float) -> None:
        """Wait for bytes, and send what is unsent. Raises ``ConnectionLostError``."""
        if deadline.passed:
            raise SilenceError(f"{self.peer} did not answer for {timeout:g} s")
        self.wait(deadline.left(), write=not self.flush())


_ERRORS: dict[str, type[TransferError]] = {
    "authentication": AuthenticationError,
    PLAIN: UsageError,
    "session": SessionLostError,
    "transfer": TransferOverError,
    "shutdown": SentAwayError,
    "timeout": ConnectionLostError,
    "busy": SentAwayError,
    "internal": ConnectionLostError,
}


def raise_error(message: Message) -> None:
    """Raise what the server says in an ERROR; any other message passes."""
    if isinstance(message, Error):
        raise _ERRORS.get(message.code, RemoteProtocolError)(printable(message.reason))
