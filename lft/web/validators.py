"""Entity tags, dates and conditional requests (RFC 9110, sections 5.6.7, 8.8 and 13)."""

from __future__ import annotations

import calendar
import hashlib
import os
import re
import time
from email.utils import parsedate
from typing import Mapping, NamedTuple

from lft.web.response import http_date

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_READING = ("GET", "HEAD")


class Validators(NamedTuple):
    """What tells one state of a file from another."""

    etag: str  # with its quotes; a strong one
    modified: int  # seconds since 1970

    @classmethod
    def of(cls, facts: os.stat_result) -> Validators:
        """Return those of a file as it is now.

        A published file is never written to again. The tag has its inode, size and time, hashed:
        the number of an inode is nobody's business. The time of the last *status* change is left
        out: it moves when a second name of the file goes, which changes no byte.
        """
        facts_of_file = f"{facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
        tag = hashlib.sha256(facts_of_file.encode()).hexdigest()[:32]
        return cls(f'"{tag}"', min(facts.st_mtime_ns // 10**9, int(time.time())))

    @property
    def last_modified(self) -> str:
        """The time as a header field has it."""
        return http_date(self.modified)


def parse_date(text: str) -> int | None:
    """Return the seconds since 1970 of an HTTP date in any of its three forms, if it is one."""
    if not text.isascii() or len(text) > 64:
        return None
    try:
        parsed = parsedate(text)
        return None if parsed is None else calendar.timegm((*parsed[:6], 0, 0, 0))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def judge(method: str, headers: Mapping[str, str], now: Validators) -> int | None:
    """Return 304 or 412 where the conditions of a request end it, otherwise ``None``.

    ``headers`` has field names in lower case. The order is that of RFC 9110, section 13.2.2.
    """
    if "if-match" in headers:
        if not _names(headers["if-match"], now.etag, strong=True):
            return 412
    elif _changed_since(headers.get("if-unmodified-since"), now, default=False):
        return 412
    if "if-none-match" in headers:
        if _names(headers["if-none-match"], now.etag, strong=False):
            return 304 if method in _READING else 412
    elif method in _READING and not _changed_since(
        headers.get("if-modified-since"), now, default=True
    ):
        return 304
    return None


def range_holds(headers: Mapping[str, str], now: Validators) -> bool:
    """Return whether a range may be answered by that part of the file as it is now (If-Range).

    A date counts only where it is older than a second: within one, a file could change twice.
    """
    wanted = headers.get("if-range", "").strip()
    if not wanted:
        return True
    if wanted.startswith(("W/", '"')):
        return wanted == now.etag
    return parse_date(wanted) == now.modified and now.modified < int(time.time()) - 1


def _names(field: str, etag: str, *, strong: bool) -> bool:
    """Return whether a list of entity tags, or ``*``, has ``etag`` in it."""
    if field.strip() == "*":
        return True
    return any(tag == etag and not (strong and weak) for weak, tag in _TAG.findall(field))


def _changed_since(field: str | None, now: Validators, *, default: bool) -> bool:
    """Return whether the file has changed since a date; ``default`` where there is none."""
    date = None if field is None else parse_date(field)
    return default if date is None else now.modified > date
