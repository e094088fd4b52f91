"""Cuts the power under a server, and looks for what it had vouched for. Needs root.

    python tests/tools/powercut.py             ten rounds
    python tests/tools/powercut.py --short     two

What it does, in each round: the server's output directory lies on an ext4 of its own, in an image
file that is mounted through a loop device. One client sends a large file and is held in the middle
of it; another one sends several small ones. When one of these is answered with ``INTEGRITY_OK``,
the large one has just gone on, and the power is cut: the file system is shut down without writing
what is not on the disk yet (``EXT4_IOC_SHUTDOWN``, without its journal either), and the server is
killed. The file system is unmounted and mounted again, which replays its journal, as after a crash.

What is checked: every file that any client called ``INTEGRITY_OK``, in this round and the one
before, is there with the right digest, before a server touches anything. Then a server is started
on what is left. In every other round the clients were killed, too, and are asked again; in the
others they live on and have to finish by themselves, though blocks that were acknowledged to them
may be gone. In the end each file must be there once, and right, with nothing left in ``.partial``
but second names of published files, whose removal a cut may undo: they stay for an hour, for their
clients to ask again.

Before all that, a file that nobody flushed is written and the power is cut: if it is still there
afterwards, a cut shows nothing here, and that is said instead of a success.

What it does not say: what a disk does that lies about its cache (all that ext4 handed to the loop
device counts as written), what other file systems do, and anything about the machine's own memory.

Nothing is left behind: no mount, loop device, process or file, unless this program itself is
killed with SIGKILL. The exit code is 0 without a violation, 1 with one, 2 if it cannot run here.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import (  # noqa: E402
    KB,
    MB,
)
from lft.options import (  # noqa: E402
    format_size,
)
from lft.store.paths import (  # noqa: E402
    PARTIAL,
)
from tests.support.files import md5, part_files, random_file  # noqa: E402
from tests.tools.sweeping.processes import (  # noqa: E402
    ATTEMPTS,
    CLIENT_PATIENCE,
    SETTLE,
    Client,
    DeadServerError,
    Server,
    SetupError,
    free_port,
    handle_signals,
    last_line,
    note,
    temporary_directory,
    text_of,
)
from tests.tools.sweeping.station import Source, hash_seed  # noqa: E402

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, from the kernel's ext4.h
NO_LOG_FLUSH = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH: as hard as a power cut
IMAGE_SIZE = 400 * MB  # sparse: a few rounds of files, and the journal
LARGE = 30 * MB
SMALL = (0, 1, 70 * KB, 200 * KB, 3 * MB)
BLOCK = "8K"  # makes the large file last long enough to be interrupted
TOOLS = ("mkfs.ext4", "mount", "umount", "losetup")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not on everybody's PATH
UNMOUNT_PATIENCE = 10.0  # seconds; the kernel may still hold what a killed server had open


def tool(*command: str | Path) -> str:
    """Run a program of the system; return what it said. Raises ``SetupError``."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    program = shutil.which(str(command[0]), path=path)
    if program is None:
        raise SetupError(f"{command[0]} is not installed")
    done = subprocess.run(
        [program, *map(str, command[1:])],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SetupError(f"{command[0]} does not work here: {last_line(done.stderr)}")
    return done.stdout


class Disk:
    """An ext4 in a file, mounted, whose power can be cut. Gone at the end of the ``with`` block."""

    def __init__(self, place: Path) -> None:
        self._image = place / "image"
        self.path = place / "mount"
        self.path.mkdir()

    def __enter__(self) -> Disk:
        with open(self._image, "wb") as image:
            image.truncate(IMAGE_SIZE)
        tool("mkfs.ext4", "-q", "-F", self._image)
        try:
            self.mount()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def mount(self) -> None:
        """Mount it, which replays its journal."""
        tool("mount", "-t", "ext4", "-o", "loop", self._image, self.path)

    def unmount(self) -> None:
        """Unmount it as soon as nobody uses it any more."""
        deadline = time.monotonic() + UNMOUNT_PATIENCE
        while True:
            try:
                tool("umount", self.path)
                return
            except SetupError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def cut(self) -> None:
        """Cut its power: nothing that it has not written yet will ever be."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(directory)

    def _remove(self) -> None:
        """Unmount, by force if it must be, and take the loop device away if mount left one."""
        if self.path.is_mount():
            try:
                self.unmount()
            except SetupError:
                tool("umount", "--lazy", self.path)
        with contextlib.suppress(SetupError):
            for line in tool("losetup", "--associated", self._image).splitlines():
                tool("losetup", "--detach", line.partition(":")[0])
        self._image.unlink()


def flush(path: Path) -> None:
    """Have a new file written, with its name."""
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def check_cut(disk: Disk) -> None:
    """See a cut lose what was not flushed, and keep what was. Raises ``SetupError``."""
    flush(random_file(disk.path / "flushed", MB))
    random_file(disk.path / "unflushed", MB)
    try:
        disk.cut()
    except OSError as error:
        raise SetupError(f"the power cannot be cut here: {error.strerror}") from None
    disk.unmount()
    disk.mount()
    flushed, unflushed = disk.path / "flushed", disk.path / "unflushed"
    if not flushed.exists() or flushed.stat().st_size != MB:
        raise SetupError("a cut loses even what was flushed, so it shows nothing here")
    if unflushed.exists() and unflushed.stat().st_size:
        raise SetupError("a cut loses nothing here, so it shows nothing")
    flushed.unlink()
    unflushed.unlink(missing_ok=True)


class Work(NamedTuple):
    """A client and what it sends."""

    client: Client
    sources: list[Source]

    def vouched(self) -> list[Source]:
        """Return the files that the user was told are safe."""
        names = {
            receipt["name"]
            for receipt in self.client.receipts
            if receipt["verdict"] == "INTEGRITY_OK"
        }
        return [source for source in self.sources if source.path.name in names]


class Rounds:
    """One round after the other on one disk."""

    def __init__(self, disk: Disk, place: Path, seed: int) -> None:
        self._disk = disk
        self._place = place
        self._seed = seed
        self._output = disk.path / "output"
        self._port = free_port()
        self._server: Server | None = None
        self._clients: list[Client] = []
        self._chance = random.Random(seed)
        self._before: list[Source] = []  # the round before
        self.violations = 0
        self.interrupted = 0
        self.checked = 0

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._clients, self._server):
            if process:
                process.kill()

    def violation(self, text: str) -> None:
        """Count something that must not be, and say it."""
        self.violations += 1
        note(f"VIOLATION: {text}")

    def run(self, number: int) -> None:
        """Live through one round."""
        survive = number % 2 == 1
        self._start_server()
        works = self._send_and_cut(number, survive=survive)
        if not survive:
            for work in works:
                work.client.kill()
        self._disk.unmount()
        self._disk.mount()
        vouched = [source for work in works for source in work.vouched()]
        self._check_vouched(vouched, number)
        self._start_server()
        self._finish(works, survive=survive)
        self._check_all([source for work in works for source in work.sources], number)
        self._stop_server()
        fate = "lived on" if survive else "were asked again"
        note(f"round {number + 1}: {len(vouched)} files were vouched for; the clients {fate}")

    # -- the processes

    def _start_server(self) -> None:
        self._server = Server(self._place, self._output, self._port)

    def _stop_server(self) -> None:
        assert self._server is not None
        code = self._server.stop()
        if code:
            self.violation(f"the server ended with {code} when asked to end")

    def _source(self, number: int, size: int) -> Source:
        name = f"round-{number}-{format_size(size).replace(' ', '')}.bin"
        path = random_file(self._place / name, size, hash_seed(f"{self._seed}-{name}"))
        return Source(path, size, md5(path))

    def _send(self, name: str, sources: list[Source]) -> Work:
        paths = [source.path for source in sources]
        client = Client(self._place, name, self._port, *paths, "--quiet", "--block-size", BLOCK)
        self._clients = [each for each in self._clients if each.code is None] + [client]
        return Work(client, sources)

    # -- the cut

    def _send_and_cut(self, number: int, *, survive: bool) -> list[Work]:
        """Return the clients, just after the cut, with whatever they have been told.

        Where they live on, the server is frozen first. It would see its disk fail and say so to
        them, and no machine without power can do that.
        """
        assert self._server is not None
        large = self._send("large", [self._source(number, LARGE)])
        self._hold(large.client)
        sources = [self._source(number, size) for size in SMALL]
        self._chance.shuffle(sources)
        small = self._send("small", sources)
        wanted = self._chance.randint(2, len(sources))
        self._await_verdicts(small, wanted - 1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(large.client.pid, signal.SIGCONT)
        self._await_verdicts(small, wanted)
        if survive:
            self._server.freeze()
        self._disk.cut()
        self._server.kill()
        self.interrupted += not large.vouched()
        return [large, small]

    def _hold(self, client: Client) -> None:
        """Stop a client somewhere in the middle of its file."""
        deadline = time.monotonic() + CLIENT_PATIENCE
        while not part_files(self._output) and client.code is None:
            if time.monotonic() > deadline:
                self.violation("no part file comes")
                break
            time.sleep(0.001)
        time.sleep(self._chance.uniform(0.0, 0.1))
        with contextlib.suppress(ProcessLookupError):
            os.kill(client.pid, signal.SIGSTOP)

    def _await_verdicts(self, work: Work, count: int) -> None:
        deadline = time.monotonic() + CLIENT_PATIENCE
        while len(work.vouched()) < count and work.client.code is None:
            if time.monotonic() > deadline:
                self.violation("no verdict comes")
                return
            time.sleep(0.0005)

    # -- afterwards

    def _published(self, source: Source) -> list[Path]:
        return sorted(self._output.glob(f"server_received_*_{source.path.name}"))

    def _right(self, source: Source) -> bool:
        return any(md5(path) == source.digest for path in self._published(source))

    def _check_vouched(self, vouched: list[Source], number: int) -> None:
        for source in (*vouched, *self._before):
            self.checked += 1
            if not self._right(source):
                found = [(path.name, path.stat().st_size) for path in self._published(source)]
                text = f"round {number + 1}: {source.path.name} was vouched for; there is {found}"
                self.violation(text)

    def _finish(self, works: list[Work], *, survive: bool) -> None:
        """Have all files sent, whatever became of their clients."""
        for work in works:
            code = self._wait(work.client)
            if survive and code:
                says = last_line(text_of(work.client.errors))
                self.violation(f"a client that lived on ended with {code}: {says}")
            told = set(work.vouched())
            missing = [source for source in work.sources if source not in told]
            if missing:
                self._ask_again(missing)

    def _ask_again(self, sources: list[Source]) -> None:
        code = 0
        for _ in range(ATTEMPTS):
            client = self._send("again", sources).client
            code = self._wait(client)
            if code == 0:
                return
        self.violation(f"asked again, the client ended with {code}: {text_of(client.errors)}")

    def _wait(self, client: Client) -> int:
        deadline = time.monotonic() + CLIENT_PATIENCE
        while client.code is None:
            if time.monotonic() > deadline:
                self.violation("a client hangs")
                client.kill()
            time.sleep(0.01)
        if "Traceback" in text_of(client.errors):
            self.violation(f"a traceback of a client: {last_line(text_of(client.errors))}")
        return client.code

    def _check_all(self, sources: list[Source], number: int) -> None:
        """Expect each file once, and nothing unfinished; then let the round before go."""
        for source in sources:
            there = self._published(source)
            if len(there) != 1 or not self._right(source):
                names = [path.name for path in there]
                self.violation(f"round {number + 1}: in the end {source.path.name} is {names}")
            source.path.unlink()
        self._check_left_over(number)
        assert self._server is not None
        if "Traceback" in text_of(self._server.errors):
            self.violation(f"round {number + 1}: a traceback in the server's log")
            os.truncate(self._server.errors, 0)
        for source in self._before:
            for path in self._published(source):
                path.unlink()
        self._before = sources

    def _check_left_over(self, number: int) -> None:
        deadline = time.monotonic() + SETTLE
        while self._left_over() and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._left_over():
            self.violation(f"round {number + 1}: left over: {', '.join(self._left_over())}")
        for path in self._unfinished():
            path.unlink(missing_ok=True)

    def _left_over(self) -> list[str]:
        published = {path.stat().st_ino for path in self._output.glob("server_received_*")}
        again = {path.stem for path in self._unfinished() if _inode(path) in published}
        return sorted(path.name for path in self._unfinished() if path.stem not in again)

    def _unfinished(self) -> list[Path]:
        found = (self._output / PARTIAL).glob("*")
        return [path for path in found if path.suffix in (".part", ".journal")]


def _inode(path: Path) -> int:
    """Return what two names of one file have in common; 0 for one that is gone meanwhile."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Cut the power under a server.")
    parser.add_argument("--rounds", type=int, metavar="N", help="power cuts (10)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of files and moments (1)")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="for all files (temporary)")
    parser.add_argument("--short", action="store_true", help="two rounds")
    arguments = parser.parse_args(argv)
    if arguments.rounds is None:
        arguments.rounds = 2 if arguments.short else 10
    return arguments


@contextlib.contextmanager
def prepared(arguments: argparse.Namespace) -> Iterator[Rounds]:
    """Give a disk that is known to lose data, and everything else that rounds need."""
    if os.geteuid():
        raise SetupError("needs root, to mount a file system")
    with temporary_directory(arguments.directory) as place, Disk(place) as disk:
        check_cut(disk)
        with Rounds(disk, place, arguments.seed) as rounds:
            yield rounds


def main(argv: list[str] | None = None) -> int:
    """Run it; return the exit code."""
    arguments = parse(argv)
    handle_signals()
    try:
        with prepared(arguments) as rounds:
            for number in range(arguments.rounds):
                rounds.run(number)
    except SetupError as error:
        note(f"powercut.py: {error}")
        return 2
    except DeadServerError as error:
        note(f"powercut.py: {error}")
        return 1
    print(
        f"seed {arguments.seed}: {arguments.rounds} power cuts, {rounds.interrupted} of them in the"
        f" middle of a file; {rounds.checked} files that were vouched for looked up after a cut;"
        f" {rounds.violations} violations"
    )
    return 1 if rounds.violations else 0


if __name__ == "__main__":
    sys.exit(main())
