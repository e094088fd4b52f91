"""Whether a file fits the quota of its user, where several servers share the directory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable

from lft.server.admission import Admission
from lft.server.quota import Quota, check_room
from lft.server.transfer import Transfer
from lft.store.fenced import FencedPartFile
from lft.store.fencedtree import FencedTree
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.store.paths import counted
from lft.store.sharedstore import SharedPartStore


class SharedQuota(Quota):
    """Counts a user's directory with a counter of all servers (a worker).

    A file is checked when its part file is made or reopened, or grows: in one with the counter, so
    that of two that race at two servers one sees the other. Raises ``BlockingIOError`` where
    another server does not let go of the counter.
    """

    def __init__(self, output: Path, admission: Admission, parts: PartStore) -> None:
        super().__init__(output, admission, parts)
        assert isinstance(parts, SharedPartStore)  # as all servers of the directory have it
        self._counters = parts.counters

    def check(
        self,
        transfer: Transfer,
        own: Part | None = None,
        *,
        anew: bool,  # noqa: ARG002  (an earlier attempt is found before a new one is counted)
        replaces: bool = False,  # noqa: ARG002  (it is removed before)
        size: int | None = None,
    ) -> None:
        """Raise ``RejectedError`` if the directory has no room for a file that has a part file.

        Without one, or where that is published, nothing is to be checked yet, or any more.
        """
        if own and not own.published:
            self._reserve(transfer, own, lambda: own, size)

    def create(self, transfer: Transfer) -> Part:
        """Return a new part file for a transfer. Raises ``RejectedError`` if it has no room."""
        return self._parts.create(transfer.facts, partial(self._reserve, transfer, None))

    def _reserve(
        self,
        transfer: Transfer,
        own: Part | None,
        take: Callable[[], Part],
        size: int | None = None,
    ) -> Part:
        """Make or take a part file, if the directory has room; count it from then on."""
        quota = transfer.session.rights.quota
        if quota is None:
            return take()
        size = transfer.facts.counts if size is None else counted(size)
        with self._counters.open(transfer.facts.directory) as account:
            account.count()
            before = account.parts.get(own.stem, 0) if own else 0
            if account.used - before + size > quota:  # before it is refused, be sure
                account.count(surely=True)
                before = account.parts.get(own.stem, 0) if own else 0
            check_room(transfer, size, quota - account.used + before)
            part = take()
            account.parts[part.stem] = size
        return part

    def publish(self, part: Part) -> str:
        """Publish a file; all servers count it as published from the moment on."""
        if isinstance(part, (FencedPartFile, FencedTree)):  # what was found there is counted
            part.counted = partial(self._counters.publishing, part.facts, part.stem)
        return part.publish()
