"""Directories that tests send."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterable, Iterator

from lft.manifest import Manifest

NOBODY = 65534


def make_tree(top: Path, paths: Iterable[str]) -> Path:
    """Make files below ``top``, each with its own path in it; a path that ends with / is empty."""
    top.mkdir(exist_ok=True)
    for path in paths:
        if path.endswith("/"):
            (top / path).mkdir(parents=True, exist_ok=True)
            continue
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(path, encoding="utf-8")
    return top


def paths_of(manifest: Manifest) -> list[str]:
    """Return the paths of all entries."""
    return [entry.path for entry in manifest]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything, if we have it."""
    root = not os.geteuid()
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
