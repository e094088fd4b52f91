"""Hostile servers: the client ends with a clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest

import config
from client import send_files
from config import ClientSettings
from lft.accounts.scram import ScramServer
from lft.wire.frames import encode, encode_ack
from protocol import (
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthStart,
    ConnectionLostError,
    Error,
    IntegrityOk,
    Message,
    Missing,
    ProtocolError,
    Queued,
    Rejected,
    RejectedError,
    TransferComplete,
    TransferError,
    Why,
)
from tests.support.files import random_file
from tests.support.impostor import Impostor, Script
from tests.support.local import DEMO
from tests.support.processes import run_client
from tests.support.waiting import PATIENCE


@pytest.fixture
def impostor() -> Iterator[Callable[[Script], Impostor]]:
    """Start hostile servers; end them with their thread."""
    started: list[Impostor] = []

    def start(script: Script) -> Impostor:
        started.append(Impostor(script))
        return started[-1]

    yield start
    for one in started:
        one.close()


def _challenge(text: Callable[[str], str]) -> Script:
    """Answer the login with a challenge made from the client's nonce."""

    def script(server: Impostor) -> None:
        control = server.accept()
        server.greet(control)
        start = control.answer(PATIENCE)
        assert isinstance(start, AuthStart)
        control.send(AuthChallenge(text(start.data.rpartition("r=")[2])))

    return script


def _wrong_signature(server: Impostor) -> None:
    control = server.accept()
    server.greet(control)
    start = control.answer(PATIENCE)
    assert isinstance(start, AuthStart)
    login = ScramServer(DEMO, b"secret")
    control.send(AuthChallenge(login.challenge(start.data)))
    control.answer(PATIENCE)
    control.send(AuthOk("v=" + "A" * 43 + "=", "t" * 20, 0))


def _says(*words: Message) -> Script:
    def script(server: Impostor) -> None:
        server.ready()
        for word in words:
            server.control.push(encode(word))

    return script


def _acks_nonsense(server: Impostor) -> None:
    server.ready()
    for _ in range(config.BAD_FRAMES - 1):
        server.data.push(encode_ack(1, 5))
        server.attach()
    server.data.push(encode_ack(1, 5))


def _verdict_on_another_file(server: Impostor) -> None:
    size = server.ready().size
    server.take_block(size)
    assert isinstance(server.control.answer(PATIENCE), TransferComplete)
    server.control.send(IntegrityOk("x", size, "0" * 32, 0, True))


def _raw(data: bytes) -> Script:
    def script(server: Impostor) -> None:
        server.accept().push(data)

    return script


def _silent(server: Impostor) -> None:
    server.ready()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (_challenge(lambda nonce: f"r={nonce}x,s=AAAA,i=1"), AuthenticationError),
        (_challenge(lambda nonce: f"r={nonce}x,s=AAAA,i=2147483648"), AuthenticationError),
        (_challenge(lambda nonce: f"r={nonce}x,s=AAAA,i={'9' * 900}"), AuthenticationError),
        (_challenge(lambda nonce: "r=other,s=AAAA,i=4096"), AuthenticationError),
        (_challenge(lambda nonce: "nonsense"), AuthenticationError),
        (_wrong_signature, AuthenticationError),
        (_says(Error("nonsense", "\x1b[31m" + "x" * 900)), ProtocolError),
        (_says(Missing(1, ((0, 2**32),), Why.LOST)), ProtocolError),
        (_says(IntegrityOk("x", 1000, "0" * 32, 0, True)), ProtocolError),
        (_acks_nonsense, ProtocolError),
        (_verdict_on_another_file, ProtocolError),
        (_raw(b"\xff" * 10_000_000), ProtocolError),
        (_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ProtocolError),
        (_raw(b"SSH-2.0-OpenSSH_9.2\r\n"), ProtocolError),
        (_silent, ConnectionLostError),
    ],
)
def test_a_hostile_server_only_gets_a_clear_error(
    impostor: Callable[[Script], Impostor],
    tmp_path: Path,
    script: Script,
    error: type[TransferError],
) -> None:
    """FAULTS 26: the client ends, in bounded time, with an error of its own and nothing raw."""
    server = impostor(script)
    source = random_file(tmp_path / "x", 1000)
    timeout = 0.5 if script is _silent else 5.0  # seconds; only the silent one lets it pass
    settings = ClientSettings(port=server.port, timeout=timeout, streams=1)
    with pytest.raises(error) as caught:
        send_files([source], settings)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_what_a_server_calls_the_file_reaches_standard_output_escaped(
    impostor: Callable[[Script], Impostor], tmp_path: Path, option: str
) -> None:
    """FAULTS 26: the one text of a verdict that the server chooses, for people and programs."""

    def script(server: Impostor) -> None:
        size = server.ready().size
        server.take_block(size)
        complete = server.control.answer(PATIENCE)
        assert isinstance(complete, TransferComplete)
        name = "\x1b[31m\r\nINTEGRITY_OK forged"
        server.control.send(IntegrityOk(name, size, complete.digest, 0, True))

    source = random_file(tmp_path / "x", 1000)
    done = run_client(impostor(script).port, source, "--streams", "1", option)
    assert done.returncode == 0
    assert "forged" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.count("\n") == 1


def test_a_server_cannot_fill_the_log_of_a_client(
    impostor: Callable[[Script], Impostor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may tell another place in the queue with each of a thousand messages."""

    def script(server: Impostor) -> None:
        server.let_in()
        server.control.answer(PATIENCE)
        for position in range(1, 1001):
            server.control.send(Queued(position))
        server.control.send(Rejected("size", "enough"))
        server.control.flush()

    caplog.set_level("INFO")
    settings = ClientSettings(port=impostor(script).port, timeout=PATIENCE)
    with pytest.raises(RejectedError, match="enough"):
        send_files([random_file(tmp_path / "x", 10)], settings)
    told = [line for line in caplog.messages if "waiting for our turn" in line]
    assert told[0] == "waiting for our turn: position 1"
    assert len(told) <= 3
