"""The client's parts, without a server."""

from __future__ import annotations

import socket
from typing import Any

from config import ClientSettings
from lft.client.link import Access, Link

NOWHERE = ("127.0.0.1", 1)


def link_of(settings: ClientSettings, address: Any = NOWHERE, round_trip: float = 0.0) -> Link:
    """Return what senders share, on the way to a server at ``address``."""
    return Link(settings, Access(socket.AF_INET, address, "t" * 20), round_trip)
