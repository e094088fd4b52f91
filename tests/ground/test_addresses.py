"""Host names and addresses: how they are written, which are loopback, looking them up."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from lft.addresses import (
    HopelessError,
    Networks,
    NoNameServiceError,
    UnknownHostError,
    is_address,
    is_loopback,
    network_of,
    parse_network,
    place,
    plain_address,
    resolve,
    split_place,
)
from protocol import ConnectionLostError


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


# --- as they are written ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", None),
        ("localhost:4455", "localhost", 4455),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("[::1]", "::1", None),
        ("[::1]:4455", "::1", 4455),
        ("[fe80::1%eth0]:4455", "fe80::1%eth0", 4455),
        ("::1", "::1", None),
        ("2001:db8::1", "2001:db8::1", None),
        ("::", "::", None),
        ("", "", None),
    ],
)
def test_host_and_port_are_taken_apart(text: str, host: str, port: int | None) -> None:
    """As a browser or ssh would; an IPv6 address without brackets has no port."""
    assert split_place(text) == (host, port)


@pytest.mark.parametrize("text", ["host:", "host:http", "host:65536", "[::1]:", "[::1]:x\x1b"])
def test_what_stands_in_place_of_a_port_must_be_one(text: str) -> None:
    """The error shows what is expected, and acts on no terminal."""
    with pytest.raises(ValueError, match="a port is a number up to 65535, not '") as caught:
        split_place(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["http://host/", "host/path", "alice@host", "[::1", "[]", "[::1]4455"]
)
def test_an_address_with_more_in_it_is_refused(text: str) -> None:
    """Of a URL only the host is wanted."""
    with pytest.raises(ValueError, match="a host name or an address alone, not "):
        split_place(text)


def test_a_place_is_written_as_it_can_be_typed_again() -> None:
    """An IPv6 address in brackets: otherwise its port looks like a part of it."""
    assert place("localhost", 4455) == "localhost:4455"
    assert place("::", 4455) == "[::]:4455"
    for host in ("::1", "localhost", "fe80::1%lo"):
        assert split_place(place(host, 80)) == (host, 80)


@pytest.mark.parametrize(("host", "is_one"), [("::1", True), ("192.0.2.1", True), ("a.b", False)])
def test_an_address_is_told_from_a_name(host: str, *, is_one: bool) -> None:
    """Only a name can have another address the next time."""
    assert is_address(host) is is_one


# --- looking them up ----------------------------------------------------------------------------


def failing(code: int) -> Any:
    """Return a lookup that fails for every name with ``code``."""

    def lookup(*_: object) -> list[Any]:
        raise socket.gaierror(code, "the system's words")

    return lookup


def test_a_host_that_does_not_exist_is_said_to_be_unknown() -> None:
    """And which option has the name."""
    with pytest.raises(
        UnknownHostError, match=r"^no\.example: there is no host of that name; check"
    ):
        resolve("no.example", 1, 60, failing(socket.EAI_NONAME))


def test_a_name_service_that_cannot_be_asked_is_another_matter() -> None:
    """The name may be right, so it is worth another attempt."""
    with pytest.raises(NoNameServiceError, match="no name service answers; is there a network"):
        resolve("a.example", 1, 60, failing(socket.EAI_AGAIN))


def test_a_name_service_that_stays_silent_is_not_waited_for() -> None:
    """The system's own patience is half a minute, in which it would be deaf to Ctrl-C."""
    over = threading.Event()

    def lookup(_host: str, _port: int, flags: int = 0) -> list[Any]:
        if not flags:
            over.wait()
        raise socket.gaierror(socket.EAI_NONAME, "no")

    with pytest.raises(NoNameServiceError, match=r"a\.example"):
        resolve("a.example", 1, 0.05, lookup)
    over.set()


def test_other_errors_of_the_name_service_are_final() -> None:
    """In the system's words."""
    with pytest.raises(UnknownHostError, match=r"^a\.example: the system's words$"):
        resolve("a.example", 1, 60, failing(socket.EAI_FAIL))


@pytest.mark.parametrize("host", ["fe80::1", "fe80::abcd:1"])
def test_a_link_local_address_without_its_link_is_hopeless(host: str) -> None:
    """Each network card has such a network of its own; the error shows how to name one."""
    with pytest.raises(HopelessError, match=f"^{host}: .* interface, such as {host}%eth0$"):
        resolve(host, 1)
    assert resolve("fe80::1%lo", 1)[0].address[0].startswith("fe80::1")


def test_an_interface_that_is_not_there_is_said() -> None:
    """It is no unknown host."""
    with pytest.raises(HopelessError, match="no such network interface") as caught:
        resolve("fe80::1%nosuch0", 1)
    assert not isinstance(caught.value, UnknownHostError)


def test_every_address_of_a_name_is_found() -> None:
    """In the order of the system (RFC 6724)."""
    found = [
        (socket.AF_INET6, 1, 6, "", ("2001:db8::1", 80, 0, 0)),
        (socket.AF_INET, 1, 6, "", ("192.0.2.1", 80)),
    ]

    def lookup(_host: str, _port: int, flags: int = 0) -> list[Any]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        return found

    assert [one.address[0] for one in resolve("both.example", 80, 60, lookup)] == [
        "2001:db8::1", "192.0.2.1"
    ]  # fmt: skip


def test_a_host_name_is_shown_safely() -> None:
    """Whatever was typed or pasted."""
    with pytest.raises(ConnectionLostError) as caught:
        resolve("\x1b[31m\u202e", 1)
    assert str(caught.value).isprintable()


# --- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("10.0.0.7", "10.0.0.7/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
    ],
)
def test_an_address_or_a_network_has_one_form(text: str, usual: str) -> None:
    """An address is a network of its own."""
    assert parse_network(text) == usual


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.0", "10.0.0.1/8", "10.0.0.0/33", "::1%lo", "a\x1b"]
)
def test_what_is_no_network_is_refused_in_words(text: str) -> None:
    """A slip in a network would trust other machines than meant."""
    with pytest.raises(ValueError, match="a network such as 10") as caught:
        parse_network(text)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),  # as a listener for both IP versions sees it
        ("11.0.0.1", False),
        ("2001:db8::5", True),
        ("fe80::1%eth0", True),
        ("", False),
        ("::", False),
    ],
)
def test_an_address_is_in_a_network_or_not(address: str, *, inside: bool) -> None:
    """In whichever form the system gives it."""
    networks = Networks(["10.0.0.0/8", "2001:db8::/32", "fe80::/10"])
    assert (address in networks) is inside
    assert address not in Networks([])
