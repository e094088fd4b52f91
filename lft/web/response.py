"""Answers to requests: status, header fields, and a body that may be a file or never end."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Callable, NamedTuple, Sequence, Union

from lft.web.problem import PROBLEM, Field, HttpError, phrase_of

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip

# For a browser: nothing that comes from here runs, is framed, sniffed or seen by another site. A
# field that a response has itself takes the place of the one here.
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


_SAFE_LINES = [(name, f"{name}: {value}") for name, value in _SAFE.items()]


class FileSlice:
    """A part of an open file, to be sent as a body; it owns the descriptor."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.length = length
        self.closed: Callable[[], None] | None = None  # called when it is

    def close(self) -> None:
        """Give the descriptor back, once."""
        os.close(self.descriptor)
        if self.closed:
            self.closed()


class Stream(ABC):
    """A body that is made while it is sent. Its methods run on the worker that serves it."""

    @abstractmethod
    def more(self) -> bytes | None:
        """Return the next piece, empty if there is none yet, ``None`` at the end."""

    @property
    def has_news(self) -> bool:
        """Whether there is a next piece."""
        return False

    @property
    def next_at(self) -> float:
        """The instant at which it is to be asked again, even if no news has come meanwhile."""
        return float("inf")

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Forget it: all is sent, or the client is gone (any)."""


Body = Union[bytes, FileSlice, Stream]


class Response(NamedTuple):
    """An answer. A ``Content-Type`` stands among its fields."""

    status: int
    fields: Sequence[Field] = ()
    body: Body = b""


def json_response(
    value: Any, status: int = HTTPStatus.OK, fields: Sequence[Field] = ()
) -> Response:
    """Answer with a value as JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(status, (("Content-Type", "application/json"), *fields), body)


def problem_response(error: HttpError) -> Response:
    """Answer with what is wrong."""
    return Response(error.status, (("Content-Type", PROBLEM), *error.fields), error.document())


def length_of(body: Body) -> int | None:
    """Return the bytes of a body; ``None`` where nobody knows them yet."""
    if isinstance(body, bytes):
        return len(body)
    return body.length if isinstance(body, FileSlice) else None


def encode_head(response: Response, connection: str = "") -> bytes:
    """Return status line and header fields. Raises ``ValueError`` for what would break out of one.

    A body of unknown length is told to come in chunks. ``connection`` says what becomes of that, if
    it is not empty.
    """
    own = {name for name, _ in response.fields}
    lines = [f"HTTP/1.1 {int(response.status)} {phrase_of(response.status)}"]
    lines.append(f"Date: {http_date(int(time.time()))}")
    lines += [f"{name}: {value}" for name, value in response.fields]
    lines += [line for name, line in _SAFE_LINES if name not in own]
    lines += _framing(response)
    if connection:
        lines.append(f"Connection: {connection}")
    if any(not line.isprintable() for line in lines):
        raise ValueError("a control character in a header field")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _framing(response: Response) -> list[str]:
    if response.status < HTTPStatus.OK or response.status in _BODILESS:
        return []
    length = length_of(response.body)
    return ["Transfer-Encoding: chunked"] if length is None else [f"Content-Length: {length}"]


_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)  # RFC 9110, 8.6


@lru_cache(maxsize=64)
def http_date(seconds: float) -> str:
    """Return an instant as HTTP writes it (RFC 9110, 5.6.7), whatever the locale is."""
    at = time.gmtime(seconds)
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{day}, {at.tm_mday:02} {month} {at.tm_year:04} {clock} GMT"
