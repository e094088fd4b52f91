"""Simple relays between client and server; ``tests/tools/proxy.py`` has the faults of a network."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Callable

from tests.support.waiting import PATIENCE


class Proxy:
    """Sits between client and server; ``spoil`` may change or refuse each piece of data.

    ``spoil(connection number, offset in that connection's stream, data)`` returns what goes on to
    the server; ``None`` resets the connection.
    """

    def __init__(self, port: int, spoil: Callable[[int, int, bytes], bytes | None]) -> None:
        self._target = port
        self._spoil = spoil
        self.on_the_way_back: Callable[[int, bytes], None] = lambda number, data: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            self._start(self._forward, near, far, self.connections)
            self._start(self._back, far, near, self.connections)
            self.connections += 1

    def _forward(self, near: socket.socket, far: socket.socket, number: int) -> None:
        offset = 0
        try:
            while True:
                data = near.recv(65536)
                spoiled = self._spoil(number, offset, data) if data else b""
                if spoiled is None:
                    break
                offset += len(data)
                if not data:
                    far.shutdown(socket.SHUT_WR)
                    return
                far.sendall(spoiled)
        except OSError:
            pass  # one side has gone: so does the other
        for sock in (near, far):
            reset(sock)

    def _back(self, far: socket.socket, near: socket.socket, number: int) -> None:
        try:
            while True:
                data = far.recv(65536)
                if not data:
                    break
                self.on_the_way_back(number, data)
                near.sendall(data)
        except OSError:
            pass  # as above
        with contextlib.suppress(OSError):  # it was faster
            near.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            reset(sock)
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in self._sockets:
            sock.close()


def reset(sock: socket.socket) -> None:
    """End a connection the hard way."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it had ended already


StartProxy = Callable[[int, Callable[[int, int, bytes], "bytes | None"]], Proxy]


def once(action: Callable[[bytes], bytes | None]) -> Callable[[int, int, bytes], bytes | None]:
    """Spoil one piece far into the first data connection that gets there, and nothing else."""
    lock, left = threading.Lock(), [1]

    def spoil(number: int, offset: int, data: bytes) -> bytes | None:
        if number == 0 or offset < 100_000:
            return data
        with lock:
            left[0], now = 0, left[0]
        return action(data) if now else data

    return spoil


class Relay:
    """Accepts connections and has ``handle`` pass each on, in a thread of its own."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the listener has been closed
            while True:
                near, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._handle, args=(near,)))
                self._threads[-1].start()
