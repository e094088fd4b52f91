"""Who makes a request: passwords, tokens, what they cost, and who is refused."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lft.accounts.account import RIGHTS, Accounts
from lft.accounts.basic import KnownPasswords
from lft.accounts.keys import salt_password
from lft.accounts.tokens import Identity
from lft.web.guest import HttpGuest
from tests.support.accounts import ALICE_ALONE, PASSWORD, TOKEN_KEY, Serve, account, token
from tests.support.certificates import Pki, tls
from tests.support.local import ServerThread, StartLocal
from tests.support.web import ADMIN, Browser, basic, request, site_of, web_port
from tests.web.conftest import WEB

ALICE = basic("alice", PASSWORD)
SESSION = "/api/v1/session"


def derivations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the passwords that are derived from here on."""
    seen: list[str] = []
    real = salt_password

    def count(password: str, *rest: Any) -> bytes:
        seen.append(password)
        return real(password, *rest)

    monkeypatch.setattr("lft.accounts.basic.salt_password", count)
    return seen


def test_a_password_is_derived_once(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request does not cost a key derivation."""
    seen = derivations(monkeypatch)
    for _ in range(5):
        assert browser.get(SESSION, ADMIN).json() == {"user": "admin", "may": list(RIGHTS)}
    assert seen == ["admin123"]


def test_connections_that_show_a_right_password_at_once_wait_for_one_derivation(
    site: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program with many connections is no guesser."""
    seen = derivations(monkeypatch)

    def ask(_: int) -> int:
        with Browser(web_port(site)) as browser:
            return browser.get(SESSION, ADMIN).status

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == [200] * 16
    assert seen == ["admin123"]
    assert site.server.login.delays.attempt("admin", "127.0.0.1") == 0.0
    assert time.monotonic() - began < 20


def test_a_password_that_was_derived_meanwhile_is_not_derived_again(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another connection had shown it, between a look for it and the turn to derive it."""
    seen = derivations(monkeypatch)
    browser.get(SESSION, ADMIN)
    real, missed = KnownPasswords.find, [True]

    def find(known: KnownPasswords, *shown: Any) -> Identity | None:
        return None if missed and missed.pop() else real(known, *shown)

    monkeypatch.setattr(KnownPasswords, "find", find)
    assert browser.get(SESSION, ADMIN).status == 200
    assert (seen, missed) == (["admin123"], [])


@pytest.mark.parametrize("user", ["alice", "nobody", "closed"])
def test_an_unknown_user_costs_the_same_as_a_wrong_password(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """The same answer, and the same work."""
    accounts = {"alice": account(), "closed": account(disabled=True)}
    site = serve(accounts, http=WEB)
    seen = derivations(monkeypatch)
    with Browser(web_port(site)) as browser:
        answer = browser.get(SESSION, basic(user, "wrong"))
    assert (answer.status, answer.json()["detail"]) == (401, "unknown user or wrong password")
    assert seen == ["wrong"]


def test_wrong_passwords_count_where_those_of_the_wire_count(
    site: ServerThread, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    """Guessing by HTTP is as slow, and is logged in the same form."""
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert browser.get(SESSION, basic("admin", "wrong")).status == 401
    assert site.server.login.delays.attempt("admin", "127.0.0.1") > 0
    assert caplog.messages[0].startswith("login failed from 127.0.0.1 port ")
    assert caplog.messages[0].endswith(", user 'admin': wrong password")


def test_a_guesser_waits_and_no_worker_with_it(site: ServerThread) -> None:
    """A wrong password is answered late; meanwhile others are served."""
    with Browser(web_port(site)) as guesser, Browser(web_port(site)) as other:
        for _ in range(2):
            guesser.get(SESSION, basic("admin", "wrong"))
        began = time.monotonic()
        guesser.send(b"")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(guesser.get, SESSION, basic("admin", "wrong"))
            assert other.get("/healthz").status == 200
            assert late.result().status == 401
        assert time.monotonic() - began >= 0.5


def test_a_token_is_shown_as_bearer(serve: Serve) -> None:
    """RFC 6750, with what ``auth.py token`` makes."""
    site = serve(ALICE_ALONE, http=WEB)
    with Browser(web_port(site)) as browser:
        shown = {"Authorization": f"Bearer {token()}"}
        assert browser.get(SESSION, shown).json()["user"] == "alice"
        wrong = {"Authorization": f"Bearer {token(key=b'x' * 32)}"}
        assert browser.get(SESSION, wrong).status == 401


@pytest.mark.parametrize("kind", ["password", "token", "cookie"])
def test_a_closed_account_ends_at_the_next_request(start_local: StartLocal, kind: str) -> None:
    """Whatever it logged in with."""
    users = dict(ALICE_ALONE)
    accounts = Accounts(users, token_key=TOKEN_KEY)
    site = start_local(lambda: accounts, credentials=Path("none of the demo"), http=WEB)
    cookie = site_of(site).sessions.open("alice", users["alice"])
    shown = {
        "password": ALICE,
        "token": {"Authorization": f"Bearer {token()}"},
        "cookie": {"Cookie": f"a=b; lft_session={cookie}"},
    }[kind]
    with Browser(web_port(site)) as browser:
        assert browser.get(SESSION, shown).status == 200
        accounts = Accounts({"alice": account(disabled=True)}, token_key=TOKEN_KEY)
        assert browser.get(SESSION, shown).status == 401


def test_a_password_crosses_the_network_over_tls_only(serve: Serve, pki: Pki) -> None:
    """Passwords, tokens and cookies only over TLS or loopback."""
    site = serve({"alice": account()}, http=WEB)
    with Browser(web_port(site)) as browser:
        assert browser.get(SESSION, ALICE).status == 200
        (guest,) = site.server.connections.peers
        assert isinstance(guest, HttpGuest)
        guest.door = guest.door._replace(private=False)
        for shown in (ALICE, {"Cookie": "lft_session=x"}):
            assert browser.get(SESSION, shown).status == 403
        assert browser.ask("POST", SESSION, body={"data": "n,,n=alice,r=x"}).status == 403


def test_tls_is_the_one_of_the_wire(serve: Serve, pki: Pki) -> None:
    """The same certificate."""
    site = serve({"alice": account()}, http=WEB, **tls(pki.server))
    with Browser(web_port(site), ca=pki.ca) as browser:
        assert browser.get(SESSION, ALICE).status == 200
        assert browser.get("/healthz").status == 200


def test_a_client_without_tls_is_told_where_it_is_spoken(serve: Serve, pki: Pki) -> None:
    """FAULTS 27: plain on the TLS port, in words that a browser shows."""
    site = serve({"alice": account()}, http=WEB, **tls(pki.server))
    with Browser(web_port(site)) as browser:
        answer = browser.get("/healthz")
        words = b"TLS is spoken here: begin the address with https:\n"
        assert (answer.status, answer.body) == (400, words)
        assert browser.rest() == b""


HOSTS = [
    ("files.example", 200), ("a.files.example:443", 200), ("a.b.files.example", 421),
    ("example", 421), ("files.example.", 200), ("evil.example", 421),
]  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_the_names_of_the_certificate_are_ours(
    serve: Serve, tmp_path: Path, pki: Pki, host: str, status: int
) -> None:
    """A server that listens everywhere is known by them, and by no other."""
    named = pki.issue("named", "files.example", "*.files.example", "localhost")
    site = serve({"alice": account()}, http=WEB, **tls(named))
    with Browser(web_port(site), ca=pki.ca) as browser:
        assert browser.get("/healthz", {"Host": host}).status == status


def test_a_script_is_not_offered_what_opens_a_window(browser: Browser) -> None:
    """The page asks for the password itself."""
    browser.send(request("GET", SESSION))
    assert b"WWW-Authenticate: Basic" in browser.sock.recv(4096)
    browser.send(request("GET", SESSION, {"Sec-Fetch-Dest": "empty"}))
    assert b"Basic" not in browser.sock.recv(4096)


@pytest.mark.parametrize("shown", ["Basic", "Basic !", "Basic YQ==", "Digest x", "Bearer", ""])
def test_what_is_no_login_is_refused(browser: Browser, shown: str) -> None:
    """FAULTS 6: nonsense in its field."""
    assert browser.get(SESSION, {"Authorization": shown}).status in (400, 401)
