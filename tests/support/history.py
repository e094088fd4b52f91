"""Entries of the history, and waiting for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lft.store.history import History, Outcome, Query
from tests.support.waiting import eventually


def entry(name: str = "x", ended: int = 1, **changes: Any) -> Outcome:
    """Return an entry; its file was received, unless ``changes`` say otherwise."""
    facts: dict[str, Any] = {"outcome": "received", "user": "ann", "size": 5, **changes}
    if facts["outcome"] == "received":
        facts.setdefault("saved_as", f"server_received_{ended}_{name}")
    return Outcome(ended=ended, name=name, **facts)


def entries(output: Path, **query: Any) -> list[Outcome]:
    """Return what the history of an output directory has, newest first."""
    return History(output).page(Query(**query)).entries


def names(output: Path, **query: Any) -> list[str]:
    """Return the names of those entries."""
    return [one.name for one in entries(output, **query)]


def noted(output: Path, number: int = 1) -> list[Outcome]:
    """Wait until the history has ``number`` entries; return them, newest first."""
    eventually(lambda: len(entries(output)) >= number, f"{number} entries in the history")
    return entries(output)
