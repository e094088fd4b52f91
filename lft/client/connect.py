"""Finding the server, logging in, and how long to try."""

from __future__ import annotations

import logging
import random
import time
from functools import partial
from typing import TYPE_CHECKING

import config
from config import ClientSettings
from lft.accounts.scram import SCRAM_PLUS, ScramClient
from lft.addresses import UnknownHostError, is_loopback, resolve
from lft.clock import Deadline
from lft.terminal import printable
from lft.wire.channel_binding import server_end_point
from lft.wire.connection import Connection
from lft.wire.sockets import lost, open_socket, wait
from protocol import (
    TOKEN,
    VERSION,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    ConnectionLostError,
    Hello,
    RemoteProtocolError,
    Side,
    UsageError,
)

if TYPE_CHECKING:
    from lft.wire.tls import TlsContext

log = logging.getLogger("client")


class Patience:
    """How long to try again, and what one file has achieved over several attempts. Main's own.

    A server that cannot be reached at the start is tried for ``timeout``; once a session stood, a
    lost one is replaced for ``PATIENCE`` times as long after the last movement, but for no more
    than ``RETRY_MOST`` sessions that moved and got no further than one before.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._timeout = settings.timeout
        self._deadline = Deadline(settings.timeout)
        self._pause = config.RETRY_FIRST
        self._stood = False
        self._told = ""  # the reason that the user has read
        self.next_file()

    def next_file(self) -> None:
        self.began: float | None = None  # when its first attempt did
        self._acknowledged = self._verified = 0  # bytes, the most so far
        self._fruitless = 0  # sessions without more than that
        self._deadline.put_off()

    def stood(self) -> None:
        """Note that a session stands."""
        self._told = ""
        self._fruitless += 1
        if not self._stood:
            self._stood = True
            self._deadline = Deadline(config.PATIENCE * self._timeout)

    def moved(self, acknowledged: int = 0, verified: int = 0) -> None:
        """Note how many bytes of the file the server has, and how many it has verified."""
        self._deadline.put_off()
        if acknowledged > self._acknowledged or verified > self._verified:
            self._acknowledged = max(acknowledged, self._acknowledged)
            self._verified = max(verified, self._verified)
            self._fruitless, self._pause = -1, config.RETRY_FIRST  # this one is not

    @property
    def achieved(self) -> bool:
        """Whether an earlier session brought something of this file across."""
        return self._acknowledged > 0

    def left(self) -> float:
        """Return the seconds left for one attempt to connect."""
        least = 5.0 if self._stood else 0.1  # a last attempt should be a fair one
        return min(self._timeout, max(least, self._deadline.left()))

    def wait(self, error: ConnectionLostError) -> None:
        """Pause before the next attempt, or raise ``error`` when there should be none."""
        hopeless = isinstance(error, UnknownHostError) and not self._stood
        if hopeless or self._deadline.passed or self._fruitless > config.RETRY_MOST:
            raise error
        pause = min(jittered(self._pause), self._deadline.left())
        self._pause = min(2 * self._pause, config.RETRY_LONGEST)
        if str(error) != self._told:
            self._told = str(error)
            log.warning("%s: trying again, for %.0f s", error, self._deadline.left())
        time.sleep(pause)


def jittered(pause: float) -> float:
    """Spread retries, so that many clients do not come back in the same instant."""
    return pause * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)


def connect(settings: ClientSettings, timeout: float, tls: TlsContext | None) -> Connection:
    """Connect to the first address of the server that answers; each has its share of the time."""
    host, port = settings.server, settings.port
    problem = OSError(0, "no address")
    addresses, deadline = resolve(host, port), Deadline(timeout)
    for number, (family, _, _, _, address) in enumerate(addresses):
        share = deadline.left() / (len(addresses) - number)
        try:
            sock = open_socket(family, address, partial(wait, timeout=share, write=True))
        except OSError as error:
            problem = error
        else:
            return Connection(sock, Side.CLIENT, tls, host)
    raise lost(f"{printable(host)}:{port}", problem)


def _hear_hello(connection: Connection, settings: ClientSettings) -> Hello:
    """Wait for the server's HELLO. Raises ``RemoteProtocolError`` for one of no use to us."""
    hello = connection.answer(settings.timeout)
    if not isinstance(hello, Hello) or hello.version != VERSION:
        raise RemoteProtocolError(f"the server does not speak version {VERSION}")
    if settings.digest not in hello.features:
        raise RemoteProtocolError(f"the server does not know {settings.digest}")
    return hello


def show_token(connection: Connection, settings: ClientSettings) -> tuple[Hello, AuthOk]:
    """Log in with a token. Who reads it on the way can use it: only where nobody can.

    So the server's HELLO comes first: another program at this port must not be shown it.
    """
    assert settings.token is not None
    if not connection.secure and not is_loopback(str(connection.address[1][0])):
        raise UsageError("a token is shown to the server only over TLS: add --tls")
    hello = _hear_hello(connection, settings)
    welcome = connection.call(AuthStart(TOKEN, settings.token), settings.timeout)
    if not isinstance(welcome, AuthOk):
        raise AuthenticationError("the server does not take tokens")
    return hello, welcome


def prove_password(connection: Connection, settings: ClientSettings) -> tuple[Hello, AuthOk]:
    """Prove that we know the password and let the server prove that it knows us (RFC 5802).

    Over TLS the server's HELLO comes first: only it says whether the login can be bound to our
    connection, which may end in front of the server.
    """
    assert settings.password is not None  # send_files has found it
    certificate = connection.certificate
    binding = server_end_point(certificate) if certificate else None
    hello = _hear_hello(connection, settings) if binding else None
    plus = hello is not None and SCRAM_PLUS in hello.features
    login = ScramClient(settings.user, settings.password, binding=binding, plus=plus)
    connection.send(AuthStart(login.mechanism, login.first()))
    hello = hello or _hear_hello(connection, settings)
    challenge = connection.answer(settings.timeout)
    if not isinstance(challenge, AuthChallenge):
        raise AuthenticationError("the server let us in without a proof of its own")
    welcome = connection.call(AuthResponse(login.respond(challenge.data)), settings.timeout)
    assert isinstance(welcome, AuthOk)
    login.check_server(welcome.data)
    return hello, welcome
