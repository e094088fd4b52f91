"""The page, in a real browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.local import ServerThread
from tests.support.processes import ROOT, environment
from tests.support.waiting import PATIENCE
from tests.support.web import Browser, web_port

DATA = b"seen" * 1_000_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """One browser for all."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Chromium, site: ServerThread) -> Iterator[Page]:
    """A page of a user that has logged in."""
    one = chromium.new_page()
    errors: list[str] = []
    one.on("pageerror", lambda error: errors.append(str(error)))
    one.goto(f"http://localhost:{web_port(site)}/")
    one.fill("#name", "admin")
    one.fill("#password", "admin123")
    one.press("#password", "Enter")
    expect(one.locator("#dashboard")).to_be_visible()
    yield one
    one.close()
    assert errors == []


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
    """Login, dashboard, files and history."""
    for part in ("dashboard", "files", "history"):
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
