"""The operator's program for each file: whatever it does, no verdict waits for it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Iterator

import pytest

import config
from client import send_files
from lft.server.on_received import Programs, find_program
from lft.store.history import Outcome
from lft.store.paths import PARTIAL
from protocol import IntegrityFailed, IntegrityOk, UsageError
from tests.support.files import random_file, received
from tests.support.history import entries, entry, names, noted
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines
from tests.support.programs import lines_of, script
from tests.support.rawpeer import RawClient
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Let nothing take longer than a test should."""
    monkeypatch.setattr(config, "HISTORY_GATHER", 0.01)
    monkeypatch.setattr(config, "PROGRAM_AGAIN", 0.05)
    monkeypatch.setattr(config, "PROGRAM_CLOSING", 0.2)
    caplog.set_level(logging.INFO)


@pytest.fixture
def told() -> list[Outcome]:
    """What a program's end has been told to."""
    return []


@pytest.fixture
def start_programs(output: Path, told: list[Outcome]) -> Iterator[list[Programs]]:
    """Programs that are stopped at the end."""
    started: list[Programs] = []
    yield started
    for one in started:
        one.stop()


def programs(output: Path, text: str, told: list[Outcome], started: list[Programs]) -> Programs:
    """Start to run a shell script for the files of an output directory."""
    one = Programs(script(output / "hook", text), output, told.append)
    one.start()
    started.append(one)
    return one


def publish(output: Path, one: Programs, file: Outcome, *, confirmed: bool = True) -> str:
    """Publish a file as a transfer does; return the name of its note."""
    for suffix in (".part", ".journal"):
        (output / PARTIAL / f"stem{suffix}").write_bytes(b"x")
    name = one.prepare(file, "stem", output / PARTIAL / "stem.part")
    os.link(output / PARTIAL / "stem.part", output / file.saved_as)
    (output / PARTIAL / "stem.part").unlink()
    if confirmed:
        (output / PARTIAL / "stem.journal").unlink()
    return name


def notes(output: Path) -> list[str]:
    """Return the notes of an output directory."""
    folder = output / PARTIAL / "received"
    return sorted(os.listdir(folder)) if folder.exists() else []


def send(local: ServerThread, name: str = "x") -> IntegrityOk:
    """Send a small file; return its verdict."""
    with RawClient(local.port).log_in() as client:
        upload = client.start(name, b"x" * 10)
        upload.send(client.attach(), 0)
        verdict = upload.complete()
        assert isinstance(verdict, IntegrityOk)
        return verdict


def test_a_program_runs_for_a_file_once_it_is_published(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """It finds the file, and may move it; how it ended stands in the history."""
    (tmp_path / "away").mkdir()
    hook = script(tmp_path / "hook", 'mv "$LFT_SAVED_AS" ../away && echo moved "$LFT_NAME"')
    local = start_local(on_received=hook)
    source = random_file(tmp_path / "x.bin", 500_000)
    send_files([source], local.client())
    eventually(lambda: [one.program_line for one in entries(local.output)] == ["moved x.bin"])
    assert entries(local.output)[0].program_code == 0
    assert received(local.output) == []
    (moved,) = (tmp_path / "away").iterdir()
    assert moved.read_bytes() == source.read_bytes()
    eventually(lambda: notes(local.output) == [])


def test_a_program_that_hangs_delays_no_verdict(start_local: StartLocal, tmp_path: Path) -> None:
    """More of them than run at once; each stays noted, for the next start."""
    local = start_local(on_received=script(tmp_path / "hook", "echo > began; sleep 1000"))
    for number in range(config.PROGRAMS + 2):
        send(local, str(number))
    eventually((local.output / "began").exists)
    assert len(noted(local.output, config.PROGRAMS + 2)) == config.PROGRAMS + 2
    local.stop()
    assert len(notes(local.output)) == config.PROGRAMS + 2


def test_a_program_that_fails_changes_no_verdict(
    start_local: StartLocal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its exit code and its last line stand in the log and in the history."""
    hook = script(tmp_path / "hook", "echo first; printf 'no \\033[31mroom' >&2; exit 9")
    local = start_local(on_received=hook)
    verdict = send(local)
    expected = f"hook for {verdict.saved_as}: exit code 9: no \\x1b[31mroom"
    eventually(lambda: lines(caplog, expected))
    eventually(lambda: [one.program_code for one in entries(local.output)] == [9])
    assert entries(local.output)[0].program_line == "no \\x1b[31mroom"
    assert (local.output / verdict.saved_as).exists()


def test_a_program_runs_for_what_was_received_alone(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """Not for what failed: nothing of that is left to be done."""
    local = start_local(on_received=script(tmp_path / "hook", "echo $LFT_NAME >> ran"))
    with RawClient(local.port).log_in() as client:
        upload = client.start("bad", b"x" * 10)
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(digest="0" * 32), IntegrityFailed)
    send(local, "good")
    eventually(lambda: lines_of(local.output / "ran") == ["good"])
    eventually(lambda: notes(local.output) == [])


def test_no_note_stays_of_a_file_that_could_not_be_published(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses the name."""
    local = start_local(on_received=script(tmp_path / "hook", "echo $LFT_NAME >> ran"))

    def fail(*_: object) -> None:
        assert len(notes(local.output)) == 1
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, RawClient(local.port).log_in() as client:
        upload = client.start("x", b"x" * 10)
        patch.setattr("lft.store.partfile.link_descriptor", fail)
        upload.send(client.attach(), 0)
        assert not isinstance(upload.complete(), IntegrityOk)
    assert notes(local.output) == []


def test_a_program_runs_for_a_directory(
    start_local: StartLocal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one thing, with the number of its files; a kill would not keep it from running."""
    hook = script(tmp_path / "hook", 'ls -R "$LFT_SAVED_AS"; echo $LFT_FILES of $LFT_NAME')
    local = start_local(on_received=hook)
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    random_file(tmp_path / "tree" / "a", 3000)
    random_file(tmp_path / "tree" / "inner" / "b", 3000)
    send_files([tmp_path / "tree"], local.client())
    eventually(lambda: [one.program_line for one in entries(local.output)] == ["2 of tree"])
    assert entries(local.output)[0].files == 2
    assert not lines(caplog, "a kill would keep")
    eventually(lambda: notes(local.output) == [])


def test_what_a_kill_left_for_a_directory_runs(
    output: Path, told: list[Outcome], start_programs: list[Programs]
) -> None:
    """A directory keeps its number when it gets its final name, too."""
    killed = Programs(script(output / "hook", ":"), output, told.append)
    (output / PARTIAL / "stem.tree" / "tree").mkdir(parents=True)
    tree = output / PARTIAL / "stem.tree" / "tree"
    file = entry("tree", files=0)
    killed.prepare(file, "stem", tree)
    tree.rename(output / file.saved_as)
    programs(output, "test -d $LFT_SAVED_AS && echo $LFT_NAME >> ran", told, start_programs)
    eventually(lambda: lines_of(output / "ran") == ["tree"])


def test_only_so_many_run_at_once(
    output: Path, told: list[Outcome], start_programs: list[Programs]
) -> None:
    """The rest waits, in the order of the files."""
    text = "echo on >> ran; until [ -e go ]; do sleep 0.02; done; echo $LFT_NAME >> ended"
    one = programs(output, text, told, start_programs)
    for number in range(6):
        file = entry(str(number), number)
        one.put(publish(output, one, file), file)
    eventually(lambda: len(lines_of(output / "ran")) == config.PROGRAMS)
    assert told == []
    (output / "go").touch()
    eventually(lambda: len(told) == 6)
    assert sorted(lines_of(output / "ended")) == ["0", "1", "2", "3", "4", "5"]
    assert len(lines_of(output / "ran")) == 6
    eventually(lambda: notes(output) == [])


def test_what_a_server_has_left_runs_at_the_next_start(
    output: Path,
    told: list[Outcome],
    start_programs: list[Programs],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the order of the files; the history hears of what the old server could not tell."""
    killed = Programs(script(output / "hook", ":"), output, told.append)  # it never starts
    for number in range(5):
        publish(output, killed, entry(str(number), number))
    programs(output, "echo $LFT_NAME >> ran", told, start_programs)
    eventually(lambda: len(told) == 5)
    assert sorted(lines_of(output / "ran")) == ["0", "1", "2", "3", "4"]
    assert {one.name: one.program_code for one in told} == dict.fromkeys("01234", 0)
    eventually(lambda: notes(output) == [])
    assert lines(caplog, "5 runs of hook left by the server before")


@pytest.mark.parametrize("noted", [False, True])
def test_what_a_server_has_left_runs_at_another_one_that_shares(
    output: Path,
    told: list[Outcome],
    start_programs: list[Programs],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    noted: bool,
) -> None:
    """While that runs; the history hears of it where no server has noted the file."""
    monkeypatch.setattr(config, "TAKE_OVER_EVERY", 0.05)
    hook = script(output / "hook", "echo $LFT_NAME >> ran")
    killed = Programs(hook, output, told.append, "one")
    killed._spool.open()
    for number in range(3):
        publish(output, killed, entry(str(number), number))
    another = Programs(hook, output, told.append, "two", lambda _: noted)
    start_programs.append(another)
    looks, look = [], another._spool.take_over

    def take_over() -> list[str]:
        looks.append(look())
        return looks[-1]

    monkeypatch.setattr(another._spool, "take_over", take_over)
    another.start()
    eventually(lambda: len(looks) > 1)
    assert not (output / "ran").exists()
    killed._spool.close()
    eventually(lambda: len(lines_of(output / "ran")) == 3)
    eventually(lambda: another._spool.names() == [])
    eventually(lambda: len(told) == (0 if noted else 3))
    assert sorted(lines_of(output / "ran")) == ["0", "1", "2"]
    assert lines(caplog, "3 runs of hook left by other servers")


def test_nothing_runs_for_a_file_that_the_kill_kept_from_its_name(
    output: Path, told: list[Outcome], start_programs: list[Programs]
) -> None:
    """Nor for one that was moved on since; its client will send it again."""
    killed = Programs(script(output / "hook", ":"), output, told.append)
    (output / PARTIAL / "stem.part").write_bytes(b"x")
    killed.prepare(entry("never"), "stem", output / PARTIAL / "stem.part")
    file = entry("moved", 3)
    publish(output, killed, file)
    (output / file.saved_as).rename(output / "elsewhere")
    programs(output, "echo $LFT_NAME >> ran", told, start_programs)
    eventually(lambda: notes(output) == [])
    assert not (output / "ran").exists()
    assert told == []


def test_after_a_kill_a_file_waits_until_its_client_has_the_verdict(
    output: Path, told: list[Outcome], start_programs: list[Programs]
) -> None:
    """Were it moved on before, the client would be told that it has to send it again."""
    killed = Programs(script(output / "hook", ":"), output, told.append)
    publish(output, killed, entry("unconfirmed", 1), confirmed=False)
    one = programs(output, "echo $LFT_NAME >> ran", told, start_programs)
    file = entry("other", 2)
    one.put(publish(output, one, file, confirmed=False), file)
    eventually(lambda: [one.name for one in told] == ["other"])
    assert lines_of(output / "ran") == ["other"]
    (output / PARTIAL / "stem.journal").unlink()
    eventually(lambda: len(told) == 2)
    assert lines_of(output / "ran") == ["other", "unconfirmed"]


def test_a_note_that_is_none_of_ours_is_told_and_removed(
    output: Path,
    told: list[Outcome],
    start_programs: list[Programs],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Garbage after a power cut keeps no other file from its program."""
    killed = Programs(script(output / "hook", ":"), output, told.append)
    publish(output, killed, entry("good"))
    (output / PARTIAL / "received" / "000-garbage").write_bytes(b"\xff\x00")
    programs(output, "echo $LFT_NAME >> ran", told, start_programs)
    eventually(lambda: lines_of(output / "ran") == ["good"])
    assert lines(caplog, "nothing is run for the note 000-garbage")
    eventually(lambda: notes(output) == [])


def test_a_program_that_is_gone_for_a_while_is_told_once_and_tried_again(
    output: Path,
    told: list[Outcome],
    start_programs: list[Programs],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An operator may be about to exchange it."""
    one = programs(output, "echo $LFT_NAME >> ran", told, start_programs)
    (output / "hook").rename(output / "gone")
    for number in range(3):
        file = entry(str(number), number)
        one.put(publish(output, one, file), file)
    eventually(lambda: lines(caplog, "cannot run"))
    (output / "gone").rename(output / "hook")
    eventually(lambda: len(told) == 3)
    assert len(lines(caplog, "cannot run")) == 1


def test_where_no_note_can_be_written_the_program_runs_all_the_same(
    start_local: StartLocal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A disk that is full to the last byte: only a kill would keep it from running."""
    local = start_local(on_received=script(tmp_path / "hook", "echo $LFT_NAME >> ran"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lft.store.spool.flush_directory", fail)
    send(local)
    eventually(lambda: lines_of(local.output / "ran") == ["x"])
    assert lines(caplog, "a kill would keep hook from running")


def test_a_verdict_that_is_given_again_runs_nothing_again(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """A client that has not heard it comes back, to the same server."""
    local = start_local(on_received=script(tmp_path / "hook", "echo $LFT_NAME >> ran"))
    data = os.urandom(10)
    places = []
    for _ in range(2):
        with RawClient(local.port).log_in() as client:
            upload = client.start("x", data, resume=True)
            upload.send(client.attach(), 0)
            verdict = upload.complete()
            assert isinstance(verdict, IntegrityOk)
            places.append(verdict.saved_as)
        eventually(lambda: local.server.parts.in_use == 0)
    assert places[0] == places[1]
    send(local, "last")
    eventually(lambda: names(local.output) == ["last", "x"])
    eventually(lambda: notes(local.output) == [])
    assert sorted(lines_of(local.output / "ran")) == ["last", "x"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gone", "No such file"), ("folder", "a directory"), ("text", "not executable; 'chmod")],
)
def test_a_program_that_cannot_be_run_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    """At the start, before a file is received in vain."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match=f"--on-received .*{name}: {reason}"):
        find_program(tmp_path / name)


def test_a_program_is_found_here_or_where_the_shell_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole path counts, since it runs in another directory."""
    monkeypatch.chdir(tmp_path)
    here = script(tmp_path / "hook", ":")
    assert find_program(Path("hook")) == find_program(Path("./hook")) == here
    assert find_program(Path("true")).name == "true"
    assert find_program(Path("true")).is_absolute()
