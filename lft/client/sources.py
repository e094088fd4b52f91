"""Which kind of source a path is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from config import ClientSettings
from lft.client.source import Input, Source, name_of
from lft.client.standard_input import NAME, STANDARD_INPUT, StandardInput
from protocol import SourceError


def open_source(path: Path, settings: ClientSettings) -> Input:
    """Open a file, a directory or standard input, to be sent. Raises ``SourceError``."""
    if path == STANDARD_INPUT:
        return StandardInput(settings.name or NAME)
    if os.path.isdir(path):
        check_source(path, settings)
        from lft.client.trees import Tree  # noqa: PLC0415  (few runs need it)

        return Tree(path, settings)
    return Source(path, settings.name)


def check_source(path: Path, settings: ClientSettings) -> None:
    """Raise ``SourceError`` if it can be seen at once that a path cannot be sent."""
    if not os.path.isdir(path):
        open_source(path, settings).close()
    elif not os.access(path, os.R_OK | os.X_OK):
        raise SourceError(f"{path}: {os.strerror(errno.EACCES)}")
    elif not (settings.name or name_of(path)):
        raise SourceError(f"{path}: has no name; say with --name what it is to be called")
