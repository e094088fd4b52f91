"""Logins and names that are let in or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.accounts.scram import ScramClient
from protocol import (
    AuthChallenge,
    AuthenticationError,
    AuthOk,
    AuthResponse,
    AuthStart,
    Cancel,
    FileStart,
    IntegrityOk,
    Rejected,
)
from tests.support.files import random_file, received
from tests.support.local import ServerThread
from tests.support.processes import ROOT, StartServer, environment, run_client
from tests.support.rawpeer import RawClient
from tests.support.waiting import PATIENCE, eventually


def _auth(*arguments: str | Path, password: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "auth.py"), *map(str, arguments)], text=True, check=False,
        env={**environment(), PASSWORD_VARIABLE: password}, capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize(("user", "password"), [("user1", "wrong"), ("nobody", "password1")])
def test_a_failed_login_is_exit_3_and_tells_nothing(
    start_server: StartServer, tmp_path: Path, user: str, password: str
) -> None:
    """FAULTS 22: unknown user and wrong password get the same words."""
    server = start_server()
    source = random_file(tmp_path / "x", 10)
    done = run_client(server.port, source, "--user", user, variables={PASSWORD_VARIABLE: password})
    assert done.returncode == 3
    assert done.stderr.endswith(f"❌ unknown user or wrong password (--user {user})\n")
    assert received(server.output) == []


def test_accounts_made_with_auth_py_get_in_and_the_demo_ones_do_not(
    start_server: StartServer, tmp_path: Path
) -> None:
    """With --credentials only its users exist; the password comes from a file."""
    users, secret = tmp_path / "users.json", tmp_path / "secret"
    secret.write_text("correct horse\n")
    assert _auth("add", "ann", "--credentials", users, "--priority", "3",
                 "--password-file", secret).returncode == 0  # fmt: skip
    server = start_server("--credentials", str(users))
    source = random_file(tmp_path / "x", 10)
    assert run_client(server.port, source).returncode == 3
    done = run_client(server.port, source, "--user", "ann", "--password-file", secret)
    assert done.returncode == 0, done.stderr
    eventually(lambda: "logged in as ann (priority 3)" in server.log)


def test_a_replayed_proof_does_not_log_in(local: ServerThread) -> None:
    """FAULTS 22: the server's nonce is new each time."""
    login = ScramClient("user1", "password1", nonce="fixed")
    with RawClient(local.port) as client:
        client.hello(client.control)
        challenge = client.control.call(AuthStart("SCRAM-SHA-256", login.first()), PATIENCE)
        assert isinstance(challenge, AuthChallenge)
        proof = login.respond(challenge.data)
        assert isinstance(client.control.call(AuthResponse(proof), PATIENCE), AuthOk)
    with RawClient(local.port) as client:
        client.hello(client.control)
        client.control.call(AuthStart("SCRAM-SHA-256", login.first()), PATIENCE)
        with pytest.raises(AuthenticationError):
            client.control.call(AuthResponse(proof), PATIENCE)


def test_an_endless_nonce_is_refused_as_a_bad_login(local: ServerThread) -> None:
    """What the server would answer must fit a message; it is no internal error."""
    with RawClient(local.port) as client:
        client.hello(client.control)
        with pytest.raises(AuthenticationError, match="malformed"):
            client.control.call(AuthStart("SCRAM-SHA-256", f"n,,n=user1,r={'x' * 1000}"), PATIENCE)


def test_an_endless_user_name_is_a_usage_error(local: ServerThread, tmp_path: Path) -> None:
    """Exit 2, one line."""
    source = random_file(tmp_path / "x", 10)
    done = run_client(local.port, source, "--user", "x" * 1100, variables={PASSWORD_VARIABLE: "x"})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "..\\x", "x\0y", "\u202ex"])
def test_a_hostile_name_stays_in_the_output_directory(local: ServerThread, name: str) -> None:
    """FAULTS 8 and 9: whatever the client calls it, the server makes the path."""
    with RawClient(local.port).log_in() as client:
        upload = client.start(name, b"x" * 10)
        upload.send(client.attach(), 0)
        answer = upload.complete()
        assert isinstance(answer, IntegrityOk)
    (saved,) = received(local.output)
    assert saved.parent == local.output
    assert saved.name == answer.saved_as
    assert answer.saved_as.isprintable()


def test_what_a_client_sends_reaches_the_log_escaped(start_server: StartServer) -> None:
    """FAULTS 9: no escape sequence, no forged line."""
    server = start_server("--log-level", "DEBUG")
    with RawClient(server.port).log_in() as client:
        client.start("\x1b[31mred\r\n12:00:00 ERROR forged", b"x")
        client.control.call(Cancel(), PATIENCE)
        answer = client.control.call(
            FileStart("\x1b[31m..", 1, 1, "md5", "0" * 32, False), PATIENCE
        )
        assert isinstance(answer, Rejected)
    server.stop()
    assert "\x1b" not in server.log
    assert not any(line.startswith("12:00:00 ERROR forged") for line in server.log.splitlines())
