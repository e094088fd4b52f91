"""What became of files, over HTTP: pages, whose they are, and the table."""

from __future__ import annotations

import csv
import io
import re
import time
from typing import Any

import pytest

from lft.store.history import RECEIVED, REFUSED, Outcome
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.local import ServerThread
from tests.support.waiting import eventually
from tests.support.web import Browser, basic, web_port
from tests.web.conftest import WEB

HISTORY = "/api/v1/history"
USERS = {
    "alice": account(), "bob": account(), "carol": account(may=("operate",)),
    "dave": account(may=("read-all",)),
}  # fmt: skip
ALICE, BOB, CAROL, DAVE = (basic(user, PASSWORD) for user in USERS)


@pytest.fixture
def past(serve: Serve) -> ServerThread:
    """A server with a history of 25 files of alice and one of bob."""
    site = serve(USERS, http=WEB)
    for number in range(25):
        note(site, "alice", f"{number}.bin", ended=number, outcome=RECEIVED)
    note(site, "bob", "=1+1", ended=99, outcome=REFUSED, reason="too large")
    eventually(lambda: len(read(site, CAROL)["entries"]) == 26, "the history to be written")
    return site


def note(site: ServerThread, user: str, name: str, **facts: Any) -> None:
    """Note an outcome."""
    ended, outcome = facts.pop("ended"), facts.pop("outcome")
    ended = int(time.time() - 5000 + ended) * 1_000_000  # older ones are not kept
    site.server.ledger._add(Outcome(ended, outcome, user, name, 1, **facts))


def read(site: ServerThread, who: dict[str, str], query: str = "") -> Any:
    """Get a page."""
    with Browser(web_port(site)) as browser:
        return browser.get(f"{HISTORY}?{query}", who).json()


def test_pages_lead_from_the_newest_to_the_oldest(past: ServerThread) -> None:
    """Keyset pages: each entry once, whatever is added meanwhile; the link is relative."""
    names, path = [], f"{HISTORY}?limit=10&outcome=received"
    with Browser(web_port(past)) as browser:
        while path:
            answer = browser.get(path, ALICE)
            names += [entry["name"] for entry in answer.json()["entries"]]
            note(past, "alice", "newer", ended=1000, outcome=RECEIVED)
            link = re.fullmatch('<(/[^>]*)>; rel="next"', answer.fields.get("link", ""))
            path = link[1] if link else ""
    assert names == [f"{number}.bin" for number in reversed(range(25))]


def test_users_see_their_own_unless_they_may_more(past: ServerThread) -> None:
    """``operate`` and ``read-all`` show everyone's; who asks for another's sees nothing."""
    assert len(read(past, BOB)["entries"]) == 1
    assert read(past, BOB, "user=alice")["entries"] == []
    for who in (CAROL, DAVE):
        assert len(read(past, who)["entries"]) == 26
        assert len(read(past, who, "user=alice")["entries"]) == 25


def test_entries_are_found_by_outcome_and_text(past: ServerThread) -> None:
    """In name or reason, in whatever case."""
    assert [one["name"] for one in read(past, CAROL, "q=TOO+large")["entries"]] == ["=1+1"]
    assert [one["name"] for one in read(past, CAROL, "outcome=refused")["entries"]] == ["=1+1"]
    assert len(read(past, CAROL, "q=.bin&limit=30")["entries"]) == 25


def test_a_table_has_all_pages_and_nothing_that_a_spreadsheet_computes(past: ServerThread) -> None:
    """A file may be named like a formula."""
    with Browser(web_port(past)) as browser:
        answer = browser.get(f"{HISTORY}?format=csv&limit=7", CAROL)
    assert answer.fields["content-type"].startswith("text/csv")
    assert answer.fields["content-disposition"] == 'attachment; filename="history.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert [row["name"] for row in rows] == [
        "'=1+1",
        *(f"{number}.bin" for number in reversed(range(25))),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=-1", "limit=1.5", "limit=²", "outcome=lost", "format=xml",
        "before=x", "limit=1&limit=2", "more=1", "q=%00", "q=%ff",
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused(past: ServerThread, query: str) -> None:
    """FAULTS 6: with words, and not with another page than was asked for."""
    assert read(past, CAROL, query.replace("²", "%C2%B2"))["status"] == 400


def test_a_python_without_sqlite_says_so(
    past: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server runs without the module."""
    monkeypatch.setitem(__import__("sys").modules, "sqlite3", None)
    assert read(past, CAROL)["status"] == 501
