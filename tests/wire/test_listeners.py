"""Listening on several addresses, with one port."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import Any, Iterator, Sequence

import pytest

from lft.wire import listeners
from protocol import UsageError
from tests.support.files import open_descriptors
from tests.support.waiting import PATIENCE


@contextlib.contextmanager
def listening(*hosts: str, port: int = 0) -> Iterator[list[Any]]:
    """Listen on ``hosts``; give the addresses."""
    opened = listeners.listen(hosts, port)
    try:
        yield [one.getsockname()[:2] for one in opened]
    finally:
        for one in opened:
            one.close()


def reaches(host: str, port: int) -> bool:
    """Whether a connection to ``host`` succeeds."""
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def names(patch: pytest.MonkeyPatch, **known: Sequence[str]) -> None:
    """Let these names have these addresses."""
    real = socket.getaddrinfo

    def look_up(host: bytes, *rest: Any, **options: Any) -> list[Any]:
        found = known.get(host.decode(), [host])
        return [entry for one in found for entry in real(one, *rest, **options)]

    patch.setattr(socket, "getaddrinfo", look_up)


def test_localhost_is_both_addresses() -> None:
    """Whichever of them a client tries, and whatever the file of hosts says."""
    with listening("localhost") as ((first, port), second):
        assert first == "127.0.0.1"
        assert second == ("::1", port)
        assert reaches("127.0.0.1", port)
        assert reaches("::1", port)


def test_a_name_is_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them once, IPv4 first."""
    names(monkeypatch, files=["::1", "127.0.0.3", "127.0.0.3"])
    with listening("files") as ((first, port), *rest):
        assert first == "127.0.0.3"
        assert rest == [("::1", port)]


def test_several_hosts_have_one_port() -> None:
    """A host that is named twice is no error."""
    with listening("127.0.0.2", "127.0.0.3", "127.0.0.2") as ((first, port), *rest):
        assert first == "127.0.0.2"
        assert rest == [("127.0.0.3", port)]
        assert not reaches("127.0.0.4", port)


def test_all_addresses_of_both_versions_can_be_asked_for() -> None:
    """One listener for each version; ``::`` alone takes IPv4 as well."""
    with listening("0.0.0.0", "::") as ((_, port), second):
        assert second == ("::", port)
        assert reaches("127.0.0.1", port)
        assert reaches("::1", port)
    with listening("::") as ((_, port),):
        assert reaches("127.0.0.1", port)


def test_a_free_port_that_is_taken_on_the_next_address_is_not_the_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another one is tried, and what was opened is closed."""
    before, real, tried = open_descriptors(), listeners._open, []

    def open_one(place: Any, port: int, **options: Any) -> socket.socket:
        tried.append(port)
        if len(tried) == 2:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return real(place, port, **options)

    monkeypatch.setattr(listeners, "_open", open_one)
    with listening("127.0.0.2", "127.0.0.3") as ((_, port), (_, same)):
        assert port == same == tried[3]
    assert tried[::2] == [0, 0]
    assert open_descriptors() == before


def test_a_port_in_use_on_one_address_is_an_error() -> None:
    """The other address would be another server for the same name; nothing stays open."""
    before = open_descriptors()
    with socket.create_server(("127.0.0.3", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.3:{port}: .*in use; choose another with"):
            listeners.listen(["127.0.0.2", "127.0.0.3"], port)
    assert open_descriptors() == before


def test_an_address_that_is_not_here_is_left_out_where_there_is_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """IPv6 that is switched off, for example; the log says so."""
    names(monkeypatch, files=["2001:db8::1", "127.0.0.3"])
    with caplog.at_level(logging.INFO), listening("files") as addresses:
        assert [address for address, _ in addresses] == ["127.0.0.3"]
    (line,) = caplog.messages
    assert line.startswith("not listening on 2001:db8::1: ")


def test_a_host_that_is_not_here_is_an_error() -> None:
    """Even beside one that is; nothing stays open."""
    before = open_descriptors()
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        listeners.listen(["127.0.0.1", "192.0.2.1"], 0)
    with pytest.raises(UsageError, match="cannot listen on no such host"):
        listeners.listen(["127.0.0.1", "no such host"], 0)
    assert open_descriptors() == before
