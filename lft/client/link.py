"""The link to the server, as the senders of a session share it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Collection, NamedTuple

import config
from config import ClientSettings
from lft.addresses import is_loopback
from lft.client.upload import BlockQueue
from lft.clock import TokenBucket
from lft.wire.connection import Connection
from lft.wire.sockets import Socket, lost, open_socket, peer_name
from protocol import DIGEST_SIZES, VERSION, Attach, Hello, Side, SilenceError, TransferOverError

if TYPE_CHECKING:
    from lft.client.compression import Compression
    from lft.wire.tls import TlsContext

log = logging.getLogger("client")


class Access(NamedTuple):
    """What it takes to open another connection of a session."""

    family: int
    address: Any
    token: str
    tls: TlsContext | None = None

    def __repr__(self) -> str:
        return f"<Access to {self.address}>"  # without the token


class Link:
    """The link to the server: what the senders of a session share, also with main.

    Main makes it after the login. Main sets ``streams`` and ``wanted_congestion``, and senders read
    them without a lock: one that reads them late sends one block more in the old way. Senders set
    ``congestion`` and ``silent_at``, and main reads them.
    """

    def __init__(
        self,
        settings: ClientSettings,
        access: Access,
        round_trip: float = 0.0,
        compression: Compression | None = None,
        features: Collection[str] = (),
    ) -> None:
        # fixed
        self.settings = settings
        self.round_trip = round_trip  # seconds
        self.far = round_trip >= config.FAR
        self.loopback = is_loopback(str(access.address[0]))  # no network between us and the server
        # whether blocks may be sent together; where the link is slow, they had better not share
        # a stream, and a compressed one should leave when it is done
        self.takes_runs = not (self.far or settings.limit or compression)
        self.compression = compression
        self.features = features  # of the server
        self._access = access
        # with locks of their own
        self.bucket = TokenBucket(settings.limit) if settings.limit else None
        self.queue = BlockQueue()
        self.ending = threading.Event()  # of the session: set by main
        # main's own, read by senders
        self.streams = 0  # senders with a lower number may send
        self.wanted_congestion = ""  # the TCP congestion control to use; "" is the system's choice
        # the senders'
        self.congestion = ""  # the one in use, on the connection that was opened or changed last
        self.silent_at = 0.0  # when one was given up last because the server was silent
        self._lost_at = 0.0  # when a lost connection was last logged

    def open(self, until: Callable[[Socket], bool]) -> Connection:
        """Open a data connection; ``until`` waits for it (a sender).

        Raises ``ConnectionLostError``.
        """
        access = self._access
        try:
            sock = open_socket(access.family, access.address, until)
        except OSError as error:
            raise lost(peer_name(access.address), error) from error
        return Connection(sock, Side.CLIENT, access.tls, self.settings.server)

    def attach(self, connection: Connection) -> None:
        """Make a new connection part of the session; blocks may follow at once (a sender)."""
        connection.secure_channel(self.settings.timeout)
        if self.far:
            connection.tcp.keep_unsent(config.UNSENT)
        connection.send(Hello(VERSION, tuple(DIGEST_SIZES)))
        connection.send(Attach(self._access.token))

    def tell_lost(self, error: Exception, pause: float) -> None:
        """Log a lost data connection (a sender): of many at once only the first is a warning.

        None is where the server has ended the transfer: the coordinator is told why.
        """
        now, before = time.monotonic(), self._lost_at
        if isinstance(error, SilenceError):
            self.silent_at = now
        self._lost_at = now
        over = isinstance(error, TransferOverError)
        level = logging.DEBUG if over or now - before < 1 else logging.WARNING
        log.log(level, "a data connection was lost (%s); again in %.1f s", error, pause)
