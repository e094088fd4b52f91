"""JSON read strictly: no key twice, none missing, none unknown."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, List, Tuple


class Pairs(List[Tuple[str, Any]]):
    """A JSON object as it was written, with every key as often as it stands there."""


def parse_json(data: bytes) -> object:
    """Parse JSON strictly. Raises ``ValueError`` that does not quote it."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        raise ValueError("damaged, or not a credential file") from None


def as_object(value: object, required: set[str], optional: set[str]) -> dict[str, Any]:
    """Return a JSON object that has these keys, each once. Raises ``ValueError``."""
    given = without_doubles(value)
    missing, unknown = required - given.keys(), given.keys() - required - optional
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    if unknown:
        raise ValueError(f"{min(unknown)[:40]!a} is not known")
    return given


def without_doubles(value: object) -> dict[str, Any]:
    if not isinstance(value, Pairs):
        raise ValueError("damaged, or not a credential file")  # noqa: TRY004  (not a bug of ours)
    for key, times in Counter(key for key, _ in value).items():
        if times > 1:
            raise ValueError(f"{key[:40]!a} stands there twice")
    return dict(value)
