"""Sends one response after the other on a connection, as far as the client reads them."""

from __future__ import annotations

from lft.web.response import FileSlice, Response, Stream, encode_head
from lft.wire.channel import Channel
from protocol import ConnectionLostError

_CHUNK_END, _LAST_CHUNK = b"\r\n", b"0\r\n\r\n"


class Outgoing:
    """The response that is being sent. Owned by the owner of its connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._slice: FileSlice | None = None
        self._sent = 0  # bytes of that slice
        self.stream: Stream | None = None

    @property
    def busy(self) -> bool:
        """Whether a response is not out yet."""
        return bool(self._channel.unsent or self._slice or self.stream)

    @property
    def sends_file(self) -> bool:
        """Whether the next bytes are those of a file."""
        return self._slice is not None

    @property
    def wants_room(self) -> bool:
        """Whether it goes on as soon as the client reads, and not before."""
        return bool(self._channel.unsent or self._slice)

    def begin(self, response: Response, connection: str, *, bodiless: bool) -> None:
        """Send the head and as much of the body as the client has room for.

        A ``bodiless`` response (to HEAD) has the head of one with a body. What becomes of the
        ``connection`` is told where it is not empty.
        """
        try:
            head = encode_head(response, connection)
        except BaseException:
            _close(response)
            raise
        body = response.body
        if bodiless or isinstance(body, bytes):
            _close(response)
            self._channel.push(head, b"" if bodiless or not isinstance(body, bytes) else body)
            return
        if isinstance(body, FileSlice) and not body.length:
            body.close()
        elif isinstance(body, FileSlice):
            self._slice, self._sent = body, 0
        elif isinstance(body, Stream):
            self.stream = body
        self._channel.hold(head)

    def go_on(self, most: int) -> int:
        """Send what can be sent now, ``most`` bytes of a file; return how many those were.

        Raises ``ConnectionLostError``, and ``OSError`` for what the disk says of a file.
        """
        if not self._channel.flush():
            return 0
        if self._slice:
            return self._send_slice(self._slice, most)
        if self.stream:
            return self._send_piece(self.stream)
        return 0

    def _send_slice(self, part: FileSlice, most: int) -> int:
        left = min(most, part.length - self._sent)
        sent = self._channel.send_file(part.descriptor, part.offset + self._sent, left)
        if sent is None:
            return 0
        if not sent:
            raise ConnectionLostError("a file became shorter while it was sent")
        self._sent += sent
        if self._sent == part.length:
            self.release()
        return sent

    def _send_piece(self, stream: Stream) -> int:
        piece = stream.more()
        if piece is None:
            self.release()
            self._channel.push(_LAST_CHUNK)
        elif piece:
            self._channel.push(b"%x\r\n" % len(piece), piece, _CHUNK_END)
        return len(piece or b"")

    def release(self) -> None:
        """Let go of file and stream."""
        part, self._slice = self._slice, None
        stream, self.stream = self.stream, None
        if part:
            part.close()
        if stream:
            stream.close()


def _close(response: Response) -> None:
    if not isinstance(response.body, bytes):
        response.body.close()
