"""SCRAM logins that succeed, and how TLS is bound into them."""

from __future__ import annotations

import base64
import hashlib
import unicodedata

import pytest
from hypothesis import assume, example, given

from lft.accounts.account import Accounts, Credential, check_user_name
from lft.accounts.keys import saslprep
from lft.accounts.scram import SCRAM_PLUS, ScramClient, ScramServer
from protocol import MAX_TEXT, SCRAM, AuthenticationError, UsageError
from tests.support.generated import quick, short
from tests.support.scram import (
    CLIENT_FINAL,
    CLIENT_FIRST,
    NONCE_EXTENSION,
    SERVER_FINAL,
    SERVER_FIRST,
    USERS,
    log_in,
    names,
    rfc_client,
    rfc_server,
    verifier,
)

# --- as the standard has it ---------------------------------------------------------------------


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


def test_each_login_has_nonces_of_its_own() -> None:
    """Neither side uses a nonce twice."""
    assert ScramClient("user", "x").first() != ScramClient("user", "x").first()
    servers = [ScramServer(USERS, b"secret") for _ in range(2)]
    assert servers[0].challenge(CLIENT_FIRST) != servers[1].challenge(CLIENT_FIRST)


def test_the_priority_is_the_accounts() -> None:
    """The login gives the server the account's priority."""
    server = ScramServer(Accounts({"boss": Credential.make("pw", 7, iterations=4096)}), b"secret")
    log_in(ScramClient("boss", "pw"), server)
    assert server.credential.priority == 7


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
    users = Accounts({name: Credential.make(text, iterations=4096)})
    assert log_in(ScramClient(text, text), ScramServer(users, b"secret")) == name


def test_a_password_may_be_typed_in_either_unicode_form() -> None:
    """An accent typed as one character or as two is the same password, and the same name."""
    one, two = (unicodedata.normalize(form, "né") for form in ("NFC", "NFD"))
    assert one != two
    users = Accounts({one: Credential.make(two, iterations=4096)})
    assert log_in(ScramClient(two, one), ScramServer(users, b"secret")) == one


def test_an_extension_of_the_server_is_ignored_but_signed() -> None:
    """RFC 5802: optional extensions may follow, and the proof covers them."""
    assert rfc_client().respond(SERVER_FIRST + ",x=new") != rfc_client().respond(SERVER_FIRST)


@pytest.mark.parametrize("name", ["", "x" * 256, "\u1806", "\ufdfa" * 100, "a\x1b[31m"], ids=short)
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_sent(name: str) -> None:
    """Empty, or too long for AUTH_START: how the program was started is wrong, not the server."""
    with pytest.raises(UsageError):
        ScramClient(name, "pencil")


# --- bound to TLS -------------------------------------------------------------------------------


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
    """AUTH_START names it."""
    assert rfc_client().mechanism == rfc_server().mechanism == SCRAM


@pytest.mark.parametrize("seen", [b"", b"x", BINDING[:-1], BINDING + b"x", bytes(32)], ids=short)
def test_a_client_that_sees_another_certificate_is_refused(seen: bytes) -> None:
    """A man in the middle with another certificate gains nothing by passing logins on."""
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
    """A proxy speaks TLS with the server in the client's name."""
    with pytest.raises(AuthenticationError, match="not bound to this TLS connection"):
        log_in(rfc_client(), bound_server())


def test_a_client_that_could_bind_gets_into_a_server_that_cannot() -> None:
    """TLS ends in front of the server, as with stunnel."""
    client = ScramClient("user", "pencil", binding=BINDING, plus=False)
    assert log_in(client, rfc_server()) == "user"


def test_a_login_bound_to_tls_is_refused_where_there_is_none() -> None:
    """A server without TLS cannot check a binding."""
    with pytest.raises(AuthenticationError, match="this connection has none"):
        log_in(ScramClient("user", "pencil", binding=BINDING), rfc_server())


@pytest.mark.parametrize("flag", ["p=tls-unique", "p=", "p", "P=tls-server-end-point", "yes", ""])
def test_another_kind_of_binding_is_refused(flag: str) -> None:
    """We know one kind of channel binding."""
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
    users = Accounts({name: verifier(b"pw")})
    client = ScramClient(name, "pw", binding=bytes(64))
    server = ScramServer(users, b"secret", binding=bytes(64))
    assert len(client.first()) <= MAX_TEXT
    final = client.respond(server.challenge(client.first()))
    assert len(final) <= MAX_TEXT
    client.check_server(server.verify(final))


def test_a_login_does_not_show_what_it_knows() -> None:
    """Neither side of a login gives a password, a key or the server's secret away."""
    client, server = rfc_client("s3cret"), ScramServer(USERS, b"s3cret")
    client.respond(server.challenge(CLIENT_FIRST))
    assert "s3cret" not in repr(client) + repr(server)
