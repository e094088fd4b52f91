"""What no request gets past: headers, methods in disguise, patterns, the room of others."""

from __future__ import annotations

import ast
import contextlib
import socket
from pathlib import Path

import pytest

import config
from config import KB
from lft.web.response import Response, encode_head
from tests.support.local import ServerThread, StartLocal
from tests.support.processes import ROOT
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Browser, basic, request, web_port
from tests.web.conftest import WEB

USER1 = basic("user1", "password1")


@pytest.mark.parametrize(
    "path",
    ["/api/v1/history?q=a%0d%0aX-Evil:%201", "/api/v1/transfers/%0d%0aX-Evil:%201", "/%0aX-Evil:1"],
)
def test_no_line_of_a_request_becomes_a_header(browser: Browser, path: str) -> None:
    """No CR or LF from a request reaches a header."""
    answer = browser.get(path, ADMIN)
    assert answer.status == 400
    assert "x-evil" not in answer.fields


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\0b", "a\x7fb", "\x85", "€"])
def test_what_would_break_out_of_a_header_is_no_answer(value: str) -> None:
    """The last wall, whatever a handler does."""
    with pytest.raises(ValueError, match=r"control|latin"):
        encode_head(Response(200, [("X", value)]))


def test_get_changes_nothing(browser: Browser) -> None:
    """A method in disguise counts in a POST alone, to which the rules for POST apply."""
    hidden = {**USER1, "X-HTTP-Method-Override": "DELETE"}
    assert browser.get("/api/v1/session", hidden).status == 200
    foreign = {**hidden, "Origin": "http://evil.example"}
    assert browser.ask("POST", "/api/v1/session", foreign).status == 403
    assert browser.ask("POST", "/api/v1/session", hidden).status == 204


@pytest.mark.parametrize("path", sorted((ROOT / "lft" / "web").glob("*.py")), ids=lambda p: p.stem)
def test_no_pattern_of_a_clients_is_compiled(path: Path) -> None:
    """Each pattern stands in the source; one of a client's could take for ever."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            module = node.func.value
            if isinstance(module, ast.Name) and module.id == "re" and node.args:
                assert isinstance(node.args[0], ast.Constant), ast.dump(node)


def test_strangers_make_way_as_on_the_wire(
    site: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits by address hold for connections of all kinds together."""
    monkeypatch.setattr(config, "MAX_OF_ADDRESS", 2)
    with Browser(web_port(site)) as first, Browser(web_port(site)) as second:
        assert second.get("/api/v1/session", USER1).status == 200
        with Browser(web_port(site)) as third:
            assert third.get("/healthz").status == 200
            assert first.rest() == b""
            assert second.get("/api/v1/session", USER1).status == 200


def test_a_reader_that_takes_nothing_ends_at_its_deadline(start_local: StartLocal) -> None:
    """However long its answers are, none of which stays in memory beyond a bound."""
    site = start_local(http=WEB, block_timeout=0.5)
    with socket.create_connection(("127.0.0.1", web_port(site))) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KB)
        sock.setblocking(False)
        data = request("GET", "/api/v1/openapi.json") * 400  # 18 MB of answers
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[sock.send(data) :]
        eventually(lambda: site.server.connections.peers, "the connection")
        (guest,) = site.server.connections.peers
        eventually(lambda: guest.connection.unsent > 0, "answers that wait")
        assert guest.connection.unsent < config.MAX_QUEUED_BYTES
        eventually(lambda: not site.server.connections.peers, "its end")
