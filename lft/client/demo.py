"""The demonstration: a server, a sample file, its transfer, and the proof."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Collection, Iterator

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

NOT_FOR_IT = ("--server", "--port", "--user", "--password-file", "--token-file", "--tls", "--ca")


def warn_of(given: Collection[str]) -> None:
    """Log which options of a command line mean nothing to a demo."""
    unused = [option for option in NOT_FOR_IT if option in given]
    if unused:
        log.warning("--demo has a server of its own: %s left out of account", ", ".join(unused))


def run_demo(
    path: Path,
    settings: ClientSettings,
    log_level: str,
    send: Callable[[ClientSettings], Receipt],
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> None:
    """Do the whole main job once: start a server, send ``path`` to it, compare the MD5 sums.

    The server has a free port and a directory of its own below ``output/``, so that another one
    may run meanwhile. ``send`` sends the file as the settings say, which here lead to that server;
    ``say`` prints a line; ``show`` one of the server's log, which on a terminal must not meet the
    bar. A file that does not exist is made. Raises below ``TransferError``, and ``OSError``.
    """
    if not path.exists():
        _make_sample(path)
    password, _priority = DEMO_ACCOUNTS[USER]
    output = _new_directory()
    with _demo_server(output, log_level, show) as port:
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
def _demo_server(output: Path, log_level: str, show: Callable[[str], None]) -> Iterator[int]:
    """Run a real ``server.py`` on a free port and give that port; stop it at the end."""
    script = Path(__file__).resolve().parents[2] / "server.py"
    command = [sys.executable, str(script), "--port", "0", "--output", str(output)]
    command += ["--log-level", log_level]
    with _log_shown(show) as log_to, subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=log_to, text=True
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first.startswith("Listening on "):
                raise UsageError("the server did not start; its own message says why")
            yield int(first.rpartition(":")[2])
        finally:
            process.terminate()


@contextlib.contextmanager
def _log_shown(show: Callable[[str], None]) -> Iterator[int | None]:
    """Give what the server is to log to: a terminal of its own where we have one, so that the log
    looks as it does there; ``None`` is our own standard error.
    """
    if not sys.stderr.isatty():
        yield None
        return
    leader, follower = os.openpty()
    thread = threading.Thread(target=_relay, args=(leader, show), name="log of the server")
    thread.start()
    try:
        yield follower
    finally:  # the server has ended
        os.close(follower)
        thread.join()


def _relay(leader: int, show: Callable[[str], None]) -> None:
    """Show each line that the server logs, until nobody has its terminal open (own thread)."""
    terminal = open(leader, encoding="utf-8", errors="replace")  # noqa: SIM115  (closed below)
    with terminal, contextlib.suppress(OSError):  # which is how a terminal ends
        for line in terminal:
            show(line.rstrip("\n"))


def _md5_of(path: Path) -> str:
    digest = hashlib.md5()  # noqa: S324  (what the card asks for)
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(config.MB), b""):
            digest.update(part)
    return digest.hexdigest()
