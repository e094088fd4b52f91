"""The head of an HTTP/1.1 request, read strictly (RFC 9112); no socket.

What two programs in a row could understand in two ways is refused: bare LF, folded lines, a space
before a colon, two lengths or hosts. A proxy in front of us would otherwise take a part of one
request for the next one ("request smuggling").
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NamedTuple

import config
from lft.web.problem import HttpError

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5
_TARGET = re.compile(r"[\x21\x22\x24-\x7e]+")  # visible ASCII without #: a fragment is never sent
_ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._\-]+)(?::([0-9]{1,5}))?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")

# Fields of which a second one means that one of them is a forgery, or the client is broken.
_ONCE = {
    "authorization", "content-encoding", "content-length", "content-type", "host", "if-range",
    "last-event-id", "origin", "range", "upload-checksum", "upload-length", "upload-metadata",
    "upload-offset", "x-http-method-override",
}  # fmt: skip


class Head(NamedTuple):
    """What a request says before its body."""

    method: str
    path: str  # as it was sent, percent signs and all
    query: str  # the same; "" if there is none
    host: str  # in lower case, without the port; an IPv6 address in brackets
    authority: str  # host and port as they were sent
    fields: dict[str, str]  # by their names in lower case
    length: int  # bytes of the body
    keep_alive: bool
    expects_continue: bool


def parse_head(data: bytearray, searched: int = 0) -> tuple[Head, int] | None:
    """Parse the request at the start of ``data``; return it and its bytes, or ``None`` if it lacks.

    The first ``searched`` bytes of an earlier call need not be searched again. Raises
    ``HttpError``; nothing behind the error can be understood, so the connection has to end.
    """
    if data and not (data[:1] == b"\r" or _TOKEN.match(chr(data[0]))):
        raise _bad("this is no HTTP request")
    end = data.find(b"\r\n\r\n", max(0, searched - 3), config.MAX_HEAD)
    if end < 0:
        _check_unfinished(data, searched)
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    if not lines[0]:  # a line end too many after the last body, which RFC 9112, 2.2, lets pass
        lines = lines[1:]
    if len(lines) > config.MAX_FIELDS + 1:
        raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields")
    method, target, old = _request_line(lines[0] if lines else "")
    return _head(method, target, _fields(lines[1:]), old=old), end + 4


def _check_unfinished(data: bytearray, searched: int) -> None:
    """Raise ``HttpError`` for what cannot become a request any more."""
    if _BARE_LF.search(data, searched):
        raise _bad("a line ends with LF alone")
    line_end = data.find(b"\r\n")
    if line_end > 0 and line_end + 2 > searched:  # here now: other protocols need not wait
        _request_line(data[:line_end].decode("latin-1"))
    if len(data) < config.MAX_HEAD:
        return
    if data.find(b"\n", 2) < 0:
        raise HttpError(HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is too long")
    raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the header fields are too long")


def _request_line(line: str) -> tuple[str, str, bool]:
    """Return method and target, and whether it is HTTP/1.0."""
    parts = line.split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[2]):
        raise _bad("the request line is not METHOD TARGET HTTP/1.1")
    method, target, version = parts
    if not version.startswith("HTTP/1."):
        raise HttpError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here")
    if len(method) > config.MAX_METHOD:
        raise HttpError(HTTPStatus.NOT_IMPLEMENTED, "no such method")
    if len(target) > config.MAX_TARGET:
        raise HttpError(HTTPStatus.REQUEST_URI_TOO_LONG, "the target is too long")
    if not _TARGET.fullmatch(target):
        raise _bad("a character in the target that must be percent-encoded")
    return method, target, version == "HTTP/1.0"


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise _bad("a header field has no proper name: folded lines are not taken, either")
        if not _VALUE.fullmatch(value):
            raise _bad("a control character in a header field")
        name, value = name.lower(), value.strip(" \t")
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            raise _bad(f"two header fields {name}")
        else:
            fields[name] += ("; " if name == "cookie" else ", ") + value
    return fields


def _head(method: str, target: str, fields: dict[str, str], *, old: bool) -> Head:
    authority, path = _split_target(method, target)
    if "host" not in fields:
        raise _bad("the header field host is missing")
    authority = authority or fields["host"]
    host = _HOST.fullmatch(authority)
    if not host or not _HOST.fullmatch(fields["host"]):
        raise _bad("the host is not NAME:PORT")
    path, _, query = path.partition("?")
    wishes = {one.strip().lower() for one in fields.get("connection", "").split(",")}
    keep_alive = "keep-alive" in wishes if old else "close" not in wishes
    waits = _expects_continue(fields) and not old
    return Head(
        method, path, query, host[1].lower(), authority, fields, _length(fields),
        keep_alive and "close" not in wishes, waits,
    )  # fmt: skip


def _split_target(method: str, target: str) -> tuple[str, str]:
    """Return the authority in a target, if there is one, and path and query."""
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return "", target
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute or not absolute[1]:
        raise _bad("the target is no path")
    rest = absolute[2]
    return absolute[1], rest if rest.startswith("/") else f"/{rest}"


def _length(fields: dict[str, str]) -> int:
    """Return the length of the body. Raises ``HttpError``."""
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise _bad("content-length beside transfer-encoding")
        if coding.lower() != "chunked":
            raise HttpError(HTTPStatus.NOT_IMPLEMENTED, "no transfer-encoding is taken here")
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "say content-length: chunks are not taken here")
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise _bad("content-length is no number")
    return int(length)


def _expects_continue(fields: dict[str, str]) -> bool:
    expected = fields.get("expect")
    if expected is None:
        return False
    if expected.lower() != "100-continue":
        raise HttpError(HTTPStatus.EXPECTATION_FAILED, "only 100-continue can be expected here")
    return True


def _bad(reason: str) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, reason)
