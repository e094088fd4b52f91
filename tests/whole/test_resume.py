"""Transfers that are interrupted and go on."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

import pytest

import config
from client import send_files
from config import BLOCK_SIZE, KB, MB, STREAMS
from lft.client.interrupt import CancelledError
from lft.client.progress import Progress
from lft.client.source import Source
from lft.store.journal import Facts
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.wire.connection import Connection
from protocol import ConnectionLostError, IntegrityOk, Message, Side, SourceError, State
from tests.support.files import journal_bytes, md5, part_files, random_file, received
from tests.support.local import ServerThread
from tests.support.network import SLOW, StartClient, check_one, send_file
from tests.support.processes import (
    ServerProcess,
    StartServer,
    client_command,
    environment,
    run_client,
)
from tests.support.rawpeer import HEADER, RawClient, two_blocks_left
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import BUFFER, FaultProxy, Plan, Way


def test_a_killed_server_is_tried_again_and_keeps_what_it_had(
    start_server: StartServer, tmp_path: Path
) -> None:
    """FAULTS 42: the client waits for its return; the next start finds the part file."""
    server = start_server()
    source = random_file(tmp_path / "file.bin", 1)
    os.truncate(source, KB**3)
    with subprocess.Popen(
        client_command(server.port, source, "--limit", "10M"),
        stderr=subprocess.PIPE, env=environment(), text=True,
    ) as client:  # fmt: skip
        assert client.stderr is not None
        eventually(lambda: journal_bytes(server.output) > 1000, "blocks to arrive")
        server.stop(signal.SIGKILL)
        line = client.stderr.readline()
        while "nothing listens there" not in line:
            assert line, "the client has given up"
            line = client.stderr.readline()
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    assert received(server.output) == []
    again = start_server()
    assert len(part_files(server.output)) == 1
    eventually(lambda: "unfinished files kept for their clients to go on: 1" in again.log)


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
    receipt = send_file(network, source)
    sent = network.count(Way.UP) - before
    on_its_way = STREAMS * (BLOCK_SIZE + 2 * BUFFER)
    talk = HEADER * -(-size // BLOCK_SIZE) + 16 * 1024
    assert sent <= size // 10 + on_its_way + talk
    assert receipt.resumed_bytes >= size - size // 10 - on_its_way
    check_one(keeper.output, source)


def test_of_two_that_resume_the_same_file_one_goes_on_and_one_begins(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """43: the part file belongs to one; both files are right."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    network.plan(SLOW)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(send_file, network, source) for _ in range(2)]
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
    receipt = send_file(network, source)
    assert 0 < receipt.resumed_bytes < source.stat().st_size - BLOCK_SIZE
    check_one(keeper.output, source)


def test_a_source_that_became_shorter_before_the_resume_arrives_as_it_is(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """20: nothing of what was cut off comes back."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    with open(source, "r+b") as file:
        file.truncate(3 * MB + 1)
    assert send_file(network, source).bytes == 3 * MB + 1
    check_one(keeper.output, source)


def test_another_file_of_the_same_name_begins_anew(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """20: the same name and size are not the same file."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    random_file(source, 6 * MB, seed=2)
    assert send_file(network, source).resumed_bytes == 0
    check_one(keeper.output, source)


def test_no_resume_begins_anew(
    keeper: ServerProcess, network: FaultProxy, start_client: StartClient, tmp_path: Path
) -> None:
    """The user can ask for that; the file is right all the same."""
    source = random_file(tmp_path / "x", 6 * MB)
    _cut(network, start_client, source, 4 * MB)
    done = run_client(network.port, source, "--no-resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_bytes"] == 0
    check_one(keeper.output, source)


def test_a_connection_lost_while_a_file_is_given_up_costs_the_next_file_nothing(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file changed and is cancelled; the answer never comes: another session goes on."""
    changed, good = random_file(tmp_path / "a", 1000), random_file(tmp_path / "b", 1000)
    cancelled: list[Connection] = []
    receive, check = Connection.receive, Source.prove_unchanged

    def lose(connection: Connection) -> Message | None:
        client = connection.dialogue.side is Side.CLIENT
        if client and connection.dialogue.state_of(1) is State.CANCELLING and not cancelled:
            cancelled.append(connection)
            raise ConnectionLostError("gone")
        return receive(connection)

    def notice(source: Source, algorithm: str, digest: str) -> bool:
        if source.name == changed.name:
            raise SourceError("changed")
        return check(source, algorithm, digest)

    monkeypatch.setattr(Connection, "receive", lose)
    monkeypatch.setattr(Source, "prove_unchanged", notice)
    with pytest.raises(SourceError, match="changed"):
        send_files([changed, good], local.client())
    assert len(cancelled) == 1
    check_one(local.output, good)


def test_a_verdict_that_was_lost_is_given_again(local: ServerThread, tmp_path: Path) -> None:
    """FAULTS 37: published, and the client never heard of it: the same answer, and one file."""
    source = random_file(tmp_path / "x", 500_000)
    with RawClient(local.port).log_in() as client:
        upload = client.start(source.name, source.read_bytes(), resume=True)
        upload.send(client.attach(), *range(len(upload.blocks)))
        verdict = upload.complete()
        assert isinstance(verdict, IntegrityOk)
    eventually(lambda: local.server.parts.in_use == 0, "the part file to rest")
    (receipt,) = send_files([source], local.client())
    assert (receipt.saved_as, receipt.resumed_bytes) == (verdict.saved_as, 500_000)
    check_one(local.output, source)


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": 100_000, "block_size": None},
        {"block_size": 64 * KB},
        {"streams": 32},
    ],
)
def test_other_options_go_on_with_what_is_there(
    local: ServerThread, tmp_path: Path, changes: dict[str, object]
) -> None:
    """DESIGN 7: a limit or other blocks on the second attempt cost nothing of the first."""
    source = random_file(tmp_path / "x", 900_000)
    two_blocks_left(local, source)
    (receipt,) = send_files([source], local.client(**changes))
    assert receipt.resumed_bytes == 2 * 200 * KB
    check_one(local.output, source)
    eventually(lambda: part_files(local.output) == [], "the second name to go")


def test_what_began_by_a_stronger_digest_goes_on_by_that(
    local: ServerThread, tmp_path: Path
) -> None:
    """DESIGN 7: a forgotten option of the first attempt costs nothing, and weakens no proof."""
    source = random_file(tmp_path / "x", 900_000)
    two_blocks_left(local, source, digest="sha256")
    (receipt,) = send_files([source], local.client())
    assert (receipt.resumed_bytes, receipt.algorithm) == (2 * 200 * KB, "sha256")
    check_one(local.output, source)


@pytest.mark.parametrize("block_size", [BLOCK_SIZE, 64 * KB])
def test_a_stronger_digest_proves_what_began_by_a_weaker_one(
    local: ServerThread, tmp_path: Path, block_size: int
) -> None:
    """DESIGN 4: the bytes are hashed again in any case, and then by the digest that is wanted."""
    source = random_file(tmp_path / "x", 900_000)
    two_blocks_left(local, source)
    (receipt,) = send_files([source], local.client(digest="sha256", block_size=block_size))
    assert (receipt.resumed_bytes, receipt.algorithm) == (2 * 200 * KB, "sha256")
    check_one(local.output, source)
    eventually(lambda: part_files(local.output) == [], "the second name to go")


def test_a_stronger_digest_finds_what_is_wrong_of_a_weaker_attempt(
    local: ServerThread, tmp_path: Path
) -> None:
    """FAULTS 35: nothing is taken on trust; damaged blocks are sent again."""
    source = random_file(tmp_path / "x", 900_000)
    two_blocks_left(local, source)
    (part,) = part_files(local.output)
    with open(part, "r+b") as file:
        file.seek(300 * KB)
        file.write(b"damaged")
    (receipt,) = send_files([source], local.client(digest="sha256"))
    assert receipt.verdict == "INTEGRITY_OK"
    check_one(local.output, source)


def test_what_a_stronger_digest_went_on_with_is_kept_for_the_next_attempt(
    local: ServerThread, tmp_path: Path
) -> None:
    """Its journal has the blocks of the weaker one, once the client has told their digests."""
    source = random_file(tmp_path / "x", 40 * 200 * KB)
    two_blocks_left(local, source)
    cancel = threading.Event()

    class Stop(Progress):
        def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
            if sent:
                cancel.set()

    slowly = local.client(digest="sha256", limit=MB)
    with pytest.raises(CancelledError):
        send_files([source], slowly, Stop(), cancel=cancel)
    eventually(lambda: local.server.parts.in_use == 0)
    (journal,) = local.output.glob(".partial/*.journal")
    records = journal.read_bytes().partition(b"\n")[2]
    claimed = {records[at : at + 4] for at in range(0, len(records), 4 + 32)}
    assert {bytes(4), bytes(3) + b"\1"} < claimed
    (receipt,) = send_files([source], local.client(digest="sha256"))
    assert receipt.resumed_bytes > 2 * 200 * KB
    check_one(local.output, source)


def only_the_same(store: PartStore, facts: Facts) -> Iterator[Part]:
    """Give what rests as a server did that took nothing for a stronger digest."""
    return (part for part in store._resting_of(facts) if part.facts.key == facts.key)


def test_an_older_server_begins_anew_for_a_stronger_digest_and_that_is_told(
    local: ServerThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DESIGN 7: what is thrown away, and why; it does not keep its space."""
    monkeypatch.setattr(PartStore, "_fit", only_the_same)
    source = random_file(tmp_path / "x", 900_000)
    two_blocks_left(local, source)
    (receipt,) = send_files([source], local.client(digest="sha256"))
    assert (receipt.resumed_bytes, receipt.algorithm) == (0, "sha256")
    assert "x begins anew: what the server has of it was to be proven by md5" in caplog.text
    eventually(lambda: part_files(local.output) == [], "the second name to go")


def test_a_file_that_begins_otherwise_does_not_go_on_in_other_blocks(
    local: ServerThread, tmp_path: Path
) -> None:
    """FAULTS 20: the same name is not the same file; what is there waits for its own client."""
    source, other = random_file(tmp_path / "x", 900_000), random_file(tmp_path / "y", 900_000, 1)
    two_blocks_left(local, source)
    other.rename(source)
    (receipt,) = send_files([source], local.client(block_size=64 * KB))
    assert receipt.resumed_bytes == 0
    eventually(lambda: len(part_files(local.output)) == 1, "the second name to go")


def test_a_file_that_is_begun_anew_frees_what_it_replaces(
    local: ServerThread, tmp_path: Path
) -> None:
    """DESIGN 8: in whatever blocks that was cut; otherwise it would keep its space for a week."""
    source = random_file(tmp_path / "x", 900_000)
    two_blocks_left(local, source)
    send_files([source], local.client(block_size=64 * KB, resume=False))
    eventually(lambda: part_files(local.output) == [], "the second name to go")


def test_the_log_has_a_line_for_each_tenth_of_what_is_resumed(
    local: ServerThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also for those that were there: their digests come like blocks."""
    source = random_file(tmp_path / "x.bin", 100 * 200 * KB)  # ten blocks: more than one run
    with RawClient(local.port).log_in() as client:
        upload = client.start(source.name, source.read_bytes(), resume=True)
        upload.send(client.attach(), *range(55))
    eventually(lambda: local.server.parts.in_use == 0)
    monkeypatch.setattr(config, "FLUSH_EVERY", 1)  # the least bytes between two lines
    caplog.clear()
    caplog.set_level(logging.INFO, "block")
    send_files([source], local.client())
    told = {int(percent) // 10 for percent in re.findall(r"x\.bin: (\d+) %", caplog.text)}
    assert told == set(range(1, 11))
