"""The main job with real processes: server.py in one, client.py in another, md5sum at the end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import (
    PATIENCE,
    ROOT,
    RawClient,
    ServerProcess,
    StartServer,
    client_command,
    environment,
    eventually,
    journal_bytes,
    md5,
    part_files,
    peak_memory,
    random_file,
    received,
    run_client,
)

KB = 1024


def _line(stdout: str) -> tuple[str, str, str]:
    """Split a verdict line into verdict, digest and name."""
    match = re.fullmatch(r"(INTEGRITY_\w+) .* ([0-9a-f]{32,64})  (.*)\n", stdout)
    assert match, stdout
    return match[1], match[2], match[3]


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
    assert _line(done.stdout) == ("INTEGRITY_OK", md5(source), "file.bin")
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
    assert server.threads <= 11
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
    names = [_line(line + "\n")[2] for line in done.stdout.splitlines()]
    assert names == [source.name for source in sources]
    assert server.log.count("logged in as user1") == 1
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
    assert server.threads <= 11


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
    assert server.threads <= 11
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
    assert _line(done.stdout)[1] == expected.stdout.split()[0]


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
        "wire_bytes",
    }  # fmt: skip
    assert (first["verdict"], first["bytes"], first["digest"], first["algorithm"]) == (
        "INTEGRITY_OK", 500_000, md5(source), "md5",
    )  # fmt: skip
    assert (first["blocks"], first["resent_blocks"], first["streams"], first["durable"]) == (
        3, 0, 4, True,
    )  # fmt: skip
    assert first["wire_bytes"] == 500_000


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
    assert sums[1][1].startswith("output/server_received_")
    assert "/s)" in done.stdout
    assert "stopped" in done.stderr


def test_the_demo_prints_the_verdict_like_any_transfer(tmp_path: Path) -> None:
    """DESIGN 9: one line for each file, with the digest and the name at its end."""
    first = _demo(tmp_path).stdout.splitlines()[0]
    verdict, digest, name = _line(first + "\n")
    assert (verdict, name) == ("INTEGRITY_OK", "big_file.txt")
    assert digest == md5(tmp_path / "input" / "big_file.txt")


def test_the_demo_with_json_prints_nothing_else(tmp_path: Path) -> None:
    """Programs read all of standard output; with --quiet neither side has anything to add."""
    done = _demo(tmp_path, "--json", "--quiet")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["verdict"] == "INTEGRITY_OK"
    assert done.stderr == ""


def test_the_demo_takes_one_file(tmp_path: Path) -> None:
    """A second one would be left out without a word."""
    done = _demo(tmp_path, "input/big_file.txt", "input/big_file.txt")
    assert done.returncode == 2
    assert "--demo takes one FILE" in done.stderr


# --- the terminal -------------------------------------------------------------------------------


def _on_a_terminal(command: list[str], variables: dict[str, str]) -> str:
    """Run a command on a pseudo terminal; return everything it showed."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        command, stdout=follower, stderr=follower, stdin=follower,
        env={**environment(), "TERM": "xterm", **variables},
    )  # fmt: skip
    os.close(follower)
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
    shown = _on_a_terminal(client_command(server.port, source), {})
    assert re.search(r"\x1b\[32m[^\n]*✅", shown)
    assert re.search(r"\x1b\[36m[^\n]*🔷", shown)
    assert "sending file.bin" in shown
    assert "verifying file.bin: 100%" in shown
    assert re.search(r"20\.0M/20\.0M \[\d\d:\d\d<\d\d:\d\d, *[\d.]+[kMG]B/s\]", shown)


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


@pytest.mark.parametrize(("umask", "others"), [(0o777, 0), (0o022, 0o044), (0o277, 0)])
def test_no_umask_takes_its_own_files_from_a_server(
    start_server: StartServer, tmp_path: Path, umask: int, others: int
) -> None:
    """It could not open a part file again; what the umask says of others holds."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "server.log").touch()
    before = os.umask(umask)
    try:
        server = start_server()
    finally:
        os.umask(before)
    with RawClient(server.port).log_in() as client:
        client.start("x", b"some bytes")
        (part,) = part_files(server.output)
        journal = part.with_suffix(".journal")
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (part, journal, part.parent)]
    assert modes[0] == 0o600 | others
    assert modes[1] == 0o600
    assert modes[2] & 0o700 == 0o700


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_stops_with_exit_0(start_server: StartServer, number: int) -> None:
    """FAULTS 38: also with clients that do nothing."""
    server = start_server()
    with RawClient(server.port).log_in() as client:
        client.attach()
        assert server.stop(number) == 0
    assert "stopped" in server.log


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_server_whose_first_line_nobody_takes_does_not_start(
    tmp_path: Path, unbuffered: str
) -> None:
    """Exit 2 and one line: whoever started it waits for that line in vain."""
    command = [sys.executable, str(ROOT / "server.py"), "--port", "0", "--output", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, check=False, text=True, stdout=full, stderr=subprocess.PIPE,
            env={**environment(), "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 2
    assert "standard output" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stopping_server_lets_a_running_transfer_end(
    start_server: StartServer, tmp_path: Path
) -> None:
    """FAULTS 38: within the grace period the verdict is still given, new files are not taken."""
    server = start_server("--grace", "15")
    with RawClient(server.port).log_in() as client:
        upload = client.start("x.bin", os.urandom(500 * KB))
        data = client.attach()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in server.log)
        upload.send(data, 0, 1, 2)
        assert type(upload.complete()).__name__ == "IntegrityOk"
    assert server.stop() == 0
    assert len(received(server.output)) == 1


def test_a_server_ends_with_its_terminal(start_server: StartServer) -> None:
    """FAULTS 38: without a certificate to read again, SIGHUP stops it as SIGTERM does."""
    assert start_server().stop(signal.SIGHUP) == 0


def test_a_second_signal_stops_a_busy_server_at_once(start_server: StartServer) -> None:
    """FAULTS 38: who presses Ctrl-C twice does not want to wait for the grace period."""
    server = start_server("--grace", "3600")
    with RawClient(server.port).log_in() as client:
        client.start("x.bin", b"x" * 1000)
        server.process.send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in server.log)
        assert server.stop(signal.SIGINT) == 0
    assert part_files(server.output) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_client_is_exit_130_and_says_how_to_go_on(
    server: ServerProcess, tmp_path: Path, number: int
) -> None:
    """FAULTS 38: one line says what to do; the server keeps what it has."""
    source = random_file(tmp_path / "file.bin", 1)
    os.truncate(source, KB**3)  # sparse, and with the limit it takes longer than any test waits
    with subprocess.Popen(
        client_command(server.port, source, "--limit", "10M"),
        stderr=subprocess.PIPE, env=environment(), text=True,
    ) as client:  # fmt: skip
        eventually(lambda: part_files(server.output), "the transfer to begin")
        client.send_signal(number)
        _, err = client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    assert "interrupted; the same command goes on" in err.splitlines()[-1]
    assert "Traceback" not in err
    eventually(lambda: "it can go on later" in server.log, "the server to notice")
    assert received(server.output) == []


def test_a_killed_server_is_tried_again_and_keeps_what_it_had(
    start_server: StartServer, tmp_path: Path
) -> None:
    """FAULTS 42: the client waits for its return; the next start finds the part file."""
    server = start_server()
    source = random_file(tmp_path / "file.bin", 1)
    os.truncate(source, KB**3)
    with subprocess.Popen(
        client_command(server.port, source, "--limit", "10M"),
        stderr=subprocess.PIPE, env=environment(), text=True,
    ) as client:  # fmt: skip
        assert client.stderr is not None
        eventually(lambda: journal_bytes(server.output) > 1000, "blocks to arrive")
        server.stop(signal.SIGKILL)
        line = client.stderr.readline()
        while "nothing listens there" not in line:
            assert line, "the client has given up"
            line = client.stderr.readline()
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    assert received(server.output) == []
    again = start_server()
    assert len(part_files(server.output)) == 1
    assert "unfinished files kept for their clients to go on: 1" in again.log


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
