"""What the user sees of a transfer that is under way: the bar."""

from __future__ import annotations

import sys
from typing import Any

import config
from lft.terminal import BarSafeHandler, printable


class Progress:
    """Is told how a transfer goes, and does nothing with it. ``Bar`` shows it."""

    def begin(self, name: str, size: int) -> None:
        """Take up a file of ``size`` bytes."""

    def phase(self, phase: str) -> None:
        """Note what happens now: connecting, waiting, sending, verifying."""

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        """Note how many bytes of the file the server has."""

    def end(self) -> None:
        """Be done with the file."""


class Bar(Progress):
    """tqdm's bar on standard error, over acknowledged bytes, with rate, ETA and the phase."""

    def __init__(self, handler: BarSafeHandler) -> None:
        # loaded here: the import takes 30 ms, and most runs have no bar
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.monitor_interval = 0  # its extra thread is for bars that stand still
        self._tqdm = tqdm
        self._bar: Any = None
        self._name = ""
        handler.around = lambda: tqdm.external_write_mode(file=sys.stderr)

    def begin(self, name: str, size: int) -> None:
        """Open the bar of one file, or go on with it in another session."""
        if self._bar is not None and (self._name, self._bar.total) == (printable(name), size):
            return
        self.end()
        self._name = printable(name)
        self._bar = self._tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024,
                               mininterval=config.BAR_INTERVAL, dynamic_ncols=True)  # fmt: skip

    def phase(self, phase: str) -> None:
        if self._bar is None:
            self._bar = self._tqdm(bar_format="{desc}", leave=False)
        self._bar.set_description(f"{phase} {self._name}".strip())

    def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
        self._bar.update(acknowledged - self._bar.n)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
