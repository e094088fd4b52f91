"""The whole HTTP side: its table of routes, and what each request passes before its handler."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Callable, NamedTuple, Sequence

import config
from config import ServerSettings
from lft.accounts.account import AccountSource
from lft.server.admission import Admission
from lft.server.connections import Connections
from lft.server.event_loop import EventLoop
from lft.server.ledger import Ledger
from lft.server.lifecycle import Lifecycle
from lft.server.limits import Limits
from lft.server.login import Login
from lft.server.receiving import Receiving
from lft.server.right_of_way import RightOfWay
from lft.server.verification import Verification
from lft.server.work_queue import WorkQueue
from lft.store.ownership import OutputDirectory
from lft.store.partstore import PartStore
from lft.web.access import Access
from lft.web.events import Events
from lft.web.guest import HttpGuest
from lft.web.head import Head
from lft.web.hosts import Hosts, check_origin
from lft.web.metrics import Counts
from lft.web.problem import HttpError
from lft.web.request import Caller, Door, Intake, Request
from lft.web.response import Response
from lft.web.router import Found, Need, Route, Router, Takes
from lft.web.web_sessions import WebSessions
from lft.wire.channel import Channel
from lft.wire.sockets import Socket
from lft.wire.tls import Tls
from protocol import Side

log = logging.getLogger("http")

_OVERRIDES = ("HEAD", "PATCH", "DELETE")  # methods that a client may hide in a POST, as tus does


_PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 50\r\n\r\nTLS is spoken here: begin the address with https:\n"
)


class House(NamedTuple):
    """The parts of the server that the HTTP side is built on."""

    settings: ServerSettings
    accounts: AccountSource
    login: Login
    lifecycle: Lifecycle
    admission: Admission
    connections: Connections
    work: WorkQueue
    way: RightOfWay
    loop: EventLoop
    output: OutputDirectory
    parts: PartStore
    receiving: Receiving
    limits: Limits
    verification: Verification
    ledger: Ledger
    trouble: Callable[[], str]  # why no new work is taken; "" if it is


class Admitted(NamedTuple):
    """A request that may be answered: by which route, and for whom."""

    head: Head
    found: Found
    caller: Caller | None

    @property
    def takes_little(self) -> bool:
        """Whether the body is read before the handler is asked."""
        return self.found.route.takes is Takes.LITTLE

    def handle(self, door: Door, body: bytes, *, waited: bool) -> Response | Intake:
        """Have the handler answer. Raises ``HttpError`` and ``Later``."""
        request = Request(
            self.head, door, self.found.parameters, self.caller, body, waited=waited
        )  # fmt: skip
        return self.found.route.handler(request)


class Site:
    """Greets connections and says what becomes of their requests.

    ``greet`` runs on main, the rest on workers.
    """

    def __init__(
        self, house: House, events: Events, routes: Callable[[Site], Sequence[Route]]
    ) -> None:
        self.house = house
        self.events = events
        self.settings = house.settings
        self.work = house.work
        self.sessions = WebSessions()
        self.access = Access(house.settings, house.accounts, house.login, self.sessions)
        self.counts = Counts()
        self.router = Router(list(routes(self)))
        host = house.settings.http[0] if house.settings.http else ""
        self._hosts = Hosts([host, *house.settings.hosts])

    @property
    def stopping(self) -> bool:
        """Whether the server ends."""
        return self.house.lifecycle.stopping

    def greet(self, sock: Socket, tls: Tls | None) -> HttpGuest:
        """Make a guest of a new connection. Raises ``OSError`` if it has gone."""
        if tls:
            self._hosts.certified = tls.names
        context = tls.context if tls else None
        return HttpGuest(Channel(sock, Side.SERVER, context, plain_words=_PLAIN), self)

    def admit(self, head: Head, door: Door, *, waited: bool) -> Admitted:
        """Return what is to be done for a request, whose body may be still to come.

        Raises ``HttpError`` and ``Later``.
        """
        self._hosts.check(head)
        check_origin(head, secure=door.secure)
        head = _with_method(head)
        found = self.router.find(head.method, head.path)
        route, caller = found.route, None
        if route.need is not Need.NOTHING:
            caller = self.access.caller(head, door, waited=waited)
        if route.need is Need.OPERATE and caller and not caller.may("operate"):
            raise HttpError(HTTPStatus.FORBIDDEN, "this needs the right 'operate'")
        _check_length(route, head.length)
        return Admitted(head, found, caller)

    def portion(self, caller: Caller | None) -> int:
        """Return the bytes of a file that a user is sent at once."""
        return self.house.limits.portion(caller.rights.limit if caller else None)

    def charge(self, caller: Caller | None, size: int) -> float:
        """Charge what a user was sent of a file; return the seconds until more may be."""
        if not size:
            return 0.0
        way, priority = self.house.way, caller.credential.priority if caller else 0
        way.moved(priority, size)
        pause = 0.0
        if caller:
            bucket = self.house.login.bucket_of(caller.user, caller.rights.limit)
            pause, _ = self.house.limits.take(caller.user, bucket, size)
        return max(pause, way.pause(priority, float("inf")))

    def note(self, name: str, head: Head | None, status: int) -> None:
        """Take note of an answer."""
        self.counts.count_request(status)
        if head:
            log.debug("%s: %s %s: %d", name, head.method, head.path, status)
        else:
            log.debug("%s: %d", name, status)


def _with_method(head: Head) -> Head:
    """Return the head with the method that a POST stands for (X-HTTP-Method-Override)."""
    override = head.fields.get("x-http-method-override", "")
    return (
        head._replace(method=override) if head.method == "POST" and override in _OVERRIDES else head
    )


def _check_length(route: Route, length: int) -> None:
    """Raise ``HttpError`` for a body that the route does not take, before it is read."""
    if route.takes is Takes.NOTHING and length:
        raise HttpError(HTTPStatus.BAD_REQUEST, "no body is taken here")
    if route.takes is Takes.LITTLE and length > config.MAX_JSON_BODY:
        most = f"a body of {config.MAX_JSON_BODY} bytes at most is taken here"
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, most)
