"""What a program loads when it starts: each module that a run does not need makes it slower."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.files import random_file
from tests.support.processes import StartServer, environment, run_client
from tests.support.waiting import eventually

TELL_IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}

# Slow to load, and used by few runs or by none.
NOT_NEEDED = {
    "asyncio", "ctypes", "dataclasses", "datetime", "difflib", "email", "encodings.idna", "getpass",
    "http", "inspect", "multiprocessing", "optparse", "pdb", "shutil", "sqlite3", "ssl",
    "subprocess", "tempfile", "tqdm", "unittest", "urllib.request", "uuid", "xml",
}  # fmt: skip
OF_HISTORY = {"sqlite3", "datetime"}
NOT_NEEDED_BY_A_CLIENT = {
    "backports.zstd", "compression.zstd", "random", "secrets", "stringprep", "zlib"
}  # fmt: skip


def loaded(log: str) -> set[str]:
    """Return the modules that a process names as it imports them, without Python's own start.

    What an environment adds to that, such as a tool that measures coverage, is no concern of ours.
    """
    bare = subprocess.run(
        [sys.executable, "-c", "pass"],
        capture_output=True, text=True, check=True, env={**environment(), **TELL_IMPORTS},
    ).stderr  # fmt: skip
    of_run, of_start = (
        set(re.findall(r"^import time:[ \d]+\|[ \d]+\| +(\S+)", text, re.M)) for text in (log, bare)
    )
    return of_run - of_start


@pytest.mark.parametrize("options", [[], ["--quiet"], ["--json"]], ids=["plain", "quiet", "json"])
def test_a_client_loads_only_what_its_run_needs(
    start_server: StartServer, tmp_path: Path, options: list[str]
) -> None:
    """A small file takes as long as the program that sends it takes to start."""
    source = random_file(tmp_path / "x", 300_000)
    done = run_client(start_server().port, source, *options, variables=TELL_IMPORTS)
    found = loaded(done.stderr)
    assert "lft.client.upload" in found
    assert found & (NOT_NEEDED | NOT_NEEDED_BY_A_CLIENT) == set()


def test_a_server_without_tls_loads_only_what_it_needs(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was started again serves soon, and so does the first client."""
    for name, value in TELL_IMPORTS.items():
        monkeypatch.setenv(name, value)
    server = start_server()
    run_client(server.port, random_file(tmp_path / "x", 300_000))
    found = loaded(server.log)
    assert "lft.server.verification" in found
    assert found & NOT_NEEDED <= OF_HISTORY
    assert not any(name.startswith("lft.web") for name in found)


def test_a_server_loads_what_its_history_needs_when_there_is_something_to_write(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start costs nothing of it, and the verdict of the first file does not wait for it."""
    for name, value in TELL_IMPORTS.items():
        monkeypatch.setenv(name, value)
    server = start_server()
    assert loaded(server.log) & NOT_NEEDED == set()
    run_client(server.port, random_file(tmp_path / "x", 300_000))
    eventually(lambda: "sqlite3" in loaded(server.log))
