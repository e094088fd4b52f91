"""Logging in and out in a browser: ``/api/v1/session``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from lft.accounts.account import AccountSource
from lft.accounts.tokens import Identity
from lft.addresses import network_of
from lft.server.login import Login, log_refused
from lft.web.access import Access, unknown_caller
from lft.web.problem import HttpError
from lft.web.request import Caller, Request
from lft.web.response import Response, json_response
from lft.web.router import Need, Route, Takes
from lft.web.web_sessions import WebSessions, cookie_of, set_cookie
from protocol import SCRAM, AuthenticationError

PATH = "/api/v1/session"


class Logins:
    """Lets browsers in. All of it runs on workers.

    The password never comes here: two requests carry a dialogue of SCRAM-SHA-256 (RFC 7804 does the
    same in header fields). The first has ``data``, client-first-message; its answer has ``id`` and
    ``data``, server-first-message. The second has that ``id``, and client-final-message; its answer
    has server-final-message and brings the cookie.
    """

    def __init__(
        self, accounts: AccountSource, login: Login, access: Access, sessions: WebSessions
    ) -> None:
        self._accounts = accounts
        self._login = login
        self._access = access
        self._sessions = sessions

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", PATH, self.show),
            Route("POST", PATH, self.log_in, Need.NOTHING, Takes.LITTLE),
            Route("DELETE", PATH, self.log_out),
        ]

    def show(self, request: Request) -> Response:
        """Say who has logged in."""
        return json_response(_facts(request.caller))

    def log_in(self, request: Request) -> Response:
        """Answer one of the two messages of a login. Raises ``HttpError`` and ``Later``."""
        if not request.door.private:
            raise HttpError(HTTPStatus.FORBIDDEN, "log in over TLS only, or from this machine")
        given = request.json()
        name, data = given.get("id"), given.get("data")
        known = given.keys() <= {"id", "data"} and isinstance(data, str)
        if not known or not (name is None or isinstance(name, str)):
            raise HttpError(HTTPStatus.BAD_REQUEST, "a login has data, and later id: both text")
        assert isinstance(data, str)  # see above
        return self._begin(request, data) if name is None else self._finish(request, name, data)

    def _begin(self, request: Request, data: str) -> Response:
        network = network_of(request.door.address)
        try:
            name, challenge = self._sessions.begin(self._accounts(), data, network)
        except AuthenticationError as error:
            raise unknown_caller(request.head, str(error)) from None
        return json_response({"mechanism": SCRAM, "id": name, "data": challenge})

    def _finish(self, request: Request, name: str, data: str) -> Response:
        """Judge the proof, after the delay that wrong ones before it have earned."""
        login, door = self._sessions.begun(name), request.door
        if login and not request.waited:
            self._access.count(login.user, door)
        login = self._sessions.take(name)
        if login is None:
            raise unknown_caller(request.head, "no such login has begun: begin anew")
        try:
            final = login.verify(data)
        except AuthenticationError as error:
            log_refused(door.address, door.port, error, login.user)
            raise unknown_caller(request.head, str(error)) from None
        self._login.delays.succeeded(login.user, door.address)
        token = self._sessions.open(login.user, login.credential)
        caller = self._access.as_caller(Identity(login.user, login.credential))
        fields = [set_cookie(token, request.head, door)]
        return json_response({**_facts(caller), "data": final}, HTTPStatus.CREATED, fields)

    def log_out(self, request: Request) -> Response:
        """End the login of a cookie, which also ends when it comes with a password or a token."""
        token = cookie_of(request.head, request.door)
        if token:
            self._sessions.end(token)
        return Response(HTTPStatus.NO_CONTENT, [set_cookie("", request.head, request.door)])


def _facts(caller: Caller) -> dict[str, Any]:
    return {"user": caller.user, "may": list(caller.credential.may)}
