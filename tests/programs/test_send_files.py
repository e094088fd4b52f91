"""``send_files``, the client as a library."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Sequence

import pytest

import config
from client import send_files
from config import KB, MB, ClientSettings
from lft.client.connect import log_in
from lft.client.interrupt import CancelledError
from lft.client.progress import Progress
from lft.client.receipt import Receipt
from lft.client.source import Source
from protocol import AuthenticationError, ConnectionLostError, SourceError, TransferError
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread, StartLocal
from tests.support.processes import ROOT, environment
from tests.support.waiting import PATIENCE
from tests.tools.proxy import reserve_port


def test_send_files_returns_a_receipt_for_each_file(local: ServerThread, tmp_path: Path) -> None:
    """The receipt names what stands in the output directory."""
    paths = [random_file(tmp_path / name, size) for name, size in (("a", 0), ("b", 500_000))]
    receipts = send_files(paths, local.client())
    assert [receipt.name for receipt in receipts] == ["a", "b"]
    for path, receipt in zip(paths, receipts):
        assert md5(local.output / receipt.saved_as) == receipt.digest == md5(path)
        assert receipt.verdict == "INTEGRITY_OK"
        assert receipt.durable


def test_one_bad_file_does_not_stop_the_others(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, the rest is sent, and its error is raised at the end."""
    monkeypatch.setattr("client.MAX_AHEAD", 1)  # otherwise it is sent before it goes
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


def test_a_file_that_cannot_be_read_does_not_keep_the_others_back(
    local: ServerThread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has its turn in the order given; a warning at the start leaves time to mend it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    files = [tmp_path / "missing", random_file(tmp_path / "a", 10), fifo]
    told: list[tuple[Path, type]] = []
    with pytest.raises(SourceError, match="missing"):
        send_files(files, local.client(), report=lambda path, one: told.append((path, type(one))))
    assert told == [(files[0], SourceError), (files[1], Receipt), (files[2], SourceError)]
    assert len(received(local.output)) == 1
    assert "is a pipe" in caplog.text


def test_a_file_that_appears_until_its_turn_is_sent(local: ServerThread, tmp_path: Path) -> None:
    """The warning was in time."""
    first, later = random_file(tmp_path / "a", 10), tmp_path / "later"
    receipts = send_files(
        [first, later], local.client(), report=lambda *_: None if later.exists() else _touch(later)
    )
    assert [receipt.name for receipt in receipts] == ["a", "later"]


def _touch(path: Path) -> None:
    path.write_bytes(b"x")


def test_without_a_file_that_can_be_read_no_server_is_needed(tmp_path: Path) -> None:
    """And no password: nothing is to be sent."""
    with reserve_port() as reserved, pytest.raises(SourceError):
        send_files(
            [tmp_path / "missing"], ClientSettings(port=reserved.getsockname()[1], user="ann")
        )


def test_what_ends_everything_is_the_outcome_of_each_file_that_is_left(
    local: ServerThread, tmp_path: Path
) -> None:
    """Each argument has an outcome, also after a failed login."""
    files = [tmp_path / "missing", *(random_file(tmp_path / name, 10) for name in "ab")]
    told: list[tuple[Path, type]] = []
    with pytest.raises(AuthenticationError):
        send_files(files, local.client(password="wrong"),
                   report=lambda path, one: told.append((path, type(one))))  # fmt: skip
    kinds = [SourceError, AuthenticationError, AuthenticationError]
    assert told == list(zip(files, kinds))


@pytest.mark.parametrize("paths", ["x", b"x", Path("x")])
def test_a_single_path_is_not_taken_for_many(paths: Any) -> None:
    """Text is a sequence too: of files with one letter."""
    with pytest.raises(TypeError, match=r"^paths: a list of paths"):
        send_files(paths)


def test_a_program_can_cancel_and_go_on_later(local: ServerThread, tmp_path: Path) -> None:
    """What the server has stays there; files that are left have an outcome, too."""
    files = [random_file(tmp_path / name, 2 * MB) for name in "ab"]
    cancel, told = threading.Event(), []

    class Canceller(Progress):
        def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
            if acknowledged > MB:
                cancel.set()

    with pytest.raises(CancelledError) as raised:
        send_files(files, local.client(limit=MB), Canceller(),
                   lambda _, outcome: told.append(outcome), cancel)  # fmt: skip
    assert told == [raised.value, raised.value]
    assert raised.value.exit_code == 130
    first, _ = send_files(files, local.client(), cancel=threading.Event())
    assert first.resumed_bytes > MB
    assert first.sent_bytes == 2 * MB - first.resumed_bytes


def test_a_receipt_counts_what_all_sessions_sent(local: ServerThread, tmp_path: Path) -> None:
    """What an earlier session of the same run has sent was not there before."""
    told: list[int] = []

    class Breaker(Progress):
        def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
            told.append(sent)
            if sent > MB and max(told[:-1], default=0) <= MB:
                raise ConnectionLostError("lost")

    settings = local.client(limit=4 * MB)
    (receipt,) = send_files([random_file(tmp_path / "a", 3 * MB)], settings, Breaker())
    assert receipt.resumed_bytes > 0
    assert receipt.sent_bytes == receipt.bytes
    assert told == sorted(told)


def test_a_client_that_waits_for_its_turn_can_be_cancelled(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """The server answers once a second at least, but need not have to."""
    local, ends = start_local(max_active=1), threading.Event()
    first, second = (random_file(tmp_path / name, 2 * MB) for name in "ab")
    began, waits = threading.Event(), threading.Event()

    class Told(Progress):
        def __init__(self, phase: str, event: threading.Event) -> None:
            self._phase, self._event = phase, event

        def phase(self, phase: str) -> None:
            if phase == self._phase:
                self._event.set()

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(send_files, [first], local.client(limit=64 * KB),
                           Told("sending", began), None, ends)  # fmt: skip
        assert began.wait(PATIENCE)
        with pytest.raises(CancelledError):
            send_files([second], local.client(), Told("waiting", waits), cancel=waits)
        ends.set()
        with pytest.raises(CancelledError):
            slow.result(PATIENCE)


def test_a_resume_is_told_to_check_before_it_sends(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its bar would stand still, or show a rate that no link has."""
    source, cancel = random_file(tmp_path / "a", 3 * MB), threading.Event()

    class Recorder(Progress):
        def __init__(self) -> None:
            self.sent: dict[str, int] = {}
            self._phase = ""

        def phase(self, phase: str) -> None:
            self._phase = phase

        def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
            self.sent[self._phase] = sent
            if sent > MB and not cancel.is_set():
                cancel.set()
            checked.set()

    checked = threading.Event()
    with pytest.raises(CancelledError):
        send_files([source], local.client(limit=MB), Recorder(), cancel=cancel)

    def read_slowly(one: Source, views: Sequence[memoryview], offset: int) -> None:
        for view in views:
            checked.clear()
            if 0 < offset < 3 * KB * 200:
                checked.wait(PATIENCE)
            read(one, [view], offset)
            offset += len(view)

    read, recorder = Source.read_run, Recorder()
    monkeypatch.setattr(Source, "read_run", read_slowly)
    send_files([source], local.client(limit=MB), recorder)
    assert recorder.sent["checking what is there"] == 0
    assert recorder.sent["sending"] > MB


def test_a_source_disk_that_hangs_is_told(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not look like a network that stands still."""
    told, read = threading.Event(), Source.read_run

    def hang(source: Source, views: Sequence[memoryview], offset: int) -> None:
        if offset:
            assert told.wait(PATIENCE)
        read(source, views, offset)

    class Watcher(Progress):
        def phase(self, phase: str) -> None:
            if phase == "reading from the disk":
                told.set()

    monkeypatch.setattr(config, "SUSPENDED", 0.3)
    monkeypatch.setattr(Source, "read_run", hang)
    (receipt,) = send_files([random_file(tmp_path / "x", MB)], local.client(), Watcher())
    assert told.is_set()
    assert receipt.verdict == "INTEGRITY_OK"


def test_an_unreachable_server_is_cancelled_at_once(tmp_path: Path) -> None:
    """The pause between two attempts to connect is cut short."""
    cancel = threading.Event()
    path = random_file(tmp_path / "a", 10)
    threading.Timer(0.2, cancel.set).start()
    with reserve_port() as reserved:
        settings = ClientSettings(port=reserved.getsockname()[1], timeout=PATIENCE)
        with pytest.raises(CancelledError):
            send_files([path], settings, cancel=cancel)


def test_a_program_without_a_log_hears_nothing(local: ServerThread, tmp_path: Path) -> None:
    """Warnings would reach standard error by logging's last resort."""
    path = random_file(tmp_path / "a", 10)
    code = (
        "import sys; from client import send_files; from config import ClientSettings\n"
        "try: send_files([sys.argv[2], 'missing'], ClientSettings(port=int(sys.argv[1])))\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(local.port), str(path)], cwd=ROOT,
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("missing: No such file or directory\n", "")


def test_a_password_is_asked_for_once_and_while_no_server_waits_for_it(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person may take longer than the login may, and sessions may be lost."""
    peers: list[int] = []

    def ask(*_: object) -> str:
        peers.append(len(local.server.connections.peers))
        return "password1"

    monkeypatch.setattr("client.read_password", ask)
    monkeypatch.setattr(config, "RETRY_FIRST", 0.01)
    sessions = itertools.count()

    def enter(*arguments: Any) -> object:
        logged_in = log_in(*arguments)
        if next(sessions) == 0:
            raise ConnectionLostError("lost")
        return logged_in

    monkeypatch.setattr("client.log_in", enter)
    send_files([random_file(tmp_path / "x", 10)], local.client())
    assert peers == [0]
    assert next(sessions) == 2


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
