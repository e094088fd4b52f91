"""Secrets: none reaches the wire, a log or an argument."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from config import ClientSettings
from lft.accounts.file import load_credentials, save_credentials
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.accounts.tokens import make_token
from tests.support.accounts import PASSWORD
from tests.support.certificates import Pki, tls_options
from tests.support.files import random_file
from tests.support.local import ServerThread
from tests.support.processes import ROOT, StartServer, client_command, environment, run_client
from tests.support.waiting import PATIENCE


def test_no_password_crosses_the_wire_or_reaches_a_log(
    start_server: StartServer, tmp_path: Path
) -> None:
    """SCRAM: who listens learns neither the password nor the verifier's keys."""
    server = start_server("--log-level", "DEBUG")
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=_listen_in, args=(listener, server.port, heard))]
        threads[0].start()
        source = random_file(tmp_path / "x", 10)
        done = run_client(
            listener.getsockname()[1], source, "--streams", "1", "--log-level", "DEBUG"
        )
        threads[0].join(PATIENCE)
    assert done.returncode == 0, done.stderr
    everything = b"".join(heard) + (done.stderr + server.log).encode()
    assert b"AUTH_RESPONSE" in everything
    assert b"password1" not in everything


def _listen_in(listener: socket.socket, port: int, heard: list[bytes]) -> None:
    """Pass the coordinator and one data connection on, and keep what was said."""
    with contextlib.ExitStack() as stack:
        pumps = []
        for _ in range(2):
            near = stack.enter_context(listener.accept()[0])
            far = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for source, sink in ((near, far), (far, near)):
                pumps.append(threading.Thread(target=_pump, args=(source, sink, heard)))
                pumps[-1].start()
        for pump in pumps:
            pump.join(PATIENCE)


def _pump(source: socket.socket, sink: socket.socket, heard: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # one side has gone
        for data in iter(lambda: source.recv(65536), b""):
            heard.append(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


SECRETS = ("hush-hush-password", "very.secret.token")


def test_the_settings_of_a_client_do_not_show_its_secrets() -> None:
    """Whoever logs or prints them gives nothing away."""
    settings = ClientSettings(password=SECRETS[0], token=SECRETS[1])
    assert not any(secret in repr(settings) + str(settings) for secret in SECRETS)


@pytest.mark.parametrize("kind", ["password", "token"])
def test_no_secret_reaches_a_log(
    start_server: StartServer, pki: Pki, users_file: Path, tmp_path: Path, kind: str
) -> None:
    """24: neither side's, at DEBUG, for a login that succeeds and one that fails."""
    accounts = load_credentials(users_file).with_token_key(renew=True)
    save_credentials(users_file, accounts)
    right = PASSWORD if kind == "password" else make_token(accounts, "alice", 60)
    wrong = SECRETS[kind == "token"]
    options = ["--credentials", str(users_file), "--log-level", "DEBUG"]
    server = start_server(*options, *tls_options(pki.server))
    source, heard = random_file(tmp_path / "x", 10), ""
    for secret, code in ((right, 0), (wrong, 3)):
        (tmp_path / "secret").write_text(secret)
        proof = [f"--{kind}-file", str(tmp_path / "secret"), "--user", "alice"]
        done = run_client(server.port, source, *proof, "--ca", pki.ca, "--log-level", "DEBUG")
        assert done.returncode == code, done.stderr
        heard += done.stdout + done.stderr
    server.stop()
    heard += server.log
    assert "logged in" in heard
    assert not any(secret in heard for secret in (right, wrong))
    assert not any(part in heard for part in right.split(".") if kind == "token")


def test_a_client_that_crashes_does_not_show_its_secrets(
    local: ServerThread, tmp_path: Path
) -> None:
    """A bug of ours is a traceback, and none of it quotes the password."""
    source = random_file(tmp_path / "x", 10)
    program = (
        "import sys, client\n"
        "def crash(self, _): raise RuntimeError(f'a bug in {self._link.settings!r}')\n"
        "client.ClientSession.send_all = crash\n"
        "sys.exit(client.main(sys.argv[1:]))\n"
    )
    command = client_command(local.port, source)[2:]
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=ROOT,
        env={**environment(), PASSWORD_VARIABLE: "password1"},
    )  # fmt: skip
    assert "RuntimeError: a bug in ClientSettings(" in done.stderr
    assert "password1" not in done.stdout + done.stderr


def test_no_secret_is_an_argument(local: ServerThread, tmp_path: Path) -> None:
    """What everybody on the machine can see in the list of processes names files only."""
    secret, seen = tmp_path / "secret", set()
    secret.write_text("password1")
    os.mkfifo(tmp_path / "hold")  # the client waits in it for its password
    command = client_command(local.port, random_file(tmp_path / "x", 10), "--password-file",
                             tmp_path / "hold")  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          env=environment()) as process:  # fmt: skip
        hold = os.open(tmp_path / "hold", os.O_WRONLY)
        seen.add(Path(f"/proc/{process.pid}/cmdline").read_bytes())
        os.write(hold, b"password1\n")
        os.close(hold)
        assert process.wait(PATIENCE) == 0
    assert not any(b"password1" in line for line in seen)
