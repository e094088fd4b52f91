"""The client under test, against sick servers, and the checks after each case."""

from __future__ import annotations

import collections
import hashlib
import logging
import os
import random
import threading
import time
from pathlib import Path
from typing import Callable

import client
import config
import protocol
from config import KB, ClientSettings, ServerSettings
from lft.client.receipt import Receipt
from lft.wire.connection import Connection
from lft.wire.tls import Tls
from protocol import Message, ProtocolError, Side, TransferError
from tests.support.certificates import Pki
from tests.support.processes import peak_memory
from tests.tools.fuzzing.counting import count_receiving, no_counts
from tests.tools.fuzzing.sick import SickServer
from tests.tools.fuzzing.words import (
    BLOCK,
    CONTENTS,
    HOST,
    NORMAL,
    PASSWORD,
    SETTLE,
    ViolationError,
)

CASE_LIMIT = 30.0  # seconds one call of send_files may take here, where its own limits are small
CASE_MEMORY = 64 * KB  # in KB: what the client may take on top, whatever the server says


class Listener(logging.Handler):
    """Takes the client's log and keeps what must not be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one line."""
        if record.exc_info:
            self.tracebacks.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    def note_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """Keep what a thread died of."""
        self.tracebacks.append(f"a thread died of {arguments.exc_value!r}")


class Patient:
    """The client under test: ``send_files`` in a thread of this process, with small timeouts."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source.txt"
        self.source.write_bytes(b"".join(CONTENTS[6].blocks))
        self._digest = hashlib.md5(self.source.read_bytes()).hexdigest()
        self._pki = Pki(folder)
        pair = self._pki.issue("sick", HOST)
        self._tls = Tls.load(ServerSettings(tls_cert=pair.cert, tls_key=pair.key))
        self.counts = no_counts()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._listener = Listener()
        threading.excepthook = self._listener.note_thread
        logging.getLogger().addHandler(self._listener)
        config.RETRY_FIRST, config.RETRY_LONGEST = 0.02, 0.1
        config.PATIENCE, config.RETRY_MOST = 3, 2
        self._count()

    def _count(self) -> None:
        """Count what the client is told, by the state it is in."""
        next_frame = count_receiving(self.counts, vars(Connection)["_next_frame"])
        received: Callable[..., None] = vars(protocol.Dialogue)["received"]
        counts = self.counts

        def refused(dialogue: protocol.Dialogue, message: Message) -> None:
            state = counts[dialogue.state.value]
            try:
                received(dialogue, message)
            except ProtocolError:
                state["refused"] += dialogue.side is Side.CLIENT
                raise

        setattr(Connection, "_next_frame", next_frame)  # noqa: B010
        setattr(protocol.Dialogue, "received", refused)  # noqa: B010

    def try_server(self, seed: str) -> SickServer:
        """Send the file to a sick server, which is returned; nothing is judged."""
        server = SickServer(seed, self.source, self._tls)
        self._result: object = None
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        self._room = threads - 1, files - 1  # without the server's
        self._memory = peak_memory(os.getpid())
        compresses = random.Random(seed).random() < 0.5
        settings = ClientSettings(
            HOST, server.port, NORMAL, PASSWORD, 2, BLOCK, 1000, timeout=0.5, compress=compresses,
            ca=self._pki.ca if server.tls else None,
        )  # fmt: skip
        caller = threading.Thread(target=self._send, args=(settings,), name="caller", daemon=True)
        caller.start()
        caller.join(CASE_LIMIT)
        server.close()
        if caller.is_alive():
            self._result = TimeoutError(f"send_files took more than {CASE_LIMIT:g} s")
        return server

    def _send(self, settings: ClientSettings) -> None:
        try:
            self._result = client.send_files([self.source], settings)[0]
        except BaseException as error:
            self._result = error

    def judge(self, server: SickServer) -> None:
        """See that the last call ended as it should. Raises ``ViolationError``."""
        result = self._result
        self.outcomes[type(result).__name__ + " over TLS" * bool(server.tls)] += 1
        if isinstance(result, Receipt):
            if (result.verdict, result.digest) != ("INTEGRITY_OK", self._digest):
                raise ViolationError(f"a wrong receipt: {result}")
            words = f'"size": {result.bytes}, "digest": "{self._digest}"'.encode()
            if not any(b"INTEGRITY_OK@" in said and words in said for _, said in server.said):
                raise ViolationError("a receipt for what the server has not said")
        elif not isinstance(result, TransferError):
            raise ViolationError(f"send_files raised {result!r}")
        if self._listener.tracebacks:
            raise ViolationError(self._listener.tracebacks[0])
        grown = peak_memory(os.getpid()) - self._memory
        if grown > CASE_MEMORY:
            raise ViolationError(f"the client took {grown} KB of memory")
        self._await_room()

    def _await_room(self) -> None:
        deadline = time.monotonic() + SETTLE
        while any(now > room for now, room in zip(self._now(), self._room)):
            if time.monotonic() > deadline:
                raise ViolationError(f"threads and files: {self._now()}, before {self._room}")
            time.sleep(0.01)

    @staticmethod
    def _now() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))
