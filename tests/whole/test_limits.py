"""Rate limits on real connections."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import config
from client import send_files
from config import KB, MB
from lft.accounts.account import Accounts
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.server.shared_limit import SharedLimit
from protocol import CODEC_HELD, CODEC_ZLIB, IntegrityOk
from tests.support.accounts import PASSWORD, Serve, account
from tests.support.compressed import zeros
from tests.support.files import journal_bytes, md5, random_file
from tests.support.local import DEMO, StartLocal
from tests.support.processes import client_command, environment
from tests.support.rawpeer import RawClient, push
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
    one, same = login.bucket_of("u", 100_000), login.bucket_of("u", 100_000)
    assert one is same
    assert login.bucket_of("other", 100_000) is not one
    assert login.bucket_of("u", 200_000) is not one
    assert login.bucket_of("u", None) is None


def test_blocks_of_zeros_cost_a_limited_user_a_part_of_their_length(
    start_local: StartLocal,
) -> None:
    """A thousandth of them is sent, but the server unpacks, writes and hashes all."""
    held = Accounts({**DEMO, "user1": DEMO["user1"].replace(limit=config.LEAST_LIMIT)})
    with RawClient(start_local(lambda: held).port).log_in() as client:
        upload = client.start("x", bytes(4 * MB), 4 * MB)
        payload = zeros(CODEC_ZLIB, 4 * MB)
        block = upload.frame(0, payload=payload, codec=CODEC_ZLIB, raw_length=4 * MB)
        data = client.attach()
        push(data, block)
        upload.await_acks(data, 1)
        verdict = upload.complete()
    assert isinstance(verdict, IntegrityOk)
    paid = 1000 * 4 * MB / config.UNSENT_PER_BYTE / config.LEAST_LIMIT  # milliseconds
    assert verdict.limited > paid / 2
    assert len(payload) < 4 * MB / config.UNSENT_PER_BYTE / 8


def test_blocks_that_the_server_holds_cost_a_limited_user_a_part_of_their_length(
    start_local: StartLocal,
) -> None:
    """Nothing of them is sent, but the server reads and hashes all: over and over, if asked to."""
    accounts = [DEMO]
    local = start_local(lambda: accounts[0])
    content = os.urandom(4 * MB) + b"end"
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", content, 4 * MB)
        upload.send(client.attach(), 0)
    eventually(lambda: local.server.parts.in_use == 0)
    accounts[0] = Accounts({**DEMO, "user1": DEMO["user1"].replace(limit=config.LEAST_LIMIT)})
    with RawClient(local.port).log_in() as client:
        upload, data = client.start("x", content, 4 * MB, resume=True), client.attach()
        push(data, upload.frame(0, payload=b"", codec=CODEC_HELD, raw_length=4 * MB))
        upload.await_acks(data, 1)
        upload.send(data, 1)
        verdict = upload.complete()
    assert isinstance(verdict, IntegrityOk)
    assert verdict.limited > 1000 * 4 * MB / config.UNSENT_PER_BYTE / config.LEAST_LIMIT / 2


def test_users_have_equal_parts_of_the_servers_limit_however_many_streams_they_have(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sixteenth of the streams a user brings half of the bytes; a third at the least."""
    brought: Counter[str] = Counter()
    take = SharedLimit.take

    def count(limit: SharedLimit, user: str, size: float, streams: float) -> float:
        brought[user] += int(size)
        return take(limit, user, size, streams)

    monkeypatch.setattr(SharedLimit, "take", count)
    streams = {"many": 32, "few": 2}
    local = serve(dict.fromkeys(streams, account()), limit=2 * MB)
    source = random_file(tmp_path / "x", 40 * MB)
    variables = {**environment(), PASSWORD_VARIABLE: PASSWORD}
    with contextlib.ExitStack() as running:
        for user, number in streams.items():
            options = ("--user", user, "--streams", str(number), "--block-size", "50K", "--quiet")
            command = client_command(local.port, source, *options)
            client = running.enter_context(subprocess.Popen(command, env=variables))
            running.callback(client.kill)
        attached = local.server.registry.streams_of
        eventually(lambda: all(attached(one) == streams[one] for one in streams), "the streams")
        before = brought.copy()
        eventually(lambda: sum((brought - before).values()) > 8 * MB, "four seconds of the limit")
        assert (brought - before)["few"] > sum((brought - before).values()) / 3
