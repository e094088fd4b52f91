"""The page, in a real browser."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from client import send_files
from tests.support.certificates import Pki, tls
from tests.support.local import ServerThread, StartLocal
from tests.support.pages import address_of, fresh_page, log_in
from tests.support.processes import ROOT, environment
from tests.support.waiting import PATIENCE, eventually
from tests.support.web import Browser, web_port

DATA = b"seen" * 1_000_000
PARTS = ("dashboard", "files", "upload", "history")
HISTORY = "api/v1/history"


def test_a_file_that_arrives_shows_in_verdicts_files_and_history(
    page: Page, site: ServerThread, tmp_path: Path
) -> None:
    """Its name is markup, and shows as text; what is downloaded is what was sent."""
    name = "<img src=x onerror=alert(1)>.bin"
    (tmp_path / name).write_bytes(DATA)
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text("admin123")
    command = [
        sys.executable, str(ROOT / "client.py"), str(tmp_path / name), "--port", str(site.port),
        "--user", "admin", "--password-file", str(secret), "--limit", "2M",
    ]  # fmt: skip
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as client:
        expect(page.locator("#running progress[value]")).to_have_attribute("aria-label", name)
        assert client.wait(PATIENCE) == 0
    expect(page.locator("#verdicts")).to_contain_text(name)
    page.click("a[href='#history']")
    expect(page.locator("#past")).to_contain_text(name)
    page.click("a[href='#files']")
    with page.expect_download() as download:
        page.click("#entries a")
    assert Path(download.value.path()).read_bytes() == DATA
    assert page.locator("img").count() == 0


def test_no_page_breaks_a_rule_of_axe(page: Page) -> None:
    """Login, dashboard, files, upload and history."""
    for part in PARTS:
        page.click(f"a[href='#{part}']")
        expect(page.locator(f"#{part}")).to_be_visible()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.click("#logout")
    expect(page.locator("#login")).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_browser_that_has_a_file_of_the_page_gets_no_second(browser: Browser) -> None:
    """The tag says so; nothing within the page may run."""
    first = browser.get("/page/page.js")
    assert first.fields["content-type"].startswith("text/javascript")
    assert "unsafe" not in first.fields["content-security-policy"]
    assert browser.get("/page/page.js", {"If-None-Match": first.fields["etag"]}).status == 304
    assert browser.get("/page/../page.py").status == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_phone_width_nothing_scrolls_sideways(
    chromium: Chromium, site: ServerThread, scheme: str
) -> None:
    """Every part can be read, in both schemes, also with a name that is long."""
    look = {"viewport": {"width": 380, "height": 800}, "color_scheme": scheme}
    (site.output / f"server_received_{'long' * 40}.bin").write_bytes(b"x")
    with fresh_page(chromium, address_of(site), **look) as page:
        log_in(page)
        for part in PARTS:
            page.click(f"a[href='#{part}']")
            expect(page.locator(f"#{part}")).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert not wide, part
            assert Axe().run(page).violations_count == 0, part


def test_all_is_reached_by_keyboard(chromium: Chromium, site: ServerThread) -> None:
    """From the login to each part, with Tab and Enter alone."""
    with fresh_page(chromium, address_of(site)) as page:
        expect(page.locator("#name")).to_be_focused()
        page.keyboard.type("admin")
        page.keyboard.press("Tab")
        page.keyboard.type("admin123")
        page.keyboard.press("Enter")
        expect(page.locator("#dashboard")).to_be_visible()
        for part in PARTS:
            while page.evaluate("document.activeElement.hash") != f"#{part}":
                page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            expect(page.locator(f"#{part}")).to_be_visible()
            page.evaluate("document.activeElement.blur()")


def test_a_hidden_tab_has_no_stream_of_events(page: Page) -> None:
    """It ends when the tab is hidden, and begins anew when it is seen again."""
    with page.expect_request("**/api/v1/events") as again:
        with page.expect_event("requestfailed", lambda one: one.url.endswith("/events")):
            _hide(page, hidden=True)
        _hide(page, hidden=False)
    assert again.value.method == "GET"


def _hide(page: Page, *, hidden: bool) -> None:
    script = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(script, hidden)


def test_a_lost_stream_comes_back_by_itself(chromium: Chromium, site: ServerThread) -> None:
    """The page says that the connection is lost, for as long as it is."""
    with fresh_page(chromium, address_of(site)) as page:
        page.route("**/api/v1/events", lambda route: route.abort())
        log_in(page)
        expect(page.locator("#message")).to_contain_text("trying again")
        page.unroute("**/api/v1/events")
        expect(page.locator("#message")).to_be_empty(timeout=20_000)


def test_a_page_of_a_server_that_was_started_anew_asks_for_the_password(
    chromium: Chromium, start_local: StartLocal
) -> None:
    """A login does not outlive its server; with the password the page goes on."""
    first = start_local(http=("localhost", 0))
    port = web_port(first)
    with fresh_page(chromium, address_of(first)) as page:
        log_in(page)
        first.stop()
        start_local(http=("localhost", port))
        expect(page.locator("#login")).to_be_visible(timeout=20_000)
        log_in(page)
        expect(page.locator("#dashboard")).to_be_visible()


def test_the_page_works_over_tls(
    chromium: Chromium, start_local: StartLocal, pki: Pki, tmp_path: Path
) -> None:
    """Login, stream and upload; its cookie goes over TLS only."""
    site = start_local(http=("localhost", 0), **tls(pki.server))
    address = address_of(site).replace("http:", "https:")
    (tmp_path / "x.bin").write_bytes(DATA)
    with fresh_page(chromium, address, ignore_https_errors=True) as page:
        log_in(page)
        page.click("a[href='#upload']")
        page.set_input_files("#choose", tmp_path / "x.bin")
        expect(page.locator("#uploads")).to_contain_text(hashlib.sha256(DATA).hexdigest())
        assert [one["secure"] for one in page.context.cookies()] == [True]


def test_a_browser_that_wants_portuguese_gets_it(chromium: Chromium, site: ServerThread) -> None:
    """All words: none of the page's own is left in English."""
    with fresh_page(chromium, address_of(site), locale="pt-PT") as page:
        expect(page.locator("html")).to_have_attribute("lang", "pt")
        log_in(page)
        expect(page.locator("nav")).to_contain_text("Painel")
        words = page.evaluate("""() => [...document.querySelectorAll("[data-word]")]
            .map((one) => one.dataset.word)""")
        scripts = (ROOT / "lft" / "web" / "page").glob("*.js")
        words += [
            word for one in scripts for word in re.findall(r'say\("(.+?)"\)', one.read_text())
        ]
        assert len(words) > 40
        assert page.evaluate("words => words.filter((one) => !(one in PORTUGUESE))", words) == []


def test_the_history_shows_what_is_asked_for(
    page: Page, site: ServerThread, tmp_path: Path
) -> None:
    """By words in the name, outcome and user; the table of the same as CSV."""
    for name in ("one.bin", "two.bin"):
        (tmp_path / name).write_bytes(b"x")
        send_files([tmp_path / name], site.client())
    eventually(lambda: page.request.get(address_of(site) + HISTORY).json()["entries"][1:])
    page.click("a[href='#history']")
    expect(page.locator("#past li")).to_have_count(2)
    page.fill("#q", "two")
    page.fill("#who", "user1")
    page.select_option("#outcome", "received")
    page.press("#q", "Enter")
    expect(page.locator("#past li")).to_have_count(1)
    with page.expect_download() as download:
        page.click("#csv")
    table = Path(download.value.path()).read_text().splitlines()
    assert len(table) == 2
    assert "two.bin" in table[1]
    page.fill("#who", "nobody")
    page.press("#who", "Enter")
    expect(page.locator("#past")).to_contain_text("nothing here")


def test_a_user_that_sees_only_its_own_is_asked_for_no_user(
    chromium: Chromium, site: ServerThread
) -> None:
    """What it cannot choose is not offered."""
    with fresh_page(chromium, address_of(site) + "#history") as page:
        log_in(page, "user1", "password1")
        expect(page.locator("#history")).to_be_visible()
        expect(page.locator("#who")).to_be_hidden()
