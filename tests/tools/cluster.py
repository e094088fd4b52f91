"""Kills servers that share a directory behind HAProxy, and counts what that broke.

    python tests/tools/cluster.py                        40 kills on this disk, 40 on GlusterFS
    python tests/tools/cluster.py --on gluster --kills 9 --seed 7
    python tests/tools/cluster.py --on /mnt/a,/mnt/b     two mounts of one directory
    python tests/tools/cluster.py --short                some seconds

Two real servers, each with a mount of its own where there are two, are behind HAProxy with the
configuration of the documents; only the pauses between its checks are shorter. A real client sends
a file through it. At a random instant of that, ``kill -9`` hits the owner of the transfer, any of
the two servers, or both, or SIGSTOP freezes the owner; what died starts again half a second later,
as a supervisor has it. Root is needed for GlusterFS.

What is checked each time: the client ends with one INTEGRITY_OK and exit code 0 without being asked
again; exactly one published file, of that name, with the digest of the source; nothing in
``.partial`` after a while, except the second name of a published file; no traceback; and where half
of the file was there when the owner died, that ``resumed_bytes`` is not 0. A frozen server keeps
its lock: the file begins anew beside what it has, and the client has to end within 30 s.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Iterator, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config import KB, MB
from lft.store.partfile import SUFFIXES
from lft.store.paths import PARTIAL
from tests.support.files import journal_bytes, md5, random_file, received
from tests.support.haproxy import HAProxy
from tests.tools.gluster import Gluster
from tests.tools.sweeping.processes import (
    SETTLE,
    Client,
    Server,
    free_port,
    handle_signals,
    note,
    temporary_directory,
    text_of,
)

VICTIMS = ("owner", "owner", "any", "both")
SIZE = 48 * MB
HALF = SIZE // (200 * KB) * 20 // 2  # bytes of a journal, with 20 for each block
RATE = "32M"  # bytes a second of the client: a transfer takes 1.5 s
FROZEN_MOST = 30.0  # seconds from the freeze to the verdict
CHECKS = {"inter 1s fall 6": "inter 300ms fall 3"}


class Cluster:
    """Two servers on one directory, behind HAProxy, and what was found wrong with them."""

    def __init__(self, folder: Path, outputs: Sequence[Path], seed: int) -> None:
        self.folder, self.outputs = folder, outputs
        self.wrong: collections.Counter[str] = collections.Counter()
        self.resumed: list[float] = []
        self.seconds: list[float] = []  # from the kill to the end of the client
        self.hits = 0
        self._chance = random.Random(seed)
        self._ports = [free_port() for _ in outputs]
        self._servers = [self._start(number) for number in range(len(outputs))]
        self._balancer = HAProxy(*self._ports, changes=CHECKS)
        self._balancer.await_states("UP", "UP")

    def _start(self, number: int) -> Server:
        folder = self.folder / f"server{number}"
        folder.mkdir(exist_ok=True)
        options = ("--shared", "--proxy-from", "127.0.0.1")
        return Server(folder, self.outputs[number], self._ports[number], options=options)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._balancer.__exit__()
        for server in self._servers:
            server.kill()

    # -- one kill

    def run(self, number: int, victim: str) -> None:
        """Send one file, and kill servers meanwhile."""
        source = random_file(self.folder / f"file{number}", SIZE, self._chance.randrange(1 << 30))
        client = Client(self.folder, "client", self._balancer.port, source, "--limit", RATE)
        self._await_begin(client)
        time.sleep(self._chance.uniform(0, 1.8))
        there, began = journal_bytes(self.outputs[0]) > HALF, time.monotonic()
        owner = max(range(2), key=self._balancer.counts().__getitem__)
        victims = {"any": [self._chance.randrange(2)], "both": [0, 1]}.get(victim, [owner])
        hit = client.code is None and owner in victims
        self.hits += hit
        (self._freeze if victim == "frozen" else self._kill)(victims)
        self._await_end(client)
        self.seconds.append(time.monotonic() - began)
        self._thaw()
        self._judge(f"{number} ({victim})", source, client, hit and there, victim)
        source.unlink()

    def _await_begin(self, client: Client) -> None:
        """Wait until the file has begun to arrive."""
        until = time.monotonic() + SETTLE
        while not journal_bytes(self.outputs[0]) and client.code is None:
            assert time.monotonic() < until, text_of(client.errors)
            time.sleep(0.005)

    @staticmethod
    def _await_end(client: Client) -> None:
        until = time.monotonic() + 120
        while client.code is None and time.monotonic() < until:
            time.sleep(0.01)
        client.kill()

    def _kill(self, victims: list[int]) -> None:
        for one in victims:
            self._servers[one].kill()
        time.sleep(0.5)
        for one in victims:
            self._servers[one] = self._start(one)

    def _freeze(self, victims: list[int]) -> None:
        for one in victims:
            os.kill(self._servers[one].pid, signal.SIGSTOP)

    def _thaw(self) -> None:
        for server in self._servers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
        self._balancer.await_states("UP", "UP")

    # -- what came of it

    def _judge(self, what: str, source: Path, client: Client, there: bool, victim: str) -> None:
        """Count what must not be."""
        found = [path for path in received(self.outputs[0]) if path.name.endswith(source.name)]
        digests = [md5(path) for path in found]
        verdicts = [receipt["verdict"] for receipt in client.receipts]
        self._count(client.code != 0 or verdicts != ["INTEGRITY_OK"], "no single OK", what, client)
        self._count(not found, "lost", what, client)
        self._count(len(found) > 1, "twice", what, client)
        self._count(any(one != md5(source) for one in digests), "wrong", what, client)
        self._count("Traceback" in self._words(client), "traceback", what, client)
        if victim == "frozen":
            self._count(self.seconds[-1] > FROZEN_MOST, "too slow", what, client)
        elif there and client.receipts:
            self.resumed.append(client.receipts[0]["resumed_bytes"] / SIZE)
            self._count(self.resumed[-1] == 0, "not resumed", what, client)
        self._count(not self._is_clean(victim), "left over", what, client)
        for path in found:
            path.unlink()

    def _words(self, client: Client) -> str:
        return text_of(client.errors) + "".join(text_of(one.errors) for one in self._servers)

    def _is_clean(self, victim: str) -> bool:
        """Return whether nothing unfinished is left; a frozen server keeps what it had."""
        until = time.monotonic() + SETTLE
        while self._left() and victim != "frozen" and time.monotonic() < until:
            time.sleep(0.05)
        left = [] if victim == "frozen" else list(filter(self._is_unfinished, self._left()))
        for path in self._left():
            path.unlink()
        return not left

    @staticmethod
    def _is_unfinished(path: Path) -> bool:
        """Return whether it is of no published file: a kill may leave the second name of one.

        That is there for an hour, to give the verdict again.
        """
        part = path.with_suffix(".part")
        return not part.exists() or part.stat().st_nlink == 1

    def _left(self) -> list[Path]:
        names = (self.outputs[0] / PARTIAL).iterdir()
        return [path for path in names if path.suffix in SUFFIXES]

    def _count(self, wrong: bool, kind: str, what: str, client: Client) -> None:
        if wrong:
            self.wrong[kind] += 1
            note(f"VIOLATION at {what}: {kind}\n{text_of(client.out)}{text_of(client.errors)}")


@contextlib.contextmanager
def two_ways(place: str, folder: Path) -> Iterator[list[Path]]:
    """Give the output directory as the two servers have it."""
    if place == "disk":
        yield [folder / "output"] * 2
    elif place == "gluster":
        with Gluster() as gluster:
            yield [mount / "output" for mount in gluster.mounts]
    else:
        yield [Path(one) / "output" for one in place.split(",")]


def sweep(place: str, kills: int, seed: int, victims: Sequence[str]) -> bool:
    """Kill so many times; print a line of the table; return whether all was right."""
    with temporary_directory(None) as folder, two_ways(place, folder) as outputs:
        outputs[0].mkdir(exist_ok=True)
        with Cluster(folder, outputs, seed) as cluster:
            for number in range(kills):
                cluster.run(number, victims[number % len(victims)])
        resumed = f"{min(cluster.resumed, default=0):.0%}"
        wrong = ", ".join(f"{kind} {count}" for kind, count in cluster.wrong.items()) or "nothing"
        seconds = sorted(cluster.seconds)
        times = f"{seconds[len(seconds) // 2]:>8.1f}{seconds[-1]:>8.1f}"
        print(f"{place:<10}{kills:>6}{cluster.hits:>6}{resumed:>10}{times}  {wrong}", flush=True)
        return not cluster.wrong


def main() -> int:
    """Run the whole program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--on", action="append", metavar="disk|gluster|DIR,DIR")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--victims", default=",".join(VICTIMS), help="owner, any, both, frozen")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    handle_signals()
    kills = 2 if arguments.short else arguments.kills
    places = arguments.on or ["disk", "gluster"]
    print(f"{'on':<10}{'kills':>6}{'hits':>6}{'resumed':>10}{'median':>8}{'most':>8}  wrong")
    victims = arguments.victims.split(",")
    right = [sweep(place, kills, arguments.seed, victims) for place in places]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
