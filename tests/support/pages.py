"""The page in a real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.local import ServerThread
from tests.support.web import web_port


@contextlib.contextmanager
def chromium() -> Iterator[Chromium]:
    """Run a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def fresh_page(browser: Chromium, address: str, **options: Any) -> Iterator[Page]:
    """Open a page of a browser that knows nothing yet; no script of it may fail."""
    with contextlib.closing(browser.new_context(**options)) as context:
        one = context.new_page()
        errors: list[str] = []
        one.on("pageerror", lambda error: errors.append(str(error)))
        one.goto(address)
        yield one
    assert errors == []


def log_in(page: Page, user: str = "admin", password: str = "admin123") -> None:
    """Log in by the form."""
    page.fill("#name", user)
    page.fill("#password", password)
    page.press("#password", "Enter")
    expect(page.locator("#nav")).to_be_visible()


def address_of(server: ServerThread) -> str:
    """Return where its page is."""
    return f"http://localhost:{web_port(server)}/"
