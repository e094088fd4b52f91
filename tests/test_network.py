"""The pair over a bad network: cuts, damage, silence; the numbers are those of the fault list."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

import pytest
from conftest import (
    HEADER,
    PATIENCE,
    SOON,
    ServerProcess,
    ServerThread,
    StartServer,
    client_command,
    environment,
    eventually,
    md5,
    random_file,
    received,
    run_client,
)
from proxy import BUFFER, Fault, FaultProxy, Kind, Line, Plan, Way, What, reserve_port

from client import send_files
from config import BLOCK_SIZE, STREAMS, ClientSettings
from lft.client.receipt import Receipt
from lft.client.source import Source
from lft.wire.connection import Connection
from protocol import ConnectionLostError, Message, SourceError, State

MB = 1024 * 1024
FRAME = HEADER + BLOCK_SIZE  # bytes of a whole block on a data connection
ACK = 12  # bytes of an acknowledgement
DIGEST = HEADER - 32  # where the running digest begins in a block's header
SLOW = Plan(up=Line(rate=2 * MB))  # for each connection: a cut in the middle is in the middle

# --- a network before a server, and clients behind it -------------------------------------------


@pytest.fixture
def proxy(local: ServerThread) -> Iterator[FaultProxy]:
    """A network before a server in a thread, which checks at its end that nothing is left."""
    with FaultProxy(local.port) as proxy:
        yield proxy


@pytest.fixture
def keeper(start_server: StartServer) -> Iterator[ServerProcess]:
    """A real server that may end with something unfinished: it keeps that for a resume."""
    server = start_server("--grace", "0")
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture
def network(keeper: ServerProcess) -> Iterator[FaultProxy]:
    """A network before a server that keeps what is unfinished."""
    with FaultProxy(keeper.port) as proxy:
        yield proxy


StartClient = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_client() -> Iterator[StartClient]:
    """Start real clients; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(proxy: FaultProxy, *arguments: str | Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = client_command(proxy.port, *arguments)
        started.append(
            subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())
        )
        return started[-1]

    yield start
    for client in started:
        client.kill()
        client.communicate()


def _send(proxy: FaultProxy, source: Path, timeout: float = 5.0) -> Receipt:
    """Send a file from this process and return its receipt."""
    (receipt,) = send_files([source], ClientSettings(port=proxy.port, timeout=timeout))
    return receipt


@contextlib.contextmanager
def _sending(proxy: FaultProxy, source: Path, timeout: float = 5.0) -> Iterator[Future[Receipt]]:
    """Send a file in the background; leaving waits for its end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(_send, proxy, source, timeout)
        try:
            yield future
        finally:
            proxy.go_on()
            proxy.plan(Plan())


def _check_one(output: Path, source: Path) -> None:
    """Check that the file is there, right, and once."""
    assert [md5(path) for path in received(output)] == [md5(source)]


def _cut(proxy: FaultProxy, start_client: StartClient, source: Path, at: int) -> None:
    """Let a client be killed when about ``at`` bytes came through; the server hears of it."""
    proxy.plan(SLOW)
    client = start_client(proxy, source)
    proxy.forwarded(at)
    proxy.outage()
    client.kill()
    client.wait(PATIENCE)
    proxy.reset()
    proxy.go_on()
    proxy.plan(Plan())


# --- connections that lag -----------------------------------------------------------------------


def test_the_last_blocks_of_a_stuck_stream_go_another_way(
    proxy: FaultProxy, local: ServerThread, tmp_path: Path
) -> None:
    """40: nobody waits for its timeout, neither at the end of this file nor for the next one."""
    sources = [random_file(tmp_path / name, 4 * MB, seed) for seed, name in enumerate("ab")]
    proxy.plan(Plan(faults=(Fault(What.BLACK_HOLE, Way.UP, 2 * FRAME),)), Kind.DATA)
    settings = ClientSettings(port=proxy.port, timeout=10 * PATIENCE)
    receipts = send_files(sources, settings)
    assert [receipt.digest for receipt in receipts] == [md5(source) for source in sources]
    assert sorted(map(md5, received(local.output))) == sorted(map(md5, sources))
    assert len(proxy.numbers(Kind.DATA)) <= STREAMS + 1


def test_a_stream_that_others_leave_behind_is_replaced(
    proxy: FaultProxy, local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40: in the middle of a file, long before its timeout."""
    monkeypatch.setattr("config.STUCK", 0.2)
    monkeypatch.setattr("config.STUCK_TIMES", 1)
    source = random_file(tmp_path / "x", 12 * MB)
    stuck = Fault(What.BLACK_HOLE, Way.UP, FRAME + 1)
    proxy.plan(Plan(up=Line(rate=MB), faults=(stuck,)), Kind.DATA)
    with _sending(proxy, source, timeout=10 * PATIENCE) as sending:
        eventually(lambda: len(proxy.numbers(Kind.DATA)) > STREAMS, "a replacement")
        assert not sending.done()
    assert sending.result().digest == md5(source)
    _check_one(local.output, source)


# --- connections that are lost ------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(what, way, at)
        for what, way, at in [
            (What.RESET, Way.UP, 0),
            (What.RESET, Way.UP, HEADER - 1),
            (What.RESET, Way.UP, HEADER),
            (What.RESET, Way.UP, HEADER + 1),
            (What.RESET, Way.UP, 2 * FRAME - 1),
            (What.RESET, Way.UP, 2 * FRAME),
            (What.RESET, Way.UP, 2 * FRAME + 1),
            (What.FINISH, Way.UP, 2 * FRAME - 1),
            (What.FINISH, Way.UP, 2 * FRAME),
            (What.RESET, Way.DOWN, 2 * ACK - 1),
            (What.RESET, Way.DOWN, 2 * ACK),
            (What.RESET, Way.DOWN, 2 * ACK + 1),
            (What.FINISH, Way.DOWN, 2 * ACK - 1),
            (What.FINISH, Way.DOWN, 2 * ACK),
        ]
    ],
    ids=lambda fault: f"{fault.what.name}-{fault.way.name}-{fault.at}",
)
def test_a_data_connection_that_ends_at_any_boundary_is_replaced(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    """39: in the middle of a header, a block, an acknowledgement, and exactly between them."""
    proxy.plan(Plan(faults=(fault,)), Kind.DATA)
    source = random_file(tmp_path / "x", 5 * MB)
    assert _send(proxy, source).verdict == "INTEGRITY_OK"
    assert proxy.happened(fault) == 1
    _check_one(local.output, source)


@pytest.mark.parametrize("which", [Kind.DATA, Kind.COORDINATOR, None])
def test_connections_lost_in_the_middle_are_made_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, which: Kind | None
) -> None:
    """39: all data connections, the coordinator, all at once: the same client finishes."""
    source = random_file(tmp_path / "x", 6 * MB)
    proxy.plan(SLOW)
    with _sending(proxy, source) as sent:
        proxy.forwarded(3 * MB)
        proxy.reset(which)
    assert sent.result().verdict == "INTEGRITY_OK"
    _check_one(local.output, source)


@pytest.mark.parametrize("what", [What.RESET, What.FINISH, What.HALF_OPEN])
def test_a_lost_verdict_is_given_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, what: What
) -> None:
    """37: the file is published already; the client comes back, exit 0, and there is one file."""
    verdict = Fault(what, Way.DOWN, word=b"INTEGRITY_OK")
    proxy.plan(Plan(faults=(verdict,)), Kind.COORDINATOR)
    source = random_file(tmp_path / "x", 2 * MB)
    done = run_client(proxy.port, source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("INTEGRITY_OK")
    assert proxy.happened(verdict) == 1
    _check_one(local.output, source)


@pytest.mark.parametrize("word", [b"FILE_START", b"TRANSFER_COMPLETE"])
def test_a_coordinator_lost_with_a_message_on_the_way_is_made_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, word: bytes
) -> None:
    """39: the server never gets it; the client says it again on another connection."""
    cut = Fault(What.RESET, Way.UP, word=word)
    proxy.plan(Plan(faults=(cut,)), Kind.COORDINATOR)
    source = random_file(tmp_path / "x", 2 * MB)
    assert _send(proxy, source).verdict == "INTEGRITY_OK"
    assert proxy.happened(cut) == 1
    _check_one(local.output, source)


@pytest.mark.parametrize(
    ("way", "word"), [(Way.UP, b"TRANSFER_COMPLETE"), (Way.DOWN, b"INTEGRITY_OK")]
)
def test_a_coordinator_that_falls_silent_at_the_end_is_made_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, way: Way, word: bytes
) -> None:
    """40: gone without FIN once all is delivered; another session gets the verdict."""
    silence = Fault(What.BLACK_HOLE, way, word=word)
    proxy.plan(Plan(faults=(silence,)), Kind.COORDINATOR)
    source = random_file(tmp_path / "x", 2 * MB)
    assert _send(proxy, source, timeout=2.0).verdict == "INTEGRITY_OK"
    assert proxy.happened(silence) == 1
    _check_one(local.output, source)


def test_refused_connections_are_tried_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """42: for a while nothing listens there; then the same client finishes."""
    source = random_file(tmp_path / "x", 6 * MB)
    proxy.plan(SLOW)
    with _sending(proxy, source) as sent:
        proxy.forwarded(3 * MB)
        proxy.refuse()
        proxy.reset()
        eventually(lambda: "nothing listens there" in caplog.text, "a refusal")
        proxy.accept()
    assert sent.result().verdict == "INTEGRITY_OK"
    _check_one(local.output, source)


def test_a_server_killed_and_started_again_on_its_port_is_found_again(
    start_server: StartServer, start_client: StartClient, tmp_path: Path
) -> None:
    """36 and 42: the client that was sending finishes by itself, with exit 0."""
    source = random_file(tmp_path / "x", 8 * MB)
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        first = start_server("--port", str(port))
        with FaultProxy(port) as proxy:
            proxy.plan(SLOW)
            client = start_client(proxy, source, "--timeout", "5")
            proxy.forwarded(4 * MB)
            first.stop(signal.SIGKILL)
            proxy.wait(lambda: not proxy.open_ones(), "the connections to end")
            proxy.plan(Plan())
            second = start_server("--port", str(port))
            out, err = client.communicate(timeout=PATIENCE * 2)
    assert client.returncode == 0, err
    assert out.startswith("INTEGRITY_OK")
    _check_one(second.output, source)


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [FRAME + HEADER + 1000, FRAME + DIGEST + 3])
def test_a_flipped_bit_is_repaired_and_the_block_is_named(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, at: int
) -> None:
    """15: in the payload or the digest of one block: exactly that one is sent again."""
    flip = Fault(What.FLIP, Way.UP, at)
    proxy.plan(Plan(faults=(flip,)), Kind.DATA)
    source = random_file(tmp_path / "x", 5 * MB)
    done = run_client(proxy.port, source, "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    assert (receipt["verdict"], receipt["resent_blocks"]) == ("INTEGRITY_OK", 1)
    ((block, offset),) = set(re.findall(r"block (\d+) \(offset (\d+)\).*sent again", done.stderr))
    assert int(offset) == int(block) * BLOCK_SIZE
    assert proxy.happened(flip) == 1
    _check_one(local.output, source)


def test_a_bit_flipped_every_time_is_integrity_failed(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """15: exit 1, and nothing is published."""
    source = random_file(tmp_path / "x", 10_000)
    flip = Fault(What.FLIP, Way.UP, HEADER + 10, every=HEADER + 10_000, times=None)
    proxy.plan(Plan(faults=(flip,)), Kind.DATA)
    done = run_client(proxy.port, source)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("INTEGRITY_FAILED")
    assert proxy.happened(flip) > 1
    assert received(local.output) == []


# --- silence ------------------------------------------------------------------------------------


def test_many_short_outages_only_delay(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """40: 25 of them, each when more bytes have come through since the one before."""
    source = random_file(tmp_path / "x", 24 * MB)  # much more than comes through in between
    proxy.plan(Plan(up=Line(rate=MB)))
    with _sending(proxy, source, timeout=2.0) as sent:
        for number in range(25):
            proxy.forwarded(proxy.count(Way.UP) + 100_000)
            assert not sent.done()
            proxy.outage(0.7 if number % 12 == 0 else 0.2)
            proxy.wait(lambda: not proxy.in_outage, "the end of the outage")
        proxy.plan(Plan())
    assert sent.result().verdict == "INTEGRITY_OK"
    _check_one(local.output, source)


def test_a_dead_session_is_taken_over(
    local: ServerThread,
    proxy: FaultProxy,
    start_client: StartClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40: the client was killed, the server's side is open and silent: the next goes on soon."""
    monkeypatch.setattr("config.PROBE_TIMEOUT", 0.6)
    source = random_file(tmp_path / "x", 6 * MB)
    proxy.plan(SLOW)
    client = start_client(proxy, source)
    proxy.forwarded(4 * MB)
    proxy.freeze()
    client.kill()
    client.wait(PATIENCE)
    proxy.half_open()
    proxy.plan(Plan())
    began = time.monotonic()
    receipt = _send(proxy, source)
    assert time.monotonic() - began < SOON
    assert 0 < receipt.resumed_bytes < 6 * MB
    _check_one(local.output, source)


def test_a_slow_session_that_lives_is_not_taken_over(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """43: it answers, if late; the second client gets a file of its own."""
    monkeypatch.setattr("config.PROBE_TIMEOUT", PATIENCE)
    source = random_file(tmp_path / "x", 10 * MB)  # not done before the second, however busy
    slow = Plan(up=Line(delay=0.3, rate=MB // 8), down=Line(delay=0.3))
    for number in range(1 + STREAMS):
        proxy.plan(slow, number)
    with _sending(proxy, source, timeout=10.0) as first:
        proxy.wait(lambda: len(proxy.numbers(Kind.DATA)) == STREAMS, "its data connections")
        proxy.forwarded(100_000)
        second = _send(proxy, source)
        assert not first.done()
        for number in range(1 + STREAMS):
            proxy.plan(Plan(), number)
    assert (first.result().resumed_bytes, second.resumed_bytes) == (0, 0)
    assert [md5(path) for path in received(local.output)] == [md5(source)] * 2


def test_a_black_hole_ends_the_client_within_its_patience(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """40: after ten times the timeout without progress it gives up, exit code 5."""
    source = random_file(tmp_path / "x", 10 * MB)
    proxy.plan(SLOW)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_send, proxy, source, timeout=0.5)
        proxy.forwarded(2 * MB)
        began = time.monotonic()
        proxy.outage()
        error = sending.exception(2 * PATIENCE)
    assert time.monotonic() - began > 4  # it may have heard the last for a moment before
    assert isinstance(error, ConnectionLostError)
    assert error.exit_code == 5


def test_a_data_connection_that_falls_silent_is_given_up(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """40: gone without FIN in the middle of a block; after --timeout it goes another way."""
    silence = Fault(What.BLACK_HOLE, Way.UP, FRAME + 1000)
    proxy.plan(Plan(faults=(silence,)), Kind.DATA)
    source = random_file(tmp_path / "x", 5 * MB)
    assert _send(proxy, source, timeout=2.0).verdict == "INTEGRITY_OK"
    assert proxy.happened(silence) == 1
    _check_one(local.output, source)


def test_a_peer_that_never_reads_is_given_up(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """41: the windows of all data connections close; after --timeout others are made."""
    source = random_file(tmp_path / "x", 10 * MB)
    proxy.plan(SLOW)
    timeout = 2.0
    with _sending(proxy, source, timeout) as sent:
        proxy.forwarded(2 * MB)
        began = time.monotonic()
        for number in proxy.open_ones(Kind.DATA):
            proxy.plan(Plan(deaf=True), number)
        proxy.plan(Plan())
    assert sent.result().verdict == "INTEGRITY_OK"
    assert time.monotonic() - began < 10 * timeout  # not only when the session is given up
    assert len(proxy.numbers(Kind.DATA)) > STREAMS
    _check_one(local.output, source)


# --- resume -------------------------------------------------------------------------------------


def test_a_resume_sends_only_what_was_missing(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """36: cut at 90 %, the second run sends 10 % and what was on its way at the cut.

    On its way, for each data connection: a block that the server had only in part, and what stood
    in the proxy's send buffer (Linux doubles what is asked for). Besides, a header for each block
    that is only claimed, and the messages of the session.
    """
    size = 20 * MB
    source = random_file(tmp_path / "x", size)
    _cut(network, start_client, source, size * 9 // 10)
    before = network.count(Way.UP)
    receipt = _send(network, source)
    sent = network.count(Way.UP) - before
    on_its_way = STREAMS * (BLOCK_SIZE + 2 * BUFFER)
    talk = HEADER * -(-size // BLOCK_SIZE) + 16 * 1024
    assert sent <= size // 10 + on_its_way + talk
    assert receipt.resumed_bytes >= size - size // 10 - on_its_way
    _check_one(keeper.output, source)


def test_of_two_that_resume_the_same_file_one_goes_on_and_one_begins(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """43: the part file belongs to one; both files are right."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    network.plan(SLOW)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(_send, network, source) for _ in range(2)]
    resumed = sorted(future.result().resumed_bytes for future in both)
    assert resumed[0] == 0 < resumed[1]
    assert [md5(path) for path in received(keeper.output)] == [md5(source)] * 2


def _grow(source: Path) -> None:
    with open(source, "ab") as file:
        file.write(b"more" * 300_000)


def _change_in_the_middle(source: Path) -> None:
    with open(source, "r+b") as file:
        file.seek(2 * MB)
        file.write(b"changed")


@pytest.mark.parametrize("change", [_grow, _change_in_the_middle])
def test_a_source_changed_before_the_resume_keeps_what_is_still_right(
    keeper: ServerProcess,
    network: FaultProxy,
    start_client: StartClient,
    tmp_path: Path,
    change: Callable[[Path], None],
) -> None:
    """20: what agrees is kept, the rest is sent; the file is the source as it is now."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    change(source)
    receipt = _send(network, source)
    assert 0 < receipt.resumed_bytes < source.stat().st_size - BLOCK_SIZE
    _check_one(keeper.output, source)


def test_a_source_that_became_shorter_before_the_resume_arrives_as_it_is(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """20: nothing of what was cut off comes back."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    with open(source, "r+b") as file:
        file.truncate(3 * MB + 1)
    assert _send(network, source).bytes == 3 * MB + 1
    _check_one(keeper.output, source)


def test_another_file_of_the_same_name_begins_anew(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """20: the same name and size are not the same file."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    random_file(source, 6 * MB, seed=2)
    assert _send(network, source).resumed_bytes == 0
    _check_one(keeper.output, source)


def test_no_resume_begins_anew(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """The user can ask for that; the file is right all the same."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    done = run_client(network.port, source, "--no-resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_bytes"] == 0
    _check_one(keeper.output, source)


# --- a session that did not come to its end -----------------------------------------------------


def test_a_connection_lost_while_a_file_is_given_up_costs_the_next_file_nothing(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file changed and is cancelled; the answer never comes: another session goes on."""
    changed, good = random_file(tmp_path / "a", 1000), random_file(tmp_path / "b", 1000)
    cancelled = []
    answer, check = Connection.answer, Source.check_unchanged

    def lose(connection: Connection, timeout: float) -> Message:
        if connection.state is State.CANCELLING:
            cancelled.append(connection)
            raise ConnectionLostError("gone")
        return answer(connection, timeout)

    def notice(source: Source) -> None:
        if source.name == changed.name:
            raise SourceError("changed")
        check(source)

    monkeypatch.setattr(Connection, "answer", lose)
    monkeypatch.setattr(Source, "check_unchanged", notice)
    with pytest.raises(SourceError, match="changed"):
        send_files([changed, good], local.client())
    assert len(cancelled) == 1
    _check_one(local.output, good)
