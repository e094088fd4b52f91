"""Several servers behind HAProxy, with the configuration of the documents."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from config import MB
from lft.accounts.passwords import PASSWORD_VARIABLE
from tests.support.accounts import PASSWORD
from tests.support.certificates import Pki, tls_options
from tests.support.files import journal_bytes, random_file
from tests.support.haproxy import HAProxy
from tests.support.network import check_one
from tests.support.processes import (
    ServerProcess,
    StartServer,
    client_command,
    environment,
    run_client,
)
from tests.support.waiting import eventually

CHECK_TLS = {  # as the configuration says
    "tcp-check connect default\n": "tcp-check connect default ssl\n",
    "    default-server": "    default-server verify none",
}
FINISHED_WITHIN = 30.0  # seconds from the moment in which a server freezes


def _begin(port: int, source: Path, *options: str) -> subprocess.Popen[str]:
    """Start a client that takes some seconds for ``source``."""
    return subprocess.Popen(
        client_command(port, source, "--limit", "2M", *options), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(),
    )  # fmt: skip


def _shared(start_server: StartServer) -> list[ServerProcess]:
    """Start two servers on one directory."""
    options = ("--shared", "--proxy-from", "127.0.0.1")
    first = start_server(*options, folder="one")
    return [first, start_server(*options, folder="two", sees=str(first.output))]


def _index_of_owner(balancer: HAProxy, output: Path) -> int:
    """Wait until a transfer is under way; return which server has its connections."""
    eventually(lambda: journal_bytes(output) > 500, "the first blocks")
    counts = balancer.counts()
    return counts.index(max(counts))


def test_a_frozen_server_is_taken_out_and_its_client_finishes_at_another_one(
    start_server: StartServer, tmp_path: Path
) -> None:
    """It still accepts connections, so only its missing HELLO tells, and it keeps its locks.

    The file waits for that at the other server for 10 s, and begins anew.
    """
    servers = _shared(start_server)
    source = random_file(tmp_path / "x.bin", 4 * MB)
    with HAProxy(*(one.port for one in servers)) as balancer:
        balancer.await_states("UP", "UP")
        with _begin(balancer.port, source) as client:
            owner = servers[_index_of_owner(balancer, servers[0].output)]
            owner.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            try:
                _, errors = client.communicate(timeout=2 * FINISHED_WITHIN)
                lasted = time.monotonic() - began
            finally:
                owner.process.send_signal(signal.SIGCONT)
        assert client.returncode == 0, errors
        assert lasted < FINISHED_WITHIN
        assert "DOWN" in balancer.states()
    check_one(servers[0].output, source)


def test_the_client_of_a_killed_server_resumes_at_another_one_of_the_directory(
    start_server: StartServer, tmp_path: Path
) -> None:
    """What it has brought is not sent again."""
    servers = _shared(start_server)
    source = random_file(tmp_path / "x.bin", 6 * MB)
    with HAProxy(*(one.port for one in servers)) as balancer:
        balancer.await_states("UP", "UP")
        with _begin(balancer.port, source) as client:
            servers[_index_of_owner(balancer, servers[0].output)].process.kill()
            _, errors = client.communicate(timeout=2 * FINISHED_WITHIN)
        assert client.returncode == 0, errors
        assert "going on with x.bin: the server has" in errors
    check_one(servers[0].output, source)


@pytest.mark.parametrize("send", ["send-proxy-v2", "send-proxy"])
def test_a_file_arrives_through_a_balancer_that_says_whose_it_is(
    start_server: StartServer, tmp_path: Path, users_file: Path, pki: Pki, send: str
) -> None:
    """Checks, TLS and data connections pass with both versions of the PROXY protocol."""
    server = start_server(
        "--proxy-from", "127.0.0.1", "--credentials", str(users_file), *tls_options(pki.server)
    )
    source = random_file(tmp_path / "x.bin", 3 * MB)
    with HAProxy(server.port, send=send, changes=CHECK_TLS) as balancer:
        balancer.await_states("UP")
        done = run_client(
            balancer.port, source, "--ca", str(pki.ca), "--user", "alice",
            variables={PASSWORD_VARIABLE: PASSWORD},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    check_one(server.output, source)
