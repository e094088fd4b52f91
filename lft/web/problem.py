"""What goes wrong with a request, as the client is told (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Sequence, Tuple

from protocol import TransferError

PROBLEM = "application/problem+json"
Field = Tuple[str, str]  # a header field: name and value


class HttpError(TransferError):
    """A request cannot be done: the status, a reason that a person understands, and fields."""

    def __init__(self, status: int, detail: str, fields: Sequence[Field] = ()) -> None:
        super().__init__(detail)
        self.status = HTTPStatus(status)
        self.fields = tuple(fields)

    def document(self) -> bytes:
        """Return the problem as the client gets it."""
        told = {"status": int(self.status), "title": self.status.phrase, "detail": str(self)}
        return json.dumps(told).encode()


def not_found() -> HttpError:
    """Return the one answer for what is absent, and for what this user may not see."""
    return HttpError(HTTPStatus.NOT_FOUND, "there is nothing here, or it is not for you")
