"""The table of all routes."""

from __future__ import annotations

from typing import Iterator

import config
from lft.web.events import Events
from lft.web.feed import Feed
from lft.web.files import Files
from lft.web.history import Past
from lft.web.logins import Logins
from lft.web.metrics import Metrics
from lft.web.overview import Overview
from lft.web.page import Page
from lft.web.router import Route
from lft.web.site import House, Site
from lft.web.status import Status
from lft.web.transfers import Transfers
from lft.web.upload_routes import UploadRoutes
from lft.web.uploads import Uploads


def open_site(house: House) -> Site:
    """Build the HTTP side of a server; it begins to look at transfers (main)."""
    overview, events = Overview(house.admission), Events(house.accounts)
    feed = Feed(overview, events, house.connections, house.work, house.loop)
    house.loop.every(config.EVENTS_EVERY, feed.tick)
    site = Site(house, events, lambda site: list(_routes(site, overview)))
    house.ledger.watch(events.tell_outcome)
    house.ledger.watch(site.counts.count_outcome)
    return site


def _routes(site: Site, overview: Overview) -> Iterator[Route]:
    house = site.house
    yield from Transfers(house.lifecycle, overview).routes()
    yield from site.events.routes()
    yield from Past(house.ledger.history).routes()
    yield from Metrics(house, site.counts).routes()
    yield from Status(house).routes()
    yield from Page().routes()
    uploads = Uploads(
        house.settings.output, house.parts, house.lifecycle, house.receiving, house.limits,
        house.verification,
    )  # fmt: skip
    yield from UploadRoutes(uploads, house.login, house.settings.max_file_size).routes()
    yield from Files(
        house.settings.output, house.output.descriptor, house.ledger.known, house.parts,
        house.admission, house.limits,
    ).routes()  # fmt: skip
    yield from Logins(house.accounts, house.login, site.access, site.sessions).routes()
