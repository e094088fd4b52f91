"""HAProxy as the documents configure it, before real servers of a test."""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE, eventually

CONFIGURATION = ROOT / ".github" / "deploy" / "haproxy.cfg"
SEND = "send-proxy-v2"  # of its ``default-server``: how it tells a server who its client is


class HAProxy:
    """HAProxy with the configuration of the documents, and the addresses of a test.

    It listens on a socket that the test has opened, so that no port is ever guessed.
    """

    def __init__(
        self, *servers: int | str, send: str = SEND, changes: dict[str, str] | None = None
    ) -> None:
        """Start it before ``servers``: ports on 127.0.0.1, or ``HOST:PORT``.

        ``send`` is how clients are told: ``send-proxy-v2``, ``send-proxy``, or "" for not at all.
        ``changes`` are texts of the configuration and what stands in their place.
        """
        self.servers = [
            f"127.0.0.1:{place}" if isinstance(place, int) else place for place in servers
        ]
        self._folder = tempfile.TemporaryDirectory(prefix="lft-")  # short: for the path of a socket
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        text = self._configuration(send, changes or {})
        file = Path(self._folder.name, "haproxy.cfg")
        file.write_text(text, encoding="utf-8")
        self._log = Path(self._folder.name, "log")
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(file)], stdout=log, stderr=subprocess.STDOUT,
                pass_fds=[self._listener.fileno()],
            )  # fmt: skip
        try:
            eventually(self._answers, "HAProxy to start")
        except BaseException:
            self.__exit__()
            raise

    def _configuration(self, send: str, changes: dict[str, str]) -> str:
        text = CONFIGURATION.read_text(encoding="utf-8")
        text = re.sub(r"\n +server .*", "", text)
        for before, after in {SEND: send, "bind :4455": self._bind, **changes}.items():
            assert before in text, before
            text = text.replace(before, after)
        places = (f"    server s{n} {place}" for n, place in enumerate(self.servers, 1))
        statistics = f"global\n    stats socket {self._control} level admin"
        return text.replace("global", statistics, 1).rstrip() + "\n" + "\n".join(places) + "\n"

    @property
    def _bind(self) -> str:
        return f"bind fd@{self._listener.fileno()}"

    @property
    def _control(self) -> Path:
        return Path(self._folder.name, "control")

    def __enter__(self) -> HAProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._listener.close()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What it has logged: a line for each connection that has ended, and for each change."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def ask(self, command: str) -> str:
        """Return what it answers to a command (its management guide, "Unix Socket commands")."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self._control))
            sock.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return "Version" in self.ask("show info")
        except (FileNotFoundError, ConnectionRefusedError):  # not made, or not listening yet
            return False

    def states(self) -> list[str]:
        """Return the state of each server, such as ``UP`` and ``DOWN``."""
        rows = [line.split(",") for line in self.ask("show stat").splitlines()]
        status = rows[0].index("status")
        found = {row[1]: row[status] for row in rows if row[0] == "servers"}
        return [found[f"s{number}"] for number in range(1, len(self.servers) + 1)]

    def counts(self) -> list[int]:
        """Return how many connections go through it to each server now."""
        rows = [line.split(",") for line in self.ask("show stat").splitlines()]
        current = rows[0].index("scur")
        found = {row[1]: int(row[current]) for row in rows if row[0] == "servers"}
        return [found[f"s{number}"] for number in range(1, len(self.servers) + 1)]

    def await_states(self, *states: str) -> None:
        """Wait until the servers are in these states."""
        eventually(lambda: self.states() == list(states), f"{states}, not {self.states()}")
