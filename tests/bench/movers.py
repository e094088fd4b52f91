"""Programs that move a file, this pair among them: how each is called, and its rows of a table."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config import KB  # noqa: E402
from lft.options import format_size  # noqa: E402
from tests.bench.common import (  # noqa: E402
    HOST,
    START_PATIENCE,
    Run,
    ToolError,
    await_childless,
    child,
    find,
    last_line,
    logged,
    patience,
    proc_fields,
    quietly,
    receipt_in,
    rsync_config,
    timed,
    used_with_children,
    wait,
)

BARE = [sys.executable, str(ROOT / "tests" / "bench" / "bare.py")]


class Row(NamedTuple):
    """One way to call a tool, one line of the table."""

    name: str
    gives: str
    options: tuple[str, ...] = ()


def free_port() -> int:
    """Return a port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def await_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when somebody listens on ``port``. Raises ``ToolError`` if that never happens."""
    deadline = time.monotonic() + START_PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.02)
    raise ToolError(f"not started: {last_line(log)}")


def make_certificate(place: Path) -> tuple[str, str]:
    """Make a certificate for this machine in ``place``; return its file, and that of its key."""
    cert, key = str(place / "cert.pem"), str(place / "key.pem")
    command = [find("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-keyout", key, "-out", cert, "-subj", "/CN=localhost"]
    quietly([*command, "-addext", f"subjectAltName=IP:{HOST}"])
    return cert, key


class Tool:
    """A program that moves a file, with the rows it has in the table.

    ``start`` brings up what waits on the other side and leaves its end to ``stack``; ``run`` moves
    ``source`` once into ``inbox`` and takes the time. Both raise ``ToolError``. All files of a tool
    are below ``place``.
    """

    rows: tuple[Row, ...] = ()
    peer = 0  # the process that waits on the other side, until the end

    def __init__(self, place: Path) -> None:
        self.place = place
        self.inbox = place / "inbox"
        self.log = place / "log"  # of the process that is timed
        self.peer_log = place / "peer-log"  # of the one that waits
        self.inbox.mkdir(parents=True)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Get ready."""
        raise NotImplementedError

    def run(self, row: Row, source: Path) -> Run:
        """Move the file once."""
        raise NotImplementedError

    def listen(self, stack: contextlib.ExitStack, command: list[str], port: int) -> None:
        """Start a peer that listens on ``port`` until the end."""
        process = stack.enter_context(logged(command, self.peer_log))
        self.peer = process.pid
        await_listener(process, port, self.peer_log)

    def used(self) -> float:
        """Return the seconds of processors that both sides have taken so far."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # of those that have ended
        used = usage.ru_utime + usage.ru_stime
        if self.peer:
            await_childless(self.peer)
            used += used_with_children(self.peer)
        return used

    def check_received(self, size: int) -> None:
        """See that exactly one file of the right size came. Raises ``ToolError``."""
        sizes = [path.stat().st_size for path in self.inbox.iterdir() if path.is_file()]
        if sizes != [size]:
            raise ToolError(f"failed: {sizes} bytes were received, not [{size}]")

    def clear(self) -> None:
        """Remove what came, whole or in part."""
        for path in self.inbox.iterdir():
            if path.is_file():
                path.unlink()


class Md5sum(Tool):
    """The floor: reads the file and hashes it."""

    rows = (Row("md5sum", "the floor: reads and hashes, moves nothing"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Find it."""
        self.program = find("md5sum")

    def run(self, row: Row, source: Path) -> Run:
        """Hash the file."""
        return timed([self.program, str(source)], self.log, source.stat().st_size)

    def check_received(self, size: int) -> None:
        """Nothing is sent."""


class Dd(Tool):
    """The disk's floor: a copy to the same disk, waited for, with no network and no hash."""

    rows = (Row("dd", "the disk's floor: a local copy, durable, unverified"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Find it."""
        self.program = find("dd")

    def run(self, row: Row, source: Path) -> Run:
        """Copy the file."""
        target = self.inbox / "file"
        command = [self.program, f"if={source}", f"of={target}", "bs=1M", "conv=fdatasync"]
        return timed(command, self.log, source.stat().st_size)


class Bare(Tool):
    """Python's floor: the threads and the proof of this pair, and nothing of the rest."""

    rows: tuple[Row, ...] = (
        Row("bare", "Python's floor: MD5 of each block and end to end, durable"),
        Row("bare-sha256", "the same with SHA-256", ("sha256",)),
    )
    certificate: tuple[str, ...] = ()

    def receiver_options(self) -> list[str]:
        """Return what the receiving side needs, and make it."""
        return []

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the receiving side."""
        command = [*BARE, "receive", str(self.inbox), *self.receiver_options()]
        receiver = stack.enter_context(logged(command, self.peer_log, stdout=subprocess.PIPE))
        assert receiver.stdout is not None
        self.peer = receiver.pid
        self.port = receiver.stdout.readline().decode().strip()
        if not self.port:
            raise ToolError(f"not started: {last_line(self.peer_log)}")

    def run(self, row: Row, source: Path) -> Run:
        """Send the file."""
        command = [*BARE, "send", str(source), self.port, *row.options, *self.certificate]
        return timed(command, self.log, source.stat().st_size)


class BareTls(Bare):
    """The same over TLS."""

    rows = (Row("bare-tls-sha256", "Python's floor for TLS 1.3, SHA-256, durable", ("sha256",)),)

    def receiver_options(self) -> list[str]:
        """Make a certificate for this one run."""
        cert, key = make_certificate(self.place)
        self.certificate = (cert,)
        return [cert, key]


class Ours(Tool):
    """This pair: a whole client process for each run, one server for all of them."""

    rows = (
        Row("ours", "MD5 end to end, durable"),
        Row("ours-sha256", "SHA-256 end to end, durable", ("--digest", "sha256")),
    )
    resent = 0  # blocks, which on loopback should stay 0
    client_options: tuple[str, ...] = ()

    def server_options(self) -> list[str]:
        """Return what this kind of server needs, and make it."""
        return []

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the server."""
        command = [sys.executable, str(ROOT / "server.py"), "--host", HOST, "--port", "0"]
        command += ["--output", str(self.inbox), "--grace", "0", *self.server_options()]
        server = stack.enter_context(logged(command, self.peer_log, stdout=subprocess.PIPE))
        assert server.stdout is not None
        self.peer = server.pid
        first = server.stdout.readline().decode()
        if not first.startswith("Listening on "):
            raise ToolError(f"not started: {last_line(self.peer_log)}")
        self.port = first.rpartition(":")[2].strip()

    def run(self, row: Row, source: Path) -> Run:
        """Run the client; its receipt must say that all is well."""
        command = [sys.executable, str(ROOT / "client.py"), str(source), "--quiet", "--json"]
        command += ["--server", HOST, "--port", self.port, *row.options, *self.client_options]
        run = timed(command, self.log, source.stat().st_size)
        self.resent += receipt_in(self.log.read_text(errors="replace"))["resent_blocks"]
        return run

    def server_facts(self) -> str:
        """Say what the server took so far, where the system tells."""
        fields = proc_fields(Path("/proc", str(self.peer), "status"))
        if "VmHWM" not in fields:
            return "memory and threads of the server are not told by this system"
        peak = format_size(int(fields["VmHWM"].split()[0]) * KB)
        threads = fields.get("Threads", "?")
        return f"server of {self.rows[0].name}: peak memory so far {peak}, {threads} threads"


class OursTls(Ours):
    """This pair over TLS, with a certificate of its own making: the one to put beside ``scp``."""

    rows = (
        Row("ours-tls", "MD5 end to end, TLS 1.3, durable"),
        Row("ours-tls-sha256", "SHA-256 end to end, TLS 1.3, durable", ("--digest", "sha256")),
    )

    def server_options(self) -> list[str]:
        """Make a certificate for this one run."""
        cert, key = make_certificate(self.place)
        self.client_options = ("--ca", cert)
        return ["--tls-cert", cert, "--tls-key", key]


class Rsync(Tool):
    """A daemon of rsync, so that no ssh is in the way; ``-W`` sends the file whole."""

    MD5 = "--checksum-choice=md5"
    rows = (
        Row("rsync", "own 128-bit hash, not durable"),
        Row("rsync-fsync", "own 128-bit hash, file flushed", ("--fsync",)),
        Row("rsync-md5", "MD5 end to end, not durable", (MD5,)),
        Row("rsync-md5-fsync", "MD5 end to end, file flushed", (MD5, "--fsync")),
    )

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the daemon."""
        self.program, self.port = find("rsync"), free_port()
        config = self.place / "rsyncd.conf"
        config.write_text(rsync_config(self.inbox, self.port, self.place / "daemon-log"))
        command = [self.program, "--daemon", "--no-detach", f"--config={config}"]
        command += [f"--address={HOST}"]
        self.listen(stack, command, self.port)

    def run(self, row: Row, source: Path) -> Run:
        """Send the file to the daemon."""
        target = f"rsync://{HOST}:{self.port}/inbox/"
        command = [self.program, "-W", *row.options, str(source), target]
        return timed(command, self.log, source.stat().st_size)


class Netcat(Tool):
    """OpenBSD's netcat: bytes into a connection, bytes out of it, nothing else."""

    rows = (Row("nc", "nothing verified, not durable"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Find it; other ones of the same name do not know when to stop."""
        self.program = find("nc")
        if not re.search(r"-N\b.*shutdown", quietly(["nc", "-h"]), re.IGNORECASE):
            raise ToolError("not run: this nc is not OpenBSD's (no -N)")

    def run(self, row: Row, source: Path) -> Run:
        """Start a receiver, send, wait for both."""
        port, size = str(free_port()), source.stat().st_size
        with open(self.inbox / source.name, "wb") as received, open(source, "rb") as data:
            command = [self.program, "-nvl", HOST, port]
            with child(command, stdout=received, stderr=subprocess.PIPE) as listener:
                self._await_words(listener)
                began = time.perf_counter()
                sent = timed([self.program, "-nN", HOST, port], self.log, size, data)
                wait(listener, patience(size))
                return Run(time.perf_counter() - began, sent.peak)

    @staticmethod
    def _await_words(listener: subprocess.Popen[bytes]) -> None:
        """Return when it says that it listens: a connection, just to see, would be the only one."""
        assert listener.stderr is not None
        words = listener.stderr.readline().decode(errors="replace").strip()
        if not words.startswith("Listening"):
            raise ToolError(f"not started: {words}")


class Scp(Tool):
    """scp to an sshd of our own, with keys of our own."""

    rows = (Row("scp", "encrypted, packets verified, not the file; not durable"),)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Make keys, start sshd."""
        self.program, server, self.port = find("scp"), find("sshd"), free_port()
        for name in ("host", "user"):
            quietly(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.place / name)])
        host_key = (self.place / "host.pub").read_text()
        (self.place / "known").write_text(f"[{HOST}]:{self.port} {host_key}")
        config = self.place / "sshd.conf"
        config.write_text("\n".join(self._config()) + "\n")
        self.listen(stack, [server, "-D", "-e", "-f", str(config)], self.port)

    def _config(self) -> list[str]:
        return [
            f"ListenAddress {HOST}:{self.port}",
            f"HostKey {self.place / 'host'}",
            f"AuthorizedKeysFile {self.place / 'user.pub'}",
            "PidFile none",
            "StrictModes no",  # a temporary directory is below one that everybody may write to
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
            "PermitUserRC no",
            "Subsystem sftp internal-sftp",
        ]

    def run(self, row: Row, source: Path) -> Run:
        """Copy the file to ourselves."""
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"]
        options += [f"UserKnownHostsFile={self.place / 'known'}"]
        command = [self.program, "-q", "-F", os.devnull, "-P", str(self.port)]
        command += ["-i", str(self.place / "user"), *(f"-o{option}" for option in options)]
        command += [str(source), f"{HOST}:{self.inbox}/"]
        return timed(command, self.log, source.stat().st_size)


TOOLS = (Md5sum, Dd, Bare, BareTls, Ours, OursTls, Rsync, Netcat, Scp)


def version(command: list[str]) -> str:
    """Return the first line a tool says about itself."""
    try:
        return quietly(command).strip().splitlines()[0]
    except (ToolError, IndexError) as error:
        return str(error) or "tells no version"


def rsync_hash() -> str:
    """Name the hash that rsync takes unless told otherwise: the first it lists."""
    with contextlib.suppress(ToolError):
        listed = re.search(r"Checksum list:\s+(\w+)", quietly(["rsync", "--version"]))
        return listed[1] if listed else "not told"
    return "none"


def versions() -> dict[str, str]:
    """Return what the tools say about themselves."""
    return {
        "md5sum": version(["md5sum", "--version"]),
        "rsync": f"{version(['rsync', '--version'])}, default hash: {rsync_hash()}",
        "nc": version(["nc", "-h"]),
        "scp": version(["ssh", "-V"]),
    }
