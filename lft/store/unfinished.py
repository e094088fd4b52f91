"""Looking at unfinished files: what there is of them, and which upload each one is for."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from lft.store.journal import Facts, Journal
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL


class Unfinished(NamedTuple):
    """An unfinished file, for those who look at it."""

    facts: Facts
    in_use: bool
    claimed: int  # bytes that its journal claims, unless it is in use


def unfinished_in(
    output: Path, parts: PartStore, directory: str, user: str | None = None
) -> Iterator[Unfinished]:
    """Give the unfinished files that are to be published in ``directory``, one look at each.

    Those of ``user`` alone, if there is one (a worker).
    """

    def wanted(facts: Facts) -> bool:
        return facts.directory == directory and (user is None or facts.user == user)

    return _unfinished(output, parts, wanted)


def resting_uploads_of(output: Path, parts: PartStore, user: str) -> list[Unfinished]:
    """Return the unfinished uploads of ``user`` that rest (a worker)."""
    own = _unfinished(output, parts, lambda facts: facts.user == user and facts.is_upload)
    return [one for one in own if not one.in_use]


def _unfinished(
    output: Path, parts: PartStore, wanted: Callable[[Facts], bool]
) -> Iterator[Unfinished]:
    for part, in_use in parts.parts():
        if wanted(part.facts) and not part.published:
            yield Unfinished(part.facts, in_use, 0 if in_use else _claimed_bytes(output, part))


def _claimed_bytes(output: Path, part: Part) -> int:
    """Return about how many bytes a journal claims; none where it cannot be read."""
    try:
        blocks = Journal(output / PARTIAL / f"{part.stem}.journal").count()
    except (OSError, ValueError):  # it may be gone by now
        return 0
    return min(part.facts.size, blocks * part.facts.block_size)


def resting_uploads(parts: PartStore, user: str, upload: str) -> list[Part]:
    """Return what rests of an upload of ``user``, for a look at its facts (a worker).

    That is one part, or none. But where another server stood still that had it, there is one that
    was begun anew beside it: what is published comes first, then the newest. What an earlier run
    left is known once ``PartStore.knows`` says so.
    """
    resting = (part for part, in_use in parts.parts() if not in_use and part.facts.user == user)
    found = [one for one in resting if one.facts.is_upload and one.facts.head == upload]
    return sorted(found, key=lambda part: (part.published, part.stem), reverse=True)
