"""The main job with real processes: server.py in one, client.py in another, md5sum at the end."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from config import KB
from tests.support.files import md5, random_file, received
from tests.support.outputs import verdict_line
from tests.support.processes import (
    ServerProcess,
    StartServer,
    client_command,
    environment,
    peak_memory,
    run_client,
)
from tests.support.rawpeer import RawClient
from tests.support.waiting import PATIENCE, eventually

THREADS = 14  # main and ten workers; log, history and watchdog, which hardly ever run


@pytest.mark.parametrize(
    "size",
    [0, 1, 50 * KB - 1, 50 * KB, 50 * KB + 1, 200 * KB - 1, 200 * KB, 200 * KB + 1, 800 * KB,
     10 * KB * KB],
)  # fmt: skip
def test_a_file_of_any_size_arrives_as_it_was(
    server: ServerProcess, tmp_path: Path, size: int
) -> None:
    """FAULTS 12: sizes around chunk and block; the sums are equal and the line says so."""
    source = random_file(tmp_path / "file.bin", size)
    done = run_client(server.port, source)
    assert done.returncode == 0, done.stderr
    assert verdict_line(done.stdout) == ("INTEGRITY_OK", md5(source), "file.bin")
    (saved,) = received(server.output)
    assert md5(saved) == md5(source)
    assert saved.name.endswith("_file.bin")


def test_a_large_file_arrives_in_constant_memory(server: ServerProcess, tmp_path: Path) -> None:
    """300 MB through 80 MB of each side, with no more threads than were promised."""
    source = random_file(tmp_path / "large.bin", 300 * KB * KB)
    command = client_command(server.port, source, "--quiet")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as client:
        peak = 0  # not wait4's figure: that one counts the forked test process as well
        while client.poll() is None:
            peak = max(peak, peak_memory(client.pid))
    assert client.returncode == 0, server.log
    assert md5(received(server.output)[0]) == md5(source)
    assert server.threads <= THREADS
    assert 0 < peak_memory(server.process.pid) <= 80 * KB
    assert 0 < peak <= 80 * KB


@pytest.mark.parametrize(
    "name",
    ["with space.txt", "at@sign.txt", "quo\"te's.txt", "📦 emoji.bin", "u\u0308 nfd.txt",
     "-leading.txt", ".hidden", "x" * 251 + ".bin", "é" * 125 + ".tar", "two\nlines", "a\\b:c"],
)  # fmt: skip
def test_a_file_with_an_odd_name_arrives(server: ServerProcess, tmp_path: Path, name: str) -> None:
    """FAULTS 9 and 10: bytes arrive, nothing raw reaches terminal or log, the name stays close."""
    source = random_file(tmp_path / name, 1000)
    done = run_client(server.port, "--", source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    (saved,) = received(server.output)
    assert saved.read_bytes() == source.read_bytes()
    assert saved.name.endswith(re.sub(r"[\\:\n]", "_", name)[-10:])


def test_several_files_go_through_one_session_in_order(
    start_server: StartServer, tmp_path: Path
) -> None:
    """One login, four data connections, whatever the number of files."""
    server = start_server("--log-level", "DEBUG")
    sources = [random_file(tmp_path / f"{n}.bin", 300 * KB, seed=n) for n in range(5)]
    done = run_client(server.port, *sources)
    assert done.returncode == 0, done.stderr
    names = [verdict_line(line + "\n")[2] for line in done.stdout.splitlines()]
    assert names == [source.name for source in sources]
    eventually(lambda: server.log.count("logged in as user1") == 1)
    eventually(lambda: server.log.count("closed the connection") == 4, "four streams to end")
    assert sorted(map(md5, received(server.output))) == sorted(map(md5, sources))


def test_three_clients_that_send_the_same_file_get_three_files(
    server: ServerProcess, tmp_path: Path
) -> None:
    """FAULTS 43: nobody takes over what somebody else is sending."""
    source = random_file(tmp_path / "same.bin", 5 * KB * KB)
    _run_together(server, [source] * 3)
    assert [md5(path) for path in received(server.output)] == [md5(source)] * 3


def test_twelve_clients_at_once_all_arrive(server: ServerProcess, tmp_path: Path) -> None:
    """More clients than workers: 48 data connections share ten threads."""
    sources = [random_file(tmp_path / f"{n}.bin", 2 * KB * KB, seed=n) for n in range(12)]
    _run_together(server, sources)
    assert sorted(map(md5, received(server.output))) == sorted(map(md5, sources))
    assert server.threads <= THREADS


def _run_together(server: ServerProcess, sources: list[Path]) -> None:
    """Run a client for each source at the same time; all must succeed."""
    clients = [
        subprocess.Popen(
            client_command(server.port, source, "--quiet"), env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for source in sources
    ]  # fmt: skip
    for client in clients:
        out, err = client.communicate(timeout=PATIENCE * 3)
        assert client.returncode == 0, err
        assert out.startswith("INTEGRITY_OK")


@pytest.mark.parametrize("idle", [10, 200])
def test_idle_coordinators_stop_nobody(server: ServerProcess, tmp_path: Path, idle: int) -> None:
    """FAULTS 28: as many idle sessions as workers, and twenty times as many."""
    clients = [RawClient(server.port).log_in() for _ in range(idle)]
    source = random_file(tmp_path / "file.bin", 3 * KB * KB)
    done = run_client(server.port, source)
    assert done.returncode == 0, done.stderr
    assert server.threads <= THREADS
    for client in clients:
        client.__exit__()


@pytest.mark.parametrize(
    "options",
    [
        ["--streams", "1"],
        ["--streams", "9"],
        ["--block-size", "4K", "--chunk-size", "1K"],
        ["--block-size", "4M", "--chunk-size", "1M"],
        ["--block-size", "12345", "--chunk-size", "100K"],
        ["--digest", "sha256"],
        ["--user", "admin"],
    ],
)
def test_options_change_the_way_and_not_the_file(
    server: ServerProcess, tmp_path: Path, options: list[str]
) -> None:
    """Streams, sizes, digest and user are free; the bytes are the same."""
    source = random_file(tmp_path / "file.bin", 1_500_000)
    done = run_client(server.port, source, *options)
    assert done.returncode == 0, done.stderr
    assert md5(received(server.output)[0]) == md5(source)


def test_sha256_is_the_digest_that_sha256sum_prints(server: ServerProcess, tmp_path: Path) -> None:
    """The receipt's digest is the file's own in the algorithm asked for."""
    source = random_file(tmp_path / "file.bin", 500_000)
    done = run_client(server.port, source, "--digest", "sha256")
    expected = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True)
    assert verdict_line(done.stdout)[1] == expected.stdout.split()[0]


def test_json_has_one_object_for_each_file(server: ServerProcess, tmp_path: Path) -> None:
    """The fields that programs rely on, and nothing else on standard output."""
    source = random_file(tmp_path / "f\u202eile.bin", 500_000)
    done = run_client(server.port, source, source, "--json", "--quiet")
    assert done.stderr == ""
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["name"] == second["name"] == source.name
    assert first["saved_as"] != second["saved_as"]
    assert set(first) == {
        "verdict", "name", "saved_as", "bytes", "digest", "algorithm", "seconds", "blocks",
        "resent_blocks", "resumed_bytes", "streams", "durable", "congestion", "bottleneck",
        "wire_bytes", "sent_bytes", "preserved", "files", "entries", "left_out", "skipped",
    }  # fmt: skip
    assert (first["verdict"], first["bytes"], first["digest"], first["algorithm"]) == (
        "INTEGRITY_OK", 500_000, md5(source), "md5",
    )  # fmt: skip
    assert (first["blocks"], first["resent_blocks"], first["streams"], first["durable"]) == (
        3, 0, 4, True,
    )  # fmt: skip
    assert first["wire_bytes"] == 500_000


def test_the_transfer_waits_for_its_turn_and_says_so(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission: more than MAX_ACTIVE_TRANSFERS wait, are told their position, and get through."""
    server = start_server()
    holders = [RawClient(server.port).log_in() for _ in range(16)]
    uploads = [holder.start("x.bin", b"x" * 5000) for holder in holders]
    source = random_file(tmp_path / "file.bin", 1000)
    with subprocess.Popen(
        client_command(server.port, source), env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as client:  # fmt: skip
        eventually(lambda: "waits at position 1" in server.log)
        uploads[0].send(holders[0].attach(), 0)
        uploads[0].complete()
        out, err = client.communicate(timeout=PATIENCE)
    assert client.returncode == 0, err
    assert "position 1" in err
    assert out.startswith("INTEGRITY_OK")
    for holder in holders:
        holder.__exit__()
