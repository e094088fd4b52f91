"""Rate limits: the bucket's arithmetic, whom it belongs to, and that nobody else waits for it."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from conftest import (
    StartLocal,
    client_command,
    environment,
    eventually,
    journal_bytes,
    md5,
    random_file,
)

import auth
import config
import protocol
from client import Patience, Progress, Session, send_files
from config import KB, MB, ClientSettings
from protocol import TokenBucket


class Clock:
    """The time, as far as a bucket is concerned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until somebody moves it."""
    one = Clock()
    monkeypatch.setattr(protocol, "time", one)
    return one


def test_a_bucket_lets_its_rate_pass_however_many_take_from_it(clock: Clock) -> None:
    """Each stays away for as long as it is told; ten seconds carry ten seconds' bytes."""
    bucket, passed = TokenBucket(1000), 0
    until = [clock.now] * 8
    end = clock.now + 10
    while min(until) < end:
        who = until.index(min(until))
        clock.now = max(clock.now, until[who])
        until[who] = clock.now + bucket.take(100)
        passed += 100
    assert 10_000 <= passed <= 10_000 * 1.05 + len(until) * 100


def test_a_pause_is_made_up_for_only_in_part(clock: Clock) -> None:
    """An hour of silence does not allow an hour's bytes at once."""
    bucket = TokenBucket(1000)
    clock.now += 3600
    assert bucket.take(int(1000 * config.BURST)) == pytest.approx(0.0)
    assert bucket.take(1000) == pytest.approx(1.0)


def test_a_limited_user_holds_no_worker_up(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection waits, the worker does not: the only one there is serves somebody else."""
    accounts = dict(auth.demo_credentials())
    accounts["user1"] = dataclasses.replace(accounts["user1"], limit=config.LEAST_LIMIT)
    monkeypatch.setattr(auth, "demo_credentials", lambda: accounts)
    local = start_local(workers=1)
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
    service = start_local().server._service
    one, same = service._bucket_of("u", 100_000), service._bucket_of("u", 100_000)
    assert one is same
    assert service._bucket_of("other", 100_000) is not one
    assert service._bucket_of("u", 200_000) is not one
    assert service._bucket_of("u", None) is None


def test_a_low_limit_makes_blocks_small() -> None:
    """With 4 streams a second's bytes are a block for each: acknowledgements keep coming."""
    for limit, size in ((16 * KB, 4 * KB), (1024, 4 * KB), (100 * KB, 25 * KB), (MB, 200 * KB)):
        settings = ClientSettings(limit=limit)
        with_limit = Session(settings, Progress(), Patience(settings))
        assert with_limit.block_size(MB) == size
        with_limit.close()
