"""Part files in a directory that several servers share."""

from __future__ import annotations

import os
from pathlib import Path

from lft.store.fenced import FencedPartFile, new_stem
from lft.store.journal import Facts
from lft.store.part import Part
from lft.store.paths import PARTIAL
from lft.store.sharedstore import SharedPartStore
from tests.support.partfiles import DATA, claims_of, facts_of


def shared_part(output: Path, facts: Facts | None = None, data: bytes = DATA) -> FencedPartFile:
    """Make a part file that has all of ``data`` and is open."""
    facts = facts or facts_of(len(data))
    part = FencedPartFile.create(output, facts, new_stem(facts.user, facts.name))
    part.write_run([memoryview(data)], 0)
    part.note(b"".join(claims_of(data, *range(-(-len(data) // 4))).records()))
    return part


def seen_by_another(part: FencedPartFile, output: Path) -> FencedPartFile:
    """Stand for ``part`` as another server does that has just listed it."""
    return FencedPartFile(output, part.stem, part.facts)


def remember_as_new(output: Path, part: Part) -> Path:
    """Have the name of a new journal lead to that of a closed part, and return where that is.

    So GlusterFS remembers it for a second after another server has put it in place.
    """
    journal = output / PARTIAL / f"{part.stem}.journal"
    os.link(journal, journal.with_suffix(".new"))
    return journal


def killed(part: FencedPartFile) -> None:
    """Give the locks back as the system does for a process that is killed."""
    os.close(part._fd)
    part._fd = -1


def shared_store(output: Path) -> SharedPartStore:
    """Return what a server has that has looked around."""
    store = SharedPartStore(output)
    store.scan()
    return store
