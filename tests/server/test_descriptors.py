"""Open files: how many there may be, and what happens when there are no more."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

import config
from lft.server.descriptors import places
from lft.server.lifecycle import rejection
from tests.support.local import ServerThread
from tests.support.processes import ROOT, environment
from tests.support.rawpeer import RawClient, is_open, last_words, raw_socket
from tests.support.waiting import eventually

RAISING = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from lft.server.descriptors import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(256, 1024), (1024, 1024), (64, 64)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int) -> None:
    """FAULTS 29: the usual soft limit of 1024 is for programs that use select."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.fail("this machine allows fewer open files than the test needs")
    done = subprocess.run(
        [sys.executable, "-c", RAISING, str(soft), str(hard)],
        check=True, capture_output=True, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert done.stdout.split() == [str(hard)] * 3


@pytest.mark.parametrize(
    ("limit", "most"), [(1024, 768), (300, 150), (10**6, config.MAX_CONNECTIONS)]
)
def test_connections_leave_files_for_transfers(limit: int, most: int) -> None:
    """FAULTS 29: otherwise silent strangers end the transfers of others."""
    assert places(limit) == most


def test_a_stranger_makes_way_when_there_are_no_places(local: ServerThread) -> None:
    """FAULTS 29: also where the system has fewer than config.py allows."""
    local.server.connections.most = 4
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw_socket(local.port)) for _ in range(2)]
        stack.enter_context(RawClient(local.port)).log_in()
        assert last_words(silent[0]) == b""
        assert is_open(silent[1])


def test_a_stranger_makes_way_when_the_system_has_no_descriptor(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: a newcomer is served at once, in place of a connection that says nothing."""
    with raw_socket(local.port) as silent, RawClient(local.port) as newcomer:
        assert is_open(silent)
        newcomer.log_in()
        door = local.server.entrance.doors[0]
        listener = door._listeners[0]

        class Exhausted:
            """A listener that finds no descriptor the first time."""

            refused = False

            def accept(self) -> Any:
                """Take a connection, the second time."""
                if not Exhausted.refused:
                    Exhausted.refused = True
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                return listener.accept()

            def fileno(self) -> int:
                """Return what to wait for."""
                return listener.fileno()

        def listen_with(*listeners: Any) -> None:
            door.pause()
            door._listeners = list(listeners)
            door.open()

        before = door._listeners
        local.server._loop.call(lambda: listen_with(Exhausted()))
        eventually(lambda: door._listeners is not before)
        with RawClient(local.port) as another:
            another.log_in()
            assert last_words(silent) == b""
        local.server._loop.call(lambda: listen_with(*before))
        eventually(lambda: len(door._listeners) == len(before))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EAGAIN])
def test_what_the_system_lacks_just_now_is_no_disk_error(number: int) -> None:
    """FAULTS 29: the client comes again by itself."""
    assert rejection(OSError(number, os.strerror(number))).code == "busy"
