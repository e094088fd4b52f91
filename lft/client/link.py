"""The way to the server, as the senders of a session share it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import config
from config import ClientSettings
from lft.client.upload import BlockQueue
from lft.clock import TokenBucket
from lft.wire.codecs import FEATURES
from lft.wire.connection import Connection
from lft.wire.sockets import Socket, lost, open_socket
from protocol import VERSION, Attach, Hello, Side

if TYPE_CHECKING:
    from lft.client.compression import Compression
    from lft.wire.tls import TlsContext

log = logging.getLogger("client")


class Access(NamedTuple):
    """What opens another connection of a session."""

    family: int
    address: Any
    token: str
    tls: TlsContext | None = None


class Link:
    """The way to the server: what the senders of a session share with each other and with main.

    Main makes it after the login. ``streams`` and ``wanted_congestion`` are set by main and read by
    senders without a lock: one that reads them late sends one block more in the old way.
    ``congestion`` is set by senders and read by main.
    """

    def __init__(
        self,
        settings: ClientSettings,
        access: Access,
        round_trip: float = 0.0,
    ) -> None:
        self.settings = settings
        self.round_trip = round_trip  # seconds
        self.far = round_trip >= config.FAR
        self.compression: Compression | None = None
        self.bucket = TokenBucket(settings.limit) if settings.limit else None
        self.queue = BlockQueue()
        self.ending = threading.Event()  # of the session: set by main
        self.streams = 0  # senders with a lower number may send
        self.wanted_congestion = ""  # what TCP shall go by; "" is the system's own choice
        self.congestion = ""  # what TCP goes by, on the connection that was opened or changed last
        self._access = access
        self._lost_at = 0.0  # when a lost connection was last told of

    def open(self, until: Callable[[Socket], bool]) -> Connection:
        """Open a data connection; ``until`` waits for it (a sender).

        Raises ``ConnectionLostError``.
        """
        access = self._access
        try:
            sock = open_socket(access.family, access.address, until)
        except OSError as error:
            raise lost(f"{access.address[0]}:{access.address[1]}", error) from error
        return Connection(sock, Side.CLIENT, access.tls, self.settings.server)

    def attach(self, connection: Connection) -> None:
        """Make a new connection one of the session; blocks may follow at once (a sender)."""
        connection.secure_channel(self.settings.timeout)
        if self.far:
            connection.keep_unsent(config.UNSENT)
        connection.send(Hello(VERSION, FEATURES))
        connection.send(Attach(self._access.token))

    def tell_lost(self, error: Exception, pause: float) -> None:
        """Log a lost data connection (a sender); the next ones quietly: many are lost together."""
        now, before = time.monotonic(), self._lost_at
        self._lost_at = now
        level = logging.DEBUG if now - before < 1 else logging.WARNING
        log.log(level, "a data connection was lost (%s); again in %.1f s", error, pause)
