"""A tus client by hand, request by request."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from tests.support.web import Answer, Browser, basic

UPLOADS = "/api/v1/uploads"
USER1 = basic()


def metadata(**values: str) -> str:
    """Return an Upload-Metadata field."""
    return ",".join(f"{key} {_base64(value.encode())}" for key, value in values.items())


def checksum(data: bytes, algorithm: str = "sha1") -> dict[str, str]:
    """Return the field with the checksum of a PATCH."""
    return {"Upload-Checksum": f"{algorithm} {_base64(hashlib.new(algorithm, data).digest())}"}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Tus:
    """Speaks tus on one connection, as one user."""

    def __init__(self, browser: Browser, login: dict[str, str] = USER1) -> None:
        self.browser = browser
        self.fields = {**login, "Tus-Resumable": "1.0.0"}

    def ask(self, method: str, path: str, body: bytes = b"", **fields: Any) -> Answer:
        """Make a request; ``_`` in the name of a field stands for ``-``."""
        own = {name.replace("_", "-"): str(value) for name, value in fields.items()}
        return self.browser.ask(method, path, {**self.fields, **own}, body)

    def create(self, size: int, name: str = "x.bin", **said: str) -> str:
        """Begin an upload; return its place."""
        answer = self.ask(
            "POST", UPLOADS, Upload_Length=size, Upload_Metadata=metadata(filename=name, **said)
        )
        assert answer.status == 201, answer
        return answer.fields["location"]

    def patch(self, place: str, offset: int, data: bytes, **fields: Any) -> Answer:
        """Send bytes."""
        kind = {"Content_Type": "application/offset+octet-stream", "Content_Length": len(data)}
        return self.ask("PATCH", place, data, Upload_Offset=offset, **{**kind, **fields})

    def offset(self, place: str) -> int:
        """Ask how much is there."""
        answer = self.ask("HEAD", place)
        assert answer.status == 200, answer
        return int(answer.fields["upload-offset"])
