"""The page for browsers: a few files of a fixed table, read once when the HTTP side is built."""

from __future__ import annotations

import hashlib
from functools import partial
from http import HTTPStatus
from pathlib import Path

from lft.web.request import Request
from lft.web.response import Response
from lft.web.router import Need, Route
from lft.web.validators import Validators, judge

_HERE = Path(__file__).with_name("page")
_SCRIPT = "text/javascript; charset=utf-8"
# What is served, by path: the file, and its type. No path of a request ever names a file.
_TABLE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page/words.js": ("words.js", _SCRIPT),
    "/page/elements.js": ("elements.js", _SCRIPT),
    "/page/scram.js": ("scram.js", _SCRIPT),
    "/page/sha256.js": ("sha256.js", _SCRIPT),
    "/page/upload.js": ("upload.js", _SCRIPT),
    "/page/page.js": ("page.js", _SCRIPT),
}
# Scripts, styles and requests of this host alone, none of them within the page (CSP 3).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """Serves the page to everyone: it holds no secret. All of it runs on workers."""

    def __init__(self) -> None:
        """Read all files. Raises ``OSError``."""
        self._files = {
            path: ((_HERE / name).read_bytes(), kind) for path, (name, kind) in _TABLE.items()
        }

    def routes(self) -> list[Route]:
        """Return the routes, one for each file."""
        return [
            Route("GET", path, partial(_send, data, kind), Need.NOTHING)
            for path, (data, kind) in self._files.items()
        ]


def _send(data: bytes, kind: str, request: Request) -> Response:
    """Answer with a file, or that the browser has it already (RFC 9110, 13)."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    fields = [("ETag", tag), ("Cache-Control", "no-cache"), ("Content-Security-Policy", _POLICY)]
    # No date: the files of another release may be older. Only tags are compared then.
    conditions = {key: value for key, value in request.head.fields.items() if "since" not in key}
    ended = judge(request.head.method, conditions, Validators(tag, 0))
    if ended is not None:
        return Response(ended, fields)
    return Response(HTTPStatus.OK, [("Content-Type", kind), *fields], data)
