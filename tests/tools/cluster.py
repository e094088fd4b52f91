"""Kills servers that share a directory behind HAProxy, and counts what that broke.

    python tests/tools/cluster.py                        40 kills on this disk, 40 on GlusterFS
    python tests/tools/cluster.py --tree                 with directories in place of files
    python tests/tools/cluster.py --on gluster --kills 9 --seed 7
    python tests/tools/cluster.py --on /mnt/a,/mnt/b     two mounts of one directory
    python tests/tools/cluster.py --short                one of each kind, some seconds

Two real servers, each with a mount of its own where there are two, are behind HAProxy with the
configuration of the documents; only the pauses between its checks are shorter. A real client sends
a file or a directory through it. At a random instant of that, of which one without a kill tells how
long it takes, ``kill -9`` hits the owner of the transfer, any of the two servers, or both, or
SIGSTOP freezes the owner; what died starts again half a second later, as a supervisor has it. Root
is needed for GlusterFS.

What is checked each time: the client ends with one INTEGRITY_OK and exit code 0 without being asked
again; exactly one published file or directory, of that name, with the digest of the source, and the
sums of a directory; nothing in ``.partial`` after a while; no traceback; and where half of it was
there when the owner died, that ``resumed_bytes`` is not 0. A frozen server keeps its lock: it
begins anew beside what that has, and the client has to end within 30 s.

A kill may leave the second name of a published file, to give its verdict again for an hour. That is
right, so it is counted by itself, as ``kept``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Iterator, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config import MB
from lft.store.paths import PARTIAL
from lft.store.trees import LEFT_BEHIND
from tests.support.files import claimed_bytes
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
from tests.tools.sweeping.things import Files, Trees

VICTIMS = ("owner", "owner", "any", "both")
SIZES: dict[type[Files], int] = {Files: 48 * MB, Trees: 16 * MB}  # the latter in 400 files
SHORT: dict[type[Files], int] = {Files: 24 * MB, Trees: 3 * MB}
SECONDS = 1.5  # that the client takes for one, unless the disk makes more of it
BEYOND = 1.2  # the kill comes within so many times of that
ANSWERS = 2.0  # seconds for the second name of a published file to go
FROZEN_MOST = 30.0  # seconds from the freeze to the verdict
CHECKS = {"inter 1s fall 6": "inter 300ms fall 3"}


class Cluster:
    """Two servers on one directory, behind HAProxy, and what was found wrong with them."""

    def __init__(
        self, folder: Path, outputs: Sequence[Path], seed: int, things: Sequence[Files]
    ) -> None:
        """``things`` are the kinds of what is sent, in turns: of several smaller ones."""
        self.folder, self.outputs, self._things = folder, outputs, things
        self._sizes = SHORT if len(things) > 1 else SIZES
        self.wrong: collections.Counter[str] = collections.Counter()
        self.kept = 0  # second names of published files
        # seconds that a transfer takes without a kill, which the short form does not look at
        self._lasts = dict.fromkeys(things, SECONDS) if len(things) > 1 else {}
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
        """Send one file or directory, and kill servers meanwhile."""
        things = self._things[number % len(self._things)]
        lasts = self._lasts.get(things) or self._measure(things)
        source, client = self._begin(f"x{number}", things)
        time.sleep(self._chance.uniform(0, BEYOND * lasts))
        there, began = self._claimed() > self._sizes[type(things)] / 2, time.monotonic()
        owner = max(range(2), key=self._balancer.counts().__getitem__)
        victims = {"any": [self._chance.randrange(2)], "both": [0, 1]}.get(victim, [owner])
        (self._freeze if victim == "frozen" else self._kill)(victims)
        self._await_end(client)
        self.seconds.append(time.monotonic() - began)
        hit = owner in victims and _had_to_come_again(client)
        self.hits += hit
        self._thaw()
        self._judge(f"{number} ({victim})", source, client, things)
        self._judge_resume(f"{number} ({victim})", client, hit and there, victim)
        left = self._remove_left(victim, things)
        self._count(bool(left), "left over", f"{number} ({victim}): {left}", client)
        things.remove(source)

    def _begin(self, name: str, things: Files) -> tuple[Path, Client]:
        """Have something sent; return once its first blocks have arrived."""
        source = self.folder / f"{name}{things.ending}"
        size = self._sizes[type(things)]
        things.make(source, size, self._chance.randrange(1 << 30))
        rate = str(int(size / SECONDS))
        client = Client(self.folder, "client", self._balancer.port, source, "--limit", rate)
        until = time.monotonic() + SETTLE
        while not self._claimed() and client.code is None:
            assert time.monotonic() < until, text_of(client.errors)
            time.sleep(0.005)
        return source, client

    def _measure(self, things: Files) -> float:
        """Return how long the bytes of one take, without a kill."""
        source, client = self._begin("undisturbed", things)
        began = time.monotonic()
        self._await_end(client)
        self._lasts[things] = time.monotonic() - began
        self._judge("the one without a kill", source, client, things)
        self._remove_left("", things)
        things.remove(source)
        return self._lasts[things]

    def _claimed(self) -> int:
        return claimed_bytes(self.outputs[0])

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

    def _judge(self, what: str, source: Path, client: Client, things: Files) -> None:
        """Count what must not be."""
        output = self.outputs[0]
        found = things.published(output, source.name)
        verdicts = [receipt["verdict"] for receipt in client.receipts]
        wrong = [one for one in found if things.digest(one) != things.digest(source)]
        wrong += list(filter(things.faults, found))
        self._count(client.code != 0 or verdicts != ["INTEGRITY_OK"], "no single OK", what, client)
        self._count(not found, "lost", what, client)
        self._count(len(found) > 1, "twice", what, client)
        self._count(bool(wrong), "wrong", what, client)
        self._count(bool(things.strays(output)), "stray sums", what, client)
        self._count("Traceback" in self._words(client), "traceback", what, client)
        for path in found:
            things.remove(path)

    def _judge_resume(self, what: str, client: Client, there: bool, victim: str) -> None:
        """Count what was sent again in vain, or came too late."""
        if victim == "frozen":
            self._count(self.seconds[-1] > FROZEN_MOST, "too slow", what, client)
        elif there and client.receipts:
            self.resumed.append(client.receipts[0]["resumed_bytes"] / client.receipts[0]["bytes"])
            self._count(self.resumed[-1] == 0, "not resumed", what, client)

    def _words(self, client: Client) -> str:
        return text_of(client.errors) + "".join(text_of(one.errors) for one in self._servers)

    def _remove_left(self, victim: str, things: Files) -> list[str]:
        """Return the names of what is left unfinished; a frozen server keeps what it had."""
        began = time.monotonic()
        left = self._left(things)
        while any(left) and victim != "frozen":
            waits = SETTLE if left[0] else ANSWERS
            if time.monotonic() > began + waits:
                break
            time.sleep(0.05)
            left = self._left(things)
        self.kept += len({path.stem for path in left[1]})
        for path in (*left[0], *left[1]):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [] if victim == "frozen" else [path.name for path in left[0]]

    def _left(self, things: Files) -> tuple[list[Path], list[Path]]:
        """Return what is left in ``.partial``, unfinished, and of what was published."""
        names = (self.outputs[0] / PARTIAL).iterdir()
        found = [path for path in names if path.suffix in LEFT_BEHIND]
        answers = {path.stem for path in found if things.is_answer(path)}
        return (
            [path for path in found if path.stem not in answers],
            [path for path in found if path.stem in answers],
        )

    def _count(self, wrong: bool, kind: str, what: str, client: Client) -> None:
        if wrong:
            self.wrong[kind] += 1
            note(f"VIOLATION at {what}: {kind}\n{text_of(client.out)}{text_of(client.errors)}")


def _had_to_come_again(client: Client) -> bool:
    """Return whether the kill came before its verdict."""
    return text_of(client.errors).count(" logged in ") > 1


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


def sweep(
    place: str, kills: int, seed: int, victims: Sequence[str], things: Sequence[Files]
) -> bool:
    """Kill so many times; print a line of the table; return whether all was right."""
    with temporary_directory(None) as folder, two_ways(place, folder) as outputs:
        outputs[0].mkdir(exist_ok=True)
        with Cluster(folder, outputs, seed, things) as cluster:
            for number in range(kills):
                cluster.run(number, victims[number % len(victims)])
        resumed = f"{min(cluster.resumed, default=0):.0%}"
        wrong = ", ".join(f"{kind} {count}" for kind, count in cluster.wrong.items()) or "nothing"
        seconds = sorted(cluster.seconds)
        times = f"{seconds[len(seconds) // 2]:>8.1f}{seconds[-1]:>8.1f}"
        counts = f"{kills:>6}{cluster.hits:>6}{resumed:>10}{times}{cluster.kept:>6}"
        print(f"{place:<10}{counts}  {wrong}", flush=True)
        return not cluster.wrong


def main() -> int:
    """Run the whole program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--on", action="append", metavar="disk|gluster|DIR,DIR")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--victims", default=",".join(VICTIMS), help="owner, any, both, frozen")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tree", action="store_true", help="send directories")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    handle_signals()
    kills = 2 if arguments.short else arguments.kills
    places = arguments.on or ["disk", "gluster"]
    things = [Files(), Trees()] if arguments.short else [Trees() if arguments.tree else Files()]
    columns = f"{'kills':>6}{'hits':>6}{'resumed':>10}{'median':>8}{'most':>8}{'kept':>6}"
    print(f"{'on':<10}{columns}  wrong")
    victims = arguments.victims.split(",")
    right = [sweep(place, kills, arguments.seed, victims, things) for place in places]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
