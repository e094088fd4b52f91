"""What is queued and running: ``/transfers``."""

from __future__ import annotations

from http import HTTPStatus

from lft.server.lifecycle import Lifecycle
from lft.server.transfer import Transfer
from lft.web.overview import Overview
from lft.web.problem import not_found
from lft.web.request import Caller, Request
from lft.web.response import Response, json_response
from lft.web.router import Route
from protocol import Rejected

PATH = "/api/v1/transfers"


class Transfers:
    """Shows transfers and cancels them: a user's own, or everyone's. All of it runs on workers."""

    def __init__(self, lifecycle: Lifecycle, overview: Overview) -> None:
        self._lifecycle = lifecycle
        self._overview = overview

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", PATH, self.list),
            Route("GET", f"{PATH}/{{id}}", self.show),
            Route("DELETE", f"{PATH}/{{id}}", self.cancel),
        ]

    def list(self, request: Request) -> Response:
        """List them, those that run before those that wait."""
        request.query()
        shown = [
            self._overview.describe(transfer, position)
            for transfer, position in self._overview.all()
            if may_see(request.caller, transfer)
        ]
        return json_response({"transfers": shown})

    def show(self, request: Request) -> Response:
        """Show one. Raises ``HttpError``."""
        request.query()
        return json_response(self._overview.describe(*self._find(request)))

    def cancel(self, request: Request) -> Response:
        """End one, which its client can go on with later. Raises ``HttpError``."""
        transfer, _ = self._find(request)
        reason = f"cancelled by {request.caller.user}; it can go on later"
        self._lifecycle.finish(transfer, Rejected("cancelled", reason))
        return Response(HTTPStatus.NO_CONTENT)

    def _find(self, request: Request) -> tuple[Transfer, int]:
        found = self._overview.find(request.parameters["id"])
        if found is None or not may_see(request.caller, found[0]):
            raise not_found()
        return found


def may_see(caller: Caller, transfer: Transfer) -> bool:
    """Whether a user sees, and may cancel, a transfer."""
    return transfer.session.user == caller.user or caller.may("operate")
