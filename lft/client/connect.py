"""Connecting to the server, and logging in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from config import ClientSettings
from lft.accounts.scram import SCRAM_PLUS, ScramClient
from lft.addresses import (
    Address,
    Lookup,
    is_address,
    is_loopback,
    look_up,
    place,
    resolve,
    shuffled,
)
from lft.clock import Deadline
from lft.terminal import printable
from lft.wire.channel_binding import server_end_point
from lft.wire.connection import Connection
from lft.wire.frames import ForeignProtocolError
from lft.wire.happy_eyeballs import open_first
from lft.wire.sockets import unreached
from lft.wire.stream import PLAIN
from protocol import (
    DIGEST_SIZES,
    EARLIER,
    TOKEN,
    VERSION,
    WAITING,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    Hello,
    RemoteProtocolError,
    Side,
    SilenceError,
    UsageError,
)

if TYPE_CHECKING:
    from lft.wire.tls import TlsContext


def tls_context(settings: ClientSettings) -> TlsContext | None:
    """Return what checks the server's certificate; ``None`` without TLS."""
    if not (settings.tls or settings.ca):
        return None
    from lft.wire.tls import client_tls  # noqa: PLC0415  (it loads ssl: slow, and mostly not used)

    return client_tls(settings.ca)


def connect(
    settings: ClientSettings,
    timeout: float,
    tls: TlsContext | None,
    lookup: Lookup = look_up,
    order: Callable[[list[Address]], list[Address]] = shuffled,
) -> Connection:
    """Connect to the first of the server's addresses that answers, within ``timeout`` seconds.

    ``order`` says which one is tried first.
    """
    host, port, deadline = settings.server, settings.port, Deadline(timeout)
    try:
        sock = open_first(order(resolve(host, port, timeout, lookup)), deadline.left())
    except OSError as error:
        raise unreached(place(host, port), error, by_name=not is_address(host)) from error
    return Connection(sock, Side.CLIENT, tls, host)


def log_in(
    connection: Connection, settings: ClientSettings, timeout: float
) -> tuple[Hello, AuthOk]:
    """Log in on a new connection, within ``timeout`` for its TLS; return what the server said."""
    _secure(connection, timeout)
    # no codecs among the features: they are those that a peer can unpack, and we only pack
    connection.send(Hello(VERSION, (*DIGEST_SIZES, EARLIER, WAITING)))
    return (_prove_password if settings.token is None else _show_token)(connection, settings)


def _secure(connection: Connection, timeout: float) -> None:
    """Shake hands, where TLS is spoken. Raises ``UsageError`` where the server speaks another."""
    try:
        connection.secure_channel(timeout)
    except RemoteProtocolError as error:
        hints = {
            PLAIN: "the server does not speak TLS: leave out --tls and --ca, or have it started "
            "with --tls-cert and --tls-key",
            "version": f"{error}; update the older of the two machines",
        }
        if error.code not in hints:
            raise
        raise UsageError(f"{connection.peer}: {hints[error.code]}") from error


def _hear_hello(connection: Connection, settings: ClientSettings) -> Hello:
    """Wait for the server's HELLO. Raises ``RemoteProtocolError`` if it lacks what we need."""
    hint = "is that the port of a server.py?"
    try:
        hello = connection.answer(settings.timeout)
    except ForeignProtocolError as error:
        raise RemoteProtocolError(f"{connection.peer}: {error}; {hint}") from error
    except SilenceError as error:
        raise SilenceError(f"{error}; {hint}") from error
    if not isinstance(hello, Hello) or hello.version != VERSION:
        raise RemoteProtocolError(f"the server does not speak version {VERSION}")
    if settings.digest not in hello.features:
        raise RemoteProtocolError(f"the server does not know {settings.digest}")
    return hello


def _show_token(connection: Connection, settings: ClientSettings) -> tuple[Hello, AuthOk]:
    """Log in with a token: only over TLS or on loopback, since its reader could use it.

    The server's HELLO comes first: another program at this port must not be shown the token.
    """
    assert settings.token is not None
    if not connection.secure and not is_loopback(str(connection.address[1][0])):
        raise UsageError("a token is shown to the server only over TLS: add --tls")
    try:
        start = AuthStart(TOKEN, settings.token)
    except ValueError as error:
        raise UsageError(f"the token cannot be one: {error}") from None
    hello = _hear_hello(connection, settings)
    welcome = connection.call(start, settings.timeout)
    if not isinstance(welcome, AuthOk):
        raise AuthenticationError("the server does not take tokens")
    return hello, welcome


def _prove_password(connection: Connection, settings: ClientSettings) -> tuple[Hello, AuthOk]:
    """Prove that we know the password; have the server prove that it knows us (RFC 5802).

    Over TLS the server's HELLO comes first: it says whether the login can be bound to the TLS
    connection, which may end at a machine in front of the server.
    """
    assert settings.password is not None  # send_files has found it
    certificate = connection.certificate
    binding = server_end_point(certificate) if certificate else None
    hello = _hear_hello(connection, settings) if binding else None
    plus = hello is not None and SCRAM_PLUS in hello.features
    login = ScramClient(settings.user, settings.password, binding=binding, plus=plus)
    connection.send(AuthStart(login.mechanism, login.first()))
    hello = hello or _hear_hello(connection, settings)
    try:
        challenge = connection.answer(settings.timeout)
        if not isinstance(challenge, AuthChallenge):
            raise AuthenticationError("the server let us in without a proof of its own")
        welcome = connection.call(AuthResponse(login.respond(challenge.data)), settings.timeout)
    except AuthenticationError as error:  # the user may not know whose account that is
        raise AuthenticationError(f"{error} (--user {printable(settings.user)})") from error
    assert isinstance(welcome, AuthOk)
    login.check_server(welcome.data)
    return hello, welcome
