"""KeyUpdates of TLS 1.3 (RFC 8446, 4.6.3), which Python's ssl does not offer."""

from __future__ import annotations

import _ssl
import ctypes
from typing import Any

from lft.wire.connection import Connection
from lft.wire.tls_stream import TlsStream

# The library that Python's own ssl is made with, and where an _ssl._SSLSocket has its SSL pointer:
# behind the object's head and one reference.
_LIBRARY = ctypes.CDLL(_ssl.__file__)
_POINTER_AT = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
_NOT_REQUESTED = 0


def tls_stream(connection: Connection) -> TlsStream:
    """Return the bytes of a connection that speaks TLS."""
    stream = connection._stream
    assert isinstance(stream, TlsStream)
    return stream


def key_update(connection: Connection) -> None:
    """Put one KeyUpdate, 27 bytes, between the records that are to be sent."""
    inside: Any = tls_stream(connection)._layer._tls
    pointer = ctypes.c_void_p.from_address(id(inside._sslobj) + _POINTER_AT)
    assert _LIBRARY.SSL_key_update(pointer, _NOT_REQUESTED) == 1
    _LIBRARY.SSL_do_handshake(pointer)
