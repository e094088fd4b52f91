"""The registry of sessions."""

from __future__ import annotations

import pytest

import config
from lft.server.sessions import Registry, Session
from protocol import RemoteProtocolError
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


def test_a_user_has_so_many_sessions_and_others_have_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session that ends makes room for another one."""
    monkeypatch.setattr(config, "MAX_SESSIONS_OF_USER", 2)
    registry = Registry()
    first, second, third = (Session("u", 0, idle_peer()) for _ in range(3))
    registry.add(first)
    registry.add(second)
    with pytest.raises(RemoteProtocolError, match="too many sessions of this user"):
        registry.add(third)
    registry.add(Session("v", 0, idle_peer()))
    registry.remove(first)
    registry.add(third)


@pytest.mark.parametrize("limit", ["MAX_STREAMS_OF_USER", "MAX_STREAMS_OF_ALL"])
def test_data_connections_are_bounded_over_all_sessions(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Of one user, and of all: whatever they hold, there is room for one that logs in."""
    monkeypatch.setattr(config, limit, 2)
    registry = Registry()
    sessions = [Session("u", 0, idle_peer()) for _ in range(3)]
    for session in sessions:
        registry.add(session)
    peers = [idle_peer() for _ in range(3)]
    for session, peer in zip(sessions[:2], peers):
        assert registry.attach(session.token, peer)
    with pytest.raises(RemoteProtocolError, match="too many data connections"):
        registry.attach(sessions[2].token, peers[2])
    registry.detach(sessions[0], peers[0])
    assert registry.attach(sessions[2].token, peers[2])


def test_where_there_are_fewer_places_a_user_has_as_large_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a limit of 1,024 open files one user holds no more than its part of those there are."""
    monkeypatch.setattr(config, "MAX_SESSIONS_OF_USER", config.MAX_CONNECTIONS // 4)
    registry = Registry()
    registry.places = 8
    for _ in range(2):
        registry.add(Session("u", 0, idle_peer()))
    with pytest.raises(RemoteProtocolError):
        registry.add(Session("u", 0, idle_peer()))
