"""Enemies of a server: what strangers and users do that a polite client never does.

    python tests/tools/enemies.py KIND PORT COUNT USER PASSWORD-OR-TOKEN [CA]

One process with one kind of enemy. It says "ready" when all of them act, and goes on until its
standard input ends, or longer where that has a word in it: until the server has ended those that it
has to. Then it says, as JSON, what became of them. ``fuzz.py`` sees whether the server
is as it was afterwards, ``load.py`` what they cost others meanwhile.

    silent    connect and say nothing (and come again when they are seen off)
    updates   strangers that send KeyUpdate after KeyUpdate (RFC 8446, 4.6.3) as fast as they can
    drops     the same with a byte of data now and then, so that something comes all the same
    insiders  the same from coordinators and data connections of a user
    headers   sessions of a user with many data connections, each with a block's header and no more
    halves    the first half of a message, in each state of the dialogue; then silence
    expired   sessions that logged in with a token, and announce a file when that has expired
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config import KB, MAX_STREAMS, MB
from lft.accounts.keys import from_base64url
from lft.wire.blocks import BlockHeader, encode_header
from lft.wire.connection import Connection
from lft.wire.frames import encode
from protocol import (
    AuthOk,
    ConnectionLostError,
    FileReady,
    FileStart,
    Message,
    TransferError,
)
from tests.support.key_updates import key_update, tls_stream
from tests.support.rawpeer import ANY_MD5, HELLO, Peer, push
from tests.support.waiting import PATIENCE

UPDATES = 2000  # KeyUpdates in one piece: 54 KB
BLOCK = 2 * MB  # of the blocks of which only headers come
TOKEN_LIFE = 5  # seconds for which the token of an ``expired`` session holds
AGAIN = 0.05  # seconds until a connection that was ended comes again


class Target(NamedTuple):
    """The server, and who logs in there."""

    port: int
    user: str
    password: str
    ca: Path | None

    def connect(self) -> Peer:
        """Come as a stranger."""
        return Peer(self.port, ca=self.ca)

    def log_in(self) -> Peer:
        """Come as the user."""
        peer = self.connect()
        try:
            peer.log_in(self.user, self.password)
        except BaseException:
            peer.__exit__()
            raise
        return peer


class Enemies:
    """Some enemies of one kind; ``seen`` counts what became of them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.seen: Counter[str] = Counter()
        self.stopping = threading.Event()
        self.open = contextlib.ExitStack()  # what is closed at the end
        self.doomed = 0  # how many connections the server has to end at least

    def act(self, count: int, each: Callable[[int], Iterator[object]]) -> None:
        """Let ``count`` of them act, each in a thread; return when each has begun."""
        begun = threading.Barrier(count + 1)
        for number in range(count):
            thread = threading.Thread(target=self._act, args=(each, number, begun))
            thread.start()
            self.open.callback(thread.join)
        begun.wait()

    def _act(
        self, each: Callable[[int], Iterator[object]], number: int, begun: threading.Barrier
    ) -> None:
        """Act again and again; a connection that the server ends is replaced."""
        first = True
        while not self.stopping.is_set():
            try:
                for _ in each(number):
                    if first:
                        begun.wait()
                        first = False
                    if self.stopping.is_set():
                        return
            except (OSError, TransferError):
                self.seen["ended"] += 1
            self.stopping.wait(AGAIN)

    def keep(self, peer: Peer) -> Peer:
        """Have a peer closed at the end."""
        return self.open.enter_context(peer)

    def stop(self, patience: float = 0.0) -> None:
        """End all of them; wait so long for the server to end those that it has to."""
        until = time.monotonic() + patience
        while self.seen["ended"] < self.doomed and time.monotonic() < until:
            time.sleep(0.05)
        self.stopping.set()
        self.open.close()


# --- the kinds ------------------------------------------------------------------------------------


def silent(enemies: Enemies, count: int) -> None:
    """Connect and say nothing."""
    for _ in range(count):
        enemies.keep(enemies.target.connect())


def updates(enemies: Enemies, count: int) -> None:
    """Send KeyUpdates before any login."""

    def flood(_number: int) -> Iterator[object]:
        with enemies.target.connect() as peer:
            yield from send_updates(enemies, peer.control)

    enemies.doomed = 1
    enemies.act(count, flood)


def drops(enemies: Enemies, count: int) -> None:
    """Send KeyUpdates, and a byte of a HELLO now and then."""

    def flood(_number: int) -> Iterator[object]:
        with enemies.target.connect() as peer:
            yield from send_updates(enemies, peer.control, HELLO)

    enemies.act(count, flood)


def insiders(enemies: Enemies, count: int) -> None:
    """Send KeyUpdates on coordinators and data connections."""

    def flood(number: int) -> Iterator[object]:
        with enemies.target.log_in() as peer:
            yield from send_updates(enemies, peer.attach() if number % 2 else peer.control)

    enemies.doomed = 1
    enemies.act(count, flood)


def headers(enemies: Enemies, count: int) -> None:
    """Have as many sessions, each with half a block on all data connections it may have."""
    for number in range(count):
        peer = enemies.keep(enemies.target.log_in())
        peer.control.send(start(f"half {number}.bin"))
        ready = peer.answer()
        assert isinstance(ready, FileReady), ready
        for _ in range(MAX_STREAMS):
            push(peer.attach(), encode_header(header(ready.transfer)))
            enemies.seen["headers"] += 1


def halves(enemies: Enemies, count: int) -> None:
    """Say half a message in each state; count those that the server ends by itself."""
    for number in range(count):
        for at in (half_hello, half_login, half_start, half_block):
            peer = enemies.keep(enemies.target.connect())
            at(enemies.target, peer, number)
            enemies.seen["halves"] += 1
            enemies.doomed += 1
            connection = peer._connections[-1]
            waiting = threading.Thread(target=await_end, args=(enemies, connection))
            waiting.start()
            enemies.open.callback(waiting.join)


def expired(enemies: Enemies, count: int) -> None:
    """Announce a file when the token has expired; count the refusals."""
    peers = [enemies.keep(enemies.target.connect()) for _ in range(count)]
    for peer in peers:
        assert isinstance(peer.show(enemies.target.password), AuthOk)
    claims = from_base64url(enemies.target.password.split(".")[1])
    time.sleep(max(0.0, json.loads(claims)["exp"] + 1 - time.time()))
    for number, peer in enumerate(peers):
        try:
            peer.control.send(start(f"late {number}.bin"))
            answer: Message | None = peer.answer()
            enemies.seen["taken"] += isinstance(answer, FileReady)
        except (OSError, TransferError):
            enemies.seen["refused"] += 1


KINDS = {one.__name__: one for one in (silent, updates, drops, insiders, headers, halves, expired)}


# --- what they send -------------------------------------------------------------------------------


def send_updates(enemies: Enemies, connection: Connection, words: bytes = b"") -> Iterator[object]:
    """Send KeyUpdates without end, and between them ``words``, a byte at a time."""
    stream = tls_stream(connection)
    for at in itertools.count():
        for _ in range(UPDATES):
            key_update(connection)
        stream.push(words[at : at + 1])  # the records leave with it
        while not connection.flush():
            connection.wait(1.0, write=True)
            if enemies.stopping.is_set():
                return
        enemies.seen["updates"] += UPDATES
        if connection.discard():
            raise ConnectionLostError("the server ended it")
        yield at


def start(name: str) -> FileStart:
    """Announce a file of one block."""
    return FileStart(name, BLOCK, BLOCK, "md5", ANY_MD5, resume=False)


def header(transfer: int) -> BlockHeader:
    """Begin that block."""
    return BlockHeader(transfer, 0, BLOCK, BLOCK, 0, bytes(16))


def half(data: bytes) -> bytes:
    """Return the first half."""
    return data[: len(data) // 2]


def half_hello(_target: Target, peer: Peer, _number: int) -> None:
    push(peer.control, half(HELLO))


def half_login(_target: Target, peer: Peer, _number: int) -> None:
    peer.hello(peer.control)
    push(peer.control, half(HELLO))


def half_start(target: Target, peer: Peer, number: int) -> None:
    peer.log_in(target.user, target.password)
    push(peer.control, half(encode(start(f"half start {number}.bin"))))


def half_block(target: Target, peer: Peer, number: int) -> None:
    peer.log_in(target.user, target.password)
    peer.control.send(start(f"half block {number}.bin"))
    ready = peer.answer()
    assert isinstance(ready, FileReady), ready
    push(peer.attach(), encode_header(header(ready.transfer)) + bytes(100 * KB))


def await_end(enemies: Enemies, connection: Connection) -> None:
    """Read what comes until the server ends the connection, and count that."""
    while not enemies.stopping.is_set():
        if connection.wait(0.1) and connection.discard():
            enemies.seen["ended"] += 1
            return


@contextlib.contextmanager
def enemies_at(
    kind: str, count: int, target: Target, *, wait: bool = False
) -> Iterator[Counter[str]]:
    """Have enemies in a process of their own; what became of them is known afterwards.

    With ``wait`` that is after the server has ended those that it has to. Raises ``OSError`` where
    they cannot begin.
    """
    command = [sys.executable, str(Path(__file__).resolve()), kind, str(target.port), str(count)]
    command += [target.user, target.password, *([str(target.ca)] if target.ca else [])]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    seen: Counter[str] = Counter()
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise OSError(f"the enemies do not stand: {kind}")
        yield seen
        said, _ = process.communicate("wait" if wait else "", timeout=2 * PATIENCE)
        seen.update(json.loads(said))
    finally:
        process.kill()
        process.communicate()


def main(argv: list[str]) -> int:
    """Be some enemies until standard input ends; return the exit code."""
    kind, port, count, user, password, *ca = argv
    enemies = Enemies(Target(int(port), user, password, Path(ca[0]) if ca else None))
    patience = 0.0
    try:
        KINDS[kind](enemies, int(count))
        print("ready", flush=True)
        patience = PATIENCE if sys.stdin.read() else 0.0
    finally:
        enemies.stop(patience)
    print(json.dumps(enemies.seen), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
