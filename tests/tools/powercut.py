"""Cuts the power under a server, and looks for what it had vouched for. Needs root.

    python tests/tools/powercut.py             ten rounds
    python tests/tools/powercut.py --tree      with directories in place of files
    python tests/tools/powercut.py --short     two, one of them with directories

What it does, in each round: the server's output directory lies on an ext4 of its own, in an image
file that is mounted through a loop device. One client sends a large file and is held in the middle
of it; another one sends several small ones. When one of these is answered with ``INTEGRITY_OK``,
the large one has just gone on, and the power is cut: the file system is shut down without writing
what is not on the disk yet (``EXT4_IOC_SHUTDOWN``, without its journal either), and the server is
killed. The file system is unmounted and mounted again, which replays its journal, as after a crash.

What is checked: every file that any client called ``INTEGRITY_OK``, in this round and the one
before, is there with the right digest, before a server touches anything. What else has a final name
by then, which no client was told, is as whole. Of a directory all entries count, with their bits
and times, and its sums beside it. Then a server is started on what is left. In every other round
the clients were killed, too, and are asked again; in the others they live on and have to finish by
themselves, though blocks that were acknowledged to them may be gone. In the end each file must be
there once, and right, with nothing left in ``.partial`` but second names of published files, whose
removal a cut may undo (of a directory its empty folder): they stay for an hour, for their clients
to ask again. Sums without their directory are gone.

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
from typing import Callable, Iterator, NamedTuple

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
from tests.support.files import part_files, random_file  # noqa: E402
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
from tests.tools.sweeping.things import Files, Trees  # noqa: E402

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, from the kernel's ext4.h
NO_LOG_FLUSH = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH: as hard as a power cut
IMAGE_SIZE = 400 * MB  # sparse: a few rounds of files, and the journal
LARGE = {False: 30 * MB, True: 6 * MB}  # of a file, and of a directory, which takes as long
SMALL = (0, 1, 70 * KB, 200 * KB, 3 * MB)
SMALL_TREES = (0, 1, 30 * KB, 70 * KB, 200 * KB)
BLOCK = "8K"  # makes the large file last long enough to be interrupted
TOOLS = ("mkfs.ext4", "mount", "umount", "losetup")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not on everybody's PATH
UNMOUNT_PATIENCE = 60.0  # seconds; the kernel may still hold what a killed server had open


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
        """Unmount it as soon as nobody uses it any more.

        A mount namespace that began meanwhile has a mount of its own: while that is there, to mount
        it again would only show the disk without power.
        """
        deadline = time.monotonic() + UNMOUNT_PATIENCE
        while self.path.is_mount():
            try:
                tool("umount", self.path)
            except SetupError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        while tool("losetup", "--associated", self._image):
            if time.monotonic() > deadline:
                raise SetupError("another mount namespace does not let go of the disk")
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


class Sent(NamedTuple):
    """A file or a directory that is sent, and where it is to arrive."""

    source: Source
    things: Files
    output: Path

    @property
    def name(self) -> str:
        """What its client calls it."""
        return self.source.path.name

    @property
    def published(self) -> list[Path]:
        """What is there under its final name."""
        return sorted(self.things.published(self.output, self.name))

    def is_right(self, path: Path) -> bool:
        """Return whether it is as whole as its source."""
        right = self.things.digest(path) == self.source.digest
        return right and not self.things.faults(path)


class Work(NamedTuple):
    """A client and what it sends."""

    client: Client
    sources: list[Sent]

    def vouched(self) -> list[Sent]:
        """Return the files that the user was told are safe."""
        names = {
            receipt["name"]
            for receipt in self.client.receipts
            if receipt["verdict"] == "INTEGRITY_OK"
        }
        return [sent for sent in self.sources if sent.name in names]


class Rounds:
    """One round after the other on one disk."""

    def __init__(self, disk: Disk, place: Path, seed: int, trees: Callable[[int], bool]) -> None:
        """``trees`` says of a round whether directories are sent in it."""
        self._trees = trees
        self._disk = disk
        self._place = place
        self._seed = seed
        self._output = disk.path / "output"
        self._port = free_port()
        self._server: Server | None = None
        self._clients: list[Client] = []
        self._chance = random.Random(seed)
        self._before: list[Sent] = []  # the round before
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
        vouched = [sent for work in works for sent in work.vouched()]
        self._check_vouched(vouched, number)
        self._check_named([sent for work in works for sent in work.sources], number)
        self._start_server()
        self._finish(works, survive=survive)
        self._check_all([source for work in works for source in work.sources], number)
        self._stop_server()
        fate = "lived on" if survive else "were asked again"
        what = "directories" if self._trees(number) else "files"
        note(f"round {number + 1}: {len(vouched)} {what} were vouched for; the clients {fate}")

    # -- the processes

    def _start_server(self) -> None:
        self._server = Server(self._place, self._output, self._port)

    def _stop_server(self) -> None:
        assert self._server is not None
        code = self._server.stop()
        if code:
            self.violation(f"the server ended with {code} when asked to end")

    def _source(self, number: int, size: int) -> Sent:
        things = Trees() if self._trees(number) else Files()
        name = f"round-{number}-{format_size(size).replace(' ', '')}{things.ending}"
        path = self._place / name
        things.make(path, size, hash_seed(f"{self._seed}-{name}"))
        return Sent(Source(path, size, things.digest(path)), things, self._output)

    def _send(self, name: str, sources: list[Sent]) -> Work:
        paths = [sent.source.path for sent in sources]
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
        trees = self._trees(number)
        sources = [self._source(number, size) for size in (SMALL_TREES if trees else SMALL)]
        large = self._send("large", [self._source(number, LARGE[trees])])
        self._hold(large.client)
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

    def _check_vouched(self, vouched: list[Sent], number: int) -> None:
        for sent in (*vouched, *self._before):
            self.checked += 1
            if not any(map(sent.is_right, sent.published)):
                found = [(path.name, path.stat().st_size) for path in sent.published]
                self.violation(f"round {number + 1}: {sent.name} was vouched for; there is {found}")

    def _check_named(self, all_sent: list[Sent], number: int) -> None:
        """Expect that what has a final name is whole, whether or not a client was told so."""
        for sent in all_sent:
            for path in sent.published:
                if not sent.is_right(path):
                    self.violation(f"round {number + 1}: {path.name} is not whole after the cut")

    def _finish(self, works: list[Work], *, survive: bool) -> None:
        """Have all files sent, whatever became of their clients."""
        for work in works:
            code = self._wait(work.client)
            if survive and code:
                says = last_line(text_of(work.client.errors))
                self.violation(f"a client that lived on ended with {code}: {says}")
            told = work.vouched()
            missing = [sent for sent in work.sources if sent not in told]
            if missing:
                self._ask_again(missing)

    def _ask_again(self, sources: list[Sent]) -> None:
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

    def _check_all(self, all_sent: list[Sent], number: int) -> None:
        """Expect each file once, and nothing unfinished; then let the round before go."""
        for sent in all_sent:
            there = sent.published
            if len(there) != 1 or not sent.is_right(there[0]):
                names = [path.name for path in there]
                self.violation(f"round {number + 1}: in the end {sent.name} is {names}")
            sent.things.remove(sent.source.path)
        self._check_left_over(all_sent[0].things, number)
        assert self._server is not None
        if "Traceback" in text_of(self._server.errors):
            self.violation(f"round {number + 1}: a traceback in the server's log")
            os.truncate(self._server.errors, 0)
        for sent in self._before:
            for path in sent.published:
                sent.things.remove(path)
        self._before = all_sent

    def _check_left_over(self, things: Files, number: int) -> None:
        deadline = time.monotonic() + SETTLE
        while self._left_over(things) and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._left_over(things):
            found = ", ".join(self._left_over(things))
            self.violation(f"round {number + 1}: left over: {found}")
        for path in self._unfinished():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _left_over(self, things: Files) -> list[str]:
        found = self._unfinished()
        again = {path.stem for path in found if _is_answer(things, path)}
        left = [path for path in found if path.stem not in again]
        return sorted(path.name for path in (*left, *Trees().strays(self._output)))

    def _unfinished(self) -> list[Path]:
        found = (self._output / PARTIAL).glob("*")
        return [path for path in found if path.suffix in (".part", ".tree", ".journal")]


def _is_answer(things: Files, path: Path) -> bool:
    """Return whether it waits to give a verdict again; not if it is gone meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return things.is_answer(path)
    return False


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Cut the power under a server.")
    parser.add_argument("--rounds", type=int, metavar="N", help="power cuts (10)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of files and moments (1)")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="for all files (temporary)")
    parser.add_argument("--tree", action="store_true", help="directories in place of files")
    parser.add_argument("--short", action="store_true", help="two rounds, one with directories")
    arguments = parser.parse_args(argv)
    if arguments.rounds is None:
        arguments.rounds = 2 if arguments.short else 10
    return arguments


@contextlib.contextmanager
def prepared(arguments: argparse.Namespace) -> Iterator[Rounds]:
    """Give a disk that is known to lose data, and everything else that rounds need."""
    if os.geteuid():
        raise SetupError("needs root, to mount a file system")

    def trees(number: int) -> bool:
        return arguments.tree or (arguments.short and number % 2 == 1)

    with temporary_directory(arguments.directory) as place, Disk(place) as disk:
        check_cut(disk)
        with Rounds(disk, place, arguments.seed, trees) as rounds:
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
        f" middle of a transfer; {rounds.checked} that were vouched for looked up after a cut;"
        f" {rounds.violations} violations"
    )
    return 1 if rounds.violations else 0


if __name__ == "__main__":
    sys.exit(main())
