"""The demo: the whole main job in one command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import config
from config import ClientSettings
from lft.client.demo import _make_sample, run_demo
from lft.client.receipt import Receipt
from protocol import IntegrityError
from tests.support.files import md5, random_file, received
from tests.support.outputs import verdict_line
from tests.support.processes import ROOT, ServerProcess, environment
from tests.support.waiting import PATIENCE


def test_the_sample_of_the_demo_has_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written in one step: half a sample never stays."""
    monkeypatch.setattr(config, "DEMO_FILE_SIZE", 300_001)
    sample = tmp_path / "input" / "big_file.txt"
    _make_sample(sample)
    assert sample.stat().st_size == 300_001
    assert os.listdir(sample.parent) == ["big_file.txt"]


def test_the_demo_does_not_take_the_verdict_for_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own sums of both files decide: a file that differs is an error whatever was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lft.client.demo._demo_server", lambda *_: contextlib.nullcontext(1234))
    sent = random_file(tmp_path / "sent", 1000)
    told: list[str] = []

    def send(settings: ClientSettings) -> Receipt:
        random_file(tmp_path / "output" / "demo-1" / "received", 1000, seed=2)
        assert (settings.server, settings.port, settings.tls) == ("localhost", 1234, False)
        return Receipt("INTEGRITY_OK", "sent", "received", 1000, md5(sent), "md5", 1.0, 1, 0, 0, 4,
                       durable=True, congestion="", bottleneck="", wire_bytes=1000,
                       sent_bytes=1000)  # fmt: skip

    with pytest.raises(IntegrityError, match="differ"):
        run_demo(sent, ClientSettings(tls=True), "INFO", send, told.append, told.append)
    assert [line.split()[0] for line in told] == ["md5", "md5"]


def _demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the demonstration on a small file in ``folder``."""
    (folder / "input").mkdir()
    random_file(folder / "input" / "big_file.txt", 3_000_000)
    return subprocess.run(
        [sys.executable, str(ROOT / "client.py"), "--demo", *options], cwd=folder,
        env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE * 2,
    )  # fmt: skip


def test_the_demo_does_the_whole_main_job(tmp_path: Path) -> None:
    """One command: server, sample, transfer, two equal sums, throughput, and everything stopped."""
    done = _demo(tmp_path)
    assert done.returncode == 0, done.stderr
    sums = re.findall(r"^md5 ([0-9a-f]{32})  (.*)$", done.stdout, re.M)
    assert [digest for digest, _ in sums] == [md5(tmp_path / "input" / "big_file.txt")] * 2
    assert sums[1][1].startswith("output/demo-1/server_received_")
    assert "/s)" in done.stdout
    assert "stopped" in done.stderr


def test_the_demo_works_beside_a_running_server(tmp_path: Path) -> None:
    """On a port and in a directory of its own, also after another demo."""
    (tmp_path / "output" / "demo-1").mkdir(parents=True)
    server = ServerProcess(tmp_path)  # it has output/
    try:
        done = _demo(tmp_path)
    finally:
        assert server.stop() == 0
    assert done.returncode == 0, done.stderr
    assert "output/demo-2/server_received_" in done.stdout
    assert received(server.output) == []


def test_the_demo_prints_the_verdict_like_any_transfer(tmp_path: Path) -> None:
    """DESIGN 9: one line for each file, with the digest and the name at its end."""
    first = _demo(tmp_path).stdout.splitlines()[0]
    verdict, digest, name = verdict_line(first + "\n")
    assert (verdict, name) == ("INTEGRITY_OK", "big_file.txt")
    assert digest == md5(tmp_path / "input" / "big_file.txt")


def test_the_demo_with_json_prints_nothing_else(tmp_path: Path) -> None:
    """Programs read all of standard output; with --quiet neither side has anything to add."""
    done = _demo(tmp_path, "--json", "--quiet")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["verdict"] == "INTEGRITY_OK"
    assert done.stderr == ""


def test_options_that_mean_nothing_to_a_demo_are_named(tmp_path: Path) -> None:
    """It has a server of its own, which speaks no TLS."""
    done = _demo(tmp_path, "--tls", "--port=1", "--compress")
    assert done.returncode == 0
    assert "--demo has a server of its own: --port, --tls left out of account" in done.stderr


def test_a_demo_that_cannot_write_says_where(tmp_path: Path) -> None:
    """In words, without the numbers of the system."""
    (tmp_path / "output").write_text("a file")
    done = _demo(tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("output: File exists\n")
    assert "Errno" not in done.stderr


def test_the_demo_takes_one_file(tmp_path: Path) -> None:
    """A second one would be left out without a word."""
    done = _demo(tmp_path, "input/big_file.txt", "input/big_file.txt")
    assert done.returncode == 2
    assert "--demo takes one FILE" in done.stderr
