"""The server under test, and the checks after each round."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from config import KB, MB
from lft.accounts.account import MIN_ITERATIONS, Accounts, Credential
from lft.accounts.file import save_credentials
from lft.accounts.tokens import make_token
from lft.wire.tls import certificate_binding, client_tls
from protocol import IntegrityOk
from tests.support.certificates import Pki, tls_options
from tests.support.files import strays
from tests.support.processes import ROOT, client_command, environment, status
from tests.support.rawpeer import Peer
from tests.tools.enemies import TOKEN_LIFE, enemies_at
from tests.tools.enemies import Target as EnemyTarget
from tests.tools.fuzzing.counting import Counts
from tests.tools.fuzzing.words import (
    CONTENTS,
    ENEMY,
    NORMAL,
    PASSWORD,
    SETTLE,
    TOKEN_USER,
    USERS,
    ViolationError,
)

WORKERS = 10
LARGEST = 2 * MB  # the server takes no larger file: a wild size must not fill the disk
MOST_MEMORY = 400 * KB  # in KB: the buffers the server may keep, a few blocks, and Python
MOST_ASKED = 1900 * KB  # in KB: what it may ask for, used or not; each thread's heap asks for 64 MB
SIEGE = 0.5  # seconds of enemies beside a normal transfer, and after it
# How many there are of each kind; KeyUpdates where TLS is spoken.
ENEMIES = {"silent": 100, "headers": 2, "halves": 2, "expired": 3}
SECURE_ENEMIES = {"updates": 2, "drops": 2, "insiders": 2}
CLIENT_EVERY = 75  # rounds after which client.py does the normal transfer; odd: of both servers


class Target:
    """A real server process with its accounts, and what can be said about its health."""

    def __init__(self, folder: Path, *, secure: bool) -> None:
        folder.mkdir()
        pki = Pki(folder)
        self.name, self.secure = folder.name, secure
        self._ca = pki.ca if secure else None
        self.context, self.binding = (
            client_tls(pki.ca),
            certificate_binding(pki.server.cert),
        )
        self.heard: collections.Counter[str] = collections.Counter()
        self.kinds = {**ENEMIES, **(SECURE_ENEMIES if secure else {})}
        self.enemies: collections.Counter[str] = collections.Counter()
        self.rounds = self.messages = 0
        self.output, self._log, self._counts = (
            folder / "output", folder / "server.log", folder / "counts"
        )  # fmt: skip
        self._folder = folder
        self.jwt = self._make_accounts(folder / "users")
        program = str(ROOT / "tests" / "tools" / "fuzz.py")
        command = [sys.executable, program, "--serve", str(self._counts)]
        command += ["--port", "0", "--output", str(self.output), "--workers", str(WORKERS)]
        command += ["--credentials", str(folder / "users"), "--max-file-size", str(LARGEST)]
        command += ["--grace", "0", *(tls_options(pki.server) if secure else [])]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(),
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first.startswith("Listening on "):
            raise ViolationError(f"the server does not start: {self._log.read_text()}")
        self.port = int(first.rpartition(":")[2])
        self._read = 0  # bytes of the log that were looked at
        self._known = {content.digest for content in CONTENTS}
        self._checked: set[Path] = set()
        self._transfer(0)
        self._await(self._keeps_history, "writing the history, which has files open from then on")
        self._files, self._threads = self._open_files(), self._count_threads()

    def _make_accounts(self, path: Path) -> str:
        users = {
            name: Credential.make(PASSWORD, at % 3, MIN_ITERATIONS)
            for at, name in enumerate([*USERS, NORMAL, TOKEN_USER, ENEMY])
        }
        self._accounts = accounts = Accounts(users).with_users(users).with_token_key(renew=True)
        save_credentials(path, accounts)
        (self._folder / "password").write_text(PASSWORD)
        (self._folder / "password").chmod(0o600)
        return make_token(accounts, TOKEN_USER, 86400)

    def _keeps_history(self) -> bool:
        """Return whether it has the database open, its log and their index."""
        folder = f"/proc/{self._process.pid}/fd"
        with contextlib.suppress(FileNotFoundError):  # another one is closed just now
            files = [os.readlink(f"{folder}/{one}") for one in os.listdir(folder)]
            return sum(Path(one).name.startswith("history.sqlite") for one in files) == 3
        return False

    def _open_files(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def _count_threads(self) -> int:
        return status(self._process.pid, "Threads")

    def check(self, number: int) -> None:
        """See that the server is as it was. Raises ``ViolationError``."""
        self._await(lambda: self._process.poll() is None, "alive")
        self._await(lambda: self._open_files() <= self._files, "back to its open files")
        self._await(lambda: self._count_threads() <= self._threads, "back to its threads")
        self._await(lambda: not strays(self.output), "without strays")
        self._await(self._rests, "at rest")
        self._check_log()
        self._check_published()
        for kind, most in (("VmHWM", MOST_MEMORY), ("VmPeak", MOST_ASKED)):
            if status(self._process.pid, kind) > most:
                raise ViolationError(f"memory: {kind} {status(self._process.pid, kind)} KB")
        self._transfer(number)

    def besiege(self, kind: str, number: int) -> None:
        """Have enemies beside a normal transfer; see that the server is as it was afterwards.

        Raises ``ViolationError``.
        """
        expires = kind == "expired"
        password = make_token(self._accounts, ENEMY, TOKEN_LIFE) if expires else PASSWORD
        foe = EnemyTarget(self.port, ENEMY, password, self._ca)
        try:
            with enemies_at(kind, self.kinds[kind], foe) as seen:
                self._transfer(number)
                time.sleep(SIEGE)
        except OSError as error:
            raise ViolationError(str(error)) from None
        if seen["taken"]:
            raise ViolationError("a session outlived its token")
        self.check(number)
        self.enemies[kind] += 1

    def _rests(self) -> bool:
        """Whether all its threads sleep, several times in a row: else one may turn in circles."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        return all(
            b") S " in (task / "stat").read_bytes() for _ in range(5) for task in tasks.iterdir()
        )

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SETTLE
        while not condition():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise ViolationError(f"the server is not {what}: {self._describe()}")
            time.sleep(0.01)

    def _describe(self) -> str:
        if self._process.poll() is not None:
            return f"it ended with {self._process.returncode}"
        names = sorted(path.name for path in strays(self.output))
        return (f"{self._open_files()} open files ({self._files} before), "
                f"{status(self._process.pid, 'Threads')} threads, strays {names}")  # fmt: skip

    def _check_log(self) -> None:
        with open(self._log, "rb") as file:
            file.seek(self._read)
            text = file.read()
            self._read = file.tell()
        for bad in (b"Traceback", b"internal error", b"a unit of work failed"):
            if bad in text:
                where = text.index(bad)
                said = text[max(0, where - 200) : where + 3000].decode("utf-8", "replace")
                raise ViolationError(f"the server's log says: {said}")
        if re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", text):
            raise ViolationError("a control character reached the server's log")

    def _check_published(self) -> None:
        for path in set(self.output.glob("server_received_*")) - self._checked:
            if hashlib.md5(path.read_bytes()).hexdigest() not in self._known:
                raise ViolationError(f"published, but nobody's file: {path.name}")
            self._checked.add(path)

    def _transfer(self, number: int) -> None:
        """Send a file as one should. Raises ``ViolationError`` if it does not arrive."""
        data = random.Random(number).getrandbits(8 * 50_000).to_bytes(50_000, "big")
        self._known.add(hashlib.md5(data).hexdigest())
        by_client = number % CLIENT_EVERY == CLIENT_EVERY - 1
        try:
            place = self._by_client(data) if by_client else self._by_hand(data)
        except Exception as error:
            raise ViolationError(f"a normal transfer fails: {error!r}") from error
        if (self.output / place).read_bytes() != data:
            raise ViolationError("a normal transfer arrives changed")

    def _by_hand(self, data: bytes) -> str:
        with Peer(self.port, ca=self._ca) as raw:
            raw.log_in(NORMAL, PASSWORD)
            first, second = raw.attach(), raw.attach()
            upload = raw.start("normal.bin", data, 8 * KB)
            upload.send(first, 0, 2, 4, 6)
            upload.send(second, 1, 3, 5)
            answer = upload.complete()
            assert isinstance(answer, IntegrityOk), answer
            return answer.saved_as

    def _by_client(self, data: bytes) -> str:
        source = self._folder / "normal.bin"
        source.write_bytes(data)
        options = ["--user", NORMAL, "--password-file", str(self._folder / "password"), "--json"]
        options += ["--ca", str(self._ca)] if self._ca else []
        done = subprocess.run(
            client_command(self.port, source, *options),
            check=True, capture_output=True, text=True, timeout=60, env=environment(),
        )  # fmt: skip
        return str(json.loads(done.stdout)["saved_as"])

    def stop(self) -> Counts:
        """End it; return which states it was talked to in. Raises ``ViolationError``."""
        self.kill(signal.SIGTERM)
        if self._process.returncode:
            raise ViolationError(f"the server ended with {self._process.returncode}")
        self._check_log()
        if not self._counts.exists():
            raise ViolationError("the server ended without its workers")
        counts: Counts = json.loads(self._counts.read_text())
        return counts

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it anyhow."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(SETTLE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
