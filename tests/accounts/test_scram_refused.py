"""SCRAM messages that are refused, on either side."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any, Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lft.accounts.account import MAX_ITERATIONS
from lft.accounts.scram import ScramClient, ScramServer
from protocol import MAX_TEXT, AuthenticationError
from tests.support.generated import quick, short
from tests.support.scram import (
    CLIENT_FINAL,
    CLIENT_FIRST,
    CLIENT_NONCE,
    NONCE_EXTENSION,
    SALT,
    SERVER_FINAL,
    SERVER_FIRST,
    USERS,
    rfc_client,
    rfc_server,
    wire_text,
)


def challenged() -> ScramServer:
    """Return the RFC's server after its challenge."""
    server = rfc_server()
    server.challenge(CLIENT_FIRST)
    return server


# --- what is refused ----------------------------------------------------------------------------


def test_a_wrong_password_is_refused() -> None:
    """The proof of another password is refused."""
    with pytest.raises(AuthenticationError):
        challenged().verify(rfc_client("Pencil").respond(SERVER_FIRST))


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
    """Add the proof of a client that knows the password, whatever else is in the message."""
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
    """A thief of the credential file still cannot log in."""
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
    """Missing parts, trailing parts, another channel binding, and malformed proofs."""
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
    """Missing and misplaced parts, mandatory extensions, and malformed salts."""
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
    """An empty signature does not match the one that has not been computed yet."""
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


# --- whatever comes -----------------------------------------------------------------------------


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
