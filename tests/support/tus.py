"""A tus client by hand, request by request."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from tests.support.web import Answer, Browser, basic, request

UPLOADS = "/api/v1/uploads"
USER1 = basic()
KIND: dict[str, Any] = {"Content_Type": "application/offset+octet-stream"}


def metadata(**values: str) -> str:
    """Return an Upload-Metadata field."""
    return ",".join(f"{key} {_base64(value.encode())}" for key, value in values.items())


def checksum(data: bytes, algorithm: str = "sha1") -> dict[str, str]:
    """Return the field with the checksum of a PATCH."""
    return {"Upload-Checksum": f"{algorithm} {_base64(hashlib.new(algorithm, data).digest())}"}


def _named(fields: dict[str, Any]) -> dict[str, str]:
    return {name.replace("_", "-"): str(value) for name, value in fields.items()}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Tus:
    """Speaks tus on one connection, as one user."""

    def __init__(self, browser: Browser, login: dict[str, str] = USER1) -> None:
        self.browser = browser
        self.fields = {**login, "Tus-Resumable": "1.0.0"}

    def ask(self, method: str, path: str, body: bytes = b"", **fields: Any) -> Answer:
        """Make a request; ``_`` in the name of a field stands for ``-``."""
        return self.browser.ask(method, path, {**self.fields, **_named(fields)}, body)

    def create(self, size: int, name: str = "x.bin", **said: str) -> str:
        """Begin an upload; return its place."""
        answer = self.ask(
            "POST", UPLOADS, Upload_Length=size, Upload_Metadata=metadata(filename=name, **said)
        )
        assert answer.status == 201, answer
        return answer.fields["location"]

    def patch(self, place: str, offset: int, data: bytes, **fields: Any) -> Answer:
        """Send bytes."""
        own = {**KIND, "Content_Length": len(data), "Upload_Offset": offset, **fields}
        return self.ask("PATCH", place, data, **own)

    def begin_patch(self, place: str, size: int, data: bytes, **fields: Any) -> None:
        """Send a PATCH of ``size`` bytes as far as ``data`` goes; nothing is read."""
        own = {**KIND, "Content_Length": size, "Upload_Offset": 0, **fields}
        self.browser.send(request("PATCH", place, {**self.fields, **_named(own)}) + data)

    def offset(self, place: str) -> int:
        """Ask how much is there."""
        answer = self.ask("HEAD", place)
        assert answer.status == 200, answer
        return int(answer.fields["upload-offset"])
