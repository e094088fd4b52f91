"""The project's errors: their exit codes, and their words."""

from __future__ import annotations

import errno
import socket

import pytest

from lft.wire.connection import raise_error
from lft.wire.sockets import lost
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    Error,
    IntegrityError,
    LocalProtocolError,
    ProtocolError,
    RejectedError,
    RemoteProtocolError,
    SentAwayError,
    SessionLostError,
    SourceError,
    TransferError,
    TransferOverError,
    UsageError,
)
from tests.support.dialogue import example_of
from tests.support.messages import VERBS

# --- what an ERROR message raises ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("authentication", AuthenticationError),
        ("session", SessionLostError),
        ("transfer", TransferOverError),
        ("shutdown", SentAwayError),
        ("timeout", ConnectionLostError),
        ("busy", SentAwayError),
        ("internal", ConnectionLostError),
        ("protocol", RemoteProtocolError),
        ("version", RemoteProtocolError),
        ("something new", RemoteProtocolError),
    ],
)
def test_an_error_is_raised_as_what_its_code_means(code: str, kind: type[TransferError]) -> None:
    """A trouble that may pass is an error after which the client tries again."""
    with pytest.raises(kind) as caught:
        raise_error(Error(code, "the reason"))
    assert type(caught.value) is kind
    assert str(caught.value) == "the reason"


def test_an_errors_reason_is_made_safe_to_print() -> None:
    """FAULTS 26: a hostile server's colours do not reach the terminal."""
    with pytest.raises(ConnectionLostError) as caught:
        raise_error(Error("busy", "\x1b[31m\u202e\r\n"))
    assert str(caught.value) == "\\x1b[31m\\u202e\\r\\n"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "ERROR"])
def test_a_message_that_is_no_error_raises_nothing(verb: str) -> None:
    """REJECTED and INTEGRITY_FAILED are answers, too."""
    raise_error(example_of(verb))


# --- exit codes and words -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (IntegrityError, 1),
        (UsageError, 2),
        (SourceError, 2),
        (AuthenticationError, 3),
        (RejectedError, 4),
        (ConnectionLostError, 5),
        (ProtocolError, 5),
        (LocalProtocolError, 5),
        (RemoteProtocolError, 5),
    ],
)
def test_each_error_has_its_exit_code(kind: type[TransferError], exit_code: int) -> None:
    """Scripts rely on the exit codes."""
    assert issubclass(kind, TransferError)
    assert kind.exit_code == exit_code


def test_a_rejection_has_a_code_and_a_reason() -> None:
    """The code is for programs, the reason for people."""
    error = RejectedError("space", "not enough space")
    assert (error.code, str(error)) == ("space", "not enough space")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "nothing listens there"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "the connection was reset"),
        (BrokenPipeError(errno.EPIPE, "x"), "the connection was closed"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "no answer"),
        (socket.timeout("timed out"), "no answer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_the_system_says_is_said_in_our_words(error: OSError, words: str) -> None:
    """The peer's name, then what happened to the connection."""
    told = lost("host:1", error)
    assert isinstance(told, ConnectionLostError)
    assert str(told) == f"host:1: {words}"
