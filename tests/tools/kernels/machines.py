"""Kernels in user mode, a network between them, and the machine that serves NFS.

Root is needed, ``/dev/net/tun``, and the Debian packages ``user-mode-linux``,
``nfs-kernel-server``, ``nfs-common``, ``kmod``, ``iproute2`` and ``e2fsprogs``. A machine has the
host's root file system, read-only, and takes about 5 s to start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

from tests.tools.kernels.agent import CONTROL, DATA, PORT
from tests.tools.sweeping.processes import SetupError

NAMESPACE = f"lft-{os.getpid()}"
NAME = "files.test"  # of the two servers, for clients in the namespace
SERVERS = (1, 2)
STORAGE = 3  # the machine with the NFS server
_CONFIGURATION = Path("/etc/netns") / NAMESPACE
_MODULES = Path("/usr/lib/uml/modules")
_START_PATIENCE = 90.0
_ASK = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {PORT}), 3) as link:
    link.settimeout(float(sys.argv[2]))
    link.sendall(sys.argv[3].encode())
    link.shutdown(socket.SHUT_WR)
    words, _, code = link.makefile("rb").read().rpartition(b"\\0")
sys.stdout.buffer.write(words)
sys.exit(int(code))
"""
_SERVE = """
mount /dev/ubda /mnt/disk; cd /mnt/disk; mkdir -p export state/v4recovery state/nfsdcld
mount --bind state /var/lib/nfs; touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mkdir -p /run/lock /run/rpc_pipefs; mount -t tmpfs none /etc/exports.d
mount -t nfsd nfsd /proc/fs/nfsd; mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
exportfs -o rw,no_root_squash,sync,fsid=0,no_subtree_check,insecure {data}.0/24:/mnt/disk/export
echo {lease} > /proc/fs/nfsd/nfsv4leasetime; echo {grace} > /proc/fs/nfsd/nfsv4gracetime
rpc.mountd -N 3; nfsdcld -s /var/lib/nfs/nfsdcld; rpc.nfsd --no-nfs-version 3 -U 4
cat /proc/fs/nfsd/threads
"""
_MOUNT = f"mount -t nfs -o vers=4.2,hard,proto=tcp {DATA}.1{STORAGE}:/ /mnt/nfs"


def in_namespace(*command: str) -> list[str]:
    """Return a command that runs where the machines can be reached."""
    return ["ip", "netns", "exec", NAMESPACE, *command]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"{' '.join(command)}: {done.stderr.strip()}")


class Network:
    """Two bridges in a namespace: one for data, which can be cut, and one to give orders by."""

    def __init__(self) -> None:
        _CONFIGURATION.mkdir(parents=True)
        names = "".join(f"{DATA}.1{number} {NAME}\n" for number in SERVERS)
        (_CONFIGURATION / "hosts").write_text("127.0.0.1 localhost\n" + names, encoding="ascii")
        _run(["ip", "netns", "add", NAMESPACE])
        self._ip("link set lo up")
        for bridge, network in (("data", DATA), ("control", CONTROL)):
            self._ip(f"link add {bridge} type bridge")
            self._ip(f"address add {network}.1/24 dev {bridge}")
            self._ip(f"link set {bridge} up")
            for number in (*SERVERS, STORAGE):
                self._ip(f"tuntap add dev {bridge}{number} mode tap")
                self._ip(f"link set {bridge}{number} up master {bridge}")

    @staticmethod
    def _ip(words: str) -> None:
        _run(in_namespace("ip", *words.split()))

    def cut(self, number: int) -> None:
        """Pull the cable of a machine; it goes on running and sees no error."""
        self._ip(f"link set data{number} nomaster")

    def join(self, number: int) -> None:
        """Put the cable back."""
        self._ip(f"link set data{number} master data")

    @staticmethod
    def close() -> None:
        """Remove all of it."""
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=False, capture_output=True)
        shutil.rmtree(_CONFIGURATION, ignore_errors=True)


class Machine:
    """A kernel of its own, which runs from ``boot`` until ``kill``."""

    def __init__(self, folder: Path, number: int, memory: str = "320M") -> None:
        self.number, self._memory = number, memory
        self.folder = folder / f"machine{number}"
        self.folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "lib").mkdir()
        (self.folder / "lib" / "modules").symlink_to(_MODULES)

    def _command(self) -> list[str]:
        agent = str(Path(__file__).with_name("agent.py").resolve())
        nets = [
            f"vec{index}:transport=tap,ifname={name}{self.number},depth=128,gro=1"
            for index, name in enumerate(("data", "control"))
        ]
        kernel = ["linux.uml", f"mem={self._memory}", "rootfstype=hostfs", "rootflags=/", "ro"]
        kernel += [*nets, *self._disks(), "con=null", "con0=null,fd:1", "quiet"]
        kernel += ["random.trust_cpu=on", f"uml_dir={self.folder}", f"init={sys.executable}"]
        return in_namespace(*kernel, "--", agent, str(self.number), str(self.folder))

    def _disks(self) -> list[str]:
        return []

    def boot(self) -> None:
        """Start it. Raises ``SetupError`` if it does not get as far as to take orders."""
        with open(self.folder / "console.log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _START_PATIENCE
        while self.ask("true")[0]:
            if time.monotonic() > until:
                raise SetupError(f"machine {self.number} does not start: {self.folder}/console.log")
            time.sleep(0.3)
        self._set_up()

    def _set_up(self) -> None:
        """Do what this machine is for; it takes orders already."""

    def ask(self, command: str, patience: float = 120.0) -> tuple[int, str]:
        """Run a command in the machine; return its exit code and its words."""
        python = [sys.executable, "-c", _ASK, f"{CONTROL}.1{self.number}", str(patience), command]
        done = subprocess.run(in_namespace(*python), check=False, capture_output=True, text=True)
        return done.returncode, done.stdout

    def order(self, command: str) -> str:
        """Run a command that has to work. Raises ``SetupError``."""
        code, words = self.ask(command)
        if code:
            raise SetupError(f"machine {self.number}: {command}: {words}")
        return words

    def kill(self) -> None:
        """Have it lose its power."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Storage(Machine):
    """The machine that serves NFS, from a disk that outlives it."""

    def __init__(self, folder: Path, lease: int) -> None:
        super().__init__(folder, STORAGE)
        self._lease = lease
        self._image = self.folder / "disk.img"
        with open(self._image, "wb") as image:
            image.truncate(3 << 30)
        _run(["mkfs.ext4", "-q", "-F", str(self._image)])

    def _disks(self) -> list[str]:
        return [f"ubd0={self._image}"]

    def _set_up(self) -> None:
        self.order(_SERVE.format(data=DATA, lease=self._lease, grace=3 * self._lease))


class NfsClient(Machine):
    """A machine that has the directory mounted at ``/mnt/nfs``."""

    def _set_up(self) -> None:
        self.order(_MOUNT)
