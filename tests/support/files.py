"""Files that tests send, and the files they find in an output directory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from pathlib import Path

from lft.store.journal import Journal
from lft.store.paths import PARTIAL
from lft.store.trees import LEFT_BEHIND


def random_file(path: Path, size: int, seed: int = 0) -> Path:
    """Write ``size`` bytes that do not repeat."""
    source = random.Random(f"{size}-{seed}")
    with open(path, "wb") as file:
        for start in range(0, size, 1 << 20):
            length = min(1 << 20, size - start)
            file.write(source.getrandbits(8 * length).to_bytes(length, "little"))
    return path


def md5(path: Path) -> str:
    """Return the MD5 of a file as md5sum prints it."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def received(output: Path) -> list[Path]:
    """Return the published files of an output directory."""
    return sorted(output.glob("server_received_*"))


def part_files(output: Path) -> list[Path]:
    """Return what is unfinished in an output directory."""
    return sorted(
        path for path in (output / PARTIAL).glob("*.*") if path.suffix in (".part", ".tree")
    )


def journal_bytes(output: Path) -> int:
    """Return how much the journals of an output directory hold: it grows with each block."""
    total = 0
    for path in (output / PARTIAL).glob("*.journal"):
        with contextlib.suppress(FileNotFoundError):  # it ended while we looked
            total += path.stat().st_size
    return total


def claimed_bytes(output: Path) -> int:
    """Return about how many bytes the journals of an output directory claim."""
    found = 0
    for path in (output / PARTIAL).glob("*.journal"):
        with contextlib.suppress(OSError, ValueError):  # it ended while we looked
            journal = Journal(path)
            found += journal.count() * journal.facts().block_size
    return found


def strays(output: Path) -> list[Path]:
    """Return what is in ``.partial`` of an output directory and of no use to a resume."""
    found = [path for path in (output / PARTIAL).glob("*") if path.suffix in LEFT_BEHIND]
    stems = {path.stem for path in found if path.suffix in (".part", ".tree")}
    both = {path.stem for path in found if path.suffix == ".journal"} & stems
    return [path for path in found if path.stem not in both or path.suffix == ".new"]


def open_descriptors() -> int:
    """Count this process's open files."""
    return len(os.listdir("/dev/fd"))
