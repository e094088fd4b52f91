"""The logins against their standards, credential file, delays, TLS, and the command line."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import fcntl
import hashlib
import hmac
import io
import json
import math
import os
import re
import shlex
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import jwt
import pytest
import trustme
from conftest import PATIENCE, environment, eventually, open_descriptors
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import auth
from config import LOGIN_TIMEOUT
from lft.accounts.account import (
    ITERATIONS,
    MAX_ITERATIONS,
    MAX_TIME,
    MIN_ITERATIONS,
    Accounts,
    Credential,
    Credentials,
    check_user_name,
    demo_credentials,
    parse_extensions,
)
from lft.accounts.file import (
    MAX_CREDENTIALS_FILE,
    OPTIONAL,
    CredentialStore,
    _check_private,
    _locked,
    load_credentials,
    save_credentials,
)
from lft.accounts.keys import hmac_sha256, saslprep, to_base64url
from lft.accounts.passwords import MAX_SECRET_FILE, PASSWORD_VARIABLE, read_password
from lft.accounts.scram import SCRAM_PLUS, ScramClient, ScramServer
from lft.accounts.throttle import (
    FORGET_AFTER,
    FREE_ADDRESS,
    GUESSES_AT_ONCE,
    LONGEST_ACCOUNT_DELAY,
    LONGEST_DELAY,
    LoginDelay,
)
from lft.accounts.tokens import MAX_TOKEN, make_token, read_token, signing_key, verify_token
from lft.options import parse_duration
from lft.wire.channel_binding import server_end_point
from lft.wire.tls import _hardened, certificate_binding, client_tls, server_tls
from protocol import MAX_FILE_SIZE, MAX_TEXT, SCRAM, AuthenticationError, UsageError

# Neither a busy machine nor an unlucky draw is an error: a test fails for what it says, or not.
quick = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)

# RFC 7677, section 3
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
NONCE_EXTENSION = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = (
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
CLIENT_FINAL = (
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def verifier(password: bytes, salt: bytes = SALT, iterations: int = 4096) -> Credential:
    """Make a credential from RFC 5802's own formulas, without a line of auth.py."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    return Credential(0, iterations, salt, hashlib.sha256(client_key).digest(), server_key)


USERS = {"user": verifier(b"pencil")}


def short(value: object) -> str:
    """Name a case of a test by the start of its value."""
    return ascii(value)[:40]


def rfc_server(users: Credentials | None = None) -> ScramServer:
    """Return the server of the RFC's example."""
    return ScramServer(USERS if users is None else users, b"secret", nonce=NONCE_EXTENSION)


def rfc_client(password: str = "pencil") -> ScramClient:
    """Return the client of the RFC's example."""
    return ScramClient("user", password, nonce=CLIENT_NONCE)


def challenged() -> ScramServer:
    """Return the RFC's server after its challenge."""
    server = rfc_server()
    server.challenge(CLIENT_FIRST)
    return server


def log_in(client: ScramClient, server: ScramServer) -> str:
    """Let the two talk to the end; return who is logged in."""
    client.check_server(server.verify(client.respond(server.challenge(client.first()))))
    return server.user


# --- SCRAM, as the standard has it --------------------------------------------------------------


def test_the_client_says_what_the_rfc_says() -> None:
    """RFC 7677, section 3, word for word, and the server's proof is accepted."""
    client = rfc_client()
    assert client.first() == CLIENT_FIRST
    assert client.respond(SERVER_FIRST) == CLIENT_FINAL
    client.check_server(SERVER_FINAL)


def test_the_server_says_what_the_rfc_says() -> None:
    """RFC 7677, section 3, word for word."""
    server = rfc_server()
    assert server.challenge(CLIENT_FIRST) == SERVER_FIRST
    assert server.verify(CLIENT_FINAL) == SERVER_FINAL
    assert server.user == "user"


def test_a_credential_is_made_by_the_rfcs_formulas() -> None:
    """What is stored is StoredKey and ServerKey of RFC 5802, section 3."""
    made = Credential.make("pencil", iterations=4096)
    assert made == verifier(b"pencil", made.salt)


def test_each_credential_has_a_salt_of_its_own() -> None:
    """Two users with one password cannot be told from the file to share it."""
    one, other = (Credential.make("pencil", iterations=4096) for _ in range(2))
    assert one.salt != other.salt
    assert one.stored_key != other.stored_key
    assert len(one.salt) >= 16


def test_the_default_iteration_count_is_one_a_client_takes() -> None:
    """Our own client accepts what our own server stores."""
    assert MIN_ITERATIONS <= ITERATIONS <= MAX_ITERATIONS
    assert Credential.make("pencil").iterations == ITERATIONS


def test_each_login_has_nonces_of_its_own() -> None:
    """Neither side uses a nonce twice."""
    assert ScramClient("user", "x").first() != ScramClient("user", "x").first()
    servers = [ScramServer(USERS, b"secret") for _ in range(2)]
    assert servers[0].challenge(CLIENT_FIRST) != servers[1].challenge(CLIENT_FIRST)


def test_the_priority_is_the_accounts() -> None:
    """Who has logged in has the priority that the file gives."""
    server = ScramServer({"boss": Credential.make("pw", 7, iterations=4096)}, b"secret")
    log_in(ScramClient("boss", "pw"), server)
    assert server.credential.priority == 7


latin = st.characters(max_codepoint=0x24F, blacklist_categories=("Cc", "Cf", "Zs"))
names = st.text(latin, min_size=1, max_size=30)


@quick
@given(names)
@example("a=b,c")
@example("=2C")
@example("=3D2C")
@example("\u00ad")
@example(",=,")
def test_every_name_and_password_logs_in(text: str) -> None:
    """Commas and equals signs in a name are escaped and come back (RFC 5802, section 5.1)."""
    try:
        name = saslprep(text)
        for form in (text, name):
            check_user_name(form)
    except UsageError:
        assume(False)
    users = {name: Credential.make(text, iterations=4096)}
    assert log_in(ScramClient(text, text), ScramServer(users, b"secret")) == name


def test_a_password_may_be_typed_in_either_unicode_form() -> None:
    """An accent typed as one character or as two is the same password, and the same name."""
    one, two = (unicodedata.normalize(form, "né") for form in ("NFC", "NFD"))
    assert one != two
    users = {one: Credential.make(two, iterations=4096)}
    assert log_in(ScramClient(two, one), ScramServer(users, b"secret")) == one


def test_an_extension_of_the_server_is_ignored_but_signed() -> None:
    """RFC 5802: optional extensions may follow, and the proof covers them."""
    assert rfc_client().respond(SERVER_FIRST + ",x=new") != rfc_client().respond(SERVER_FIRST)


@pytest.mark.parametrize("name", ["", "x" * 256, "\u1806", "\ufdfa" * 100, "a\x1b[31m"], ids=short)
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_sent(name: str) -> None:
    """Empty, or too long for AUTH_START: how the program was started is wrong, not the server."""
    with pytest.raises(UsageError):
        ScramClient(name, "pencil")


# --- SCRAM, refused -----------------------------------------------------------------------------


def test_a_wrong_password_is_refused() -> None:
    """The proof of another password is none."""
    with pytest.raises(AuthenticationError):
        challenged().verify(rfc_client("Pencil").respond(SERVER_FIRST))


def test_an_unknown_user_and_a_wrong_password_look_the_same() -> None:
    """FAULTS 22: the same form of challenge, then the same words."""
    users = {"known": Credential.make("right")}
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
    """One salt for all who do not exist would give them away."""
    one, other = (rfc_server().challenge(f"n,,n={name},r=abc") for name in ("ghost", "spook"))
    assert one != other


def test_an_unknown_users_salt_depends_on_the_servers_secret() -> None:
    """Nobody without the secret can compute which salt an account that is none would have."""
    salts = {ScramServer({}, s, nonce="x").challenge("n,,n=ghost,r=a") for s in (b"one", b"two")}
    assert len(salts) == 2


def test_an_unknown_users_salt_survives_a_restart_of_the_server() -> None:
    """The file's own key goes before the secret that each server makes anew."""
    users = Accounts({}, salt_key=bytes(32))
    first = "n,,n=ghost,r=a"
    salts = {ScramServer(users, s, nonce="x").challenge(first) for s in (b"one", b"two")}
    assert len(salts) == 1


def test_an_unknown_user_has_the_iteration_count_that_most_have() -> None:
    """Where all users have a count other than the default, the default would tell."""
    users = {name: verifier(b"pw", iterations=5000) for name in ("a", "b")}
    users["c"] = verifier(b"pw", iterations=6000)
    assert ScramServer(users, b"secret").challenge("n,,n=ghost,r=a").endswith(",i=5000")


def test_of_two_counts_equally_frequent_the_unknown_user_has_the_higher() -> None:
    """Which one does not depend on the order in the file."""
    users = {"a": verifier(b"pw", iterations=6000), "b": verifier(b"pw", iterations=5000)}
    assert Accounts(users).usual_iterations == 6000
    assert Accounts(dict(reversed(list(users.items())))).usual_iterations == 6000
    assert Accounts({}).usual_iterations == ITERATIONS


CLOSED = {"disabled": {"disabled": True}, "expired": {"expires": 1}}


@pytest.mark.parametrize("why", CLOSED)
def test_a_closed_account_looks_like_one_that_does_not_exist(why: str) -> None:
    """Same challenge, same refusal, even with the right password."""
    closed = replace(USERS["user"], **CLOSED[why])  # type: ignore[arg-type]
    others = {"other": verifier(b"pw")}
    client, server = rfc_client(), rfc_server({**others, "user": closed})
    challenge = server.challenge(CLIENT_FIRST)
    assert challenge == rfc_server(others).challenge(CLIENT_FIRST)
    with pytest.raises(AuthenticationError, match=r"^unknown user or wrong password$"):
        server.verify(client.respond(challenge))


def test_an_account_is_open_until_it_expires() -> None:
    """The second in ``expires`` is the first one too late."""
    account = replace(USERS["user"], expires=1000)
    assert account.active(999.9)
    assert not account.active(1000)
    assert not replace(account, disabled=True).active(0)
    users = {"user": replace(account, expires=int(time.time()) + 1000)}
    assert log_in(rfc_client(), rfc_server(users)) == "user"


def test_refusing_an_unknown_user_takes_the_work_that_a_wrong_password_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many HMACs for each, and no password computation on the server for any."""
    real, calls = hmac_sha256, []

    def counted(key: bytes, data: bytes) -> bytes:
        calls.append(len(key))
        return real(key, data)

    users = {"user": USERS["user"], "gone": replace(USERS["user"], disabled=True)}
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
    """The server finds directory, quota and the like with the login."""
    users = {"user": replace(USERS["user"], directory="team/user", quota=5)}
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


def test_a_replayed_proof_is_refused() -> None:
    """FAULTS 22: what was overheard once does not open the door again."""
    server = ScramServer(USERS, b"secret")
    assert server.challenge(CLIENT_FIRST) != SERVER_FIRST
    with pytest.raises(AuthenticationError):
        server.verify(CLIENT_FINAL)


def test_a_proof_for_another_nonce_is_refused() -> None:
    """FAULTS 22: the final message must name the nonce that was given."""
    with pytest.raises(AuthenticationError):
        challenged().verify(CLIENT_FINAL.replace("%hv", "%hw"))


def proven(without_proof: str) -> str:
    """Add the proof of somebody who knows the password, whatever else is in the message."""
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    signed = f"{CLIENT_FIRST[3:]},{SERVER_FIRST},{without_proof}".encode()
    signature = hmac.new(hashlib.sha256(key).digest(), signed, hashlib.sha256).digest()
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()
    return f"{without_proof},p={proof}"


@pytest.mark.parametrize(
    "without_proof",
    [
        f"c=biws,r={CLIENT_NONCE}mine",
        f"c=biws,r={NONCE_EXTENSION}",
        f"c=eSws,r={CLIENT_NONCE}{NONCE_EXTENSION}",
        f"c=,r={CLIENT_NONCE}{NONCE_EXTENSION}",
    ],
)
def test_another_nonce_or_binding_is_refused_even_with_a_right_proof(without_proof: str) -> None:
    """A client that knows the password must still take up the server's nonce and our binding."""
    assert proven(CLIENT_FINAL.partition(",p=")[0]) == CLIENT_FINAL
    with pytest.raises(AuthenticationError):
        challenged().verify(proven(without_proof))


def test_the_stored_key_is_not_enough_to_log_in() -> None:
    """Who has read the credential file still cannot come in."""
    without = CLIENT_FINAL.partition(",p=")[0]
    signed = f"{CLIENT_FIRST[3:]},{SERVER_FIRST},{without}".encode()
    stolen = USERS["user"].stored_key
    signature = hmac.new(stolen, signed, hashlib.sha256).digest()
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(stolen, signature))).decode()
    with pytest.raises(AuthenticationError):
        challenged().verify(f"{without},p={proof}")


def test_a_proof_with_something_behind_it_is_refused() -> None:
    """A proof has 32 bytes, not at least 32."""
    without, _, proof = CLIENT_FINAL.partition(",p=")
    longer = base64.b64encode(base64.b64decode(proof) + b"more").decode()
    with pytest.raises(AuthenticationError):
        challenged().verify(f"{without},p={longer}")


MALFORMED_FIRST = ["", "n", "n,", "n,,", "n,,n=user", "n,,n=user,r=", "n,,n=user,x=y"]
MALFORMED_FIRST += ["n,,r=x,n=user", "n=user,r=x", " n,,n=user,r=x", "N,,n=user,r=x"]
MALFORMED_FIRST += ["n,,N=user,R=x", "n,,m=must,n=user,r=x", "n,a=other,n=user,r=x"]
MALFORMED_FIRST += ["p=tls-unique,,n=user,r=x", "y,a=other,n=user,r=x", "y"]  # channel binding
MALFORMED_FIRST += ["n,,n=us=er,r=x", "n,,n=user=,r=x", "n,,n=us=2Fer,r=x"]  # no =2C, no =3D
MALFORMED_FIRST += ["n,,n=" + "x" * 10_000 + ",r=x"]


@pytest.mark.parametrize("message", MALFORMED_FIRST, ids=short)
def test_a_malformed_first_message_of_a_client_is_refused(message: str) -> None:
    """Missing, misplaced and unknown parts, channel binding, and names of 10,000 characters."""
    with pytest.raises(AuthenticationError):
        rfc_server().challenge(message)


MALFORMED_FINAL = ["", "c=biws", "c=biws,r=x", CLIENT_FINAL.partition(",p=")[0], CLIENT_FINAL + "x"]
MALFORMED_FINAL += [CLIENT_FINAL + ",", CLIENT_FINAL + ",x=y", CLIENT_FINAL.replace("p=", "P=")]
MALFORMED_FINAL += [CLIENT_FINAL.replace("biws", "eSws"), CLIENT_FINAL.replace("biws", "")]
MALFORMED_FINAL += [re.sub("p=.*", "p=", CLIENT_FINAL), re.sub("p=.*", "p=!", CLIENT_FINAL)]
MALFORMED_FINAL += [re.sub("p=.*", "p=é", CLIENT_FINAL), re.sub("p=.*", "p=dHzb", CLIENT_FINAL)]


@pytest.mark.parametrize("message", MALFORMED_FINAL, ids=short)
def test_a_malformed_final_message_of_a_client_is_refused(message: str) -> None:
    """Missing parts, something more behind, another channel binding, and proofs that are none."""
    with pytest.raises(AuthenticationError):
        challenged().verify(message)


HOSTILE_COUNTS = ["0", "1", "4095", "-4096", str(MAX_ITERATIONS + 1), str(2**31), str(2**63)]
HOSTILE_COUNTS += ["9" * 500, "", "many", "4096x", "4096.0", "0x1000"]


@pytest.mark.parametrize("count", HOSTILE_COUNTS, ids=short)
def test_an_unreasonable_iteration_count_is_refused(count: str) -> None:
    """FAULTS 26: a hostile server neither weakens the proof nor keeps our processor busy."""
    with pytest.raises(AuthenticationError):
        rfc_client().respond(SERVER_FIRST.replace("i=4096", f"i={count}"))


MALFORMED_CHALLENGES = ["", "r", "r=", SERVER_FIRST.partition(",i=")[0], "e=other-error"]
MALFORMED_CHALLENGES += [re.sub(",s=[^,]*", f",s={salt}", SERVER_FIRST) for salt in ("", "!")]
MALFORMED_CHALLENGES += [SERVER_FIRST.replace("W22Z", "é"), SERVER_FIRST.replace("==", "")]
MALFORMED_CHALLENGES += ["m=must," + SERVER_FIRST, SERVER_FIRST.replace(",s=", ",S=")]


@pytest.mark.parametrize("message", MALFORMED_CHALLENGES, ids=short)
def test_a_malformed_challenge_is_refused(message: str) -> None:
    """Missing and misplaced parts, mandatory extensions, and salts that are none."""
    with pytest.raises(AuthenticationError):
        rfc_client().respond(message)


@pytest.mark.parametrize("nonce", ["", "x", CLIENT_NONCE, CLIENT_NONCE[:-1], "x" + CLIENT_NONCE])
def test_a_challenge_without_our_nonce_and_more_is_refused(nonce: str) -> None:
    """A server must take up our nonce and add to it, or it may be replaying an old challenge."""
    with pytest.raises(AuthenticationError):
        rfc_client().respond(f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")


WRONG_SIGNATURES = ["", "v", "v=", "v=!", "e=other-error", SERVER_FINAL[:-1], SERVER_FINAL[:-4]]
WRONG_SIGNATURES += [SERVER_FINAL.replace("6rri", "6rrj"), SERVER_FINAL.replace("6rri", "é")]
WRONG_SIGNATURES += [SERVER_FINAL.replace("v=", "V="), "x=y," + SERVER_FINAL]


@pytest.mark.parametrize("message", WRONG_SIGNATURES, ids=short)
def test_a_server_that_cannot_prove_itself_is_refused(message: str) -> None:
    """FAULTS 26: a server that does not know the verifier does not get a file."""
    client = rfc_client()
    client.respond(SERVER_FIRST)
    with pytest.raises(AuthenticationError):
        client.check_server(message)


def test_a_servers_proof_from_another_login_is_refused() -> None:
    """The server, too, must prove itself anew each time."""
    client = ScramClient("user", "pencil")
    client.respond(ScramServer(USERS, b"secret").challenge(client.first()))
    with pytest.raises(AuthenticationError):
        client.check_server(SERVER_FINAL)


@pytest.mark.parametrize("message", ["v=", SERVER_FINAL])
def test_no_proof_counts_before_there_was_a_challenge(message: str) -> None:
    """An empty signature is not right only because none has been computed yet."""
    with pytest.raises(AuthenticationError):
        rfc_client().check_server(message)


def test_the_longest_greeting_is_refused_or_gets_an_answer_that_fits_a_message() -> None:
    """A nonce that makes the challenge too long for AUTH_CHALLENGE is the client's fault."""
    first = CLIENT_FIRST.ljust(MAX_TEXT, "x")
    try:
        challenge = rfc_server().challenge(first)
    except AuthenticationError:
        return
    assert len(challenge) <= MAX_TEXT


def test_the_longest_challenge_is_refused_or_gets_an_answer_that_fits_a_message() -> None:
    """A nonce that makes the proof too long for AUTH_RESPONSE is the server's fault."""
    tail = ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    try:
        answer = rfc_client().respond(f"r={CLIENT_NONCE}".ljust(MAX_TEXT - len(tail), "x") + tail)
    except AuthenticationError:
        return
    assert len(answer) <= MAX_TEXT


# --- SCRAM, bound to TLS ------------------------------------------------------------------------

BINDING = hashlib.sha256(b"our certificate").digest()


def bound_server(binding: bytes | None = BINDING) -> ScramServer:
    """Return the RFC's server on a connection with TLS."""
    return ScramServer(USERS, b"secret", nonce=NONCE_EXTENSION, binding=binding)


def test_both_ends_of_one_tls_connection_log_in() -> None:
    """RFC 5802, section 6: gs2-header and certificate are covered by the proof."""
    client, server = ScramClient("user", "pencil", binding=BINDING), bound_server()
    assert client.first().startswith("p=tls-server-end-point,,n=user,")
    assert client.mechanism == server.mechanism == SCRAM_PLUS == "SCRAM-SHA-256-PLUS"
    final = client.respond(server.challenge(client.first()))
    header = base64.b64decode(final[2:].partition(",")[0])
    assert header == b"p=tls-server-end-point,," + BINDING
    client.check_server(server.verify(final))


def test_without_tls_the_mechanism_is_the_plain_one() -> None:
    """What AUTH_START names."""
    assert rfc_client().mechanism == rfc_server().mechanism == SCRAM


@pytest.mark.parametrize("seen", [b"", b"x", BINDING[:-1], BINDING + b"x", bytes(32)], ids=short)
def test_a_client_that_sees_another_certificate_is_refused(seen: bytes) -> None:
    """A man in the middle with a certificate of his own gains nothing from passing logins on."""
    client = ScramClient("user", "pencil", binding=seen)
    with pytest.raises(AuthenticationError, match="bound to another connection"):
        log_in(client, bound_server())


def test_a_client_that_was_told_there_is_no_binding_is_refused_by_a_server_that_offers_it() -> None:
    """RFC 5802, section 6: ``y`` shows the downgrade."""
    client = ScramClient("user", "pencil", binding=BINDING, plus=False)
    assert client.first().startswith("y,,")
    assert client.mechanism == SCRAM
    with pytest.raises(AuthenticationError, match="not bound to this TLS connection"):
        log_in(client, bound_server())


def test_a_client_that_sees_no_tls_is_refused_by_a_server_that_does() -> None:
    """Somebody else speaks TLS with the server in its name."""
    with pytest.raises(AuthenticationError, match="not bound to this TLS connection"):
        log_in(rfc_client(), bound_server())


def test_a_client_that_could_bind_gets_into_a_server_that_cannot() -> None:
    """TLS that ends in front of the server, as with stunnel."""
    client = ScramClient("user", "pencil", binding=BINDING, plus=False)
    assert log_in(client, rfc_server()) == "user"


def test_a_login_bound_to_tls_is_refused_where_there_is_none() -> None:
    """A server that was not asked to cannot check it."""
    with pytest.raises(AuthenticationError, match="this connection has none"):
        log_in(ScramClient("user", "pencil", binding=BINDING), rfc_server())


@pytest.mark.parametrize("flag", ["p=tls-unique", "p=", "p", "P=tls-server-end-point", "yes", ""])
def test_another_kind_of_binding_is_refused(flag: str) -> None:
    """We know one kind."""
    with pytest.raises(AuthenticationError):
        bound_server().challenge(f"{flag},,n=user,r=x")


def test_the_header_cannot_be_changed_on_the_way() -> None:
    """Turning a bound login into another one breaks its proof."""
    client, server = ScramClient("user", "pencil", binding=BINDING), rfc_server()
    first = client.first().replace("p=tls-server-end-point", "n")
    with pytest.raises(AuthenticationError):
        server.verify(client.respond(server.challenge(first)))


def test_bound_messages_of_the_longest_names_fit() -> None:
    """The longest name, escaped, with the longest hash, stays below what a message may have."""
    name = "=" * 255
    users = {name: verifier(b"pw")}
    client = ScramClient(name, "pw", binding=bytes(64))
    server = ScramServer(users, b"secret", binding=bytes(64))
    assert len(client.first()) <= MAX_TEXT
    final = client.respond(server.challenge(client.first()))
    assert len(final) <= MAX_TEXT
    client.check_server(server.verify(final))


# --- the end point of TLS -----------------------------------------------------------------------


def certificate(key: Any, algorithm: Any, pss: Any = None) -> bytes:
    """Make a certificate that signs itself, with cryptography; return its DER."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)])
    start = dt.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(start).not_valid_after(start + dt.timedelta(1))
    options = {"rsa_padding": pss} if pss else {}
    return builder.sign(key, algorithm, **options).public_bytes(serialization.Encoding.DER)


ELLIPTIC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ECDSA_SHA256 = certificate(ELLIPTIC, hashes.SHA256())
RSA_SHA256 = certificate(RSA, hashes.SHA256())


def pss(algorithm: Any) -> bytes:
    """Make a certificate that is signed with RSASSA-PSS."""
    return certificate(RSA, algorithm, padding.PSS(padding.MGF1(algorithm), 32))


END_POINTS = {
    "ECDSA SHA-224": (certificate(ELLIPTIC, hashes.SHA224()), "sha224"),
    "ECDSA SHA-256": (ECDSA_SHA256, "sha256"),
    "ECDSA SHA-384": (certificate(ELLIPTIC, hashes.SHA384()), "sha384"),
    "ECDSA SHA-512": (certificate(ELLIPTIC, hashes.SHA512()), "sha512"),
    "RSA SHA-256": (RSA_SHA256, "sha256"),
    "RSA SHA-384": (certificate(RSA, hashes.SHA384()), "sha384"),
    "RSA SHA-512": (certificate(RSA, hashes.SHA512()), "sha512"),
    "PSS SHA-256": (pss(hashes.SHA256()), "sha256"),
    "PSS SHA-384": (pss(hashes.SHA384()), "sha384"),
    "PSS SHA-512": (pss(hashes.SHA512()), "sha512"),
    "Ed25519": (certificate(ed25519.Ed25519PrivateKey.generate(), None), "sha256"),
    # nobody signs with these any more: the identifiers alone, 1.2.840.113549.1.1.4 and 5
    "RSA MD5": (RSA_SHA256.replace(b"\xf7\r\x01\x01\x0b", b"\xf7\r\x01\x01\x04"), "sha256"),
    "RSA SHA-1": (RSA_SHA256.replace(b"\xf7\r\x01\x01\x0b", b"\xf7\r\x01\x01\x05"), "sha256"),
}


@pytest.mark.parametrize("kind", END_POINTS)
def test_the_end_point_is_hashed_as_the_certificate_was_signed(kind: str) -> None:
    """RFC 5929, section 4.1, with what cryptography says of the certificate as the judge."""
    der, name = END_POINTS[kind]
    found = x509.load_der_x509_certificate(der).signature_hash_algorithm
    if found is not None and found.name not in ("md5", "sha1"):
        assert found.name == name
    assert server_end_point(der) == hashlib.new(name, der).digest()


def test_pss_without_a_hash_named_means_the_replaced_one() -> None:
    """RFC 4055, section 3.1: SHA-1 where nothing is said, which RFC 5929 replaces."""
    identifier = bytes.fromhex("06092a864886f70d01010a")
    for parameters in (b"0\x00", b"0\x04\xa2\x02\x05\x00"):
        algorithm = identifier + parameters
        der = b"0\x00" + bytes([0x30, len(algorithm)]) + algorithm
        der = bytes([0x30, len(der)]) + der
        assert server_end_point(der) == hashlib.sha256(der).digest()


@pytest.mark.parametrize("kind", ["ECDSA SHA-384", "PSS SHA-384"])
def test_every_cut_of_a_certificate_is_refused(kind: str) -> None:
    """Nothing is read that is not there, and the error is a typed one."""
    der = END_POINTS[kind][0]
    for end in range(len(der)):
        with pytest.raises(AuthenticationError):
            server_end_point(der[:end])
    with pytest.raises(AuthenticationError):
        server_end_point(der + b"x")


def test_what_is_longer_than_what_it_is_in_is_refused() -> None:
    """Although there are bytes enough behind it."""
    fits, reaches_out = (bytes([6, n, 1, 2, 3]) for n in (3, 5))
    for name, good in ((fits, True), (reaches_out, False)):
        der = b"\x30\x00\x30\x05" + name + b"\x03\x02\x00\x00"
        der = bytes([0x30, len(der)]) + der
        if good:
            assert server_end_point(der) == hashlib.sha256(der).digest()
        else:
            with pytest.raises(AuthenticationError):
                server_end_point(der)


@quick
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda data: b"0\x80" + data))
def test_no_bytes_raise_anything_but_authentication_error(data: bytes) -> None:
    """Lengths of lengths, indefinite lengths, and lengths beyond the end among them."""
    with contextlib.suppress(AuthenticationError):
        assert len(server_end_point(data)) == 32


@quick
@given(st.integers(0, len(ECDSA_SHA256) - 1), st.integers(0, 255))
def test_a_damaged_certificate_is_hashed_or_refused(place: int, byte: int) -> None:
    """One byte changed anywhere."""
    with contextlib.suppress(AuthenticationError):
        server_end_point(ECDSA_SHA256[:place] + bytes([byte]) + ECDSA_SHA256[place + 1 :])


# --- SCRAM, whatever comes ------------------------------------------------------------------------

# What AUTH_* messages can carry: any text but lone surrogates. No digits, because a longer
# iteration count is no error, only slow.
wire_text = st.text(st.characters(blacklist_categories=("Cs", "Nd")), max_size=40)


def proof_in(message: str) -> bytes:
    """Return the proof of a client's final message, if there is one."""
    try:
        return base64.b64decode(message.rpartition(",p=")[2].encode("ascii"), validate=True)
    except ValueError:
        return b""


@st.composite
def damaged(draw: Callable[[st.SearchStrategy[Any]], Any], message: str) -> str:
    """Replace a stretch of ``message`` by something else."""
    start = draw(st.integers(0, len(message)))
    end = draw(st.integers(start, len(message)))
    return f"{message[:start]}{draw(wire_text)}{message[end:]}"


@quick
@given(wire_text | damaged(CLIENT_FIRST))
def test_no_first_message_raises_anything_but_authentication_error(message: str) -> None:
    """Whatever a client says first, it gets a challenge or is refused."""
    try:
        answer = rfc_server().challenge(message)
    except AuthenticationError:
        return
    assert answer.startswith("r=")


@quick
@given(wire_text | damaged(SERVER_FIRST))
def test_no_challenge_raises_anything_but_authentication_error(message: str) -> None:
    """Whatever a server asks, it gets a proof or is refused."""
    try:
        answer = rfc_client().respond(message)
    except AuthenticationError:
        return
    assert answer.startswith("c=biws,r=" + CLIENT_NONCE)


@quick
@given(wire_text | damaged(CLIENT_FINAL))
def test_no_proof_but_the_right_one_is_accepted(message: str) -> None:
    """A damaged proof is refused, and nothing else happens."""
    assume(
        not (message.startswith(CLIENT_FINAL[:-44]) and proof_in(message) == proof_in(CLIENT_FINAL))
    )
    with pytest.raises(AuthenticationError):
        challenged().verify(message)


@quick
@given(wire_text | damaged(SERVER_FINAL))
def test_no_signature_but_the_right_one_is_accepted(message: str) -> None:
    """A damaged server signature is refused, and nothing else happens."""
    assume(message.split(",", maxsplit=1)[0] != SERVER_FINAL)
    client = rfc_client()
    client.respond(SERVER_FIRST)
    with pytest.raises(AuthenticationError):
        client.check_server(message)


# --- names and passwords in one form ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013, section 3: soft hyphen mapped to nothing
        ("user", "user"),  # no transformation
        ("USER", "USER"),  # case preserved
        ("\u00aa", "a"),  # output is NFKC, input in ISO 8859-1
        ("\u2168", "IX"),  # output is NFKC
        ("a\u00a0b\u3000c", "a b c"),  # section 2.1: non-ASCII spaces become spaces
        ("\u0627", "\u0627"),  # section 2.4: right-to-left alone
        ("\u0627 1\u0628", "\u0627 1\u0628"),  # and with a number inside
        ("", ""),
    ],
    ids=short,
)
def test_text_is_prepared_as_the_standard_says(text: str, prepared: str) -> None:
    """RFC 4013: mapping, then normalisation."""
    assert saslprep(text) == prepared


PROHIBITED = ["\u0007", "a\x7fb", "\n", "\x80", "\ue000", "\ufffe", "\ud800", "\ufffd", "\u2ff0"]
PROHIBITED += ["\u200e", "\U000e0001"]
PROHIBITED += ["\u06271", "1\u0627", "\u0627a\u0628"]  # both directions in one


@pytest.mark.parametrize("text", PROHIBITED, ids=short)
def test_text_that_the_standard_prohibits_is_refused(text: str) -> None:
    """RFC 4013, sections 2.3 and 2.4: controls, private, broken and mixed-direction text."""
    with pytest.raises(UsageError, match="not allowed"):
        saslprep(text)


@quick
@given(st.text(st.characters() | st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF)))
def test_preparing_text_twice_changes_nothing_more(text: str) -> None:
    """What has been prepared stays; what cannot be is a UsageError and nothing else."""
    try:
        prepared = saslprep(text)
    except UsageError:
        return
    assert saslprep(prepared) == prepared


# --- the credential file ------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a credential file that does not exist yet."""
    return tmp_path / "credentials.json"


@pytest.fixture
def full(file: Path) -> Path:
    """Return the path of a credential file with one user."""
    save_credentials(file, USERS)
    return file


limits = st.none() | st.integers(1, MAX_FILE_SIZE)


@quick
@given(
    st.dictionaries(
        names,
        st.builds(
            Credential,
            st.integers(-100, 100),
            st.integers(MIN_ITERATIONS, MAX_ITERATIONS),
            st.binary(min_size=1, max_size=40),
            st.binary(min_size=32, max_size=32),
            st.binary(min_size=32, max_size=32),
            directory=st.sampled_from(["", "alice", "team/alice", "été"]),
            max_file_size=limits,
            quota=limits,
            limit=limits,
            allow_ext=st.sampled_from([(), (".pdf",), (".tar.gz", ".été")]),
            expires=st.none() | st.integers(1, MAX_TIME),
            disabled=st.booleans(),
        ),
        max_size=4,
    )
)
def test_what_is_saved_is_loaded_again(users: Credentials) -> None:
    """Every account comes back as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "credentials")
        save_credentials(path, users)
        assert load_credentials(path) == users


def test_the_file_is_for_its_owner_only(file: Path) -> None:
    """Mode 0600, whatever the umask says."""
    before = os.umask(0)
    try:
        save_credentials(file, USERS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_file_is_private_again_after_it_was_replaced(full: Path) -> None:
    """Saving over a file that others could read leaves one that they cannot."""
    full.chmod(0o644)
    save_credentials(full, USERS)
    assert stat.S_IMODE(full.stat().st_mode) == 0o600


def test_the_file_holds_no_password(file: Path) -> None:
    """Neither as it is nor encoded."""
    save_credentials(file, {"alice": Credential.make("wonderland", iterations=4096)})
    text = file.read_bytes()
    assert b"wonderland" not in text
    assert base64.b64encode(b"wonderland").rstrip(b"=") not in text
    assert b"wonderland".hex().encode() not in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_a_file_open_to_others_is_refused(full: Path, mode: int) -> None:
    """FAULTS 25: the error says what to do about it."""
    full.chmod(mode)
    with pytest.raises(UsageError, match=f"chmod 600 {re.escape(str(full))}"):
        load_credentials(full)


def test_a_file_that_even_its_owner_may_not_write_is_fine(full: Path) -> None:
    """Stricter than needed is no reason to refuse."""
    full.chmod(0o400)
    assert load_credentials(full) == USERS


def test_a_file_of_somebody_else_is_refused(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could change it, or open it to others, at any time."""
    if os.geteuid() == 0:
        os.chown(full, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="belongs to another user"):
        load_credentials(full)


def test_a_file_of_the_superuser_is_fine(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is root could read and change everything anyway."""
    facts = os.stat(full)
    owned = os.stat_result((*facts[:4], 0, *facts[5:10]))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    _check_private(full, owned)


def test_a_missing_file_is_refused(file: Path) -> None:
    """FAULTS 25: the error names the file and says why."""
    with pytest.raises(UsageError, match=f"{re.escape(str(file))}: No such file"):
        load_credentials(file)


def test_a_symlink_is_refused(full: Path, tmp_path: Path) -> None:
    """FAULTS 25: a link may be turned to another file by somebody else."""
    link = tmp_path / "link"
    link.symlink_to(full)
    with pytest.raises(UsageError, match=f"{re.escape(str(link))}: it is a symbolic link"):
        load_credentials(link)


def test_a_fifo_is_refused_without_waiting(file: Path) -> None:
    """Nobody ever writes into it, and the server must not wait for that."""
    os.mkfifo(file, 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        load_credentials(file)


def test_a_device_is_refused() -> None:
    """``/dev/zero`` has no end."""
    with pytest.raises(UsageError, match="not a regular file"):
        load_credentials(Path("/dev/zero"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        load_credentials(tmp_path)


def test_a_file_that_is_too_large_is_refused_unread(file: Path) -> None:
    """The size is looked at before anything is read."""
    file.touch(0o600)
    os.truncate(file, MAX_CREDENTIALS_FILE + 1)
    with pytest.raises(UsageError, match="too large"):
        load_credentials(file)


ACCOUNT = {
    "priority": 0,
    "iterations": 4096,
    "salt": base64.b64encode(SALT).decode(),
    "stored_key": base64.b64encode(USERS["user"].stored_key).decode(),
    "server_key": base64.b64encode(USERS["user"].server_key).decode(),
}


def file_with(name: str = "user", without: str = "", **changes: object) -> bytes:
    """Return a credential file with one user: right, but for the changes."""
    account = {key: value for key, value in {**ACCOUNT, **changes}.items() if key != without}
    return json.dumps({"version": 1, "users": {name: account}}).encode()


def test_the_file_has_the_documented_form(file: Path) -> None:
    """What stands in the file, key by key: a later version must still read it."""
    save_credentials(file, USERS)
    assert json.loads(file.read_bytes()) == {"version": 1, "users": {"user": ACCOUNT}}
    file.write_bytes(file_with())
    assert load_credentials(file) == USERS


def test_what_is_set_stands_in_the_file_too(file: Path) -> None:
    """The optional keys, and the two of the file itself."""
    account = replace(
        USERS["user"], directory="a/b", quota=7, allow_ext=(".a",), expires=9, disabled=True
    )
    save_credentials(file, Accounts({"user": account}, token_key=b"t" * 32, salt_key=b"s" * 32))
    limits = {"directory": "a/b", "quota": 7, "allow_ext": [".a"], "expires": 9, "disabled": True}
    keys = {"token_key": "dHR0" * 10 + "dHQ=", "salt_key": "c3Nz" * 10 + "c3M="}
    document = {"version": 1, **keys, "users": {"user": {**ACCOUNT, **limits}}}
    assert json.loads(file.read_bytes()) == document
    loaded = load_credentials(file)
    assert (loaded.token_key, loaded.salt_key) == (b"t" * 32, b"s" * 32)
    assert loaded["user"] == account


def document_with(**changes: object) -> bytes:
    """Return a credential file that is right, but for the changes beside its users."""
    return json.dumps({"version": 1, "users": {"user": ACCOUNT}, **changes}).encode()


TWICE = json.dumps(ACCOUNT)[:-1] + ', "priority": 1}'

SAID = {
    "user ann: quota must be a number from 1": file_with("ann", quota=0),
    "user ann: max_file_size must be a number": file_with("ann", max_file_size="1G"),
    "user ann: limit must be": file_with("ann", limit=1.5),
    "user ann: directory must be a relative path": file_with("ann", directory="../bob"),
    "user ann: allow_ext must be": file_with("ann", allow_ext=["pdf"]),
    "user ann: expires must be": file_with("ann", expires=-1),
    "user ann: disabled must be true or false": file_with("ann", disabled=0),
    "user ann: salt must be 1 to 64 bytes": file_with("ann", salt=""),
    "user ann: salt must be base64": file_with("ann", salt=1234),
    "user ann: stored_key must be 32 bytes": file_with("ann", stored_key="AAAA"),
    "user ann: server_key is missing": file_with("ann", without="server_key"),
    "user ann: 'qouta' is not known": file_with("ann", qouta=1),
    "user ann: 'priority' stands there twice": b'{"version": 1, "users": {"ann": %s}}'
    % TWICE.encode(),
    "'ann' stands there twice": b'{"version": 1, "users": {"ann": {}, "ann": {}}}',
    "'users' stands there twice": b'{"version": 1, "users": {}, "users": {}}',
    "version is missing": b'{"users": {}}',
    "users is missing": b'{"version": 1}',
    "'admins' is not known": document_with(admins=[]),
    "made by another version": document_with(version=2),
    "made by another version of this program": document_with(version=2, groups={}),
    "token_key must be base64": document_with(token_key=5),
    "a key does not have 32 bytes": document_with(salt_key="AAAA"),
}


@pytest.mark.parametrize("words", SAID)
def test_a_malformed_file_is_refused_with_the_user_and_the_reason(file: Path, words: str) -> None:
    """FAULTS 25: what to look for, and for whom, without the file's secrets."""
    file.touch(0o600)
    file.write_bytes(SAID[words])
    with pytest.raises(UsageError, match=re.escape(f"{file}: {words}")) as caught:
        load_credentials(file)
    assert str(ACCOUNT["stored_key"]) not in str(caught.value)


GOOD_DIRECTORIES = ["", "alice", "team/alice", "a b", "été", "a.b", "a..b", "x" * 255]
BAD_DIRECTORIES = ["/", "/x", "..", "../x", "a/..", "a/../b", ".", "./a", ".hidden", "a/.hidden"]
BAD_DIRECTORIES += [
    "a//b",
    "a/",
    "a\\b",
    "C:x",
    "a\x00b",
    "a\nb",
    "\u202ea",
    "-x",
    " a",
    "a/ ",
    "\ud800",
]
BAD_DIRECTORIES += ["x" * 256, "é" * 128, "/".join(["x"] * 1000)]


@pytest.mark.parametrize("directory", GOOD_DIRECTORIES, ids=short)
def test_a_directory_below_the_output_is_taken(directory: str) -> None:
    """Relative, plain, as deep as wanted."""
    assert replace(USERS["user"], directory=directory).directory == directory


@pytest.mark.parametrize("directory", BAD_DIRECTORIES, ids=short)
def test_a_directory_that_leads_elsewhere_or_hides_is_refused(directory: str) -> None:
    """FAULTS 8, for what an administrator may type."""
    with pytest.raises(ValueError, match="directory must be"):
        replace(USERS["user"], directory=directory)


@pytest.mark.parametrize(
    "extensions",
    [("pdf",), (".PDF",), (".",), ("..a",), (".a.",), (".a b",), (".a/b",), (".a,b",), ("",),
     [".a"], (".\x1b",), (1,), (".x" * 20,), (".a",) * 65, None, ".a"],
    ids=short,
)  # fmt: skip
def test_extensions_that_no_name_can_end_with_are_refused(extensions: Any) -> None:
    """A dot and something in lower case, once or more."""
    with pytest.raises(ValueError, match="allow_ext must be"):
        replace(USERS["user"], allow_ext=extensions)


MALFORMED_FILES = {
    "empty": b"",
    "not JSON": b"user:password\n",
    "cut": file_with()[:-20],
    "something behind": file_with() + b"{}",
    "not UTF-8": b'{"users": {"\xff": {}}}',
    "NUL": bytes(100),
    "null": b"null",
    "number": b"1",
    "list": b"[]",
    "no users": b'{"version": 1}',
    "list of users": b'{"users": [1]}',
    "user without entry": b'{"users": {"user": null}}',
    "user with a list": b'{"users": {"user": []}}',
    "nested": b"[" * 100_000,
    "long number": b'{"users": {"user": ' + b"9" * 5000 + b"}}",
    "no priority": file_with(without="priority"),
    "no iterations": file_with(without="iterations"),
    "no salt": file_with(without="salt"),
    "no stored key": file_with(without="stored_key"),
    "no server key": file_with(without="server_key"),
    "priority text": file_with(priority="1"),
    "priority true": file_with(priority=True),
    "priority fraction": file_with(priority=1.5),
    "priority too high": file_with(priority=101),
    "priority too low": file_with(priority=-101),
    "iterations text": file_with(iterations="4096"),
    "iterations true": file_with(iterations=True),
    "iterations too few": file_with(iterations=4095),
    "iterations too many": file_with(iterations=10_000_001),
    "salt empty": file_with(salt=""),
    "salt null": file_with(salt=None),
    "salt number": file_with(salt=1234),
    "salt not base64": file_with(salt="!!!!"),
    "salt not ASCII": file_with(salt="éééé"),
    "stored key short": file_with(stored_key="AAAA"),
    "stored key long": file_with(stored_key=base64.b64encode(bytes(33)).decode()),
    "stored key number": file_with(stored_key=1),
    "server key short": file_with(server_key="AAAA"),
    "server key list": file_with(server_key=[1]),
    "nameless user": file_with(""),
    "user named by an escape": file_with("\x1b[31m"),
    "user with a long name": file_with("x" * 256),
    "user with half a character": file_with("\ud800"),
}


@pytest.mark.parametrize("kind", MALFORMED_FILES)
def test_a_malformed_file_is_refused(file: Path, kind: str) -> None:
    """FAULTS 25: one printable line that names the file, whatever stands in it."""
    file.touch(0o600)
    file.write_bytes(MALFORMED_FILES[kind])
    with pytest.raises(UsageError) as caught:
        load_credentials(file)
    assert str(caught.value).startswith(f"credential file {file}: ")
    assert str(caught.value).isprintable()


@quick
@given(st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    """Bytes changed anywhere in the file never end in an error of another kind."""
    text = file_with()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 20, len(text))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "credentials")
        path.touch(0o600)
        path.write_bytes(text[:start] + data.draw(st.binary(max_size=20)) + text[end:])
        try:
            users = load_credentials(path)
        except UsageError:
            return
        assert len(users) <= 1


def test_a_refused_file_is_closed(file: Path, tmp_path: Path) -> None:
    """Whatever is wrong with it, no descriptor stays open."""
    os.mkfifo(file, 0o600)
    before = open_descriptors()
    for path in (file, tmp_path, tmp_path / "missing", Path(os.devnull)):
        with pytest.raises(UsageError):
            load_credentials(path)
    assert open_descriptors() == before


def test_a_reader_sees_the_old_file_or_the_new_one(file: Path) -> None:
    """Loading while somebody saves never fails."""
    versions: list[Credentials] = [USERS, {f"user{i}": USERS["user"] for i in range(50)}]
    save_credentials(file, versions[0])
    done = threading.Event()

    def save() -> None:
        for number in range(40):
            save_credentials(file, versions[number % 2])
        done.set()

    writer = threading.Thread(target=save)
    writer.start()
    loads = 0
    while not done.is_set() or not loads:
        assert load_credentials(file) in versions
        loads += 1
    writer.join(PATIENCE)
    assert not writer.is_alive()


def test_saving_leaves_nothing_but_the_file(full: Path, tmp_path: Path) -> None:
    """The temporary file has become the file."""
    save_credentials(full, {})
    assert list(tmp_path.iterdir()) == [full]


def test_what_was_saved_survives_a_power_cut(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the content, then the name: the directory is flushed once the new file is in it."""
    flushed: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append((folder, b"alice" in full.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    save_credentials(full, {"alice": USERS["user"]})
    assert flushed == [(False, False), (True, True)]


def test_saving_where_no_file_can_stand_leaves_nothing(tmp_path: Path) -> None:
    """The target is a directory: an error in one line, and no temporary file."""
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UsageError, match=re.escape(str(target))):
        save_credentials(target, USERS)
    assert list(tmp_path.iterdir()) == [target]


def test_saving_into_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error says that it is not there."""
    with pytest.raises(UsageError, match="No such file or directory"):
        save_credentials(tmp_path / "missing" / "credentials", USERS)


def test_saving_under_a_name_that_the_system_refuses_is_a_usage_error(tmp_path: Path) -> None:
    """A name that is just short enough leaves no room for the temporary file's longer one."""
    with pytest.raises(UsageError, match="File name too long"):
        save_credentials(tmp_path / ("x" * 250), USERS)


def test_a_symlink_is_replaced_and_not_written_through(full: Path, tmp_path: Path) -> None:
    """Saving never changes a file that a link points to."""
    link = tmp_path / "link"
    link.symlink_to(full)
    save_credentials(link, {})
    assert load_credentials(link) == {}
    assert load_credentials(full) == USERS


def test_of_two_changes_at_once_one_waits_for_the_other(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was changed while it waited is still there afterwards."""
    real, waiting = fcntl.flock, threading.Event()

    def flock(descriptor: int, how: int) -> None:
        waiting.set()
        real(descriptor, how)

    with _locked(full):
        monkeypatch.setattr(fcntl, "flock", flock)
        change = ["add", "user", "--keep-password", "--quota", "5K", "--credentials", str(full)]
        other = threading.Thread(target=auth.main, args=(change,))
        other.start()
        assert waiting.wait(PATIENCE)
        save_credentials(full, {**USERS, "alice": USERS["user"]})
    other.join(PATIENCE)
    assert not other.is_alive()
    loaded = load_credentials(full)
    assert loaded["user"].quota == 5 * 1024
    assert "alice" in loaded


def test_processes_that_add_at_the_same_time_lose_no_user(file: Path) -> None:
    """Real processes, a new file, one user each."""
    variables = {**environment(), PASSWORD_VARIABLE: "pw"}
    command = [sys.executable, str(auth.__file__), "add", "--credentials", str(file)]
    crowd = [subprocess.Popen([*command, f"user{i}"], env=variables) for i in range(3)]
    assert [one.wait(PATIENCE) for one in crowd] == [0] * 3
    assert sorted(load_credentials(file)) == [f"user{i}" for i in range(3)]


def test_the_lock_is_for_its_owner_only_and_never_a_link(full: Path, tmp_path: Path) -> None:
    """Nobody else can hold us up, or have us make a file elsewhere."""
    with _locked(full):
        lock = tmp_path / ".credentials.json.lock"
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"), _locked(full):
        pass
    assert not (tmp_path / "elsewhere").exists()


# --- the credential file, as a running server sees it -------------------------------------------


def test_a_store_is_a_mapping_that_a_login_can_use(full: Path) -> None:
    """The server passes it where it passed the dictionary."""
    store = CredentialStore(full)
    assert (list(store), len(store), store["user"]) == (["user"], 1, USERS["user"])
    assert "ghost" not in store
    assert log_in(rfc_client(), ScramServer(store, b"secret")) == "user"


def test_a_store_sees_what_was_changed(full: Path) -> None:
    """Added, changed, removed: without a restart."""
    store = CredentialStore(full)
    save_credentials(full, {**USERS, "alice": USERS["user"]})
    assert sorted(store) == ["alice", "user"]
    save_credentials(full, {"user": replace(USERS["user"], disabled=True)})
    assert store.current()["user"].disabled
    assert list(store) == ["user"]


def test_a_store_reads_a_file_that_has_not_changed_once(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login costs a stat call."""
    store = CredentialStore(full)
    monkeypatch.setattr("lft.accounts.file.load_credentials", lambda _: pytest.fail("read again"))
    assert store.current() is store.current()


def test_a_store_does_not_start_with_a_bad_file(file: Path) -> None:
    """FAULTS 25: the server does not start, and says why."""
    with pytest.raises(UsageError, match="No such file"):
        CredentialStore(file)


def spoil(file: Path) -> None:
    """Write what is no credential file."""
    file.write_bytes(b"s3cret")


SPOILT: dict[str, Callable[[Path], Any]] = {
    "damaged": spoil,
    "gone": Path.unlink,
    "open to others": lambda file: file.chmod(0o644),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_store_keeps_what_it_had_when_the_file_goes_bad(full: Path, how: str) -> None:
    """One warning, however many logins there are; then the repaired file counts again."""
    warnings: list[str] = []
    store = CredentialStore(full, warnings.append)
    SPOILT[how](full)
    assert [dict(store.current()) for _ in range(3)] == [USERS] * 3
    assert len(warnings) == 1
    assert warnings[0].startswith(f"credential file {full}: ")
    assert "s3cret" not in warnings[0]
    save_credentials(full, {"alice": USERS["user"]})
    assert list(store) == ["alice"]
    assert len(warnings) == 1


def test_a_file_that_could_not_be_read_is_tried_again_although_it_has_not_changed(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trouble may have been ours; the warning still comes once, and again after a success."""
    warnings: list[str] = []
    store = CredentialStore(full, warnings.append)

    def no_descriptor(_: Path) -> Accounts:
        raise UsageError("Too many open files")

    for round_ in (1, 2):
        save_credentials(full, {f"user{round_}": USERS["user"]})
        monkeypatch.setattr("lft.accounts.file.READ_AGAIN_AFTER", 0.0)
        monkeypatch.setattr("lft.accounts.file.load_credentials", no_descriptor)
        before = list(store)
        assert list(store) == before != [f"user{round_}"]
        assert len(warnings) == round_
        monkeypatch.setattr("lft.accounts.file.load_credentials", load_credentials)
        assert list(store) == [f"user{round_}"]


def test_a_bad_file_is_not_read_for_each_login(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a large one, and anybody can try to log in."""
    store = CredentialStore(full)
    spoil(full)
    assert list(store) == ["user"]
    monkeypatch.setattr("lft.accounts.file.load_credentials", lambda _: pytest.fail("read again"))
    assert list(store) == ["user"]


def test_a_slow_reader_of_an_old_file_does_not_undo_a_newer_one(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread reads, others are answered; what it has read in the end is out of date."""
    store, real = CredentialStore(full), load_credentials
    reading, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> Accounts:
        accounts = real(path)
        reading.set()
        assert go_on.wait(PATIENCE)
        return accounts

    save_credentials(full, {"old": USERS["user"]})
    monkeypatch.setattr("lft.accounts.file.load_credentials", slow)
    reader = threading.Thread(target=store.current)
    reader.start()
    assert reading.wait(PATIENCE)
    assert list(store) == ["user"]
    monkeypatch.setattr("lft.accounts.file.load_credentials", real)
    save_credentials(full, {"new": USERS["user"]})
    assert list(store) == ["new"]
    go_on.set()
    reader.join(PATIENCE)
    assert list(store) == ["new"]


def test_what_a_store_gave_does_not_change_under_ones_feet(full: Path) -> None:
    """A login works with one version from beginning to end."""
    store = CredentialStore(full)
    before = store.current()
    save_credentials(full, {})
    assert list(store) == []
    assert list(before) == ["user"]


# --- tokens -------------------------------------------------------------------------------------

TOKEN_KEY = bytes(range(32))
NOW = 1_700_000_000
HOLDERS = Accounts(
    {
        "ann": verifier(b"pw"),
        "off": replace(verifier(b"pw"), disabled=True),
        "late": replace(verifier(b"pw"), expires=NOW),
    },
    token_key=TOKEN_KEY,
)
CLAIMS = {"sub": "ann", "iat": NOW, "exp": NOW + 60, "jti": "1"}
HEADER = {"alg": "HS256", "typ": "JWT"}


def b64(data: bytes) -> str:
    """Encode as RFC 7515 does."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(
    header: object = HEADER,
    claims: object = CLAIMS,
    key: bytes | None = None,
    digest: str = "sha256",
) -> str:
    """Make a token by hand, with the right key unless another is given. ``bytes`` are not JSON."""
    user = claims["sub"] if isinstance(claims, dict) and "sub" in claims else "ann"
    owner = HOLDERS.get(user) if isinstance(user, str) else None
    key = signing_key(TOKEN_KEY, owner or HOLDERS["ann"]) if key is None else key
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, claims)]
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(hmac.new(key, signed.encode(), digest).digest())}"


def claims_with(without: str = "", **changes: object) -> dict[str, object]:
    """Return claims that are right, but for the changes."""
    return {key: value for key, value in {**CLAIMS, **changes}.items() if key != without}


def test_a_token_lets_its_user_in() -> None:
    """With the account and its limits."""
    token = make_token(HOLDERS, "ann", 60, NOW)
    assert verify_token(token, HOLDERS, NOW) == ("ann", HOLDERS["ann"])


def test_a_token_is_one_for_pyjwt() -> None:
    """RFC 7519, as somebody else reads it."""
    token = make_token(HOLDERS, "ann", 60)
    claims = jwt.decode(
        token,
        signing_key(TOKEN_KEY, HOLDERS["ann"]),
        algorithms=["HS256"],
        options={"require": ["sub", "iat", "exp", "jti"]},
    )
    assert claims["sub"] == "ann"
    assert claims["exp"] - claims["iat"] == 60
    assert jwt.get_unverified_header(token) == HEADER


def test_a_token_that_pyjwt_has_made_lets_its_user_in() -> None:
    """RFC 7519, as somebody else writes it, with and without the optional parts."""
    key = signing_key(TOKEN_KEY, HOLDERS["ann"])
    for claims in (CLAIMS, claims_with(nbf=NOW)):
        token = jwt.encode(claims, key, algorithm="HS256")
        assert verify_token(token, HOLDERS, NOW).user == "ann"


def test_the_token_of_the_standard_is_computed_alike() -> None:
    """RFC 7515, appendix A.1: HS256 over the very bytes."""
    key = base64.urlsafe_b64decode(
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
    )
    header = b'{"typ":"JWT",\r\n "alg":"HS256"}'
    claims = b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}'
    signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert forged(header, claims, key).endswith(f".{signature}")
    assert to_base64url(hmac_sha256(key, f"{b64(header)}.{b64(claims)}".encode())) == signature


def test_each_token_has_a_number_of_its_own() -> None:
    """Two made in one second differ."""
    assert make_token(HOLDERS, "ann", 60, NOW) != make_token(HOLDERS, "ann", 60, NOW)


def test_a_token_made_by_hand_as_the_others_are_is_right() -> None:
    """What the cases below change is right without the change."""
    assert verify_token(forged(), HOLDERS, NOW).user == "ann"
    assert verify_token(forged({"alg": "HS256"}), HOLDERS, NOW).user == "ann"


GOOD = forged()
SIGNED = GOOD.rpartition(".")[0]
ALIKE = b64(b"\x00").replace("AA", "AB")  # decodes to the same byte
BAD_TOKENS = {
    "empty": "",
    "dots": "..",
    "one part": "x",
    "four parts": GOOD + ".x",
    "unsigned": SIGNED + ".",
    "alg none": forged({"alg": "none", "typ": "JWT"}),
    "alg none, unsigned": forged({"alg": "none"}).rpartition(".")[0] + ".",
    "alg None": forged({"alg": None}),
    "alg in small letters": forged({"alg": "hs256"}),
    "alg HS512": forged({"alg": "HS512"}, digest="sha512"),
    "alg RS256": forged({"alg": "RS256"}),
    "alg list": forged({"alg": ["HS256"]}),
    "no alg": forged({"typ": "JWT"}),
    "signed with SHA-512": forged(digest="sha512"),
    "other type": forged({**HEADER, "typ": "JWE"}),
    "critical header": forged({**HEADER, "crit": ["exp"]}),
    "key in the header": forged({**HEADER, "jwk": {"kty": "oct", "k": b64(b"k")}, "kid": "../x"}),
    "header list": forged([]),
    "header twice": forged(b'{"alg":"none","alg":"HS256"}'),
    "other key": forged(key=bytes(32)),
    "the file's key": forged(key=TOKEN_KEY),
    "no key": forged(key=b""),
    "stored key": forged(key=HOLDERS["ann"].stored_key),
    "key of nobody": forged(claims=claims_with(sub="ghost"), key=signing_key(TOKEN_KEY, None)),
    "cut": GOOD[:-1],
    "something behind": GOOD + "A",
    "line behind": GOOD + "\n",
    "padding": GOOD + "=",
    "space before": " " + GOOD,
    "other alphabet": GOOD.replace(
        GOOD[-43:], GOOD[-43:].replace("-", "+").replace("_", "/") + "+"
    ),
    "not canonical": GOOD[:-1] + chr(ord(GOOD[-1]) + 1),
    "not ASCII": GOOD + "é",
    "half a character": GOOD + "\ud800",
    "unknown user": forged(claims=claims_with(sub="ghost")),
    "disabled user": forged(claims=claims_with(sub="off")),
    "expired user": forged(claims=claims_with(sub="late")),
    "user of another key": forged(
        claims=claims_with(sub="off"), key=signing_key(TOKEN_KEY, HOLDERS["ann"])
    ),
    "expired": forged(claims=claims_with(iat=NOW - 60, exp=NOW)),
    "issued in the future": forged(claims=claims_with(iat=NOW + 61, exp=NOW + 99)),
    "not yet": forged(claims=claims_with(nbf=NOW + 61, exp=NOW + 99)),
    "ends before it starts": forged(claims=claims_with(iat=NOW + 30, exp=NOW + 30)),
    "year 10000": forged(claims=claims_with(exp=MAX_TIME + 1)),
    "negative": forged(claims=claims_with(iat=-1)),
    "exp text": forged(claims=claims_with(exp=str(NOW + 60))),
    "exp fraction": forged(claims=claims_with(exp=NOW + 60.5)),
    "exp true": forged(claims=claims_with(exp=True)),
    "exp null": forged(claims=claims_with(exp=None)),
    "exp infinite": forged(claims=json.dumps(claims_with(exp=float("inf"))).encode()),
    "iat text": forged(claims=claims_with(iat="now")),
    "nbf null": forged(claims=claims_with(nbf=None)),
    "sub number": forged(claims=claims_with(sub=1)),
    "sub list": forged(claims=claims_with(sub=["ann"])),
    "sub empty": forged(claims=claims_with(sub="")),
    "sub half a character": forged(claims=claims_with(sub="\ud800")),
    "jti number": forged(claims=claims_with(jti=1)),
    "jti empty": forged(claims=claims_with(jti="")),
    "for another service": forged(claims=claims_with(aud="other")),
    "claim twice": forged(claims=json.dumps(CLAIMS).replace("{", '{"sub":"bob",').encode()),
    "claims list": forged(claims=[]),
    "claims text": forged(claims="x"),
    "claims behind": forged(claims=json.dumps(CLAIMS).encode() + b"{}"),
    "claims not UTF-8": forged(claims=b'{"sub":"\xff"}'),
    "claims in UTF-16": forged(claims=json.dumps(CLAIMS).encode("utf-16")),
    "claims nested": forged(claims=b"[" * 600),
    "long number": forged(claims=b'{"exp":' + b"9" * 600 + b"}"),
    "10 MB": "x" * 10_000_000,
    **{f"no {claim}": forged(claims=claims_with(claim)) for claim in CLAIMS},
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_a_token_that_is_not_valid_is_refused_in_the_same_words(kind: str) -> None:
    """FAULTS 24: the peer learns nothing but that."""
    with pytest.raises(AuthenticationError) as caught:
        verify_token(BAD_TOKENS[kind], HOLDERS, NOW)
    assert str(caught.value) == "the token is not valid"
    assert caught.value.__suppress_context__


@quick
@given(st.data())
def test_no_token_but_the_right_one_is_accepted(data: st.DataObject) -> None:
    """A stretch of it replaced by anything."""
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(start + 5, len(GOOD))))
    token = GOOD[:start] + data.draw(wire_text)[:5] + GOOD[end:]
    assume(token != GOOD)
    with pytest.raises(AuthenticationError):
        verify_token(token, HOLDERS, NOW)


def test_a_clock_that_is_a_little_ahead_is_forgiven() -> None:
    """A token that was made a minute in the future works; one that has ended does not."""
    token = forged(claims=claims_with(nbf=NOW + 60, iat=NOW + 60, exp=NOW + 61))
    assert verify_token(token, HOLDERS, NOW).user == "ann"
    assert verify_token(GOOD, HOLDERS, NOW + 59.9).user == "ann"
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, HOLDERS, NOW + 60)


def test_a_renewed_key_ends_all_tokens() -> None:
    """And nothing else does when the key is asked for again."""
    renewed = HOLDERS.with_token_key(renew=True)
    assert renewed.token_key != TOKEN_KEY
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, renewed, NOW)
    assert HOLDERS.with_token_key(renew=False) is HOLDERS


def test_a_new_password_ends_the_users_tokens() -> None:
    """So a name that was given to somebody else does not come with the old owner's tokens."""
    renamed = HOLDERS.with_users({"ann": verifier(b"other")})
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, renamed, NOW)


def test_without_a_key_no_token_is_made_or_accepted() -> None:
    """An empty key is none: everybody knows it."""
    accounts = Accounts({"ann": HOLDERS["ann"]})
    with pytest.raises(UsageError, match="no key"):
        make_token(accounts, "ann", 60)
    token = forged(key=signing_key(b"", HOLDERS["ann"]))
    with pytest.raises(AuthenticationError):
        verify_token(token, accounts, NOW)


@pytest.mark.parametrize(("user", "why"), [("ghost", "no user"), ("off", "is disabled")])
def test_no_token_is_made_for_who_could_not_use_it(user: str, why: str) -> None:
    """The error is for the administrator, and may say so."""
    with pytest.raises(UsageError, match=why):
        make_token(HOLDERS, user, 60, NOW)


def test_a_name_too_long_for_a_token_is_refused_when_it_is_made() -> None:
    """A token must fit a message; every name of a sane length does."""
    accounts = Accounts({"語" * n: verifier(b"pw") for n in (150, 255)}, token_key=TOKEN_KEY)
    assert len(make_token(accounts, "語" * 150, 60, NOW)) <= MAX_TOKEN
    with pytest.raises(UsageError, match="too long"):
        make_token(accounts, "語" * 255, 60, NOW)


def test_a_store_ends_tokens_without_a_restart(full: Path) -> None:
    """The server passes its store."""
    accounts = Accounts({"ann": HOLDERS["ann"]}, token_key=TOKEN_KEY)
    save_credentials(full, accounts)
    store = CredentialStore(full)
    assert verify_token(GOOD, store, NOW).user == "ann"
    save_credentials(full, accounts.with_token_key(renew=True))
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, store, NOW)


@pytest.mark.parametrize(
    "content", [GOOD, GOOD + "\n", GOOD + "\r\n", f" {GOOD} \nmore"], ids=short
)
def test_a_token_is_the_first_line_of_its_file(tmp_path: Path, content: str) -> None:
    """Without what editors and shells add."""
    path = tmp_path / "token"
    path.write_bytes(content.encode())
    assert read_token(path) == GOOD


@pytest.mark.parametrize(
    "content",
    [b"", b"\n" + GOOD.encode(), b"a.b", b"a.b.c.d", b"a..c", b"\xff.b.c", b"a.b.c d", b"x" * 10**6,
     b"a.b." + b"c" * MAX_TOKEN],
    ids=short,
)  # fmt: skip
def test_a_file_without_a_token_is_an_error_that_does_not_quote_it(
    tmp_path: Path, content: bytes
) -> None:
    """It may be a password, or a key."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^token file {re.escape(str(path))}: ") as caught:
        read_token(path)
    assert len(str(caught.value)) < 200


def test_a_token_file_without_end_is_not_read_to_its_end() -> None:
    """``/dev/zero`` has none."""
    with pytest.raises(UsageError, match="first line is too long"):
        read_token(Path("/dev/zero"))


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(UsageError, match="missing: No such file"):
        read_token(tmp_path / "missing")


# --- guessing -----------------------------------------------------------------------------------


class Guesser:
    """Tries to log in, at times that the test sets."""

    def __init__(self, capacity: int = 1000) -> None:
        self.now = 0.0
        self.delay = LoginDelay(lambda: self.now, capacity)

    def __call__(self, times: int, user: str = "ann", address: str = "192.0.2.1") -> list[float]:
        """Fail ``times`` times; return the delays."""
        return [self.delay.attempt(user, address) for _ in range(times)]


def test_the_delay_grows_with_each_failure() -> None:
    """FAULTS 23: two slips are free, then it doubles to its limit and stays there."""
    assert Guesser()(10) == [0, 0, 0.5, 1, 2, 4, 8, 15, 15, 15]


def test_many_guesses_at_once_are_no_way_around_the_delay() -> None:
    """A thousand connections an hour long: 8 guesses in 15 s, not a thousand; then all is well."""
    guess = Guesser()
    answered = 0
    for _ in range(3600):
        answered += sum(delay < math.inf for delay in guess(20))
        guess.now += 1
    assert answered <= 20 + 3600 / LONGEST_DELAY * GUESSES_AT_ONCE
    assert guess(1, "ann", "192.0.2.2") == [LONGEST_ACCOUNT_DELAY]
    assert guess(1, "bob") == [LONGEST_DELAY]  # the address's
    guess.now += LONGEST_DELAY
    assert guess(1) == [LONGEST_DELAY]


def test_the_longest_delay_fits_into_the_time_for_a_login() -> None:
    """Or the right password would come too late behind wrong ones."""
    assert LONGEST_DELAY < LOGIN_TIMEOUT


def test_the_delay_is_forgotten_after_a_while() -> None:
    """Counted from the last attempt, not the first."""
    guess = Guesser()
    for _ in range(5):
        guess(1)
        guess.now += FORGET_AFTER - 1
    assert guess(1) == [4]
    guess.now += FORGET_AFTER
    assert guess(3) == [0, 0, 0.5]


def test_success_starts_this_user_at_this_address_anew() -> None:
    """The attempt itself is not held against anybody."""
    guess = Guesser()
    assert guess(4)[-1] > 0
    guess.delay.succeeded("ann", "192.0.2.1")
    assert guess(2) == [0, 0]


def test_success_of_one_user_does_not_help_to_guess_another_from_the_same_address() -> None:
    """Who has an account cannot use it to wash his address clean."""
    guess = Guesser()
    for number in range(30):
        guess(1, f"victim{number}")
        guess(1, "own")
        guess.delay.succeeded("own", "192.0.2.1")
    assert guess(1, "victim") == [LONGEST_DELAY]


def test_thousands_of_good_logins_cost_nothing() -> None:
    """A script that sends a file each minute is no guesser."""
    guess = Guesser()
    for _ in range(2000):
        assert guess(1) == [0]
        guess.delay.succeeded("ann", "192.0.2.1")


def test_many_users_from_one_address_are_slow_as_well() -> None:
    """One password tried on every user; a few people behind one address are not."""
    guess = Guesser()
    delays = [guess(1, f"user{i}")[0] for i in range(30)]
    assert delays[:FREE_ADDRESS] == [0] * FREE_ADDRESS
    assert delays[-1] == LONGEST_DELAY


def test_the_right_user_elsewhere_still_gets_in() -> None:
    """FAULTS 23: 5,000 failures from 250 addresses cost the owner of the account 2 s."""
    guess = Guesser()
    for number in range(250):
        guess(20, "ann", f"198.51.100.{number}")
    assert guess(1, "ann", "192.0.2.1") == [LONGEST_ACCOUNT_DELAY]
    assert guess(1, "bob", "192.0.2.1") == [0]
    guess.delay.succeeded("ann", "192.0.2.1")  # which does not make guessing elsewhere any faster
    assert guess(1, "ann", "192.0.2.2") == [LONGEST_ACCOUNT_DELAY]


def test_an_address_of_many_is_one_person() -> None:
    """Who has IPv6 has 2**64 addresses; an IPv4 address written as IPv6 is still one."""
    guess = Guesser()
    assert [guess(1, address=f"2001:db8:0:1::{i}")[0] for i in range(4)][-1] == 1
    assert guess(1, "bob", "2001:db8:0:2::1") == [0]
    assert guess(3, "eve", "::ffff:192.0.2.7")[-1] == 0.5
    assert guess(1, "eve", "192.0.2.7") == [1]
    assert guess(1, "dan", "::ffff:192.0.2.8") == [0]
    assert guess(3, "zoe", "fe80::1%eth0")[-1] == 0.5
    assert guess(3, "kim", "not an address")[-1] == 0.5


def test_memory_is_bounded_and_the_busiest_are_remembered() -> None:
    """A flood of names drops what nobody has touched for longest."""
    guess = Guesser(capacity=10)
    for number in range(1000):
        guess(1, f"user{number}")
        guess(1, "ann", "192.0.2.2")
        guess.now += 1
    guess.now += LONGEST_DELAY
    tables = (guess.delay._pairs, guess.delay._addresses, guess.delay._users)
    assert max(len(table._entries) for table in tables) == 10
    assert guess(1, "ann", "192.0.2.2") == [LONGEST_DELAY]
    assert guess(3, "late", "192.0.2.3")[-1] == 0.5


def test_a_long_name_takes_no_more_memory_than_a_short_one() -> None:
    """Thousands of made-up names, each as long as a message allows, would be a way to fill it."""
    guess = Guesser()
    guess(1, "\U0001f600" * MAX_TEXT)
    assert all(
        len(key) < 128
        for table in (guess.delay._pairs, guess.delay._users)
        for key in table._entries
    )


def test_counting_by_many_threads_loses_nothing() -> None:
    """Eight threads, one account."""
    delay = LoginDelay(lambda: 0.0)

    def fail() -> None:
        for _ in range(500):
            delay.attempt("ann", "192.0.2.1")

    crowd = [threading.Thread(target=fail) for _ in range(8)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(PATIENCE)
    assert [times for times, *_ in delay._users._entries.values()] == [4000]


# --- TLS ----------------------------------------------------------------------------------------


class Identities:
    """An authority and what it has signed, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str = "localhost", **options: Any) -> tuple[Path, Path]:
        """Return certificate and key of a server."""
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        signed = self._authority.issue_cert(name, key_type=trustme.KeyType.ECDSA, **options)
        cert.write_bytes(b"".join(part.bytes() for part in signed.cert_chain_pems))
        signed.private_key_pem.write_to_path(str(key))
        return cert, key


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    """Return one authority for all tests."""
    return Identities(tmp_path_factory.mktemp("tls"))


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Let the two agree in memory. Raises what one of them raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(down, up, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    )
    for _ in range(5):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[1], ends[0]


def test_client_and_server_agree_on_tls_1_3(identities: Identities) -> None:
    """No compression, and the name and the chain were checked."""
    context = client_tls(identities.ca)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    server, client = shake_hands(server_tls(*identities.issue()), context)
    assert server.version() == client.version() == "TLSv1.3"
    assert client.compression() is None


def test_both_ends_know_the_same_end_point(identities: Identities) -> None:
    """What the server computes from its file is what the client computes from the connection."""
    cert, key = identities.issue()
    _, client = shake_hands(server_tls(cert, key), client_tls(identities.ca))
    der = client.getpeercert(binary_form=True)
    assert der is not None
    assert server_end_point(der) == certificate_binding(cert) == hashlib.sha256(der).digest()


def test_old_tls_is_refused_on_both_sides(identities: Identities) -> None:
    """FAULTS 27: whoever offers at most TLS 1.2."""
    for side in ("server", "client"):
        contexts = {"server": server_tls(*identities.issue()), "client": client_tls(identities.ca)}
        contexts[side].minimum_version = ssl.TLSVersion.TLSv1_2
        contexts[side].maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            shake_hands(contexts["server"], contexts["client"])


def test_where_there_is_no_tls_1_3_it_is_1_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.7 with an old OpenSSL."""
    monkeypatch.setattr(ssl, "HAS_TLSv1_3", False)
    assert client_tls().minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_tls().options & ssl.OP_NO_RENEGOTIATION


def test_an_openssl_that_knows_no_minimum_is_told_what_not_to_do() -> None:
    """Older still: a context with nothing but options."""
    context: Any = SimpleNamespace(options=0)
    _hardened(context)
    assert context.options & ssl.OP_NO_TLSv1_1


@pytest.mark.parametrize("name", ["localhost.example", "127.0.0.1"])
def test_a_certificate_of_another_host_is_refused(identities: Identities, name: str) -> None:
    """FAULTS 27."""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_tls(*identities.issue()), client_tls(identities.ca), name)


def test_a_certificate_for_an_address_is_good_for_the_address(identities: Identities) -> None:
    """Servers without a name."""
    server = server_tls(*identities.issue("127.0.0.1"))
    shake_hands(server, client_tls(identities.ca), "127.0.0.1")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command here")
def test_a_certificate_made_as_the_readme_says_works_for_its_name_only(tmp_path: Path) -> None:
    """The client takes the server's own certificate for the authority, and checks the name."""
    readme = Path(auth.__file__).with_name("README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^openssl .*\\\n.*$", readme, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", ""))
    made = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    server = server_tls(tmp_path / "cert.pem", tmp_path / "key.pem")
    client = client_tls(tmp_path / "cert.pem")
    assert shake_hands(server, client, "files.example.org")[0].version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "other.example.org")


def test_an_expired_certificate_is_refused(identities: Identities) -> None:
    """FAULTS 27."""
    old = dt.datetime(2020, 1, 1)
    server = server_tls(*identities.issue("localhost", not_after=old))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(server, client_tls(identities.ca))


def test_a_given_authority_replaces_those_of_the_system(
    identities: Identities, tmp_path: Path
) -> None:
    """Who says whom to trust trusts nobody else; and without saying so, ours is not trusted."""
    assert len(client_tls(identities.ca).get_ca_certs()) == 1
    server = server_tls(*identities.issue())
    for context in (client_tls(), client_tls(Identities(tmp_path).ca)):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server, context)


def test_missing_tls_files_are_named(identities: Identities, tmp_path: Path) -> None:
    """Which one, and why."""
    cert, key = identities.issue()
    missing = tmp_path / "missing"
    with pytest.raises(UsageError, match=f"^TLS certificate {missing}: No such file"):
        server_tls(missing, key)
    with pytest.raises(UsageError, match=f"^TLS key {missing}: No such file"):
        server_tls(cert, missing)
    with pytest.raises(UsageError, match=f"^CA file {missing}: No such file"):
        client_tls(missing)
    with pytest.raises(UsageError, match="Is a directory"):
        server_tls(tmp_path, key)


def test_a_key_of_another_certificate_is_refused(identities: Identities) -> None:
    """FAULTS 27: said as that."""
    with pytest.raises(UsageError, match=r"do not belong together$"):
        server_tls(identities.issue("localhost")[0], identities.issue("other")[1])


def test_a_key_of_another_kind_is_refused(identities: Identities, tmp_path: Path) -> None:
    """RSA key, ECDSA certificate."""
    key = write_key(tmp_path, serialization.NoEncryption())
    with pytest.raises(UsageError, match=r"do not belong together$"):
        server_tls(identities.issue()[0], key)


def write_key(folder: Path, encryption: serialization.KeySerializationEncryption) -> Path:
    """Write an RSA key as OpenSSL's old form has it."""
    path = folder / "key.pem"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    path.write_bytes(RSA.private_bytes(serialization.Encoding.PEM, form, encryption))
    return path


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    identities: Identities, tmp_path: Path
) -> None:
    """A server that waits for a password at a terminal that is not there never starts."""
    key = write_key(tmp_path, serialization.BestAvailableEncryption(b"s3cret"))
    with pytest.raises(UsageError, match=f"^TLS key {key}: it is encrypted"):
        server_tls(identities.issue()[0], key)


PEM = "-----BEGIN {0}-----\n{1}\n-----END {0}-----\n"
NOT_PEM = ["", "garbage", "-----BEGIN CERTIFICATE-----", "\x00" * 100]
DAMAGED_PEM = [PEM.format("CERTIFICATE", body) for body in ("", "AAAA", "!!!!", "MIIB")]


@pytest.mark.parametrize("content", NOT_PEM + DAMAGED_PEM, ids=short)
def test_what_is_no_certificate_is_refused_in_one_line(
    identities: Identities, tmp_path: Path, content: str
) -> None:
    """As a certificate, as a key, as an authority, and for the end point."""
    path, (cert, key) = tmp_path / "bad.pem", identities.issue()
    path.write_text(content)
    attempts: list[Callable[[], object]] = [
        lambda: server_tls(path, key),
        lambda: server_tls(cert, path),
        lambda: client_tls(path),
        lambda: certificate_binding(path),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match=re.escape(str(path))) as caught:
            attempt()
        assert str(caught.value).isprintable()


def test_a_damaged_key_is_refused(identities: Identities, tmp_path: Path) -> None:
    """The right headers around nonsense."""
    path = tmp_path / "bad.key"
    path.write_text(PEM.format("PRIVATE KEY", "AAAA"))
    with pytest.raises(UsageError, match=re.escape(str(path))):
        server_tls(identities.issue()[0], path)


# --- secrets stay secret ------------------------------------------------------------------------


def test_a_credential_does_not_show_its_keys() -> None:
    """A credential may stand in a log line or a traceback."""
    shown = repr(USERS["user"])
    for secret in (SALT, USERS["user"].stored_key, USERS["user"].server_key):
        assert repr(secret)[2:-1] not in shown
    assert "4096" in shown


def test_a_login_does_not_show_what_it_knows() -> None:
    """Neither side of a login gives a password, a key or the server's secret away."""
    client, server = rfc_client("s3cret"), ScramServer(USERS, b"s3cret")
    client.respond(server.challenge(CLIENT_FIRST))
    assert "s3cret" not in repr(client) + repr(server)


def test_accounts_and_stores_do_not_show_their_keys(full: Path) -> None:
    """The key that signs tokens is the worst of them."""
    save_credentials(full, Accounts(USERS, token_key=b"s3cret" * 5 + b"xx"))
    shown = repr(load_credentials(full)) + repr(CredentialStore(full))
    assert "s3cret" not in shown


def test_the_demo_accounts_are_verifiers_too() -> None:
    """The two accounts of the user's card log in, with their priorities, and only with theirs."""
    users = demo_credentials()
    assert {name: one.priority for name, one in users.items()} == {"admin": 1, "user1": 0}
    for name, password in (("admin", "admin123"), ("user1", "password1")):
        assert log_in(ScramClient(name, password), ScramServer(users, b"secret")) == name
    with pytest.raises(AuthenticationError):
        log_in(ScramClient("admin", "password1"), ScramServer(users, b"secret"))


# --- where a password comes from ----------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_password_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of the machine's own decide: no variable set, no terminal to ask at."""
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """Return a file with a password."""
    path = tmp_path / "password"
    path.write_text("from file\n", encoding="utf-8")
    return path


def test_a_password_file_goes_first(password_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was named on the command line counts most."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "from environment")
    assert read_password("user1", password_file, "localhost") == "from file"


def test_the_environment_goes_before_the_demo_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set on purpose counts more than a default."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "from environment")
    assert read_password("user1", None, "localhost") == "from environment"


@pytest.mark.parametrize("server", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
@pytest.mark.parametrize(("user", "password"), [("admin", "admin123"), ("user1", "password1")])
def test_the_demo_accounts_need_no_password_on_this_machine(
    user: str, password: str, server: str
) -> None:
    """Trying it out takes one command in each of two terminals."""
    assert read_password(user, None, server) == password


@pytest.mark.parametrize(("user", "server"), [("user1", "192.0.2.1"), ("alice", "localhost")])
def test_without_a_password_and_a_terminal_the_error_says_how_to_give_one(
    user: str, server: str
) -> None:
    """A demo password is never tried on another machine, nor for another user."""
    with pytest.raises(UsageError, match=f"{user}: use --password-file or LFT_PASSWORD"):
        read_password(user, None, server)


def test_a_user_without_password_is_named_safely() -> None:
    """The name in the error cannot act on the terminal."""
    with pytest.raises(UsageError) as caught:
        read_password("\x1b[31m", None, "localhost")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"pw", "pw"),
        (b"pw\n", "pw"),
        (b"pw\r\n", "pw"),
        (b"pw\nsecond line\n", "pw"),
        (b" pw \n", " pw "),
        ("pässwörd\n".encode(), "pässwörd"),
        (b"", ""),
    ],
)
def test_a_password_is_the_first_line_of_its_file(
    tmp_path: Path, content: bytes, password: str
) -> None:
    """Without its line end, with every space."""
    path = tmp_path / "password"
    path.write_bytes(content)
    assert read_password("user1", path, "localhost") == password


def test_a_password_that_is_too_long_for_its_file_is_refused_and_not_cut(tmp_path: Path) -> None:
    """Half of it would be another password, and a weaker one."""
    path = tmp_path / "password"
    path.write_text("x" * MAX_SECRET_FILE + "\n")
    assert read_password("ann", path, "localhost") == "x" * MAX_SECRET_FILE
    path.write_text("x" * (MAX_SECRET_FILE + 1))
    with pytest.raises(UsageError, match="first line is too long"):
        read_password("ann", path, "localhost")


def test_a_missing_password_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """No other source is tried silently in its place."""
    path = tmp_path / "missing"
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}: No such file"):
        read_password("user1", path, "localhost")


def test_a_password_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are no password."""
    path = tmp_path / "password"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_password("user1", path, "localhost")


# --- the command line ---------------------------------------------------------------------------


class Cli:
    """Runs ``python auth.py`` in this process, with a password from the environment."""

    def __init__(self, capsys: pytest.CaptureFixture[str], file: Path) -> None:
        self._capsys = capsys
        self._file = file
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        """Run it on the credential file; return the exit code, keep what it printed."""
        try:
            code: Any = auth.main([*arguments, "--credentials", str(self._file)])
        except SystemExit as error:
            code = error.code
        self.out, self.err = self._capsys.readouterr()
        assert isinstance(code, int)
        return code

    def fails_in_one_line(self, *arguments: str) -> bool:
        """Say whether it ends with exit code 2, one printable line, and no other output."""
        code = self(*arguments)
        line = self.err[:-1]
        named = line.startswith("auth.py: ") and self.err.endswith("\n")
        return code == 2 and self.out == "" and named and line.isprintable()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return the command line of auth.py, with a password in the environment."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "pw")
    return Cli(capsys, file)


def test_add_makes_a_file_with_which_the_user_can_log_in(cli: Cli, file: Path) -> None:
    """The first user needs no file to be there."""
    assert cli("add", "alice", "--priority", "3") == 0
    server = ScramServer(load_credentials(file), b"secret")
    assert log_in(ScramClient("alice", "pw"), server) == "alice"
    assert server.credential.priority == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_umask_takes_the_file_from_its_owner(cli: Cli, file: Path) -> None:
    """A server of the same user could not read it; with mode 0600 it can."""
    before = os.umask(0o777)
    try:
        assert cli("add", "alice") == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_add_takes_the_password_from_a_file(cli: Cli, file: Path, password_file: Path) -> None:
    """The file goes before the environment, as everywhere."""
    assert cli("add", "alice", "--password-file", str(password_file)) == 0
    users = load_credentials(file)
    assert log_in(ScramClient("alice", "from file"), ScramServer(users, b"secret")) == "alice"


def test_add_keeps_the_other_users(cli: Cli, full: Path) -> None:
    """A new user changes nobody else's account."""
    assert cli("add", "alice") == 0
    users = load_credentials(full)
    assert sorted(users) == ["alice", "user"]
    assert users["user"] == USERS["user"]


def test_add_gives_an_existing_user_a_new_password(cli: Cli, full: Path) -> None:
    """The old password no longer opens the door."""
    assert cli("add", "user") == 0
    users = load_credentials(full)
    assert log_in(ScramClient("user", "pw"), ScramServer(users, b"secret")) == "user"
    with pytest.raises(AuthenticationError):
        log_in(ScramClient("user", "pencil"), ScramServer(users, b"secret"))


def test_add_stores_a_name_in_the_form_in_which_clients_send_it(cli: Cli, file: Path) -> None:
    """A name added in one Unicode form logs in in the other."""
    assert cli("add", unicodedata.normalize("NFD", "rené")) == 0
    users = load_credentials(file)
    client = ScramClient(unicodedata.normalize("NFC", "rené"), "pw")
    assert log_in(client, ScramServer(users, b"secret")) == unicodedata.normalize("NFC", "rené")


def test_adding_shows_nothing_of_the_password(cli: Cli) -> None:
    """Neither output nor error has it."""
    assert cli("add", "alice") == 0
    assert cli.out + cli.err == ""


@pytest.mark.parametrize(
    "name",
    ["", "x" * 256, "a\x1b[31m", "a\nb", "\ud800", "\u202e", "\u06271", "\u1806", "\ufdfa" * 100],
    ids=short,
)
def test_add_refuses_a_name_that_cannot_be_one(cli: Cli, full: Path, name: str) -> None:
    """Empty (also once prepared), too long (also once prepared), or not printable."""
    assert cli.fails_in_one_line("add", name)
    assert load_credentials(full) == USERS


@pytest.mark.parametrize("priority", ["101", "-101", "99999999999999999999"])
def test_add_refuses_a_priority_out_of_range(cli: Cli, file: Path, priority: str) -> None:
    """The error says what the range is, and no file is made."""
    assert cli.fails_in_one_line("add", "alice", "--priority", priority)
    assert "-100 to 100" in cli.err
    assert not file.exists()


@pytest.mark.parametrize("password", ["", "\u00ad", "\u200b\ufeff"], ids=short)
def test_add_refuses_an_empty_password(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """Empty is also what is empty once it has been prepared."""
    monkeypatch.setenv(PASSWORD_VARIABLE, password)
    assert cli.fails_in_one_line("add", "alice")
    assert not file.exists()


def test_add_refuses_a_password_with_characters_that_cannot_be_typed_again(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 4013 prohibits controls; the error does not repeat the password."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "s3cret\x07")
    assert cli.fails_in_one_line("add", "alice")
    assert "s3cret" not in cli.err
    assert not file.exists()


def test_add_without_a_password_fails_in_one_line(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a demo account gets a password from nowhere, and no file is made."""
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert cli.fails_in_one_line("add", "user1")
    assert not file.exists()


def test_add_leaves_a_damaged_file_alone(cli: Cli, file: Path) -> None:
    """A file that cannot be read is not overwritten: somebody may still repair it."""
    file.touch(0o600)
    file.write_bytes(b"precious")
    assert cli.fails_in_one_line("add", "alice")
    assert file.read_bytes() == b"precious"


def test_add_leaves_a_file_open_to_others_alone(cli: Cli, full: Path) -> None:
    """Its owner must close it first; only then are its accounts worth keeping."""
    full.chmod(0o644)
    before = full.read_bytes()
    assert cli.fails_in_one_line("add", "alice")
    assert full.read_bytes() == before


def test_add_does_not_follow_a_dangling_link(cli: Cli, file: Path, tmp_path: Path) -> None:
    """A link to nowhere is not a file that is not there yet."""
    file.symlink_to(tmp_path / "elsewhere")
    assert cli.fails_in_one_line("add", "alice")
    assert not (tmp_path / "elsewhere").exists()


def test_remove_takes_one_user_away(cli: Cli, full: Path) -> None:
    """The others stay."""
    cli("add", "alice")
    assert cli("remove", "user") == 0
    assert list(load_credentials(full)) == ["alice"]


def test_removing_an_unknown_user_fails_in_one_line(cli: Cli, full: Path) -> None:
    """Nothing changes, and the error names the user safely."""
    before = full.read_bytes()
    assert cli.fails_in_one_line("remove", "ghost")
    assert "ghost" in cli.err
    assert full.read_bytes() == before


def test_list_shows_names_and_priorities_in_order(cli: Cli, file: Path) -> None:
    """One line for each user, and nothing of a key."""
    one = USERS["user"]
    save_credentials(file, {"zoe": one, "bob": replace(one, priority=-5)})
    assert cli("list") == 0
    assert cli.out == "bob\tpriority -5\nzoe\tpriority 0\n"


LIMITS = ["--directory", "team/alice/", "--max-file-size", "2G", "--quota", "10G", "--limit", "5M"]
LIMITS += ["--allow-ext", "PDF,.tar.gz", "--expires", "30d", "--disabled", "--priority", "2"]


def test_add_sets_every_limit(cli: Cli, file: Path) -> None:
    """Sizes in 1024s, extensions in lower case, expiry as an instant."""
    before = int(time.time())
    assert cli("add", "alice", *LIMITS) == 0
    account = load_credentials(file)["alice"]
    assert account.expires is not None
    assert 0 <= account.expires - before - 30 * 86400 <= PATIENCE
    assert (account.priority, account.directory) == (2, "team/alice")
    assert (account.max_file_size, account.quota, account.limit) == (2 << 30, 10 << 30, 5 << 20)
    assert (account.allow_ext, account.disabled) == ((".pdf", ".tar.gz"), True)


def test_list_shows_every_limit(cli: Cli, full: Path) -> None:
    """Expiry in UTC, and whether it has come."""
    limits = replace(
        USERS["user"], directory="d", max_file_size=2 << 30, quota=10 << 30, limit=5 << 20,
        allow_ext=(".pdf", ".txt"), expires=1, disabled=True
    )  # fmt: skip
    save_credentials(full, {"a": limits, "b": replace(USERS["user"], expires=MAX_TIME)})
    assert cli("list") == 0
    assert cli.out == (
        "a\tpriority 0\tdirectory d\tmax-file-size 2.0 GB\tquota 10.0 GB\tlimit 5.0 MB/s"
        "\tallow-ext .pdf,.txt\texpired 1970-01-01T00:00:01Z\tdisabled\n"
        "b\tpriority 0\texpires 9999-12-31T23:59:59Z\n"
    )


def test_a_new_password_changes_no_limit(cli: Cli, file: Path) -> None:
    """Or a user could be let out of the quota, or in again, by mistake."""
    assert cli("add", "alice", *LIMITS) == 0
    before = load_credentials(file)["alice"]
    assert cli("add", "alice") == 0
    after = load_credentials(file)["alice"]
    assert after.stored_key != before.stored_key
    verifiers = ("iterations", "salt", "stored_key", "server_key")
    assert replace(after, **{name: getattr(before, name) for name in verifiers}) == before


def test_limits_can_be_changed_without_a_new_password(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator disables an account without knowing its password."""
    monkeypatch.delenv(PASSWORD_VARIABLE)
    save_credentials(file, {"user": replace(USERS["user"], quota=5)})
    assert cli("add", "user", "--keep-password", "--disabled") == 0
    assert load_credentials(file)["user"] == replace(USERS["user"], quota=5, disabled=True)
    assert cli("add", "user", "--keep-password", "--enabled") == 0
    assert load_credentials(file)["user"] == replace(USERS["user"], quota=5)


def test_an_empty_value_takes_a_limit_away(cli: Cli, file: Path) -> None:
    """Each of them."""
    assert cli("add", "alice", *LIMITS) == 0
    options = ["--directory", "--max-file-size", "--quota", "--limit", "--allow-ext", "--expires"]
    empty = [word for option in options for word in (option, "")]
    assert cli("add", "alice", "--keep-password", "--enabled", *empty) == 0
    account = load_credentials(file)["alice"]
    optional = [item for item in fields(account) if item.name in OPTIONAL]
    assert all(getattr(account, item.name) == item.default for item in optional)


def test_a_user_who_is_not_there_has_no_password_to_keep(cli: Cli, file: Path) -> None:
    """No file is made, either."""
    assert cli.fails_in_one_line("add", "alice", "--keep-password")
    assert not file.exists()


@pytest.mark.parametrize(
    "options",
    [("--quota", "0"), ("--quota", "much"), ("--limit", "-1"), ("--max-file-size", "5X"),
     ("--allow-ext", ".a b"), ("--expires", "soon"), ("--expires", "0d"), ("--expires", "30"),
     ("--disabled", "--enabled")],
    ids=short,
)  # fmt: skip
def test_add_refuses_limits_that_cannot_be_read(
    cli: Cli, file: Path, options: tuple[str, ...]
) -> None:
    """A wrong command line, and it says what would be right."""
    assert cli("add", "alice", *options) == 2
    assert "usage:" in cli.err
    assert not file.exists()


@pytest.mark.parametrize("directory", ["../x", "/x", ".x", "a/../b"])
def test_add_refuses_a_directory_elsewhere(cli: Cli, file: Path, directory: str) -> None:
    """And says what one looks like."""
    assert cli.fails_in_one_line("add", "alice", "--directory", directory)
    assert "relative path" in cli.err
    assert not file.exists()


def test_the_first_user_of_a_file_brings_the_key_for_salts(cli: Cli, file: Path) -> None:
    """It stays the same from then on; there is none for tokens before there are any."""
    cli("add", "alice")
    first = load_credentials(file)
    cli("add", "bob")
    second = load_credentials(file)
    assert len(first.salt_key) == 32
    assert first.salt_key == second.salt_key
    assert first.token_key == b""


def test_token_prints_a_token_with_which_the_user_gets_in(cli: Cli, full: Path) -> None:
    """The first one makes the key, the others use it; nothing else is printed."""
    tokens = []
    for _ in range(2):
        assert cli("token", "user", "--expires", "12h") == 0
        assert cli.err == ""
        tokens.append(cli.out.rstrip("\n"))
    accounts = load_credentials(full)
    assert [verify_token(token, accounts).user for token in tokens] == ["user", "user"]
    with pytest.raises(AuthenticationError):
        verify_token(tokens[0], accounts, time.time() + 12 * 3600)
    assert stat.S_IMODE(full.stat().st_mode) == 0o600


def test_a_token_is_good_for_30_days_if_nothing_is_said(cli: Cli, full: Path) -> None:
    """Long enough to be of use, short enough to be forgotten."""
    assert cli("token", "user") == 0
    claims = jwt.decode(cli.out.strip(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 30 * 86400


def test_renewing_the_key_ends_the_tokens(cli: Cli, full: Path) -> None:
    """Alone it prints nothing; with a name it prints the first token of the new key."""
    cli("token", "user")
    old = cli.out.strip()
    assert cli("token", "--renew-key") == 0
    assert cli.out == ""
    with pytest.raises(AuthenticationError):
        verify_token(old, load_credentials(full))
    assert cli("token", "user", "--renew-key") == 0
    assert verify_token(cli.out.strip(), load_credentials(full)).user == "user"
    assert load_credentials(full)["user"] == USERS["user"]


def test_no_token_for_an_unknown_or_disabled_user(cli: Cli, file: Path) -> None:
    """In one line, and a key is not made for it."""
    save_credentials(file, {"off": replace(USERS["user"], disabled=True)})
    assert cli.fails_in_one_line("token", "ghost")
    assert cli.fails_in_one_line("token", "")
    assert cli.fails_in_one_line("token", "off")
    assert load_credentials(file).token_key == b""


@pytest.mark.parametrize("command", [("token",), ("token", "user", "--expires", "")])
def test_token_wants_a_name_and_a_time(cli: Cli, full: Path, command: tuple[str, ...]) -> None:
    """A wrong command line."""
    assert cli(*command) == 2
    assert "usage:" in cli.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("1D", 86400), (" 5 m ", 300)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    """Seconds, minutes, hours, days."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "d", "0s", "-1d", "1.5h", "1w", "1d2h", "9999999d", "٣d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """With an example of what would be one."""
    with pytest.raises(ValueError, match="try 30d"):
        parse_duration(text)


def test_extensions_may_be_written_with_and_without_a_dot() -> None:
    """And in any case, with spaces."""
    assert parse_extensions("pdf, .TXT,tar.gz") == (".pdf", ".txt", ".tar.gz")
    for text in ("", ",", "a,,b", ".", "a/b", "a b"):
        with pytest.raises(ValueError, match="not extensions"):
            parse_extensions(text)


@pytest.mark.parametrize("command", [("list",), ("remove", "alice"), ("token", "alice")])
def test_a_missing_file_fails_in_one_line(cli: Cli, command: tuple[str, ...]) -> None:
    """Only ``add`` makes a file."""
    assert cli.fails_in_one_line(*command)
    assert "No such file" in cli.err


@pytest.mark.parametrize(
    "command", [(), ("steal",), ("add",), ("add", "alice", "--priority", "high"), ("list", "--all")]
)
def test_a_wrong_command_line_ends_with_exit_code_2(
    cli: Cli, file: Path, command: tuple[str, ...]
) -> None:
    """The usage is shown, and nothing happens."""
    assert cli(*command) == 2
    assert "usage:" in cli.err
    assert not file.exists()


def test_no_command_at_all_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The error says what to say."""
    with pytest.raises(SystemExit) as caught:
        auth.main([])
    assert caught.value.code == 2
    assert "say add, remove, list or token" in capsys.readouterr().err


def test_a_password_is_never_taken_from_an_argument(cli: Cli, file: Path) -> None:
    """Arguments are seen by everybody on the machine."""
    assert cli("add", "alice", "--password", "pw") == 2
    assert cli("add", "alice", "pw") == 2
    assert not file.exists()


def test_the_script_itself_ends_with_the_exit_code_and_one_line(file: Path) -> None:
    """``python auth.py list`` without a file: exit code 2, no traceback."""
    done = subprocess.run(
        [sys.executable, str(auth.__file__), "list", "--credentials", str(file)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"auth.py: credential file ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["list"], ["token", "alice"]])
def test_a_full_standard_output_is_exit_code_2_and_one_line(
    cli: Cli, file: Path, command: list[str], unbuffered: str
) -> None:
    """A token that was not written must not look as if it were."""
    cli("add", "alice")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(auth.__file__), *command, "--credentials", str(file)],
            env={**environment(), "PYTHONUNBUFFERED": unbuffered}, check=False,
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "auth.py: cannot write to standard output: No space left on device\n"


# --- at a terminal ------------------------------------------------------------------------------

# Opening the terminal as the leader of a new session makes it the one that getpass asks at.
# What the shell that runs the tests has said of Ctrl-C (in the background: no) is not for it.
AT_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
for target in (0, 1, 2):
    os.dup2(os.open(sys.argv[1], os.O_RDWR), target)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Terminal:
    """``python auth.py`` at a terminal of its own, and the person who sits there."""

    def __init__(self, *arguments: str) -> None:
        self.seen = ""
        self._master, self._slave = os.openpty()  # both kept: no end of file before we have read
        os.set_blocking(self._master, False)
        script = [sys.executable, "-c", AT_A_TERMINAL, os.ttyname(self._slave), str(auth.__file__)]
        self._process = subprocess.Popen(
            [*script, *arguments], start_new_session=True, env=environment()
        )

    def types(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def sees(self, text: str) -> None:
        """Wait for this text."""
        eventually(lambda: self._shows(text), repr(text))

    def _shows(self, text: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.seen += os.read(self._master, 4096).decode()
        return text in self.seen

    def listens(self) -> None:
        """Wait until it sleeps in its prompt: Python would not notice a signal just before that."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(") ")[2].startswith("S"), "its reading")

    def leaves(self) -> int:
        """Wait for the end; return the exit code and see the rest."""
        code = self._process.wait(PATIENCE)
        self._shows("")
        return code

    def close(self) -> None:
        """Take the terminal away; nothing may run on without it."""
        os.close(self._master)
        os.close(self._slave)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture
def terminal(file: Path) -> Iterator[Terminal]:
    """Give a terminal at which somebody has said ``auth.py add alice``."""
    one = Terminal("add", "alice", "--credentials", str(file))
    yield one
    one.close()


def test_a_password_is_asked_for_twice_and_not_shown(terminal: Terminal, file: Path) -> None:
    """Typed twice alike, it is the new user's; the terminal never shows it."""
    terminal.sees("Password of alice: ")
    terminal.types("wonderland\n")
    terminal.sees("Password of alice once more: ")
    terminal.types("wonderland\n")
    assert terminal.leaves() == 0
    assert "wonderland" not in terminal.seen
    users = load_credentials(file)
    assert log_in(ScramClient("alice", "wonderland"), ScramServer(users, b"secret")) == "alice"


def test_two_different_passwords_are_refused(terminal: Terminal, file: Path) -> None:
    """A slip of the finger does not become a password."""
    terminal.sees("Password of alice: ")
    terminal.types("wonderland\n")
    terminal.sees("once more: ")
    terminal.types("wonderlamd\n")
    assert terminal.leaves() == 2
    assert "auth.py: the two passwords differ" in terminal.seen
    assert not file.exists()


def test_ctrl_c_at_the_prompt_ends_without_a_traceback(terminal: Terminal, file: Path) -> None:
    """Exit code 130, as for every program that was interrupted."""
    terminal.sees("Password of alice: ")
    terminal.listens()
    terminal.types("\x03")
    assert terminal.leaves() == 130
    assert "Traceback" not in terminal.seen
    assert not file.exists()


def test_end_of_file_at_the_prompt_is_no_password(terminal: Terminal, file: Path) -> None:
    """Ctrl-D instead of a password: one line and exit code 2, no traceback."""
    terminal.sees("Password of alice: ")
    terminal.types("\x04")
    assert terminal.leaves() == 2
    assert "auth.py: no password for alice" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert not file.exists()
