"""Breaks servers, machines, the NFS server and the network between them; counts what that broke.

    python tests/tools/nfs.py                        10 of each fault; about 40 minutes
    python tests/tools/nfs.py zombie --times 3 --seed 7 --lease 90

This is run by hand: it needs root and the Debian packages ``user-mode-linux``,
``nfs-kernel-server``, ``nfs-common``, ``kmod``, ``iproute2`` and ``e2fsprogs``. Three Linux kernels
in user mode are three machines: one serves NFS 4.2 from a disk of its own, two mount it with
``vers=4.2,hard,proto=tcp`` and run ``server.py --shared``. A real client sends a file to a name
that has both addresses, and at a random moment one thing happens:

``nothing``: for the time it takes without a fault.
``process``: ``kill -9`` of the server that has the file; it starts again 2 s later.
``machine``: its whole machine loses its power, and starts again when the client has ended.
``storage``: the NFS server loses its power and starts again at once.
``zombie``: the machine that has the file is cut off, the client goes on at the other one, and then
the cable is put back: in every second round while the file still grows there, otherwise after the
verdict. Meanwhile its server is helped to do harm: marked pages are written over the file through
its own locked descriptor (``kernels/zombie.py``), both while it is cut off and when it is back.

What is checked each time: the client ends with one INTEGRITY_OK and exit code 0 without being asked
again; on the disk of the NFS server exactly one published file, with the digest of the source; no
mark was ever seen there; nothing unfinished is left; no traceback; and where 60 % of the file was
there when the session was lost, that ``resumed_bytes`` is not 0. With a lease longer than a server
waits for another's file, the client begins anew beside it: then the unfinished file stays that of
the machine that was cut off, which may write to it, and is left over. A line of the table tells in
how many rounds the client lost its session, how much was resumed, least and median, and how many
seconds more than ``SIZE / RATE`` it took, median and most.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config import KB, MB
from lft.accounts.passwords import PASSWORD_VARIABLE
from tests.support.files import md5, random_file
from tests.support.processes import ROOT, environment
from tests.tools.kernels.machines import (
    NAME,
    SERVERS,
    Machine,
    Network,
    NfsClient,
    Storage,
    in_namespace,
)
from tests.tools.sweeping.processes import (
    SETTLE,
    Client,
    Process,
    SetupError,
    handle_signals,
    note,
    temporary_directory,
    text_of,
)

FAULTS = ("nothing", "process", "machine", "storage", "zombie")
SIZE = 80 * MB
RATE = 3 * MB  # bytes a second of the client
PORT = 4455
TIMEOUT = 10  # seconds, the client's own
PATIENCE = 300.0  # seconds for a client to end
OUTPUT = "/mnt/nfs/output"
ON_DISK = "/mnt/disk/export/output"
_UNFINISHED = rf"find {ON_DISK}/.partial -regex '.*\.\(part\|tree\)' -links 1"
_HAS_PART = "ls -l /proc/$(cat /run/server.pid)/fd | grep -q '\\.part$'"
_AWAIT_JOURNAL = (
    f"while sleep 0.1; there=$(cat {OUTPUT}/.partial/*.journal 2>/dev/null | wc -c);"
    f" [ $there -lt %d ] && {_HAS_PART}; do :; done; echo $there"
)


class RemoteClient(Client):
    """A real client where the machines can be reached."""

    def __init__(self, folder: Path, source: Path) -> None:
        command = [sys.executable, str(ROOT / "client.py"), str(source), "--json"]
        command += ["--server", NAME, "--port", str(PORT), "--user", "ann"]
        command += ["--password-file", str(folder / "password"), "--timeout", str(TIMEOUT)]
        command += ["--limit", str(RATE)]
        (folder / "client.log").unlink(missing_ok=True)
        Process.__init__(self, in_namespace(*command), folder, "client")
        self.killed = self.late = False


class Servers:
    """The machines, and a ``server.py`` on each of the two that have the directory mounted."""

    def __init__(self, folder: Path, lease: int) -> None:
        self.network = Network()
        self.storage = Storage(folder, lease)
        self.machines = {number: NfsClient(folder, number) for number in SERVERS}
        self._folder = folder
        self._make_account()

    def _make_account(self) -> None:
        (self._folder / "password").write_text("open sesame\n", encoding="ascii")
        command = [sys.executable, str(ROOT / "auth.py"), "add", "ann"]
        command += ["--credentials", str(self._folder / "accounts")]
        own = {**environment(), PASSWORD_VARIABLE: "open sesame"}
        subprocess.run(command, env=own, check=True, capture_output=True)

    def start(self) -> None:
        """Boot all machines, and start the servers."""
        self.storage.boot()
        for number, machine in self.machines.items():
            machine.boot()
            self.start_server(number)

    def start_server(self, number: int) -> None:
        """Start ``server.py`` on a machine, and wait until it listens."""
        command = f"{sys.executable} {ROOT}/server.py --shared --host 0.0.0.0 --port {PORT}"
        command += f" --output {OUTPUT} --credentials {self._folder}/accounts"
        self.machines[number].order(
            f"mkdir -p {OUTPUT}; cd /; setsid {command} </dev/null >/run/server.out"
            " 2>>/run/server.log & echo $! >/run/server.pid;"
            " for n in $(seq 600); do grep -q Listening /run/server.out && exit 0; sleep 0.1; done;"
            " cat /run/server.log; exit 1"
        )

    def has_part(self, number: int) -> bool:
        """Return whether the server of a machine has a part file open."""
        return not self.machines[number].ask(_HAS_PART, 5)[0]

    def owner(self) -> int | None:
        """Return the machine whose server has a part file open."""
        return next(filter(self.has_part, SERVERS), None)

    def logs(self) -> str:
        """Return what the servers have said that can be asked now."""
        return "".join(self.machines[n].ask("cat /run/server.log", 5)[1] for n in SERVERS)

    def close(self) -> None:
        """Switch all off."""
        machines: list[Machine] = [*self.machines.values(), self.storage]
        for machine in machines:
            machine.kill()
        self.network.close()


class Faults:
    """Each fault by its name: it is given the owner of the transfer, and gives back what to do
    when the client has ended, to have all as it was."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._early = False  # whether a zombie comes back before the verdict
        self.fates: list[str] = []  # what became of what a zombie wrote, as its system said
        self.marked: list[str] = []  # the files in which it was seen

    def nothing(self, _owner: int, client: Client) -> None:
        """Wait for the end."""
        await_end(client)

    def process(self, owner: int, _client: Client) -> None:
        """Kill a server; a supervisor starts it again."""
        self._servers.machines[owner].order("kill -9 $(cat /run/server.pid)")
        time.sleep(2)
        self._servers.start_server(owner)

    def machine(self, owner: int, client: Client) -> None:
        """Switch a machine off, and on again after the verdict."""
        self._servers.machines[owner].kill()
        await_end(client)
        self._servers.machines[owner].boot()
        self._servers.start_server(owner)

    def storage(self, _owner: int, client: Client) -> None:
        """Switch the NFS server off and on."""
        self._servers.storage.kill()
        self._servers.storage.boot()
        await_end(client)

    def zombie(self, owner: int, client: Client) -> None:
        """Cut a machine off, have its server write on, let it come back."""
        servers, machine = self._servers, self._servers.machines[owner]
        program = f"{sys.executable} {Path(__file__).parent}/kernels/zombie.py"
        write = f"rm -f /run/go; setsid {program} write $(cat /run/server.pid) >/run/zombie 2>&1 &"
        watch = f"setsid {program} watch {ON_DISK} >/run/marks 2>&1 & echo $! >/run/watch.pid"
        machine.order(write)
        servers.storage.order(watch)
        await_true(lambda: not machine.ask("grep 'begun\\|open' /run/zombie")[0])
        servers.network.cut(owner)
        time.sleep(0.5)  # what was under way arrives
        if client.code is None:  # otherwise it is nobody's any more, and not written to
            machine.order("touch /run/go")
            self._come_back(owner, client)
        servers.network.join(owner)
        servers.storage.order("kill $(cat /run/watch.pid)")
        self.fates += machine.order("grep : /run/zombie || :").splitlines()
        self.marked += servers.storage.order("cat /run/marks").splitlines()

    def _come_back(self, owner: int, client: Client) -> None:
        """Let a machine come back when the client is at the other one, or has ended."""
        servers, machine = self._servers, self._servers.machines[owner]
        self._early = not self._early
        if self._early:
            await_true(lambda: client.code is not None or servers.has_part(3 - owner))
        else:
            await_end(client)
        servers.network.join(owner)
        await_true(lambda: not machine.ask("grep -q 'back:\\|open' /run/zombie")[0])
        await_end(client)


def await_true(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something is so. Raises ``SetupError`` if that never comes."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            raise SetupError("waited in vain")
        time.sleep(0.2)


def await_end(client: Client) -> None:
    """Wait until a client has ended; end it if it never does."""
    with contextlib.suppress(SetupError):
        await_true(lambda: client.code is not None)
    client.kill()


class Rounds:
    """Transfers that are disturbed by one fault, and what was found wrong with them."""

    def __init__(
        self, folder: Path, servers: Servers, fault: str, options: argparse.Namespace
    ) -> None:
        self.wrong: collections.Counter[str] = collections.Counter()
        self.resumed: list[float] = []
        self.longer: list[float] = []
        self.hits = 0
        self._folder, self._servers, self._fault = folder, servers, fault
        self.faults = Faults(servers)
        self._chance = random.Random(f"{options.seed} {fault}")
        self._talkative = options.verbose

    def run(self, number: int) -> None:
        """Send one file, and break something meanwhile; again, if that came too late."""
        source = random_file(self._folder / f"{self._fault}-{number}", SIZE, number)
        began = time.time()
        client = RemoteClient(self._folder, source)
        owner, there = self._await_moment(client)
        getattr(self.faults, self._fault)(owner, client)
        await_end(client)
        self.longer.append(client.out.stat().st_mtime - began - SIZE / RATE)
        self._judge(f"{self._fault} {number}, {there:.0%} there", source, client, there)
        source.unlink()

    def _await_moment(self, client: Client) -> tuple[int, float]:
        """Wait for a moment in the transfer; return which machine has it, and how much of it."""
        owner, bytes_of_all = self._await_owner(client), SIZE / (200 * KB) * 20
        least = self._chance.uniform(0.02, 0.6) * bytes_of_all
        words = self._servers.machines[owner].order(_AWAIT_JOURNAL % least)
        return owner, int(words) / bytes_of_all

    def _await_owner(self, client: Client) -> int:
        """Wait until a machine has the file; return which. Raises ``SetupError``."""
        owner = None
        while owner is None:
            owner = self._servers.owner()
            if client.code is not None:
                raise SetupError(f"the file came too fast, or not at all: {text_of(client.errors)}")
        return owner

    # -- what came of it

    def _judge(self, what: str, source: Path, client: Client, there: float) -> None:
        """Count what must not be."""
        storage, faults = self._servers.storage, self.faults
        sums = storage.order(
            f"cd {ON_DISK}; md5sum server_received_*_{source.name} 2>/dev/null || :"
        ).split()
        digests, verdicts = sums[::2], [receipt["verdict"] for receipt in client.receipts]
        self.resumed.append(sum(one.get("resumed_bytes", 0) for one in client.receipts) / SIZE)
        anew = f"{source.name} begins anew" in self._servers.logs()
        hit = text_of(client.errors).count("logged in") > 1
        self.hits += hit
        wrong = {
            "no single OK": client.code != 0 or verdicts != ["INTEGRITY_OK"],
            "lost": not digests,
            "twice": len(digests) > 1,
            "wrong": set(digests) != {md5(source)},
            "marked": [] if anew else faults.marked,  # in what is published the digest tells
            "traceback": "Traceback" in text_of(client.errors) + self._servers.logs(),
            "not resumed": hit and there > 0.6 and not (anew or self.resumed[-1]),
            "left over": [] if anew else self._left(),
        }
        for kind in (kind for kind, found in wrong.items() if found):
            self.wrong[kind] += 1
            note(f"VIOLATION at {what}: {kind}: {wrong[kind]}")
        if self._talkative or any(wrong.values()):
            note(f"{text_of(client.errors)}{self._servers.logs()}")
        note(f"{what}: {self.longer[-1]:.1f} s longer, {self.resumed[-1]:.0%} resumed")
        faults.marked.clear()
        storage.order(f"rm -f {ON_DISK}/server_received_* {ON_DISK}/.partial/*.{{part,journal}}")

    def _left(self) -> list[str]:
        """Return what is unfinished after a while."""
        with contextlib.suppress(SetupError):
            await_true(lambda: not self._servers.storage.order(_UNFINISHED), SETTLE)
        return self._servers.storage.order(_UNFINISHED).split()

    def line(self) -> str:
        """Return the line of the table."""
        wrong = ", ".join(f"{kind} {count}" for kind, count in self.wrong.items()) or "nothing"
        middle, most = statistics.median(self.longer), max(self.longer)
        resumed = f"{min(self.resumed):>8.0%}{statistics.median(self.resumed):>8.0%}"
        line = f"{self._fault:<10}{len(self.longer):>6}{self.hits:>6}{resumed}"
        return f"{line}{middle:>8.1f}{most:>8.1f}  {wrong}"


@contextlib.contextmanager
def all_running(lease: int) -> Iterator[tuple[Path, Servers]]:
    """Give the servers and a folder for what is sent; nothing is left afterwards."""
    with temporary_directory(None) as folder:
        servers = Servers(folder, lease)
        try:
            servers.start()
            yield folder, servers
        finally:
            servers.close()


def main() -> int:
    """Run the whole program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("faults", nargs="*", default=FAULTS, help=", ".join(FAULTS))
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease", type=int, default=15, help="of the NFS server, in seconds")
    parser.add_argument("--verbose", action="store_true", help="show what all of them have said")
    arguments = parser.parse_args()
    handle_signals()
    wrong = 0
    with all_running(arguments.lease) as (folder, servers):
        print(
            f"{'fault':<10}{'times':>6}{'hits':>6}{'resumed':>16}{'longer':>16}  wrong", flush=True
        )
        for fault in arguments.faults:
            rounds = Rounds(folder, servers, fault, arguments)
            for number in range(arguments.times):
                rounds.run(number)
            print(
                rounds.line(), *sorted(collections.Counter(rounds.faults.fates).items()), flush=True
            )
            wrong += sum(rounds.wrong.values())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
