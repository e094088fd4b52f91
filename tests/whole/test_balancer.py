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


def _owner_of_transfer(*servers: ServerProcess) -> tuple[ServerProcess, ServerProcess]:
    """Wait until one of two servers has blocks; return that one, and the other."""
    eventually(lambda: any(journal_bytes(one.output) > 500 for one in servers), "the first blocks")
    first, second = servers
    return (first, second) if journal_bytes(first.output) else (second, first)


def test_a_frozen_server_is_taken_out_and_its_client_finishes_elsewhere(
    start_server: StartServer, tmp_path: Path
) -> None:
    """It still accepts connections, so only its missing HELLO tells; 30 s are enough for all."""
    servers = [start_server("--proxy-from", "127.0.0.1", folder=name) for name in ("one", "two")]
    source = random_file(tmp_path / "x.bin", 8 * MB)
    with HAProxy(*(one.port for one in servers)) as balancer:
        balancer.await_states("UP", "UP")
        with _begin(balancer.port, source) as client:
            owner, other = _owner_of_transfer(*servers)
            owner.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            try:
                _, errors = client.communicate(timeout=2 * FINISHED_WITHIN)
            finally:
                owner.process.send_signal(signal.SIGCONT)
            assert client.returncode == 0, errors
            assert time.monotonic() - began < FINISHED_WITHIN
        assert balancer.states()[servers.index(owner)] == "DOWN"
    check_one(other.output, source)


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
