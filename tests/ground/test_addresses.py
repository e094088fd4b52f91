"""Which addresses are loopback."""

from __future__ import annotations

import pytest

from lft.addresses import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_itself_is_loopback(host: str) -> None:
    """Nobody else can connect there."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "x" * 70 + ".invalid", "\ud800"]
)
def test_everything_else_is_not_loopback(host: str) -> None:
    """Every address, other machines, and what is no address at all."""
    assert not is_loopback(host)
