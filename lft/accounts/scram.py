"""Both sides of a SCRAM-SHA-256 login, with and without channel binding (RFC 5802, RFC 7677)."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time

from lft.accounts.account import (
    MAX_ITERATIONS,
    MAX_USER_NAME,
    MIN_ITERATIONS,
    Accounts,
    Credential,
    RefusedLoginError,
    check_user_name,
)
from lft.accounts.keys import (
    from_base64,
    hmac_sha256,
    salt_password,
    saslprep,
    to_base64,
    to_base64url,
    xor,
)
from protocol import SCRAM, AuthenticationError

SCRAM_PLUS = f"{SCRAM}-PLUS"  # bound to the TLS connection that carries the login
MAX_NONCE = 256  # characters of one side's nonce, so that both still fit a message
_BAD_LOGIN = "unknown user or wrong password"
_MALFORMED = "malformed login message"
_BOUND = "p=tls-server-end-point"  # gs2-cbind-flag (RFC 5802, section 7): bound to this certificate
_COULD_BIND = "y"  # there is TLS, but the server does not offer to bind
_CANNOT_BIND = "n"  # there is no TLS


def _attributes(message: str, names: str, *, extensions: bool = False) -> list[str]:
    """Split ``r=...,s=...`` into values; the attributes must be ``names``, in that order."""
    parts = message.split(",")
    if len(parts) < len(names) or (len(parts) > len(names) and not extensions):
        raise AuthenticationError(_MALFORMED)
    if any(part[:2] != f"{name}=" for part, name in zip(parts, names)):
        raise AuthenticationError(_MALFORMED)
    return [part[2:] for part in parts[: len(names)]]


def _nonce() -> str:
    return to_base64url(os.urandom(18))


class ScramClient:
    """The client's side of one login: ``first``, then ``respond``, then ``check_server``.

    ``binding`` is the server's end point (``server_end_point``) where there is TLS; ``plus`` says
    whether the server offers to bind the login to it. A man in the middle may hide that offer; the
    server finds out, because it learns that we could have bound the login.
    """

    def __init__(
        self,
        user: str,
        password: str,
        nonce: str | None = None,
        *,
        binding: bytes | None = None,
        plus: bool = True,
    ) -> None:
        check_user_name(user)
        self._password = password
        self._nonce = nonce or _nonce()
        name = saslprep(user).replace("=", "=3D").replace(",", "=2C")
        self._first_bare = f"n={name},r={self._nonce}"
        self._server_signature = b""
        flag = _CANNOT_BIND if binding is None else _BOUND if plus else _COULD_BIND
        self._header = f"{flag},,"
        self._bound = self._header.encode() + ((binding or b"") if plus else b"")
        self.mechanism = SCRAM_PLUS if flag == _BOUND else SCRAM

    def first(self) -> str:
        return self._header + self._first_bare

    def respond(self, server_first: str) -> str:
        """Answer server-first-message with client-final-message: prove that we know the password.

        Raises ``AuthenticationError`` for a challenge that no honest server would send.
        """
        nonce, salt, iterations = self._challenge(server_first)
        without_proof = f"c={to_base64(self._bound)},r={nonce}"
        signed = f"{self._first_bare},{server_first},{without_proof}".encode()
        salted = salt_password(self._password, salt, iterations)
        client_key = hmac_sha256(salted, b"Client Key")
        signature = hmac_sha256(hashlib.sha256(client_key).digest(), signed)
        self._server_signature = hmac_sha256(hmac_sha256(salted, b"Server Key"), signed)
        return f"{without_proof},p={to_base64(xor(client_key, signature))}"

    def _challenge(self, server_first: str) -> tuple[str, bytes, int]:
        nonce, salt_text, count = _attributes(server_first, "rsi", extensions=True)
        if len(nonce) > 2 * MAX_NONCE or len(salt_text) > MAX_NONCE:
            raise AuthenticationError(_MALFORMED)
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise AuthenticationError("the server did not take up our challenge")
        try:
            salt, iterations = from_base64(salt_text), int(count) if len(count) < 10 else 0
        except ValueError:
            raise AuthenticationError(_MALFORMED) from None
        if not salt or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise AuthenticationError("the server asks for an unreasonable password computation")
        return nonce, salt, iterations

    def check_server(self, server_final: str) -> None:
        """Raise ``AuthenticationError`` unless the server knows our verifier too."""
        (signature,) = _attributes(server_final, "v", extensions=True)
        expected = to_base64(self._server_signature)
        if not expected or not hmac.compare_digest(signature.encode(), expected.encode()):
            raise AuthenticationError("the server cannot prove that it knows this account")


class ScramServer:
    """The server's side of one login: ``challenge``, then ``verify``.

    An unknown user gets the same messages and costs the same work as a wrong password, and so does
    a user whose account is disabled or has expired.

    ``binding`` is our own end point where the connection has TLS. Then the login must be bound to
    it, and the mechanism is SCRAM-SHA-256-PLUS. RFC 5802, section 6, lets in a client that cannot
    bind (``n``). We do not: all our clients can, and a client that sees no TLS where we do is
    talking to a man in the middle.
    """

    def __init__(
        self,
        accounts: Accounts,
        secret: bytes,
        nonce: str | None = None,
        *,
        binding: bytes | None = None,
    ) -> None:
        self._accounts = accounts
        self._secret = secret  # makes the salts of unknown users where the accounts have no key
        self._binding = binding
        self.mechanism = SCRAM if binding is None else SCRAM_PLUS  # no other will do
        self._extension = nonce or _nonce()
        self._header = ""
        self._transcript = ""
        self._nonce = ""
        self._known = False
        self._reason = "no such user"  # of a refusal, for the log
        self.user = ""
        self.credential: Credential  # the account, once it has been verified

    def challenge(self, client_first: str) -> str:
        """Answer client-first-message with server-first-message. Raises ``AuthenticationError``."""
        self._header, bare = self._split(client_first)
        name, nonce = _attributes(bare, "nr", extensions=True)
        escaped = not re.search("=(?!2C|3D)", name)  # RFC 5802, section 5.1: MUST fail
        if not 0 < len(nonce) <= MAX_NONCE or len(name) > 3 * MAX_USER_NAME or not escaped:
            raise AuthenticationError(_MALFORMED)
        self.user = name.replace("=2C", ",").replace("=3D", "=")
        found, stand_in = self._accounts.get(self.user), self._stand_in()
        now = time.time()
        self._known = found is not None and found.active(now)
        if found is not None:
            closed = found.closed(now)
            self._reason = f"the account {closed}" if closed else "wrong password"
        self.credential = found if found is not None and self._known else stand_in
        self._nonce = nonce + self._extension
        salt = to_base64(self.credential.salt)
        server_first = f"r={self._nonce},s={salt},i={self.credential.iterations}"
        self._transcript = f"{bare},{server_first}"
        return server_first

    def _split(self, client_first: str) -> tuple[str, str]:
        """Return gs2-header and client-first-message-bare. Raises ``AuthenticationError``."""
        flag, _, rest = client_first.partition(",")
        if not rest.startswith(",") or not re.fullmatch("[ny]|p=.+", flag):  # no other authzid
            raise AuthenticationError(_MALFORMED)
        if self._binding is not None and flag != _BOUND:
            raise AuthenticationError("the login is not bound to this TLS connection")
        if self._binding is None and flag not in (_CANNOT_BIND, _COULD_BIND):
            raise AuthenticationError("the login is bound to TLS, and this connection has none")
        return f"{flag},,", rest[1:]

    def _stand_in(self) -> Credential:
        """Make up an account for an unknown user; made for known users too, to take as long."""
        salt = hmac_sha256(self._accounts.salt_key or self._secret, self.user.encode())[:16]
        return Credential(0, self._accounts.usual_iterations, salt, salt * 2, salt * 2)

    def verify(self, client_final: str) -> str:
        """Check the proof; return server-final-message. Raises ``AuthenticationError``.

        Its cause is for the log. That of a closed account says nothing about the password.
        """
        binding, nonce, proof_text = _attributes(client_final, "crp")
        try:
            proof = from_base64(proof_text)
        except ValueError:
            proof = b""
        signed = f"{self._transcript},{client_final.rpartition(',p=')[0]}".encode()
        client_key = xor(proof, hmac_sha256(self.credential.stored_key, signed))
        found = hashlib.sha256(client_key).digest()
        right = hmac.compare_digest(found, self.credential.stored_key) and len(proof) == 32
        if binding != to_base64(self._header.encode() + (self._binding or b"")):
            raise AuthenticationError("the login is bound to another connection")
        if not (right and self._known and nonce == self._nonce):
            cause = RefusedLoginError(self.user, self._reason)
            raise AuthenticationError(_BAD_LOGIN) from cause
        return f"v={to_base64(hmac_sha256(self.credential.server_key, signed))}"
