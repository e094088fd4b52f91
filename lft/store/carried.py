"""What of an unfinished tree is of use for the same tree as it is by now."""

from __future__ import annotations

from typing import Iterator

from lft.manifest import Kind, Manifest
from lft.store.journal import Claims, Facts


def fits(old: Manifest, new: Manifest) -> bool:
    """Return whether at least half of the bytes of ``old`` have their places in ``new``.

    Where all files are empty the entries count.
    """
    if not old.size:
        return 2 * sum(new.find(old.path(at)) is not None for at in range(len(old))) >= len(old)
    shared = sum(min(one.size, other.size) for one, other in _shared(old, new))
    return 2 * shared >= old.size


class _Place:
    """Where a file lies in a tree."""

    def __init__(self, manifest: Manifest, number: int) -> None:
        self.number = number
        self.start = manifest.start(number)
        self.size = manifest.length(number)
        self.mtime = manifest.mtime(manifest.file(number))


def _shared(old: Manifest, new: Manifest) -> Iterator[tuple[_Place, _Place]]:
    """Give the files that are in both under the same path."""
    for number in range(old.files):
        index = new.find(old.path(old.file(number)))
        if index is not None and new.kind(index) is Kind.FILE:
            yield _Place(old, number), _Place(new, new.number_of(index))


def carry(claims: Claims, old: Manifest, facts: Facts) -> Claims:
    """Return what ``claims`` of the blocks of ``old`` claim of those of ``facts``, without digests.

    A block is claimed where each of its bytes lies in a claimed block of the same file, which has
    kept its size and time. Of a changed file nothing is: each of its blocks that differs would cost
    a round trip.
    """
    new = facts.manifest
    assert new is not None  # it is a tree
    moved = {two.number: one.start for one, two in _shared(old, new)
             if (one.size, one.mtime) == (two.size, two.mtime)}  # fmt: skip
    carried = Claims(facts.blocks.count, facts.digest_size)
    for block in range(facts.blocks.count):
        stretch = facts.blocks.offset(block), facts.blocks.length(block)
        carried.flags[block] = all(
            _claimed(claims, moved.get(new.number_of(part.entry)), part.offset, part.length, facts)
            for part in new.segments(*stretch)
        )
    return carried


def _claimed(claims: Claims, start: int | None, offset: int, length: int, facts: Facts) -> bool:
    """Return whether so many bytes of a file that began at ``start`` are in claimed blocks."""
    if start is None:
        return False
    first = (start + offset) // facts.block_size
    last = (start + offset + length - 1) // facts.block_size
    return claims.flags.find(0, first, last + 1) < 0
