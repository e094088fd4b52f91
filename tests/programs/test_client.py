"""The command line of client.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread
from tests.support.processes import client_command, environment, run_client
from tests.tools.proxy import reserve_port


@pytest.mark.parametrize(
    "arguments",
    [
        ["--streams", "0"],
        ["--streams", "many"],
        ["--block-size", "1"],
        ["--block-size", "1G"],
        ["--chunk-size", "0"],
        ["--port", "0"],
        ["--port", "65536"],
        ["--timeout", "1"],
        ["--timeout", "nan"],
        ["--digest", "crc32"],
        ["--no-such-option"],
    ],
)
def test_a_wrong_command_line_is_exit_2_and_never_a_traceback(arguments: list[str]) -> None:
    """The last line says what is wrong; nothing raw reaches the terminal."""
    done = run_client(1, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert done.stderr.strip()


@pytest.mark.parametrize("name", ["no such file", "/", "name\nwith\x1b[31mcolour"])
def test_a_file_that_cannot_be_read_is_exit_2_and_has_a_line(name: str) -> None:
    """No server is needed to say so; nothing raw reaches the terminal."""
    done = run_client(1, name)
    assert done.returncode == 2
    assert re.fullmatch(
        r"FAILED (No such file or directory|has no name; .*)  [^\x1b]+\n", done.stdout
    )
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_to_send_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a FILE and without input/big_file.txt, the newcomer is told about both ways."""
    monkeypatch.chdir(tmp_path)
    done = run_client(1)
    assert done.returncode == 2
    assert "--demo" in done.stderr


def test_an_unreachable_server_is_exit_5(tmp_path: Path) -> None:
    """One warning while it tries, whatever the number of attempts, and one line at the end."""
    path = random_file(tmp_path / "a", 10)
    with reserve_port() as reserved:
        done = run_client(reserved.getsockname()[1], path, "--timeout", "2")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 2
    assert "nothing listens there" in done.stderr
    assert "goes on" not in done.stderr  # nothing began


@pytest.mark.parametrize("variables", [{"LFT_PASSWORD": "x"}, {}])
def test_a_host_that_does_not_exist_is_exit_5_at_once(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """A typing error in the name need not be tried for half a minute, nor have a password."""
    path = random_file(tmp_path / "a", 10)
    host = 64 * "x"  # longer than a label can be: refused without asking a name service
    done = run_client(1, path, "--server", host, variables=variables)
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert host in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_said_in_one_line(
    local: ServerThread, tmp_path: Path, unbuffered: str
) -> None:
    """A verdict that cannot be read is an error of its own, whenever Python writes it."""
    source = random_file(tmp_path / "x", 10)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            client_command(local.port, source, "--quiet"), check=False, text=True,
            env={**environment(), "PYTHONUNBUFFERED": unbuffered},
            stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 2
    assert "cannot write to standard output" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_does_not_stop_the_transfer(
    local: ServerThread, tmp_path: Path, closed: str
) -> None:
    """A job without input, output or error cannot talk, but it has a file to send."""
    source = random_file(tmp_path / "x", 1000)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *client_command(local.port, source)]
    done = subprocess.run(command, check=False, env=environment(), capture_output=True)
    assert done.returncode == 0
    assert md5(received(local.output)[0]) == md5(source)
