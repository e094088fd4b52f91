"""The demonstration."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import Iterator

import config
from lft.options import format_size
from protocol import UsageError

log = logging.getLogger("client")


def _make_sample(path: Path) -> None:
    """Write a sample file of numbered lines; in one step, so that half a sample never stays."""
    log.info("making a sample file: %s (%s)", path, format_size(config.DEMO_FILE_SIZE))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    left = config.DEMO_FILE_SIZE
    with open(unfinished, "wb") as file:
        for part in range(1 << 30):
            lines = (f"line {part:6}.{line:04} {os.urandom(24).hex()}\n" for line in range(1000))
            left -= file.write("".join(lines).encode()[:left])
            if not left:
                break
    os.replace(unfinished, path)


@contextlib.contextmanager
def _demo_server(log_level: str) -> Iterator[int]:
    """Run a real server.py on a free port; give the port, stop it at the end."""
    import subprocess  # noqa: PLC0415  (4 ms that nobody but the demo should pay)

    script = Path(__file__).resolve().parents[2] / "server.py"
    command = [sys.executable, str(script), "--port", "0", "--log-level", log_level]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first.startswith("Listening on "):
                raise UsageError("the server did not start; its own message says why")
            yield int(first.rpartition(":")[2])
        finally:
            process.terminate()


def _md5_of(path: Path) -> str:
    digest = hashlib.md5()  # noqa: S324  (what the card asks for)
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(config.MB), b""):
            digest.update(part)
    return digest.hexdigest()
