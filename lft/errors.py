"""Errors: one tree, each with the exit code of the program that it ends."""

from __future__ import annotations


class TransferError(Exception):
    """A failure, with one line for the user; the client ends with ``exit_code``."""

    exit_code = 1


class IntegrityError(TransferError):
    """The file did not arrive as it was sent; nothing was published."""


class UsageError(TransferError):
    """A start that cannot work: wrong options, credential file, port or permission."""

    exit_code = 2


class SourceError(TransferError):
    """The input file cannot be read, or it changed while it was sent."""

    exit_code = 2


class AuthenticationError(TransferError):
    """The server does not accept the login, or cannot prove who it is."""

    exit_code = 3


class RejectedError(TransferError):
    """The server does not take this file. ``code`` is the reason for programs."""

    exit_code = 4

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ConnectionLostError(TransferError):
    """The peer cannot be reached, has gone, or made no progress for too long."""

    exit_code = 5
    unfinished = ""  # the name of the file of which the server keeps a part, to go on with


class SilenceError(ConnectionLostError):
    """The peer said nothing for as long as we would wait."""


class SentAwayError(ConnectionLostError):
    """The server has no room for us, or ends: another one may take us, or this one later."""


class SessionLostError(ConnectionLostError):
    """The server does not know the session any more: only a new login helps."""


class TransferOverError(ConnectionLostError):
    """The server has no such transfer any more: the coordinator is told why."""


class ProtocolError(TransferError):
    """A side broke the rules of this module. The peer is told ``code``."""

    exit_code = 5

    def __init__(self, reason: str, code: str = "protocol") -> None:
        super().__init__(reason)
        self.code = code


class LocalProtocolError(ProtocolError):
    """We broke the rules: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules."""
