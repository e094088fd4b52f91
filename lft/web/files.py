"""The files of the output directory: listed, and sent to those who may have them."""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence
from urllib.parse import quote

from lft.server.admission import Admission
from lft.server.limits import Limits
from lft.store.history import MissingModuleError, Outcome, sqlite
from lft.store.partstore import PartStore
from lft.store.unfinished import unfinished_in
from lft.web.fields import content_disposition, original_name, repr_digest
from lft.web.folders import (
    MOST_LISTED,
    STEP,
    AbsentError,
    Entry,
    Listing,
    Order,
    Page,
    is_within,
    open_file,
    open_folder,
    split_path,
)
from lft.web.problem import Field, HttpError, not_found
from lft.web.ranges import Span, UnsatisfiableError, parse_range
from lft.web.request import Caller, Intake, Later, Request
from lft.web.response import FileSlice, Response, json_response
from lft.web.router import Route
from lft.web.validators import Validators, judge, range_holds

PLACE = "/api/v1/files"
USUALLY_LISTED = 200  # entries of a page, unless it is asked for more or fewer
_NEXT_STEP = 0.0001  # seconds until a listing goes on: main sees meanwhile what else is to be done

# What an uploaded page could do if a browser showed it: nothing, and it is not shown but saved.
_HARMLESS: tuple[Field, ...] = (
    ("Content-Type", "application/octet-stream"),
    ("Content-Security-Policy", "sandbox; default-src 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "private, no-cache"),
    ("Accept-Ranges", "bytes"),
)

_SUMS = (".md5", ".sha256")  # what is beside a directory that was received as one
_Told = List[Dict[str, Any]]  # as JSON has it
# Gives, for paths below the output directory, what the history knows of those that it knows.
Known = Callable[[Sequence[str]], Mapping[str, Outcome]]


class Reach(NamedTuple):
    """What a user may see: all below a directory, or there only what the user has sent."""

    base: tuple[str, ...]  # the directory
    sender: str | None  # whose files, where others send to the same directory

    @classmethod
    def of(cls, caller: Caller) -> Reach:
        """Return the reach of a user.

        A directory of the user's own is all the user's. Those who have none share the output
        directory, with the directories of others in it: there only the history tells who sent what.
        """
        if caller.may("read-all"):
            return cls((), None)
        base = split_path(caller.rights.directory)
        return cls(base, None if base else caller.user)


class Files:
    """Lists and sends files. All of it runs on workers.

    ``root`` is the descriptor of the output directory; nothing is opened by its path.
    """

    def __init__(
        self,
        output: Path,
        root: int,
        known: Known,
        parts: PartStore,
        admission: Admission,
        limits: Limits,
    ) -> None:
        self._output = output
        self._root = root
        self._known = known
        self._parts = parts
        self._admission = admission
        self._limits = limits

    def routes(self) -> list[Route]:
        """Return their lines of the table."""
        return [Route("GET", PLACE, self.list_files), Route("GET", PLACE + "/{path...}", self.send)]

    # -- listing

    def list_files(self, request: Request) -> Intake:
        """List a page of a directory, step by step. Raises ``HttpError``."""
        query = request.query("dir", "after", "limit", "sort")
        reach = Reach.of(request.caller)
        try:
            order = Order.parse(query.get("sort", "name"))
            limit = _limit(query.get("limit", str(USUALLY_LISTED)))
            parts = split_path(query["dir"].strip("/")) if query.get("dir") else reach.base
            self._check(reach, parts)
            judge = self._judge(None if parts else reach.sender)
            start = partial(
                Listing, after=query.get("after", ""), limit=limit, order=order, wanted=judge
            )
            first = not query.get("after")  # the page with what is unfinished on it
            unfinished = self._unfinished(request.caller, "/".join(parts)) if first else None
            answer = partial(self._answer, query, parts)
            return _Listed(self._root, parts, start, unfinished, answer)
        except (AbsentError, FileNotFoundError):
            raise not_found() from None
        except ValueError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None

    def _answer(
        self, query: Mapping[str, str], parts: Sequence[str], found: Page, unfinished: _Told | None
    ) -> Response:
        """Answer with a page."""
        places = ["/".join((*parts, entry.name)) for entry in found.entries]
        known = self._known(places)
        entries = [_told(one, place, known.get(place)) for one, place in zip(found.entries, places)]
        page: dict[str, Any] = {"dir": "/".join(parts), "entries": entries, "next": found.next}
        if unfinished is not None:
            page["unfinished"] = sorted(unfinished, key=lambda one: (one["name"], one["received"]))
        return json_response(page, fields=_links(page, query))

    def _check(self, reach: Reach, parts: Sequence[str]) -> None:
        """Raise ``AbsentError`` unless a path, or what it is in, is the user's to see."""
        if not is_within(parts, reach.base):
            raise AbsentError
        if reach.sender is not None and parts and not self._sent_by(reach.sender, [parts[0]]):
            raise AbsentError

    def _judge(self, sender: str | None) -> Callable[[list[str]], set[str]] | None:
        """Return what tells the names that ``sender`` has sent from others; ``None`` for all."""
        return None if sender is None else partial(self._sent_by, sender)

    def _sent_by(self, sender: str, names: list[str]) -> set[str]:
        """Return those of ``names`` in the output directory that ``sender`` has sent.

        A directory's sums are of the one that sent the directory. Raises ``HttpError`` where there
        is no history that could tell.
        """
        try:
            sqlite()
        except MissingModuleError as error:
            reason = f"whose a file is cannot be told: {error}; or have a directory of your own"
            raise HttpError(HTTPStatus.NOT_IMPLEMENTED, reason) from None
        of = {name: _without_sums(name) for name in names}
        known = self._known(sorted({*of, *of.values()}))
        own = {place for place, one in known.items() if one.user == sender}
        return {name for name, directory in of.items() if name in own or directory in own}

    def _unfinished(self, caller: Caller, directory: str) -> Iterator[dict[str, Any]]:
        """Give what is on its way to a directory, or waits for its client to go on."""
        moving = {one.facts.saved_as: one.verified_bytes for one in self._admission.active()}
        user = None if caller.may("read-all") else caller.user
        found = unfinished_in(self._output, self._parts, directory, user)
        for facts, in_use, claimed in found:
            own = facts.user == caller.user and facts.is_upload
            yield {
                "name": facts.name, "size": facts.size, "user": facts.user,
                "received": moving.get(facts.saved_as, 0) if in_use else claimed,
                "state": "arriving" if in_use else "resting",
                "upload": facts.head if own else None,
            }  # fmt: skip

    # -- sending

    def send(self, request: Request) -> Response:
        """Send a file, or a part of it. Raises ``HttpError``: the same for absent and forbidden."""
        request.query()
        reach = Reach.of(request.caller)
        path = request.parameters["path"]
        try:
            parts = split_path(path)
            self._check(reach, parts)
            descriptor, facts = open_file(self._root, parts)
        except AbsentError:
            raise not_found() from None
        try:
            known = self._known([path]).get(path)
            response = _answer(request, Sent(descriptor, facts, parts[-1], known))
        except BaseException:
            os.close(descriptor)
            raise
        if isinstance(response.body, FileSlice):
            self._limits.begin(request.caller.user)
            response.body.closed = partial(self._limits.end, request.caller.user)
        else:
            os.close(descriptor)
        return response


class _Listed(Intake):
    """A page that is being looked for: after each step other work may have its turn."""

    def __init__(
        self,
        root: int,
        parts: Sequence[str],
        start: Callable[[int], Listing],
        unfinished: Iterator[dict[str, Any]] | None,
        answer: Callable[[Page, _Told | None], Response],
    ) -> None:
        """Raises ``AbsentError``, ``ValueError`` and ``OSError``."""
        self._held = contextlib.ExitStack()
        try:
            self._listing = start(self._held.enter_context(open_folder(root, parts)))
        except BaseException:
            self._held.close()
            raise
        self._held.callback(self._listing.close)
        self._page: Page | None = None
        self._unfinished = unfinished  # it is looked at behind the page
        self._found: _Told = []
        self._answer = answer

    def room(self) -> memoryview:
        """Return no room: no body comes."""
        return memoryview(b"")

    def filled(self, _size: int) -> float:
        return 0.0

    def finish(self) -> Response:
        """Go a step further, ``Later`` again if there are more; answer behind the last."""
        if self._page is None:
            self._page = self._listing.go_on()
        if self._page is None or self._has_more_unfinished():
            raise Later(_NEXT_STEP, counted=False)
        return self._answer(self._page, None if self._unfinished is None else self._found)

    def _has_more_unfinished(self) -> bool:
        """Look at some of what is unfinished; return whether there is more."""
        until = time.monotonic() + STEP
        for one in self._unfinished or ():
            self._found.append(one)
            if time.monotonic() >= until:
                return True
        return False

    def abandon(self) -> None:
        self._held.close()


class Sent(NamedTuple):
    """A file that is open to be sent."""

    descriptor: int
    facts: os.stat_result
    name: str
    known: Outcome | None

    @property
    def sha256(self) -> str:
        """Its SHA-256 in hexadecimal, where that was its digest."""
        known = self.known
        right = known and known.algorithm == "sha256" and known.size == self.facts.st_size
        return known.digest if known and right else ""


def _answer(request: Request, file: Sent) -> Response:
    """Answer a request for an open file. The file is closed with its slice, or by the caller."""
    validators = Validators.of(file.facts)
    fields = [*_HARMLESS, ("ETag", validators.etag), ("Last-Modified", validators.last_modified)]
    headers = request.head.fields
    status = judge(request.head.method, headers, validators)
    if status == HTTPStatus.PRECONDITION_FAILED:
        raise HttpError(status, "the file is not in the state that was asked for")
    if status is not None:
        return Response(status, [one for one in fields if one[0] != "Content-Type"])
    fields.append(("Content-Disposition", content_disposition(original_name(file.name))))
    if file.sha256:
        fields.append(("Repr-Digest", repr_digest(file.sha256)))
    size = file.facts.st_size
    span = _span(headers, validators, size)
    if span is None:
        return Response(HTTPStatus.OK, fields, FileSlice(file.descriptor, 0, size))
    fields.append(("Content-Range", f"bytes {span.start}-{span.end - 1}/{size}"))
    part = FileSlice(file.descriptor, span.start, len(span))
    return Response(HTTPStatus.PARTIAL_CONTENT, fields, part)


def _span(headers: Mapping[str, str], validators: Validators, size: int) -> Span | None:
    """Return the range that is asked for, ``None`` for the whole file. Raises ``HttpError``."""
    if "range" not in headers or not range_holds(headers, validators):
        return None
    try:
        return parse_range(headers["range"], size)
    except UnsatisfiableError:
        fields = [("Content-Range", f"bytes */{size}"), ("Accept-Ranges", "bytes")]
        reason = f"the file has {size} bytes, and none of those that were asked for"
        raise HttpError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, reason, fields) from None


def _told(entry: Entry, place: str, known: Outcome | None) -> dict[str, Any]:
    """Return an entry as JSON says it."""
    told: dict[str, Any] = {
        "name": entry.name,
        "path": place,
        "original_name": original_name(entry.name),
        "kind": "directory" if entry.is_folder else "file",
        "size": None if entry.is_folder else entry.size,
        "modified": entry.modified / 1e9,
        "digest": None,
        "algorithm": None,
    }
    if not entry.is_folder:
        told["href"] = f"{PLACE}/{quote(place)}"
    if known and known.digest and (entry.is_folder or known.size == entry.size):
        told["digest"], told["algorithm"] = known.digest, known.algorithm
    return told


def _without_sums(name: str) -> str:
    """Return what a file of sums is for, or the name of another file."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix in _SUMS else name


def _limit(text: str) -> int:
    """Read the number of entries of a page. Raises ``ValueError``."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST_LISTED):
        raise ValueError(f"limit must be a number from 1 to {MOST_LISTED}")
    return int(text)


def _links(page: Mapping[str, Any], query: Mapping[str, str]) -> list[Field]:
    """Return the field that leads to the next page (RFC 8288)."""
    if page["next"] is None:
        return []
    said = {**query, "after": page["next"]}
    pairs = "&".join(f"{name}={quote(value, safe='')}" for name, value in said.items())
    return [("Link", f'<{PLACE}?{pairs}>; rel="next"')]
