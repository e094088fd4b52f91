"""Networks between client and server, and clients that run behind them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.support.local import ServerThread
from tests.support.network import StartClient
from tests.support.processes import client_command, environment
from tests.support.relays import Proxy, StartProxy
from tests.tools.proxy import FaultProxy


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    """Start proxies; end them and their threads."""
    started: list[Proxy] = []

    def start(port: int, spoil: Callable[[int, int, bytes], bytes | None]) -> Proxy:
        started.append(Proxy(port, spoil))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


@pytest.fixture
def proxy(local: ServerThread) -> Iterator[FaultProxy]:
    """A network before a server in a thread, which checks at its end that nothing is left."""
    with FaultProxy(local.port) as proxy:
        yield proxy


@pytest.fixture
def start_client() -> Iterator[StartClient]:
    """Start real clients; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(proxy: FaultProxy, *arguments: str | Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = client_command(proxy.port, *arguments)
        started.append(
            subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())
        )
        return started[-1]

    yield start
    for client in started:
        client.kill()
        client.communicate()
