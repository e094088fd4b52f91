"""Logins: judging proofs of passwords and tokens, and the delay after wrong ones."""

from __future__ import annotations

import logging
import secrets
import time

from config import ServerSettings
from lft.accounts.account import (
    MAX_USER_NAME,
    AccountSource,
    Credential,
    RefusedLoginError,
)
from lft.accounts.permissions import Rights
from lft.accounts.scram import ScramServer
from lft.accounts.throttle import LoginDelay
from lft.accounts.tokens import verify_token
from lft.addresses import plain_address
from lft.clock import TokenBucket
from lft.server.sessions import Peer, Registry, Session
from protocol import (
    TOKEN,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    RemoteProtocolError,
)

log = logging.getLogger("coordinator")


class Login:
    """Judges proofs and makes sessions. All of it runs on workers.

    ``delays`` counts wrong proofs. A proof that has to wait stays in its peer; main watches the
    clock and hands the peer to a worker when the proof is due.
    """

    def __init__(
        self, settings: ServerSettings, accounts: AccountSource, registry: Registry
    ) -> None:
        self.delays = LoginDelay()
        self._settings = settings
        self._accounts = accounts
        self._registry = registry
        self._secret = secrets.token_bytes(32)  # makes the salts of users that do not exist
        self._buckets_of: dict[tuple[str, int], TokenBucket] = {}

    def start(self, peer: Peer, message: AuthStart) -> None:
        """Answer AUTH_START with a challenge, or judge the token that it shows."""
        if message.mechanism == TOKEN:
            self._expect_proof(peer, message, token_name(message.data))
            return
        login = ScramServer(self._accounts(), self._secret, binding=peer.binding)
        if message.mechanism != login.mechanism:
            raise RemoteProtocolError(f"this server wants {login.mechanism}", "authentication")
        peer.login = login
        peer.connection.send(AuthChallenge(login.challenge(message.data)))

    def respond(self, peer: Peer, message: AuthResponse) -> None:
        """Judge the proof of a password."""
        assert peer.login is not None  # the dialogue sees to it
        self._expect_proof(peer, message, peer.login.user)

    def _expect_proof(self, peer: Peer, proof: AuthStart | AuthResponse, user: str) -> None:
        """Judge a proof at once, or later if wrong ones came before it."""
        if self._settings.credentials is None and not peer.is_local:  # handed on by a balancer
            raise AuthenticationError("the demo accounts are for clients on the server's machine")
        delay = self.delays.attempt(user, peer.address)
        if delay == float("inf"):
            raise AuthenticationError("too many wrong passwords; try again later")
        peer.proof, peer.proof_due = proof, time.monotonic() + delay
        if delay:
            log.warning("%s: wrong passwords before: its login waits %.1f s", peer.name, delay)
        self.judge_due(peer)

    def judge_due(self, peer: Peer) -> None:
        """Let the client in if its proof is due and right. Raises ``AuthenticationError``."""
        if peer.proof is None or time.monotonic() < peer.proof_due:
            return
        proof, peer.proof = peer.proof, None
        if isinstance(proof, AuthResponse):
            self._judge_password(peer, proof)
        else:
            self._judge_token(peer, proof)

    def _judge_password(self, peer: Peer, proof: AuthResponse) -> None:
        login = peer.login
        assert login is not None  # the dialogue sees to it
        final = login.verify(proof.data)
        self.delays.succeeded(login.user, peer.address)
        self._let_in(peer, login.user, login.credential, final)

    def _judge_token(self, peer: Peer, proof: AuthStart) -> None:
        if not (peer.connection.secure or peer.is_local):  # others can read it on the way
            raise AuthenticationError("a token may be shown over TLS only")
        user, credential = verify_token(proof.data, self._accounts())
        self.delays.succeeded(token_name(proof.data), peer.address)
        self._let_in(peer, user, credential, login_token=proof.data)

    def _let_in(
        self, peer: Peer, user: str, credential: Credential, final: str = "", login_token: str = ""
    ) -> None:
        rights = Rights.of(credential, self._settings)
        session = Session(user, credential.priority, peer, rights)
        session.verifier, session.login_token = credential.stored_key, login_token
        session.bucket = self.bucket_of(user, rights.limit)
        self._registry.add(session)
        peer.session, peer.login = session, None
        log.info("%s logged in as %s (priority %d)", peer.name, user, session.priority)
        peer.connection.send(AuthOk(final, session.token, session.priority))

    def bucket_of(self, user: str, limit: int | None) -> TokenBucket | None:
        """Return the bucket that all sessions of a user share."""
        return self._buckets_of.setdefault((user, limit), TokenBucket(limit)) if limit else None

    def tell_refused(self, peer: Peer, error: AuthenticationError) -> None:
        """Log why a client is refused, which may be more than it is told itself."""
        why = error.__cause__ or error
        if peer.session:
            log.warning("%s: %s may go on no more: %s", peer.name, peer.session.user, why)
            return
        known = peer.login.user if peer.login else ""
        log_refused(peer.address, peer.port, error, known)

    def check_account(self, session: Session) -> None:
        """Raise ``AuthenticationError`` if the client could not log in any more as it once did.

        A session may last for days: a closed account, a changed password or a token that is no
        longer valid ends it at the next file.
        """
        accounts = self._accounts()
        account = accounts.get(session.user)
        if account is None or not account.active(time.time()):
            raise AuthenticationError("the account has been closed")
        if account.stored_key != session.verifier:
            raise AuthenticationError("the account has another password by now")
        if session.login_token:
            verify_token(session.login_token, accounts)


def log_refused(address: str, port: int, error: AuthenticationError, user: str = "") -> None:
    """Log why a login is refused, of ``user`` where the error does not name it (any).

    A failed login always has this one form, for programs that look for it. The address stands
    before all that a client chooses, so that no user name can put another one in its place.
    """
    why = error.__cause__ or error
    known = why.user if isinstance(why, RefusedLoginError) else user
    shown = repr(known[:MAX_USER_NAME]) if known else "unknown"
    log.warning(
        "login failed from %s port %d, user %s: %s", plain_address(address), port, shown, why
    )


def token_name(token: str) -> str:
    """Return what stands for a token's user, which is not known before the token is verified.

    So a wrong token counts for itself and its address, not for other tokens or an account.
    """
    return f"token {token}"
