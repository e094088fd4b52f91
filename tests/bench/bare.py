"""Moves a file with our threads and our proof and nothing else: Python's floor, for peers.py.

    python tests/bench/bare.py receive DIRECTORY    says its port, then takes one file after another
    python tests/bench/bare.py send FILE PORT       ends when the other side has the same MD5
    python tests/bench/bare.py send FILE PORT sha256

With a certificate and its key behind DIRECTORY, and the certificate behind the algorithm, all of it
goes through TLS.

What it has in common with this pair: one thread that reads and hashes, four that send, each over a
connection of its own; on the other side four that write, acknowledge, and hash in file order; the
running digest of each block of 200 KB; a flush in the background every 64 MB and one at the end.
Ten blocks go together, in memory that begins with a page: read with one call, sent with as few as
the system takes, written with one, acknowledged with one byte. What it leaves out is everything
else: nobody logs in, nothing is resumed, repaired, limited, queued, logged, shown or named, no
length is checked, and any error is the end. So what this pair takes more is what all that costs;
what it takes itself cannot be had from Python with these threads.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import queue
import socket
import struct
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

HOST = "127.0.0.1"
BLOCK = 200 * 1024
BLOCKS = 10  # of a run
RUN = BLOCKS * BLOCK
STREAMS = 4
BUFFERS = 8  # runs
FLUSH_EVERY = 64 * 1024 * 1024
_START = struct.Struct("!Q6s")  # size of the file, algorithm
_DIGESTS = 32 * BLOCKS  # bytes for the running digests of the blocks of a run
_HEADER = struct.Struct(f"!IQ{_DIGESTS}s")  # length and number of a run, then these


def pages() -> memoryview:
    """Return memory for a run."""
    return memoryview(mmap.mmap(-1, RUN, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def digest_run(running: hashlib._Hash, view: memoryview) -> bytes:
    """Take a run into the hash; return the running digest of each of its blocks."""
    digests = b""
    for start in range(0, len(view), BLOCK):
        running.update(view[start : start + BLOCK])
        digests += running.digest()
    return digests.ljust(_DIGESTS, b"\0")


def secured(files: Sequence[str], *, server: bool) -> Callable[[socket.socket], socket.socket]:
    """Return what has a socket speak TLS; without ``files`` it does nothing."""
    if not files:
        return lambda stream: stream
    import ssl  # noqa: PLC0415  (slow to load)

    if server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        return partial(context.wrap_socket, server_side=True)
    context = ssl.create_default_context(cafile=files[0])
    return partial(context.wrap_socket, server_hostname=HOST)


def fill(stream: socket.socket, view: memoryview) -> bool:
    """Fill ``view`` from ``stream``; return whether there was so much."""
    while view:
        size = stream.recv_into(view)
        if not size:
            return False
        view = view[size:]
    return True


def received(stream: socket.socket, size: int) -> bytes:
    """Return the next ``size`` bytes, or as many zeros."""
    data = bytearray(size)
    fill(stream, memoryview(data))
    return bytes(data)


class Incoming:
    """A file that comes: the lock protects what waits to be hashed, and how much is unflushed."""

    def __init__(self, path: Path, size: int, algorithm: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.posix_fallocate(self._file, 0, size)
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[memoryview, bytes]] = {}
        self._spare: list[memoryview] = []
        self._hash = hashlib.new(algorithm)
        self._next = 0
        self._hashing = False
        self._unflushed = 0

    def receive(self, stream: socket.socket) -> None:
        """Take runs from one connection until its end (a thread for each)."""
        head = memoryview(bytearray(_HEADER.size))
        with stream:
            while fill(stream, head):
                length, index, digests = _HEADER.unpack(head)
                view = (self._spare.pop() if self._spare else pages())[:length]
                fill(stream, view)
                os.pwrite(self._file, view, index * RUN)
                stream.send(b"A")
                self._put(index, view, digests)

    def _put(self, index: int, view: memoryview, digests: bytes) -> None:
        with self._lock:
            self._waiting[index] = view, digests
            hashes = not self._hashing and self._next in self._waiting
            self._hashing |= hashes
            self._unflushed += len(view)
            flushes = self._unflushed >= FLUSH_EVERY
            self._unflushed = 0 if flushes else self._unflushed
        if flushes:
            threading.Thread(target=self._flush).start()
        while hashes:
            hashes = self._hash_next()

    def _flush(self) -> None:
        hashed = self._next * RUN
        os.fdatasync(self._file)
        os.posix_fadvise(self._file, 0, hashed, os.POSIX_FADV_DONTNEED)

    def _hash_next(self) -> bool:
        with self._lock:
            view, digests = self._waiting.pop(self._next, (None, b""))
            self._hashing = view is not None
            self._next += self._hashing
        if view is None:
            return False
        if digest_run(self._hash, view) != digests:
            raise SystemExit("a block is damaged")
        self._spare.append(memoryview(view.obj))
        return True

    def finish(self) -> bytes:
        """Bring it to the disk; return its digest."""
        os.fdatasync(self._file)
        os.close(self._file)
        return self._hash.digest()


def receive(directory: Path, *pair: str) -> None:
    """Take one file after another, for ever; over TLS with a certificate and its key."""
    secure = secured(pair, server=True)
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            with secure(listener.accept()[0]) as control:
                size, name = _START.unpack(received(control, _START.size))
                incoming = Incoming(directory / "file", size, name.strip(b"\0").decode())
                threads = [
                    threading.Thread(target=incoming.receive, args=(secure(listener.accept()[0]),))
                    for _ in range(STREAMS)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                control.sendall(incoming.finish())


class Outgoing:
    """A file that goes: its runs, each with its header, and the memory that is free for more."""

    def __init__(self, port: int, secure: Callable[[socket.socket], socket.socket]) -> None:
        self.runs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._port = port
        self._secure = secure
        for _ in range(BUFFERS):
            self.free.put(pages())

    def connect(self) -> socket.socket:
        """Open a connection."""
        return self._secure(socket.create_connection((HOST, self._port)))

    def send_runs(self) -> None:
        """Send runs over a connection, until a ``None`` (a thread for each)."""
        with self.connect() as stream:
            send = send_both if type(stream) is socket.socket else send_one_by_one
            owed = 0
            for header, view in iter(self.runs.get, None):
                send(stream, header, view)
                self.free.put(memoryview(view.obj))
                owed += 1
            received(stream, owed)  # acknowledgements

    def read(self, path: Path, size: int, running: hashlib._Hash) -> None:
        """Read and hash the file; let all threads end behind it."""
        with open(path, "rb", buffering=0) as file:
            for index in range(-(-size // RUN)):
                buffer = self.free.get()
                view = buffer[: os.preadv(file.fileno(), [buffer], index * RUN)]
                self.runs.put((_HEADER.pack(len(view), index, digest_run(running, view)), view))
        for _ in range(STREAMS):
            self.runs.put(None)


def send_both(stream: socket.socket, header: bytes, view: memoryview) -> None:
    """Send a run with as few calls as the system takes."""
    sent = stream.sendmsg([header, view]) - len(header)
    while sent < len(view):
        sent += stream.send(view[sent:])


def send_one_by_one(stream: socket.socket, header: bytes, view: memoryview) -> None:
    """Send a run over TLS, which makes records of 16 KB of it."""
    stream.sendall(header)
    stream.sendall(view)


def send(path: Path, port: int, algorithm: str = "md5", *certificate: str) -> int:
    """Send one file; return the exit code. Over TLS with the server's ``certificate``."""
    outgoing = Outgoing(port, secured(certificate, server=False))
    size, running = path.stat().st_size, hashlib.new(algorithm)
    with outgoing.connect() as control:
        control.sendall(_START.pack(size, algorithm.encode()))
        threads = [threading.Thread(target=outgoing.send_runs) for _ in range(STREAMS)]
        for thread in threads:
            thread.start()
        outgoing.read(path, size, running)
        for thread in threads:
            thread.join()
        return int(received(control, running.digest_size) != running.digest())


if __name__ == "__main__":
    what, where, *more = sys.argv[1:]
    if what == "send":
        sys.exit(send(Path(where), int(more[0]), *more[1:]))
    receive(Path(where), *more)
