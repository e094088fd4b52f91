"""Counts of the messages that a process received, for each state of the protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict

import server as server_module
from lft.wire.blocks import BlockReader
from lft.wire.connection import Connection
from lft.wire.tls_stream import TlsStream
from protocol import ConnectionLostError, ProtocolError, State, TransferError

HANDSHAKE = ("client hello", "finished")  # of the client's messages, the one that is waited for
Counts = Dict[str, Dict[str, int]]
KINDS = ("taken", "refused", "broken", "cut")  # broken: no TLS, or not what the other side has sent


def count_receiving(counts: Counts, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that receives on a connection: count what comes, by the state it meets."""

    def receive(this: Any, *arguments: Any) -> Any:
        connection = arguments[0] if arguments else this
        before = place(connection)
        try:
            found = function(this, *arguments)
        except (ConnectionLostError, ProtocolError) as error:
            # one call may go through several steps of a handshake
            where = place(connection) if before in HANDSHAKE else before
            counts[where][kind_of(error)] += 1
            raise
        counts[before]["taken"] += found is not None or place(connection) != before
        return found

    return receive


def kind_of(error: TransferError) -> str:
    """Tell a peer that has gone from one that breaks the rules, of TLS or our own."""
    if isinstance(error, ConnectionLostError):
        return "cut"
    return "broken" if getattr(error, "code", "") in ("tls", "plain") else "refused"


def place(connection: Connection) -> str:
    """Tell where a connection is: in which state, or at which step of the handshake."""
    stream = connection._stream
    if not isinstance(stream, TlsStream) or stream._layer.ready:
        return connection.state.value
    # the cipher is chosen when the ClientHello has come
    return HANDSHAKE[stream._layer._tls.cipher() is not None]


def no_counts() -> Counts:
    """Return zeros for every place."""
    return {name: dict.fromkeys(KINDS, 0) for name in [*HANDSHAKE, *(one.value for one in State)]}


def serve(counts_file: Path, arguments: list[str]) -> int:
    """Be the server, and write down which states it was talked to in."""
    counts = no_counts()
    for kind in (Connection, BlockReader):
        function: Callable[..., Any] = vars(kind)["receive"]
        setattr(kind, "receive", count_receiving(counts, function))  # noqa: B010
    code = server_module.main(arguments)
    counts_file.write_text(json.dumps(counts))
    return code
