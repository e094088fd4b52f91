"""What would be sent: --dry-run, with --exclude and --strict."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.directories import make_tree
from tests.support.files import random_file
from tests.support.processes import run_client
from tests.tools.proxy import reserve_port


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory with some of everything."""
    made = make_tree(tmp_path / "photos", ["a/one.jpg", "a/two.tmp", "b/", "build/x"])
    random_file(made / "large", 3_000_000)
    (made / "l").symlink_to("a/one.jpg")
    os.mkfifo(made / "pipe")
    return made


def dry_run(*arguments: str | Path) -> Any:
    """Run the client at a port where nobody would answer."""
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        return run_client(port, *arguments, "--dry-run", "--user", "nobody-has-a-password")


def test_each_thing_is_named_and_all_are_counted(top: Path) -> None:
    """Nothing is sent, no server is asked, no password either."""
    done = dry_run(top)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "              photos/a/",
        "     9 bytes  photos/a/one.jpg",
        "     9 bytes  photos/a/two.tmp",
        "              photos/b/",
        "              photos/build/",
        "     7 bytes  photos/build/x",
        "              photos/l -> a/one.jpg",
        "      2.9 MB  photos/large",
        "would send 4 files, 3 directories, 1 link, 1 left out, 2.9 MB  photos",
    ]
    assert "left out, since 1 entry cannot be sent: 1 pipe (pipe)" in done.stderr


def test_what_is_excluded_is_not_there(top: Path) -> None:
    """A directory with all that is in it."""
    done = dry_run(top, "--exclude", "*.tmp", "--exclude", "build/", "--exclude=/l", "--quiet")
    what = "2 files, 2 directories, 3 excluded, 1 left out, 2.9 MB"
    assert done.stdout == f"would send {what}  photos\n"


def test_arguments_are_excluded_by_their_names(tmp_path: Path, top: Path) -> None:
    """As a shell that names all files of a folder needs it."""
    tmp, kept = (random_file(tmp_path / name, 10) for name in ("x.tmp", "kept"))
    done = dry_run(tmp, kept, top, "--exclude", "*.tmp", "--exclude", "photos/")
    assert done.stdout == "would send 1 file, 10 bytes  kept\n"
    assert "2 of 3 arguments are left out" in done.stderr
    done = dry_run(tmp, "--exclude", "*.tmp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "leaves out all that was to be sent" in done.stderr


def test_several_arguments_have_a_sum(tmp_path: Path, top: Path) -> None:
    """And each a line of its own."""
    done = dry_run(random_file(tmp_path / "x", 1024), top, "--quiet")
    one, two, total = done.stdout.splitlines()
    assert one == "would send 1 file, 1.0 KB  x"
    assert two.endswith("  photos")
    assert total == "would send 5 files, 3 directories, 1 link, 1 left out, 2.9 MB in all"


def test_a_program_reads_an_object_for_each_argument(tmp_path: Path, top: Path) -> None:
    """One that cannot be sent has the reason in it."""
    done = dry_run(top, tmp_path / "missing", "--json")
    assert done.returncode == 2
    photos, missing = map(json.loads, done.stdout.splitlines())
    assert photos == {
        "dry_run": True, "name": "photos", "bytes": 3_000_025, "files": 4, "directories": 3,
        "links": 1, "excluded": 0, "left_out": 1,
    }  # fmt: skip
    assert missing == {
        "dry_run": True, "name": "missing", "error": "No such file or directory",
        "code": "source", "exit_code": 2,
    }  # fmt: skip


def test_strict_refuses_what_would_be_left_out(top: Path) -> None:
    """By name, and before anything is asked of a server."""
    done = dry_run(top, "--strict")
    assert done.returncode == 2
    assert done.stdout == "FAILED 1 entry cannot be sent: 1 pipe (pipe) (--strict)  photos\n"
    (top / "pipe").unlink()
    assert dry_run(top, "--strict").returncode == 0


@pytest.mark.parametrize("options", [["--exclude", ""], ["--exclude", "//"], ["--demo"]])
def test_what_makes_no_sense_is_refused(options: list[str]) -> None:
    """No option is taken and left without a meaning."""
    done = dry_run(*options)
    assert done.returncode == 2
    assert done.stdout == ""
