"""What became of files: ``/history``, in pages or as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import config
from lft.store.history import OUTCOMES, History, MissingModuleError, Outcome, Page, Query
from lft.web.problem import Field, HttpError
from lft.web.request import Caller, Request
from lft.web.response import Response, Stream, json_response
from lft.web.router import Route

PATH = "/api/v1/history"
_COLUMNS = Outcome._fields
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


class Past:
    """Answers what became of a user's files, or of everyone's. All of it runs on workers."""

    def __init__(self, history: History) -> None:
        self._history = history

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("GET", PATH, self.show)]

    def show(self, request: Request) -> Response:
        """Answer with a page, or with all of it as CSV (RFC 4180). Raises ``HttpError``."""
        given = request.query("user", "outcome", "q", "before", "limit", "format")
        form = given.pop("format", "json")
        query = _query(given, request.caller)
        if form not in ("json", "csv"):
            raise HttpError(HTTPStatus.BAD_REQUEST, "format is json or csv")
        page = self._page(query) if query else Page([], "")
        if form == "csv":
            return self._as_table(query, page)
        told: dict[str, Any] = {"entries": [entry.facts for entry in page.entries]}
        told["next"] = page.before or None
        if page.unread and request.caller.may("operate"):
            told["unread"] = list(page.unread)
        return json_response(told, fields=_link(given, page.before))

    def _page(self, query: Query) -> Page:
        try:
            return self._history.page(query)
        except MissingModuleError as error:
            raise HttpError(HTTPStatus.NOT_IMPLEMENTED, str(error)) from None
        except ValueError:
            reason = "before is what an earlier page had as next"
            raise HttpError(HTTPStatus.BAD_REQUEST, reason) from None

    def _as_table(self, query: Query | None, first: Page) -> Response:
        fields = [
            ("Content-Type", "text/csv; charset=utf-8; header=present"),
            ("Content-Disposition", 'attachment; filename="history.csv"'),
        ]
        return Response(HTTPStatus.OK, fields, _Table(self._history, query, first))


def _query(given: dict[str, str], caller: Caller) -> Query | None:
    """Return what is asked for; ``None`` where that is nothing that the user may see."""
    user = given.get("user")
    if not (caller.may("operate") or caller.may("read-all")):
        if user not in (None, caller.user):
            return None
        user = caller.user
    outcome, limit = given.get("outcome"), given.get("limit", str(config.HISTORY_PAGE))
    if outcome is not None and outcome not in OUTCOMES:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"outcome is one of {', '.join(OUTCOMES)}")
    most = config.HISTORY_LONGEST_PAGE
    if not re.fullmatch("[0-9]{1,4}", limit, re.ASCII) or not 0 < int(limit) <= most:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"limit is a number from 1 to {most}")
    return Query(user, outcome, given.get("q", ""), given.get("before", ""), int(limit))


def _link(given: dict[str, str], before: str) -> list[Field]:
    """Return where the next page is (RFC 8288), if there is one."""
    if not before:
        return []
    return [("Link", f'<{PATH}?{urlencode({**given, "before": before})}>; rel="next"')]


class _Table(Stream):
    """All entries from one page on, as CSV. It runs on the worker that serves it."""

    def __init__(self, history: History, query: Query | None, first: Page) -> None:
        self._history = history
        self._query = query
        self._page: Page | None = first
        self._begun = False

    def more(self) -> bytes | None:
        """Return a page of lines. Raises ``MissingModuleError``, which ends it without its end."""
        page, self._page = self._page, None
        if page is None:
            return None
        text = io.StringIO()
        writer = csv.writer(text)
        if not self._begun:
            writer.writerow(_COLUMNS)
            self._begun = True
        writer.writerows([_cell(entry.facts[name]) for name in _COLUMNS] for entry in page.entries)
        if page.before and self._query:
            self._page = self._history.page(self._query._replace(before=page.before))
        return text.getvalue().encode("utf-8", "backslashreplace")

    @property
    def has_news(self) -> bool:
        return self._page is not None


def _cell(value: Any) -> Any:
    """Return a value that a spreadsheet shows, and does not compute."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
