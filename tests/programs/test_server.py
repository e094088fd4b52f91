"""The command line of server.py, and starts that cannot work."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

import server as server_module
from config import ServerSettings
from lft.accounts.account import demo_credentials
from protocol import UsageError
from tests.support.certificates import Pki
from tests.support.files import open_descriptors, part_files, random_file
from tests.support.processes import StartServer, run_client
from tests.support.rawpeer import RawClient
from tests.support.waiting import eventually


def test_a_port_in_use_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert server_module.main(["--port", port, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "in use" in error
    assert "--port" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "0"])
def test_the_demo_accounts_are_for_loopback_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """Asked to listen elsewhere without --credentials, the server refuses and says what to do."""
    assert (
        server_module.main(["--host", host, "--port", "0", "--output", str(tmp_path / "out")]) == 2
    )
    assert "auth.py add" in capsys.readouterr().err


def test_the_demo_accounts_go_by_what_was_bound(tmp_path: Path) -> None:
    """``*`` is loopback to one resolution and every address to another; and nothing stays open."""
    before = open_descriptors()
    settings = ServerSettings(hosts=("*",), port=0, output=tmp_path / "out")
    with pytest.raises(UsageError, match="on loopback only"):
        server_module.Server(settings, demo_credentials)
    assert open_descriptors() == before


def test_one_host_that_is_not_loopback_is_one_too_many_for_the_demo_accounts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each host counts, not the first alone."""
    options = ["--host", "127.0.0.1", "--host", "192.0.2.1", "--port", "0"]
    assert server_module.main([*options, "--output", str(tmp_path / "out")]) == 2
    assert "not on 192.0.2.1: make accounts with auth.py add" in capsys.readouterr().err


def test_a_server_says_a_line_for_each_host_and_serves_on_each(
    start_server: StartServer, tmp_path: Path
) -> None:
    """In the order in which they were asked for, with one port."""
    server = start_server("--host", "127.0.0.2", "--host", "localhost")
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == f"Listening on localhost:{server.port}\n"
    for host in ("127.0.0.2", "127.0.0.1", "::1"):
        done = run_client(server.port, random_file(tmp_path / "x", 10), "--server", host)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("missing", "No such file"),
        ("readable", "others can read it"),
        ("malformed", "users is missing"),
        ("symlink", "it is a symbolic link, and others can change"),
    ],
)
def test_a_bad_credential_file_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str, words: str
) -> None:
    """FAULTS 25: the server does not start and says why."""
    path = tmp_path / "users.json"
    if problem != "missing":
        path.write_text("{}")
        path.chmod(0o644 if problem == "readable" else 0o600)
    if problem == "symlink":
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
        tmp_path.chmod(0o777)
    options = ["--port", "0", "--output", str(tmp_path / "out"), "--credentials", str(path)]
    assert server_module.main(options) == 2
    error = capsys.readouterr().err
    assert f"credential file {path}: {words}" in error
    assert error.count("\n") == 1


def test_an_output_directory_that_cannot_be_made_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line."""
    (tmp_path / "file").write_text("in the way")
    assert server_module.main(["--port", "0", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "output directory" in capsys.readouterr().err


def test_an_output_directory_that_was_made_is_said_in_one_line(
    start_server: StartServer, tmp_path: Path
) -> None:
    """With its full path: that shows a typing error, and where a relative one leads."""
    server = start_server()
    line = f"made the output directory {server.output.resolve()}\n"
    eventually(lambda: server.log.count(line) == 1, "the line")
    server.stop()
    again = start_server()
    assert again.output == server.output
    with RawClient(again.port).log_in():
        eventually(lambda: "logged in" in again.log, "a later line")
    assert "made the output directory" not in again.log


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


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("server.pem", "", "go together"),
        ("", "server.key", "go together"),
        ("missing.pem", "server.key", "No such file"),
        ("server.pem", "missing.key", "No such file"),
        ("server.pem", "other.key", "do not belong together"),
        ("server.key", "server.key", "there is no certificate"),
        ("server.pem", "server.pem", "there is no private key"),
    ],
)
def test_a_server_whose_certificate_cannot_work_does_not_start(
    pki: Pki,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cert: str,
    key: str,
    words: str,
) -> None:
    """27: exit 2, one line that says why."""
    options = ["--port", "0", "--output", str(tmp_path / "output")]
    options += ["--tls-cert", str(pki.ca.with_name(cert))] if cert else []
    options += ["--tls-key", str(pki.ca.with_name(key))] if key else []
    assert server_module.main(options) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_host_that_is_unknown_is_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not to be one where the demo accounts must not be."""
    options = ["--host", "no such host", "--output", str(tmp_path / "out")]
    assert server_module.main(options) == 2
    said = capsys.readouterr().err
    assert "cannot listen on no such host: " in said
    assert "demo accounts" not in said
