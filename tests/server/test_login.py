"""Logins at a server: the answer, the log line, and the cost."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import threading
from typing import Any, Callable

import pytest

from lft.accounts.account import Accounts
from lft.wire.frames import encode
from protocol import AuthChallenge, AuthenticationError, Error
from tests.support.accounts import PASSWORD, TOKEN_KEY, VERIFIER, Serve, account, token
from tests.support.outputs import lines
from tests.support.rawpeer import Peer, last_words
from tests.support.waiting import PATIENCE


def _shape(challenge: AuthChallenge) -> list[tuple[str, int]]:
    """Return the fields of a challenge with their lengths."""
    return [(part[:1], len(part)) for part in challenge.data.split(",")]


def _failed_login(port: int, user: str) -> tuple[list[tuple[str, int]], str, bytes]:
    """Try a wrong password; return what may not differ between users."""
    with Peer(port) as peer:
        challenge = peer.prove(user, "wrong")
        count = challenge.data.rpartition("i=")[2]
        with socket.socket(fileno=os.dup(peer.control.fileno())) as twin:
            return _shape(challenge), count, last_words(twin)


def test_unknown_user_and_wrong_password_are_the_same_on_the_wire(
    serve: Serve, no_delays: None
) -> None:
    """22: the same fields of the same lengths, and the same bytes at the end."""
    closed = account(disabled=True)
    local = serve(Accounts({"alice": VERIFIER, "carla": closed}))
    shapes = [_failed_login(local.port, user) for user in ("alice", "bobby", "carla")]
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0][2] == encode(Error("authentication", "unknown user or wrong password"))


CLOSED = [
    ({"disabled": True}, "the account is closed"),
    ({"expires": 1}, "the account has expired"),
    ({}, "wrong password"),
]


@pytest.mark.parametrize(("limits", "reason"), CLOSED)
def test_the_log_says_why_a_closed_account_does_not_get_in(
    serve: Serve, caplog: pytest.LogCaptureFixture, limits: dict[str, Any], reason: str
) -> None:
    """22: the operator reads it; the client is told what it is told of a wrong password."""
    local = serve({"alice": account(**limits)})
    with Peer(local.port) as peer:
        peer.prove(password=PASSWORD if limits else "wrong")
        with pytest.raises(AuthenticationError, match="unknown user or wrong password"):
            peer.control.answer(PATIENCE)
    (line,) = lines(caplog, "login failed")
    assert line.endswith(f", user 'alice': {reason}")


@pytest.mark.parametrize(("limits", "reason"), CLOSED[:2])
def test_the_log_says_why_a_token_of_a_closed_account_is_bad(
    serve: Serve, caplog: pytest.LogCaptureFixture, limits: dict[str, Any], reason: str
) -> None:
    """24: and the client is told what it is told of every bad token."""
    local = serve(Accounts({"alice": account(**limits)}, token_key=TOKEN_KEY))
    with Peer(local.port) as peer, pytest.raises(AuthenticationError, match="token is not valid"):
        peer.show(token())
    (line,) = lines(caplog, "login failed")
    assert line.endswith(f", user 'alice': {reason}")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """What workers compute: each call of something with keys or hashes, and how much goes in."""
    done: list[tuple[str, list[int]]] = []

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name.startswith("worker"):
                done.append((name, [len(one) for one in arguments if isinstance(one, bytes)]))
            return function(*arguments, **options)

        return call

    for module, name in ((hmac, "new"), (hmac, "compare_digest"), (hashlib, "sha256"),
                         (hashlib, "pbkdf2_hmac")):  # fmt: skip
        monkeypatch.setattr(module, name, recorded(name, getattr(module, name)))
    return done


def test_unknown_user_and_wrong_password_cost_the_same_work(
    serve: Serve, no_delays: None, work: list[tuple[str, list[int]]]
) -> None:
    """22: the same hashes over as many bytes, in the same order, so that no clock can tell."""
    users = {"alice": VERIFIER, "carla": account(disabled=True), "david": account(expires=1)}
    local = serve(Accounts(users))
    costs = []
    for user in ("alice", "bobby", "carla", "david"):
        work.clear()
        _failed_login(local.port, user)
        costs.append(list(work))
    assert {name for name, _ in costs[0]} == {"new", "sha256", "compare_digest"}
    assert costs[0] == costs[1] == costs[2] == costs[3]


def test_an_unknown_users_salt_stays_the_same(serve: Serve, no_delays: None) -> None:
    """22: one that changes with each attempt would tell that nobody has it."""
    local = serve({"alice": VERIFIER})
    salts = set()
    for _ in range(2):
        with Peer(local.port) as peer:
            salts.add(peer.prove("nobody", "wrong").data.split(",")[1])
    assert len(salts) == 1
