"""What happens, as it happens: ``/events``, by server-sent events."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter, deque
from http import HTTPStatus
from typing import Any, NamedTuple, Sequence

import config
from lft.accounts.account import AccountSource
from lft.store.history import RECEIVED, Outcome
from lft.web.problem import HttpError
from lft.web.request import Caller, Request
from lft.web.response import Response, Stream
from lft.web.router import Route

PATH = "/api/v1/events"
_ALIVE = b":\n\n"


class Event(NamedTuple):
    """Something that happened to a user's transfer."""

    number: int
    kind: str
    user: str
    data: bytes


class Progress(NamedTuple):
    """How far everything was at one moment: what clients are told, with the users."""

    number: int
    transfers: Sequence[tuple[str, dict[str, Any]]]


class Events:
    """The last events, the newest progress, and how many watch. The lock protects all of it.

    An id names this run of the server as well, so that one from before a restart is known to be no
    place among what is kept here. Progress has none: only the newest counts. Any thread.
    """

    def __init__(self, accounts: AccountSource) -> None:
        self._accounts = accounts
        self._run = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._kept: deque[Event] = deque(maxlen=config.EVENTS_KEPT)
        self._watchers: Counter[str] = Counter()  # streams of each user
        self.last = 0  # the number of the newest event; this and the next need no lock to be read
        self.progress = Progress(0, ())

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("GET", PATH, self.watch)]

    @property
    def watched(self) -> bool:
        """Whether anyone watches (no lock: a moment old)."""
        return bool(self._watchers)

    def tell(self, kind: str, user: str, value: Any) -> None:
        """Let those know that may, within ``EVENTS_EVERY`` seconds."""
        data = to_json(value)
        with self._lock:
            self.last += 1
            self._kept.append(Event(self.last, kind, user, data))

    def tell_outcome(self, outcome: Outcome) -> None:
        """Let those know that may what became of a file."""
        kind = "verdict" if outcome.outcome == RECEIVED else "failure"
        self.tell(kind, outcome.user, outcome.facts)

    def tell_progress(self, transfers: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Let those know that may how far everything is; once more when there is nothing left."""
        with self._lock:
            if transfers or self.progress.transfers:
                self.progress = Progress(self.progress.number + 1, transfers)

    def watch(self, request: Request) -> Response:
        """Answer with events from now on, or behind ``Last-Event-ID``. Raises ``HttpError``."""
        request.query()
        caller = request.caller
        with self._lock:
            if self._watchers[caller.user] >= config.MAX_WATCHERS:
                reason = "too many streams of events of this user"
                raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, reason)
            self._watchers[caller.user] += 1
        stream = Watching(self, caller, request.field("last-event-id"))
        return Response(HTTPStatus.OK, [("Content-Type", "text/event-stream")], stream)

    def leave(self, user: str) -> None:
        """Let a stream of a user go."""
        with self._lock:
            self._watchers[user] -= 1
            if not self._watchers[user]:
                del self._watchers[user]

    def since(self, number: int) -> list[Event] | None:
        """Return the events behind a number; ``None`` if they are not all known."""
        with self._lock:
            if not self.last - len(self._kept) <= number <= self.last:
                return None
            return list(self._kept)[len(self._kept) - (self.last - number) :]

    def number_of(self, text: str | None) -> int:
        """Return the number in an event's id, the newest without one; -1 for no id of ours."""
        if text is None:
            return self.last
        run, _, number = text.partition("-")
        ours = run == self._run and number.isascii() and number.isdigit() and len(number) < 19
        return int(number) if ours else -1

    def encode(self, kind: str, number: int, data: bytes) -> bytes:
        """Return an event as it is sent."""
        return f"event: {kind}\nid: {self._run}-{number}\ndata: ".encode() + data + b"\n\n"

    def still_open(self, caller: Caller) -> bool:
        """Whether the account is as it was when the stream began."""
        account = self._accounts().get(caller.user)
        return account == caller.credential and caller.credential.active(time.time())


class Watching(Stream):
    """One stream of events. Its methods run on the owner of its connection."""

    def __init__(self, events: Events, caller: Caller, last_seen: str | None) -> None:
        self._events = events
        self._caller = caller
        self._sent = events.number_of(last_seen)
        self._progress = -1  # the number of the last one that was sent
        self._spoke_at = 0.0
        self._closed = False

    @property
    def has_news(self) -> bool:
        behind = self._events.last != self._sent
        return behind or self._events.progress.number != self._progress

    @property
    def next_at(self) -> float:
        return self._spoke_at + config.SILENT_STREAM

    def more(self) -> bytes | None:
        """Return what has happened; the end where the account is not what it was."""
        if not self._events.still_open(self._caller):
            return None
        said = self._new_events() + self._new_progress()
        if not said and time.monotonic() >= self.next_at:
            said = _ALIVE
        if said:
            self._spoke_at = time.monotonic()
        return said

    def _new_events(self) -> bytes:
        found = self._events.since(self._sent)
        if found is None:
            self._sent = self._events.last
            return self._events.encode("resync", self._sent, b"{}")
        seen = [event for event in found if self._sees(event.user)]
        self._sent = found[-1].number if found else self._sent
        return b"".join(self._events.encode(one.kind, one.number, one.data) for one in seen)

    def _new_progress(self) -> bytes:
        progress = self._events.progress
        if progress.number == self._progress:
            return b""
        self._progress = progress.number
        seen = [facts for user, facts in progress.transfers if self._sees(user)]
        return b"event: progress\ndata: " + to_json({"transfers": seen}) + b"\n\n"

    def _sees(self, user: str) -> bool:
        return user == self._caller.user or self._caller.may("operate")

    def close(self) -> None:
        closed, self._closed = self._closed, True
        if not closed:
            self._events.leave(self._caller.user)


def to_json(value: Any) -> bytes:
    """Return a value as JSON on one line."""
    return json.dumps(value, separators=(",", ":")).encode()
