"""Rate limits on real connections."""

from __future__ import annotations

import subprocess
from pathlib import Path

import config
from client import send_files
from config import KB, MB
from lft.accounts.account import Accounts
from tests.support.files import journal_bytes, md5, random_file
from tests.support.local import DEMO, StartLocal
from tests.support.processes import client_command, environment
from tests.support.waiting import eventually


def test_a_limited_user_holds_no_worker_up(start_local: StartLocal, tmp_path: Path) -> None:
    """The connection waits, the worker does not: the only one there is serves somebody else."""
    held = DEMO["user1"].replace(limit=config.LEAST_LIMIT)
    accounts = Accounts({**DEMO, "user1": held})
    local = start_local(lambda: accounts, workers=1)
    slow, fast = random_file(tmp_path / "slow", 20 * MB), random_file(tmp_path / "fast", 5 * MB)
    command = client_command(local.port, slow, "--quiet", "--block-size", "4K")
    with subprocess.Popen(command, env=environment()) as limited:
        eventually(lambda: journal_bytes(local.output) > KB, "the limited client to send")
        (receipt,) = send_files([fast], local.client(user="admin"))
        assert limited.poll() is None  # it would take five minutes
        limited.kill()
    assert md5(local.output / receipt.saved_as) == md5(fast)


def test_all_sessions_of_a_user_share_one_limit(start_local: StartLocal) -> None:
    """Whoever logs in twice does not get twice as much."""
    login = start_local().server.login
    one, same = login._bucket_of("u", 100_000), login._bucket_of("u", 100_000)
    assert one is same
    assert login._bucket_of("other", 100_000) is not one
    assert login._bucket_of("u", 200_000) is not one
    assert login._bucket_of("u", None) is None
