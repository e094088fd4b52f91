"""Bytes damaged on their way: repaired, or given up."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from client import send_files
from config import BLOCK_SIZE, KB, MB
from lft.client.receipt import FailedIntegrityError
from tests.support.compressed import text_file
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread
from tests.support.network import FRAME, check_one
from tests.support.processes import run_client
from tests.support.rawpeer import HEADER
from tests.support.relays import StartProxy, once
from tests.support.waiting import PATIENCE
from tests.tools.proxy import Fault, FaultProxy, Kind, Line, Plan, Way, What


@pytest.mark.parametrize("at", [HEADER + 5, HEADER + 10 * KB, 20, 30])
def test_a_compressed_block_damaged_on_the_way_is_repaired(
    local: ServerThread, tmp_path: Path, at: int
) -> None:
    """15: in its payload, its length or its digest."""
    flip = Fault(What.FLIP, Way.UP, at)
    source = text_file(tmp_path / "x", 3 * MB)
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(faults=(flip,)), Kind.DATA)
        done = run_client(proxy.port, source, "--compress")
        assert proxy.happened(flip) == 1
    assert done.returncode == 0, done.stderr
    assert [md5(path) for path in received(local.output)] == [md5(source)]


def test_many_damaged_compressed_blocks_are_repaired(local: ServerThread, tmp_path: Path) -> None:
    """15: one on each connection, again and again, while blocks get through in between."""
    flip = Fault(What.FLIP, Way.UP, 400 * KB, every=400 * KB, times=None)
    source = text_file(tmp_path / "x", 10 * MB)  # some 2 MB on the wire, or less on a quiet machine
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(up=Line(rate=4 * MB), faults=(flip,)), Kind.DATA)
        done = run_client(proxy.port, source, "--compress", "--streams", "1")
        assert proxy.happened(flip) >= 2
    assert done.returncode == 0, done.stderr
    assert [md5(path) for path in received(local.output)] == [md5(source)]


def test_a_network_that_damages_every_compressed_block_is_given_up(
    local: ServerThread, tmp_path: Path
) -> None:
    """15: nothing is published, and the client ends with a clear error."""
    flip = Fault(What.FLIP, Way.UP, HEADER + 100, every=KB, times=None)
    source = text_file(tmp_path / "x", 100 * KB)
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(faults=(flip,)), Kind.DATA)
        done = run_client(proxy.port, source, "--compress", "--streams", "1")
    assert done.returncode == 5
    assert "a block that does not unpack" in done.stderr.splitlines()[-1]
    assert received(local.output) == []


def test_a_bit_flipped_on_the_way_is_repaired(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """15: the user gets a right file and the receipt says what happened."""
    flip = once(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    proxy = start_proxy(local.port, flip)
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert receipt.resent_blocks >= 1
    assert md5(local.output / receipt.saved_as) == md5(source)


def test_a_missing_that_overtakes_the_acknowledgement_is_understood(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """15: the two come on different connections, in any order."""
    missing = threading.Event()

    def hold_acks(number: int, data: bytes) -> None:
        if b"MISSING" in data:
            missing.set()
        if data.startswith(b"A\0\0\0"):
            missing.wait(PATIENCE)

    flip = once(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    proxy = start_proxy(local.port, flip)
    proxy.on_the_way_back = hold_acks
    source = random_file(tmp_path / "x", 5_000_000)
    (receipt,) = send_files([source], local.client(port=proxy.port))
    assert missing.is_set()
    assert md5(local.output / receipt.saved_as) == md5(source)


def test_a_network_that_damages_everything_is_integrity_failed(
    local: ServerThread, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """15: never a wrong file under a final name, and exit 1's exception with its receipt."""

    def spoil(number: int, offset: int, data: bytes) -> bytes:
        return data if number == 0 or len(data) < 500 else data[:-1] + bytes([data[-1] ^ 1])

    proxy = start_proxy(local.port, spoil)
    source = random_file(tmp_path / "x", 1000)
    with pytest.raises(FailedIntegrityError) as caught:
        send_files([source], local.client(port=proxy.port))
    assert caught.value.exit_code == 1
    assert caught.value.receipt.verdict == "INTEGRITY_FAILED"
    assert received(local.output) == []


DIGEST = HEADER - 32  # where the running digest begins in a block's header


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
    check_one(local.output, source)


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
