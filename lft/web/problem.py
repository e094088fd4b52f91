"""What goes wrong with a request, as the client is told (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Sequence, Tuple

from protocol import TransferError

PROBLEM = "application/problem+json"
Field = Tuple[str, str]  # a header field: name and value


CHECKSUM_MISMATCH = 460  # tus: the checksum of a PATCH is not that of its bytes


def phrase_of(status: int) -> str:
    """Return what a status is called."""
    return "Checksum Mismatch" if status == CHECKSUM_MISMATCH else HTTPStatus(status).phrase


class HttpError(TransferError):
    """A request cannot be done: the status, a reason that a person understands, and fields."""

    def __init__(self, status: int, detail: str, fields: Sequence[Field] = ()) -> None:
        super().__init__(detail)
        self.status = int(status)
        self.fields = tuple(fields)

    def document(self) -> bytes:
        """Return the problem as the client gets it."""
        told = {"status": self.status, "title": phrase_of(self.status), "detail": str(self)}
        return json.dumps(told).encode()


def not_found() -> HttpError:
    """Return the one answer for what is absent, and for what this user may not see."""
    return HttpError(HTTPStatus.NOT_FOUND, "there is nothing here, or it is not for you")
