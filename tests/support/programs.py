"""Programs that a server runs for what it has received."""

from __future__ import annotations

from pathlib import Path


def script(path: Path, text: str) -> Path:
    """Write a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file, none if it is not there yet."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
