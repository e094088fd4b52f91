"""What a source consists of, and what is the matter with some of it, in words."""

from __future__ import annotations

from typing import Dict, List, NamedTuple

import config
from lft.terminal import printable

Reasons = Dict[str, List[str]]  # paths, by what is the matter with them: "socket", "pipe"


class Contents(NamedTuple):
    """How much there is in a source; these are of a single file."""

    files: int = 1
    directories: int = 0
    links: int = 0
    excluded: int = 0  # by --exclude, without what is in them
    left_out: int = 0  # since they cannot be sent

    def __str__(self) -> str:
        counts = (self.files, "file"), (self.directories, "directory"), (self.links, "link")
        words = [number(count, what) for count, what in counts if count] or ["no file"]
        words += [f"{self.excluded:,} excluded"] if self.excluded else []
        words += [f"{self.left_out:,} left out"] if self.left_out else []
        return ", ".join(words)


def number(count: int, what: str) -> str:
    """Return how many there are, in words: ``1 file``, ``2 directories``, ``10,000 files``."""
    if count != 1:
        what = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what}"


def note(reasons: Reasons, reason: str, path: str) -> None:
    """Add a path to those of a reason."""
    reasons.setdefault(reason, []).append(path)


def count_of(reasons: Reasons) -> int:
    """Return how many paths there are."""
    return sum(map(len, reasons.values()))


def in_words(reasons: Reasons) -> str:
    """Name paths by their reason, some of each: ``2 sockets (a, x/b), 1 pipe (c)``."""
    return ", ".join(
        f"{number(len(paths), reason)} ({some_of(paths)})" for reason, paths in reasons.items()
    )


def errors_in_words(reasons: Reasons) -> str:
    """Name paths by the error of each: ``Permission denied (a, b)``."""
    return ", ".join(f"{reason} ({some_of(paths)})" for reason, paths in reasons.items())


def some_of(paths: list[str]) -> str:
    """Name the first few of ``paths``, and say how many more there are."""
    first = ", ".join(printable(path) for path in paths[: config.PATHS_TOLD])
    more = len(paths) - config.PATHS_TOLD
    return f"{first} and {more:,} more" if more > 0 else first
