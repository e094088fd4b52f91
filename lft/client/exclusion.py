"""What a user leaves out: the patterns of --exclude."""

from __future__ import annotations

import fnmatch
import logging
import re
from pathlib import Path
from typing import Sequence

from lft.client.source import name_of
from protocol import UsageError

log = logging.getLogger("client")


class _Patterns:
    """Patterns for a whole path, and those of them that are for a single name as well."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._paths = _one_of([pattern.lstrip("/") for pattern in patterns])
        self._names = _one_of([pattern for pattern in patterns if not pattern.startswith("/")])

    def match(self, path: str) -> bool:
        return bool(self._paths.match(path) or self._names.match(path.rpartition("/")[2]))


def _one_of(patterns: Sequence[str]) -> re.Pattern[str]:
    """Return an expression for texts that match one of ``patterns``, or else for none."""
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)")


class Exclusion:
    """Patterns of ``fnmatch``, each for the path within a directory and for every name in it.

    A ``/`` at the end makes a pattern one for directories alone; one at the beginning makes it one
    for the path alone. What is in a directory that is left out is left out with it.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        own = [pattern for pattern in patterns if pattern.strip("/")]  # others are for no name
        self._others = _Patterns([pattern for pattern in own if not pattern.endswith("/")])
        self._directories = _Patterns([pattern.rstrip("/") for pattern in own])
        self._idle = not own

    def covers(self, path: str, *, directory: bool = False) -> bool:
        """Return whether ``path`` is left out by itself, whatever holds for what it is in."""
        if self._idle:
            return False
        return (self._directories if directory else self._others).match(path)


def chosen(paths: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    """Return those of the arguments that no pattern leaves out by their names.

    Raises ``UsageError`` where that is none.
    """
    exclusion = Exclusion(patterns)
    left = [path for path in paths if not exclusion.covers(name_of(path), directory=path.is_dir())]
    if not left:
        raise UsageError("--exclude leaves out all that was to be sent")
    if len(left) < len(paths):
        log.info("%d of %d arguments are left out by --exclude", len(paths) - len(left), len(paths))
    return left
