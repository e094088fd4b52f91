"""A server with its HTTP side."""

from __future__ import annotations

from typing import Iterator

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from tests.support.local import ServerThread, StartLocal
from tests.support.pages import address_of, chromium, fresh_page, log_in
from tests.support.web import Browser, web_port

WEB = ("localhost", 0)


@pytest.fixture
def site(start_local: StartLocal) -> ServerThread:
    """One server in a thread, with an HTTP side."""
    return start_local(http=WEB)


@pytest.fixture
def browser(site: ServerThread) -> Iterator[Browser]:
    """One connection to it."""
    with Browser(web_port(site)) as one:
        yield one


@pytest.fixture(scope="module", name="chromium")
def one_chromium() -> Iterator[Chromium]:
    """One browser for all tests of a file."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium: Chromium, site: ServerThread) -> Iterator[Page]:
    """A page of a user that has logged in."""
    with fresh_page(chromium, address_of(site)) as one:
        log_in(one)
        yield one
