"""How far a transfer has come, and its part file while workers use it."""

from __future__ import annotations

import contextlib
import enum
import threading
from typing import Callable, Iterator

from lft.store.part import Part


class TransferEndedError(Exception):
    """The transfer has ended meanwhile; a worker that still works for it stops."""


class Stage(enum.IntEnum):
    """How far a transfer has come: each stage leads to the next, as far as ``CONFIRMED``.

    Only a disk that refuses leads from ``PUBLISHING`` back to ``JUDGED``; every other stage before
    ``CONFIRMED`` may lead to ``ENDED``.
    """

    OPEN = 0  # blocks come and are hashed
    JUDGED = 1  # all of them are; one worker is to publish the file
    PUBLISHING = 2
    PUBLISHED = 3  # the part file stays until the client has read the verdict, or is gone
    CONFIRMED = 4  # the part file is not needed any more: it goes with its last user
    ENDED = 5  # the client may go on with the part file: it rests when its last user has left


def _nothing(_part: Part) -> None:
    """Do nothing: the part file has been let go."""


class Lifetime:
    """The stage of one transfer, and its part file, which stays open until its last user has left.

    The lock protects all attributes. Any worker may call any method; ``stage`` and the properties
    are one read each and need no lock.
    """

    def __init__(self, let_go: Callable[[Part], None]) -> None:
        """Hand the part file to ``let_go``, once, when the transfer is over and unused."""
        self.stage = Stage.OPEN
        self._let_go = let_go
        self._lock = threading.Lock()
        self._part: Part | None = None
        self._users = 0  # workers that use the part file right now

    def open(self, part: Part) -> bool:
        """Begin to use ``part``; ``False`` if the transfer has ended meanwhile."""
        with self._lock:
            if not self.ended:
                self._part = part
            return not self.ended

    @property
    def receiving(self) -> bool:
        """Whether blocks may come."""
        return self._part is not None and not self.ended

    @property
    def ended(self) -> bool:
        """Whether the transfer is over; its part file may still be in use for a moment."""
        return self.stage >= Stage.PUBLISHED

    @contextlib.contextmanager
    def use(self) -> Iterator[Part]:
        """Use the part file. Raises ``TransferEndedError`` when that is not possible any more."""
        with self._lock:
            if self.ended or self._part is None:
                raise TransferEndedError
            self._users += 1
            part = self._part
        try:
            yield part
        finally:
            with self._lock:
                self._users -= 1
            self._look_last()

    def _look_last(self) -> None:
        """Let the part file go, once, when the stage is a last one and no worker uses it."""
        with self._lock:
            if self.stage < Stage.CONFIRMED or self._users or self._part is None:
                return
            part, self._part = self._part, None
            let_go, self._let_go = self._let_go, _nothing  # so that we and the transfer can go
        let_go(part)

    def spoil(self) -> None:
        """Let no client go on with the part file."""
        with self._lock:
            if self._part:
                self._part.trusted = False

    def judge(self) -> bool:
        """Note that all blocks are verified; return whether the caller has to publish the file."""
        with self._lock:
            first = self.stage is Stage.OPEN
            if first:
                self.stage = Stage.JUDGED
            return first

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish the file within this. Raises ``TransferEndedError`` if it has ended meanwhile."""
        with self._lock:
            if self.ended:
                raise TransferEndedError
            self.stage, after = Stage.PUBLISHING, Stage.JUDGED
        try:
            yield
            after = Stage.PUBLISHED
        finally:
            with self._lock:
                self.stage = after

    def end(self) -> bool:
        """Let nothing more begin; return whether it was this call that ended the transfer."""
        with self._lock:
            ends = self.stage < Stage.PUBLISHING
            if ends:
                self.stage = Stage.ENDED
        self._look_last()
        return ends

    def settle(self, *, confirmed: bool) -> None:
        """Note whether the client has read the verdict; otherwise it may ask for it again."""
        with self._lock:
            if self.stage is Stage.PUBLISHED:
                self.stage = Stage.CONFIRMED if confirmed else Stage.ENDED
        self._look_last()
