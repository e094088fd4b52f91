"""The systemd unit: what it starts, as the user and on the file system that it says."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from config import EXIT_TIMEOUT, LOG_PATIENCE, MB
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.wire.service_manager import ServiceManager
from tests.support.accounts import PASSWORD
from tests.support.certificates import Pki
from tests.support.files import journal_bytes, random_file, received
from tests.support.jail import USER, Manager, installed, open_folder, owned, read_only
from tests.support.network import check_one
from tests.support.processes import ROOT, ServerProcess, client_command, environment
from tests.support.waiting import PATIENCE, eventually

UNIT = ROOT / ".github" / "deploy" / "large-files-transfer.service"
STATUS = "STATUS=0 transfers under way"


def setting(name: str) -> str:
    """Return the value of a setting of the unit, with the lines that it goes on on."""
    text = UNIT.read_text(encoding="utf-8").replace("\\\n", " ")
    (value,) = re.findall(f"^{name}=(.*)$", text, re.MULTILINE)
    return str(value)


def test_systemd_finds_no_fault_in_the_unit() -> None:
    """A setting with a slip in its name would be left out, with a line in the log."""
    done = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_leaves_the_server_little_that_it_could_harm() -> None:
    """systemd's own measure, from 0 to 10; without these settings it is 9.2."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"]
    done = subprocess.run([*command, str(UNIT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_unit_serves_without_root_on_a_read_only_system_and_drains(
    users_file: Path, pki: Pki, tmp_path: Path
) -> None:
    """Ready is told when clients can come; the end waits for the transfer, and says how long."""
    source = random_file(tmp_path / "x.bin", 3 * MB)
    with open_folder() as folder, Manager(folder / "notify") as manager:
        program, credentials = installed(folder / "opt"), folder / "credentials"
        credentials.mkdir()
        for name, file in (
            ("users.json", users_file), ("cert.pem", pki.server.cert), ("key.pem", pki.server.key)
        ):  # fmt: skip
            owned(Path(shutil.copy(file, credentials / name)), 0o400)
        output = folder / "output"
        output.mkdir()
        owned(output, 0o750)
        command = setting("ExecStart").replace("/opt/lft", str(program))
        command = command.replace("/srv/lft", str(output))
        command = command.replace("${CREDENTIALS_DIRECTORY}", str(credentials))
        jailed = read_only(output, *command.split())
        server = ServerProcess(folder, program=["env", f"NOTIFY_SOCKET={manager.place}", *jailed])
        manager.hear("READY=1")
        process = Path(f"/proc/{server.process.pid}")
        assert process.stat().st_uid == USER
        assert re.search(r" / / ro,", (process / "mountinfo").read_text())
        options = ["--ca", str(pki.ca), "--user", "alice", "--limit", "1M"]
        with subprocess.Popen(
            client_command(server.port, source, *options), stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL, env={**environment(), PASSWORD_VARIABLE: PASSWORD},
        ) as client:  # fmt: skip
            eventually(lambda: journal_bytes(output) > 500, "the first blocks")
            manager.hear("STATUS=1 transfer under way")
            server.process.send_signal(signal.SIGTERM)
            longest = 60 + EXIT_TIMEOUT + LOG_PATIENCE
            assert f"EXTEND_TIMEOUT_USEC={longest * 1e6:.0f}" in manager.hear("STOPPING=1")
            _, errors = client.communicate(timeout=3 * PATIENCE)
            assert client.returncode == 0, errors
        assert server.stop() == 0, server.log
        check_one(output, source)
        assert received(output)[0].stat().st_uid == USER


def test_the_unit_waits_as_long_as_the_server_takes_to_end() -> None:
    """Where the server cannot ask for more time: after its grace it needs 4 s at most."""
    assert "--grace 60" in setting("ExecStart")
    assert float(setting("TimeoutStopSec")) >= EXIT_TIMEOUT + LOG_PATIENCE
    assert setting("Type") == "notify"


def test_an_abstract_address_is_told_as_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``@`` stands for the NUL byte that such an address begins with; a status is told once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the system chooses one
        name = sock.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:].decode())
        manager = ServiceManager()
        sock.settimeout(PATIENCE)
        for status in ("a\nREADY=1", "a\nREADY=1", "b"):
            manager.show(status)
        told = [sock.recv(100) for _ in range(2)]
    assert [line.count(b"\n") for line in told] == [0, 0]
    assert told[1] == b"STATUS=b"
    manager.show("c")
    assert "cannot tell the service manager" in caplog.text


def test_without_a_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most servers are started by hand."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(socket, "socket", None)
    manager = ServiceManager()
    manager.tell("READY=1")
    manager.show("x")
