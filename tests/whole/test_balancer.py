"""Several servers behind HAProxy, with the configuration of the documents."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

import pytest

from config import MB
from lft.accounts.passwords import PASSWORD_VARIABLE
from tests.support.accounts import PASSWORD
from tests.support.certificates import Pki, tls_options
from tests.support.files import claimed_bytes, random_file, received
from tests.support.haproxy import HAProxy
from tests.support.network import check_one
from tests.support.processes import (
    ROOT,
    SERVER,
    ServerProcess,
    StartServer,
    client_command,
    environment,
    run_client,
)
from tests.support.rawtrees import same
from tests.support.waiting import eventually

CHECK_TLS = {  # as the configuration says
    "tcp-check connect default\n": "tcp-check connect default ssl\n",
    "    default-server": "    default-server verify none",
}
# a server that dies when it has given a file its name and not noted that, unless one did before
DIES_ONCE = """
import os, runpy, signal, sys
sys.path.insert(0, {root!r})
from lft.store.part import Part

def die_once(part):
    try:
        os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return note(part)
    os.kill(os.getpid(), signal.SIGKILL)

note, Part._note_published = Part._note_published, die_once
runpy.run_path({root!r} + "/server.py", run_name="__main__")
"""
CHECK_OFTEN = {"inter 1s fall 6": "inter 300ms fall 3"}
FINISHED_WITHIN = 30.0  # seconds from the moment in which a server freezes


def _begin(port: int, source: Path, *options: str) -> subprocess.Popen[str]:
    """Start a client that takes some seconds for ``source``."""
    return subprocess.Popen(
        client_command(port, source, "--limit", "2M", *options), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(),
    )  # fmt: skip


def _made(path: Path, kind: str, size: int) -> Path:
    """Make a file, or a directory with files of so many bytes together."""
    if kind == "file":
        return random_file(path, size)
    path.mkdir()
    for number in range(8):
        random_file(path / str(number), size // 8, number)
    return path


def _shared(start_server: StartServer, program: Sequence[str] = SERVER) -> list[ServerProcess]:
    """Start two servers on one directory."""
    options = ("--shared", "--proxy-from", "127.0.0.1")
    first = start_server(*options, folder="one", program=program)
    output = str(first.output)
    return [first, start_server(*options, folder="two", sees=output, program=program)]


def _index_of_owner(balancer: HAProxy, output: Path) -> int:
    """Wait until a transfer is under way; return which server has its connections."""
    eventually(lambda: claimed_bytes(output) > MB, "the first blocks")
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


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_the_client_of_a_killed_server_resumes_at_another_one_of_the_directory(
    start_server: StartServer, tmp_path: Path, kind: str
) -> None:
    """What it has brought is not sent again."""
    servers = _shared(start_server)
    source = _made(tmp_path / "x.bin", kind, 5 * MB)
    with HAProxy(*(one.port for one in servers), changes=CHECK_OFTEN) as balancer:
        balancer.await_states("UP", "UP")
        with _begin(balancer.port, source) as client:
            servers[_index_of_owner(balancer, servers[0].output)].process.kill()
            _, errors = client.communicate(timeout=2 * FINISHED_WITHIN)
        assert client.returncode == 0, errors
        assert "going on with x.bin: the server has" in errors
    if kind == "file":
        check_one(servers[0].output, source)
    else:
        tree, _sums = received(servers[0].output)
        same(source, tree)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_killed_between_name_and_verdict_the_other_server_names_the_same(
    start_server: StartServer, tmp_path: Path, kind: str
) -> None:
    """FAULTS 37: there is one of it, and its client hears of it without being asked again."""
    mark, source = tmp_path / "died", tmp_path / "x"
    program = sys.executable, "-c", DIES_ONCE.format(root=str(ROOT), mark=str(mark))
    _made(source, kind, MB)
    servers = _shared(start_server, program)
    with HAProxy(*(one.port for one in servers), changes=CHECK_OFTEN) as balancer:
        balancer.await_states("UP", "UP")
        done = run_client(balancer.port, source, "--timeout", "5", "--json")
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    assert sorted(one.process.poll() is None for one in servers) == [False, True]
    receipt = json.loads(done.stdout)
    assert receipt["verdict"] == "INTEGRITY_OK"
    found = [path.name for path in received(servers[0].output) if path.suffix != ".md5"]
    assert found == [receipt["saved_as"]]


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
