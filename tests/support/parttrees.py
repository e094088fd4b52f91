"""Part trees, and what is in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterable, TypeVar

from lft.manifest import Entry, Manifest
from lft.store.fenced import new_stem
from lft.store.fencedtree import FencedTree
from lft.store.journal import TREE, Facts, record
from lft.store.trees import PartTree
from lft.sums import TreeHash
from tests.support.rawtrees import WHEN, directory, file, link

Tree = TypeVar("Tree", bound=PartTree)

DATA = b"first" + b"second one" + b"3"
ENTRIES = [
    file("a", 5, 0o640),
    directory("d", 0o750),
    file("d/b", 10, 0o600),
    file("d/empty"),
    link("d/link", "../a"),
    file("z", 1),
]


def facts_of(entries: Iterable[Entry] = ENTRIES, **changes: Any) -> Facts:
    """Return the facts of a tree, in blocks of four bytes."""
    manifest = Manifest(entries)
    facts = Facts("u", "t", manifest.size, 4, "md5", "server_received_1_t", "", TREE)
    facts = facts._replace(mode=0o755, mtime=WHEN, manifest=manifest, counted_as=4096)
    return facts._replace(**changes)


def made(output: Path, facts: Facts) -> PartTree:
    """Return a new tree with all that is made before its blocks come."""
    return _complete(PartTree.create(output, facts))


def _complete(part: Tree) -> Tree:
    part.try_name()
    while part.reserve_some(1.0):
        continue
    return part


def lines_of(facts: Facts, data: bytes) -> Iterable[bytes]:
    """Return the sums of a tree."""
    assert facts.manifest is not None
    running = TreeHash(facts.manifest, "md5")
    running.update(data)
    return running.lines()


def fill(part: PartTree, data: bytes = DATA) -> None:
    """Write all bytes, and claim them in the journal, with digests that are none."""
    part.write_run([memoryview(data)], 0)
    blocks = range(part.facts.blocks.count)
    part.note(b"".join(record(block, bytes([block + 1]) * 16) for block in blocks))


def filled(output: Path, facts: Facts, data: bytes = DATA) -> PartTree:
    """Return a tree with all bytes, in its journal, too, and all that it gets at its end."""
    part = made(output, facts)
    fill(part, data)
    part.finish(lines_of(facts, data))
    return part


def shared_tree(output: Path, facts: Facts | None = None, data: bytes = DATA) -> FencedTree:
    """Make a tree in a directory that servers share; it has all of ``data`` and is open."""
    facts = facts or facts_of()
    part = _complete(FencedTree.create(output, facts, new_stem(facts.user, facts.name)))
    fill(part, data)
    return part


def taken(output: Path, part: FencedTree, facts: Facts | None = None) -> FencedTree:
    """Return a tree as another server goes on with it."""
    other = FencedTree(output, part.stem, part.facts)
    other.lock()
    other.reopen(facts or facts_of())
    other.go_on(facts or facts_of())
    while other.reserve_some(1.0):
        continue
    return other


def killed_tree(part: FencedTree) -> None:
    """Give the locks back as the system does for a process that is killed."""
    part._bytes.close()
    os.close(part._lock._locked)
    part._lock._locked = part._lock._fd = -1
