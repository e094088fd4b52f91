"""Networks that fall silent."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from config import MB, STREAMS
from protocol import ConnectionLostError
from tests.support.files import random_file
from tests.support.local import ServerThread
from tests.support.network import FRAME, SLOW, check_one, send_file, sending_file
from tests.support.waiting import PATIENCE
from tests.tools.proxy import Fault, FaultProxy, Kind, Line, Plan, Way, What


def test_many_short_outages_only_delay(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """40: 25 of them, each when more bytes have come through since the one before."""
    source = random_file(tmp_path / "x", 24 * MB)  # much more than comes through in between
    proxy.plan(Plan(up=Line(rate=MB)))
    with sending_file(proxy, source, timeout=2.0) as sent:
        for number in range(25):
            proxy.forwarded(proxy.count(Way.UP) + 100_000)
            assert not sent.done()
            proxy.outage(0.7 if number % 12 == 0 else 0.2)
            proxy.wait(lambda: not proxy.in_outage, "the end of the outage")
        proxy.plan(Plan())
    assert sent.result().verdict == "INTEGRITY_OK"
    check_one(local.output, source)


def test_a_black_hole_ends_the_client_within_its_patience(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """40: after ten times the timeout without progress it gives up, exit code 5."""
    source = random_file(tmp_path / "x", 10 * MB)
    proxy.plan(SLOW)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_file, proxy, source, timeout=0.5)
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
    assert send_file(proxy, source, timeout=2.0).verdict == "INTEGRITY_OK"
    assert proxy.happened(silence) == 1
    check_one(local.output, source)


def test_a_peer_that_never_reads_is_given_up(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path
) -> None:
    """41: the windows of all data connections close; after --timeout others are made."""
    source = random_file(tmp_path / "x", 10 * MB)
    proxy.plan(SLOW)
    timeout = 2.0
    with sending_file(proxy, source, timeout) as sent:
        proxy.forwarded(2 * MB)
        began = time.monotonic()
        for number in proxy.open_ones(Kind.DATA):
            proxy.plan(Plan(deaf=True), number)
        proxy.plan(Plan())
    assert sent.result().verdict == "INTEGRITY_OK"
    assert time.monotonic() - began < 10 * timeout  # not only when the session is given up
    assert len(proxy.numbers(Kind.DATA)) > STREAMS
    check_one(local.output, source)
