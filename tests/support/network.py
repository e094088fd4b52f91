"""Sending a file through a bad network, and checking the file that arrived."""

from __future__ import annotations

import contextlib
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

from client import send_files
from config import BLOCK_SIZE, MB, ClientSettings
from lft.client.receipt import Receipt
from tests.support.files import md5, received
from tests.support.rawpeer import HEADER
from tests.tools.proxy import FaultProxy, Line, Plan

FRAME = HEADER + BLOCK_SIZE  # bytes of a whole block on a data connection
SLOW = Plan(up=Line(rate=2 * MB))  # for each connection: a cut in the middle is in the middle
StartClient = Callable[..., "subprocess.Popen[str]"]


def send_file(proxy: FaultProxy, source: Path, timeout: float = 5.0) -> Receipt:
    """Send a file from this process and return its receipt."""
    (receipt,) = send_files([source], ClientSettings(port=proxy.port, timeout=timeout))
    return receipt


@contextlib.contextmanager
def sending_file(
    proxy: FaultProxy, source: Path, timeout: float = 5.0
) -> Iterator[Future[Receipt]]:
    """Send a file in the background; leaving waits for its end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(send_file, proxy, source, timeout)
        try:
            yield future
        finally:
            proxy.go_on()
            proxy.plan(Plan())


def check_one(output: Path, source: Path) -> None:
    """Check that the file is there, right, and once."""
    assert [md5(path) for path in received(output)] == [md5(source)]
