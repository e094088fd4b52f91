"""A server with its HTTP side."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.support.local import ServerThread, StartLocal
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
