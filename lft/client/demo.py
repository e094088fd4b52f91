"""The demonstration: a server, a sample file, its transfer, and the proof."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import config
from config import ClientSettings
from lft.accounts.account import DEMO_ACCOUNTS
from lft.client.receipt import Receipt
from lft.options import format_size
from lft.terminal import printable
from protocol import IntegrityError, UsageError

log = logging.getLogger("client")

USER = "user1"
OUTPUT = Path("output")


def run_demo(
    path: Path,
    settings: ClientSettings,
    log_level: str,
    send: Callable[[ClientSettings], Receipt],
    say: Callable[[str], None],
) -> None:
    """Do the whole main job once: start a server, send ``path`` to it, compare the MD5 sums.

    The server has a free port and a directory of its own below ``output/``, so that another one
    may run meanwhile. ``send`` sends the file as the settings say, which here lead to that server;
    ``say`` prints a line. A file that does not exist is made. Raises below ``TransferError``.
    """
    if not path.exists():
        _make_sample(path)
    password, _priority = DEMO_ACCOUNTS[USER]
    output = _new_directory()
    with _demo_server(output, log_level) as port:
        receipt = send(settings.replace(server="localhost", port=port, user=USER,
                                           password=password, tls=False, ca=None))  # fmt: skip
    saved = output / receipt.saved_as
    sums = {name: _md5_of(name) for name in (path, saved)}
    for name, digest in sums.items():
        say(f"md5 {digest}  {printable(str(name))}")
    if len(set(sums.values())) > 1:
        raise IntegrityError("the two files differ")
    rate = format_size(receipt.bytes / receipt.seconds)
    say(f"the same: {format_size(receipt.bytes)} in {receipt.seconds:.2f} s ({rate}/s)")


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


def _new_directory() -> Path:
    """Make a directory that no other server has."""
    OUTPUT.mkdir(exist_ok=True)
    number = next(number for number in itertools.count(1) if _make(OUTPUT / f"demo-{number}"))
    return OUTPUT / f"demo-{number}"


def _make(path: Path) -> bool:
    """Make a directory; return whether it is new."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _demo_server(output: Path, log_level: str) -> Iterator[int]:
    """Run a real ``server.py`` on a free port and give that port; stop it at the end."""
    script = Path(__file__).resolve().parents[2] / "server.py"
    command = [sys.executable, str(script), "--port", "0", "--output", str(output)]
    command += ["--log-level", log_level]
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
