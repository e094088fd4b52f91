"""One run of another program: what it is given, and how it ends in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Timer

import pytest

import config
from lft.server.program import Ended, run
from lft.store.history import Outcome
from tests.support.history import entry
from tests.support.processes import ROOT
from tests.support.programs import lines_of, script
from tests.support.waiting import SOON, eventually


def run_script(folder: Path, text: str, one: Outcome | None = None) -> Ended:
    """Run a shell script for a file."""
    return run(script(folder / "hook", text), one or entry(), folder, Event())


def lives(process: int) -> bool:
    """Return whether a process is there, other than as a zombie."""
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    return False


def child(folder: Path) -> int:
    """Return the number that a script has written into its file ``child``."""
    eventually(lambda: lines_of(folder / "child"))
    return int(lines_of(folder / "child")[0])


def test_a_program_has_the_facts_in_variables_and_nothing_else_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No argument, no secret; it stands in the output directory."""
    monkeypatch.setenv("LFT_PASSWORD", "secret")
    monkeypatch.setenv("OWN", "stays")
    one = entry("report.pdf", 7, user="ann", size=2**40, digest="ab", algorithm="md5",
                address="2001:db8::7")  # fmt: skip
    ended = run_script(tmp_path, "env > facts; pwd -P >> facts; echo $# arguments $OWN", one)
    assert ended == Ended(0, "0 arguments stays", False, False)
    facts = lines_of(tmp_path / "facts")
    assert sorted(line for line in facts if line.startswith("LFT_")) == [
        "LFT_ADDRESS=2001:db8::7", "LFT_ALGORITHM=md5", "LFT_DIGEST=ab", "LFT_DOOR=wire",
        "LFT_FILES=", "LFT_NAME=report.pdf", f"LFT_OUTPUT={tmp_path}",
        "LFT_SAVED_AS=server_received_7_report.pdf", f"LFT_SIZE={2**40}", "LFT_USER=ann",
    ]  # fmt: skip
    assert facts[-1] == str(tmp_path.resolve())


def test_a_name_runs_nothing(tmp_path: Path) -> None:
    """It goes by no shell of ours; a program that quotes it has it as it is."""
    name = "$(touch pwned);`touch pwned`|'\"\n&& touch pwned -rf ü"
    ended = run_script(tmp_path, 'printf %s "$LFT_NAME" > name', entry(name))
    assert ended.code == 0
    assert (tmp_path / "name").read_text(encoding="utf-8") == name
    assert not (tmp_path / "pwned").exists()


def test_names_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    """A service may run without a locale, and Python then takes names to be ASCII."""
    code = (
        "import pathlib, threading, lft.server.program, tests.support.history as history\n"
        "one, here = history.entry('\\u00dc\\u6587'), pathlib.Path('.').absolute()\n"
        "lft.server.program.run(here / 'hook', one, here, threading.Event())"
    )
    script(tmp_path / "hook", 'printf %s "$LFT_NAME" > name')
    own = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    variables = {**os.environ, **own, "LC_ALL": "POSIX"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, check=True)
    assert (tmp_path / "name").read_bytes() == "Ü文".encode()


def test_a_program_gets_no_descriptors(tmp_path: Path) -> None:
    """Not even those that a library of the server lets a child have; its input is empty."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        ended = run_script(tmp_path, "cat; ls /proc/self/fd | tr '\\n' ' '")
    finally:
        os.close(read)
        os.close(write)
    assert ended.line.split()[:3] == ["0", "1", "2"]
    assert len(ended.line.split()) == 4  # the last one is of ls itself


def test_a_program_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C at the server's terminal is not for it."""
    ended = run_script(tmp_path, "echo $$ $(cut -d' ' -f6 /proc/self/stat)")
    assert ended.line.split()[0] == ended.line.split()[1] != str(os.getsid(0))


@pytest.mark.parametrize("signals", ["", "trap '' TERM; "], ids=["plain", "deaf"])
def test_a_program_that_takes_too_long_is_killed_with_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: str
) -> None:
    """First it is asked to end; a child in the group goes with it, and nothing is left."""
    monkeypatch.setattr(config, "PROGRAM_TIMEOUT", 0.3)
    monkeypatch.setattr(config, "PROGRAM_CLOSING", 0.2)
    text = f"{signals}sh -c '{signals}echo $$ > child; while :; do sleep 1; done' & echo on; wait"
    ended = run_script(tmp_path, text)
    assert (ended.line, ended.late, ended.stopped) == ("on", True, False)
    assert -ended.code in (signal.SIGTERM, signal.SIGKILL)
    eventually(lambda: not lives(child(tmp_path)), "the child to be gone")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_a_program_leaves_in_its_group_ends_with_it(tmp_path: Path) -> None:
    """Otherwise its number and time would be bounded in name only."""
    ended = run_script(tmp_path, "sleep 1000 & echo $! > child; echo done")
    assert ended == Ended(0, "done", False, False)
    eventually(lambda: not lives(child(tmp_path)), "the child to be gone")


def test_a_child_that_keeps_the_output_open_holds_up_nothing(tmp_path: Path) -> None:
    """It has a session of its own, where it is out of our reach, and writes for ever."""
    began = time.monotonic()
    ended = run_script(tmp_path, "setsid yes & echo $! > child; sleep 0.1")
    assert time.monotonic() - began < SOON
    assert ended.code == 0
    eventually(lambda: not lives(child(tmp_path)), "it to meet the closed pipe")


def test_a_program_that_has_closed_its_output_is_waited_for(tmp_path: Path) -> None:
    """Its end counts, and not that of its output."""
    began = time.process_time()
    ended = run_script(tmp_path, "echo early; exec >&- 2>&-; sleep 0.5; exit 3")
    assert ended == Ended(3, "early", False, False)
    assert time.process_time() - began < 0.2


def test_the_last_line_is_safe_to_show(tmp_path: Path) -> None:
    """Whatever bytes a program writes, and however many; empty lines do not count."""
    text = "yes x | head -c 1000000; printf '\\033[31mr\\351d\\n  \\n\\n'; exit 7"
    assert run_script(tmp_path, text) == Ended(7, "\\x1b[31mr\ufffdd", False, False)
    assert run_script(tmp_path, "yes | tr -d '\\n' | head -c 9999").line == "y" * 200
    assert run_script(tmp_path, ":").line == ""


def test_a_signal_is_told_as_a_negative_code(tmp_path: Path) -> None:
    """As subprocess does."""
    assert run_script(tmp_path, "kill -SEGV $$").code == -signal.SIGSEGV


def test_a_server_that_stops_ends_the_program(tmp_path: Path) -> None:
    """At once; a moment later it would be killed."""
    stopping = Event()
    timer = Timer(0.2, stopping.set)
    timer.start()
    ended = run(script(tmp_path / "hook", "sleep 1000"), entry(), tmp_path, stopping)
    assert (ended.code, ended.stopped) == (-signal.SIGTERM, True)
    timer.join()


def test_a_program_that_ends_well_when_the_server_stops_has_run(tmp_path: Path) -> None:
    """It need not run again."""
    stopping = Event()
    text = "trap 'echo saved; exit 0' TERM; echo > ready; while :; do sleep 0.05; done"
    program = script(tmp_path / "hook", text)
    timer = Timer(0.3, stopping.set)
    timer.start()
    ended = run(program, entry(), tmp_path, stopping)
    assert ended == Ended(0, "saved", False, False)
    timer.join()


def test_a_program_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    """Removed meanwhile, or no program at all."""
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "gone", entry(), tmp_path, Event())
    (tmp_path / "text").write_bytes(b"\x00no program")
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(OSError, match="Exec format"):
        run(tmp_path / "text", entry(), tmp_path, Event())


def test_signals_that_the_server_ignores_reach_a_program(tmp_path: Path) -> None:
    """Python ignores SIGPIPE: a program that did would write into closed pipes for ever."""
    ended = run_script(tmp_path, "grep SigIgn /proc/self/status | cut -f 2")
    assert int(ended.line, 16) & (1 << signal.SIGPIPE - 1) == 0
