"""Logging in as the page does: SCRAM in two requests, then a cookie."""

from __future__ import annotations

from typing import Any

import pytest

import config
from lft.accounts.scram import ScramClient
from lft.web.web_sessions import WebSessions
from tests.support.accounts import PASSWORD, VERIFIER, Serve, account
from tests.support.certificates import Pki, tls
from tests.support.local import DEMO, ServerThread
from tests.support.web import Answer, Browser, web_port
from tests.web.conftest import WEB

SESSION = "/api/v1/session"


def log_in(
    browser: Browser, user: str = "user1", password: str = "password1", **fields: str
) -> Answer:
    """Log in; return the last answer."""
    login = ScramClient(user, password)
    challenge = browser.ask("POST", SESSION, fields, {"data": login.first()})
    assert challenge.status == 200, challenge
    given = challenge.json()
    assert given["mechanism"] == "SCRAM-SHA-256"
    proof = {"id": given["id"], "data": login.respond(given["data"])}
    answer = browser.ask("POST", SESSION, fields, proof)
    if answer.status == 201:
        login.check_server(answer.json()["data"])
    return answer


def cookie_of(answer: Answer) -> dict[str, str]:
    """Return the cookie as a browser sends it back."""
    return {"Cookie": answer.fields["set-cookie"].partition(";")[0]}


def test_a_login_brings_a_cookie_that_no_script_and_no_other_site_gets(browser: Browser) -> None:
    """HttpOnly, SameSite=Strict; the server proves that it knows the account, too."""
    answer = log_in(browser)
    assert answer.status == 201
    assert {key: answer.json()[key] for key in ("user", "may")} == {"user": "user1", "may": []}
    facts = answer.fields["set-cookie"].split("; ")[1:]
    assert facts == ["Path=/", "HttpOnly", "SameSite=Strict"]
    assert browser.get(SESSION, cookie_of(answer)).json() == {"user": "user1", "may": []}


def test_over_tls_the_cookie_is_for_tls_and_this_host(serve: Serve, pki: Pki) -> None:
    """Secure under TLS."""
    site = serve({"alice": account()}, http=WEB, **tls(pki.server))
    with Browser(web_port(site), ca=pki.ca) as browser:
        answer = log_in(browser, "alice", PASSWORD)
        assert answer.fields["set-cookie"].startswith("__Host-lft_session=")
        assert answer.fields["set-cookie"].endswith("; Secure")
        assert browser.get(SESSION, cookie_of(answer)).status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_two_servers_on_one_host_do_not_end_each_others_logins(browser: Browser, host: str) -> None:
    """A browser has one set of cookies for all ports of a host: the name tells them apart."""
    one, other = {"Host": f"{host}:8080"}, {"Host": f"{host}:9090"}
    first, second = cookie_of(log_in(browser, **one)), cookie_of(log_in(browser, **other))
    names = [cookie["Cookie"].partition("=")[0] for cookie in (first, second)]
    assert names == ["lft_session_8080", "lft_session_9090"]
    both = {"Cookie": f"{first['Cookie']}; {second['Cookie']}"}
    assert browser.ask("DELETE", SESSION, {**other, **both}).status == 204
    assert browser.get(SESSION, {**one, **both}).status == 200
    assert browser.get(SESSION, {**one, **second}).status == 401


def test_after_logging_out_the_cookie_is_worth_nothing(browser: Browser) -> None:
    """It ends here, and not only in the browser."""
    cookie = cookie_of(log_in(browser))
    answer = browser.ask("DELETE", SESSION, cookie)
    assert answer.status == 204
    assert answer.fields["set-cookie"].endswith("Max-Age=0")
    assert browser.get(SESSION, cookie).status == 401


@pytest.mark.parametrize("user", ["user1", "nobody"])
def test_a_wrong_password_and_an_unknown_user_are_answered_alike(
    browser: Browser, user: str
) -> None:
    """FAULTS 22."""
    answer = log_in(browser, user, "wrong")
    assert (answer.status, answer.json()["detail"]) == (401, "unknown user or wrong password")


def test_wrong_proofs_count_and_a_proof_is_tried_once(site: ServerThread, browser: Browser) -> None:
    """FAULTS 22, 23: a login that was refused cannot be tried again."""
    login = ScramClient("user1", "wrong")
    given = browser.ask("POST", SESSION, body={"data": login.first()}).json()
    proof = {"id": given["id"], "data": login.respond(given["data"])}
    assert browser.ask("POST", SESSION, body=proof).status == 401
    again = browser.ask("POST", SESSION, body=proof)
    assert (again.status, again.json()["detail"]) == (401, "no such login has begun: begin anew")
    log_in(browser, "user1", "wrong")
    assert site.server.login.delays.attempt("user1", "127.0.0.1") > 0


@pytest.mark.parametrize(
    "body",
    [
        {}, {"data": 1}, {"data": "n,,n=a,r=b", "id": 1}, {"data": "", "more": ""}, [1], "text",
        {"id": "x", "data": "y"}, {"data": "p=tls-server-end-point,,n=a,r=b"}, {"data": "\0"},
    ],
)  # fmt: skip
def test_a_login_that_is_none_is_refused(browser: Browser, body: Any) -> None:
    """FAULTS 6."""
    assert browser.ask("POST", SESSION, body=body).status in (400, 401)


@pytest.mark.parametrize("body", [b"{", b"[" * 9000, b'{"data":"a","data":"b"}', b"\xff"])
def test_json_that_is_none_is_refused(browser: Browser, body: bytes) -> None:
    """FAULTS 6."""
    fields = {"Content-Type": "application/json"}
    assert browser.ask("POST", SESSION, fields, body).status == 400
    assert browser.ask("POST", SESSION, {}, body).status == 415


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://localhost"},
    ],
)  # fmt: skip
def test_a_login_by_the_page_of_another_site_is_refused(
    site: ServerThread, fields: dict[str, str]
) -> None:
    """Unsafe methods refuse a foreign Origin, login included; another port is foreign."""
    fields = {"Host": f"localhost:{web_port(site)}", **fields}
    with Browser(web_port(site)) as browser:
        answer = browser.ask("POST", SESSION, fields, {"data": "n,,n=user1,r=x"})
        assert answer.status == 403
        own = {**fields, "Origin": f"http://localhost:{web_port(site)}"}
        own["Sec-Fetch-Site"] = "same-origin"
        assert browser.ask("POST", SESSION, own, {"data": "n,,n=user1,r=x"}).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil", "a"])
def test_a_foreign_host_is_not_ours(browser: Browser, host: str) -> None:
    """421, so that a name that leads here ("rebinding") gets nothing, login included."""
    assert browser.get("/healthz", {"Host": host}).status == 421
    assert browser.ask("POST", SESSION, {"Host": host}, {"data": "n,,n=a,r=x"}).status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:99", "[::1]", "10.0.0.1"])
def test_our_own_names_and_addresses_are_ours(browser: Browser, host: str) -> None:
    """An address is no name that could lead elsewhere."""
    assert browser.get("/healthz", {"Host": host}).status == 200


# --- the logins that hold -----------------------------------------------------------------------


def test_a_login_ends_after_an_hour_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """And after a working day in any case."""
    sessions, users = WebSessions(), DEMO
    token = sessions.open("user1", users["user1"])
    assert sessions.find(token, users)
    monkeypatch.setattr(config, "WEB_SESSION_IDLE", -1.0)
    assert sessions.find(token, users) is None
    monkeypatch.undo()
    assert sessions.find(token, users) is None
    monkeypatch.setattr(config, "WEB_SESSION_LIFETIME", -1.0)
    assert sessions.find(sessions.open("user1", users["user1"]), users) is None


def test_another_password_ends_a_login() -> None:
    """As it ends the sessions of the wire."""
    sessions, users = WebSessions(), DEMO
    token = sessions.open("user1", users["user1"])
    changed = users.with_users({"user1": VERIFIER})
    assert sessions.find(token, changed) is None
    assert sessions.find(token, users) is None


def test_logins_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that logs in again and again ends its own logins, not those of others."""
    monkeypatch.setattr(config, "WEB_LOGINS_OF_USER", 2)
    sessions, users = WebSessions(), DEMO
    other = sessions.open("admin", users["admin"])
    tokens = [sessions.open("user1", users["user1"]) for _ in range(4)]
    assert [bool(sessions.find(one, users)) for one in tokens] == [False, False, True, True]
    assert sessions.find(other, users)
