"""What a client says of a file that it could not finish: how it can go on, where it can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client import send_files
from config import KB, ClientSettings
from lft.client.patience import way_on
from protocol import ConnectionLostError
from tests.support.files import part_files, random_file, received
from tests.support.processes import (
    ROOT,
    ServerProcess,
    StartServer,
    client_command,
    environment,
    run_client,
)
from tests.support.sockets import Helper
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import reserve_port

GOES_ON = "the same command goes on where this one stopped"


BEGUN = "ing large.bin ("  # receiving or resuming it


def interrupted(
    server: ServerProcess, *arguments: str | Path, at: str = BEGUN, others: int = 0
) -> str:
    """Run a client, stop it once the server's log says ``at`` again; return its last line.

    Not before ``others`` have arrived, and the client has read that; the last one goes on.
    """
    before = server.log.count(at)
    with subprocess.Popen(
        client_command(server.port, *arguments, "--limit", "1M"),
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment(), text=True,
    ) as client:  # fmt: skip
        eventually(lambda: server.log.count(at) > before, "the file to begin")
        eventually(lambda: len(received(server.output)) >= others, "the others to arrive")
        if others:
            eventually(lambda: len(part_files(server.output)) == 1, "their verdicts to be read")
        client.send_signal(signal.SIGINT)
        _, error = client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    return error.splitlines()[-1]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A sparse file that with a limit takes longer than any test waits."""
    path = random_file(tmp_path / "large.bin", 1)
    os.truncate(path, 100 * KB * KB)
    return path


def test_where_nothing_began_nothing_goes_on(tmp_path: Path) -> None:
    """No server was there: the same command begins at the beginning."""
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        done = run_client(port, random_file(tmp_path / "a", 10), "--timeout", "5")
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].endswith(
        "nothing listens there; start server.py there, or check --port"
    )


def test_an_interrupt_before_anything_began_is_just_that(tmp_path: Path) -> None:
    """While a server is waited for."""
    with reserve_port() as reserved, subprocess.Popen(
        client_command(reserved.getsockname()[1], random_file(tmp_path / "a", 10)),
        stderr=subprocess.PIPE, env=environment(), text=True,
    ) as client:  # fmt: skip
        assert client.stderr is not None
        assert "trying again" in client.stderr.readline()
        client.send_signal(signal.SIGINT)
        _, error = client.communicate(timeout=PATIENCE)
    assert error.splitlines()[-1].endswith(" interrupted")


def test_what_has_begun_goes_on_with_the_same_command(server: ServerProcess, large: Path) -> None:
    """And the next run says so, too, when it is interrupted as well."""
    assert interrupted(server, large).endswith(f"interrupted; {GOES_ON}")
    assert interrupted(server, large).endswith(f"interrupted; {GOES_ON}")


def test_without_resuming_the_option_is_in_the_way(start_server: StartServer, large: Path) -> None:
    """The same command, with --no-resume, would begin anew; without it the file goes on."""
    server = start_server("--log-level", "DEBUG")
    said = interrupted(server, large, "--no-resume", at="block 1 written")
    assert said.endswith("the same command without --no-resume goes on where this one stopped")
    assert interrupted(server, large).endswith(GOES_ON)
    assert "resuming large.bin" in server.log


def test_of_several_files_the_one_that_can_go_on_is_named(
    server: ServerProcess, tmp_path: Path, large: Path
) -> None:
    """The same command would send the others once more."""
    small = random_file(tmp_path / "small.bin", 10)
    said = interrupted(server, small, large, others=1)
    assert len(received(server.output)) == 1
    assert said.endswith("interrupted; large.bin goes on where it stopped when it is sent again")


def test_a_server_that_goes_away_for_good_leaves_a_way_on(
    start_server: StartServer, large: Path
) -> None:
    """The connection was lost beyond the retries: the error knows the file that can go on."""
    server = start_server()
    settings = ClientSettings(port=server.port, limit=100 * KB, timeout=0.3)
    sending = Helper(lambda: send_files([large], settings))
    eventually(lambda: "receiving large.bin" in server.log, "the file to begin")
    server.stop(signal.SIGKILL)
    error = sending.result()
    assert isinstance(error, ConnectionLostError)
    assert error.unfinished == "large.bin"


def test_the_way_on_is_said_of_what_the_server_keeps() -> None:
    """Nothing of a file that has not begun; nothing untrue of several files."""
    settings = ClientSettings()
    assert way_on("", settings, 1) == way_on("", settings, 2) == ""
    assert way_on("a", settings, 1) == f"; {GOES_ON}"
    again = way_on("a", settings.replace(resume=False), 2)
    assert again == "; a goes on where it stopped when it is sent again without --no-resume"


def test_an_interrupted_demo_promises_nothing(tmp_path: Path) -> None:
    """Its server has ended with it."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "client.py"), "--demo", "--limit", "100K", "a.bin"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment(), text=True,
        cwd=random_file(tmp_path / "a.bin", 10**7).parent,
    ) as client:  # fmt: skip
        assert client.stderr is not None
        lines = iter(client.stderr.readline, "")
        assert any("receiving a.bin" in line for line in lines)
        client.send_signal(signal.SIGINT)
        _, error = client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    assert "goes on" not in error
