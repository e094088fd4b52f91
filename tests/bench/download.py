"""Compares downloads from this server with those from nginx, with curl for both, in turns.

    python tests/bench/download.py                     1 GiB, five rounds
    python tests/bench/download.py --size 256M --rounds 3
    python tests/bench/download.py --short             a few seconds: does everything work

What it measures: the whole curl process, which writes to /dev/null, over loopback and without TLS.
nginx sends the file with sendfile, as Debian sets it up, from one process; so does this server.
Each round has both and begins with the other. The file is in the system's memory when it begins: a
first run of each is not counted. *Processor* is that of the server alone, for each download.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import MB  # noqa: E402
from tests.bench.common import (  # noqa: E402
    HOST,
    START_PATIENCE,
    ToolError,
    find,
    handle_signals,
    logged,
    make_file,
    print_facts,
    print_markdown,
    ratio,
    rounds_argument,
    sizes_argument,
    temporary_directory,
    timed,
    turns,
    used_by,
)
from tests.bench.movers import free_port  # noqa: E402

NGINX = """
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log {place}/nginx.log;
events {{ worker_connections 768; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log {place}/access.log;
    server {{ listen {host}:{port}; root {root}; }}
}}
"""
LOGIN = "Basic " + base64.b64encode(b"admin:admin123").decode()  # may read all


class Row(NamedTuple):
    """A server that sends the file."""

    name: str
    command: list[str]
    url: str

    def fetch(self, log: Path, size: int) -> float:
        """Fetch the file; return the seconds. Raises ``ToolError``."""
        curl = [find("curl"), "-sSf", "-o", "/dev/null", "-H", f"Authorization: {LOGIN}"]
        return timed([*curl, self.url], log, size).seconds


def rows_for(place: Path, name: str) -> list[Row]:
    """Return both servers, for a file below ``place/files``."""
    files, nginx_port, port = place / "files", free_port(), free_port()
    conf = place / "nginx.conf"
    conf.write_text(NGINX.format(place=place, host=HOST, port=nginx_port, root=files))
    ours = [sys.executable, str(ROOT / "server.py"), "--port", "0", "--output", str(files)]
    return [
        Row("nginx", [find("nginx"), "-c", str(conf)], f"http://{HOST}:{nginx_port}/{name}"),
        Row("ours", [*ours, "--http", f"{HOST}:{port}"], f"http://{HOST}:{port}/api/v1/files/{name}"),
    ]  # fmt: skip


def await_ready(row: Row, log: Path, size: int) -> None:
    """Fetch the file once, as soon as the server is there. Raises ``ToolError``."""
    deadline = time.monotonic() + START_PATIENCE
    while True:
        try:
            row.fetch(log, size)
        except ToolError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def compare(place: Path, size: int, rounds: int) -> None:
    """Print the figures."""
    (place / "files").mkdir()
    make_file(place / "files" / "random.bin", size)
    times: dict[str, list[float]] = {}
    used: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        rows = rows_for(place, "random.bin")
        processes = {
            row.name: stack.enter_context(logged(row.command, place / f"{row.name}.log"))
            for row in rows
        }
        for row in rows:
            await_ready(row, place / "curl.log", size)
            used[row.name] = used_by(processes[row.name].pid)
        for _, row in turns(rows, rounds):
            times.setdefault(row.name, []).append(row.fetch(place / "curl.log", size))
        for row in rows:
            now = used_by(processes[row.name].pid)
            used[row.name] = (now - used[row.name]) / rounds
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print_markdown(
        f"{size // MB} MB, medians of {rounds}",
        ("server", "seconds", "MB/s", "of nginx", "processor of the server"),
        [
            (name, f"{seconds:.2f}", f"{size / MB / seconds:.0f}",
             ratio(medians["nginx"], seconds), f"{used[name]:.2f} s")
            for name, seconds in medians.items()
        ],
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare downloads with those from nginx.")
    parser.add_argument("--size", type=sizes_argument, default=[1024 * MB], metavar="SIZE")
    parser.add_argument("--rounds", type=rounds_argument, default=5, metavar="N")
    parser.add_argument("--short", action="store_true", help="a small file: does all of it work")
    arguments = parser.parse_args(argv)
    size, rounds = (8 * MB, 1) if arguments.short else (arguments.size[0], arguments.rounds)
    handle_signals()
    with temporary_directory(Path(os.environ.get("TMPDIR", "/tmp"))) as place:
        print_facts(place)
        compare(place, size, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
