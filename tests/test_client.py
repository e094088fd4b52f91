"""The client's parts: the input file, the queue between reader and senders, the command line."""

from __future__ import annotations

import contextlib
import errno
import itertools
import operator
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import (
    PATIENCE,
    ServerThread,
    StartLocal,
    client_command,
    environment,
    md5,
    open_descriptors,
    random_file,
    received,
    run_client,
)
from proxy import reserve_port

import client as module
import config
from client import send_files
from config import GB, KB, MB, ClientSettings
from lft.addresses import UnknownHostError
from lft.client.connect import Patience, connect
from lft.client.demo import _make_sample
from lft.client.progress import Bar, Progress
from lft.client.receipt import _ADVICE, Receipt, Spent, advice
from lft.client.sender import Sender
from lft.client.source import Source
from lft.client.streams import Climber
from lft.client.upload import Block, BlockQueue, Upload
from lft.terminal import BarSafeHandler
from lft.wire.connection import Connection
from lft.wire.frames import encode, encode_ack
from lft.wire.sockets import Waker
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    FileReady,
    IntegrityOk,
    Ping,
    RejectedError,
    RemoteProtocolError,
    Side,
    SourceError,
    State,
    TransferError,
)

# --- the input file -----------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.mkdir, "is a folder"),
        (_fifo, "not a regular file"),
        (_socket, "not a regular file"),
        (lambda path: None, "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
)
def test_what_is_not_a_file_is_refused_and_named(
    tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    """FAULTS 21: a clear error at once; a FIFO without a writer does not hang."""
    path = tmp_path / "x"
    make(path)
    with pytest.raises(SourceError, match=why):
        Source(path)


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Give up root's right to read everything, if we have it."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_cannot_be_looked_into_is_closed_again() -> None:
    """It says it is empty, and reading the first byte of it is an error."""
    before = open_descriptors()
    with pytest.raises(SourceError, match="Input/output error"):
        Source(Path("/proc/self/mem"))
    assert open_descriptors() == before


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    """FAULTS 21: the reason is the system's."""
    path = random_file(tmp_path / "x", 1)
    path.chmod(0)
    with _as_nobody(), pytest.raises(SourceError, match="Permission denied"):
        Source(path)


def test_a_file_that_only_claims_to_be_empty_is_refused() -> None:
    """FAULTS 21: files of /proc have size 0 and content; silence would lose the content."""
    with pytest.raises(SourceError, match="says it is empty"):
        Source(Path("/proc/self/status"))


def _replace(path: Path) -> None:
    random_file(path.with_name("new"), 10, seed=2).replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, 5),
        lambda path: os.truncate(path, 15),
        lambda path: os.utime(path, ns=(1, 1)),
        _replace,
    ],
)
def test_a_source_that_changed_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """FAULTS 20: shorter, longer, touched or another file: said as such."""
    path = random_file(tmp_path / "x", 10)
    source = Source(path)
    source.check_unchanged()
    change(path)
    with pytest.raises(SourceError, match="changed"):
        source.check_unchanged()
    source.close()


def test_a_source_that_was_deleted_is_still_sent(tmp_path: Path) -> None:
    """FAULTS 20: what was opened stays readable, and it is what was asked for."""
    path = random_file(tmp_path / "x", 10)
    source = Source(path)
    content = path.read_bytes()
    path.unlink()
    view = bytearray(10)
    source.read(memoryview(view), 0)
    source.check_unchanged()
    source.close()
    assert view == content


def test_reading_past_a_truncation_is_an_error(tmp_path: Path) -> None:
    """FAULTS 20: never send what is not there."""
    path = random_file(tmp_path / "x", 10)
    source = Source(path)
    os.truncate(path, 5)
    with pytest.raises(SourceError, match="shorter"):
        source.read(memoryview(bytearray(10)), 0)
    source.close()


def test_a_name_that_is_not_utf_8_gets_a_form_that_is(tmp_path: Path) -> None:
    """FAULTS 9: the wire carries UTF-8 only."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.bin"))
    path.write_bytes(b"x")
    source = Source(path)
    assert source.name == "bad\ufffd.bin"
    source.close()


# --- between reader and senders -----------------------------------------------------------------


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[Upload]:
    """An upload of three blocks of 4 KB."""
    source = Source(random_file(tmp_path / "x", 3 * 4096))
    yield Upload(source, "md5", 4096, FileReady(7, ()), lambda: None)
    source.close()


def _hash_all(upload: Upload) -> None:
    for index in range(upload.blocks.count):
        view = memoryview(bytearray(upload.blocks.length(index)))
        upload.source.read(view, upload.blocks.offset(index))
        upload.hash_block(index, view)


def test_an_upload_is_delivered_when_every_block_is_acknowledged(upload: Upload) -> None:
    """Read is not sent, and sent is not acknowledged."""
    _hash_all(upload)
    for index in (2, 0):
        upload.confirm(index)
        assert not upload.delivered
    upload.confirm(1)
    assert upload.delivered
    assert upload.acknowledged == upload.source.size


def test_a_block_asked_for_before_its_acknowledgement_is_owed_two(upload: Upload) -> None:
    """MISSING may overtake an acknowledgement: that of the first copy must not stand for both."""
    _hash_all(upload)
    upload.ask_again(0)
    for index in range(3):
        upload.confirm(index)
    assert not upload.delivered
    upload.confirm(0)
    assert upload.delivered
    assert upload.acknowledged == upload.source.size


def test_a_block_asked_for_again_is_owed_again(upload: Upload) -> None:
    """The bar goes back, and the upload is not complete until it is acknowledged anew."""
    _hash_all(upload)
    for index in range(3):
        upload.confirm(index)
    upload.ask_again(1)
    assert not upload.delivered
    assert upload.acknowledged == 2 * 4096
    upload.confirm(1)
    assert upload.delivered


def test_a_held_block_asked_for_before_it_was_read_is_sent_when_it_is(tmp_path: Path) -> None:
    """Its digest is not known yet; the reader comes to it in time."""
    source = Source(random_file(tmp_path / "x", 3 * 4096))
    ready = FileReady(7, ((0, 3),))
    upload = Upload(source, "md5", 4096, ready, lambda: None)
    assert upload.resumed_bytes == 3 * 4096
    assert not upload.ask_again(1)
    held = [upload.hash_block(index, memoryview(bytes(4096))) for index in range(3)]
    assert held == [True, False, True]
    assert upload.resumed_bytes == 2 * 4096
    source.close()


def test_a_server_may_not_ask_for_one_block_without_end(upload: Upload) -> None:
    """FAULTS 26: each time we would remember it once more."""
    _hash_all(upload)
    with pytest.raises(RemoteProtocolError, match="without end"):
        list(iter(lambda: upload.ask_again(0), None))


def test_the_last_blocks_that_lag_are_named_once_in_a_while(upload: Upload, clock: Clock) -> None:
    """Not before the end of the file, the first ones first, and no more than there are streams."""
    upload.hash_block(0, memoryview(bytes(4096)))
    upload.sent(0, 4096)
    clock.now += 100
    assert upload.late(9, hasty=True) == []
    for index in (1, 2):
        upload.hash_block(index, memoryview(bytes(4096)))
        upload.sent(index, 4096)
    assert upload.late(9, hasty=True) == [0]
    clock.now += 100
    assert upload.late(2, hasty=True) == [1, 2]
    assert upload.late(2, hasty=True) == [0]
    assert upload.late(2, hasty=True) == []


def test_without_haste_a_block_lags_only_when_its_stream_is_stuck(
    upload: Upload, clock: Clock
) -> None:
    """A link that is merely slow, or limited, would carry much twice."""
    _hash_all(upload)
    upload.sent(0, 4096)
    clock.now += config.STUCK / 2
    assert upload.late(1, hasty=False) == []
    clock.now += config.STUCK
    assert upload.late(1, hasty=False) == [0]


def test_a_block_that_went_two_ways_counts_once(upload: Upload) -> None:
    """Whichever acknowledgement comes first is the one; the other is no news."""
    _hash_all(upload)
    for index in (0, 0, 1, 1, 0):
        upload.confirm(index)
    assert not upload.delivered
    assert upload.acknowledged == 2 * 4096
    upload.confirm(2)
    assert upload.delivered


def test_what_was_held_was_not_carried(tmp_path: Path) -> None:
    """Acknowledged digests say nothing about how fast the link is."""
    source = Source(random_file(tmp_path / "x", 3 * 4096))
    upload = Upload(source, "md5", 4096, FileReady(7, ((0, 2),)), lambda: None)
    _hash_all(upload)
    for index in range(3):
        upload.confirm(index)
    assert (upload.acknowledged, upload.carried) == (3 * 4096, 4096)
    source.close()


def test_an_error_of_a_thread_reaches_main(upload: Upload) -> None:
    """No thread of the pool dies unheard."""
    upload.fail(SourceError("gone"))
    with pytest.raises(SourceError, match="gone"):
        _ = upload.delivered


def test_an_idle_sender_is_woken_for_a_block(upload: Upload) -> None:
    """It waits on a descriptor, together with its socket."""
    blocks, waker = BlockQueue(), Waker()
    assert blocks.get(waker) is None
    assert not waker.quiet()
    blocks.put(Block(upload, 0))
    assert waker.quiet()
    found = blocks.get(waker)
    assert found is not None
    assert found.index == 0
    waker.close()


def test_a_block_meant_for_a_leaving_sender_goes_to_another(upload: Upload) -> None:
    """A sender whose connection broke just when it was woken must not keep the block waiting."""
    blocks, leaving, other = BlockQueue(), Waker(), Waker()
    assert blocks.get(other) is None
    assert blocks.get(leaving) is None
    blocks.put(Block(upload, 0))
    assert leaving.quiet()
    blocks.leave(leaving)
    assert other.quiet()
    leaving.close()
    other.close()


# --- trying again -------------------------------------------------------------------------------


class Clock:
    """The time, as far as the client is concerned; sleeping makes it pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that nobody has to wait for."""
    one = Clock()
    monkeypatch.setattr(time, "monotonic", one.monotonic)
    monkeypatch.setattr(time, "sleep", one.sleep)
    return one


LOST = ConnectionLostError("lost")


def _attempts(
    patience: Patience, clock: Clock, error: ConnectionLostError, each: float, again: int = 0
) -> int:
    """Have attempts fail that take ``each`` seconds; return how many were made.

    Each of them brings ``again`` bytes across.
    """
    for attempt in itertools.count(1):
        clock.now += each
        if again:
            patience.moved(again)
        try:
            patience.wait(error)
        except ConnectionLostError:
            return attempt
    raise AssertionError


def test_a_server_never_reached_is_tried_for_the_timeout_in_all(clock: Clock) -> None:
    """DESIGN 9: pauses included, whatever one attempt takes."""
    patience = Patience(ClientSettings(timeout=30))
    _attempts(patience, clock, LOST, 0.0)
    assert 1030 <= clock.now <= 1030 + config.RETRY_FIRST


def test_once_a_session_stood_it_is_tried_for_ten_times_as_long(clock: Clock) -> None:
    """DESIGN 9: an outage of minutes costs patience, not the transfer."""
    patience = Patience(ClientSettings(timeout=30))
    patience.stood()
    _attempts(patience, clock, LOST, 0.0)
    assert 1300 <= clock.now <= 1300 + config.RETRY_FIRST


def test_progress_puts_the_end_of_patience_off(clock: Clock) -> None:
    """FAULTS 40: outages without end are survived as long as something arrives in between."""
    patience = Patience(ClientSettings(timeout=30))
    patience.stood()
    for more in range(1, 26):
        clock.now += 299
        patience.moved(more)
        patience.wait(LOST)
    began = clock.now
    _attempts(patience, clock, LOST, 0.0)
    assert clock.now >= began + 250


def test_sessions_that_get_no_further_are_not_repeated_for_ever(clock: Clock) -> None:
    """A server that loses us at the same place each time has what patience does not cure."""
    patience = Patience(ClientSettings(timeout=30))

    def session() -> None:
        patience.stood()
        patience.moved(50)
        patience.wait(LOST)

    for _ in range(config.RETRY_MOST + 2):  # the first one got further than none
        session()
    with pytest.raises(ConnectionLostError):
        session()


def test_waiting_in_the_queue_is_not_silence(clock: Clock) -> None:
    """A server that says how many are before us is there: the patience begins anew."""
    patience = Patience(ClientSettings(timeout=30))
    patience.stood()
    for _ in range(10):
        clock.now += 299
        patience.moved()
    patience.wait(LOST)


def test_a_first_attempt_that_takes_too_long_is_the_last(clock: Clock) -> None:
    """As long as no session stood, the timeout is all there is."""
    assert _attempts(Patience(ClientSettings(timeout=30)), clock, LOST, 31.0) == 1


def test_an_unknown_host_is_final_at_the_start_only(clock: Clock) -> None:
    """A typing error at first; later the name service is away with the rest of the network."""
    patience, unknown = Patience(ClientSettings(timeout=30)), UnknownHostError("no such host")
    assert _attempts(patience, clock, unknown, 0.0) == 1
    patience.stood()
    assert _attempts(patience, clock, unknown, 0.0) > 5


def test_pauses_grow_up_to_a_limit_and_begin_anew_after_progress(clock: Clock) -> None:
    """A server that is down is not asked all the time, one that is back is found soon."""
    patience = Patience(ClientSettings(timeout=300))
    patience.stood()
    for _ in range(12):
        patience.wait(LOST)
    assert clock.slept[0] <= config.RETRY_FIRST
    assert config.RETRY_LONGEST / 2 <= clock.slept[-1] <= config.RETRY_LONGEST
    patience.moved(1)
    patience.wait(LOST)
    assert clock.slept[-1] <= config.RETRY_FIRST


def test_a_reason_is_told_once_until_a_session_stands(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty equal lines help nobody; another reason is news."""
    patience = Patience(ClientSettings(timeout=300))
    for error in (LOST, LOST, ConnectionLostError("refused"), LOST):
        patience.wait(error)
    patience.stood()
    patience.wait(LOST)
    told = [record.getMessage().split(":")[0] for record in caplog.records]
    assert told == ["lost", "refused", "lost", "lost"]


def test_an_attempt_has_the_timeout_or_what_is_left(clock: Clock) -> None:
    """The last attempt does not go beyond the end; a moment is always left to try."""
    patience = Patience(ClientSettings(timeout=30))
    assert patience.left() == 30
    clock.now += 20
    assert patience.left() == 10
    clock.now += 20
    assert patience.left() == 0.1
    patience.stood()
    assert patience.left() == 30


@pytest.mark.parametrize(
    "error", [AuthenticationError("no"), RejectedError("size", "no"), SourceError("no")]
)
def test_only_a_lost_connection_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: TransferError
) -> None:
    """A wrong password or a refusal would be the same the next time."""
    entered = []

    def enter(session: module.Session) -> None:
        entered.append(session)
        raise error

    monkeypatch.setattr(module.Session, "_log_in", enter)
    with pytest.raises(type(error)):
        send_files([random_file(tmp_path / "x", 10)], ClientSettings())
    assert len(entered) == 1


@pytest.fixture
def session(clock: Clock) -> Iterator[module.Session]:
    """A session that is not connected, with a timeout of 30 s."""
    settings = ClientSettings(timeout=30, streams=1)
    one = module.Session(settings, Progress(), Patience(settings))
    yield one
    one.close()


def test_pings_without_end_are_not_answered_without_end(
    session: module.Session,
) -> None:
    """FAULTS 26: a server that pings and reads nothing does not fill our memory with answers."""
    ours, theirs = socket.socketpair()
    control = session._coordinator = Connection(ours, Side.CLIENT)
    control.dialogue.state = State.RECEIVING
    ping = encode(Ping())
    with theirs:
        for _ in range(100):
            theirs.sendall(ping * 500)
            for _ in range(500):
                assert session._next_message() == Ping()
        assert control.unsent < 100


@pytest.fixture
def silent(session: module.Session, upload: Upload, clock: Clock) -> Iterator[Callable[[], bool]]:
    """A sender that is owed an acknowledgement, on a connection on which nothing comes."""
    ours, theirs = socket.socketpair()
    connection, sender = Connection(ours, Side.CLIENT), Sender(session, 0)
    session.streams.count = 1
    sender._unacknowledged[7, 0] = [Block(upload, 0)]
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
    silent: Callable[[], bool], upload: Upload, clock: Clock
) -> None:
    """With a limit on the server, acknowledgements go round: others get theirs meanwhile."""
    upload.hash_block(0, memoryview(b"x"))
    upload.hash_block(1, memoryview(b"y"))
    upload.sent(1, 1)
    clock.now += 20
    upload.confirm(1)
    assert not silent()


def _others_get_on(upload: Upload, clock: Clock, seconds: float, times: int) -> None:
    """Let another stream's block be acknowledged, sent again, acknowledged ..."""
    for _ in range(times):
        upload.sent(1, 1)
        clock.now += seconds
        upload.confirm(1)
        upload.ask_again(1)


@pytest.mark.parametrize("rounds", [config.STUCK_ROUNDS - 1, config.STUCK_ROUNDS])
def test_a_stream_that_others_pass_by_is_given_up(
    silent: Callable[[], bool], upload: Upload, clock: Clock, rounds: int
) -> None:
    """FAULTS 40: half-open, but not before each of them may have had its turn twice."""
    for block in (0, 1):
        upload.hash_block(block, memoryview(b"x"))
    _others_get_on(upload, clock, 0.1, rounds)
    if rounds < config.STUCK_ROUNDS:
        assert not silent()
    else:
        with pytest.raises(ConnectionLostError, match="lags behind the others"):
            silent()


# --- how many streams ---------------------------------------------------------------------------


def _climb(climber: Climber, goodput: Callable[[int], float], seconds: int) -> list[int]:
    """Let a link carry ``goodput(streams)`` bytes a second; return the streams of each second."""
    used = []
    start = int(climber.measured_since)
    for now in range(start + 1, start + seconds + 1):
        used.append(climber.count)
        climber.look(float(now), int(goodput(climber.count)))
    return used


def test_streams_grow_while_each_brings_its_share() -> None:
    """A link on which losses hold a stream at a fiftieth: doubled until there are enough."""
    climber = Climber(4, 48, 1.0)
    used = _climb(climber, lambda streams: 5e5 * streams, 10)
    assert used == [4, 4, 8, 8, 16, 16, 32, 32, 48, 48]


def test_no_stream_is_added_while_those_there_still_get_going() -> None:
    """TCP starts slowly: what grows by itself says nothing about more streams."""
    climber = Climber(4, 48, 1.0)
    goodput = iter(2.0**second for second in range(100))
    assert _climb(climber, lambda _: next(goodput), 20) == [4] * 20


def test_no_stream_is_added_to_a_link_that_is_full() -> None:
    """A queue shows that it is; one more stream would wait in it as well."""
    climber = Climber(4, 48, 1.0, lambda: True)
    assert _climb(climber, lambda _: 1e6, 20) == [4] * 20


def test_a_link_that_gets_worse_is_asked_anew() -> None:
    """Losses that begin late hold each stream: more of them pay now, at once."""
    climber = Climber(4, 48, 1.0)
    _climb(climber, lambda _: 1e7, 6)
    assert _climb(climber, lambda streams: 5e5 * streams, 20)[-1] == 48


def test_streams_that_bring_nothing_are_left_out_again() -> None:
    """A link that four fill: one trial, then back, and rest."""
    climber = Climber(4, 48, 1.0)
    assert _climb(climber, lambda _: 1e6, 7) == [4, 4, 8, 8, 4, 4, 4]


def test_fewer_streams_are_kept_where_they_carry_as_much() -> None:
    """After a rest it is tried downwards, step by step, as long as nothing is lost by it."""
    climber = Climber(16, 48, 1.0)
    used = _climb(climber, lambda streams: 1e6 * min(streams, 6), 120)
    assert 5 <= min(used) <= 7
    assert max(used[10:]) <= 24


def test_a_link_that_gets_better_is_noticed() -> None:
    """Trials upwards go on now and then, for as long as the file lasts."""
    climber = Climber(4, 48, 1.0)
    _climb(climber, lambda _: 1e6, 20)
    assert _climb(climber, lambda streams: 5e5 * streams, 100)[-1] > 20


@pytest.mark.parametrize("goodput", [lambda n: 1e6 * n, lambda n: 1e6 / n, lambda n: 1e6])
def test_streams_stay_between_one_and_the_most(goodput: Callable[[int], float]) -> None:
    """Whatever the link does."""
    used = _climb(Climber(4, 7, 1.0), goodput, 300)
    assert (min(used) >= 1, max(used)) == (True, 7)


def test_an_outage_is_no_measurement() -> None:
    """While nothing is acknowledged at all, the number of streams is not to blame."""
    climber = Climber(4, 48, 1.0)
    assert _climb(climber, lambda _: 0, 30) == [4] * 30


@pytest.mark.parametrize(
    ("size", "blocks", "limit", "expected"),
    [
        (0, None, None, 200 * KB),
        (13 * GB, None, None, 400 * KB),
        (12 * GB, None, None, 200 * KB),
        (200 * GB, None, None, 3200 * KB),
        (20_000 * GB, None, None, 4 * MB),
        (13 * GB, 50 * KB, None, 50 * KB),
        (13 * GB, None, 100 * KB, 25 * KB),
    ],
)
def test_blocks_grow_with_the_file_if_they_may(
    size: int, blocks: int | None, limit: int | None, expected: int
) -> None:
    """By its size alone: an attempt to go on has to come to the same blocks."""
    settings = ClientSettings(block_size=blocks, limit=limit, streams=None)
    session = module.Session(settings, Progress(), Patience(settings))
    assert session.block_size(size) == expected
    session.close()


@pytest.mark.parametrize(("round_trip", "first"), [(0.0, 4), (0.1, 24)])
def test_a_far_link_begins_with_more_streams(
    monkeypatch: pytest.MonkeyPatch, round_trip: float, first: int
) -> None:
    """Each starts slowly, and a round trip is long."""
    settings = ClientSettings(streams=None)
    session = module.Session(settings, Progress(), Patience(settings))
    monkeypatch.setattr(Sender, "run", lambda _: None)
    session.round_trip = round_trip
    session.streams.start()
    assert session.streams.count == first
    session.close()


def test_streams_auto_is_told_in_the_receipt(local: ServerThread, tmp_path: Path) -> None:
    """As the number that was in use, and by what TCP went."""
    path = random_file(tmp_path / "x", 3_000_000)
    (receipt,) = send_files([path], local.client(streams=None))
    assert 1 <= receipt.streams <= config.AUTO_STREAMS
    assert receipt.congestion == Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text()[:-1]


# --- where the time went ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spent", "verdict", "waits", "name"),
    [
        ((0.0, 0.0, 0.0), (0, 0, 0), (0.0, 0.0), "network"),
        ((1.0, 9.0, 0.0), (9000, 0, 0), (9.0, 8.0), "hashing"),
        ((6.0, 3.0, 0.0), (3000, 0, 0), (9.0, 0.0), "source disk"),
        ((1.0, 1.0, 8.0), (1000, 0, 0), (9.0, 0.0), "limit"),
        ((1.0, 1.0, 0.0), (1000, 0, 9000), (9.0, 8.0), "server limit"),
        ((1.0, 1.0, 0.0), (1000, 8000, 0), (9.0, 8.0), "server disk"),
        ((1.0, 1.0, 0.0), (8000, 0, 0), (9.0, 8.0), "server hashing"),
        ((1.0, 1.0, 0.0), (1000, 0, 0), (9.0, 8.0), "server"),
        ((1.0, 1.0, 0.0), (1000, 0, 0), (9.0, 1.0), "network"),
        ((1.0, 1.0, 0.0), (1000, 0, 0), (0.0, 0.0), "network"),
    ],
)
def test_what_held_up_a_file_is_named(
    spent: tuple[float, ...],
    verdict: tuple[int, int, int],
    waits: tuple[float, float],
    name: str,
    clock: Clock,
) -> None:
    """The slowest thing is the one that all others waited for; of a short time nothing is said."""
    one = Spent()
    one.reading, one.hashing, one.paced.seconds = spent
    hashing, disk, limited = verdict
    ok = IntegrityOk("x", 1, "0" * 32, 0, True, hashing, disk, limited)
    assert one.bottleneck(ok, waits) == ""
    clock.now += 10
    assert one.bottleneck(ok, waits) == name


def test_every_bottleneck_has_words_that_a_person_can_act_on() -> None:
    """And names no option that is in use already."""
    for name in _ADVICE:
        assert advice(name, ClientSettings()).startswith("; held up by ")
    assert "--streams auto" in advice("network", ClientSettings())
    assert "--streams auto" not in advice("network", ClientSettings(streams=None))
    assert "sha256" not in advice("hashing", ClientSettings(digest="sha256"))
    assert advice("", ClientSettings()) == ""


@pytest.mark.parametrize("limited", ["client", "server"])
def test_a_limit_is_named_as_what_held_up_a_file(
    start_local: StartLocal, tmp_path: Path, limited: str
) -> None:
    """Ours, or the server's, which the verdict tells."""
    rate = 4 * MB
    local = start_local(limit=rate if limited == "server" else None)
    settings = local.client(limit=rate if limited == "client" else None)
    (receipt,) = send_files([random_file(tmp_path / "x", 6 * MB)], settings)
    assert receipt.bottleneck == {"client": "limit", "server": "server limit"}[limited]


def test_a_sender_that_was_stopped_while_it_connected_does_not_shake_hands(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 38: main asks for a connection to cut just before there is one."""
    settings = ClientSettings(timeout=30, streams=1, tls=True)
    session = module.Session(settings, Progress(), Patience(settings))
    sender = Sender(session, 0)

    def stopped(*arguments: Any) -> Connection:
        session.ending.set()
        sender.stop()
        return Connection(*arguments)

    monkeypatch.setattr("lft.client.sender.Connection", stopped)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and says nothing
        session.address = socket.AF_INET, silent.getsockname()
        thread = threading.Thread(target=sender.run)
        thread.start()
        thread.join(PATIENCE)
        ended = not thread.is_alive()
    thread.join()
    session.close()
    sender.close()
    assert ended


def test_no_block_is_meant_for_a_sender_that_was_handed_another(
    session: module.Session, upload: Upload
) -> None:
    """It has something to do, perhaps on a slow link: who has nothing to do is woken instead."""
    session.streams.count = 1
    sender, idle = Sender(session, 0), Waker()
    assert session.queue.get(idle) is None
    assert sender._next_block() is None
    sender.hand(Block(upload, 0))
    assert sender._next_block() == Block(upload, 0)
    session.queue.put(Block(upload, 1))
    assert idle.quiet()
    sender.close()
    idle.close()


def test_what_is_heard_while_a_block_is_pushed_counts(
    session: module.Session, upload: Upload, clock: Clock
) -> None:
    """A sender that always has to wait for room is not silent for that."""
    ours, theirs = socket.socketpair()
    connection, sender = Connection(ours, Side.CLIENT), Sender(session, 0)
    session.streams.count = 1
    sender._unacknowledged[7, 0] = [Block(upload, 0)]
    connection.push(bytes(3_000_000))
    clock.now += 29
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(sender._drain, connection)
        theirs.sendall(encode_ack(7, 0))
        left = 3_000_000
        while left:
            left -= len(theirs.recv(65536))
        draining.result(PATIENCE)
    assert sender._silence.left() == 30
    for one in (connection, theirs, sender):
        one.close()


# --- the bar ------------------------------------------------------------------------------------


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bar]:
    """A bar that draws into nothing."""
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr("sys.stderr", nowhere)
        one = Bar(BarSafeHandler(nowhere))
        yield one
        one.end()


def test_a_bar_goes_on_in_the_next_session(bar: Bar) -> None:
    """The same file is not begun anew; a second bar would stay torn on the terminal."""
    bar.begin("x", 100)
    first = bar._bar
    bar.move(60)
    bar.phase("connecting")
    bar.begin("x", 100)
    bar.move(40)  # what the next server has to begin with
    assert bar._bar is first
    assert bar._bar.n == 40
    assert bar._bar.desc == "connecting x: "


@pytest.mark.parametrize(("name", "size"), [("y", 100), ("x", 101)])
def test_another_file_gets_a_bar_of_its_own(bar: Bar, name: str, size: int) -> None:
    """Also one that has grown between two sessions."""
    bar.begin("x", 100)
    first = bar._bar
    bar.begin(name, size)
    assert bar._bar is not first
    assert first.disable


def test_a_lost_session_leaves_the_bar_to_the_next(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended once, when the file has arrived."""
    local, told = start_local(), []
    supervise = module.Session._supervise

    class Recorder(Progress):
        def begin(self, name: str, size: int) -> None:
            told.append("begin")

        def end(self) -> None:
            told.append("end")

    def once(session: module.Session, upload: Upload) -> Receipt:
        monkeypatch.setattr(module.Session, "_supervise", supervise)
        raise LOST

    monkeypatch.setattr(module.Session, "_supervise", once)
    send_files([random_file(tmp_path / "x", 10)], local.client(), Recorder())
    assert told == ["begin", "begin", "end"]


# --- as a library -------------------------------------------------------------------------------


def test_send_files_returns_a_receipt_for_each_file(local: ServerThread, tmp_path: Path) -> None:
    """The receipt names what stands in the output directory."""
    paths = [random_file(tmp_path / name, size) for name, size in (("a", 0), ("b", 500_000))]
    receipts = send_files(paths, local.client())
    assert [receipt.name for receipt in receipts] == ["a", "b"]
    for path, receipt in zip(paths, receipts):
        assert md5(local.output / receipt.saved_as) == receipt.digest == md5(path)
        assert receipt.verdict == "INTEGRITY_OK"
        assert receipt.durable


def test_one_bad_file_does_not_stop_the_others(local: ServerThread, tmp_path: Path) -> None:
    """It is reported, the rest is sent, and its error is raised at the end."""
    good = [random_file(tmp_path / name, 1000) for name in "ab"]
    bad = random_file(tmp_path / "bad", 1000)
    outcomes: list[Receipt | TransferError] = []

    def report(path: Path, outcome: Receipt | TransferError) -> None:
        outcomes.append(outcome)
        if bad.exists():
            bad.unlink()

    with pytest.raises(SourceError, match="bad"):
        send_files([good[0], bad, good[1]], local.client(), report=report)
    assert [type(outcome) for outcome in outcomes] == [Receipt, SourceError, Receipt]
    assert len(received(local.output)) == 2


def test_an_unreadable_file_is_told_before_anything_is_sent(
    local: ServerThread, tmp_path: Path
) -> None:
    """Better at the start than after an hour."""
    with pytest.raises(SourceError):
        send_files([random_file(tmp_path / "a", 10), tmp_path / "missing"], local.client())
    assert received(local.output) == []


def test_a_password_is_asked_for_once_and_while_no_server_waits_for_it(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person may take longer than the login may, and sessions may be lost."""
    peers: list[int] = []

    def ask(*_: object) -> str:
        peers.append(len(local.server._peers))
        return "password1"

    monkeypatch.setattr("client.read_password", ask)
    monkeypatch.setattr(config, "RETRY_FIRST", 0.01)
    log_in, sessions = module.Session._log_in, itertools.count()

    def enter(session: module.Session) -> None:
        log_in(session)
        if next(sessions) == 0:
            raise ConnectionLostError("lost")

    monkeypatch.setattr(module.Session, "_log_in", enter)
    send_files([random_file(tmp_path / "x", 10)], local.client())
    assert peers == [0]


def test_a_wrong_password_is_an_authentication_error(local: ServerThread, tmp_path: Path) -> None:
    """Login fails before any file is named."""
    path = random_file(tmp_path / "a", 10)
    with pytest.raises(AuthenticationError):
        send_files([path], local.client(password="wrong"))


def test_the_client_leaves_no_thread_and_no_file_behind(
    local: ServerThread, tmp_path: Path
) -> None:
    """After send_files, whatever its outcome, only what was there before is there."""
    path = random_file(tmp_path / "a", 500_000)
    send_files([path], local.client())
    threads = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(("sender", "reader")) for name in threads)


def test_a_server_that_is_not_there_is_tried_for_the_timeout(tmp_path: Path) -> None:
    """Exit 5's exception, not a raw OSError."""
    path = random_file(tmp_path / "a", 10)
    with reserve_port() as reserved, pytest.raises(ConnectionLostError, match="nothing listens"):
        send_files([path], ClientSettings(port=reserved.getsockname()[1], timeout=0.6))


def test_all_addresses_of_a_server_are_tried_within_the_timeout(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 9: three addresses of which none answers have together what one would have."""
    address = socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1)
    tried = []

    def silent(_family: int, _address: object, until: Callable[[object], bool]) -> socket.socket:
        tried.append(until(None))
        raise OSError(errno.ETIMEDOUT, "no answer")

    monkeypatch.setattr("lft.client.connect.resolve", lambda *_: [address] * 3)
    monkeypatch.setattr("lft.client.connect.open_socket", silent)
    monkeypatch.setattr("lft.client.connect.wait", lambda _sock, timeout, **_: clock.sleep(timeout))
    with pytest.raises(ConnectionLostError, match="no answer"):
        connect(ClientSettings(), 30.0, None)
    assert clock.slept == pytest.approx([10, 10, 10])


def test_a_server_that_starts_late_is_reached(start_local: StartLocal, tmp_path: Path) -> None:
    """Who starts the client first gets the file through all the same."""
    path = random_file(tmp_path / "a", 10)
    receipts: list[Receipt] = []
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        settings = ClientSettings(port=port, timeout=PATIENCE)
        sending = threading.Thread(target=lambda: receipts.extend(send_files([path], settings)))
        sending.start()
        start_local(port=port)
        sending.join(2 * PATIENCE)
    assert [receipt.verdict for receipt in receipts] == ["INTEGRITY_OK"]


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--streams", "0"],
        ["--streams", "many"],
        ["--block-size", "1"],
        ["--block-size", "1G"],
        ["--chunk-size", "0"],
        ["--port", "0"],
        ["--port", "65536"],
        ["--timeout", "1"],
        ["--timeout", "nan"],
        ["--digest", "crc32"],
        ["--no-such-option"],
        ["no such file"],
        ["."],
        ["name\nwith\x1b[31mcolour"],
    ],
)
def test_a_wrong_command_line_is_exit_2_and_never_a_traceback(arguments: list[str]) -> None:
    """The last line says what is wrong; nothing raw reaches the terminal."""
    done = run_client(1, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert done.stderr.strip()


def test_nothing_to_send_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a FILE and without input/big_file.txt, the newcomer is told about both ways."""
    monkeypatch.chdir(tmp_path)
    done = run_client(1)
    assert done.returncode == 2
    assert "--demo" in done.stderr


def test_an_unreachable_server_is_exit_5(tmp_path: Path) -> None:
    """One warning while it tries, whatever the number of attempts, and one line at the end."""
    path = random_file(tmp_path / "a", 10)
    with reserve_port() as reserved:
        done = run_client(reserved.getsockname()[1], path, "--timeout", "2")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 2
    assert "nothing listens there" in done.stderr
    assert "the same command goes on" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("variables", [{"LFT_PASSWORD": "x"}, {}])
def test_a_host_that_does_not_exist_is_exit_5_at_once(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """A typing error in the name need not be tried for half a minute, nor have a password."""
    path = random_file(tmp_path / "a", 10)
    host = 64 * "x"  # longer than a label can be: refused without asking a name service
    done = run_client(1, path, "--server", host, variables=variables)
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert host in done.stderr


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """``main`` as if on a terminal; afterwards the signals mean what they meant before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr("client.Bar", lambda _: Progress())

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        return module.main([str(argument) for argument in arguments])

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["Bar", "_run", "send_files", "Progress.end"])
def test_a_signal_at_any_moment_is_exit_130_and_one_line(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    moment: str,
) -> None:
    """FAULTS 38: also while the bar is imported, and before an error is told."""
    before = operator.attrgetter(moment)(module)
    interrupts = [number]

    def interrupted(*arguments: object) -> object:
        while interrupts:
            os.kill(os.getpid(), interrupts.pop())
        return before(*arguments)

    monkeypatch.setattr(f"client.{moment}", interrupted)
    assert main("no such file") == 130
    told = capsys.readouterr().err.splitlines()
    assert ["interrupted" in line for line in told] == [True]


def test_a_signal_after_the_last_line_changes_nothing(main: Callable[..., int]) -> None:
    """All is done and told: the exit code stays."""
    assert main("no such file") == 2
    for number in SIGNALS:
        os.kill(os.getpid(), number)


def test_the_sample_of_the_demo_has_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written in one step: half a sample never stays."""
    monkeypatch.setattr(config, "DEMO_FILE_SIZE", 300_001)
    sample = tmp_path / "input" / "big_file.txt"
    _make_sample(sample)
    assert sample.stat().st_size == 300_001
    assert os.listdir(sample.parent) == ["big_file.txt"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_said_in_one_line(
    local: ServerThread, tmp_path: Path, unbuffered: str
) -> None:
    """The verdict that nobody can read is an error of its own, whenever Python writes it."""
    source = random_file(tmp_path / "x", 10)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            client_command(local.port, source, "--quiet"), check=False, text=True,
            env={**environment(), "PYTHONUNBUFFERED": unbuffered},
            stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 2
    assert "cannot write to standard output" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_does_not_stop_the_transfer(
    local: ServerThread, tmp_path: Path, closed: str
) -> None:
    """A job without input, output or error has nobody to talk to, but a file to send."""
    source = random_file(tmp_path / "x", 1000)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *client_command(local.port, source)]
    done = subprocess.run(command, check=False, env=environment(), capture_output=True)
    assert done.returncode == 0
    assert md5(received(local.output)[0]) == md5(source)
