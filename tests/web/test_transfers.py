"""Transfers as others see them: listed, shown, cancelled, and told of as events."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest

import config
from lft.web.overview import Overview
from lft.web.response import Stream
from protocol import FileReady, Rejected
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.local import ServerThread
from tests.support.rawpeer import Peer, RawUpload
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Browser, basic, request, site_of, web_port
from tests.web.conftest import WEB

TRANSFERS, EVENTS = "/api/v1/transfers", "/api/v1/events"
USER1 = basic("user1", "password1")
USERS = {"alice": account(), "bob": account(), "carol": account(may=("operate",))}
ALICE, BOB, CAROL = (basic(user, PASSWORD) for user in USERS)


@pytest.fixture
def upload(serve: Serve) -> Iterator[tuple[ServerThread, RawUpload]]:
    """A file of alice's of which one block of three is there."""
    site = serve(USERS, http=WEB)
    with Peer(site.port).log_in("alice") as peer:
        one = peer.start("x.bin", bytes(500_000))
        one.send(peer.attach(), 0)
        yield site, one


def test_a_transfer_is_shown_with_what_is_known_of_it(
    upload: tuple[ServerThread, RawUpload],
) -> None:
    """Bytes, state, user, from where; by itself as in the list."""
    site, _ = upload
    with Browser(web_port(site)) as browser:
        (one,) = browser.get(TRANSFERS, ALICE).json()["transfers"]
        assert (one["user"], one["name"], one["size"]) == ("alice", "x.bin", 500_000)
        assert (one["received"], one["state"], one["position"]) == (200 * 1024, "receiving", None)
        assert (one["address"], one["door"]) == ("127.0.0.1", "wire")
        assert browser.get(f"{TRANSFERS}/{one['id']}", ALICE).json()["name"] == "x.bin"


def test_the_transfers_of_others_are_as_absent_as_those_that_there_are_not(
    upload: tuple[ServerThread, RawUpload],
) -> None:
    """Forbidden and absent answer alike; ``operate`` shows everyone's."""
    site, _ = upload
    with Browser(web_port(site)) as browser:
        (one,) = browser.get(TRANSFERS, CAROL).json()["transfers"]
        assert browser.get(TRANSFERS, BOB).json() == {"transfers": []}
        for method in ("GET", "DELETE"):
            foreign = browser.ask(method, f"{TRANSFERS}/{one['id']}", BOB)
            absent = browser.ask(method, f"{TRANSFERS}/999", BOB)
            assert (foreign.status, foreign.body) == (absent.status, absent.body)
            assert foreign.status == 404


@pytest.mark.parametrize("who", [ALICE, CAROL])
def test_a_cancelled_transfer_can_go_on_later(
    upload: tuple[ServerThread, RawUpload], who: dict[str, str]
) -> None:
    """By its user, or by who may operate; the client hears who it was."""
    site, one = upload
    with Browser(web_port(site)) as browser:
        (shown,) = browser.get(TRANSFERS, who).json()["transfers"]
        assert browser.ask("DELETE", f"{TRANSFERS}/{shown['id']}", who).status == 204
        answer = one.client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "cancelled"
        assert browser.get(TRANSFERS, who).json() == {"transfers": []}
    eventually(lambda: site.server.parts.in_use == 0)
    assert isinstance(one.client, Peer)
    ready = one.client.ask("x.bin", 500_000, head=bytes(200 * 1024), resume=True)
    assert isinstance(ready, FileReady)
    assert ready.have == ((0, 1),)


def test_rate_and_time_left_are_measured(upload: tuple[ServerThread, RawUpload]) -> None:
    """From one look to the next."""
    site, one = upload
    overview = Overview(site.server.admission)
    (transfer,) = overview.sample()
    assert overview.describe(transfer)["rate"] == 0
    one.send(one.client.attach(), 1)
    overview.sample()
    facts = overview.describe(transfer)
    assert facts["rate"] > 0
    assert facts["eta_seconds"] > 0


# --- events -------------------------------------------------------------------------------------


def events_of(browser: Browser, who: dict[str, str], **fields: str) -> Iterator[tuple[str, Any]]:
    """Give the events of a stream: kind, id and data."""
    browser.send(request("GET", EVENTS, {**who, **fields}))
    status, told = browser.head()
    assert (status, told["content-type"]) == (200, "text/event-stream")
    text = ""
    while True:
        text += browser.chunk().decode()
        *events, text = text.split("\n\n")
        for event in events:
            lines = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
            if "event" in lines:
                yield lines["event"], {**json.loads(lines["data"]), "_id": lines.get("id")}


def test_events_tell_of_start_progress_and_verdict(serve: Serve) -> None:
    """As they happen, with ids for those that must not be lost."""
    site = serve(USERS, http=WEB)
    with Browser(web_port(site)) as browser, Peer(site.port).log_in("alice") as peer:
        events = events_of(browser, ALICE)
        assert next(events)[0] == "progress"
        one = peer.start("x.bin", bytes(500_000))
        kind, data = next(events)
        assert (kind, data["name"], data["size"]) == ("start", "x.bin", 500_000)
        assert next(events)[1]["transfers"][0]["name"] == "x.bin"
        one.send(peer.attach(), 0, 1, 2)
        one.complete()
        found = next(event for event in events if event[0] == "verdict")[1]
        assert (found["outcome"], found["digest"]) == ("received", one.digest)


def test_a_watcher_of_a_higher_priority_holds_no_transfer_up(serve: Serve) -> None:
    """To watch is not to move a file: it cost a transfer a quarter of its speed."""
    chief = basic("chief", PASSWORD)
    site = serve({"chief": account(priority=1, may=("operate",)), **USERS}, http=WEB)
    with Browser(web_port(site)) as browser, Peer(site.port).log_in("alice") as peer:
        events = events_of(browser, chief)
        assert next(events)[0] == "progress"
        peer.start("x.bin", bytes(500_000))
        assert next(events)[0] == "start"
        assert not site.server.receiving._way.is_overtaken(0)


def test_others_hear_of_no_event_and_operators_of_all(serve: Serve) -> None:
    """A stream shows what the lists show."""
    site = serve(USERS, http=WEB)
    hub = site_of(site).events
    with Browser(web_port(site)) as one, Browser(web_port(site)) as two:
        bobs, carols = events_of(one, BOB), events_of(two, CAROL)
        next(bobs), next(carols)
        hub.tell("failure", "alice", {"name": "secret"})
        hub.tell("failure", "bob", {"name": "own"})
        assert next(bobs)[1]["name"] == "own"
        assert [next(carols)[1]["name"] for _ in range(2)] == ["secret", "own"]


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(serve: Serve) -> None:
    """Last-Event-ID; where that is no place that is known, ``resync``."""
    site = serve(USERS, http=WEB)
    hub = site_of(site).events
    with Browser(web_port(site)) as browser:
        events = events_of(browser, BOB)
        next(events)
        hub.tell("start", "bob", {"name": "first"})
        seen = next(events)[1]["_id"]
    for name in ("second", "third"):
        hub.tell("start", "bob", {"name": name})
    with Browser(web_port(site)) as browser:
        events = events_of(browser, BOB, **{"Last-Event-ID": seen})
        assert [next(events)[1]["name"] for _ in range(2)] == ["second", "third"]
    for wrong in ("other-1", "x", f"{seen}99", "-1", seen.replace("-", "-²")):
        with Browser(web_port(site)) as browser:
            events = events_of(browser, BOB, **{"Last-Event-ID": wrong.encode().decode("latin-1")})
            assert next(events)[0] == "resync"


def test_events_that_are_not_kept_any_more_are_told_as_resync(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, and nothing is silently left out."""
    monkeypatch.setattr(config, "EVENTS_KEPT", 3)
    site = serve(USERS, http=WEB)
    hub = site_of(site).events
    with Browser(web_port(site)) as browser:
        events = events_of(browser, BOB)
        next(events)
        hub.tell("start", "bob", {})
        seen = next(events)[1]["_id"]
    for _ in range(4):
        hub.tell("start", "bob", {})
    with Browser(web_port(site)) as browser:
        events = events_of(browser, BOB, **{"Last-Event-ID": seen})
        assert next(events)[0] == "resync"


def test_a_stream_ends_with_its_account(site: ServerThread) -> None:
    """A closed account ends at the next piece."""
    stream = _stream(site)
    assert stream.more()
    site_of(site).events._accounts = dict  # type: ignore[assignment]
    assert stream.more() is None
    stream.close()


def test_a_silent_stream_shows_that_it_lives(
    site: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment now and then: a proxy would cut a connection that is silent."""
    stream = _stream(site)
    stream.more()
    assert stream.more() == b""
    monkeypatch.setattr(config, "SILENT_STREAM", 0.0)
    assert stream.more() == b":\n\n"
    stream.close()


def _stream(site: ServerThread) -> Stream:
    """Return a stream of events of user1, without a connection."""
    from lft.web.events import Watching  # noqa: PLC0415
    from lft.web.request import Caller  # noqa: PLC0415

    web = site_of(site)
    credential = site.server.login._accounts()["user1"]
    caller = Caller("user1", credential, web.access.as_caller(("user1", credential)).rights)  # type: ignore[arg-type]
    web.events._watchers["user1"] += 1
    return Watching(web.events, caller, None)


def test_streams_are_let_go_with_their_connections(
    site: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a user can have so many."""
    monkeypatch.setattr(config, "MAX_WATCHERS", 2)
    hub = site_of(site).events
    with Browser(web_port(site)) as one, Browser(web_port(site)) as two:
        next(events_of(one, USER1)), next(events_of(two, USER1))
        with Browser(web_port(site)) as three:
            assert three.get(EVENTS, USER1).status == 429
            assert three.get(EVENTS, USER1).status == 429
    eventually(lambda: not hub.watched, "the streams to be let go")


def test_metrics_are_for_operators(site: ServerThread, browser: Browser) -> None:
    """The right ``operate``, also where Prometheus looks first."""
    for path in ("/metrics", "/api/v1/metrics"):
        assert browser.get(path, USER1).status == 403
        answer = browser.get(path, ADMIN)
        assert answer.fields["content-type"].startswith("text/plain; version=0.0.4")
        assert b'lft_transfers{state="active"} 0\n' in answer.body
