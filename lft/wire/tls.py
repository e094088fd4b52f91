"""TLS 1.3: contexts from PEM files, and a layer between frames and a socket."""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import ssl
from pathlib import Path
from typing import Any, Iterable, NamedTuple

import config
from config import ServerSettings
from lft.wire.channel_binding import server_end_point
from lft.wire.frames import PLAIN
from lft.wire.sockets import Buffer
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    RemoteProtocolError,
    Side,
    TransferError,
    UsageError,
)

TlsContext = ssl.SSLContext


class TlsLayer:
    """Turns what we say into TLS records and back; knows no socket (RFC 8446).

    ``ssl.MemoryBIO`` and not a wrapped socket: a block leaves in one call instead of one for each
    record of 16 KB, and what is still to be read never hides where ``poll`` cannot see it.
    """

    def __init__(self, context: ssl.SSLContext, side: Side, host: str | None) -> None:
        """``host`` is the name that the server's certificate must be for; the client's only."""
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
        """Whether there is something to read that the socket will not tell of."""
        return self._in.pending > 0 or self._tls.pending() > 0

    def read_into(self, view: memoryview) -> int:
        """Fill ``view`` with what was in complete records; return the bytes, 0 if there are none.

        Raises ``ConnectionLostError`` when the peer has said that it is done.
        """
        filled = 0
        try:
            while filled < len(view):
                room: Any = view[filled:]  # to the annotations only a bytearray is a buffer
                size = int(self._tls.read(len(room), room))
                if not size:  # how Python tells of a close_notify that it has not answered
                    raise ssl.SSLZeroReturnError
                filled += size
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
        """Return the records that the socket has not got yet."""
        return self._out.read() if self._out.pending else b""

    def say_goodbye(self) -> None:
        """Tell the peer that nothing more will come: else it could not tell that from a cut."""
        with contextlib.suppress(ssl.SSLError):  # it wants to hear the peer's own: nobody waits
            self._tls.unwrap()

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER form."""
        return self._tls.getpeercert(binary_form=True)


def _tls_error(error: ssl.SSLError) -> TransferError:
    """Say in our own terms what OpenSSL says."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return AuthenticationError(f"the server's certificate is not to be trusted: {why}")
    reason = (error.reason or "broken").replace("_", " ").lower()
    strange = {"wrong version number", "http request", "unknown protocol", "https proxy request"}
    if reason in strange or "packet length" in reason:
        return RemoteProtocolError("the peer does not speak TLS", PLAIN)
    return RemoteProtocolError(f"TLS: {reason}", "tls")


MAX_PEM_FILE = 1024 * 1024  # bytes of a certificate chain or a key


def server_tls(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the server's side of TLS, with the certificate (and chain) and key in PEM form.

    Raises ``UsageError`` where they cannot be used; never asks for the password of a key.
    """
    _read_pem(cert, "TLS certificate", "CERTIFICATE")
    _read_pem(key, "TLS key", "PRIVATE KEY")
    asked = []

    def no_password() -> bytes:
        asked.append(True)  # to raise from here is a SystemError in Python 3.7
        return secrets.token_hex(16).encode()

    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    try:
        context.load_cert_chain(cert, key, password=no_password)
    except OSError as error:  # an SSLError is one
        if asked:
            raise UsageError(f"TLS key {key}: it is encrypted, and nobody can be asked") from None
        raise UsageError(f"TLS certificate {cert} and key {key}: {_tls_reason(error)}") from None
    return context


def _tls_reason(error: OSError) -> str:
    """Say in our own terms what OpenSSL says of a certificate with its key."""
    if not isinstance(error, ssl.SSLError):
        return str(error.strerror)
    reason = (error.reason or "damaged").replace("_", " ").lower()
    if "mismatch" in reason or reason == "no certificate assigned":  # RSA and ECDSA, say
        return "they do not belong together"
    return reason


def certificate_binding(cert: Path) -> bytes:
    """Return the end point that clients of ``server_tls(cert, ...)`` see. Raises ``UsageError``."""
    text = _read_pem(cert, "TLS certificate", "CERTIFICATE")
    try:
        return server_end_point(base64.b64decode("".join(text.split()), validate=True))
    except (ValueError, AuthenticationError):
        raise UsageError(f"TLS certificate {cert}: damaged") from None


def client_tls(ca: Path | None = None) -> ssl.SSLContext:
    """Return the client's side of TLS: chain and host name are checked, always.

    ``ca``, certificates in PEM form, stands in place of what the system trusts, not beside it.
    Raises ``UsageError`` where it cannot be used.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # which means: check both
    if ca is None:
        context.load_default_certs()
        return context
    _read_pem(ca, "CA file", "CERTIFICATE")
    try:
        context.load_verify_locations(ca)
    except OSError:  # an SSLError is one
        raise UsageError(f"CA file {ca}: damaged") from None
    return context


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    """Allow TLS 1.3 only, 1.2 where there is no 1.3; no compression, no renegotiation."""
    if hasattr(context, "minimum_version"):
        newest = ssl.TLSVersion.TLSv1_3 if ssl.HAS_TLSv1_3 else ssl.TLSVersion.TLSv1_2
        context.minimum_version = newest
    else:  # Python 3.7 with OpenSSL 1.1.0f or older
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.options |= ssl.OP_NO_COMPRESSION | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    return context


def _read_pem(path: Path, what: str, kind: str) -> str:
    """Return the first ``kind`` in a PEM file. Raises ``UsageError`` that says ``what`` it is."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_PEM_FILE).decode("latin-1")  # what is around the PEM is a comment
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}") from None
    found = re.search(f"-----BEGIN [A-Z0-9 ]*{kind}-----(.*?)-----END", text, re.DOTALL)
    if not found:
        raise UsageError(f"{what} {path}: there is no {kind.lower()} in PEM form in it")
    return found[1]


class Tls(NamedTuple):
    """What the server shows to clients that speak TLS."""

    context: ssl.SSLContext
    binding: bytes  # what a login is bound to (RFC 5929)

    @classmethod
    def load(cls, settings: ServerSettings) -> Tls:
        """Read the certificate and the key that the settings name. Raises ``UsageError``."""
        cert, key = settings.tls_cert, settings.tls_key
        if cert is None or key is None:
            raise UsageError("--tls-cert and --tls-key go together")
        for _ in range(config.CERTIFICATE_TRIES):
            binding = certificate_binding(cert)
            context = server_tls(cert, key)
            if certificate_binding(cert) == binding:  # else somebody has just replaced it
                return cls(context, binding)
        raise UsageError(f"TLS certificate {cert}: it is being replaced all the time")
