"""The registry of sessions."""

from __future__ import annotations

from lft.server.sessions import Registry, Session
from tests.support.transfers import idle_peer


def test_a_token_finds_its_session_until_that_ends() -> None:
    """FAULTS 17: an unknown token and one of a past session find nothing."""
    registry = Registry()
    session, peer = Session("u", 0, idle_peer()), idle_peer()
    registry.add(session)
    assert registry.attach(session.token, peer) is session
    assert registry.attach("guess", peer) is None
    assert registry.remove(session) == [peer]
    assert registry.attach(session.token, peer) is None
