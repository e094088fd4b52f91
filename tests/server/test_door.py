"""The door: when new connections are taken, and when they are refused."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import Iterator, NoReturn

import pytest

import config
from lft.server.door import Door
from lft.server.entrance import DISK_HANGS, STOPPING
from lft.server.event_loop import EventLoop
from lft.store.paths import PARTIAL
from protocol import IntegrityOk
from tests.support.files import open_descriptors
from tests.support.local import ServerThread, StartLocal
from tests.support.processes import StartServer, still_serves
from tests.support.rawpeer import Peer, RawClient, raw_socket
from tests.support.waiting import PATIENCE, eventually
from tests.support.web import Browser, web_port


def is_refused(port: int) -> bool:
    """Whether nothing listens at ``port``."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # between two listeners
        return False
    return False


def test_a_stopping_server_refuses_connections_while_a_transfer_ends(
    start_server: StartServer,
) -> None:
    """A new client goes elsewhere at once; the one that is here finishes its file."""
    server = start_server("--grace", "60")
    with RawClient(server.port).log_in() as client:
        upload = client.start("x", bytes(8192), 4096)
        data = client.attach()
        upload.send(data, 0)
        server.process.terminate()
        eventually(lambda: is_refused(server.port), "the listener to be closed")
        assert server.process.poll() is None
        upload.send(data, 1)
        assert isinstance(upload.complete(), IntegrityOk)
    assert server.process.wait(PATIENCE) == 0


class Disk:
    """A disk that answers when a test says so."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.writes: list[bool] = []

    def ask(self, *, write: bool) -> None:
        """Answer, sooner or later."""
        self.writes.append(write)
        assert self.answers.wait(PATIENCE)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk below the servers of a test, of which an answer is expected soon."""
    one = Disk()
    monkeypatch.setattr(config, "DISK_ASKED_EVERY", 0.02)
    monkeypatch.setattr(config, "DISK_PATIENCE", 0.3)
    monkeypatch.setattr("lft.store.ownership.OutputDirectory.ask", lambda _, **how: one.ask(**how))
    yield one
    one.answers.set()


def test_a_server_whose_disk_hangs_refuses_connections_until_it_answers(
    disk: Disk, local: ServerThread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that came in would wait in vain; those that are here are not cut."""
    with RawClient(local.port).log_in() as client:
        assert local.server.trouble == ""
        disk.answers.clear()
        eventually(lambda: is_refused(local.port), "the listener to be closed")
        assert local.server.trouble == DISK_HANGS
        disk.answers.set()
        eventually(lambda: not is_refused(local.port), "the listener to be opened")
        assert local.server.trouble == ""
        client.start("x", bytes(10))
    still_serves(local.port, tmp_path)
    said = [text for text in caplog.messages if "the disk" in text]
    assert said == [
        "the disk has not answered for 0.3 s: new connections are refused until it does",
        "the disk answers again: new connections are taken",
    ]


def test_a_door_that_lasts_is_open_while_the_disk_hangs_and_while_the_server_stops(
    disk: Disk, start_local: StartLocal
) -> None:
    """It is there to tell of the trouble."""
    local = start_local(grace=PATIENCE)
    server, lasting = local.server, socket.create_server(("127.0.0.1", 0))
    port = lasting.getsockname()[1]
    lasting.setblocking(False)
    server._loop.call(lambda: server.entrance.add([lasting], server.greet, lasts=True))
    disk.answers.clear()
    eventually(lambda: is_refused(local.port), "the listener to be closed")
    with Peer(port) as peer:
        peer.hello(peer.control)
    disk.answers.set()
    eventually(lambda: not is_refused(local.port), "the listener to be opened")
    with RawClient(local.port).log_in() as client:
        client.start("x", bytes(10))
        server.stop()
        eventually(lambda: server.trouble == STOPPING, "the end to begin")
        eventually(lambda: is_refused(local.port), "the listener to be closed")
        with Peer(port) as peer:
            peer.hello(peer.control)


def test_healthz_says_that_the_disk_hangs(disk: Disk, start_local: StartLocal) -> None:
    """A balancer that asks there sends clients elsewhere; afterwards all is well again."""
    local = start_local(http=("localhost", 0))
    port = web_port(local)
    with Browser(port) as browser:
        assert browser.get("/healthz").status == 200
        disk.answers.clear()
        eventually(lambda: is_refused(local.port), "the listener to be closed")
        answer = browser.get("/healthz")
        assert (answer.status, DISK_HANGS in answer.body.decode()) == (503, True)
        disk.answers.set()
        eventually(lambda: not is_refused(local.port), "the listener to be opened")
        assert browser.get("/healthz").status == 200


def test_an_idle_disk_is_not_written_to(disk: Disk, local: ServerThread) -> None:
    """Only while transfers are under way: otherwise it would never come to rest."""
    with RawClient(local.port).log_in() as client:
        eventually(lambda: len(disk.writes) > 3, "some questions")
        assert not any(disk.writes)
        client.start("x", bytes(10))
        eventually(lambda: disk.writes[-1], "a question that reaches the disk")


def test_the_disk_is_asked_by_a_write_beside_the_part_files(local: ServerThread) -> None:
    """The lock file takes it: a file of its own would have to be removed after a crash."""
    local.server.output.ask(write=False)
    assert (local.output / PARTIAL / "lock").read_bytes() == b""
    local.server.output.ask(write=True)
    assert (local.output / PARTIAL / "lock").read_bytes() == b"\n"


def test_a_disk_that_answers_with_an_error_does_answer(
    disk: Disk, start_local: StartLocal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A full disk refuses files one by one, and says so; that is no reason to be silent."""

    def fail(*_: object, **__: object) -> None:
        disk.writes.append(True)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("lft.store.ownership.OutputDirectory.ask", fail)
    local = start_local()
    eventually(lambda: len(disk.writes) > 3, "some questions")
    assert local.server.trouble == ""
    still_serves(local.port, tmp_path)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    """A loop."""
    one = EventLoop()
    yield one
    one.close()


def test_connections_that_the_system_holds_end_with_the_door(loop: EventLoop) -> None:
    """Left there they would be silent until the server has ended."""
    door = Door([socket.create_server(("127.0.0.1", 0))], loop, lambda *_: None, lambda: False)
    with raw_socket(door._listeners[0].getsockname()[1]) as held:
        door.shut()
        with pytest.raises(ConnectionResetError):
            held.recv(1)


def test_a_door_that_cannot_open_again_is_tried_again(
    loop: EventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program may have taken the port meanwhile; nothing stays open of a half success."""
    taken: list[str] = []
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))

    def take(sock: socket.socket, address: str) -> None:
        taken.append(address)
        sock.close()

    door = Door([first, second], loop, take, lambda: False)
    door.open()
    port = second.getsockname()[1]
    before = open_descriptors()
    assert door.shut()
    with socket.create_server(("127.0.0.1", port)):
        assert not door.open()
        assert open_descriptors() == before - 1
        assert "cannot listen again: Address already in use" in caplog.text
    assert door.open()
    with raw_socket(port):
        loop.turn()
    assert taken == ["127.0.0.1"]
    door.shut()


def test_the_log_tells_now_and_then_that_connections_wait(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """29: without descriptors for hours there is a line a minute, and it says how many times."""

    class Exhausted(socket.socket):
        """A listener that finds no descriptor."""

        def accept(self) -> NoReturn:
            """Find none."""
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with Exhausted() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        door = Door([listener], loop, lambda *_: None, lambda: False)
        with raw_socket(listener.getsockname()[1]):
            for patience in [config.TELL_AGAIN] * 5 + [0.0]:
                monkeypatch.setattr(config, "TELL_AGAIN", patience)
                door.open()
                loop.turn()
        door.shut()
    said = [line for line in caplog.messages if "cannot accept" in line]
    assert said == [
        "cannot accept connections: Too many open files",
        "cannot accept connections: Too many open files (5 times)",
    ]
