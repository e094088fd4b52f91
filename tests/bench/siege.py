"""What enemies of a server cost the others: the second part of ``load.py``.

Each row has a server of its own, a crowd from ``tests/tools/enemies.py``, and beside it another
user: logins one after the other, a transfer that was running before, and one that begins now. It
fails when one of these does not arrive, when a login takes longer than ``LOGIN_MOST``, when the
server takes more memory than the row may, when it does not do with its enemies what it should, or
when descriptors and threads are not back afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import server as server_module  # noqa: E402
from config import (  # noqa: E402
    KB,
    LOG_PATIENCE,
    MAX_HALF_OF_USER,
    MAX_STREAMS,
    MB,
    ServerSettings,
)
from lft.accounts.tokens import make_token  # noqa: E402
from lft.options import format_size  # noqa: E402
from tests.bench.common import ToolError, receipt_in  # noqa: E402
from tests.bench.target import (  # noqa: E402
    ACCOUNTS,
    CROWD_USER,
    PASSWORD,
    PATIENCE,
    USER,
    Server,
    server_at,
)
from tests.support.certificates import Pki, tls_options  # noqa: E402
from tests.support.processes import SERVER, peak_memory  # noqa: E402
from tests.support.rawpeer import Peer  # noqa: E402
from tests.tools.enemies import TOKEN_LIFE, Target, enemies_at  # noqa: E402

LOGIN_MOST = 10.0  # seconds for a login, on a busy machine; KeyUpdates once made it 15.7
MEMORY = 64 * MB  # that a server may take more than before, whoever comes
USUAL_FILES = 1024  # what most systems let a program have open
SLOW = 1 * MB  # bytes a second of the transfer that runs meanwhile, in the row with few descriptors
BRIEF = 2.0  # seconds of each deadline of a server for half messages
PIPE = 4 * KB  # bytes of log that are taken and not read
LINES = 300  # that strangers then cause
AT_ONCE = 3  # rows of the short form


class Row(NamedTuple):
    """Some enemies, and what the server has to do with them."""

    kind: str
    few: int  # of the short form
    many: int
    judge: Callable[[Counter[str]], bool] = bool  # of what became of them
    program: Sequence[str] = SERVER
    secure: bool = False
    memory: int = MEMORY


class Cost(NamedTuple):
    """What a row cost the other user."""

    calm: float  # seconds of the slowest login before
    median: float  # of the logins meanwhile
    worst: float
    memory: int  # bytes
    seen: Counter[str]


def limited(soft: int, hard: str) -> Sequence[str]:
    """Return a server that is given so many descriptors."""
    return ("prlimit", f"--nofile={soft}:{hard}", *SERVER)


def any_end(_seen: Counter[str]) -> bool:
    return True


BRIEFLY = (sys.executable, str(Path(__file__).resolve()))
ROWS = {
    "strangers, soft limit 1024": Row("silent", 1100, 1100, any_end, limited(USUAL_FILES, "")),
    "strangers, no more than 1024": Row(
        "silent", 1100, 3000, any_end, limited(USUAL_FILES, str(USUAL_FILES))
    ),
    "KeyUpdates of strangers": Row("updates", 1, 10, lambda seen: seen["ended"] > 0, secure=True),
    "with a byte now and then": Row("drops", 1, 10, any_end, secure=True),
    "KeyUpdates of a user": Row("insiders", 1, 10, lambda seen: seen["ended"] > 0, secure=True),
    "sessions of headers": Row(
        "headers", 2, 16, lambda seen: seen["headers"] % MAX_STREAMS == 0,
        memory=MAX_HALF_OF_USER + MEMORY,
    ),
    "half messages": Row(
        "halves", 1, 8, lambda seen: seen["ended"] == seen["halves"] > 0, program=BRIEFLY
    ),
    "tokens that expired": Row(
        "expired", 4, 40, lambda seen: seen["refused"] > 0 and not seen["taken"]
    ),
}  # fmt: skip


def target_of(server: Server, row: Row, ca: Path | None) -> Target:
    """Return where the enemies of a row go, and as whom."""
    expires = row.kind == "expired"
    token = make_token(server.accounts, CROWD_USER, TOKEN_LIFE) if expires else ""
    return Target(server.port, CROWD_USER, token or PASSWORD, ca)


def logins(server: Server, ca: Path | None, seconds: float) -> list[float]:
    """Log in again and again; return how long each took. Raises ``ToolError``."""
    times: list[float] = []
    until = time.monotonic() + seconds
    while not times or time.monotonic() < until:
        began = time.monotonic()
        try:
            with Peer(server.port, ca=ca) as peer:
                peer.log_in(USER, PASSWORD)
        except Exception as error:
            raise ToolError(f"another user cannot log in: {error!r}") from error
        times.append(time.monotonic() - began)
    return times


@contextlib.contextmanager
def running(server: Server, source: Path, options: Sequence[str]) -> Iterator[None]:
    """Have a transfer run meanwhile, and see that it arrives. Raises ``ToolError``."""
    command = [sys.executable, str(ROOT / "client.py"), str(source), *server.client_options()]
    process = subprocess.Popen(
        [*command, "--limit", str(SLOW), *options], stdout=subprocess.PIPE, text=True
    )
    try:
        yield
        said, _ = process.communicate(timeout=PATIENCE)
        server.check(source, receipt_in(said))
    finally:
        process.kill()
        process.communicate()


def besiege(place: Path, name: str, source: Path, *, short: bool) -> Cost:
    """Measure one row. Raises ``ToolError`` for what must not be."""
    row = ROWS[name]
    place.mkdir()
    pki = Pki(place) if row.secure else None
    ca, options = (pki.ca, tls_options(pki.server)) if pki else (None, [])
    trust = ["--server", "localhost", "--ca", str(ca)] if ca else []
    with server_at(place / "server", ACCOUNTS, *options, program=row.program) as server:
        server.transfer(source, *trust)
        calm = logins(server, ca, 0.2)
        files, threads, memory = server.files, server.threads, server.memory
        count = row.few if short else row.many
        with contextlib.ExitStack() as stack:
            stack.enter_context(running(server, source, trust))
            target = target_of(server, row, ca)
            seen = stack.enter_context(enemies_at(row.kind, count, target, wait=True))
            times = logins(server, ca, 1.0 if short else 10.0)
            server.transfer(source, *trust)
        server.settle(files)
        used = peak_memory(server.process.pid) * KB - memory
        check(name, seen, max(times), used, server.threads - threads)
    return Cost(max(calm), statistics.median(times), max(times), used, seen)


def check(name: str, seen: Counter[str], worst: float, used: int, threads: int) -> None:
    """Raise ``ToolError`` for what must not be."""
    if not ROWS[name].judge(seen):
        raise ToolError(f"{name}: this became of them: {dict(seen)}")
    if worst > LOGIN_MOST:
        raise ToolError(f"{name}: a login of another user took {worst:.1f} s")
    if used > ROWS[name].memory:
        raise ToolError(f"{name}: the server took {format_size(used)}")
    if threads > 0:
        raise ToolError(f"{name}: {threads} threads more than before")


def block_log(place: Path, source: Path) -> tuple[float, float]:
    """Let nobody read a server's log; return the worst login and the seconds to its end."""
    place.mkdir()
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
        with server_at(place / "server", errors=writing) as server:
            for _ in range(LINES):
                with socket.create_connection(("127.0.0.1", server.port)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    stranger.settimeout(PATIENCE)
                    while stranger.recv(1000):
                        continue
            worst = max(logins(server, None, 0.5))
            server.transfer(source)
            began = time.monotonic()
            server.stop(signal.SIGTERM)
            took = time.monotonic() - began
    finally:
        os.close(reading)
        os.close(writing)
    if worst > LOGIN_MOST:
        raise ToolError(f"nobody reads the log: a login took {worst:.1f} s")
    if took > LOG_PATIENCE + LOGIN_MOST:
        raise ToolError(f"nobody reads the log: SIGTERM took {took:.1f} s")
    return worst, took


def siege(place: Path, source: Path, *, short: bool) -> None:
    """Measure all rows and print them. Raises ``ToolError``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    places = [place / f"siege {at}" for at in range(len(ROWS))]
    with ThreadPoolExecutor(AT_ONCE if short else 1) as pool:
        blocked = pool.submit(block_log, place / "blocked", source)
        costs = list(pool.map(partial(besiege, source=source, short=short), places, ROWS))
        worst, took = blocked.result()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"\n{'another user beside':<30}{'login, calm':>12}{'median':>9}{'worst':>9}"
          f"{'memory':>10}  what became of them")  # fmt: skip
    for name, cost in zip(ROWS, costs):
        seen = ", ".join(f"{key} {count}" for key, count in sorted(cost.seen.items()))
        print(f"{name:<30}{cost.calm:>11.2f}s{cost.median:>8.2f}s{cost.worst:>8.2f}s"
              f"{format_size(max(0, cost.memory)):>10}  {seen}")  # fmt: skip
    print(f"{'a log that nobody reads':<30}{'':>20}{worst:>9.2f}s{'':>10}  SIGTERM ends it in "
          f"{took:.1f} s")  # fmt: skip


def serve_briefly(arguments: list[str]) -> int:
    """Be a server with deadlines of seconds."""

    def settings(**given: Any) -> ServerSettings:
        for name in ("login_timeout", "idle_timeout", "block_timeout"):
            given[name] = BRIEF
        return ServerSettings(**given)

    setattr(server_module, "ServerSettings", settings)  # noqa: B010
    return server_module.main(arguments)


if __name__ == "__main__":
    sys.exit(serve_briefly(sys.argv[1:]))
