"""Which addresses are loopback, and which belong together."""

from __future__ import annotations

import pytest

from lft.addresses import is_loopback, network_of, plain_address


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_itself_is_loopback(host: str) -> None:
    """No other machine can connect there."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "::",
        "192.0.2.1",
        "::ffff:192.0.2.1",
        "::ffff:0.0.0.0",
        "2001:db8::1",
        "x" * 70 + ".invalid",
        "\ud800",
    ],
)
def test_everything_else_is_not_loopback(host: str) -> None:
    """All addresses of this machine, other machines, and words that are no address."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("not an address", "not an address"),
    ],
)
def test_a_network_is_what_one_household_has(address: str, network: str) -> None:
    """Limits hold for it: a /64 of IPv6, or one IPv4 address, also in IPv6 form."""
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
    ],
)
def test_an_address_in_the_log_is_one_that_a_firewall_takes(address: str, plain: str) -> None:
    """An IPv4 address in its own form, and no zone."""
    assert plain_address(address) == plain
