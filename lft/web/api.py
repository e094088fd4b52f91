"""The table of all routes."""

from __future__ import annotations

from typing import Iterator

from lft.web.files import Files
from lft.web.logins import Logins
from lft.web.router import Route
from lft.web.site import House, Site
from lft.web.status import Status
from lft.web.upload_routes import UploadRoutes
from lft.web.uploads import Uploads


def open_site(house: House) -> Site:
    """Build the HTTP side of a server (main)."""
    return Site(house, lambda site: list(_routes(site)))


def _routes(site: Site) -> Iterator[Route]:
    house = site.house
    yield from Status(house).routes()
    uploads = Uploads(
        house.settings.output, house.parts, house.lifecycle, house.receiving, house.verification
    )  # fmt: skip
    yield from UploadRoutes(uploads, house.login, house.settings.max_file_size).routes()
    output, root = house.settings.output, house.output.descriptor
    yield from Files(output, root, house.ledger.known, house.parts, house.admission).routes()
    yield from Logins(house.accounts, house.login, site.access, site.sessions).routes()
