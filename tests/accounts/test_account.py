"""Accounts that are closed or do not exist: a stranger cannot tell them from others."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time

import pytest

from config import ITERATIONS
from lft.accounts.account import Accounts, Credential, demo_credentials
from lft.accounts.keys import hmac_sha256
from lft.accounts.scram import ScramClient, ScramServer
from protocol import AuthenticationError
from tests.support.scram import (
    CLIENT_FIRST,
    CLIENT_NONCE,
    NONCE_EXTENSION,
    SALT,
    USERS,
    log_in,
    rfc_client,
    rfc_server,
    verifier,
)


def test_an_unknown_user_and_a_wrong_password_look_the_same() -> None:
    """FAULTS 22: the same form of challenge, then the same words."""
    users = Accounts({"known": Credential.make("right")})
    challenges, refusals = [], []
    for user in ("known", "ghost"):
        client, server = ScramClient(user, "wrong"), ScramServer(users, b"secret")
        challenge = server.challenge(client.first())
        with pytest.raises(AuthenticationError) as caught:
            server.verify(client.respond(challenge))
        challenges.append([(part[:2], len(part)) for part in challenge.split(",")])
        challenges[-1].append(("i=", int(challenge.rpartition("i=")[2])))
        refusals.append(str(caught.value))
    assert challenges[0] == challenges[1]
    assert refusals[0] == refusals[1]


def test_an_unknown_users_salt_stays_the_same() -> None:
    """Asking twice does not tell an account that exists from one that does not."""
    first = "n,,n=ghost,r=abc"
    one, other = (rfc_server().challenge(first) for _ in range(2))
    assert one == other


def test_unknown_users_have_different_salts() -> None:
    """One salt for all users that do not exist would give them away."""
    one, other = (rfc_server().challenge(f"n,,n={name},r=abc") for name in ("ghost", "spook"))
    assert one != other


def test_an_unknown_users_salt_depends_on_the_servers_secret() -> None:
    """Without the secret, no client can compute the salt of a user that does not exist."""
    nobody, first = Accounts({}), "n,,n=ghost,r=a"
    salts = {ScramServer(nobody, s, nonce="x").challenge(first) for s in (b"one", b"two")}
    assert len(salts) == 2


def test_an_unknown_users_salt_survives_a_restart_of_the_server() -> None:
    """The key in the file is used, not the secret that each server makes anew."""
    users = Accounts({}, salt_key=bytes(32))
    first = "n,,n=ghost,r=a"
    salts = {ScramServer(users, s, nonce="x").challenge(first) for s in (b"one", b"two")}
    assert len(salts) == 1


def test_an_unknown_user_has_the_iteration_count_that_most_have() -> None:
    """Where all users have another count, the default would give away that a user is unknown."""
    users = {name: verifier(b"pw", iterations=5000) for name in ("a", "b")}
    users["c"] = verifier(b"pw", iterations=6000)
    assert rfc_server(users).challenge("n,,n=ghost,r=a").endswith(",i=5000")


def test_of_two_counts_equally_frequent_the_unknown_user_has_the_higher() -> None:
    """Of two equally common counts, the order in the file does not decide."""
    users = {"a": verifier(b"pw", iterations=6000), "b": verifier(b"pw", iterations=5000)}
    assert Accounts(users).usual_iterations == 6000
    assert Accounts(dict(reversed(list(users.items())))).usual_iterations == 6000
    assert Accounts({}).usual_iterations == ITERATIONS


CLOSED_LIMITS = {"disabled": {"disabled": True}, "expired": {"expires": 1}}


@pytest.mark.parametrize("why", CLOSED_LIMITS)
def test_a_closed_account_looks_like_one_that_does_not_exist(why: str) -> None:
    """Same challenge, same refusal, even with the right password."""
    closed = USERS["user"].replace(**CLOSED_LIMITS[why])  # type: ignore[arg-type]
    others = {"other": verifier(b"pw")}
    client, server = rfc_client(), rfc_server({**others, "user": closed})
    challenge = server.challenge(CLIENT_FIRST)
    assert challenge == rfc_server(others).challenge(CLIENT_FIRST)
    with pytest.raises(AuthenticationError, match=r"^unknown user or wrong password$"):
        server.verify(client.respond(challenge))


def test_an_account_is_open_until_it_expires() -> None:
    """At the instant ``expires`` the account is closed."""
    account = USERS["user"].replace(expires=1000)
    assert account.active(999.9)
    assert not account.active(1000)
    assert not account.replace(disabled=True).active(0)
    users = {"user": account.replace(expires=int(time.time()) + 1000)}
    assert log_in(rfc_client(), rfc_server(users)) == "user"


def test_refusing_an_unknown_user_takes_the_work_that_a_wrong_password_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many HMACs for each, and the server computes no password hash."""
    real, calls = hmac_sha256, []

    def counted(key: bytes, data: bytes) -> bytes:
        calls.append(len(key))
        return real(key, data)

    users = Accounts({"user": USERS["user"], "gone": USERS["user"].replace(disabled=True)})
    work = []
    for user in ("user", "gone", "ghost"):
        client, server = ScramClient(user, "wrong"), ScramServer(users, b"secret")
        monkeypatch.setattr("lft.accounts.scram.hmac_sha256", counted)
        challenge = server.challenge(client.first())
        monkeypatch.setattr("lft.accounts.scram.hmac_sha256", real)
        answer = client.respond(challenge)
        monkeypatch.setattr("lft.accounts.scram.hmac_sha256", counted)
        with pytest.raises(AuthenticationError):
            server.verify(answer)
        work.append(calls[:])
        calls.clear()
        monkeypatch.setattr("lft.accounts.scram.hmac_sha256", real)
    assert work[0] == work[1] == work[2] != []


def test_who_has_logged_in_has_the_accounts_limits() -> None:
    """The login gives the server the account, with directory, quota and the like."""
    users = {"user": USERS["user"].replace(directory="team/user", quota=5)}
    server = rfc_server(users)
    log_in(rfc_client(), server)
    assert server.credential == users["user"]


def test_an_unknown_user_cannot_log_in_with_the_stand_in_key() -> None:
    """The verifier that stands in for an unknown user's verifies nothing."""
    server = rfc_server({})
    challenge = server.challenge(CLIENT_FIRST)
    salt = base64.b64decode(re.findall(",s=([^,]*)", challenge)[0])
    without = f"c=biws,r={CLIENT_NONCE}{NONCE_EXTENSION}"
    signed = f"{CLIENT_FIRST[3:]},{challenge},{without}".encode()
    proof = hmac.new(salt * 2, signed, hashlib.sha256).digest()
    with pytest.raises(AuthenticationError):
        server.verify(f"{without},p={base64.b64encode(proof).decode()}")


def test_a_credential_does_not_show_its_keys() -> None:
    """A credential may stand in a log line or a traceback."""
    shown = repr(USERS["user"])
    for secret in (SALT, USERS["user"].stored_key, USERS["user"].server_key):
        assert repr(secret)[2:-1] not in shown
    assert "4096" in shown


def test_the_demo_accounts_are_verifiers_too() -> None:
    """Each demo account logs in with its own password and priority only."""
    users = demo_credentials()
    assert {name: one.priority for name, one in users.items()} == {"admin": 1, "user1": 0}
    for name, password in (("admin", "admin123"), ("user1", "password1")):
        assert log_in(ScramClient(name, password), ScramServer(users, b"secret")) == name
    with pytest.raises(AuthenticationError):
        log_in(ScramClient("admin", "password1"), ScramServer(users, b"secret"))
