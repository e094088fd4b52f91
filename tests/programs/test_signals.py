"""Signals: how the programs end, and with which exit code."""

from __future__ import annotations

import fcntl
import operator
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

import client as client_module
import config
from config import KB
from lft.client.progress import Progress
from lft.wire.connection import Connection
from protocol import FileStart, Message
from tests.support.certificates import Pki, tls_options
from tests.support.files import part_files, random_file, received
from tests.support.processes import (
    ROOT,
    SERVER,
    ServerProcess,
    StartServer,
    client_command,
    environment,
    full_pipe,
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


def test_a_signal_right_behind_the_announcement_says_how_to_go_on(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server: ServerProcess,
    tmp_path: Path,
) -> None:
    """The server may have made a part file before the client does anything else."""
    send = Connection.send

    def interrupted(connection: Connection, message: Message) -> None:
        send(connection, message)
        if isinstance(message, FileStart):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Connection, "send", interrupted)
    assert main("--port", server.port, random_file(tmp_path / "file.bin", 1)) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err.splitlines()[-1]


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_at_a_signal_while_it_starts(tmp_path: Path, number: int) -> None:
    """FAULTS 38: from its first lines on; process 1 of a container would ignore the signal."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "server.py"), "--port", "0"]
    with subprocess.Popen(
        [*command, "--output", str(tmp_path / "out")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**environment(), "PYTHONDONTWRITEBYTECODE": ""},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any(line.endswith(" argparse\n") for line in process.stderr)  # the first import
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(PATIENCE) == 0


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


def test_a_busy_server_ends_before_docker_kills_it(tmp_path: Path) -> None:
    """38: in 10 s by default, with a client that never reads and a log that is not read either."""
    command = [sys.executable, str(ROOT / "server.py"), "--port", "0", "--output", str(tmp_path)]
    with full_pipe() as stuck, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stuck, text=True, env=environment()
    ) as process:  # fmt: skip
        assert process.stdout is not None
        with RawClient(int(process.stdout.readline().rpartition(":")[2])).log_in() as client:
            client.start("x.bin", b"x" * 1000)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
    assert time.monotonic() - begun < 10.0
    assert config.GRACE + config.EXIT_TIMEOUT + config.LOG_PATIENCE <= 9.0  # also when workers hang


def test_a_server_ends_with_its_terminal(start_server: StartServer) -> None:
    """FAULTS 38: without a certificate to read again, SIGHUP stops it as SIGTERM does."""
    assert start_server().stop(signal.SIGHUP) == 0


def _is_handled(server: ServerProcess, number: int) -> bool:
    """Whether a server has a handler of its own for a signal."""
    mask = Path(f"/proc/{server.process.pid}/status").read_text().partition("SigCgt:")[2]
    return bool(int(mask.split()[0], 16) >> (number - 1) & 1)


def test_a_server_started_with_nohup_outlives_its_terminal(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The ignored SIGHUP stays ignored, and files still come in."""
    server = start_server(program=("nohup", *SERVER))
    server.process.send_signal(signal.SIGHUP)
    still_serves(server.port, tmp_path)
    assert not _is_handled(server, signal.SIGHUP)
    assert server.process.poll() is None


def test_nohup_leaves_the_renewal_of_a_certificate(start_server: StartServer, pki: Pki) -> None:
    """SIGHUP has it read again, as without ``nohup``."""
    server = start_server(*tls_options(pki.server), program=("nohup", *SERVER))
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "has been read again" in server.log, "the certificate")


def test_a_server_with_a_certificate_ends_with_its_terminal(
    start_server: StartServer, pki: Pki
) -> None:
    """38: SIGHUP reads again while the terminal is there, and stops it when it was closed."""
    master, slave = os.openpty()
    server = start_server(
        *tls_options(pki.server), stdin=slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "has been read again" in server.log, "the certificate")
    os.close(master)  # the system sends the signal
    assert server.process.wait(PATIENCE) == 0
    assert "stopped" in server.log


def test_a_server_in_the_background_of_a_script_heeds_sigint(start_server: StartServer) -> None:
    """38: the shell ignores it for what it starts with ``&``; ``kill -INT`` works even so."""
    ignoring = ("env", "--ignore-signal=INT", *SERVER)
    assert start_server(program=ignoring).stop(signal.SIGINT) == 0


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
