"""What the server says of itself: ``/healthz``, ``/server`` and ``/openapi.json``."""

from __future__ import annotations

import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from lft.store.paths import free_bytes
from lft.web.problem import HttpError
from lft.web.request import Request
from lft.web.response import Response, json_response
from lft.web.router import Need, Route
from protocol import VERSION

if TYPE_CHECKING:
    from lft.web.site import House

API = "/api/v1"
_OPENAPI = Path(__file__).with_name("openapi.json")


class Status:
    """Answers what the server is and how it is. All of it runs on workers."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._began = time.monotonic()
        self._openapi = _OPENAPI.read_bytes()

    def routes(self) -> list[Route]:
        """Return the routes; two of them also stand where other programs look for them first."""
        return [
            Route("GET", f"{API}/openapi.json", self.openapi, Need.NOTHING),
            Route("GET", f"{API}/healthz", self.health, Need.NOTHING),
            Route("GET", "/healthz", self.health, Need.NOTHING),
            Route("GET", f"{API}/server", self.server),
        ]

    def openapi(self, _request: Request) -> Response:
        """Return the description of this interface."""
        return Response(HTTPStatus.OK, [("Content-Type", "application/json")], self._openapi)

    def health(self, _request: Request) -> Response:
        """Say whether new work is taken. Raises ``HttpError`` (503) otherwise."""
        trouble = self._house.trouble()
        if trouble:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
        return json_response({"status": "ok"})

    def server(self, request: Request) -> Response:
        """Say what is taken here, and how busy the server is."""
        settings, rights = self._house.settings, request.caller.rights
        limits = {
            "max_file_size": rights.max_file_size,
            "quota": rights.quota,
            "rate": rights.limit,
            "server_rate": settings.limit,
            "extensions": [list(one) for one in rights.allow_ext],
            "active_transfers": settings.max_active,
            "workers": settings.workers,
        }
        told = {"release": config.RELEASE, "protocol": VERSION, "limits": limits}
        return json_response({**told, "load": self._load()})

    def _load(self) -> dict[str, Any]:
        house = self._house
        return {
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "active_transfers": len(house.admission.active()),
            "waiting_transfers": len(house.admission.waiting()),
            "connections": len(house.connections.peers),
            "free_bytes": free_bytes(house.settings.output),
        }
