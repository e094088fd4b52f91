"""Several servers behind HAProxy, with the configuration of the documents."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from config import MB
from tests.support.files import journal_bytes, random_file
from tests.support.haproxy import HAProxy
from tests.support.network import check_one
from tests.support.processes import ServerProcess, StartServer, client_command, environment
from tests.support.waiting import eventually

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
    servers = [start_server(folder=name) for name in ("one", "two")]
    source = random_file(tmp_path / "x.bin", 8 * MB)
    with HAProxy(*(one.port for one in servers), send="") as balancer:
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
