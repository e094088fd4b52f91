"""A real server with a program for each file: kills lose no run, and a bad program no server."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.files import journal_bytes, random_file, received
from tests.support.processes import (
    SERVER,
    ServerProcess,
    StartServer,
    client_command,
    environment,
    run_client,
)
from tests.support.programs import lines_of, script
from tests.support.waiting import eventually


def test_a_program_that_cannot_be_run_keeps_the_server_from_starting(tmp_path: Path) -> None:
    """Exit code 2, and one line that says what to do; nothing is left in the output directory."""
    (tmp_path / "hook").write_text("#!/bin/sh\n")
    command = [*SERVER, "--port", "0", "--output", str(tmp_path / "out")]
    command += ["--on-received", str(tmp_path / "hook")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "hook: not executable; 'chmod +x" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_program_that_was_running_at_a_kill_runs_again(
    start_server: StartServer, tmp_path: Path
) -> None:
    """At the next start; so does what waited for its turn."""
    text = 'echo $$ >> pids; echo "$LFT_SAVED_AS" >> ran; test -e go || sleep 1000'
    hook = script(tmp_path / "hook", text)
    server = start_server("--on-received", str(hook))
    sources = [random_file(tmp_path / f"{number}.bin", 1000 + number) for number in range(4)]
    assert run_client(server.port, *sources).returncode == 0
    eventually(lambda: len(lines_of(server.output / "ran")) == 2)
    # otherwise the client may still ask for the last verdict, and its file has to wait for that
    eventually(lambda: not journal_bytes(server.output))
    server.stop(signal.SIGKILL)
    for pid in lines_of(server.output / "pids"):  # they outlive it
        os.killpg(int(pid), signal.SIGKILL)
    (server.output / "go").touch()
    again = start_server("--on-received", str(hook))
    files = {path.name for path in received(server.output)}
    assert len(files) == 4
    eventually(lambda: set(lines_of(server.output / "ran")[2:]) == files)
    eventually(lambda: not os.listdir(server.output / ".partial" / "received"))
    assert len(lines_of(server.output / "ran")) == 6
    again.stop()


def test_a_server_that_stops_ends_its_programs_and_leaves_them_to_the_next_start(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Also those that do not want to end; no process of theirs is left."""
    text = "trap '' TERM; echo $$ >> ran; test -e go || while :; do sleep 0.1; done"
    hook = script(tmp_path / "hook", text)
    server = start_server("--on-received", str(hook))
    run_client(server.port, random_file(tmp_path / "x", 1000))
    eventually(lambda: lines_of(server.output / "ran"))
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10.0
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines_of(server.output / "ran")[0]), 0)
    assert "it will run again at the next start" in server.log
    (server.output / "go").touch()
    start_server("--on-received", str(hook))
    eventually(lambda: len(lines_of(server.output / "ran")) == 2)


def kill_at(server: ServerProcess, count: int, later: float, sources: list[Path]) -> None:
    """Send files; kill both sides ``later`` seconds after so many of them are published."""
    before = len(received(server.output))
    command = client_command(server.port, *sources, "--no-resume", "--quiet")
    null = subprocess.DEVNULL
    client = subprocess.Popen(command, stdout=null, stderr=null, env=environment())
    eventually(lambda: len(received(server.output)) - before >= count)
    time.sleep(later)
    server.stop(signal.SIGKILL)
    client.kill()
    client.wait()


def test_kills_at_random_moments_lose_no_run(tmp_path: Path) -> None:
    """Each file that a server has published is handed to the program at least once."""
    hook = script(tmp_path / "hook", 'echo "$LFT_SAVED_AS" >> ran')
    folder = tmp_path / "server"
    folder.mkdir()
    sources = [random_file(tmp_path / f"{number}.bin", 3000 + number) for number in range(12)]
    moments = random.Random(17)
    for _ in range(3):
        server = ServerProcess(folder, "--on-received", str(hook))
        kill_at(server, moments.randrange(1, 9), moments.random() * 0.02, sources)
    for path in (folder / "output" / ".partial").glob("*.journal"):
        path.unlink()  # as if the time for their clients to come back were over
    server = ServerProcess(folder, "--on-received", str(hook))
    files = {path.name for path in received(server.output)}
    eventually(lambda: set(lines_of(server.output / "ran")) >= files, "all to have run")
    assert server.stop() == 0
