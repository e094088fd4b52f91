"""The login of RFC 7677, and accounts for the tests of logins."""

from __future__ import annotations

import base64
import hashlib
import hmac

from hypothesis import strategies as st

from lft.accounts.account import Accounts, Credential, Credentials
from lft.accounts.scram import ScramClient, ScramServer

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


USERS = Accounts({"user": verifier(b"pencil")})


def rfc_server(users: Credentials = USERS) -> ScramServer:
    """Return the server of the RFC's example."""
    return ScramServer(Accounts(users), b"secret", nonce=NONCE_EXTENSION)


def rfc_client(password: str = "pencil") -> ScramClient:
    """Return the client of the RFC's example."""
    return ScramClient("user", password, nonce=CLIENT_NONCE)


def log_in(client: ScramClient, server: ScramServer) -> str:
    """Let both sides talk to the end; return the name of the user logged in."""
    client.check_server(server.verify(client.respond(server.challenge(client.first()))))
    return server.user


latin = st.characters(max_codepoint=0x24F, blacklist_categories=("Cc", "Cf", "Zs"))
names = st.text(latin, min_size=1, max_size=30)

# What AUTH_* messages can carry: any text except lone surrogates. No digits, because a longer
# iteration count is no error, only slow.
wire_text = st.text(st.characters(blacklist_categories=("Cs", "Nd")), max_size=40)
