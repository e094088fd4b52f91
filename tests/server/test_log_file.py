"""``--log-file``: where lines go, rotation, and a file that cannot be written."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from pathlib import Path

import pytest

import server as server_module
from lft.server.log_file import LogFile
from protocol import UsageError
from tests.support.processes import StartServer, still_serves
from tests.support.waiting import eventually

DATED = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} INFO    server      · "


class Stderr(logging.Handler):
    """Keeps what would go to standard error."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def line(text: str) -> logging.LogRecord:
    """Make the record of a log line."""
    return logging.LogRecord("server", logging.INFO, "", 0, text, (), None)


def told(path: Path) -> list[str]:
    """Return the messages in a log file, each of whose lines has a date."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [re.sub(r"^\d{4}-.*? (·|❌) ", "", text) for text in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the name of a log file in a directory of its own."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "server.log"


def test_a_line_is_appended_with_its_date(path: Path) -> None:
    """What an earlier run wrote stays; the file is not for all to read."""
    for text in ("first", "second"):
        handler = LogFile(path, Stderr())
        handler.handle(line(text))
        handler.close()
    assert re.fullmatch(f"{DATED}first\n{DATED}second\n", path.read_text(encoding="utf-8"))
    assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_file_that_is_moved_away_or_deleted_is_made_anew(path: Path, how: str) -> None:
    """As logrotate and people do it: without a signal."""
    handler = LogFile(path, Stderr())
    handler.handle(line("before"))
    if how == "moved":
        path.rename(path.with_suffix(".1"))
        assert told(path.with_suffix(".1")) == ["before"]
    else:
        path.unlink()
    handler.handle(line("after"))
    handler.close()
    assert told(path) == ["after"]


def test_a_file_cut_to_nothing_is_written_from_its_start(path: Path) -> None:
    """logrotate's ``copytruncate``: no hole is left."""
    handler = LogFile(path, Stderr())
    handler.handle(line("before"))
    os.truncate(path, 0)
    handler.handle(line("after"))
    handler.close()
    assert told(path) == ["after"]


def test_without_its_directory_lines_go_to_standard_error_and_that_is_said_once(
    path: Path,
) -> None:
    """Both ways: no line is lost, and the file says where its lines are."""
    stderr = Stderr()
    handler = LogFile(path, stderr)
    path.parent.rename(path.parent.with_name("elsewhere"))
    handler.handle(line("one"))
    handler.handle(line("two"))
    path.parent.mkdir()
    handler.handle(line("three"))
    handler.handle(line("four"))
    handler.close()
    assert "No such file or directory" in stderr.lines[0]
    assert stderr.lines[1:] == ["one", "two"]
    assert told(path) == [
        "three", "the lines before went to standard error: No such file or directory", "four",
    ]  # fmt: skip


def test_a_full_disk_is_said_once(path: Path) -> None:
    """Nothing is kept to be written later: the file may be deleted to make room."""
    path.symlink_to("/dev/full")
    stderr = Stderr()
    handler = LogFile(path, stderr)
    for number in range(3):
        handler.handle(line(f"line {number}"))
    path.unlink()
    handler.handle(line("room"))
    handler.close()
    assert stderr.lines[0].startswith(f"cannot write to the log file {path}: No space left")
    assert stderr.lines[1:] == ["line 0", "line 1", "line 2"]
    assert told(path)[0] == "room"


@pytest.mark.parametrize("kind", ["no directory", "a directory", "a pipe that no program reads"])
def test_a_file_that_cannot_be_opened_stops_the_start(path: Path, kind: str) -> None:
    """Exit 2 of the server: the line names the file."""
    if kind == "no directory":
        path = path.parent / "missing" / "log"
    elif kind == "a directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(UsageError, match=f"log file {re.escape(str(path))}: "):
        LogFile(path, Stderr())


def test_a_server_writes_its_log_to_the_file_alone(
    start_server: StartServer, path: Path, tmp_path: Path
) -> None:
    """Also after the file was moved away; standard error stays empty."""
    server = start_server("--log-file", str(path))
    still_serves(server.port, tmp_path)
    first = path.rename(path.with_suffix(".1"))
    still_serves(server.port, tmp_path)
    assert server.stop() == 0
    assert "logged in as" in first.read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert "logged in as" in text
    assert text.endswith("stopped\n")
    assert server.log == ""


def test_a_server_whose_log_directory_goes_away_serves(
    start_server: StartServer, path: Path, tmp_path: Path
) -> None:
    """Standard error has the lines, and one says why."""
    server = start_server("--log-file", str(path))
    path.parent.rename(tmp_path / "elsewhere")
    still_serves(server.port, tmp_path)
    eventually(lambda: "logged in as" in server.log, "the lines")
    assert server.log.count("cannot write to the log file") == 1


def test_what_keeps_a_server_from_starting_is_on_standard_error_too(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person or a supervisor looks there, and the file has it as well."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ["--port", port, "--output", str(tmp_path / "out"), "--log-file", str(path)]
        assert server_module.main(options) == 2
    assert "in use" in capsys.readouterr().err
    assert "in use" in path.read_text(encoding="utf-8")
    logging.getLogger().handlers[0].close()
