"""Connections that lag, and connections that are lost."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from client import send_files
from config import MB, STREAMS, ClientSettings
from lft.server.transfer import Transfer
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread
from tests.support.network import FRAME, SLOW, StartClient, check_one, send_file, sending_file
from tests.support.processes import StartServer, run_client
from tests.support.rawpeer import HEADER
from tests.support.relays import StartProxy, once
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import Fault, FaultProxy, Kind, Line, Plan, Way, What, reserve_port


def test_a_data_connection_that_is_reset_is_replaced(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """39: what was not acknowledged goes another way."""
    proxy = start_proxy(local.port, once(lambda data: None))
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert md5(local.output / receipt.saved_as) == md5(source)
    assert receipt.verdict == "INTEGRITY_OK"


def test_a_lost_coordinator_is_replaced(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """39: the client logs in again and goes on where it stopped."""
    cut, active = threading.Event(), local.server.admission.active

    def spoil(number: int, offset: int, data: bytes) -> bytes | None:
        if number > 0 and offset > 100_000:
            cut.set()
        if number > 0 or not cut.is_set():
            return data
        eventually(lambda: any(one.tally.received for one in active()), "something to go on with")
        return None

    proxy = start_proxy(local.port, spoil)
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert cut.is_set()
    assert receipt.resumed_bytes > 0
    assert md5(local.output / receipt.saved_as) == md5(source)
    assert len(received(local.output)) == 1


ACK = 12  # bytes of an acknowledgement


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
    with sending_file(proxy, source, timeout=10 * PATIENCE) as sending:
        eventually(lambda: len(proxy.numbers(Kind.DATA)) > STREAMS, "a replacement")
        assert not sending.done()
    assert sending.result().digest == md5(source)
    check_one(local.output, source)


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
    assert send_file(proxy, source).verdict == "INTEGRITY_OK"
    assert proxy.happened(fault) == 1
    check_one(local.output, source)


@pytest.mark.parametrize("which", [Kind.DATA, Kind.COORDINATOR, None])
def test_connections_lost_in_the_middle_are_made_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, which: Kind | None
) -> None:
    """39: all data connections, the coordinator, all at once: the same client finishes."""
    source = random_file(tmp_path / "x", 6 * MB)
    proxy.plan(SLOW)
    with sending_file(proxy, source) as sent:
        proxy.forwarded(3 * MB)
        proxy.reset(which)
    assert sent.result().verdict == "INTEGRITY_OK"
    check_one(local.output, source)


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
    check_one(local.output, source)


def test_a_verdict_is_given_again_though_the_last_blocks_were_not_claimed(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """37: a worker may publish the file before another has its blocks claimed."""
    monkeypatch.setattr(Transfer, "note_blocks", lambda _: None)
    verdict = Fault(What.RESET, Way.DOWN, word=b"INTEGRITY_OK")
    proxy.plan(Plan(faults=(verdict,)), Kind.COORDINATOR)
    source = random_file(tmp_path / "x", 2 * MB)
    assert send_file(proxy, source).verdict == "INTEGRITY_OK"
    assert proxy.happened(verdict) == 1
    check_one(local.output, source)


@pytest.mark.parametrize("word", [b"FILE_START", b"TRANSFER_COMPLETE"])
def test_a_coordinator_lost_with_a_message_on_the_way_is_made_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, word: bytes
) -> None:
    """39: the server never gets it; the client says it again on another connection."""
    cut = Fault(What.RESET, Way.UP, word=word)
    proxy.plan(Plan(faults=(cut,)), Kind.COORDINATOR)
    source = random_file(tmp_path / "x", 2 * MB)
    assert send_file(proxy, source).verdict == "INTEGRITY_OK"
    assert proxy.happened(cut) == 1
    check_one(local.output, source)


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
    assert send_file(proxy, source, timeout=2.0).verdict == "INTEGRITY_OK"
    assert proxy.happened(silence) == 1
    check_one(local.output, source)


def test_refused_connections_are_tried_again(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """42: for a while nothing listens there; then the same client finishes."""
    source = random_file(tmp_path / "x", 6 * MB)
    proxy.plan(SLOW)
    with sending_file(proxy, source) as sent:
        proxy.forwarded(3 * MB)
        proxy.refuse()
        proxy.reset()
        eventually(lambda: "nothing listens there" in caplog.text, "a refusal")
        proxy.accept()
    assert sent.result().verdict == "INTEGRITY_OK"
    check_one(local.output, source)


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
    check_one(second.output, source)
