"""The server's parts without sockets: names, part file, transfer, queue, registry, start-up."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

import pytest
from conftest import eventually, part_files
from hypothesis import given, settings
from hypothesis import strategies as st

import config
import server as module
from config import ServerSettings
from protocol import Connection, FileStart, RejectedError, Side, UsageError
from server import (
    BufferPool,
    Claims,
    Facts,
    OutputDirectory,
    PartFile,
    PartStore,
    Peer,
    Registry,
    Server,
    Session,
    Transfer,
    TransferEndedError,
    WorkQueue,
    output_name,
    safe_name,
)

# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", "", " ", "...", ". ."])
def test_a_name_that_names_no_file_is_rejected(name: str) -> None:
    """FAULTS 8: nothing can be saved under such a name."""
    with pytest.raises(RejectedError):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../x", ".._x"),
        ("a/../b", "a_.._b"),
        ("/x", "_x"),
        ("\\\\srv\\s", "__srv_s"),
        ("C:x", "C_x"),
        ("f:stream", "f_stream"),
        ("dot.", "dot_"),
        ("space ", "space_"),
        ("nul\0", "nul_"),
        ("cr\r\nlf", "cr__lf"),
        ("esc\x1b[31m", "esc_[31m"),
        ("c1\x9bm", "c1_m"),
        ("zero\u200bwidth", "zero_width"),
        ("rtl\u202egnp", "rtl_gnp"),
        ("lone\udcff", "lone_"),
    ],
)
def test_a_dangerous_name_is_made_harmless(name: str, safe: str) -> None:
    """FAULTS 8 and 9: separators and characters that act or hide become underscores."""
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    "name",
    ["a.txt", "with space.txt", "at@sign", "it's \"quoted\"", "📦.bin", "über", "u\u0308ber", "-rf",
     ".hidden", "CON", "COM1.log", "日本語.tar.gz"],
)  # fmt: skip
def test_a_harmless_name_stays_as_it_is(name: str) -> None:
    """FAULTS 10: the original name is kept where it hurts nobody behind the prefix."""
    assert safe_name(name) == name
    assert output_name(name, "x") == f"server_received_x_{name}"


@given(st.text(max_size=400))
def test_no_name_leaves_the_output_directory(name: str) -> None:
    """FAULTS 8: whatever comes is rejected, or one plain file name of at most 255 bytes."""
    try:
        final = output_name(safe_name(name), "20260101-000000-abcdef")
    except RejectedError:
        return
    assert os.path.basename(final) == final
    assert len(os.fsencode(final)) <= 255


def test_a_long_name_is_shortened_before_its_extension() -> None:
    """FAULTS 10: 255 bytes and the prefix do not fit; the extension is kept."""
    final = output_name("é" * 125 + ".tar", "20260101-000000-abcdef")
    assert len(final.encode()) in (254, 255)
    assert final.endswith("é.tar")


# --- the part file ------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output directory."""
    (tmp_path / module.PARTIAL).mkdir()
    return tmp_path


def facts_of(size: int, name: str = "x", unique: str = "taken", block: int = 4) -> Facts:
    """Facts of a file of one user."""
    return Facts("u", name, size, block, "md5", output_name(name, unique))


def test_a_part_file_is_published_with_its_bytes(output: Path) -> None:
    """What was written at its offsets stands under the final name, and nothing else is left."""
    part = PartFile.create(output, facts_of(6))
    part.write(memoryview(b"def"), 3)
    part.write(memoryview(b"abc"), 0)
    part.flush()
    name = part.publish()
    part.remove()
    assert (output / name).read_bytes() == b"abcdef"
    assert part_files(output) == []


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "fifo"])
def test_publishing_never_replaces_or_follows_what_is_there(
    output: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """FAULTS 11: a taken name is left alone, whatever it is, and another one is found."""
    taken = output / "server_received_taken_x"
    victim = output / "victim"
    victim.write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "file": lambda: taken.write_text("precious"),
        "folder": taken.mkdir,
        "symlink": lambda: taken.symlink_to(victim),
        "fifo": lambda: os.mkfifo(taken),
    }
    make[kind]()
    before = taken.lstat()
    monkeypatch.setattr(module, "_unique", lambda: "free")
    part = PartFile.create(output, facts_of(1))
    part.write(memoryview(b"x"), 0)
    assert part.publish() == "server_received_free_x"
    part.remove()
    assert stat.S_IFMT(taken.lstat().st_mode) == stat.S_IFMT(before.st_mode)
    assert victim.read_text() == "precious"


def test_without_room_nothing_is_left_behind(output: Path) -> None:
    """FAULTS 12: a file larger than the disk is refused before a byte is written."""
    with pytest.raises(OSError, match=r"space|large"):
        PartFile.create(output, facts_of(2**62))
    assert part_files(output) == []


def test_a_part_file_cut_short_by_somebody_else_is_noticed(output: Path) -> None:
    """Reading back what is gone is an error, not zeros."""
    part = PartFile.create(output, facts_of(4))
    os.truncate(part_files(output)[0], 2)
    with pytest.raises(OSError, match="truncated"):
        part.read(memoryview(bytearray(4)), 0)
    part.remove()


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    """FAULTS 44: two servers would take each other's part files for their own."""
    first = OutputDirectory(tmp_path)
    with pytest.raises(UsageError, match="another server"):
        OutputDirectory(tmp_path)
    first.release()
    OutputDirectory(tmp_path).release()


def test_part_files_without_a_journal_are_removed_at_the_start(
    output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody can go on with does not fill the disk, and the log says so."""
    (output / module.PARTIAL / "0123.part").write_bytes(b"old")
    PartStore(output).scan()
    assert part_files(output) == []
    assert "removing 0123" in caplog.text


# --- a transfer ---------------------------------------------------------------------------------

BLOCK = 4


class Sample:
    """A transfer of a small file, with what its client knows."""

    def __init__(self, output: Path, size: int, lend: int = 0) -> None:
        self.data = os.urandom(size)
        self.judged = 0  # how often somebody was told to publish
        self.buffers = BufferPool(8 * BLOCK, lend)
        head = hashlib.md5(self.data[:BLOCK]).hexdigest()
        start = FileStart("x", len(self.data), BLOCK, "md5", head, True)
        session = Session("u", 0, _peer())
        self.store_of_parts = PartStore(output)
        self.transfer = Transfer(1, session, start, "x", self.buffers, self.let_go)
        self.part, self.claims = self._part()
        self.transfer.open(self.part, self.claims)
        self.parts = [self.data[i : i + BLOCK] for i in range(0, len(self.data), BLOCK)]
        self.digests = [
            hashlib.md5(self.data[: i + BLOCK]).digest() for i in range(0, len(self.data), BLOCK)
        ]
        self.digest = hashlib.md5(self.data).hexdigest()

    def _part(self) -> tuple[PartFile, Claims | None]:
        return self.store_of_parts.create(self.transfer), None

    def let_go(self, _transfer: Transfer, part: PartFile) -> None:
        """Take the part file at the end."""
        self.store_of_parts.drop(part)

    def store(self, index: int, payload: bytes | None = None) -> module.Due:
        """Have one block arrive, damaged if ``payload`` is not its own."""
        data = self.parts[index] if payload is None else payload
        view = self.buffers.take(len(data))
        view[:] = data
        return self.transfer.store(index, self.digests[index], view)

    def hash(self) -> list[int]:
        """Hash all that can be hashed; return the damaged blocks."""
        damaged = []
        more = True
        while more:
            stretch = self.transfer.hash_stretch()
            more = stretch.more
            damaged += [first for first, _ in stretch.missing]
            self.judged += stretch.judged
        return damaged


def _peer() -> Peer:
    """Make a peer whose connection nobody uses."""
    ours, theirs = socket.socketpair()
    theirs.close()
    connection = Connection(ours, Side.SERVER)
    connection.close()
    return Peer(connection, 1.0)


@pytest.fixture
def sample(output: Path) -> Iterator[Sample]:
    """A transfer of ten blocks."""
    one = Sample(output, 39)
    yield one
    one.transfer.end()
    assert part_files(output) == []


def test_blocks_in_any_order_are_verified_in_file_order(sample: Sample) -> None:
    """Hashing stops at a gap and goes on when it is filled."""
    for index in (3, 1, 2):
        sample.store(index)
    sample.hash()
    assert sample.transfer.verified_bytes == 0
    sample.store(0)
    sample.hash()
    assert sample.transfer.verified_bytes == 4 * BLOCK


def test_a_complete_transfer_is_judged_by_its_last_running_digest(sample: Sample) -> None:
    """The running digest of the last block is the digest of the file."""
    for index in range(10):
        sample.store(index)
    assert sample.transfer.complete(sample.digest) == ()
    assert sample.judged == 0
    sample.hash()
    assert sample.judged == 1
    assert sample.transfer.digest == sample.transfer.claimed_digest == sample.digest


def test_a_damaged_block_is_found_asked_for_and_repaired(sample: Sample) -> None:
    """FAULTS 15: the first block whose running digest differs is the damaged one."""
    for index in range(10):
        sample.store(index, b"XXXX" if index == 4 else None)
    assert sample.hash() == [4]
    assert sample.transfer.verified_bytes == 4 * BLOCK
    sample.store(4)
    assert sample.hash() == []
    assert sample.transfer.complete(sample.digest) == ()
    sample.hash()
    assert sample.judged == 1
    assert sample.transfer.resent == 1


def test_a_block_damaged_every_time_makes_a_transfer_hopeless(sample: Sample) -> None:
    """FAULTS 15: rounds are counted without progress, and they end."""
    for rounds in range(config.MAX_ROUNDS + 1):
        assert not sample.transfer.hopeless, rounds
        sample.store(0, b"XXXX")
        assert sample.hash() == [0]
    assert sample.transfer.hopeless


def test_many_damaged_blocks_are_not_hopeless_while_repair_goes_on(output: Path) -> None:
    """Only rounds without progress count: here every block is damaged once."""
    sample = Sample(output, 4 * BLOCK * config.MAX_ROUNDS)
    for index in range(len(sample.parts)):
        sample.store(index, b"XXXX")
        assert sample.hash() == [index]
        sample.store(index)
        assert sample.hash() == []
    assert not sample.transfer.hopeless
    sample.transfer.end()


def test_a_block_that_comes_twice_is_written_once(sample: Sample) -> None:
    """FAULTS 16: a duplicate, even a damaged one, changes nothing."""
    sample.store(0)
    assert sample.store(0, b"XXXX").received == BLOCK
    assert sample.hash() == []
    assert sample.store(0, b"XXXX").received == BLOCK
    assert sample.transfer.verified_bytes == BLOCK


def test_gaps_at_complete_are_asked_for(sample: Sample) -> None:
    """FAULTS 18: the answer names exactly the blocks that are not here."""
    for index in (0, 1, 4, 7, 8):
        sample.store(index)
    assert sample.transfer.complete(sample.digest) == ((2, 4), (5, 7), (9, 10))
    assert sample.transfer.claimed_digest is None


def test_a_complete_that_crossed_a_missing_does_not_count(sample: Sample) -> None:
    """The client will send another one once it has read the MISSING."""
    for index in range(10):
        sample.store(index, b"XXXX" if index == 2 else None)
    assert sample.hash() == [2]
    assert sample.transfer.complete(sample.digest) == ()
    assert sample.transfer.claimed_digest is None
    sample.store(2)
    assert sample.transfer.complete(sample.digest) == ()
    assert sample.transfer.claimed_digest == sample.digest


def test_the_part_file_stays_open_until_its_last_user_has_left(sample: Sample) -> None:
    """Ending a transfer never pulls the file from under a worker."""
    with sample.transfer.part() as part:
        assert sample.transfer.end()
        part.write(memoryview(b"late"), 0)
    with pytest.raises(OSError, match="descriptor"):
        part.write(memoryview(b"gone"), 0)


def test_an_ended_transfer_takes_nothing(sample: Sample) -> None:
    """A late block finds the transfer closed."""
    sample.transfer.end()
    with pytest.raises(TransferEndedError):
        sample.store(0)


def test_a_transfer_ends_once(sample: Sample) -> None:
    """Only one of those who end it may answer the client."""
    assert [sample.transfer.end() for _ in range(3)] == [True, False, False]


def test_a_complete_transfer_is_judged_once(sample: Sample) -> None:
    """Two workers that find nothing more to hash must not both publish."""
    for index in range(10):
        sample.store(index)
    sample.hash()
    sample.transfer.complete(sample.digest)
    for _ in range(3):
        sample.hash()
    assert sample.judged == 1


def test_nobody_else_ends_a_transfer_that_is_being_published(sample: Sample) -> None:
    """A CANCEL that comes too late must not be answered REJECTED beside a published file."""
    sample.transfer.begin_publishing()
    assert not sample.transfer.end()
    assert sample.transfer.end(by_publisher=True)


def test_an_ended_transfer_is_not_published(sample: Sample) -> None:
    """Whoever was faster has answered the client already."""
    sample.transfer.end()
    with pytest.raises(TransferEndedError):
        sample.transfer.begin_publishing()


def test_only_so_many_blocks_may_wait_behind_a_gap(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered about blocks beyond a gap is bounded."""
    monkeypatch.setattr(config, "MAX_AHEAD", 2)
    for index in (1, 2):
        sample.store(index)
    assert not sample.transfer.full
    sample.store(3)
    assert sample.transfer.full


def test_buffers_are_kept_up_to_a_limit_and_used_again() -> None:
    """One that is given back is the next to be taken; beyond the limit they are freed."""
    pool = BufferPool(10)
    views = [pool.take(6) for _ in range(2)]
    for view in views:
        pool.give(view)
    assert pool.take(6).obj is views[0].obj
    assert pool.take(6).obj is not views[1].obj


def test_what_waits_to_be_hashed_may_take_a_bounded_share_of_memory(output: Path) -> None:
    """The pool lends so much to all transfers together; an ended one gives its share back."""
    sample = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    for index in range(1, 10):
        sample.store(index)
    assert not sample.buffers.lend(1)
    sample.store(0)
    assert sample.hash() == []
    assert sample.buffers.lend(3 * BLOCK)
    sample.buffers.settle(3 * BLOCK)
    sample.transfer.end()
    other = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    other.store(5)
    other.transfer.end()
    assert other.buffers.lend(3 * BLOCK)


def test_hashing_is_begun_by_one_worker_only(sample: Sample) -> None:
    """A second worker that finds hashing due is told that somebody is at it."""
    due = [sample.store(index).hashing for index in range(10)]
    assert due.count(True) == 1
    assert not sample.transfer.begin_hashing()


@given(
    order=st.permutations(list(range(10))),
    damage=st.sets(st.integers(0, 9)),
    again=st.lists(st.integers(0, 9), max_size=5),
    size=st.integers(37, 40),
)
@settings(max_examples=60, deadline=None)
def test_any_order_damage_and_repetition_ends_with_the_right_file(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    damage: set[int],
    again: list[int],
    size: int,
) -> None:
    """Whatever the network does to blocks, the published bytes are the client's."""
    output = tmp_path_factory.mktemp("out")
    (output / module.PARTIAL).mkdir()
    sample = Sample(output, size)
    for index in order + again:
        bad = bytes(len(sample.parts[index]))
        sample.store(index, bad if index in damage and bad != sample.parts[index] else None)
    while not sample.judged:
        for index in sample.hash():
            sample.store(index)
        sample.transfer.complete(sample.digest)
    assert sample.transfer.digest == sample.digest
    name = sample.part.publish()
    sample.transfer.end()
    assert (output / name).read_bytes() == sample.data


# --- the queue of workers -----------------------------------------------------------------------


@pytest.fixture
def one_worker() -> Iterator[WorkQueue]:
    """A queue with a single worker, so that the order shows."""
    work = WorkQueue(1)
    yield work
    work.shutdown()


def _wait(gate: threading.Event) -> None:
    gate.wait()


def _run_behind_a_blocker(work: WorkQueue, units: list[tuple[str, int]]) -> list[str]:
    """Put units while the only worker is busy; return their names in the order they ran."""
    gate = threading.Event()
    ran: list[str] = []
    work.put(partial(_wait, gate), 0)
    for name, priority in units:
        work.put(partial(ran.append, name), priority)
    gate.set()
    eventually(lambda: len(ran) == len(units))
    return ran


def test_higher_priority_runs_first_then_the_older_unit(one_worker: WorkQueue) -> None:
    """Priority, then age."""
    units = [("low", 0), ("high", 1), ("low again", 0), ("high again", 1)]
    order = _run_behind_a_blocker(one_worker, units)
    assert order == ["high", "high again", "low", "low again"]


def test_waiting_raises_urgency(one_worker: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A low unit that waited longer than a step of priority is worth runs first: none starves."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gate = threading.Event()
    ran: list[str] = []
    one_worker.put(partial(_wait, gate), 0)
    one_worker.put(lambda: ran.append("low"), 0)
    now += config.URGENCY + 1
    one_worker.put(lambda: ran.append("high"), 1)
    gate.set()
    monkeypatch.undo()
    eventually(lambda: len(ran) == 2)
    assert ran == ["low", "high"]


def test_a_unit_that_raises_does_not_cost_a_worker(
    one_worker: WorkQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 45: the error is logged, the next unit runs."""
    done = threading.Event()
    one_worker.put(lambda: 1 / 0, 0)  # type: ignore[arg-type]
    one_worker.put(done.set, 0)
    assert done.wait(10)
    assert "a unit of work failed" in caplog.text


def test_a_worker_leaves_a_silent_peer_when_somebody_needs_it(
    one_worker: WorkQueue,
) -> None:
    """A worker never waits for a peer while somebody else is ready."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Side.SERVER)
    lingering, left, done = threading.Event(), threading.Event(), threading.Event()

    def unit() -> None:
        lingering.set()
        assert not one_worker.linger(connection, 3600.0)
        left.set()

    one_worker.put(unit, 0)
    assert lingering.wait(10)
    one_worker.put(done.set, 0)
    assert left.wait(10)
    assert done.wait(10)
    ours.close()
    theirs.close()


def test_a_unit_that_comes_after_the_end_is_dropped() -> None:
    """A worker that still runs may put one; that is no error."""
    work = WorkQueue(1)
    work.shutdown()
    work.put(lambda: None, 0)


def test_a_connection_is_never_given_to_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post and the peer's own bytes in one round of the selector: the second event is stale."""
    server = Server(ServerSettings(port=0, output=tmp_path), {})
    ours, theirs = socket.socketpair()
    server._welcome(ours)
    (peer,) = server._peers
    units: list[object] = []
    monkeypatch.setattr(server._service.work, "put", lambda unit, priority: units.append(unit))
    server._nudge(peer)
    server._on_ready(peer)
    assert len(units) == 1
    theirs.close()
    server._close()


# --- the registry -------------------------------------------------------------------------------


def _transfer(priority: int = 0) -> Transfer:
    session = Session("u", priority, _peer())
    start = FileStart("x", 1, BLOCK, "md5", "0" * 32, False)
    return Transfer(0, session, start, "x", BufferPool(BLOCK), lambda _transfer, _part: None)


def test_further_transfers_wait_and_are_admitted_as_others_leave() -> None:
    """Positions count from 1 and move up."""
    registry = Registry(max_active=1)
    first, second, third = (_transfer() for _ in range(3))
    assert [registry.enter(one) for one in (first, second, third)] == [0, 1, 2]
    assert registry.leave(first) == [second]
    assert registry.waiting() == [third]
    assert registry.leave(third) == []
    assert registry.leave(second) == []


def test_an_urgent_transfer_waits_before_the_others() -> None:
    """Higher number first."""
    registry = Registry(max_active=1)
    registry.enter(_transfer())
    low, high = _transfer(0), _transfer(1)
    assert registry.enter(low) == 1
    assert registry.enter(high) == 1
    assert registry.waiting() == [high, low]


def test_too_many_waiting_transfers_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 30: the queue is bounded."""
    monkeypatch.setattr(config, "MAX_WAITING_TRANSFERS", 1)
    registry = Registry(max_active=0)
    registry.enter(_transfer())
    with pytest.raises(RejectedError, match="try again"):
        registry.enter(_transfer())


def test_a_token_finds_its_session_until_that_ends() -> None:
    """FAULTS 17: an unknown token and one of a past session find nothing."""
    registry = Registry(max_active=1)
    session, peer = Session("u", 0, _peer()), _peer()
    registry.add(session)
    assert registry.attach(session.token, peer) is session
    assert registry.attach("guess", peer) is None
    assert registry.remove(session) == [peer]
    assert registry.attach(session.token, peer) is None


# --- starting in a way that cannot work ---------------------------------------------------------


def test_a_port_in_use_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert module.main(["--port", port, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "in use" in error
    assert "--port" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_the_demo_accounts_are_for_loopback_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """Asked to listen elsewhere without --credentials, the server refuses and says what to do."""
    assert module.main(["--host", host, "--port", "0", "--output", str(tmp_path / "out")]) == 2
    assert "auth.py add" in capsys.readouterr().err


@pytest.mark.parametrize("problem", ["missing", "readable", "malformed", "symlink"])
def test_a_bad_credential_file_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    """FAULTS 25: the server does not start and says why."""
    path = tmp_path / "users.json"
    if problem != "missing":
        path.write_text("{}")
        path.chmod(0o644 if problem == "readable" else 0o600)
    if problem == "symlink":
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
    options = ["--port", "0", "--output", str(tmp_path / "out"), "--credentials", str(path)]
    assert module.main(options) == 2
    error = capsys.readouterr().err
    assert "credential file" in error
    assert error.count("\n") == 1


def test_an_output_directory_that_cannot_be_made_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line."""
    (tmp_path / "file").write_text("in the way")
    assert module.main(["--port", "0", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "output directory" in capsys.readouterr().err
