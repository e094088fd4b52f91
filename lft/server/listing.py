"""Directories that are announced: their manifests, until all entries are here."""

from __future__ import annotations

import time
import weakref
from collections import deque

import config
from lft.manifest import Manifest, entry_of
from lft.options import format_both
from lft.server.buffers import Shares
from protocol import FileStart, ManifestPart, RejectedError

_ENTRY = 120  # bytes of memory that an entry takes beside its names, while they are checked


class ManifestShares(Shares):
    """The memory of manifests, from their first entry until the last that knows them forgets them.

    Any thread; that may be in the middle of anything, so what comes back is only noted by it.
    """

    def __init__(self) -> None:
        super().__init__(config.MAX_MANIFESTS_OF_USER, config.MAX_MANIFESTS)
        self._returned: deque[tuple[str, int]] = deque()

    def hold(self, user: str, size: int, manifest: Manifest) -> None:
        """Count ``size`` bytes more as long as ``manifest`` lives.

        Raises ``RejectedError`` where that is too much.
        """
        while self._returned:
            self.give(*self._returned.popleft())
        if not self.take(user, size):
            reason = "too many directories are announced at once; try again later"
            raise RejectedError("busy", reason)
        weakref.finalize(manifest, self._returned.append, (user, size)).atexit = False


class Listing:
    """A directory whose manifest is on its way. Owned by the worker that has its coordinator."""

    def __init__(self, start: FileStart, user: str, shares: ManifestShares) -> None:
        self.start = start
        self.manifest = Manifest()
        self.deadline = time.monotonic() + config.LISTING_TIMEOUT
        self._user = user
        self._shares = shares
        self._held = 0

    def add(self, part: ManifestPart) -> bool:
        """Take some entries; return whether all are here.

        Raises ``RejectedError`` for what a tree cannot have, or the server has no memory for.
        """
        try:
            for raw in part.entries:
                self.manifest.add(entry_of(raw))
        except ValueError as error:
            raise RejectedError("manifest", str(error)) from None
        weight = self.manifest.weight + _ENTRY * len(self.manifest)
        self._shares.hold(self._user, weight - self._held, self.manifest)
        self._held = weight
        return len(self.manifest) == self.start.entries and self._is_as_large_as_said()

    def _is_as_large_as_said(self) -> bool:
        if self.manifest.size != self.start.size:
            has, said = format_both(self.manifest.size, self.start.size)
            raise RejectedError("manifest", f"its files have {has} together, not {said}")
        return True
