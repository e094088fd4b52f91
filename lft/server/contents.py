"""Whether the content of files is what their extensions say."""

from __future__ import annotations

from typing import Iterator

from lft.accounts.permissions import LONGEST_BEGINNING, looks_like
from lft.manifest import Manifest
from lft.server.transfer import Transfer
from lft.terminal import printable
from protocol import RejectedError


class ContentCheck:
    """Looks at the beginning of each file of a transfer, once that is verified (a worker).

    ``hash.looked_at`` of the transfer counts those that were; it is the hasher's own.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def look(self) -> None:
        """Look at what is verified by now.

        Raises ``RejectedError`` for a file that is not what its extension says.
        """
        transfer = self._transfer
        if not transfer.session.rights.allow_ext:
            return
        for name, start, beginning in self._unseen():
            if transfer.verified_bytes < start + beginning:
                return
            transfer.hash.looked_at += 1
            view = memoryview(bytearray(beginning))
            with transfer.life.use() as part:
                part.read(view, start)
            if not looks_like(name, bytes(view)):
                transfer.life.spoil()
                raise RejectedError("content", self._reason(name))

    def _unseen(self) -> Iterator[tuple[str, int, int]]:
        """Give name, start and length of each beginning that was not looked at."""
        transfer, manifest = self._transfer, self._transfer.facts.manifest
        if manifest is None:
            if not transfer.hash.looked_at:
                yield transfer.name, 0, min(LONGEST_BEGINNING, transfer.blocks.size)
            return
        for number in range(transfer.hash.looked_at, manifest.files):
            beginning = min(LONGEST_BEGINNING, manifest.length(number))
            yield _path(manifest, number), manifest.start(number), beginning

    def _reason(self, name: str) -> str:
        reason = "the content is not what the extension says"
        of_tree = self._transfer.facts.is_tree
        return f"{printable(name[:80])!r}: {reason}" if of_tree else reason


def _path(manifest: Manifest, number: int) -> str:
    return manifest.path(manifest.file(number)).decode()
