"""Several arguments as one whole: how much they are together, and how far that is."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Sequence

from config import ClientSettings
from lft.client.progress import Journey
from lft.client.standard_input import STANDARD_INPUT


class Whole:
    """Several files and directories that are sent one after the other. Main's own.

    The rate and the time left are those of all of them: each alone may be too small for either.
    """

    def __init__(self, sizes: Sequence[int], files: Sequence[int]) -> None:
        """Each argument has so many bytes, in so many files."""
        self._settled = 0  # arguments that had their turn
        self._bytes = [0, *itertools.accumulate(sizes)]  # before each of them
        self._files = [0, *itertools.accumulate(files)]
        self._counts_files = self._files[-1] != len(files)  # otherwise their places say it
        self._journey = Journey("", self._bytes[-1])
        self._sent_before = 0  # bytes that this run has sent of those that had their turn

    def settle(self) -> None:
        """Note that the next argument has its turn."""
        self._settled = min(self._settled + 1, len(self._bytes) - 1)
        self._sent_before = self._journey.sent

    def follow(self, journey: Journey, *, sending: bool) -> None:
        """Note how far the argument is whose turn it is."""
        before, most = self._bytes[self._settled], self._bytes[-1]  # since then they may have grown
        at, verified = (min(before + own, most) for own in (journey.at, journey.verified))
        self._journey.move(at, self._sent_before + journey.sent, verified, sending=sending)
        if self._counts_files:
            complete = journey.files[0] if journey.files else 0
            self._journey.files = self._files[self._settled] + complete, self._files[-1]

    def named_as(self, journey: Journey) -> Journey:
        """Return the whole, under the name of what is under way."""
        self._journey.name, self._journey.place = journey.name, journey.place
        return self._journey


def whole_of(paths: Sequence[Path], settings: ClientSettings) -> Whole | None:
    """Return what is to be sent as a whole; ``None`` where nothing tells how much it is."""
    if STANDARD_INPUT in paths:
        return None
    amounts = [_amount_of(path, settings) for path in paths]
    return Whole([size for size, _ in amounts], [files for _, files in amounts])


def _amount_of(path: Path, settings: ClientSettings) -> tuple[int, int]:
    """Return bytes and files of an argument; none where it cannot be read, which is told later."""
    try:
        if not os.path.isdir(path):
            return os.stat(path).st_size, 1
        from lft.client.walk import size_up  # noqa: PLC0415  (few runs need it)

        return size_up(path, settings.exclude)
    except (OSError, ValueError):
        return 0, 0
