"""TLS between the frames and a socket (RFC 8446)."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Iterable

from lft.wire.frames import encode
from lft.wire.sockets import Buffer
from lft.wire.stream import PLAIN, Stream, scratch
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    Error,
    RemoteProtocolError,
    Side,
    TransferError,
)

RECORD = 2**14  # bytes of data in a record, at most (RFC 8446, 5.1)
MOST_WITHOUT_DATA = 256 * 1024  # bytes of records in a row that carry nothing: a handshake has a
# tenth of that, and a peer that sends KeyUpdate after KeyUpdate (RFC 8446, 4.6.3) has no end


class TlsLayer:
    """Turns bytes into TLS records and back; knows no socket.

    ``ssl.MemoryBIO`` rather than a wrapped socket: a block leaves in one call instead of one for
    each record of 16 KB, and what is still to be read never hides where ``poll`` cannot see it.
    """

    def __init__(self, context: ssl.SSLContext, side: Side, host: str | None) -> None:
        """``host`` is the name that the server's certificate must be for; clients only."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = side is Side.SERVER
        self._tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=host)
        self.ready = False

    def shake_hands(self) -> None:
        """Go on with the handshake as far as what has come allows. Raises ``TransferError``."""
        try:
            self._tls.do_handshake()
            self.ready = True
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise _tls_error(error) from error

    def feed(self, data: Any) -> None:
        """Take what came from the peer's socket, in any buffer."""
        self._in.write(data)

    @property
    def pending(self) -> bool:
        """Whether bytes can be read without feeding more."""
        return self._in.pending > 0 or self._tls.pending() > 0

    def read_into(self, view: memoryview) -> int:
        """Fill ``view`` with what was in complete records; return the bytes, 0 if there are none.

        Raises ``ConnectionLostError`` when the peer has said that no more will come.
        """
        read: Any = self._tls.read  # its annotations take only a bytearray
        size, filled = len(view), 0
        try:
            while filled < size:  # a turn for each record
                came = read(size - filled, view[filled:])
                if not came:  # Python's way to report a close_notify that it has not answered
                    raise ssl.SSLZeroReturnError
                filled += came
        except ssl.SSLWantReadError:
            return filled
        except ssl.SSLZeroReturnError:
            if filled:
                return filled
            raise ConnectionLostError("the peer closed the connection") from None
        except ssl.SSLError as error:
            raise _tls_error(error) from error
        return filled

    def write(self, parts: Iterable[Buffer]) -> None:
        """Put ``parts`` into records. Raises ``TransferError`` once something has gone wrong."""
        try:
            for part in parts:
                data: Any = part  # as above
                self._tls.write(data)
        except ssl.SSLError as error:
            raise _tls_error(error) from error

    def outgoing(self) -> bytes:
        """Take the records that are to be sent."""
        return self._out.read() if self._out.pending else b""

    def say_goodbye(self) -> None:
        """Tell the peer that no more will come; otherwise it could not tell an end from a cut."""
        with contextlib.suppress(ssl.SSLError):  # OpenSSL wants the peer's goodbye; we do not wait
            self._tls.unwrap()

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER form."""
        return self._tls.getpeercert(binary_form=True)


_SPEAK_TLS = "TLS is spoken here: add --tls, or --ca FILE where the certificate is self-signed"

# By the verify code of OpenSSL (x509_vfy.h)
_OWN_AUTHORITY = "if it is the server's own, give --ca a file with it, or with its issuer's"
_OTHER_NAME = "give --server the name that it is for"
_VERIFY_HINTS = {
    **dict.fromkeys((2, 18, 19, 20, 21), _OWN_AUTHORITY),
    **dict.fromkeys((62, 64), _OTHER_NAME),
    9: "is the clock wrong here?",
    10: "the server needs a new one, unless the clock is wrong here",
}
_NO_COMMON_VERSION = {
    "tlsv1 alert protocol version",
    "unsupported protocol",
    "no protocols available",
}
_NOT_TLS = {"wrong version number", "http request", "unknown protocol", "https proxy request"}


def _tls_error(error: ssl.SSLError) -> TransferError:
    """Put an error of OpenSSL into the project's words, with what may help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why, hint = error.verify_message.rstrip("."), _VERIFY_HINTS.get(error.verify_code)
        hint = f"; {hint}" if hint else ""
        return AuthenticationError(f"the server's certificate is not to be trusted: {why}{hint}")
    reason = (error.reason or "broken").replace("_", " ").lower()
    if reason in _NOT_TLS or "packet length" in reason:
        return RemoteProtocolError("the peer does not speak TLS", PLAIN)
    if reason in _NO_COMMON_VERSION:
        why = "the two sides have no version of it in common"
        return RemoteProtocolError(f"TLS: {reason}: {why}", "version")
    distrusted = "alert" in reason and (" ca" in reason or "certificate" in reason)
    why = ": the client does not trust the certificate" if distrusted else ""
    return RemoteProtocolError(f"TLS: {reason}{why}", "tls")


class TlsStream(Stream):
    """A stream whose bytes go through a ``TlsLayer``. What waits in it are records."""

    secure = True

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        side: Side,
        context: ssl.SSLContext,
        host: str | None,
        plain_words: bytes = b"",
    ) -> None:
        """``plain_words`` are for a client that speaks no TLS; without any, ours of the wire."""
        super().__init__(sock, peer)
        self._layer = TlsLayer(context, side, host)
        self._side = side
        self._plain_words = plain_words or encode(Error(PLAIN, _SPEAK_TLS))
        self._without_data = 0  # bytes received since there was something to read

    @property
    def certificate(self) -> bytes | None:
        return self._layer.certificate

    @property
    def pending(self) -> bool:
        return self._layer.pending

    def shake_hands(self) -> bool:
        if not self._layer.ready:
            self._feed()
            self._continue_handshake()
        return self._layer.ready

    def _feed(self) -> int:
        """Hand the layer what has come; return the bytes, 0 if nothing has."""
        room = scratch()
        size = super().receive_into(room)
        self._layer.feed(room[:size])
        self._without_data += size
        return size

    def _check_data(self, came: int) -> None:
        """Raise ``RemoteProtocolError`` for records that keep us busy and bring nothing."""
        if came:
            self._without_data = 0
        elif self._without_data > MOST_WITHOUT_DATA:
            raise RemoteProtocolError("TLS records without end that carry no data", "tls")

    def _continue_handshake(self) -> None:
        try:
            self._layer.shake_hands()
        except RemoteProtocolError as error:
            if error.code == PLAIN and self._side is Side.SERVER:  # the client can read this
                super().push(self._plain_words)
            raise
        finally:  # an alert, too, should leave
            super().push(self._layer.outgoing())

    def whole_chunk(self, size: int) -> int:
        """Return ``size``, rounded up to whole records.

        A chunk of 50 KB is three of them and a short one, which costs as many calls on the other
        side: 3 % of the time of 1 GiB.
        """
        return -(-size // RECORD) * RECORD

    def push(self, *parts: Buffer) -> None:
        if self._layer.ready:  # without a handshake, last words cannot be said
            self._layer.write(part for part in parts if part)
            super().push(self._layer.outgoing())

    def hold(self, *parts: Buffer) -> None:
        if self._layer.ready:
            self._layer.write(part for part in parts if part)
            super().push(self._layer.outgoing())

    def receive(self, most: int) -> bytes:
        view = memoryview(bytearray(most))
        return bytes(view[: self.receive_into(view)])

    def receive_into(self, *views: memoryview) -> int:
        filled = 0
        for view in views:
            try:
                came = self._fill(view)
            except ConnectionLostError:
                if not filled:  # otherwise the next call finds the end again
                    raise
                break
            filled += came
            if came < len(view):
                break
        return filled

    def _fill(self, view: memoryview) -> int:
        """Fill one view; return the bytes."""
        layer = self._layer
        filled = layer.read_into(view) if layer.ready else 0
        left = len(view) + MOST_WITHOUT_DATA  # of records that bring a byte now and then, in a call
        try:
            while filled < len(view) and left > 0:
                size = self._feed()
                if not size:
                    break
                left -= size
                if not layer.ready:
                    self._continue_handshake()
                came = layer.read_into(view[filled:]) if layer.ready else 0
                self._check_data(came)
                filled += came
        except ConnectionLostError:
            if not filled:  # otherwise the next call finds the end again
                raise
        return filled

    def finish(self) -> None:
        if self._layer.ready:
            self._layer.say_goodbye()
            with contextlib.suppress(ConnectionLostError):
                super().push(self._layer.outgoing())
        super().finish()
