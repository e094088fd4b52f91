"""Logging in with a token, from a client and at a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable

import pytest

from client import send_files
from config import FREE_PAIR
from lft.accounts.account import Accounts
from lft.accounts.file import CredentialStore, save_credentials
from lft.accounts.tokens import make_token, signing_key
from lft.wire.codecs import FEATURES
from lft.wire.frames import encode
from protocol import (
    AHEAD,
    BEFORE_1970,
    PACKED,
    PRESERVE,
    SKIP,
    TOKEN,
    TREES,
    UNSIZED,
    VERSION,
    AuthenticationError,
    AuthOk,
    AuthStart,
    Error,
    FileReady,
    Hello,
    IntegrityOk,
    Message,
    UsageError,
)
from tests.support.accounts import (
    ALICE_ALONE,
    SIGNING_KEY,
    TOKEN_KEY,
    VERIFIER,
    Serve,
    account,
    token,
)
from tests.support.certificates import Pki, tls
from tests.support.files import random_file
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.processes import run_client
from tests.support.rawpeer import Peer, last_words, raw_socket

BAD_TOKENS: dict[str, Callable[[], str]] = {
    "no signature": lambda: token(None, "none"),
    "another algorithm": lambda: token(SIGNING_KEY * 2, "HS512"),
    "another key": lambda: token(bytes(32)),
    "the file's key itself": lambda: token(TOKEN_KEY),
    "expired": lambda: token(exp=int(time.time()) - 1, iat=int(time.time()) - 100),
    "not yet valid": lambda: token(nbf=int(time.time()) + 300),
    "from the future": lambda: token(iat=int(time.time()) + 300),
    "unknown user": lambda: token(sub="nobody"),
    "nobody's key": lambda: token(signing_key(TOKEN_KEY, None), sub="nobody"),
    "no user": lambda: token(sub=None),
    "no end": lambda: token(exp=None),
    "no beginning": lambda: token(iat=None),
    "no number": lambda: token(jti=None),
    "one claim more": lambda: token(admin=True),
    "trailing bytes": lambda: token() + "AAAA",
    "trailing part": lambda: token() + ".AAAA",
    "padding": lambda: token() + "=",
    "cut": lambda: token()[:-4],
    "no token": lambda: "nonsense",
    "nothing": lambda: "",
    "not ASCII": lambda: "é.é.é",
    "too long": lambda: "A" * 1024,
}


@pytest.mark.parametrize("kind", list(BAD_TOKENS))
def test_a_bad_token_gets_the_one_answer(serve: Serve, kind: str) -> None:
    """24: byte by byte the same, whatever is wrong with it."""
    local = serve(ALICE_ALONE)
    request = encode(Hello(VERSION, FEATURES)) + encode(AuthStart(TOKEN, BAD_TOKENS[kind]()))
    with raw_socket(local.port, request) as sock:
        words = last_words(sock)
    features = *FEATURES, PRESERVE, UNSIZED, AHEAD, SKIP, TREES, PACKED, BEFORE_1970
    hello = encode(Hello(VERSION, features))
    assert words == hello + encode(Error("authentication", "the token is not valid"))


REFUSED: dict[str, Callable[[], str]] = {
    "user 'alice': the token expired at 2001-09-09T01:46:40Z": lambda: token(iat=1, exp=10**9),
    "user 'alice': the token is good from 2100-": lambda: token(nbf=4102444800, exp=4102444860),
    "user 'alice': the token is not signed with today's key": lambda: token(bytes(32)),
    "user 'nobody': the token names a user that there is not": lambda: token(sub="nobody"),
    "user unknown: this is no token that auth.py makes": lambda: "nonsense",
}


@pytest.mark.parametrize("why", REFUSED)
def test_the_log_says_why_a_token_is_refused(
    serve: Serve, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """24: a nightly job has stopped; the operator reads what to do about it."""
    local = serve(ALICE_ALONE)
    with Peer(local.port) as peer, pytest.raises(AuthenticationError, match="is not valid"):
        peer.show(REFUSED[why]())
    (line,) = lines(caplog, "login failed")
    assert f", {why}" in line


def test_bad_tokens_cost_a_growing_delay(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """23 and 24: trying tokens costs the same delay as trying passwords."""
    local = serve(ALICE_ALONE)
    for _ in range(FREE_PAIR + 1):
        with Peer(local.port) as peer, pytest.raises(AuthenticationError):
            peer.show("x.y.z")
    assert [line.rpartition("waits ")[2] for line in lines(caplog, "its login waits")] == ["0.5 s"]


def test_a_good_token_works_on_loopback(serve: Serve) -> None:
    """24: the account's priority and rights come with it."""
    users = {"alice": account(priority=7, directory="alice")}
    local = serve(Accounts(users, token_key=TOKEN_KEY))
    with Peer(local.port) as peer:
        welcome = peer.show(token())
        assert isinstance(welcome, AuthOk)
        assert welcome.priority == 7
        peer.token = welcome.token
        upload = peer.start("x", b"x")
        upload.send(peer.attach(), 0)
        answer = upload.complete()
    assert isinstance(answer, IntegrityOk)
    assert answer.saved_as.startswith("alice/")


def test_a_good_token_works_on_the_loopback_of_a_server_for_both_ip_versions(
    serve: Serve,
) -> None:
    """24: such a server sees 127.0.0.1 as ::ffff:127.0.0.1."""
    local = serve(ALICE_ALONE, hosts=("::",))
    with Peer(local.port) as peer:
        assert isinstance(peer.show(token()), AuthOk)


def test_a_good_token_works_over_tls(serve: Serve, pki: Pki, tmp_path: Path) -> None:
    """24 and 27: for a whole transfer, with no user name and no password."""
    local = serve(ALICE_ALONE, **tls(pki.server))
    settings = local.client(ca=pki.ca, token=make_token(ALICE_ALONE, "alice", 60), user="?")
    (receipt,) = send_files([random_file(tmp_path / "x", 10)], settings)
    assert receipt.verdict == "INTEGRITY_OK"


def test_a_token_file_stands_in_for_a_password(serve: Serve, tmp_path: Path) -> None:
    """24: on the command line, without a prompt."""
    local = serve(ALICE_ALONE)
    (tmp_path / "token").write_text(make_token(ALICE_ALONE, "alice", 60) + "\n")
    source = random_file(tmp_path / "x", 10)
    done = run_client(local.port, source, "--token-file", tmp_path / "token")
    assert done.returncode == 0, done.stderr


def test_a_bad_token_is_exit_3(serve: Serve, tmp_path: Path) -> None:
    """24: one line, no second attempt."""
    local = serve(ALICE_ALONE)
    (tmp_path / "token").write_text(token(bytes(32)))
    source = random_file(tmp_path / "x", 10)
    done = run_client(local.port, source, "--token-file", tmp_path / "token")
    assert done.returncode == 3
    assert done.stderr.endswith("❌ the token is not valid\n")
    assert done.stderr.count("\n") == 1


def test_a_session_whose_token_has_expired_begins_no_other_file(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """24: a transfer that runs may end."""
    local = serve(ALICE_ALONE)
    with Peer(local.port) as peer:
        welcome = peer.show(token())
        assert isinstance(welcome, AuthOk)
        peer.token = welcome.token
        upload = peer.start("x", b"x")
        later = time.time() + 601
        monkeypatch.setattr("lft.accounts.tokens.time.time", lambda: later)
        upload.send(peer.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)
        with pytest.raises(AuthenticationError, match="the token is not valid"):
            peer.ask("y", 10)
    assert len(lines(caplog, "alice may go on no more: the token expired")) == 1


def test_a_renewed_key_ends_the_sessions_of_tokens_at_the_next_file(
    start_local: StartLocal, users_file: Path
) -> None:
    """24: sessions that began with a password go on."""
    save_credentials(users_file, ALICE_ALONE)
    local = start_local(CredentialStore(users_file).current)
    with Peer(local.port) as by_token, Peer(local.port).log_in() as by_password:
        assert isinstance(by_token.show(token()), AuthOk)
        save_credentials(users_file, ALICE_ALONE.with_token_key(renew=True))
        with pytest.raises(AuthenticationError, match="the token is not valid"):
            by_token.ask("x", 10)
        assert isinstance(by_password.ask("y", 10), FileReady)


def test_a_token_of_a_user_who_was_removed_is_bad(serve: Serve) -> None:
    """24: the account counts, not what the token says."""
    local = serve(Accounts({"bob": VERIFIER}, token_key=TOKEN_KEY))
    with Peer(local.port) as peer, pytest.raises(AuthenticationError, match="token is not valid"):
        peer.show(token())


def test_a_client_shows_no_token_to_a_distant_server_without_tls(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24: it ends before the token leaves, with exit 2 and what to do."""
    monkeypatch.setattr("lft.client.connect.is_loopback", lambda host: False)
    heard: list[Message] = []
    answers = local.server.answers._answers
    monkeypatch.setitem(answers, AuthStart, lambda peer, message: heard.append(message))
    with pytest.raises(UsageError, match="add --tls") as caught:
        send_files([random_file(tmp_path / "x", 10)], local.client(token="a.b.c"))
    assert caught.value.exit_code == 2
    assert heard == []


@pytest.mark.parametrize("token", ["x" * 2000, "\ud800"], ids=["too long", "no text"])
def test_a_token_that_cannot_be_one_is_an_error_of_ours(
    local: ServerThread, tmp_path: Path, token: str
) -> None:
    """A caller of ``send_files`` has to handle nothing but ``TransferError``."""
    with pytest.raises(UsageError, match="the token cannot be one"):
        send_files([random_file(tmp_path / "x", 10)], local.client(token=token))


def test_a_server_believes_no_token_from_afar_without_tls(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24: others may have read it on the way."""
    local = serve(ALICE_ALONE)
    monkeypatch.setattr("lft.server.guests.is_loopback", lambda host: False)
    with Peer(local.port) as peer, pytest.raises(AuthenticationError, match="over TLS only"):
        peer.show(token())
