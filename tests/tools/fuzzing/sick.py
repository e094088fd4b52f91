"""A server that gives the right answers, disturbed."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Callable

from lft.accounts.account import MIN_ITERATIONS, Accounts, Credential
from lft.accounts.scram import SCRAM_PLUS, ScramServer
from lft.wire.blocks import HEADER_SIZE, decode_header
from lft.wire.codecs import FEATURES
from lft.wire.frames import FrameReader, encode, encode_ack
from lft.wire.tls import Tls
from protocol import (
    TOKEN,
    VERSION,
    Attach,
    Attached,
    AuthChallenge,
    AuthOk,
    AuthResponse,
    AuthStart,
    Cancel,
    Error,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
    IntegrityFailed,
    IntegrityOk,
    Message,
    Missing,
    Ping,
    Pong,
    Queued,
    Rejected,
    Side,
    TransferComplete,
    TransferError,
    Verifying,
)
from tests.tools.fuzzing.mutations import Channel, Mutator
from tests.tools.fuzzing.words import HOST, NORMAL, PASSWORD, ZEROS

# What a sick server answers wrongly, and whether only after the right answer.
TRAPS: list[tuple[type[Message] | None, bool]] = [
    (Hello, False), (AuthStart, False), (AuthResponse, False), (Attach, False), (Attach, True),
    (FileStart, False), (FileStart, True), (TransferComplete, False), (Cancel, False),
    (Cancel, True),
]  # fmt: skip


class SickServer:
    """Does what a server should, and says it disturbed. A thread for each connection.

    What it does wrong depends on the seed, the order of its connections and its own words alone.
    Half of them answer one kind of message wrongly, their ``trap``, and all else well: so every
    state is reached. It is used for one call of ``send_files``.
    """

    def __init__(self, seed: str, source: Path, tls: Tls) -> None:
        rng = random.Random(seed)
        self._seed, self._source = seed, source
        number, odd = divmod(int(seed.rpartition("-")[2]), 2)
        self.tls = tls if number // len(TRAPS) % 2 else None
        self.trap, self.trap_after = TRAPS[number % len(TRAPS)] if not odd else (None, False)
        self._rate = 0.0 if self.trap else rng.choice((0.0, 0.03, 0.1, 0.3, 0.6))
        self._records = 0.0 if self.trap else rng.choice((0.0, 0.03, 0.3))
        self._touches = self.trap is Cancel or (self.trap is None and rng.random() < 0.3)
        credential = Credential.make(PASSWORD, 0, MIN_ITERATIONS)
        self._accounts = Accounts({NORMAL: credential})
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._ending = False
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="sick-0")]
        self.said: list[tuple[int, bytes]] = []
        self._threads[0].start()

    def close(self) -> None:
        """End all of it."""
        self._ending = True
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            pass  # accept wakes
        self._threads[0].join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while not self._ending:
            sock, _ = self._listener.accept()
            number = len(self._threads)
            target = functools.partial(self._talk, sock, number)
            self._sockets.append(sock)
            self._threads.append(threading.Thread(target=target, name=f"sick-{number}"))
            self._threads[-1].start()

    def _talk(self, sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError, EOFError, TransferError):
            SickConnection(self, sock, number).talk()

    def rng_of(self, number: int) -> random.Random:
        """Return what decides over one connection."""
        return random.Random(f"{self._seed}-{number}")

    def mutator_of(self, rng: random.Random) -> Mutator:
        """Return what disturbs one connection."""
        return Mutator(rng, self._rate)

    def channel_of(self, rng: random.Random) -> Channel | None:
        """Return the TLS of one connection, if that is spoken."""
        how = Mutator(rng, self._records)
        return Channel(self.tls.context, Side.SERVER, None, how) if self.tls else None

    def login(self) -> ScramServer:
        """Return the server's side of a login."""
        binding = self.tls.binding if self.tls else None
        return ScramServer(self._accounts, b"secret", binding=binding)

    def touch(self) -> None:
        """Let the file look changed, now and then: the client has to cancel it."""
        if self._touches:
            os.utime(self._source, ns=(0, time.time_ns()))

    @property
    def sick(self) -> bool:
        """Whether it says anything wrong at all."""
        return self._rate > 0 or self.trap is not None or self._touches

    @property
    def lies(self) -> bool:
        """Whether it says what is in order but for its meaning."""
        return self._rate > 0


class SickConnection:
    """One connection of a sick server."""

    def __init__(self, server: SickServer, sock: socket.socket, number: int) -> None:
        self._server, self._sock, self._number = server, sock, number
        self._rng = server.rng_of(number)
        self._mutator = server.mutator_of(self._rng)
        self._tls = server.channel_of(self._rng)
        self._login = server.login()
        self._frames = FrameReader()
        self._file: FileStart | None = None

    def talk(self) -> None:
        """Answer until somebody hangs up."""
        while True:
            message = self._frames.next()
            if message is None:
                self._frames.feed(self._receive(65536))
                continue
            if isinstance(message, Goodbye):
                return
            if isinstance(message, Message):
                self._say(self._answer(message))
            if isinstance(message, Attach):
                self._take_blocks()

    def _receive(self, size: int) -> bytes:
        if self._tls is None:
            return self._take(size)
        room, came = memoryview(bytearray(size)), 0
        while not came:
            if self._tls.ready:
                came = self._tls.read_into(room)
            if not came:
                self._tls.feed(self._take(65536))
            if not self._tls.ready:
                self._tls.shake_hands()
                self._sock.sendall(self._tls.outgoing())
        return bytes(room[:came])

    def _take(self, size: int) -> bytes:
        data = self._sock.recv(size)
        if not data:
            raise EOFError
        return data

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self._receive(size - len(data))
        return data

    def _take_blocks(self) -> None:
        while True:
            header = decode_header(self._exactly(HEADER_SIZE))
            self._exactly(header.wire_length)
            wrong = self._server.lies and self._rng.random() < 0.02
            self._say([encode_ack(header.transfer, header.block + wrong)])

    def _say(self, said: list[Message | bytes]) -> None:
        whole = [one if isinstance(one, bytes) else encode(one) for one in said]
        data = b"".join(self._mutator.disturb(whole))
        self._server.said.append((self._number, data))
        if self._tls:
            self._tls.write([data])
            data = self._tls.outgoing()
        cut = self._rng.randrange(len(data)) if data and self._rng.random() < 0.2 else 0
        self._sock.sendall(data[:cut])
        self._sock.sendall(data[cut:])
        if self._server.sick and self._rng.random() < 0.01:
            linger = struct.pack("ii", self._rng.randrange(2), 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise EOFError

    def _answer(self, message: Message) -> list[Message | bytes]:
        """Return what an honest server may say; for the trap, what only a client may."""
        honest = self._honest(message)
        if type(message) is not self._server.trap:
            return honest
        ours: list[Message | bytes] = [Pong(), Attach("t" * 43), AuthStart(TOKEN, "x"), b"\0" * 8]
        wrong = [self._rng.choice(ours), self._mutator.other()]
        return [*honest, *wrong] if self._server.trap_after else wrong

    def _honest(self, message: Message) -> list[Message | bytes]:
        answers: dict[type[Message], Callable[[Any], list[Message | bytes]]] = {
            Hello: lambda _: [Hello(VERSION, FEATURES + (SCRAM_PLUS,) * bool(self._tls))],
            AuthStart: lambda said: [AuthChallenge(self._login.challenge(said.data))],
            AuthResponse: lambda said: [AuthOk(self._login.verify(said.data), "t" * 43, 0)],
            Attach: lambda _: [Attached()],
            FileStart: self._begin,
            TransferComplete: self._judge,
            Cancel: lambda _: [Rejected("cancelled", "cancelled by the client")],
        }
        answer = answers.get(type(message))
        return answer(message) if answer else []

    def _begin(self, start: FileStart) -> list[Message | bytes]:
        self._file = start
        self._server.touch()
        blocks = -(-start.size // start.block_size)
        have = self._rng.choice([(), (), ((0, 1),), ((1, blocks),)])
        waiting: list[Message | bytes] = [Queued(2), Queued(1)] if self._rng.random() < 0.2 else []
        if not self._server.trap and self._rng.random() < 0.1:
            return [*waiting, Rejected(self._rng.choice(["space", "busy", "quota"]), "no")]
        if self._server.lies and self._rng.random() < 0.3:
            return [*waiting, FileReady(7, have), self._lie(blocks)]
        early: list[Message | bytes] = [Ping(), Missing(7, ((0, 1),), "lost"), Verifying(0)]
        return [*waiting, FileReady(7, have), *early[: self._rng.randrange(4)]]

    def _lie(self, blocks: int) -> Message:
        """Return what is well-formed, in place, and cannot be."""
        many = tuple((at, at + 1) for at in range(0, 4000, 2))
        lies = [
            Missing(7, ((0, 2**32),), "lost"), Missing(7, many, "lost"),
            FileReady(7, ((0, 2**32),)), Missing(7, ((blocks, blocks + 1),), "damaged"),
            Error("protocol", "\x1b[31m" * 200), IntegrityOk("x", 2**62, ZEROS, 0, True),
            Verifying(2**62),
        ]  # fmt: skip
        return self._rng.choice(lies)

    def _judge(self, message: TransferComplete) -> list[Message | bytes]:
        assert self._file is not None
        verdict = IntegrityOk("server_received_x", self._file.size, message.digest, 0, True)
        choice = self._rng.randrange(5)
        if choice == 0:
            return [Verifying(1), Missing(7, ((0, 1), (2, 4)), "damaged")]
        if choice == 2 and self._server.lies:
            return [verdict.replace(digest=ZEROS)]
        if choice == 1:
            return [Ping(), Verifying(0), IntegrityFailed(message.digest, "\x1b[31mno")]
        return [Ping(), Verifying(self._file.size), verdict]
