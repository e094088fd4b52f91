"""Standard input, from a pipe to the output directory: its size is known when it ends."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import config
from client import send_files
from config import BLOCK_SIZE, KB, MB
from lft.accounts.permissions import Rights
from lft.client.standard_input import StandardInput
from lft.server.unsized import UnsizedTransfer
from lft.store.partfile import PartFile
from protocol import (
    FileReady,
    FileStart,
    Goodbye,
    IntegrityOk,
    Rejected,
    RemoteProtocolError,
    TransferComplete,
)
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.files import md5, part_files, random_file, received, strays
from tests.support.impostor import Impostor
from tests.support.local import ServerThread, StartLocal
from tests.support.network import FRAME
from tests.support.processes import (
    ServerProcess,
    StartServer,
    client_command,
    environment,
    peak_memory,
    still_serves,
)
from tests.support.rawpeer import HEADER, Peer, RawClient, RawUpload, push
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import Fault, FaultProxy, Kind, Line, Plan, Way, What

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start_piped() -> Iterator[Start]:
    """Start clients that read a pipe; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = client_command(port, *(arguments or ("-",)))
        started.append(
            subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env={**environment(), **variables}
            )
        )
        return started[-1]

    yield start
    for client in started:
        client.kill()
        client.communicate()


def put(client: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to a client."""
    assert client.stdin is not None
    client.stdin.write(data)
    client.stdin.flush()


def finish(client: subprocess.Popen[bytes], data: bytes = b"") -> tuple[int, str, str]:
    """Write the rest and close the pipe; return exit code, standard output and error."""
    out, err = client.communicate(data, timeout=2 * PATIENCE)
    assert b"Traceback" not in err, err
    return client.returncode, out.decode(), err.decode()


def check_arrived(output: Path, data: bytes) -> None:
    """Check that exactly this file is there, that it has no room to spare, and nothing else."""
    (saved,) = received(output)
    assert saved.read_bytes() == data
    assert saved.stat().st_blocks * 512 <= len(data) + 64 * KB
    eventually(lambda: strays(output) == [])


@pytest.mark.parametrize(
    "size",
    [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 10 * BLOCK_SIZE, 30 * MB + 77],
)
def test_what_is_piped_arrives_whole(
    server: ServerProcess, tmp_path: Path, start_piped: Start, size: int
) -> None:
    """12: every size that could be special, in one verdict with the digest of all of it."""
    source = random_file(tmp_path / "x", size)
    code, out, err = finish(start_piped(server.port, "-", "--name", "b.tar"), source.read_bytes())
    assert code == 0, err
    assert out.startswith("INTEGRITY_OK")
    assert out.rstrip().endswith(f"{md5(source)}  b.tar")
    assert ("nothing came" in err) == (size == 0)
    check_arrived(server.output, source.read_bytes())


@pytest.mark.parametrize("options", [["--compress"], ["--digest", "sha256"], ["--block-size", "4M"],
                                     ["--block-size", "auto", "--streams", "auto"]])  # fmt: skip
def test_the_other_options_hold_for_a_pipe_too(
    server: ServerProcess, start_piped: Start, options: list[str]
) -> None:
    """Without a name it is called stdin."""
    data = b"line %d of a log\n" % 7 * 300_000
    code, out, err = finish(start_piped(server.port, "-", *options), data)
    assert code == 0, err
    assert out.rstrip().endswith("stdin")
    check_arrived(server.output, data)


def test_several_files_and_a_pipe_go_through_one_session(
    server: ServerProcess, tmp_path: Path, start_piped: Start
) -> None:
    """In the order of the command line."""
    sources = [random_file(tmp_path / name, 300 * KB, seed) for seed, name in enumerate("ab")]
    client = start_piped(server.port, str(sources[0]), "-", str(sources[1]))
    code, out, err = finish(client, b"in between")
    assert code == 0, err
    assert [line.split()[-1] for line in out.splitlines()] == ["a", "stdin", "b"]
    assert len(received(server.output)) == 3


def test_blocks_arrive_before_the_end_is_known(server: ServerProcess, start_piped: Start) -> None:
    """Nothing is collected on the way: the part file grows while the program before us works."""
    client, data = start_piped(server.port), os.urandom(2 * BLOCK_SIZE)
    put(client, data)
    eventually(lambda: [path for path in part_files(server.output)
                        if path.read_bytes()[: len(data)] == data])  # fmt: skip
    assert received(server.output) == []
    code, _, err = finish(client, b"end")
    assert code == 0, err
    check_arrived(server.output, data + b"end")


def test_memory_is_bounded_on_both_sides(server: ServerProcess, start_piped: Start) -> None:
    """32: of what the client keeps, and of what the server has not verified."""
    client = start_piped(server.port, "-", "--quiet")
    assert client.stdin is not None
    digest, piece = hashlib.md5(), os.urandom(MB)
    for _ in range(400):
        client.stdin.write(piece)
        digest.update(piece)
    memory = peak_memory(client.pid), peak_memory(server.process.pid)
    code, out, err = finish(client)
    assert code == 0, err
    assert digest.hexdigest() in out
    assert max(memory) < 160 * KB  # in KB


# --- limits, which are met on the way ------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_file_size": 20 * MB}, "is more than 20971520 bytes, the most here"),
        ({"quota": 20 * MB}, "rejected: it is larger than the 20.0 MB left of the quota"),
    ],
)
@pytest.mark.parametrize("fits", [True, False])
def test_limits_hold_to_the_byte(
    serve: Serve, start_piped: Start, limits: dict[str, int], reason: str, fits: bool
) -> None:
    """13: rejected in the middle, with the reason; nothing is published, the pipe breaks."""
    local = serve({"alice": account(**limits)})
    data = bytes(20 * MB + (0 if fits else 1))
    client = start_piped(local.port, "-", "--user", "alice", LFT_PASSWORD=PASSWORD)
    code, _, err = finish(client, data)
    assert code == (0 if fits else 4), err
    assert (reason in err) == (not fits)
    assert "no such transfer" not in err  # of the data connections, which end with it
    eventually(lambda: strays(local.output) == [])
    assert len(received(local.output)) == fits


def test_blocks_on_their_way_to_a_rejected_transfer_are_no_fault(
    serve: Serve, start_piped: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """13: the log has the rejection, and no warning for each data connection."""
    local = serve({"alice": account(max_file_size=5 * MB)})
    client = start_piped(local.port, "-", "--user", "alice", LFT_PASSWORD=PASSWORD)
    code, _, _ = finish(client, bytes(20 * MB))
    assert code == 4
    eventually(lambda: strays(local.output) == [])
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 1
    assert told[0].endswith(", the most here")


def test_a_source_without_end_ends_at_the_limit(
    start_server: StartServer, start_piped: Start, tmp_path: Path
) -> None:
    """13: the client does not wait for the end of what it cannot deliver."""
    server = start_server("--max-file-size", "5M")
    with open("/dev/zero", "rb") as zeros:
        done = subprocess.run(
            client_command(server.port, "-"), stdin=zeros, capture_output=True, check=False,
            timeout=2 * PATIENCE, env=environment(),
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert b"5.0 MB, the most here" in done.stderr
    assert b"goes on where" not in done.stderr
    still_serves(server.port, tmp_path)


def test_a_full_disk_is_met_on_the_way(
    local: ServerThread, start_piped: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33: space cannot be reserved for what has no size; the client hears why it ends."""
    real = os.posix_fallocate

    def full(descriptor: int, offset: int, length: int) -> None:
        if offset + length > 20 * MB:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    client = start_piped(local.port)
    code, _, err = finish(client, bytes(30 * MB))
    assert code == 4
    assert "not enough space on the server" in err
    assert received(local.output) == []
    eventually(lambda: strays(local.output) == [])


# --- faults of the network -----------------------------------------------------------------------


def test_a_damaged_block_is_sent_again_from_memory(
    local: ServerThread, proxy: FaultProxy, start_piped: Start
) -> None:
    """15: although its source cannot be read again."""
    flips = [Fault(What.FLIP, Way.UP, HEADER + 10 * KB + n * FRAME) for n in range(3)]
    proxy.plan(Plan(faults=tuple(flips)), Kind.DATA)
    data = os.urandom(20 * MB)
    code, _, err = finish(start_piped(proxy.port, "-", "--streams", "1"), data)
    assert [proxy.happened(flip) for flip in flips] == [1, 1, 1]
    assert code == 0, err
    assert "damaged on the way" in err
    check_arrived(local.output, data)


@pytest.mark.parametrize("at", [FRAME // 2, 3 * FRAME, 3 * FRAME + 1])
def test_lost_data_connections_are_replaced(
    local: ServerThread, proxy: FaultProxy, start_piped: Start, at: int
) -> None:
    """39: each of the four at some time; what was under way on them is still in memory."""
    proxy.plan(Plan(faults=(Fault(What.RESET, Way.UP, at),)), Kind.DATA)
    data = os.urandom(10 * MB)
    code, _, err = finish(start_piped(proxy.port), data)
    assert code == 0, err
    assert "a data connection was lost" in err
    check_arrived(local.output, data)


def test_what_was_verified_needs_no_acknowledgement(
    local: ServerThread, proxy: FaultProxy, start_piped: Start
) -> None:
    """39: acknowledgements were lost on the way, and their blocks are in memory no more."""
    lost = Fault(What.RESET, Way.UP, 40 * FRAME)
    proxy.plan(Plan(down=Line(delay=1.0), faults=(lost,)), Kind.DATA)
    data = os.urandom(20 * MB)
    code, _, err = finish(start_piped(proxy.port, "-", "--streams", "1"), data)
    assert proxy.happened(lost) == 1
    assert code == 0, err
    check_arrived(local.output, data)


def test_a_lost_session_is_the_end_and_is_said_as_such(
    local: ServerThread, proxy: FaultProxy, start_piped: Start, tmp_path: Path
) -> None:
    """39: what was read cannot be read again; no advice to go on where that cannot be."""
    client = start_piped(proxy.port, "-", str(random_file(tmp_path / "next", 1000)))
    put(client, os.urandom(3 * MB))
    eventually(lambda: part_files(local.output))
    eventually(lambda: local.server.admission.active()[0].verified_bytes > 0)
    proxy.reset()
    code, out, err = finish(client, b"more")
    assert code == 5
    assert "standard input cannot be read again: run the whole command anew" in err
    assert "goes on where" not in err
    assert "the session ended with the last file: trying again" in err
    assert out.rstrip().endswith("next")  # the files after it are sent all the same
    (saved,) = received(local.output)
    assert saved.name.endswith("next")
    eventually(lambda: strays(local.output) == [])


def test_a_server_that_is_busy_at_first_is_tried_again(
    start_local: StartLocal, start_piped: Start
) -> None:
    """Nothing has been read by then."""
    local = start_local(max_active=1)
    with RawClient(local.port).log_in() as other:
        other.start("x", bytes(1000))
        client = start_piped(local.port)
        put(client, b"some")
        eventually(lambda: len(local.server.admission.waiting()) == 1, "it to wait")
    code, _, err = finish(client, b"thing")
    assert code == 0, err
    check_arrived(local.output, b"something")


def test_a_source_may_be_silent_for_longer_than_a_server_waits(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client says that it lives: the program before it may think for hours."""
    monkeypatch.setattr(config, "SIGN_OF_LIFE", 0.1)
    monkeypatch.setattr(config, "PATIENCE", 0.1)
    local, (ours, theirs) = start_local(stall_timeout=2.0), os.pipe()
    monkeypatch.setattr("client.open_source", lambda path, settings: StandardInput("x", ours))
    with ThreadPoolExecutor(1) as pool, os.fdopen(theirs, "wb", 0) as pipe:
        sending = pool.submit(send_files, ["-"], local.client())
        pipe.write(b"a" * BLOCK_SIZE)
        eventually(local.server.admission.active, "the transfer")
        (transfer,) = local.server.admission.active()
        eventually(lambda: transfer.stalled_for() < time.monotonic() - transfer.asked_at - 4,
                   "it to live on beyond twice that time")  # fmt: skip
        pipe.write(b"b")
        pipe.close()
        (receipt,) = sending.result()
    os.close(ours)
    assert receipt.bytes == BLOCK_SIZE + 1
    check_arrived(local.output, b"a" * BLOCK_SIZE + b"b")


def test_a_client_that_says_nothing_loses_its_transfer(start_local: StartLocal) -> None:
    """30: a transfer without an end in sight holds its place only while its client lives."""
    local = start_local(stall_timeout=0.5)
    with RawClient(local.port).log_in() as client:
        begin(client)
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "timeout"


# --- ends of processes ---------------------------------------------------------------------------


def test_a_killed_client_leaves_nothing(
    server: ServerProcess, start_piped: Start, tmp_path: Path
) -> None:
    """36: not published, not kept for a resume that cannot be."""
    client = start_piped(server.port)
    put(client, os.urandom(3 * MB))
    eventually(lambda: part_files(server.output))
    client.send_signal(signal.SIGKILL)
    client.wait(PATIENCE)
    eventually(lambda: not part_files(server.output), "the part file to go")
    assert received(server.output) == []
    still_serves(server.port, tmp_path)


def test_a_killed_server_is_the_end_and_its_next_start_cleans_up(
    start_server: StartServer, start_piped: Start
) -> None:
    """36: the client says so, and nothing of it is ever published."""
    server = start_server()
    client = start_piped(server.port)
    put(client, os.urandom(3 * MB))
    eventually(lambda: part_files(server.output))
    eventually(lambda: sum(path.stat().st_size for path in part_files(server.output)))
    server.stop(signal.SIGKILL)
    code, _, err = finish(client)
    assert code == 5
    assert "standard input cannot be read again" in err
    again = start_server()
    eventually(lambda: not part_files(again.output), "the part file to go")
    assert received(again.output) == []


def test_an_interrupt_ends_a_client_that_waits_for_its_input(
    server: ServerProcess, start_piped: Start
) -> None:
    """38: at once, and without the advice to go on."""
    client = start_piped(server.port)
    put(client, b"x" * BLOCK_SIZE)
    eventually(lambda: part_files(server.output))
    client.send_signal(signal.SIGINT)
    assert client.wait(PATIENCE) == 130
    _, _, err = finish(client)
    assert "interrupted" in err
    assert "goes on where" not in err
    eventually(lambda: not part_files(server.output), "the part file to go")


def test_a_closed_standard_input_is_said(server: ServerProcess) -> None:
    """21: before a server is asked for anything."""
    command = " ".join(client_command(server.port, "-"))
    done = subprocess.run(["sh", "-c", f"{command} <&-"], capture_output=True, check=False,
                          timeout=PATIENCE, env=environment())  # fmt: skip
    assert done.returncode == 2
    assert b"standard input is closed" in done.stderr


def test_an_old_server_is_refused_before_anything_is_read(start_piped: Start) -> None:
    """It would not understand; the pipe still has all of its bytes."""
    impostor = Impostor(lambda server: server.let_in())
    client = start_piped(impostor.port)
    code, out, err = finish(client, b"x")
    impostor.close()
    assert code == 4
    assert out.startswith("REJECTED the server is too old to take standard input")
    assert "the server is too old to take standard input; send a file instead" in err


# --- hostile and clumsy clients ------------------------------------------------------------------


def begin(client: RawClient, name: str = "x", **changes: object) -> RawUpload:
    """Announce a file of unknown size; its bytes are two blocks and a short one."""
    data = bytes(range(256)) * 800 * 2 + b"the end"
    empty = hashlib.md5().hexdigest()
    start = FileStart(name, 0, BLOCK_SIZE, "md5", empty, False, unsized=True)
    client.control.send(start.replace(**changes))
    ready = client.answer()
    assert isinstance(ready, FileReady), ready
    assert ready.have == ()
    return RawUpload(client, ready.transfer, data, BLOCK_SIZE)


def complete(upload: RawUpload, size: int | None, *, delivered: bool = True) -> object:
    """Say that all is sent, and how much that is; return the answer."""
    message = TransferComplete(upload.number, upload.digest, delivered)
    upload.client.control.send(message if size is None else message.replace(size=size))
    return upload.client.answer()


SIZE = 2 * BLOCK_SIZE + 7


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_blocks_may_come_in_any_order(local: ServerThread, order: tuple[int, ...]) -> None:
    """The short one tells the size before the others are there."""
    with RawClient(local.port).log_in() as client:
        upload = begin(client)
        upload.send(client.attach(), *order)
        answer = complete(upload, SIZE)
        assert isinstance(answer, IntegrityOk)
        assert answer.size == SIZE
    (saved,) = received(local.output)
    assert saved.read_bytes() == b"".join(upload.blocks)


def test_a_block_that_comes_again_while_its_file_is_published_makes_it_no_longer(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16: the room for blocks was given back just then, and is not taken anew."""
    flush, flushing, goes_on = PartFile.flush, threading.Event(), threading.Event()

    def slow(part: PartFile, proven: int = 0) -> None:
        flushing.set()
        assert goes_on.wait(PATIENCE)
        flush(part, proven)

    monkeypatch.setattr(PartFile, "flush", slow)
    with RawClient(local.port).log_in() as client:
        upload = begin(client)
        data = client.attach()
        upload.send(data, 0, 1, 2)
        client.control.send(TransferComplete(upload.number, upload.digest, size=SIZE))
        assert flushing.wait(PATIENCE)
        upload.send(data, 1)
        goes_on.set()
        assert isinstance(client.answer(), IntegrityOk)
    check_arrived(local.output, b"".join(upload.blocks))


def test_of_two_blocks_at_once_the_one_further_back_hides_no_space(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13: a quota counts all that is reserved, whichever worker says last how much that is."""
    with RawClient(local.port).log_in() as client:
        begin(client)
        (transfer,) = local.server.admission.active()
        assert isinstance(transfer, UnsizedTransfer)
        growth, check = local.server.lifecycle.growth, Rights.check

        def overtaken(*values: Any, **named: Any) -> None:
            monkeypatch.setattr(Rights, "check", check)
            growth.make_room(transfer, 100, BLOCK_SIZE)
            check(*values, **named)

        monkeypatch.setattr(Rights, "check", overtaken)
        growth.make_room(transfer, 0, BLOCK_SIZE)
        with transfer.life.use() as part:
            assert isinstance(part, PartFile)
            assert part.facts.size == part.reserved == 2 * config.RESERVE_SLICE


def test_the_size_may_be_told_before_the_last_blocks_come(local: ServerThread) -> None:
    """As the client does while they are on their way."""
    with RawClient(local.port).log_in() as client:
        upload, data = begin(client), client.attach()
        upload.send(data, 0)
        client.control.send(TransferComplete(upload.number, upload.digest, False, size=SIZE))
        upload.send(data, 2, 1)
        assert isinstance(client.answer(), IntegrityOk)
    assert len(received(local.output)) == 1


@pytest.mark.parametrize("size", [None, 0, BLOCK_SIZE, SIZE - 1, SIZE + 1, 3 * BLOCK_SIZE, 2**62])
def test_a_size_that_cannot_be_ends_the_transfer(local: ServerThread, size: int | None) -> None:
    """12: the client contradicts its own blocks; no space is taken for what it says."""
    with RawClient(local.port).log_in() as client:
        upload = begin(client)
        upload.send(client.attach(), 0, 1, 2)
        answer = complete(upload, size)
        assert isinstance(answer, Rejected)
        assert answer.code == "size"
        client.start("next", b"the session goes on")
    eventually(lambda: strays(local.output) == [])
    assert received(local.output) == []


@pytest.mark.parametrize(
    ("index", "length"),
    [(2**32 - 1, 10), (config.MAX_BLOCKS, BLOCK_SIZE), (0, 0), (0, BLOCK_SIZE + 1)],
)
def test_a_block_that_no_file_has_ends_the_connection(
    local: ServerThread, index: int, length: int
) -> None:
    """14: by its header, before its bytes."""
    with RawClient(local.port).log_in() as client:
        upload, data = begin(client), client.attach()
        push(data, upload.frame(0, block=index, raw_length=length, wire_length=length)[:HEADER])
        with pytest.raises(Exception, match="not part of the file"):
            upload.await_acks(data, 1)


@pytest.mark.parametrize("length", [BLOCK_SIZE, 10])
def test_a_block_too_far_ahead_ends_the_transfer(local: ServerThread, length: int) -> None:
    """12: a file of 100 TB with a hole is no reason to make the map of one."""
    with RawClient(local.port).log_in() as client:
        upload, data = begin(client), client.attach()
        far = config.UNSIZED_AHEAD // BLOCK_SIZE + 1
        push(data, upload.frame(0, block=far, raw_length=length, wire_length=length,
                                payload=bytes(length)))  # fmt: skip
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert "too far" in answer.reason
    assert received(local.output) == []


@pytest.mark.parametrize("second", [1, 2])
def test_two_short_blocks_are_a_contradiction(local: ServerThread, second: int) -> None:
    """14: one of them would not be the last."""
    with RawClient(local.port).log_in() as client:
        upload, data = begin(client), client.attach()
        upload.send(data, 2)
        push(data, upload.frame(second, raw_length=5, wire_length=5, payload=b"short"))
        with pytest.raises(RemoteProtocolError, match="not part of the file"):
            upload.await_acks(data, 1)
    assert received(local.output) == []


def test_held_blocks_of_what_has_no_past_are_harmless(local: ServerThread) -> None:
    """The server never claimed any: they count as not sent."""
    with RawClient(local.port).log_in() as client:
        upload, data = begin(client), client.attach()
        push(data, upload.frame(0, codec=1, wire_length=0, raw_length=BLOCK_SIZE, payload=b""))
        upload.await_acks(data, 1)
        upload.send(data, 0, 1, 2)
        assert isinstance(complete(upload, SIZE), IntegrityOk)


def test_the_content_still_has_to_fit_the_name(serve: Serve) -> None:
    """13: looked at as soon as the beginning is verified."""
    local = serve({"alice": account(allow_ext=(".png",))})
    with Peer(local.port).log_in() as client:
        upload = begin(client, "x.png")
        upload.send(client.attach(), 0, 1, 2)
        answer = complete(upload, SIZE)
        assert isinstance(answer, Rejected)
        assert answer.code == "content"


def test_what_an_earlier_attempt_left_is_left_alone(local: ServerThread, tmp_path: Path) -> None:
    """A pipe of the same name is another file: the unfinished one can still be resumed."""
    source = random_file(tmp_path / "x", 1_000_000)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", source.read_bytes(), resume=True)
        upload.send(client.attach(), 0)
    eventually(lambda: local.server.parts.in_use == 0)
    with RawClient(local.port).log_in() as client:
        upload = begin(client)
        upload.send(client.attach(), 0, 1, 2)
        assert isinstance(complete(upload, SIZE), IntegrityOk)
        client.control.send(Goodbye())  # which confirms the verdict
        eventually(lambda: len(part_files(local.output)) == 1)


def test_of_two_pipes_that_share_a_quota_one_at_least_gets_what_is_there(serve: Serve) -> None:
    """13: what grows counts as it grows, for the other one too."""
    local = serve({"alice": account(quota=4 * BLOCK_SIZE)})
    with Peer(local.port).log_in() as one, Peer(local.port).log_in() as two:
        first, second = begin(one), begin(two, "y")
        data = two.attach()
        first.send(one.attach(), 0, 1, 2)
        second.send(data, 0)
        push(data, second.frame(1))
        answer = two.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "quota"
        assert isinstance(complete(first, SIZE), IntegrityOk)


def test_a_stalled_reader_of_its_own_pipe_does_not_hang_at_the_end(
    server: ServerProcess, start_piped: Start
) -> None:
    """The end of the input, long after its last byte, is heard at once."""
    client = start_piped(server.port)
    put(client, b"x" * BLOCK_SIZE)
    eventually(lambda: part_files(server.output))
    began = time.monotonic()
    code, _, err = finish(client)
    assert code == 0, err
    assert time.monotonic() - began < config.SIGN_OF_LIFE
    check_arrived(server.output, b"x" * BLOCK_SIZE)


def test_a_slow_network_loses_nothing(
    local: ServerThread, proxy: FaultProxy, start_piped: Start
) -> None:
    """41: the pipe waits for the network, and not the memory of the client."""
    proxy.plan(Plan(up=Line(rate=2 * MB)), Kind.DATA)
    data = os.urandom(6 * MB)
    code, _, err = finish(start_piped(proxy.port), data)
    assert code == 0, err
    check_arrived(local.output, data)
