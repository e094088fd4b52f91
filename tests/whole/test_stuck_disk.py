"""A disk that hangs does not keep the server from ending."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

import config
from protocol import FileReady, FileStart, TransferComplete
from tests.support.processes import ROOT, environment
from tests.support.rawpeer import ANY_MD5, RawClient, RawUpload, push
from tests.support.waiting import PATIENCE

STUCK = """
import sys, threading
import config, server
from lft.store.journal import Journal
from lft.store.partfile import PartFile

config.EXIT_TIMEOUT = 0.3

def hang(*_):
    print("stuck", flush=True)
    threading.Event().wait()

{what} = hang
sys.exit(server.main(["--port", "0", "--output", sys.argv[1], "--grace", "0"]))
"""


@contextlib.contextmanager
def _stuck_server(folder: Path, what: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server in which one function never returns; give its process and port."""
    script = folder / "stuck.py"
    script.write_text(STUCK.format(what=what))
    with subprocess.Popen(
        [sys.executable, str(script), str(folder / "out")], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**environment(), "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


@pytest.mark.parametrize(
    "what", ["PartFile.write_run", "PartFile.flush", "PartFile.publish", "Journal.append"]
)
def test_a_worker_that_hangs_does_not_keep_the_server_from_ending(
    tmp_path: Path, what: str
) -> None:
    """38: a dead disk holds a thread for ever; the process ends all the same, with exit 0."""
    with _stuck_server(tmp_path, what) as (process, port), RawClient(port).log_in() as client:
        client.control.send(FileStart("x", 4096, 4096, "md5", ANY_MD5, resume=False))
        if what != "Journal.append":  # else creating the part file hangs
            ready = client.answer()
            assert isinstance(ready, FileReady)
            upload = RawUpload(client, ready.transfer, bytes(4096), 4096)
            data = client.attach()
            push(data, upload.frame(0))
            if what != "PartFile.write_run":  # else no acknowledgement comes
                upload.await_acks(data, 1)
                client.control.send(TransferComplete(upload.number, upload.digest))
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "a worker hangs" in errors
    assert "Traceback" not in errors


def test_a_disk_that_hangs_at_the_very_end_does_not_keep_the_server_from_ending(
    tmp_path: Path,
) -> None:
    """38: the main thread itself lets go of part files; nothing may hold it for ever either."""
    what = "PartFile.remove"
    with _stuck_server(tmp_path, what) as (process, port), RawClient(port).log_in() as client:
        client.start("x", bytes(4096))
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_disk_that_hangs_while_files_are_published_keeps_no_client_out(tmp_path: Path) -> None:
    """Ten workers and twelve files that wait for the disk: another client logs in and sends."""
    with contextlib.ExitStack() as stack:
        process, port = stack.enter_context(_stuck_server(tmp_path, "PartFile.flush"))
        for number in range(12):
            client = stack.enter_context(RawClient(port)).log_in()
            upload = client.start(f"x{number}", bytes(4096), 4096)
            upload.send(client.attach(), 0)
            client.control.send(TransferComplete(upload.number, upload.digest))
        assert process.stdout is not None
        stuck = [process.stdout.readline() for _ in range(config.MAX_PUBLISHING)]
        assert stuck == ["stuck\n"] * config.MAX_PUBLISHING
        other = stack.enter_context(RawClient(port)).log_in("admin", "admin123")
        other.start("y", bytes(8192), 4096).send(other.attach(), 0)
