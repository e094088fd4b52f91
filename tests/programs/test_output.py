"""The programs' output on a terminal, and their logs."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from config import KB
from tests.support.files import random_file
from tests.support.processes import (
    ROOT,
    ServerProcess,
    StartServer,
    client_command,
    environment,
    run_client,
)
from tests.support.waiting import PATIENCE, eventually


def _on_a_terminal(
    command: list[str], variables: dict[str, str], folder: Path | None = None, typed: bytes = b""
) -> str:
    """Run a command on a pseudo terminal; return everything it showed."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        command, stdout=follower, stderr=follower, stdin=follower,
        env={**environment(), "TERM": "xterm", **variables}, cwd=folder,
    )  # fmt: skip
    os.close(follower)
    os.write(leader, typed)
    shown = b""
    while select.select([leader], [], [], PATIENCE)[0]:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait(PATIENCE) == 0
    return shown.decode()


def test_a_terminal_gets_colours_signs_and_a_bar(server: ServerProcess, tmp_path: Path) -> None:
    """Green success, cyan coordinator, a bar with phase, rate and time left."""
    source = random_file(tmp_path / "file.bin", 20 * KB * KB)
    shown = _on_a_terminal(client_command(server.port, source, "--limit", "10M"), {})
    assert re.search(r"\x1b\[32m[^\n]*✅", shown)
    assert re.search(r"\x1b\[36m[^\n]*🔷", shown)
    bar = r"sending file\.bin: +\d+%\|[^|]+\| +[\d.]+/20\.0 MB, +[\d.]+ MB/s, +0:\d\d left"
    assert re.search(bar, shown)


def test_the_bar_leaves_room_for_what_ctrl_c_shows(server: ServerProcess, tmp_path: Path) -> None:
    """Otherwise ``^C`` begins a new line, and what is left of the bar stays above the verdict."""
    source = random_file(tmp_path / "file.bin", 10 * KB * KB)
    shown = _on_a_terminal(client_command(server.port, source, "--limit", "10M"), {})
    bars = re.findall(r"sending file\.bin[^\r\n\x1b]+", shown)
    assert max(map(len, bars)) == 97  # of 100


def test_the_log_of_the_server_of_a_demo_does_not_meet_the_bar(tmp_path: Path) -> None:
    """Each line of both programs begins where a line begins, in colours as ever."""
    random_file(tmp_path / "file.bin", 5 * KB * KB)
    command = [sys.executable, str(ROOT / "client.py"), "--demo", "file.bin", "--limit", "5M"]
    shown = _on_a_terminal(command, {}, tmp_path)
    assert re.search(r"sending file\.bin: +\d+%\|", shown)
    assert re.search(r"\x1b\[32m[^\n]*✅ saved server_received", shown)
    before = re.findall(r"(.?)(?:\x1b\[\d+m)?\d\d:\d\d:\d\d (?:INFO|WARNING|ERROR) ", shown, re.S)
    assert len(before) > 5
    assert set(before) <= {"", "\n", "\r", "A"}  # A: the end of an escape that goes up a line


def test_what_is_typed_does_not_meet_a_bar(server: ServerProcess) -> None:
    """Standard input from the terminal: only what the user types stands there until its end."""
    shown = _on_a_terminal(client_command(server.port, "-"), {}, typed=b"hello\n\4")
    assert "INTEGRITY_OK 6 bytes in " in shown
    assert "waiting for input" not in shown
    assert "sending" not in shown


def test_on_a_terminal_the_verdict_is_the_last_line(server: ServerProcess, tmp_path: Path) -> None:
    """Bar, log and verdict do not say the same: size and name on the server stand there alone."""
    source = random_file(tmp_path / "file.bin", 3 * KB * KB)
    shown = _on_a_terminal(client_command(server.port, source), {})
    before, last = shown.rstrip().rsplit("\n", 1)
    assert last.startswith("INTEGRITY_OK 3.0 MB in ")
    assert re.search(r"file\.bin arrived at [\d.]+ .B/s", before)
    assert "server_received" not in before
    assert "3.0 MB in" not in before


def test_a_terminal_of_letters_gets_neither_signs_nor_escapes_in_their_place(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Words, and a bar of letters."""
    source = random_file(tmp_path / "file.bin", 20 * KB * KB)
    shown = _on_a_terminal(
        client_command(server.port, source, "--limit", "10M"), {"LC_ALL": "C", "NO_COLOR": "1"}
    )
    assert shown.isascii()
    assert "\\" not in shown
    assert "client      ok: file.bin arrived" in shown
    assert re.search(r"\d%\|#+[\d ]* *\|", shown)


def test_no_color_means_no_colour(server: ServerProcess, tmp_path: Path) -> None:
    """The user's wish goes before the terminal's abilities (no-color.org)."""
    source = random_file(tmp_path / "file.bin", 1000)
    shown = _on_a_terminal(client_command(server.port, source), {"NO_COLOR": "1"})
    assert "✅" in shown
    assert not re.search(r"\x1b\[3\dm", shown)


def test_without_a_terminal_there_is_neither_colour_nor_bar(
    server: ServerProcess, tmp_path: Path
) -> None:
    """A log file stays readable."""
    source = random_file(tmp_path / "file.bin", 1000)
    done = run_client(server.port, source)
    assert "\x1b" not in done.stderr + server.log
    assert "%" not in done.stderr


@pytest.fixture
def no_tqdm(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine on which tqdm is not installed."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tqdm.py").write_text("raise ModuleNotFoundError('no tqdm')")
    return {"PYTHONPATH": str(tmp_path / "modules")}


def test_without_tqdm_one_line_says_how_to_get_the_bar(
    server: ServerProcess, tmp_path: Path, no_tqdm: dict[str, str]
) -> None:
    """The file arrives all the same, and a bar of letters shows how it goes."""
    source = random_file(tmp_path / "file.bin", 20 * KB * KB)
    shown = _on_a_terminal(client_command(server.port, source, "--limit", "10M"), no_tqdm)
    assert shown.count("tqdm; to get it: python -m pip install tqdm") == 1
    bar = r"\rsending file\.bin: +\d+%\|#+ *\| +[\d.]+/20\.0 MB, +[\d.]+ MB/s, +0:\d\d left"
    assert re.search(bar, shown)
    assert "INTEGRITY_OK" in shown


def test_without_tqdm_nothing_is_said_where_no_bar_would_be(
    server: ServerProcess, tmp_path: Path, no_tqdm: dict[str, str]
) -> None:
    """Neither in a log file nor with --quiet."""
    source = random_file(tmp_path / "file.bin", 1000)
    assert "tqdm" not in run_client(server.port, source, variables=no_tqdm).stderr
    assert "tqdm" not in _on_a_terminal(client_command(server.port, source, "--quiet"), no_tqdm)


def test_the_log_of_a_large_file_is_short(server: ServerProcess, tmp_path: Path) -> None:
    """No line per block, unless asked for."""
    source = random_file(tmp_path / "file.bin", 4 * KB * KB)
    run_client(server.port, source, "--block-size", "4K")
    assert server.log.count("\n") < 12


def test_debug_shows_every_block(start_server: StartServer, tmp_path: Path) -> None:
    """Blue lines, one for each block, on both sides."""
    server = start_server("--log-level", "DEBUG")
    source = random_file(tmp_path / "file.bin", 1000 * KB)
    done = run_client(server.port, source, "--log-level", "DEBUG")
    for index in range(5):
        assert f"block {index} sent" in done.stderr
    written = [f"block {index} written" for index in range(5)]
    eventually(lambda: all(line in server.log for line in written), "every block's line")
