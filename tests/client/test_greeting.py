"""The login that a client sends together with its greeting."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from client import send_files
from config import ClientSettings
from lft.wire.codecs import FEATURES
from protocol import (
    VERSION,
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthStart,
    ConnectionLostError,
    Error,
    Hello,
    Message,
    RemoteProtocolError,
)
from tests.support.files import random_file
from tests.support.impostor import Impostor
from tests.support.local import ServerThread
from tests.support.waiting import PATIENCE


def test_a_login_does_not_wait_for_the_servers_hello(tmp_path: Path) -> None:
    """A round trip saved: AUTH_START has come before the server says anything."""

    def script(server: Impostor) -> None:
        control = server.accept()
        heard.extend(control.answer(PATIENCE) for _ in range(2))
        control.send(Hello(VERSION, FEATURES))
        control.send(Error("authentication", "so far so good"))

    heard: list[Message] = []
    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port)
    with contextlib.closing(impostor), pytest.raises(AuthenticationError, match="so far so good"):
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert [type(message) for message in heard] == [Hello, AuthStart]


def test_no_token_is_shown_before_the_servers_hello(tmp_path: Path) -> None:
    """24: a mistyped port must not give the token to another program."""

    def script(server: Impostor) -> None:
        control = server.accept()
        heard.append(control.answer(PATIENCE))
        control.send(Hello(VERSION - 1, FEATURES))  # of no use: the client goes
        with contextlib.suppress(ConnectionLostError):
            heard.append(control.answer(PATIENCE))
        over.set()

    heard: list[Message] = []
    over = threading.Event()
    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port, token="a.b.c")
    with contextlib.closing(impostor), pytest.raises(RemoteProtocolError, match="speak version"):
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert over.wait(PATIENCE)
    assert [type(message) for message in heard] == [Hello]


@pytest.mark.parametrize("shown", ["", "a.b.c"], ids=["password", "token"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Hello(VERSION - 1, FEATURES), f"does not speak version {VERSION}"),
        (Hello(VERSION, ("sha256",)), "does not know md5"),
    ],
    ids=["another version", "no MD5"],
)
def test_a_server_of_no_use_is_told_whatever_it_says_to_the_login(
    tmp_path: Path, answer: Hello, words: str, shown: str
) -> None:
    """Its HELLO comes first: what follows it, about an AUTH_START it may not know, is not heard."""

    def script(server: Impostor) -> None:
        control = server.accept()
        control.answer(PATIENCE)
        control.send(answer)
        control.send(Error("authentication", "whatever that is"))

    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port, timeout=0.5, token=shown or None)
    with contextlib.closing(impostor), pytest.raises(RemoteProtocolError, match=words) as caught:
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert caught.value.exit_code == 5


def test_a_real_server_of_another_version_says_so_although_a_login_has_come_along(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads on until we have read its last words: they are not lost in a reset."""
    monkeypatch.setattr("lft.client.connect.VERSION", VERSION - 1)
    words = f"this server speaks version {VERSION}, the client {VERSION - 1}"
    with pytest.raises(RemoteProtocolError, match=words):
        send_files([random_file(tmp_path / "x", 10)], local.client())


def test_a_server_that_lets_in_without_a_proof_is_refused(tmp_path: Path) -> None:
    """26: AUTH_OK at once may answer a token, never a password: exit 3."""

    def script(server: Impostor) -> None:
        control = server.accept()
        server.greet(control)
        assert isinstance(control.answer(PATIENCE), AuthStart)
        control.send(AuthOk("", "t" * 20, 0))

    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port)
    with contextlib.closing(impostor), pytest.raises(
        AuthenticationError, match="without a proof"
    ) as caught:
        send_files([random_file(tmp_path / "x", 10)], settings)
    assert caught.value.exit_code == 3


def test_a_server_that_wants_a_password_for_a_token_is_refused(tmp_path: Path) -> None:
    """26: a challenge is no answer to a token: exit 3."""

    def script(server: Impostor) -> None:
        control = server.accept()
        server.greet(control)
        control.answer(PATIENCE)
        control.send(AuthChallenge("r=x,s=AAAA,i=4096"))

    impostor = Impostor(script)
    settings = ClientSettings(port=impostor.port, token="a.b.c")
    with contextlib.closing(impostor), pytest.raises(
        AuthenticationError, match="does not take tokens"
    ):
        send_files([random_file(tmp_path / "x", 10)], settings)
