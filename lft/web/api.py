"""The table of all routes."""

from __future__ import annotations

from typing import Iterator

from lft.web.logins import Logins
from lft.web.router import Route
from lft.web.site import House, Site
from lft.web.status import Status


def open_site(house: House) -> Site:
    """Build the HTTP side of a server (main)."""
    return Site(house, lambda site: list(_routes(site)))


def _routes(site: Site) -> Iterator[Route]:
    house = site.house
    yield from Status(house).routes()
    yield from Logins(house.accounts, house.login, site.access, site.sessions).routes()
