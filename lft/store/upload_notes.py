"""What is known of an upload over HTTP beside its journal: what its client said of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from lft.store.paths import PARTIAL, open_regular

_MOST = 64 * 1024  # bytes that are read of it: what a request may say of a file, twice
_UNCHECKED = b"unchecked\n"


class UploadNotes(NamedTuple):
    """Notes beside a part file, in lines: one of JSON, and one if bytes came without a checksum.

    They are believed as little as a journal: lost or damaged, they cost metadata and a better proof
    of the same bytes, never a wrong file.
    """

    metadata: str = ""  # as the client said it
    digest: str = ""  # of the whole file, in hexadecimal, if the client computed it
    unchecked: bool = True  # whether bytes came without a checksum, as far as is known

    def begin(self, output: Path, stem: str) -> None:
        """Write the first line. Raises ``OSError``."""
        first = {"upload": 1, "metadata": self.metadata, "digest": self.digest}
        _append(_path_of(output, stem), json.dumps(first).encode() + b"\n", os.O_TRUNC)

    @staticmethod
    def note_unchecked(output: Path, stem: str) -> None:
        """Note that bytes come without a checksum. Raises ``OSError``."""
        _append(_path_of(output, stem), _UNCHECKED, os.O_APPEND)

    @classmethod
    def read(cls, output: Path, stem: str) -> UploadNotes:
        """Return the notes beside a part file, as far as there are any."""
        try:
            with open(_path_of(output, stem), "rb", opener=open_regular) as file:
                first, _, rest = file.read(_MOST).partition(b"\n")
            values = json.loads(first)
            metadata, digest = values["metadata"], values["digest"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return cls()
        if not (isinstance(metadata, str) and isinstance(digest, str)):
            return cls()
        return cls(metadata, digest, bool(rest))


def _path_of(output: Path, stem: str) -> Path:
    return output / PARTIAL / f"{stem}.upload"


def _append(path: Path, line: bytes, flag: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flag
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
