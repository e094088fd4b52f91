"""Which handler answers a request: one table of methods and paths."""

from __future__ import annotations

import enum
from http import HTTPStatus
from typing import Callable, NamedTuple, Union

from lft.web.problem import HttpError, not_found
from lft.web.request import Intake, Request, decode
from lft.web.response import Response

Handler = Callable[[Request], Union[Response, Intake]]


class Need(enum.Enum):
    """Who may use a route."""

    NOTHING = "nothing"
    LOGIN = "login"  # any user; what the user may see is the handler's business
    OPERATE = "operate"  # users that have this right


class Takes(enum.Enum):
    """What body a route takes."""

    NOTHING = "nothing"
    LITTLE = "little"  # as a whole, ``MAX_JSON_BODY`` bytes at most
    STREAM = "stream"  # piece by piece: the handler answers at once, or with an ``Intake``


class Route(NamedTuple):
    """One line of the table. ``{name}`` in a path is a segment, ``{name...}`` all that are left."""

    method: str
    path: str
    handler: Handler
    need: Need = Need.LOGIN
    takes: Takes = Takes.NOTHING


class Found(NamedTuple):
    """The route of a request, and the parameters in its path."""

    route: Route
    parameters: dict[str, str]


class Router:
    """Finds the route of a request. It never changes; any thread may ask."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._plain: dict[str, dict[str, Route]] = {}
        self._open: dict[str, dict[str, Route]] = {}  # those with parameters
        for route in routes:
            table = self._open if "{" in route.path else self._plain
            table.setdefault(route.path, {})[route.method] = route

    def find(self, method: str, path: str) -> Found:
        """Return the route of a path as it was sent. Raises ``HttpError``."""
        methods = self._plain.get(path)
        parameters: dict[str, str] = {}
        if methods is None:
            methods, parameters = self._find_open(path)
        route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if route is None:
            raise _wrong_method(methods)
        return Found(route, parameters)

    def _find_open(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        segments = [decode(part) for part in path.split("/")[1:]]
        if any(one in ("", ".", "..") or "/" in one for one in segments):
            raise not_found()  # the same for each way of writing it
        for pattern, methods in self._open.items():
            parameters = _match(pattern.split("/")[1:], segments)
            if parameters is not None:
                return methods, parameters
        raise not_found()


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    """Return the parameters of a path, ``None`` if it does not fit the pattern."""
    found: dict[str, str] = {}
    for at, part in enumerate(pattern):
        if part.endswith("...}") and len(segments) > at:
            found[part[1:-4]] = "/".join(segments[at:])
            return found
        if at >= len(segments):
            return None
        if part.startswith("{"):
            found[part[1:-1]] = segments[at]
        elif part != segments[at]:
            return None
    return found if len(pattern) == len(segments) else None


def allowed(methods: dict[str, Route]) -> str:
    """Return the methods of a path, as an ``Allow`` field lists them."""
    return ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))


def _wrong_method(methods: dict[str, Route]) -> HttpError:
    fields = (("Allow", allowed(methods)),)
    return HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "not with this method", fields)
