"""The head of a request: what is understood, what is refused, and that cuts change nothing."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from lft.web.head import Head, parse_head
from lft.web.problem import HttpError

WHOLE = b"GET /a%20b?x=1 HTTP/1.1\r\nHost: Localhost:80\r\nX-A:  b \r\n\r\n"


def parsed(data: bytes) -> Head:
    """Return the one head in ``data``."""
    found = parse_head(bytearray(data))
    assert found is not None
    return found[0]


def status_of(data: bytes) -> int:
    """Return the status with which ``data`` is refused."""
    with pytest.raises(HttpError) as caught:
        parse_head(bytearray(data))
    return int(caught.value.status)


def lines(*fields: str, first: str = "GET / HTTP/1.1", host: str = "h") -> bytes:
    """Return a head of lines."""
    own = [f"Host: {host}"] if host else []
    return "\r\n".join([first, *own, *fields, "", ""]).encode("latin-1")


def test_a_head_is_taken_apart() -> None:
    """Path and query stay as they were sent; names of fields and the host lose their case."""
    head = parsed(WHOLE)
    assert (head.method, head.path, head.query) == ("GET", "/a%20b", "x=1")
    assert (head.host, head.authority) == ("localhost", "Localhost:80")
    assert head.fields == {"host": "Localhost:80", "x-a": "b"}
    assert head.keep_alive
    assert head.length == 0


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_a_head_cut_anywhere_is_the_same(cut: int) -> None:
    """FAULTS 2: what comes in two pieces is what comes in one."""
    data = bytearray(WHOLE[:cut])
    assert parse_head(data) is None
    data += WHOLE[cut:]
    assert parse_head(data, cut) == parse_head(bytearray(WHOLE))


@given(st.lists(st.integers(1, 9), min_size=1))
def test_a_head_in_any_pieces_is_the_same(sizes: list[int]) -> None:
    """FAULTS 2: also in many, with the next request behind it."""
    whole, data, at = WHOLE + WHOLE, bytearray(), 0
    found = None
    while found is None:
        size = sizes[at % len(sizes)]
        searched, at = len(data), at + 1
        data += whole[searched : searched + size]
        found = parse_head(data, searched)
    assert found == (parsed(WHOLE), len(WHOLE))


@given(st.binary(max_size=300))
def test_nonsense_is_refused_or_waits(data: bytes) -> None:
    """FAULTS 5, 6: whatever comes, there is a head, an error with a status, or a wait for more."""
    with contextlib.suppress(HttpError):
        found = parse_head(bytearray(data))
        assert found is None or found[1] <= len(data)


@given(st.binary(max_size=40), st.integers(0, len(WHOLE) - 1))
def test_damage_to_a_head_is_no_crash(noise: bytes, at: int) -> None:
    """FAULTS 6: a head with a part of it replaced."""
    data = bytearray(WHOLE)
    data[at : at + len(noise)] = noise
    with contextlib.suppress(HttpError):
        found = parse_head(data + b"\r\n\r\n")
        assert found is not None
        assert not any("\r" in value or "\n" in value for value in found[0].fields.values())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lines(host=""), id="no host"),
        pytest.param(lines("Host: h"), id="two hosts"),
        pytest.param(lines(host="a b"), id="no host name"),
        pytest.param(lines(host="a/b"), id="a path as host"),
        pytest.param(lines("Content-Length: 1", "Transfer-Encoding: chunked"), id="two framings"),
        pytest.param(lines("Content-Length: 1", "Content-Length: 1"), id="two lengths"),
        pytest.param(lines("Content-Length: 1, 1"), id="a list of lengths"),
        pytest.param(lines("Content-Length: +1"), id="a signed length"),
        pytest.param(lines("Content-Length: 0x1"), id="a hexadecimal length"),
        pytest.param(lines("Content-Length: -1"), id="a negative length"),
        pytest.param(lines("Content-Length: " + "9" * 30), id="a huge length"),
        pytest.param(lines("A : b"), id="a space before the colon"),
        pytest.param(lines("A: b", " c"), id="a folded line"),
        pytest.param(lines("A: b\0c"), id="NUL"),
        pytest.param(lines("A: b\rX: c"), id="a bare CR"),
        pytest.param(lines("A"), id="no colon"),
        pytest.param(lines(": b"), id="no name"),
        pytest.param(b"GET / HTTP/1.1\nHost: h\n\n", id="bare LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\n\r\n", id="one bare LF"),
        pytest.param(b"GET /\r\n\r\n", id="HTTP/0.9"),
        pytest.param(lines(first="GET  / HTTP/1.1"), id="two spaces"),
        pytest.param(lines(first="GET / HTTP/1.1 "), id="a space at the end"),
        pytest.param(lines(first="GET /\x7f HTTP/1.1"), id="a control character in the target"),
        pytest.param(lines(first="GET /\xe4 HTTP/1.1"), id="no ASCII in the target"),
        pytest.param(lines(first="GET /#a HTTP/1.1"), id="a fragment"),
        pytest.param(lines(first="GET a HTTP/1.1"), id="no path"),
        pytest.param(lines(first="GET * HTTP/1.1"), id="the star of another method"),
        pytest.param(lines(first="CONNECT h:80 HTTP/1.1"), id="a tunnel"),
        pytest.param(b"\x16\x03\x01\x00\xa5", id="TLS"),
        pytest.param(lines("Authorization: a", "Authorization: b"), id="two logins"),
        pytest.param(lines("Origin: a", "Origin: b"), id="two origins"),
    ],
)
def test_what_two_programs_could_understand_in_two_ways_is_refused(data: bytes) -> None:
    """Double or missing Host, Content-Length beside Transfer-Encoding, bare LF, HTTP/0.9."""
    assert status_of(data) == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (lines(first="GET / HTTP/2.0"), 505),
        (lines(first="X" * 33 + " / HTTP/1.1"), 501),
        (lines("Transfer-Encoding: chunked"), 411),
        (lines("Transfer-Encoding: gzip, chunked"), 501),
        (lines("Expect: more"), 417),
        (lines(first="GET /" + "a" * 8000 + " HTTP/1.1"), 414),
        (b"GET /" + b"a" * config.MAX_HEAD, 414),
        (lines("A: " + "b" * config.MAX_HEAD), 431),
        (lines(*["A: b"] * 101), 431),
    ],
)
def test_what_is_too_much_or_not_known_has_its_own_status(data: bytes, status: int) -> None:
    """FAULTS 3: caps of method, target and fields."""
    assert status_of(data) == status


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("wish", ["", "close", "keep-alive", "Keep-Alive, Close"])
def test_a_connection_stays_as_the_client_wishes(version: str, wish: str) -> None:
    """RFC 9112, 9.3: from 1.1 on it stays unless it is to close."""
    fields = [f"Connection: {wish}"] if wish else []
    head = parsed(lines(*fields, first=f"GET / HTTP/{version}"))
    assert head.keep_alive == (wish == "keep-alive" or (wish == "" and version == "1.1"))


def test_an_absolute_target_names_the_host() -> None:
    """RFC 9112, 3.2.2: it counts, and not the field."""
    head = parsed(lines(first="GET http://Example:81/a?b HTTP/1.1"))
    assert (head.host, head.path, head.query) == ("example", "/a", "b")


def test_an_empty_line_before_a_request_is_passed_over() -> None:
    """RFC 9112, 2.2: some clients send one behind a body."""
    assert parsed(b"\r\n" + WHOLE) == parsed(WHOLE)


def test_many_blanks_in_a_field_cost_no_time() -> None:
    """No pattern of a client's; ours take linear time."""
    assert parsed(lines("A: " + " \t" * 7000 + "b")).fields["a"] == "b"
