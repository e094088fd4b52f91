"""The uploads that a user has begun: listed, and recognised by what is here of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

import config
from tests.support.local import ServerThread, StartLocal
from tests.support.tus import UPLOADS, USER1, Tus, checksum
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Browser, web_port
from tests.web.conftest import WEB

DATA = os.urandom(500_000)


@pytest.fixture(name="tus")
def _tus(browser: Browser) -> Tus:
    return Tus(browser)


def listed(tus: Tus) -> list[dict[str, Any]]:
    """Return the uploads of a client's user."""
    answer = tus.browser.get(UPLOADS, tus.fields)
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json()["uploads"]
    return found


def digest(tus: Tus, place: str) -> str:
    """Return the digest of what is here of an upload."""
    return tus.ask("HEAD", place).fields["lft-digest"]


def sha256(data: bytes) -> str:
    """Return a digest as the server says it."""
    return f"sha256 {hashlib.sha256(data).hexdigest()}"


def test_uploads_that_are_not_finished_are_listed(tus: Tus) -> None:
    """By name, with what has come; one that is finished or given up is not."""
    place, other = tus.create(len(DATA), "b.bin"), tus.create(9, "a.bin")
    tus.patch(place, 0, DATA[:300_000])
    tus.patch(tus.create(len(DATA), "whole.bin"), 0, DATA)
    assert tus.ask("DELETE", tus.create(5, "given up.bin")).status == 204
    assert [(one["href"], one["name"], one["size"], one["received"]) for one in listed(tus)] == [
        (other, "a.bin", 9, 0), (place, "b.bin", len(DATA), 300_000),
    ]  # fmt: skip


def test_each_user_sees_its_own_uploads_alone(tus: Tus, browser: Browser) -> None:
    """Whatever else the other may see: only its own client can go on with one."""
    tus.create(9, "mine.bin")
    assert len(listed(tus)) == 1
    assert listed(Tus(browser, ADMIN)) == []
    assert browser.get(UPLOADS).status == 401


def test_an_upload_that_is_being_sent_is_told_from_one_that_waits(
    site: ServerThread, tus: Tus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives as long as bytes of a request come, and a little longer."""
    monkeypatch.setattr(config, "UPLOAD_RESTS_AFTER", 0.1)
    place = tus.create(len(DATA))
    with Browser(web_port(site)) as other:
        Tus(other).begin_patch(place, len(DATA), DATA[:250_000])
        eventually(lambda: [one["received"] for one in listed(tus)] == [250_000])
        assert [one["state"] for one in listed(tus)] == ["arriving"]
    eventually(lambda: [one["state"] for one in listed(tus)] == ["resting"])


def test_what_only_the_store_knows_is_listed(start_local: StartLocal, tmp_path: Path) -> None:
    """After a restart: as far as whole blocks are in the journal."""
    first = start_local(http=WEB, output=tmp_path / "o")
    with Browser(web_port(first)) as browser:
        place = Tus(browser).create(len(DATA), "x.bin")
        Tus(browser).patch(place, 0, DATA[:450_000])
    first.stop()
    with Browser(web_port(start_local(http=WEB, output=tmp_path / "o"))) as browser:
        (one,) = listed(Tus(browser))
        assert one == {
            "id": place.rpartition("/")[2], "href": place, "name": "x.bin", "size": len(DATA),
            "received": 2 * config.BLOCK_SIZE, "state": "resting",
        }  # fmt: skip
        assert digest(Tus(browser), place) == sha256(DATA[: 2 * config.BLOCK_SIZE])


def test_the_offset_comes_with_the_digest_of_what_is_here(tus: Tus) -> None:
    """In the middle of a block, too; with it a client sees whether its file begins so."""
    place = tus.create(len(DATA))
    assert digest(tus, place) == sha256(b"")
    for start, end in ((0, 70_000), (70_000, 204_800), (204_800, 450_001)):
        tus.patch(place, start, DATA[start:end])
        assert digest(tus, place) == sha256(DATA[:end])
    wrong = tus.patch(place, 450_001, b"?" * 10, **checksum(b"!" * 10))
    assert wrong.status == 460
    assert digest(tus, place) == sha256(DATA[:450_001])
    tus.patch(place, 450_001, DATA[450_001:])
    assert digest(tus, place) == sha256(DATA)


def test_the_digest_is_of_the_kind_that_the_client_chose(tus: Tus) -> None:
    """With a digest of the whole file it begins by that one's algorithm."""
    place = tus.create(len(DATA), md5=hashlib.md5(DATA).hexdigest())
    tus.patch(place, 0, DATA[:300_000])
    assert digest(tus, place) == f"md5 {hashlib.md5(DATA[:300_000]).hexdigest()}"
    assert tus.browser.ask("HEAD", place, USER1).status == 412  # only a client of tus hears it
