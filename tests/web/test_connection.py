"""Connections on which HTTP is spoken: keeping them, ending them, and what a bad request costs."""

from __future__ import annotations

import pytest

import config
from tests.support.local import ServerThread, StartLocal
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Browser, request, web_port
from tests.web.conftest import WEB


def test_a_connection_serves_one_request_after_the_other(browser: Browser) -> None:
    """Keep-alive."""
    for _ in range(40):
        assert browser.get("/healthz").json() == {"status": "ok"}


def test_requests_that_come_together_are_answered_in_order(browser: Browser) -> None:
    """RFC 9112, 9.3.2: pipelining."""
    browser.send(request("GET", "/healthz") * 40 + request("GET", "/nothing"))
    assert [browser.answer().status for _ in range(41)] == [200] * 40 + [404]


def test_a_client_that_wants_to_close_is_closed(browser: Browser) -> None:
    """The answer says so, too."""
    answer = browser.get("/healthz", {"Connection": "close"})
    assert answer.fields["connection"] == "close"
    assert browser.rest() == b""


def test_a_request_that_is_no_request_ends_its_connection(browser: Browser) -> None:
    """What stands behind it could be anything."""
    browser.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n" * 2)
    answer = browser.answer()
    assert (answer.status, answer.fields["content-type"]) == (400, "application/problem+json")
    assert answer.json()["title"] == "Bad Request"
    assert "host" in answer.json()["detail"]
    assert browser.rest() == b""


def test_a_body_that_is_not_taken_is_not_the_next_request(browser: Browser) -> None:
    """It would be a request of whoever wrote the body."""
    inner = request("GET", "/healthz")
    head = f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(inner)}\r\n\r\n"
    browser.send(head.encode() + inner + request("GET", "/nothing"))
    assert browser.answer().status == 400
    assert browser.answer().status == 404  # the next request, and not what is in the body
    browser.send(head.replace(str(len(inner)), str(10**9)).encode())
    assert browser.answer().fields["connection"] == "close"
    assert browser.rest() == b""


def test_a_body_that_is_too_large_is_refused_before_it_comes(browser: Browser) -> None:
    """The limit comes first. A client that waits for our word need not send it."""
    fields = {"Content-Length": str(config.MAX_JSON_BODY + 1), "Expect": "100-continue"}
    answer = browser.ask("POST", "/api/v1/session", fields)
    assert answer.status == 413
    assert browser.rest() == b""


def test_a_client_that_waits_for_our_word_gets_it(browser: Browser) -> None:
    """RFC 9110, 10.1.1."""
    fields = {"Content-Length": "2", "Expect": "100-continue", "Content-Type": "application/json"}
    browser.send(request("POST", "/api/v1/session", fields))
    assert browser.answer().status == 100
    browser.send(b"{}")
    assert browser.answer().status == 400


def test_head_has_the_fields_of_get_and_no_body(browser: Browser) -> None:
    """RFC 9110, 9.3.2."""
    answer = browser.ask("HEAD", "/healthz")
    assert (answer.status, answer.fields["content-length"]) == (200, "15")
    assert browser.get("/healthz").status == 200


def test_another_method_is_told_which_there_are(browser: Browser) -> None:
    """RFC 9110, 15.5.6."""
    answer = browser.ask("PUT", "/healthz")
    assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")
    assert browser.ask("BREW", "/healthz").status == 405


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/%2e%2e/etc/passwd", "/..%2fetc", "//healthz", "/./healthz", "/%00"]
)
def test_no_way_of_writing_a_path_leads_elsewhere(browser: Browser, path: str) -> None:
    """Encoded and plain ways out."""
    assert browser.get(path).status in (400, 404)


def test_a_slow_head_ends_at_its_deadline(start_local: StartLocal) -> None:
    """FAULTS 4: however steadily it trickles in."""
    site = start_local(http=WEB, login_timeout=0.3)
    with Browser(web_port(site)) as browser:
        assert browser.get("/healthz").status == 200
        browser.send(b"GET / HTTP/1.1\r\n")
        assert browser.answer().status == 408
        assert browser.rest() == b""


def test_an_idle_connection_ends_without_a_word(site: ServerThread) -> None:
    """A client that sends its next request just then must not take our word for its answer."""
    with Browser(web_port(site)) as browser:
        assert browser.get("/healthz").status == 200
        (guest,) = site.server.connections.peers
        eventually(lambda: guest.place.value == "watched")
        guest.deadline = 0.0
        assert browser.rest() == b""


def test_what_a_browser_must_know_is_in_every_answer(browser: Browser) -> None:
    """Nothing runs, is framed, sniffed or read by another site; no CORS."""
    for path, fields in (("/healthz", {}), ("/nothing", {}), ("/api/v1/server", ADMIN)):
        told = browser.get(path, fields).fields
        assert told["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert told["x-content-type-options"] == "nosniff"
        assert told["cross-origin-resource-policy"] == "same-origin"
        assert not any(name.startswith("access-control") for name in told)
