"""The bad network itself: each of its faults, shown on a server that sends back what it gets."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Iterator

import pytest

from lft.wire.codecs import FEATURES
from lft.wire.frames import encode
from protocol import VERSION, Attach, Attached, AuthStart, Hello
from tests.support.files import open_descriptors
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import Fault, FaultProxy, Kind, Line, Plan, Way, What


class EchoServer:
    """Sends back what it gets, a thread for each connection, and notes how connections ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.endings: list[str] = []
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                sock, _ = self._listener.accept()
                self._connections.append(sock)
                self._threads.append(threading.Thread(target=self._echo, args=(sock,)))
                self._threads[-1].start()

    def _echo(self, sock: socket.socket) -> None:
        try:
            for data in iter(lambda: sock.recv(65536), b""):
                sock.sendall(data)
            self.endings.append("FIN")
        except OSError:
            self.endings.append("RST")
        with contextlib.suppress(OSError):  # it was reset
            sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End all threads."""
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):  # it has ended already
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        for sock in (self._listener, *self._connections):
            sock.close()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """A server that sends back what it gets."""
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[FaultProxy]:
    """A network before it; at the end no thread and no open file may be left."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    with FaultProxy(echo.port) as proxy:
        yield proxy
    echo.close()
    eventually(lambda: set(threading.enumerate()) <= threads, "the thread to end")
    eventually(lambda: open_descriptors() <= descriptors, "the sockets to be closed")


@contextlib.contextmanager
def _connected(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as sock:
        yield sock


def _exactly(sock: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes, or what comes before the end."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def _is_silent(sock: socket.socket) -> bool:
    """Whether nothing comes within a moment."""
    sock.settimeout(0.05)
    try:
        return sock.recv(1) is None
    except socket.timeout:
        return True
    finally:
        sock.settimeout(PATIENCE)


def _was_reset(sock: socket.socket) -> bool:
    """Read to the end; say whether that was RST."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def _connect_and_read(proxy: FaultProxy) -> None:
    with _connected(proxy) as sock:
        _exactly(sock, 1)


def _exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send ``data`` and return as many bytes of the answer."""
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    answer = _exactly(sock, len(data))
    sender.join(PATIENCE)
    return answer


def test_without_a_fault_everything_comes_through_and_is_counted(proxy: FaultProxy) -> None:
    """Bytes arrive as they were sent, and are counted by connection, direction and in total."""
    data = os.urandom(3_000_000)
    with _connected(proxy) as one, _connected(proxy) as two:
        assert _exchange(one, data) == data
        assert _exchange(two, b"hello") == b"hello"
        proxy.forwarded(2 * len(data) + 10, None)
        assert proxy.count(Way.UP, 0) == proxy.count(Way.DOWN, 0) == len(data)
        assert proxy.count(Way.UP, 1) == proxy.count(Way.DOWN, 1) == 5
        assert proxy.numbers() == [0, 1]


def test_an_end_comes_through_and_the_other_way_stays_open(
    proxy: FaultProxy, echo: EchoServer
) -> None:
    """FIN is passed on behind the last byte; what comes back still arrives."""
    with _connected(proxy) as sock:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert _exactly(sock, 100) == b"last words"
    proxy.wait(lambda: proxy.open_ones() == [])
    assert echo.endings == ["FIN"]


def test_a_reset_comes_through(proxy: FaultProxy, echo: EchoServer) -> None:
    """A client that vanishes with RST does so for the server, too."""
    with _connected(proxy) as sock:
        assert _exchange(sock, b"x") == b"x"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    eventually(lambda: echo.endings == ["RST"])


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_delayed_direction_arrives_later(proxy: FaultProxy, way: str) -> None:
    """Each direction has its own delay."""
    slow = Line(delay=0.1)
    proxy.plan(Plan(up=slow) if way == "up" else Plan(down=slow))
    with _connected(proxy) as sock:
        began = time.monotonic()
        assert _exchange(sock, b"x") == b"x"
        assert 0.1 <= time.monotonic() - began < PATIENCE / 2


def test_a_limited_direction_moves_no_faster(proxy: FaultProxy) -> None:
    """200 KB at 1 MB/s take a fifth of a second at least, less what may be caught up."""
    proxy.plan(Plan(up=Line(rate=1_000_000)))
    with _connected(proxy) as sock:
        began = time.monotonic()
        data = os.urandom(200_000)
        assert _exchange(sock, data) == data
        assert 0.15 <= time.monotonic() - began < PATIENCE / 2


def test_a_limit_can_be_changed_while_bytes_flow(proxy: FaultProxy) -> None:
    """What would take hours is done as soon as the limit is gone."""
    proxy.plan(Plan(up=Line(rate=1000)))
    with _connected(proxy) as sock:
        threading.Thread(target=sock.sendall, args=(bytes(200_000),)).start()
        proxy.forwarded(1)
        proxy.plan(Plan())
        assert _exactly(sock, 200_000) == bytes(200_000)


@pytest.mark.parametrize("at", [0, 1, 100_000])
def test_a_reset_comes_after_exactly_so_many_bytes_up(
    proxy: FaultProxy, echo: EchoServer, at: int
) -> None:
    """Both sides get RST, the server after ``at`` bytes."""
    fault = Fault(What.RESET, Way.UP, at)
    proxy.plan(Plan(faults=(fault,)))
    with _connected(proxy) as sock:
        sock.sendall(bytes(200_000))
        assert _was_reset(sock)
    assert proxy.count(Way.UP) == at
    assert proxy.happened(fault) == 1
    eventually(lambda: echo.endings == ["RST"])


def test_a_reset_comes_after_exactly_so_many_bytes_down(proxy: FaultProxy) -> None:
    """The client reads what came before, then RST."""
    proxy.plan(Plan(faults=(Fault(What.RESET, Way.DOWN, 12),)))
    with _connected(proxy) as sock:
        sock.sendall(bytes(100))
        proxy.wait(lambda: proxy.open_ones() == [])
        assert sock.recv(12) == bytes(12)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_an_end_comes_after_exactly_so_many_bytes(proxy: FaultProxy, echo: EchoServer) -> None:
    """The server gets FIN behind them, its answer still comes back."""
    proxy.plan(Plan(faults=(Fault(What.FINISH, Way.UP, 70_000),)))
    with _connected(proxy) as sock:
        sock.sendall(bytes(100_000))
        assert _exactly(sock, 100_000) == bytes(70_000)
    eventually(lambda: echo.endings == ["FIN"])


def test_a_reset_comes_instead_of_a_word(proxy: FaultProxy) -> None:
    """It is found where two pieces meet, too, and never arrives whole."""
    proxy.plan(Plan(faults=(Fault(What.RESET, Way.DOWN, word=b"VERDICT"),)))
    with _connected(proxy) as sock:
        assert _exchange(sock, b"before VER") == b"before VER"
        sock.sendall(b"DICT after")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize("at", [0, 4095, 100_000])
def test_a_flipped_bit_is_exactly_one(proxy: FaultProxy, at: int) -> None:
    """The byte at the offset, on one connection only."""
    fault = Fault(What.FLIP, Way.UP, at)
    proxy.plan(Plan(faults=(fault,)))
    data = os.urandom(150_000)
    for expected in (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data):
        with _connected(proxy) as sock:
            assert _exchange(sock, data) == expected
    assert proxy.happened(fault) == 1


def test_a_flip_on_the_way_back_spoils_only_the_answer(proxy: FaultProxy) -> None:
    """The directions have faults of their own."""
    proxy.plan(Plan(faults=(Fault(What.FLIP, Way.DOWN, 1),)))
    with _connected(proxy) as sock:
        assert _exchange(sock, b"aaa") == b"a`a"


def test_a_flip_can_come_on_every_connection_and_again(proxy: FaultProxy) -> None:
    """Without ``times`` on each, with ``every`` again after so many bytes, however they come."""
    fault = Fault(What.FLIP, Way.UP, 1, every=3, times=None)
    proxy.plan(Plan(faults=(fault,)))
    for _ in range(2):
        with _connected(proxy) as sock:
            answer = b"".join(_exchange(sock, part) for part in (b"aaaa", b"a", b"aaa"))
            assert answer == b"a`aa`aa`"
    assert proxy.happened(fault) == 6


def test_a_black_hole_lets_nothing_through_and_keeps_both_sides_open(
    proxy: FaultProxy, echo: EchoServer
) -> None:
    """What was sent into it arrives if it ends."""
    with _connected(proxy) as sock:
        assert _exchange(sock, b"x") == b"x"
        proxy.plan(Plan(black_hole=True))
        sock.sendall(b"y")
        assert _is_silent(sock)
        assert echo.endings == []
        proxy.plan(Plan())
        assert _exactly(sock, 1) == b"y"


def test_a_plan_for_a_number_counts_more_than_the_one_for_all(proxy: FaultProxy) -> None:
    """One connection can be in a black hole while others are not."""
    proxy.plan(Plan(black_hole=True), 0)
    with _connected(proxy) as one, _connected(proxy) as two:
        one.sendall(b"x")
        assert _exchange(two, b"y") == b"y"
        assert proxy.count(which=0) == 0


def test_freezing_concerns_the_connections_there_are(proxy: FaultProxy) -> None:
    """New ones are not touched."""
    with _connected(proxy) as one:
        assert _exchange(one, b"x") == b"x"
        assert proxy.freeze() == [0]
        one.sendall(b"y")
        with _connected(proxy) as two:
            assert _exchange(two, b"z") == b"z"
        assert proxy.count(which=0) == 2


def test_half_open_resets_the_client_only(proxy: FaultProxy, echo: EchoServer) -> None:
    """The server hears nothing of it."""
    with _connected(proxy) as sock:
        assert _exchange(sock, b"x") == b"x"
        proxy.half_open()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    with _connected(proxy) as other:  # the server does other work meanwhile
        assert _exchange(other, b"y") == b"y"
    assert echo.endings in ([], ["FIN"])
    assert proxy.count(which=0) == 2


def test_a_reset_now_ends_both_sides(proxy: FaultProxy, echo: EchoServer) -> None:
    """Of the connection that is named, not of others."""
    with _connected(proxy) as one, _connected(proxy) as two:
        assert _exchange(one, b"x") + _exchange(two, b"x") == b"xx"
        proxy.reset(0)
        assert proxy.open_ones() == [1]
        with pytest.raises(ConnectionResetError):
            one.recv(1)
        eventually(lambda: echo.endings == ["RST"])
        assert _exchange(two, b"y") == b"y"


def test_refused_connections_are_refused(proxy: FaultProxy) -> None:
    """What is connected stays so; on the same port there is an answer again afterwards."""
    with _connected(proxy) as old:
        assert _exchange(old, b"x") == b"x"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)
        assert _exchange(old, b"y") == b"y"
        proxy.accept()
        with _connected(proxy) as new:
            assert _exchange(new, b"z") == b"z"


def test_a_server_that_is_not_there_resets_the_client(proxy: FaultProxy, echo: EchoServer) -> None:
    """The proxy lives on."""
    echo.close()
    for _ in range(2):
        with pytest.raises(ConnectionResetError):  # perhaps before connect has returned
            _connect_and_read(proxy)


def test_a_deaf_connection_fills_the_client_up(proxy: FaultProxy) -> None:
    """The client's window closes: it can send no more; the other way is open."""
    proxy.plan(Plan(deaf=True), 0)
    with _connected(proxy) as sock, _connected(proxy) as other:
        sock.settimeout(0.1)
        with pytest.raises(socket.timeout):
            sock.sendall(bytes(20_000_000))
        assert proxy.count(which=0) == 0
        assert _exchange(other, b"x") == b"x"


def test_an_outage_concerns_everything_until_it_ends(proxy: FaultProxy) -> None:
    """Old and new connections are without an answer, and go on afterwards."""
    with _connected(proxy) as old:
        assert _exchange(old, b"x") == b"x"
        proxy.outage()
        with _connected(proxy) as new:
            old.sendall(b"y")
            new.sendall(b"z")
            assert _is_silent(old)
            assert _is_silent(new)
            proxy.go_on()
            assert _exactly(old, 1) + _exactly(new, 1) == b"yz"


def test_an_outage_can_end_by_itself(proxy: FaultProxy) -> None:
    """After the seconds it was given, not before."""
    with _connected(proxy) as sock:
        proxy.outage(0.1)
        began = time.monotonic()
        assert _exchange(sock, b"x") == b"x"
        assert 0.05 <= time.monotonic() - began < PATIENCE / 2


_HELLO = encode(Hello(VERSION, FEATURES))


_ATTACH = encode(Attach("t" * 32))


_ATTACHED = encode(Attached())


def test_the_kind_is_known_however_the_greeting_is_sliced(proxy: FaultProxy) -> None:
    """A coordinator asks to log in, a data connection shows its token."""
    login = encode(AuthStart("SCRAM", "n,,n=x"))
    with _connected(proxy) as one, _connected(proxy) as two, _connected(proxy) as three:
        assert _exchange(one, _HELLO + login) == _HELLO + login
        for byte in _HELLO + _ATTACH:
            _exchange(two, bytes([byte]))
        assert _exchange(three, b"GET / HTTP/1.1") == b"GET / HTTP/1.1"
        assert proxy.numbers(Kind.COORDINATOR) == [0]
        assert proxy.numbers(Kind.DATA) == [1]
        assert proxy.numbers() == [0, 1, 2]


@pytest.mark.parametrize("pieces", [1, 7])
def test_offsets_are_counted_from_the_end_of_the_greeting(proxy: FaultProxy, pieces: int) -> None:
    """Whatever the token's length; and a plan for a kind concerns no other."""
    proxy.plan(Plan(faults=(Fault(What.FLIP, Way.UP, 2, times=None),)), Kind.DATA)
    data = _HELLO + _ATTACH + b"aaaa"
    with _connected(proxy) as sock, _connected(proxy) as other:
        size = -(-len(data) // pieces)
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        answer = b"".join(_exchange(sock, part) for part in parts)
        assert answer == _HELLO + _ATTACH + b"aa`a"
        assert _exchange(other, b"aaaa") == b"aaaa"


def test_a_reset_at_offset_0_comes_right_behind_the_greeting(proxy: FaultProxy) -> None:
    """The answer to ATTACH arrives, then nothing more."""
    proxy.plan(Plan(faults=(Fault(What.RESET, Way.DOWN, 0),)))
    with _connected(proxy) as sock:
        assert _exchange(sock, _HELLO) == _HELLO
        sock.sendall(_ATTACHED + b"ack")
        proxy.wait(lambda: proxy.open_ones() == [])
        assert sock.recv(len(_ATTACHED) + 3) == _ATTACHED


def test_a_fault_can_open_one_half(proxy: FaultProxy, echo: EchoServer) -> None:
    """As the action does, but after so many bytes."""
    proxy.plan(Plan(faults=(Fault(What.HALF_OPEN, Way.UP, 2),)))
    with _connected(proxy) as sock:
        sock.sendall(b"xyz")
        assert _was_reset(sock)
    assert proxy.count(Way.UP) == 2
    assert echo.endings == []


def test_a_fault_can_make_a_black_hole(proxy: FaultProxy, echo: EchoServer) -> None:
    """After so many bytes, for ever; neither side is told."""
    proxy.plan(Plan(faults=(Fault(What.BLACK_HOLE, Way.UP, 2),)))
    with _connected(proxy) as sock:
        sock.sendall(b"xyz")
        proxy.forwarded(2)
        proxy.plan(Plan())
        sock.sendall(b"z")
        assert _is_silent(sock)
        assert proxy.count() == 2
        assert echo.endings == []
