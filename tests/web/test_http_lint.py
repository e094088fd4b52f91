"""Answers of every kind, judged by httplint, the rules of REDbot.

Each is to have no note of the levels ``bad`` and ``warning``, except those that a test names with
the reason.
"""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import Iterable

import pytest
from httplint import HttpRequestLinter, HttpResponseLinter, levels

from tests.support.local import ServerThread
from tests.support.tus import KIND, UPLOADS, USER1, checksum, metadata
from tests.support.waiting import PATIENCE
from tests.support.web import ADMIN, web_port

API = "/api/v1"
FILES = f"{API}/files"
TUS = {**USER1, "Tus-Resumable": "1.0.0"}
BAD_REQUEST = "STATUS_BAD_REQUEST"  # said of each answer with 400


class Linted:
    """Asks a server, and has each answer judged."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.fields: dict[str, str] = {}  # of the last answer
        self.status = 0

    def ask(
        self,
        method: str,
        path: str,
        fields: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        endless: bool = False,
    ) -> set[str]:
        """Make a request; return the names of bad notes. One line is read of what is endless."""
        own = {"Host": f"localhost:{self._port}", **(fields or {})}
        with closing(http.client.HTTPConnection("localhost", self._port, PATIENCE)) as link:
            link.request(method, path, body, own)
            answer = link.getresponse()
            content = answer.readline() if endless else answer.read()
        self.status, self.fields = answer.status, dict(answer.getheaders())
        request = HttpRequestLinter()
        request.process_request_topline(method.encode(), f"http://localhost{path}".encode(), b"1.1")
        request.process_headers(_encoded(own.items()))
        request.feed_content(body)
        request.finish_content(True)
        linter = HttpResponseLinter(_related=request, no_content=method == "HEAD")
        linter.process_response_topline(b"1.1", b"%d" % answer.status, answer.reason.encode())
        linter.process_headers(_encoded(answer.getheaders()))
        linter.feed_content(content)
        linter.finish_content(not endless)
        return {
            type(note).__name__
            for one in linter.notes
            for note in (one, *one.subnotes)
            if note.level in (levels.BAD, levels.WARN)
        }


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in fields]


@pytest.fixture(name="linted")
def _linted(site: ServerThread) -> Linted:
    return Linted(web_port(site))


def test_page_and_scripts(linted: Linted) -> None:
    """Fetched, looked at, and known already."""
    for path in ("/", "/page/page.js", "/page/style.css"):
        assert linted.ask("GET", path) == set()
        tag = linted.fields["ETag"]
        assert linted.ask("HEAD", path) == set()
        assert linted.ask("GET", path, {"If-None-Match": tag}) == set()
        assert linted.status == 304


@pytest.mark.parametrize(
    "path",
    ["openapi.json", "healthz", "server", "transfers", "files", "uploads", "history", "metrics",
     "history?format=csv", "session"],
)  # fmt: skip
def test_answers_of_the_interface(linted: Linted, path: str) -> None:
    """JSON, CSV and figures."""
    assert linted.ask("GET", f"{API}/{path}", ADMIN) == set()
    assert linted.status == 200


def test_events(linted: Linted) -> None:
    """Of which there is no last one."""
    assert linted.ask("GET", f"{API}/events", ADMIN, endless=True) == set()
    assert linted.fields["Content-Type"].startswith("text/event-stream")


def test_login(linted: Linted) -> None:
    """The first message of one, and what ends one, which takes the cookie away."""
    kind = {"Content-Type": "application/json"}
    first = b'{"data":"n,,n=admin,r=abcdefghijklmnopqr"}'
    assert linted.ask("POST", f"{API}/session", kind, first) == set()
    assert linted.ask("DELETE", f"{API}/session", ADMIN) == set()
    assert "Set-Cookie" in linted.fields


def test_files(site: ServerThread, linted: Linted) -> None:
    """Whole, in part, unchanged, changed, and beyond the end."""
    (site.output / "server_received_1_näive page.html").write_bytes(b"<b>0123456789</b>")
    place = f"{FILES}/server_received_1_n%C3%A4ive%20page.html"
    assert linted.ask("GET", place, ADMIN) == set()
    tag, time = linted.fields["ETag"], linted.fields["Last-Modified"]
    for status, fields in (
        (200, {"Range": "bytes=1-2,4-5"}),
        (206, {"Range": "bytes=2-4"}),
        (206, {"Range": "bytes=-3", "If-Range": tag}),
        (304, {"If-None-Match": tag}),
        (304, {"If-Modified-Since": time}),
        (412, {"If-Match": '"another"'}),
        (416, {"Range": "bytes=20-"}),
    ):
        assert linted.ask("GET", place, {**ADMIN, **fields}) == set()
        assert linted.status == status
    assert linted.ask("HEAD", place, ADMIN) == set()


def test_uploads(linted: Linted) -> None:
    """Each verb of tus, and its problems."""
    bytes_from = [{**TUS, "Content-Type": KIND["Content_Type"], "Upload-Offset": n} for n in "03"]
    assert linted.ask("OPTIONS", UPLOADS) == set()
    said = {"Upload-Length": "9", "Upload-Metadata": metadata(filename="näive.html")}
    assert linted.ask("POST", UPLOADS, {**TUS, **said}) == set()
    place = linted.fields["Location"]
    assert linted.ask("HEAD", place, TUS) == set()
    assert linted.ask("PATCH", place, bytes_from[1], b"<b>") == set()
    assert linted.status == 409
    wrong = {**bytes_from[0], **checksum(b"other")}
    # the status for a wrong checksum is that of tus, and of nobody else
    assert linted.ask("PATCH", place, wrong, b"<b>") == {"STATUS_NONSTANDARD"}
    assert linted.ask("PATCH", place, bytes_from[0], b"<b>") == set()
    assert linted.ask("PATCH", place, bytes_from[1], b"123456") == set()
    assert "Repr-Digest" in linted.fields
    assert linted.ask("HEAD", place, TUS) == set()
    assert linted.ask("DELETE", place, TUS) == set()
    assert linted.ask("HEAD", place, TUS) == set()
    assert linted.status == 404
    # of another version tus says so with this status: its field is the precondition
    assert linted.ask("POST", UPLOADS, USER1) == {"STATUS_412_WITHOUT_PRECONDITION"}
    assert linted.ask("POST", UPLOADS, {**TUS, "Upload-Length": "x"}) == {BAD_REQUEST}
    assert linted.ask("POST", UPLOADS, {**TUS, "Upload-Length": str(2**41)}) == set()
    assert linted.status == 507


def test_problems(linted: Linted) -> None:
    """Each says what is wrong, in a document of its own kind."""
    for status, method, path, fields in (
        (404, "GET", "/nowhere", {}),
        (404, "GET", f"{FILES}/none", ADMIN),
        (401, "GET", f"{API}/server", {}),
        (405, "DELETE", f"{API}/server", ADMIN),
        (405, "BREW", "/", {}),
        (415, "POST", f"{API}/session", {"Content-Type": "text/plain"}),
        (421, "GET", "/", {"Host": "other.example"}),
    ):
        assert linted.ask(method, path, fields) == set()
        assert linted.status == status
        assert linted.fields["Content-Type"] == "application/problem+json"
    assert linted.ask("GET", f"{API}/history?limit=x", ADMIN) == {BAD_REQUEST}
    # said of each answer with 414
    assert linted.ask("GET", "/" + "x" * 20_000) == {"STATUS_URI_TOO_LONG"}
