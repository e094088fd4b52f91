"""The fixtures that tests of several rooms use, and how a run ends."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

pytest.register_assert_rewrite("tests.support")  # only before it is imported

import config
from config import ServerSettings
from lft.accounts.account import Accounts, AccountSource, Credentials
from lft.accounts.file import save_credentials
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.store.paths import PARTIAL
from tests.support.accounts import VERIFIER, Serve
from tests.support.certificates import Pki, tls
from tests.support.files import open_descriptors, strays
from tests.support.local import DEMO, ServerThread, StartLocal
from tests.support.processes import ServerProcess, StartServer
from tests.support.scram import USERS
from tests.support.waiting import SleepClock, eventually


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a skipped test fail the gate: what is skipped there is shown nowhere."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo what a ``main`` that ran in this process did to the log."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start real servers; at the end they must stop cleanly and leave nothing unfinished."""
    started: list[ServerProcess] = []

    def start(*options: str, folder: str = "server", **how: Any) -> ServerProcess:
        (tmp_path / folder).mkdir(exist_ok=True)
        started.append(ServerProcess(tmp_path / folder, *options, **how))
        return started[-1]

    yield start
    left = [one for one in started if one.process.poll() is None]  # the others were killed
    codes = [one.stop() for one in started]
    for one, code in zip(started, codes):
        assert one not in left or code == 0, one.log
        assert "Traceback" not in one.log
    for one in left:  # once all have stopped: they may share a directory
        assert strays(one.output) == []


@pytest.fixture
def server(start_server: StartServer) -> ServerProcess:
    """One real server with demo accounts."""
    return start_server()


@pytest.fixture
def start_local(tmp_path: Path) -> Iterator[StartLocal]:
    """Start servers in threads; at the end threads, open files and strays must be gone."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    started: list[ServerThread] = []

    def start(accounts: AccountSource = lambda: DEMO, **changes: object) -> ServerThread:
        defaults: dict[str, object] = {"port": 0, "output": tmp_path / "output", "grace": 0.0}
        settings = ServerSettings(**{**defaults, **changes})  # type: ignore[arg-type]
        started.append(ServerThread(settings, accounts))
        return started[-1]

    yield start
    for one in started:
        one.stop()
        assert one.server.parts.in_use == 0
    for one in started:  # once all have stopped: they may share a directory
        assert strays(one.output) == []
    eventually(lambda: set(threading.enumerate()) <= threads, "the threads to end")
    eventually(lambda: open_descriptors() <= descriptors, "the files to be closed")


@pytest.fixture
def local(start_local: StartLocal) -> ServerThread:
    """One server in a thread."""
    return start_local()


@pytest.fixture
def credential_file(tmp_path: Path) -> Path:
    """Return the path of a credential file that does not exist yet."""
    return tmp_path / "credentials.json"


@pytest.fixture
def filled_file(credential_file: Path) -> Path:
    """Return the path of a credential file with one user."""
    save_credentials(credential_file, USERS)
    return credential_file


@pytest.fixture
def no_password_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of the machine's own decide: no variable set, no terminal to ask at."""
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """Return a file with a password."""
    path = tmp_path / "password"
    path.write_text("from file\n", encoding="utf-8")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output directory."""
    (tmp_path / PARTIAL).mkdir()
    return tmp_path


@pytest.fixture
def serve(start_local: StartLocal) -> Serve:
    """Start servers in threads, with accounts of the test's own."""

    def start(users: Credentials, **changes: Any) -> ServerThread:
        accounts = users if isinstance(users, Accounts) else Accounts(users)
        own: dict[str, Any] = {"credentials": Path("not the demo accounts"), **changes}
        return start_local(lambda: accounts, **own)

    return start


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let wrong logins cost no time."""
    for name in ("FREE_PAIR", "FREE_ADDRESS", "FREE_ACCOUNT"):
        monkeypatch.setattr(config, name, 1_000_000)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """One certificate authority for all tests."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def secure(start_local: StartLocal, pki: Pki) -> ServerThread:
    """One server in a thread that speaks TLS."""
    return start_local(**tls(pki.server))


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    """A credential file with alice in it."""
    path = tmp_path / "users.json"
    save_credentials(path, Accounts({"alice": VERIFIER}))
    return path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SleepClock:
    """A clock that moves when a test says so, or sleeps."""
    one = SleepClock()
    monkeypatch.setattr(time, "monotonic", one.monotonic)
    monkeypatch.setattr(time, "sleep", one.sleep)
    return one
