"""The real server that the measuring scripts send to, and what they ask of it."""

from __future__ import annotations

import contextlib
import filecmp
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from config import KB
from lft.accounts.account import MIN_ITERATIONS, Accounts, Credential
from lft.accounts.file import save_credentials
from tests.bench.common import HOST, ToolError, receipt_in, timed, used_by
from tests.support.files import part_files, received, strays
from tests.support.processes import ROOT, SERVER, ServerProcess, status

PASSWORD = "a password"
CROWD_USER, USER = "crowd", "sender"
ACCOUNTS = dict.fromkeys((CROWD_USER, USER), MIN_ITERATIONS)  # no logins are measured
PATIENCE = 60.0  # seconds for a crowd to stand, or a server to recover
CONFIRMED_WITHIN = 5.0  # seconds for a server to hear that a client has read its verdict


class Sent(NamedTuple):
    """The seconds that a transfer took."""

    whole: float  # from the start of the client to its end
    receipt: float  # as the client tells them: from the announcement of the file to the verdict


class Server(ServerProcess):
    """A real server with accounts of its own; ``accounts`` says with how many iterations each."""

    def __init__(
        self,
        folder: Path,
        accounts: Mapping[str, int],
        *more: str,
        program: Sequence[str] = SERVER,
        errors: int | None = None,
        sees: str = "",
    ) -> None:
        """Start it with ``more`` options; ``errors`` is its standard error in place of a file.

        ``sees`` is its output directory, if that is elsewhere.
        """
        folder.mkdir()
        self._password = folder / "password"
        users = {name: Credential.make(PASSWORD, 0, count) for name, count in accounts.items()}
        self.accounts = Accounts(users).with_token_key(renew=True)
        save_credentials(folder / "users", self.accounts)
        self._password.write_text(PASSWORD)
        self._password.chmod(0o600)
        options = ["--grace", "0", "--credentials", str(folder / "users")]
        options += ["--log-level", "WARNING"]
        try:
            super().__init__(folder, *options, *more, program=program, errors=errors, sees=sees)
        except AssertionError:  # that it says where it listens
            self.kill()
            raise ToolError(f"the server does not start: {self.log}") from None
        except BaseException:  # we are told to end
            self.kill()
            raise

    @property
    def memory(self) -> int:
        """Bytes of memory it has now."""
        return status(self.process.pid, "VmRSS") * KB

    @property
    def files(self) -> int:
        """How many descriptors it has, without those of the history, which the first file opens."""
        return sum("/history" not in one for one in self._opened())

    def _opened(self) -> Iterator[str]:
        folder = f"/proc/{self.process.pid}/fd"
        for descriptor in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                yield os.readlink(f"{folder}/{descriptor}")

    def allow_files(self, most: int) -> None:
        """Let it have no more descriptors than that."""
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (most, most))

    def processor(self, seconds: float) -> float:
        """Return what part of one processor it takes in the next seconds."""
        before, began = self.used(), time.monotonic()
        time.sleep(seconds)
        return (self.used() - before) / (time.monotonic() - began)

    def used(self) -> float:
        """Return the seconds of a processor that it has used so far."""
        return used_by(self.process.pid)

    def client_options(self, user: str = USER) -> list[str]:
        """Return what a client needs beside its files."""
        options = ["--server", HOST, "--port", str(self.port), "--user", user]
        return [*options, "--password-file", str(self._password), "--json", "--quiet"]

    def transfer(self, source: Path, *options: str) -> Sent:
        """Send a file with a real client, see that it came, remove it. Raises ``ToolError``."""
        command = [sys.executable, str(ROOT / "client.py"), str(source), *self.client_options()]
        log = self.output.with_name("client")
        run = timed([*command, *options], log, source.stat().st_size)
        receipt = receipt_in(log.read_text(errors="replace"))
        self.check(source, receipt)
        return Sent(run.seconds, receipt["seconds"])

    def check(self, source: Path, receipt: dict[str, Any]) -> None:
        """Compare what came with what was sent, byte by byte; remove it. Raises ``ToolError``."""
        saved = self.output / receipt["saved_as"]
        if not filecmp.cmp(saved, source, shallow=False):
            raise ToolError(f"{saved.name} is not what was sent")
        saved.unlink()

    def settle(self, files: int) -> None:
        """Wait until a crowd is gone."""
        deadline = time.monotonic() + PATIENCE
        while self.files > files:
            if time.monotonic() > deadline:
                raise ToolError(f"{self.files} descriptors are left, {files} were there before")
            time.sleep(0.02)

    def _await_confirmation(self) -> None:
        """Give it a moment to hear that the last client has read its verdict.

        Until then it keeps what it has of the file, and without a grace period it does not wait.
        """
        deadline = time.monotonic() + CONFIRMED_WITHIN
        while part_files(self.output) and time.monotonic() < deadline:
            time.sleep(0.01)

    def end(self) -> None:
        """End it. Raises ``ToolError`` if it does not end well, or leaves something behind."""
        self._await_confirmation()
        code = self.stop()
        if code or "Traceback" in self.log:
            raise ToolError(f"the server ended with {code}: {self.log[-3000:]}")
        left = received(self.output) + strays(self.output) + part_files(self.output)
        if left:
            raise ToolError(f"the server leaves behind {left}")

    def kill(self) -> None:
        """End it at once, should it still run."""
        if not hasattr(self, "process"):
            return
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def server_at(
    folder: Path, accounts: Mapping[str, int] = ACCOUNTS, *more: str, **settings: Any
) -> Iterator[Server]:
    """Have a server for a while, made with ``settings``. Raises ``ToolError``."""
    server = Server(folder, accounts, *more, **settings)
    try:
        yield server
        server.end()
    finally:
        server.kill()
