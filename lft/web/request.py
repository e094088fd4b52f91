"""A request, as its handler gets it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from lft.accounts.account import Credential
from lft.accounts.permissions import Rights
from lft.strictjson import as_object, parse_json
from lft.web.head import Head
from lft.web.problem import HttpError
from lft.web.response import Response


class Caller(NamedTuple):
    """Who makes a request, and what that user may do now."""

    user: str
    credential: Credential
    rights: Rights

    def may(self, right: str) -> bool:
        """Whether the account has a right of ``RIGHTS``."""
        return right in self.credential.may


class Door(NamedTuple):
    """How a request came in."""

    address: str  # of the client's machine
    port: int
    secure: bool  # over TLS
    private: bool  # no other machine can read it on the way


class Request:
    """A request whose target is understood and whose caller is known. Never changes."""

    def __init__(
        self,
        head: Head,
        door: Door,
        parameters: dict[str, str],
        caller: Caller | None,
        body: bytes = b"",
        *,
        waited: bool = False,
    ) -> None:
        """``parameters`` are those in the path; ``body`` is there if the route takes a small one.

        ``waited``: this is not the first try, because the one before raised ``Later``.
        """
        self.head = head
        self.door = door
        self.parameters = parameters
        self.body = body
        self.waited = waited
        self._caller = caller

    @property
    def caller(self) -> Caller:
        """Who makes it; the route says that there has to be a user."""
        assert self._caller is not None
        return self._caller

    @property
    def has_caller(self) -> bool:
        """Whether a user has logged in."""
        return self._caller is not None

    def field(self, name: str) -> str | None:
        """Return a header field, by its name in lower case."""
        return self.head.fields.get(name)

    def query(self, *known: str) -> dict[str, str]:
        """Return what the query says. Raises ``HttpError`` for what is not ``known``, or twice."""
        found: dict[str, str] = {}
        for pair in self.head.query.split("&") if self.head.query else ():
            name, _, value = (decode(part.replace("+", " ")) for part in pair.partition("="))
            if name not in known or name in found:
                taken = ", ".join(known) or "none"
                raise HttpError(HTTPStatus.BAD_REQUEST, f"each of these once in the query: {taken}")
            found[name] = value
        return found

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object. Raises ``HttpError``."""
        kind = (self.field("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        try:
            return as_object(parse_json(self.body))
        except ValueError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the body is {error}") from None


def decode(text: str) -> str:
    """Undo percent-encoding. Raises ``HttpError`` unless UTF-8 without control characters is there.

    A percent sign that begins no byte stays what it is, as in URLs of browsers.
    """
    try:
        plain = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        plain = "\0"
    if any(char < " " or char == "\x7f" for char in plain):
        raise HttpError(HTTPStatus.BAD_REQUEST, "not UTF-8, or a control character, in the target")
    return plain


class Later(Exception):  # noqa: N818  (no error)
    """A request cannot be answered yet: the same is tried again, with no worker waiting.

    A handler raises it, or ``Intake.finish``, which are then called once more; the request is one
    that has ``waited``.
    """

    def __init__(self, seconds: float, *, counted: bool = True) -> None:
        """``counted``: the next try is of one that has ``waited``."""
        super().__init__(f"in {seconds:g} s")
        self.seconds = seconds
        self.counted = counted


class Intake(ABC):
    """Takes a body piece by piece, while it comes (a worker). In the end it is abandoned."""

    @abstractmethod
    def room(self) -> memoryview:
        """Return where the next bytes go, at least one of them. Raises ``HttpError``."""

    @abstractmethod
    def filled(self, size: int) -> float:
        """Take the first ``size`` bytes of ``room``; return the seconds to wait before more.

        Raises ``HttpError``, which ends the request and its connection.
        """

    @abstractmethod
    def finish(self) -> Response:
        """Answer: the whole body has come. Raises ``HttpError``."""

    @abstractmethod
    def abandon(self) -> None:
        """Let go of everything, also after ``finish``: no more will come (any)."""
