"""The limits of users and of the server, for what goes out over HTTP as for what comes in."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lft.accounts.account import Accounts, Credential
from tests.support.local import ServerThread, StartLocal
from tests.support.tus import Tus
from tests.support.waiting import eventually
from tests.support.web import Browser, basic, web_port
from tests.web.conftest import WEB

RATE = 200 * 1024
DATA = os.urandom(RATE // 2)
ANN, BOB = basic("ann", "secret"), basic("bob", "secret")


@pytest.fixture(name="limited")
def _limited(start_local: StartLocal, tmp_path: Path) -> ServerThread:
    """A server where ann has a limit and bob has none, with a file of each."""
    one = Credential.make("secret", iterations=4096)
    users = Accounts({"ann": one.replace(directory="ann", limit=RATE),
                      "bob": one.replace(directory="bob")})  # fmt: skip
    site = start_local(lambda: users, http=WEB, credentials=tmp_path / "unused")
    for name in ("ann", "bob"):
        (site.output / name).mkdir()
        (site.output / name / "x").write_bytes(DATA)
    return site


def fetch(site: ServerThread, login: dict[str, str], path: str) -> float:
    """Fetch a file; return the seconds that took."""
    with Browser(web_port(site)) as browser:
        browser.get("/api/v1/server", login)  # the key of the password is derived
        began = time.monotonic()
        assert browser.get(f"/api/v1/files/{path}", login).body == DATA
    return time.monotonic() - began


def test_the_limit_of_a_user_holds_for_downloads_and_for_no_other_user(
    limited: ServerThread,
) -> None:
    """However many connections the user has: they share it."""
    with ThreadPoolExecutor(3) as pool:
        began = time.monotonic()
        both = [pool.submit(fetch, limited, ANN, "ann/x") for _ in range(2)]
        other = pool.submit(fetch, limited, BOB, "bob/x").result()
        assert all(one.result() for one in both)
        took = time.monotonic() - began
    assert took > 1.1 * len(DATA) / RATE  # more than one alone takes
    assert other < took / 2
    eventually(lambda: not limited.server.receiving.limits._moving, "both to be forgotten")


def test_what_comes_in_and_what_goes_out_share_the_limit_of_a_user(limited: ServerThread) -> None:
    """It is one limit, whichever way the bytes go."""
    with Browser(web_port(limited)) as browser, ThreadPoolExecutor(1) as pool:
        tus = Tus(browser, ANN)
        place, began = tus.create(len(DATA)), time.monotonic()
        down = pool.submit(fetch, limited, ANN, "ann/x")
        assert tus.patch(place, 0, DATA).status == 204
        down.result()
    assert time.monotonic() - began > 1.1 * len(DATA) / RATE  # more than one alone takes


def test_the_limit_of_the_server_holds_for_downloads(start_local: StartLocal) -> None:
    """For all users together."""
    site = start_local(http=WEB, limit=RATE)
    (site.output / "x").write_bytes(DATA)
    admin = basic("admin", "admin123")
    with Browser(web_port(site)) as browser:
        began = time.monotonic()
        assert browser.get("/api/v1/files/x", admin).body == DATA
    assert time.monotonic() - began > 0.5 * len(DATA) / RATE


def test_a_download_that_is_cut_shares_nothing_any_more(limited: ServerThread) -> None:
    """The others have its part of the limit then."""
    moving = limited.server.receiving.limits._moving
    with Browser(web_port(limited)) as browser:
        browser.send(b"GET /api/v1/files/ann/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: "
                     + ANN["Authorization"].encode() + b"\r\n\r\n")  # fmt: skip
        eventually(lambda: moving["ann"] == 1, "the download to begin")
    eventually(lambda: not moving, "the server to notice")
