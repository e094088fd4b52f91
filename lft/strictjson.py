"""JSON read strictly: whole numbers of a few digits, no key twice, none missing, none unknown."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Dict, NoReturn

_NOT_JSON = "not the JSON it should be"
_MAX_DIGITS = 20  # Python would spend seconds on a number with a million of them


class _Object(Dict[str, Any]):
    """A JSON object that remembers which key was written more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        times = Counter(key for key, _ in pairs)
        self.repeated = [key for key in times if times[key] > 1]


def parse_json(data: bytes, *, fractions: bool = False) -> object:
    """Parse JSON. Raises ``ValueError``, which does not quote it.

    With ``fractions`` they are read, for a caller that says in its own words where one is wrong.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_Object,
            parse_int=_short_int,
            parse_float=float if fractions else _refuse,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        raise ValueError(_NOT_JSON) from None


def _short_int(digits: str) -> int:
    return int(digits) if len(digits) <= _MAX_DIGITS else _refuse(digits)


def _refuse(_: str) -> NoReturn:
    raise ValueError(_NOT_JSON)


def as_object(value: object) -> dict[str, Any]:
    """Return a parsed JSON object. Raises ``ValueError`` if it is none, or has a key twice."""
    if not isinstance(value, _Object):
        raise ValueError(_NOT_JSON)  # noqa: TRY004  (not a bug of ours)
    if value.repeated:
        raise ValueError(f"{value.repeated[0][:40]!a} stands there twice")
    return dict(value)


def with_keys(value: object, required: set[str], optional: set[str]) -> dict[str, Any]:
    """Return a parsed JSON object that has these keys. Raises ``ValueError`` that names one."""
    given = as_object(value)
    missing, unknown = required - given.keys(), given.keys() - required - optional
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    if unknown:
        raise ValueError(f"{min(unknown)[:40]!a} is not known")
    return given
