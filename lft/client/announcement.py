"""How a file is announced to the server, and which files can be sent together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Collection

from config import ClientSettings
from lft.client.source import Input
from lft.client.standard_input import STANDARD_INPUT
from lft.terminal import printable
from protocol import (
    BEFORE_1970,
    PRESERVE,
    TREES,
    UNSIZED,
    FileStart,
    Queued,
    RejectedError,
    UsageError,
)

log = logging.getLogger("client")


def check_files(files: Collection[Path], settings: ClientSettings) -> None:
    """Raise ``UsageError`` for files that cannot be sent together."""
    if sum(path == STANDARD_INPUT for path in files) > 1:
        raise UsageError("standard input can be sent once only: name - once")
    if settings.name is not None and len(files) != 1:
        raise UsageError("--name is for a single FILE or DIR")


def check_server(source: Input, features: Collection[str]) -> None:
    """Raise ``RejectedError`` for a source that a server with ``features`` cannot take."""
    if not source.sized and UNSIZED not in features:
        reason = "the server is too old to take standard input; send a file instead"
        raise RejectedError(UNSIZED, f"{source.name}: {reason}")
    if source.entries is not None and TREES not in features:
        reason = "the server is too old to take directories; pack it into one file first, with tar"
        raise RejectedError(TREES, f"{source.name}: {reason}")


def announcement(
    source: Input, block_size: int, settings: ClientSettings, features: Collection[str],
    *, digest: str, resume: bool,
) -> FileStart:  # fmt: skip
    """Return the FILE_START of a source, for a server that has ``features``."""
    head = source.head(block_size, digest)
    start = FileStart(source.name, source.size, block_size, digest, head, resume)
    if not source.sized:
        if settings.if_exists == "skip":
            log.warning("%s: --if-exists skip is for files and directories: all of it is sent",
                        source.name)  # fmt: skip
        if settings.preserve:
            log.warning("%s: --preserve is for files: this has no permission bits and no time",
                        source.name)  # fmt: skip
        return start.replace(size=0, resume=False, unsized=True)
    if source.entries is not None or (settings.preserve and PRESERVE in features):
        return start.replace(**_attributes(source, features))
    return start


def _attributes(source: Input, features: Collection[str]) -> dict[str, int]:
    """Return what the server is to keep; an older one knows no time before 1970."""
    attributes = source.attributes
    if BEFORE_1970 not in features and attributes["mtime"] < 0:
        del attributes["mtime"]
        if source.entries is not None:  # a directory has to have a time
            attributes["mtime"] = 0
    return attributes


def place_in_queue(queued: Queued) -> str:
    """Say what the server lets a file wait for."""
    if queued.reason:
        return f"waiting: {printable(queued.reason)}"
    return f"waiting for our turn: position {queued.position}"
