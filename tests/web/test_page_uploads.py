"""Uploads from the page, in a real browser."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, Route, expect

import config
from config import KB, MB
from lft.accounts.account import Accounts, Credential
from tests.support.files import md5, part_files, random_file, received
from tests.support.local import ServerThread, StartLocal
from tests.support.pages import address_of, fresh_page, log_in
from tests.support.tus import UPLOADS, Tus
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Browser, web_port

WEB = ("localhost", 0)


@pytest.fixture
def upload(page: Page) -> Page:
    """The page with its part for uploads open."""
    page.click("a[href='#upload']")
    expect(page.locator("#upload")).to_be_visible()
    return page


def sha256(path: Path) -> str:
    """Return a file's digest, as uploads have it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def send_up_to(page: Page, source: Path, piece: int) -> list[Route]:
    """Choose a file; return once the ``piece``th piece is held, with all that are from there on."""
    held: list[Route] = []
    seen = itertools.count(1)

    def look(route: Route) -> None:
        if route.request.method == "PATCH" and next(seen) >= piece:
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/v1/uploads/*", look)
    page.set_input_files("#choose", source)
    while not held:
        page.wait_for_timeout(10)  # the browser's events come while its page waits
    return held


def test_several_files_arrive_each_piece_checked(
    upload: Page, site: ServerThread, tmp_path: Path
) -> None:
    """Also an empty one; each shows the digest of what arrived, and how it was proven."""
    sources = [random_file(tmp_path / "a.bin", 3 * MB), random_file(tmp_path / "b.bin", 700_000)]
    sources.append(random_file(tmp_path / "empty.bin", 0))
    upload.set_input_files("#choose", sources)
    for source in sources:
        item = upload.locator("#uploads li", has_text=source.name)
        expect(item).to_contain_text(sha256(source))
        expect(item).to_contain_text("each piece checked")
        expect(item.get_by_role("button", name="Copy digest", exact=True)).to_be_visible()
    assert sorted(map(md5, received(site.output))) == sorted(map(md5, sources))


def test_after_a_reload_the_same_file_goes_on(
    upload: Page, site: ServerThread, tmp_path: Path
) -> None:
    """It is chosen again; no byte that the server has is sent a second time."""
    source = random_file(tmp_path / "x.bin", 3 * MB)
    send_up_to(upload, source, piece=3)
    upload.reload()
    upload.unroute("**/api/v1/uploads/*")
    expect(upload.locator("#left")).to_contain_text("choose the file again")
    with upload.expect_request(lambda request: request.method == "PATCH") as first:
        upload.set_input_files("#choose", source)
    assert int(first.value.headers["upload-offset"]) > 0
    expect(upload.locator("#uploads")).to_contain_text(sha256(source))
    assert [md5(path) for path in received(site.output)] == [md5(source)]


def hold(page: Page, method: str) -> None:
    """Let requests of uploads with ``method`` wait for ever."""
    page.route(
        "**/api/v1/uploads/*",
        lambda route: None if route.request.method == method else route.continue_(),
    )


@pytest.fixture
def begun(site: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 3 MB, of which another client has sent 2.5 MB before it left."""
    monkeypatch.setattr(config, "UPLOAD_RESTS_AFTER", 0.0)
    source = random_file(tmp_path / "x.bin", 3 * MB)
    with Browser(web_port(site)) as other:
        tus = Tus(other, ADMIN)
        place = tus.create(source.stat().st_size, source.name)
        tus.patch(place, 0, source.read_bytes()[:2_500_000])
        eventually(lambda: other.get(UPLOADS, ADMIN).json()["uploads"][0]["state"] == "resting")
    return source


def test_an_upload_that_was_begun_elsewhere_goes_on(
    begun: Path, page: Page, site: ServerThread
) -> None:
    """The page lists it; the file, chosen here, is compared with what is there, and goes on."""
    page.click("a[href='#upload']")
    expect(page.locator("#left li")).to_contain_text("2.4 MB / 3 MB · choose the file again")
    assert Axe().run(page).violations_count == 0
    with page.expect_request(lambda request: request.method == "PATCH") as first:
        page.set_input_files("#choose", begun)
    assert first.value.headers["upload-offset"] == "2500000"
    expect(page.locator("#uploads")).to_contain_text(sha256(begun))
    expect(page.locator("#begun")).to_be_hidden()
    assert [md5(path) for path in received(site.output)] == [md5(begun)]


def test_another_file_of_the_same_name_and_size_goes_on_with_nothing(
    begun: Path, page: Page, site: ServerThread
) -> None:
    """A byte differs in what is there: it is sent from its start, and the other stays listed."""
    changed = bytearray(begun.read_bytes())
    changed[2_499_999] ^= 1
    begun.write_bytes(changed)
    page.click("a[href='#upload']")
    page.set_input_files("#choose", begun)
    expect(page.locator("#uploads")).to_contain_text(sha256(begun))
    assert [md5(path) for path in received(site.output)] == [md5(begun)]
    expect(page.locator("#left li")).to_have_count(1)


def test_an_upload_that_was_begun_elsewhere_is_cancelled(
    begun: Path, page: Page, site: ServerThread
) -> None:
    """In the list alone: to cancel a file that is still compared with it leaves it there."""
    page.click("a[href='#upload']")
    cancel = page.get_by_role("button", name="Cancel: x.bin", exact=True)
    hold(page, "HEAD")
    with page.expect_request(lambda request: request.method == "HEAD"):
        page.set_input_files("#choose", begun)
    page.locator("#uploads").get_by_role("button", name="Cancel").click()
    expect(page.locator("#uploads li")).to_have_count(0)
    assert len(part_files(site.output)) == 1
    cancel.click()
    expect(page.locator("#begun")).to_be_hidden()
    expect(page.locator("#choose")).to_be_focused()
    assert part_files(site.output) == []


def test_an_upload_that_another_client_sends_shows_how_far_it_is(
    page: Page, site: ServerThread
) -> None:
    """It is not offered to go on; once it has arrived it is not listed any more."""
    with Browser(web_port(site)) as other:
        tus = Tus(other, ADMIN)
        place = tus.create(2 * MB, "x.bin")
        tus.begin_patch(place, 2 * MB, b"x" * MB)
        page.click("a[href='#upload']")
        expect(page.locator("#left li")).to_contain_text("1 MB / 2 MB · being sent elsewhere")
        tus.browser.send(b"x" * MB)
        assert tus.browser.answer("PATCH").status == 204
        expect(page.locator("#begun")).to_be_hidden()


def test_the_page_hashes_as_everyone_does(page: Page) -> None:
    """Its own SHA-256, at each end of a block, in two pieces."""
    data = os.urandom(200)
    script = """([bytes, sizes]) => sizes.map((size) => {
        const hash = new Sha256(), data = Uint8Array.from(bytes.slice(0, size));
        hash.update(data.subarray(0, size >> 1));
        hash.update(data.subarray(size >> 1));
        return hash.hex();
    })"""
    sizes = [*range(200)]
    expected = [hashlib.sha256(data[:size]).hexdigest() for size in sizes]
    assert page.evaluate(script, [[*data], sizes]) == expected


def test_a_paused_upload_goes_on_where_it_was(
    upload: Page, site: ServerThread, tmp_path: Path
) -> None:
    """By the same button, which keeps the focus."""
    source = random_file(tmp_path / "x.bin", 2 * MB)
    send_up_to(upload, source, piece=2)
    upload.get_by_role("button", name="Pause: x.bin", exact=True).click()
    expect(upload.locator("#uploads")).to_contain_text("paused")
    expect(upload.get_by_role("button", name="Go on: x.bin", exact=True)).to_be_focused()
    upload.unroute("**/api/v1/uploads/*")
    with upload.expect_request(lambda request: request.method == "PATCH") as first:
        upload.keyboard.press("Enter")
    assert int(first.value.headers["upload-offset"]) > 0
    expect(upload.locator("#uploads")).to_contain_text(sha256(source))
    assert len(received(site.output)) == 1


def test_a_lost_connection_is_tried_again(upload: Page, tmp_path: Path) -> None:
    """The page says so meanwhile, and asks the server how far it is."""
    source = random_file(tmp_path / "x.bin", 2 * MB)
    held = send_up_to(upload, source, piece=2)
    held[0].abort()
    upload.unroute("**/api/v1/uploads/*")
    expect(upload.locator("#uploads")).to_contain_text("connection lost, trying again")
    expect(upload.locator("#uploads")).to_contain_text(sha256(source))


def test_a_damaged_piece_is_sent_again(upload: Page, site: ServerThread, tmp_path: Path) -> None:
    """Its checksum tells; what arrives is right."""
    source = random_file(tmp_path / "x.bin", 2 * MB)
    damaged: list[str] = []

    def damage(route: Route) -> None:
        if route.request.method != "PATCH" or damaged:
            route.continue_()
            return
        damaged.append(route.request.headers["upload-offset"])
        route.continue_(post_data=b"x" * int(route.request.headers.get("content-length", 262144)))

    upload.route("**/api/v1/uploads/*", damage)
    upload.set_input_files("#choose", source)
    expect(upload.locator("#uploads")).to_contain_text(sha256(source))
    assert damaged == ["0"]
    assert [md5(path) for path in received(site.output)] == [md5(source)]


def test_a_refused_file_shows_why(
    chromium: Chromium, start_local: StartLocal, tmp_path: Path
) -> None:
    """The others go on; its name is text, whatever is in it."""
    users = Accounts({"ann": Credential.make("secret", iterations=4096).replace(quota=600 * KB)})
    site = start_local(lambda: users, http=WEB, credentials=tmp_path / "unused")
    large = random_file(tmp_path / "<b>large.bin", 700 * KB)
    small = random_file(tmp_path / "small.bin", 1000)
    with fresh_page(chromium, address_of(site) + "#upload") as page:
        log_in(page, "ann", "secret")
        page.set_input_files("#choose", [large, small])
        expect(page.locator("#uploads li", has_text="<b>large.bin")).to_contain_text("quota")
        expect(
            page.get_by_role("button", name="Try again: <b>large.bin", exact=True)
        ).to_be_visible()
        expect(page.locator("#uploads li", has_text="small.bin")).to_contain_text(sha256(small))
        assert page.locator("#uploads b").count() == 0
        assert Axe().run(page).violations_count == 0
    assert len(received(site.output)) == 1


def test_a_cancelled_upload_leaves_nothing(
    upload: Page, site: ServerThread, tmp_path: Path
) -> None:
    """Neither in the page nor at the server."""
    source = random_file(tmp_path / "x.bin", 2 * MB)
    send_up_to(upload, source, piece=2)
    with upload.expect_response(lambda answer: answer.request.method == "DELETE") as deleted:
        upload.get_by_role("button", name="Cancel: x.bin", exact=True).click()
    assert deleted.value.status == 204
    expect(upload.locator("#uploads li")).to_have_count(0)
    upload.reload()
    upload.unroute("**/api/v1/uploads/*")
    expect(upload.locator("#upload")).to_be_visible()
    expect(upload.locator("#uploads li")).to_have_count(0)
    assert received(site.output) == []


def test_a_dropped_file_is_sent(page: Page, site: ServerThread) -> None:
    """Wherever in the page it is dropped; the part for uploads opens."""
    page.evaluate("""() => {
        const transfer = new DataTransfer();
        transfer.items.add(new File(["dropped"], "d.txt"));
        document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }""")
    expect(page.locator("#upload")).to_be_visible()
    expect(page.locator("#uploads")).to_contain_text(hashlib.sha256(b"dropped").hexdigest())
    assert [path.read_bytes() for path in received(site.output)] == [b"dropped"]
