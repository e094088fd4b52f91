"""What is of no use any more and takes long to remove."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Iterator

from lft.store.part import Part
from lft.store.paths import PARTIAL
from lft.store.removal import removing
from lft.store.trees import folder_of, remove_leftover


class Waste:
    """Removes parts; of a large tree most of it later, some entries at a time.

    What is left of it until then has no journal, so the next start goes on where a stop came
    between. No lock: the ends of a ``deque`` are safe, and one worker at a time takes from it.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._left: deque[Iterator[None]] = deque()  # the steps of each removal that has begun

    def __bool__(self) -> bool:
        """Return whether there is something left to remove (any)."""
        return bool(self._left)

    def remove(self, part: Part) -> None:
        """Remove a part, or begin with that (any)."""
        part.remove()
        if part.facts.is_tree:
            self.note(part.stem)

    def remove_leftover(self, stem: str) -> None:
        """Remove what belongs to one part, of either kind, or begin with that (any)."""
        remove_leftover(self._output, stem)
        self.note(stem)

    def note(self, stem: str) -> None:
        """Have the rest of a tree removed, if there is one (any).

        What has a journal is not ours to remove: another server has it.
        """
        folder = self._output / PARTIAL
        if os.path.lexists(folder / f"{stem}.journal"):
            return
        if os.path.lexists(folder / folder_of(stem)):
            self._left.append(removing(folder, folder_of(stem)))

    def remove_some(self, seconds: float) -> None:
        """Go on for about ``seconds`` (one worker at a time)."""
        until = time.monotonic() + seconds
        while self._left:
            for _ in self._left[0]:
                if time.monotonic() >= until:
                    return
            self._left.popleft()
