"""``python server.py --history`` as a program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.support.files import random_file, received
from tests.support.processes import SERVER, StartServer, environment, run_client
from tests.support.waiting import eventually


def history(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [*SERVER, "--history", "--output", str(output), *options]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=environment(), check=False
    )


def outcomes(output: Path) -> list[dict[str, object]]:
    """Return the entries, newest first."""
    done = history(output, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_history_is_read_beside_a_running_server_and_after_its_kill(
    start_server: StartServer, tmp_path: Path
) -> None:
    """What was received, and what was refused, with the place and the reason."""
    server = start_server("--allow-ext", ".bin")
    run_client(server.port, random_file(tmp_path / "x.bin", 3000))
    run_client(server.port, random_file(tmp_path / "x.exe", 3000))
    eventually(lambda: len(outcomes(server.output)) == 2)
    refused, taken = outcomes(server.output)
    (place,) = received(server.output)
    assert (taken["outcome"], taken["saved_as"]) == ("received", place.name)
    assert (refused["outcome"], refused["name"]) == ("refused", "x.exe")
    assert ".bin" in str(refused["reason"])
    server.stop(signal.SIGKILL)
    assert outcomes(server.output) == [refused, taken]
    table = history(server.output)
    assert (table.returncode, table.stderr) == (0, "")
    assert len(table.stdout.splitlines()) == 4


def test_a_reader_that_has_seen_enough_is_no_error(
    start_server: StartServer, tmp_path: Path
) -> None:
    """As with ``| head``: the pipe is closed before anything is written."""
    server = start_server()
    run_client(server.port, random_file(tmp_path / "x.bin", 3000))
    eventually(lambda: outcomes(server.output))
    read, write = os.pipe()
    os.close(read)
    command = [*SERVER, "--history", "--output", str(server.output)]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_cannot_be_done_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """No directory; and ``--json`` without ``--history``, for which a server has no use."""
    done = history(tmp_path / "nowhere")
    assert done.returncode == 2
    assert "there is no output directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    command = [*SERVER, "--json", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2
    assert "--json is for --history" in done.stderr
    assert not (tmp_path / "out").exists()
