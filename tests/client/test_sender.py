"""A sender and its data connection: silence, pings, and acknowledgements."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Collection, Iterator

import pytest

import client as client_module
import config
from config import MB, ClientSettings
from lft.client.compression import Compression
from lft.client.link import Access, Link
from lft.client.patience import Patience
from lft.client.progress import Progress
from lft.client.sender import Sender
from lft.client.upload import Block, Upload
from lft.clock import RunLength
from lft.wire.blocks import HEADER_SIZE
from lft.wire.connection import Connection, raise_error
from lft.wire.frames import encode, encode_ack
from lft.wire.sockets import Waker
from lft.wire.tls import client_tls
from protocol import (
    CODEC_ZLIB,
    ConnectionLostError,
    Error,
    FileReady,
    Ping,
    Side,
    SourceError,
    State,
)
from tests.support.client import link_of
from tests.support.waiting import PATIENCE, SleepClock


def test_pings_without_end_are_not_answered_without_end(link: Link) -> None:
    """FAULTS 26: a server that pings and reads nothing does not fill our memory with answers."""
    ours, theirs = socket.socketpair()
    control = Connection(ours, Side.CLIENT)
    control.dialogue.state = State.RECEIVING
    session = client_module.ClientSession(control, link, Progress(), Patience(link.settings))
    ping = encode(Ping())
    with theirs, contextlib.closing(session), contextlib.closing(control):
        for _ in range(100):
            theirs.sendall(ping * 500)
            for _ in range(500):
                assert session._hear() == Ping()
        assert control.unsent < 100


@pytest.fixture
def silent(clock: SleepClock, link: Link, upload: Upload) -> Iterator[Callable[[], bool]]:
    """A sender that is owed an acknowledgement, on a connection on which nothing comes."""
    ours, theirs = socket.socketpair()
    connection, sender = Connection(ours, Side.CLIENT), Sender(link, 0)
    sender._unacknowledged.add(Block(upload, 0))
    sender._waker.ring()  # so that no time has to pass
    clock.now += 31
    yield lambda: sender._wait(connection)
    connection.close()
    theirs.close()
    sender.close()


def test_a_stream_without_a_sign_of_the_server_is_given_up(silent: Callable[[], bool]) -> None:
    """FAULTS 40: half-open: nothing comes, neither here nor on the coordinator connection."""
    with pytest.raises(ConnectionLostError, match="no sign of the server for 30 s"):
        silent()


def test_a_stream_whose_turn_comes_late_is_not_given_up(
    silent: Callable[[], bool], upload: Upload, clock: SleepClock
) -> None:
    """With a limit on the server, acknowledgements go round: others get theirs meanwhile."""
    upload.hash_run(0, [memoryview(b"x")])
    upload.hash_run(1, [memoryview(b"y")])
    upload.note_sent(1, 1)
    clock.now += 20
    upload.confirm([1])
    assert not silent()


def _others_get_on(upload: Upload, clock: SleepClock, seconds: float, times: int) -> None:
    """Let another stream's block be acknowledged, sent again, acknowledged ..."""
    for _ in range(times):
        upload.note_sent(1, 1)
        clock.now += seconds
        upload.confirm([1])
        upload.ask_again(1)


@pytest.mark.parametrize("rounds", [config.STUCK_ROUNDS - 1, config.STUCK_ROUNDS])
def test_a_stream_that_others_pass_by_is_given_up(
    silent: Callable[[], bool], upload: Upload, clock: SleepClock, rounds: int
) -> None:
    """FAULTS 40: half-open, but not before each of them may have had its turn twice."""
    for block in (0, 1):
        upload.hash_run(block, [memoryview(b"x")])
    _others_get_on(upload, clock, 0.1, rounds)
    if rounds < config.STUCK_ROUNDS:
        assert not silent()
    else:
        with pytest.raises(ConnectionLostError, match="lags behind the others"):
            silent()


def test_a_sender_that_was_stopped_while_it_connected_does_not_shake_hands(
    clock: SleepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 38: main asks for a connection to cut just before there is one."""

    def stopped(*arguments: Any) -> Connection:
        link.ending.set()
        sender.stop()
        return Connection(*arguments)

    monkeypatch.setattr("lft.client.link.Connection", stopped)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and says nothing
        access = Access(socket.AF_INET, silent.getsockname(), "t" * 20, client_tls())
        link = Link(ClientSettings(timeout=30, streams=1), access)
        sender = Sender(link, 0)
        thread = threading.Thread(target=sender.run)
        thread.start()
        thread.join(PATIENCE)
        ended = not thread.is_alive()
    thread.join()
    sender.close()
    assert ended


def test_no_block_is_meant_for_a_sender_that_was_handed_another(link: Link, upload: Upload) -> None:
    """It has something to do, perhaps on a slow link: an idle sender is woken instead."""
    sender, idle = Sender(link, 0), Waker()
    assert link.queue.take(idle) == []
    assert sender._take_run() == []
    handed = Block(upload, 0)
    sender.hand(handed)
    assert sender._take_run() == [handed]
    link.queue.put([Block(upload, 1)])
    assert idle.quiet()
    sender.close()
    idle.close()


@pytest.mark.parametrize("over_first", [True, False])
def test_blocks_of_a_file_that_is_over_take_no_others_with_them(
    link: Link, upload: Upload, over_first: bool
) -> None:
    """FAULTS 39: a lost connection gives them back when the next file has begun already."""
    sender = Sender(link, 0)
    over = Upload(upload.source, "md5", 4096, FileReady(6, ()), lambda: None)
    over.end()
    blocks = [Block(upload, 0), Block(upload, 1)]
    link.queue.put([Block(over, 2), *blocks] if over_first else [*blocks, Block(over, 2)])
    sender._run_length.note(0.0, 4)
    sender._run_length.note(0.0, 4)
    assert sender._take_run() == blocks
    assert sender._take_run() == []
    sender.close()


def test_what_is_heard_while_a_block_is_pushed_counts(
    link: Link, upload: Upload, clock: SleepClock
) -> None:
    """A sender that always has to wait for room is not silent for that."""
    ours, theirs = socket.socketpair()
    connection, sender = Connection(ours, Side.CLIENT), Sender(link, 0)
    sender._unacknowledged.add(Block(upload, 0))
    connection.push(bytes(3_000_000))
    clock.now += 29
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(sender._drain, connection)
        theirs.sendall(encode_ack(7, 0))
        for _ in range(4000):  # 20 seconds; the clock of this test does not move by itself
            if sender._silence.left() == 30:
                break
            threading.Event().wait(0.005)
        left = 3_000_000
        while left:
            left -= len(theirs.recv(65536))
        draining.result(PATIENCE)
    assert sender._silence.left() == 30
    for one in (connection, theirs, sender):
        one.close()


def test_runs_grow_where_the_link_is_fast_and_shrink_where_it_is_slow(link: Link) -> None:
    """The blocks of a run share one stream: on a slow link none waits for more than another."""
    run, lengths = RunLength(grows=link.takes_runs), []
    for took in (0.01, 0.01, 0.01, 1.0, 1.0, 1.0):
        run.note(took, 5)
        lengths.append(run.blocks)
    assert lengths == [2, 4, 5, 2, 1, 1]


@pytest.mark.parametrize("why", ["far", "limit", "compression"])
def test_a_run_is_a_block_where_blocks_had_better_not_wait(why: str) -> None:
    """On a far link a stream may stall, a limit counts each block, packing takes time."""
    trip, limit = 0.05 if why == "far" else 0.0, MB if why == "limit" else None
    compression = Compression(CODEC_ZLIB, 1) if why == "compression" else None
    access = Access(socket.AF_INET, ("127.0.0.1", 1), "t" * 20)
    assert not Link(ClientSettings(limit=limit), access, trip, compression).takes_runs
    run = RunLength(grows=False)
    run.note(0.0, 5)
    assert run.blocks == 1


def test_a_run_leaves_with_one_call(
    link: Link, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers and chunks of all its blocks, in order."""
    ours, theirs = socket.socketpair()
    connection, sender = Connection(ours, Side.CLIENT), Sender(link, 0)
    parts: list[int] = []
    hand_over = connection._stream._hand_over

    def count(some: Collection[Any]) -> int:
        parts.append(len(some))
        return hand_over(some)

    monkeypatch.setattr(connection._stream, "_hand_over", count)
    views = [memoryview(bytes([65 + index]) * 4096) for index in range(3)]
    upload.hash_run(0, views)
    run = [Block(upload, index, view) for index, view in enumerate(views)]
    assert sender._send_run(connection, run) == 3 * 4096
    assert parts == [6]
    got = theirs.recv(100_000, socket.MSG_WAITALL | socket.MSG_DONTWAIT)
    assert got[HEADER_SIZE : HEADER_SIZE + 4096] == views[0]
    assert got[-4096:] == views[2]
    assert upload.free.qsize() == 3
    for one in (connection, theirs, sender):
        one.close()


@pytest.mark.parametrize(("chunk_size", "chunks"), [(1000, 5), (4096, 1), (None, 1)])
def test_a_block_is_handed_over_in_chunks(
    upload: Upload, monkeypatch: pytest.MonkeyPatch, chunk_size: int | None, chunks: int
) -> None:
    """Of the size that was asked for, or all of it at once."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Side.CLIENT)
    sender = Sender(link_of(ClientSettings(chunk_size=chunk_size)), 0)
    held: list[tuple[bytes, ...]] = []
    monkeypatch.setattr(connection, "hold", lambda *parts: held.append(parts))
    view = memoryview(bytearray(4096))
    upload.hash_run(0, [view])
    assert sender.send_file_block(connection, Block(upload, 0, view)) == 4096
    assert [len(parts) for parts in held] == [1 + chunks]
    for one in (connection, theirs, sender):
        one.close()


@pytest.mark.parametrize("verified", [True, False])
def test_a_block_that_cannot_be_read_again_is_no_error_once_the_server_has_it(
    link: Link, upload: Upload, monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    """Of standard input memory has only what is not verified, and that may change just now."""
    ours, theirs = socket.socketpair()
    connection, sender = Connection(ours, Side.CLIENT), Sender(link, 0)

    def gone(*_: object) -> None:
        if verified:
            upload.note_verified(4096)
        raise SourceError("cannot be read again")

    monkeypatch.setattr(upload.source, "read", gone)
    upload.hash_run(0, [memoryview(bytes(4096))])
    assert sender._send_run(connection, [Block(upload, 0)]) == 0
    assert len(sender._unacknowledged) == (not verified)
    with contextlib.nullcontext() if verified else pytest.raises(SourceError):
        upload.check()
    for one in (connection, theirs, sender):
        one.close()


def test_when_a_connection_breaks_within_a_run_all_of_it_goes_another_way(
    link: Link, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 39: also the blocks of the run that had not begun to leave."""
    ours, theirs = socket.socketpair()
    connection, sender, waker = Connection(ours, Side.CLIENT), Sender(link, 0), Waker()

    def broken(*_: object) -> None:
        raise ConnectionLostError("reset")

    monkeypatch.setattr(connection, "hold", broken)
    views = [memoryview(bytearray(4096))] * 3
    upload.hash_run(0, views)
    with pytest.raises(ConnectionLostError):
        sender._send_run(connection, [Block(upload, index, views[index]) for index in range(3)])
    sender._give_back()
    assert [block.index for block in link.queue.take(waker, 9)] == [0, 1, 2]
    for one in (connection, theirs, sender, waker):
        one.close()


def test_a_connection_that_ends_with_its_transfer_is_no_warning(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    """The coordinator is told why the transfer is over, perhaps a moment later."""
    caplog.set_level("DEBUG")
    with pytest.raises(ConnectionLostError) as caught:
        raise_error(Error("transfer", "no such transfer"))
    link.tell_lost(caught.value, 1)
    assert [one.levelname for one in caplog.records] == ["DEBUG"]
    link._lost_at = float("-inf")
    link.tell_lost(ConnectionLostError("gone"), 1)
    assert caplog.records[-1].levelname == "WARNING"
