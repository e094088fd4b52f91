"""A network that holds answers back: it shows what a client says before it has heard anything."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter
from typing import Iterator

from lft.wire.blocks import HEADER_SIZE, decode_header
from tests.support.relays import Relay, reset
from tests.support.waiting import eventually

ACK_SIZE = 12


class Lockstep:
    """Passes on at once what a client says, and what the server says only once it is released.

    So a client that wants an answer before it goes on needs a round trip there, and stops.
    ``said`` counts the client's messages by verb, with BLOCK for a block. The first connection is
    the coordinator; what comes back on the others is named ``data HELLO`` and so on.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._numbers = iter(range(1000))
        self._changed = threading.Condition()
        self._released: set[str] = set()
        self._open = True
        self._sockets: list[socket.socket] = []
        self.said: Counter[str] = Counter()
        self._relay = Relay(self._pass_on)
        self.port = self._relay.port

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for sock in self._sockets:
            reset(sock)
        self._relay.__exit__()
        for sock in self._sockets:
            sock.close()

    def turn(self, says: list[str], hears: list[str]) -> None:
        """Wait until the client has said all of ``says``; then let it hear ``hears``."""
        wanted = Counter(says)
        eventually(lambda: not wanted - self.said, f"{says}; it has said {dict(self.said)}")
        with self._changed:
            self.said -= wanted
            self._released = set(hears)
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _pass_on(self, near: socket.socket) -> None:
        number = next(self._numbers)
        far = socket.create_connection(("127.0.0.1", self._target))
        self._sockets += [near, far]
        back = threading.Thread(target=self._back, args=(far, near, "data " if number else ""))
        back.start()
        with contextlib.suppress(OSError):
            for verb, data in frames(near):
                far.sendall(data)
                with self._changed:
                    self.said[verb] += 1
            far.shutdown(socket.SHUT_WR)
        back.join()

    def _back(self, far: socket.socket, near: socket.socket, prefix: str) -> None:
        with contextlib.suppress(OSError):
            for verb, data in frames(far):
                self._wait_for_release(prefix + verb)
                near.sendall(data)
            near.shutdown(socket.SHUT_WR)

    def _wait_for_release(self, verb: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: verb in self._released or not self._open)


def frames(sock: socket.socket) -> Iterator[tuple[str, bytes]]:
    """Give each frame that comes: its verb, BLOCK or ACK, and its bytes."""
    with sock.makefile("rb") as stream:
        while True:
            start = stream.read(4)
            if len(start) < 4:
                return
            if start[:1] == b"A":
                yield "ACK", start + stream.read(ACK_SIZE - 4)
            elif start[:1] == b"B":
                header = start + stream.read(HEADER_SIZE - 4)
                yield "BLOCK", header + stream.read(decode_header(header).wire_length)
            else:
                body = stream.read(struct.unpack("!I", start)[0])
                yield body.partition(b"@")[0].decode(), start + body
