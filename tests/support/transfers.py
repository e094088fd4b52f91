"""Transfers without sockets."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

from lft.server.blockmap import Due
from lft.server.buffers import BufferPool
from lft.server.sessions import Peer, Session
from lft.server.transfer import Arrived, Transfer
from lft.store.journal import Claims, Facts
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.store.paths import output_name, unique
from lft.wire.connection import Connection
from protocol import Side

BLOCK = 4


def idle_peer() -> Peer:
    """Make a peer with a connection that is closed at both ends."""
    ours, theirs = socket.socketpair()
    theirs.close()
    connection = Connection(ours, Side.SERVER)
    connection.close()
    return Peer(connection, 1.0)


def transfer_of(
    data: bytes, *, user: str = "u", name: str = "x", block: int = 4, digest: str = "md5"
) -> Transfer:
    """Return a transfer of ``data`` that wants to go on where another one stopped."""
    head = hashlib.new(digest, data[:block]).hexdigest()
    facts = Facts(user, name, len(data), block, digest, output_name(name, unique()), head=head)
    session = Session(user, 0, idle_peer())
    return Transfer(session, facts, BufferPool(64), lambda _transfer, _part: None)


def resumed(store: PartStore, facts: Facts) -> tuple[Part, Claims] | None:
    """Return what rests of a file, with its claims, as a transfer would go on with it."""
    part = store.reopen(facts)
    claims = store.go_on(part, facts) if part else None
    return (part, claims) if part and claims else None


class Sample:
    """A transfer of a small file, with what its client knows."""

    def __init__(self, output: Path, size: int, lend: int = 0, data: bytes = b"") -> None:
        self.data = data or os.urandom(size)
        self.judged = 0  # how often a worker was told to publish
        self.whys: list[str] = []  # why blocks were asked for again
        self.buffers = BufferPool(8 * BLOCK, lend)
        head = hashlib.md5(self.data[:BLOCK]).hexdigest()
        facts = Facts("u", "x", len(self.data), BLOCK, "md5", output_name("x", unique()), head=head)
        session = Session("u", 0, idle_peer())
        self.store_of_parts = PartStore(output)
        self.transfer = Transfer(session, facts, self.buffers, self.let_go)
        self.part, self.claims = self._part()
        self.transfer.open(self.part, self.claims)
        self.parts = [self.data[i : i + BLOCK] for i in range(0, len(self.data), BLOCK)]
        self.digests = [
            hashlib.md5(self.data[: i + BLOCK]).digest() for i in range(0, len(self.data), BLOCK)
        ]
        self.digest = hashlib.md5(self.data).hexdigest()

    def _part(self) -> tuple[Part, Claims | None]:
        return self.store_of_parts.create(self.transfer.facts), None

    def let_go(self, _transfer: Transfer, part: Part) -> None:
        """Take the part file at the end."""
        self.store_of_parts.drop(part)

    def store(self, index: int, payload: bytes | None = None) -> Due:
        """Have one block arrive, damaged if ``payload`` is not its own."""
        data = self.parts[index] if payload is None else payload
        buffer = self.buffers.take(len(data))
        buffer.view[:] = data
        return self.transfer.store([Arrived(index, self.digests[index], buffer)])

    def announce(self, *indexes: int) -> list[Due]:
        """Have the client's digests of blocks arrive that the journal claims."""
        return [self.transfer.announce(index, self.digests[index]) for index in indexes]

    def hash(self) -> list[int]:
        """Hash all that can be hashed; return the damaged blocks."""
        damaged = []
        more = True
        while more:
            stretch = self.transfer.hash_stretch()
            more = stretch.more
            damaged += [first for first, _ in stretch.missing]
            self.judged += stretch.judged
            self.whys += [stretch.why] * len(stretch.missing)
        return damaged
