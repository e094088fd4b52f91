"""A connection and the bare socket at its other end, and a job in a thread."""

from __future__ import annotations

import socket
import threading
from typing import Any, Callable, Tuple

from lft.wire.connection import Connection
from protocol import TransferError
from tests.support.waiting import PATIENCE

SocketPair = Tuple[Connection, socket.socket]


class Helper:
    """Something done at the same time in a thread; it must have ended when the test ends."""

    def __init__(self, job: Callable[[], Any]) -> None:
        self._job = job
        self._results: list[Any] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._job())
        except (TransferError, OSError) as error:
            self._results.append(error)

    def result(self) -> Any:
        """Wait for the end; return what came of it."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self._results[0]


class DeadAddress:
    """An address at which no connection is ever made, nor refused: its queue is full."""

    def __init__(self, host: str) -> None:
        self._listener = socket.socket()
        self._listener.bind((host, 0))
        self._listener.listen(0)
        self.address = self._listener.getsockname()
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(self.address)

    def __enter__(self) -> DeadAddress:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self._fillers, self._listener):
            one.close()
