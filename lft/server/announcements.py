"""The announcements of files and directories, up to where their transfers begin."""

from __future__ import annotations

import logging

from lft.manifest import Manifest
from lft.server.lifecycle import Lifecycle
from lft.server.listing import Listing, ManifestShares
from lft.server.sessions import Peer
from protocol import Cancel, FileStart, ManifestPart, Message, Rejected, RejectedError, numbered

log = logging.getLogger("coordinator")


class Announcements:
    """Takes announcements in; each answer is None, or the message for the client.

    All methods run on the worker that has the coordinator, of a session that is logged in.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._shares = ManifestShares()

    def start(self, peer: Peer, start: FileStart) -> Message | None:
        """Begin with a file, or with the manifest of a directory that has one."""
        assert peer.session is not None  # the dialogue sees to it
        if start.entries:
            answer = self._lifecycle.look_at(peer.session, start)
            if not answer:
                listing = Listing(start, peer.session.user, self._shares)
                peer.listings[start.file] = listing
        else:
            empty = None if start.entries is None else Manifest()
            answer = self._lifecycle.begin(peer.session, start, empty)
        return answer and numbered(answer, start.file)

    def add(self, peer: Peer, part: ManifestPart) -> Message | None:
        """Take entries of a directory, and begin with it when all are here."""
        assert peer.session is not None  # the dialogue sees to it
        listing = peer.listings.pop(part.file, None)
        if listing is None:
            return None  # it crossed our REJECTED
        try:
            if not listing.add(part):
                peer.listings[part.file] = listing
                return None
            answer = self._lifecycle.begin(peer.session, listing.start, listing.manifest)
        except RejectedError as error:
            log.warning("rejected %s: %s", listing.start.name, error)
            answer = Rejected(error.code, str(error))
        return answer and numbered(answer, part.file)

    def cancel(self, peer: Peer, message: Cancel) -> Message | None:
        """Give up what the client has announced, or sends."""
        assert peer.session is not None  # the dialogue sees to it
        if peer.listings.pop(message.file, None):
            return numbered(Rejected("cancelled", "cancelled by the client"), message.file)
        self._lifecycle.cancel(peer.session, message.file)
        return None
