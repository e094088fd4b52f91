"""Signals: how the programs end, and with which exit code."""

from __future__ import annotations

import operator
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

import client as client_module
from config import KB
from lft.client.progress import Progress
from tests.support.files import part_files, random_file, received
from tests.support.processes import (
    ROOT,
    ServerProcess,
    StartServer,
    client_command,
    environment,
    still_serves,
)
from tests.support.rawpeer import RawClient
from tests.support.waiting import PATIENCE, eventually

# --- signals in this process --------------------------------------------------------------------


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """``main`` as if on a terminal; afterwards the signals mean what they meant before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr("lft.client.bar.Bar", lambda _: Progress())

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        return client_module.main([str(argument) for argument in arguments])

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["progress_shown", "_run", "send_files", "Progress.end"])
def test_a_signal_at_any_moment_is_exit_130_and_one_line(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    moment: str,
) -> None:
    """FAULTS 38: also while the bar is imported, and before an error is told."""
    before = operator.attrgetter(moment)(client_module)
    interrupts = [number]

    def interrupted(*arguments: object, **named: object) -> object:
        while interrupts:
            os.kill(os.getpid(), interrupts.pop())
        return before(*arguments, **named)

    monkeypatch.setattr(f"client.{moment}", interrupted)
    assert main("no such file") == 130
    told = capsys.readouterr().err.splitlines()
    assert "interrupted" in told[-1]
    assert not any("interrupted" in line for line in told[:-1])
    assert len(told) <= 2  # that there is no such file may have been told before


def test_a_signal_after_the_last_line_changes_nothing(main: Callable[..., int]) -> None:
    """All is done and told: the exit code stays."""
    assert main("no such file") == 2
    for number in SIGNALS:
        os.kill(os.getpid(), number)


# --- signals to real processes ------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_stops_with_exit_0(start_server: StartServer, number: int) -> None:
    """FAULTS 38: also with clients that do nothing."""
    server = start_server()
    with RawClient(server.port).log_in() as client:
        client.attach()
        assert server.stop(number) == 0
    assert "stopped" in server.log


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_server_whose_first_line_finds_a_full_disk_serves(
    tmp_path: Path, unbuffered: str
) -> None:
    """One warning: a full log disk is no reason to take no files."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--output", str(tmp_path / "out")]
    with open("/dev/full", "w") as full, subprocess.Popen(
        [sys.executable, str(ROOT / "server.py"), *options],
        stdout=full, stderr=subprocess.PIPE, text=True,
        env={**environment(), "PYTHONUNBUFFERED": unbuffered},
    ) as process:  # fmt: skip
        eventually(lambda: _listens(port), "the server to listen")
        still_serves(port, tmp_path)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert log.count("cannot write to standard output") == 1


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_stopping_server_lets_a_running_transfer_end(
    start_server: StartServer, tmp_path: Path
) -> None:
    """FAULTS 38: within the grace period the verdict is still given, new files are not taken."""
    server = start_server("--grace", "15")
    with RawClient(server.port).log_in() as client:
        upload = client.start("x.bin", os.urandom(500 * KB))
        data = client.attach()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in server.log)
        upload.send(data, 0, 1, 2)
        assert type(upload.complete()).__name__ == "IntegrityOk"
    assert server.stop() == 0
    assert len(received(server.output)) == 1


def test_a_server_ends_with_its_terminal(start_server: StartServer) -> None:
    """FAULTS 38: without a certificate to read again, SIGHUP stops it as SIGTERM does."""
    assert start_server().stop(signal.SIGHUP) == 0


def test_a_second_signal_stops_a_busy_server_at_once(start_server: StartServer) -> None:
    """FAULTS 38: who presses Ctrl-C twice does not want to wait for the grace period."""
    server = start_server("--grace", "3600")
    with RawClient(server.port).log_in() as client:
        client.start("x.bin", b"x" * 1000)
        server.process.send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in server.log)
        assert server.stop(signal.SIGINT) == 0
    assert part_files(server.output) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_client_is_exit_130_and_says_how_to_go_on(
    server: ServerProcess, tmp_path: Path, number: int
) -> None:
    """FAULTS 38: one line says what to do; the server keeps what it has."""
    source = random_file(tmp_path / "file.bin", 1)
    os.truncate(source, KB**3)  # sparse, and with the limit it takes longer than any test waits
    with subprocess.Popen(
        client_command(server.port, source, "--limit", "10M"),
        stderr=subprocess.PIPE, env=environment(), text=True,
    ) as client:  # fmt: skip
        eventually(lambda: part_files(server.output), "the transfer to begin")
        client.send_signal(number)
        _, err = client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    assert "interrupted; the same command goes on" in err.splitlines()[-1]
    assert "Traceback" not in err
    eventually(lambda: "it can go on later" in server.log, "the server to notice")
    assert received(server.output) == []


@pytest.mark.parametrize("program", ["client.py", "server.py", "auth.py"])
def test_ctrl_c_while_python_still_imports_is_no_traceback(tmp_path: Path, program: str) -> None:
    """The first quarter of a second; here a module that all three import does it."""
    (tmp_path / "argparse.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport no_such_module\n"
    )
    done = subprocess.run(
        ["sh", "-c", 'trap - INT; exec "$@"', "sh", sys.executable, str(ROOT / program)],
        env={**environment(), "PYTHONPATH": str(tmp_path)}, check=False, capture_output=True,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == (0 if program == "server.py" else -signal.SIGINT)
    assert done.stderr == ""
