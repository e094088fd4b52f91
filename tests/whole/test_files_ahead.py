"""Many files of one command: the next is announced while those before it are on their way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from client import send_files
from config import KB, MB
from lft.server.verification import Verification
from protocol import FileStart
from server import Answers
from tests.support.files import md5, part_files, random_file, received
from tests.support.local import ServerThread, StartLocal
from tests.support.sockets import Helper
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import FaultProxy


def files_in(folder: Path, count: int, size: int = 10 * KB) -> list[Path]:
    """Make files of a few sizes, none like another."""
    return [random_file(folder / f"f{n:03}", size + n, seed=n) for n in range(count)]


def check_all_arrived(output: Path, files: list[Path]) -> None:
    """See that each file is there once, and nothing else."""
    assert sorted(map(md5, received(output))) == sorted(map(md5, files))


def test_the_next_file_begins_while_the_one_before_is_published(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the first one is done until the second one is announced."""
    publish, began = Verification.assemble_file_from_blocks, threading.Event()
    start = Answers._on_file_start

    def note(answers: Answers, peer: object, message: FileStart) -> None:
        if message.name == "f001":
            began.set()
        start(answers, peer, message)  # type: ignore[arg-type]

    def hold(verification: Verification, transfer: object) -> None:
        assert began.wait(PATIENCE)
        publish(verification, transfer)  # type: ignore[arg-type]

    monkeypatch.setattr(Answers, "_on_file_start", note)
    monkeypatch.setattr(Verification, "assemble_file_from_blocks", hold)
    files, local = files_in(tmp_path, 2), start_local()
    assert len(send_files(files, local.client(timeout=PATIENCE))) == 2


def test_outcomes_are_told_in_the_order_given(local: ServerThread, tmp_path: Path) -> None:
    """A large file among small ones: those behind it are done before it, and are told after it."""
    files = files_in(tmp_path, 12)
    files.insert(3, random_file(tmp_path / "large", 6 * MB))
    told: list[str] = []
    receipts = send_files(files, local.client(), report=lambda path, _: told.append(path.name))
    assert told == [receipt.name for receipt in receipts] == [path.name for path in files]
    check_all_arrived(local.output, files)
    eventually(lambda: part_files(local.output) == [], "all verdicts to be confirmed")


def test_a_server_that_knows_no_numbers_gets_one_file_after_the_other(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of 1.2 has no such feature, and would not know the field."""
    numbers: list[int | None] = []
    start = Answers._on_file_start

    def note(answers: Answers, peer: object, message: FileStart) -> None:
        numbers.append(message.file)
        start(answers, peer, message)  # type: ignore[arg-type]

    monkeypatch.setattr("server.AHEAD", "unknown")
    monkeypatch.setattr(Answers, "_on_file_start", note)
    files, local = files_in(tmp_path, 3), start_local()
    send_files(files, local.client())
    assert numbers == [None] * 3
    check_all_arrived(local.output, files)


@pytest.mark.parametrize("after", [1, 20, 45])
def test_files_of_a_lost_session_arrive_once(
    local: ServerThread, proxy: FaultProxy, tmp_path: Path, after: int
) -> None:
    """37: whatever was published, said or heard when the connections broke."""
    files = files_in(tmp_path, 60)
    sending = Helper(lambda: send_files(files, local.client(port=proxy.port)))
    eventually(lambda: len(received(local.output)) >= after, "some files")
    proxy.reset()
    assert [receipt.name for receipt in sending.result()] == [path.name for path in files]
    check_all_arrived(local.output, files)


def test_every_verdict_is_confirmed_before_the_server_forgets_it(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come at once: otherwise files would stay hidden, and not be taken again."""
    for module in ("client", "lft.client.delivery", "lft.server.lifecycle"):
        monkeypatch.setattr(f"{module}.MAX_AHEAD", 3)
    local = start_local()
    send_files(files_in(tmp_path, 60, 1 * KB), local.client(timeout=PATIENCE))
    eventually(lambda: part_files(local.output) == [], "the second names to go")


def test_a_file_that_the_server_refuses_does_not_stop_those_around_it(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """Its error is told in its place."""
    local, files = start_local(max_file_size=20 * KB), files_in(tmp_path, 6)
    files.insert(2, random_file(tmp_path / "large", 30 * KB))
    told: list[str] = []
    with pytest.raises(Exception, match="large: rejected"):
        send_files(files, local.client(), report=lambda path, one: told.append(type(one).__name__))
    assert told == ["Receipt", "Receipt", "RejectedError", *["Receipt"] * 4]
