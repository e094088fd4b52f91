"""What each session has under way: its transfers, and the verdicts that it has not confirmed."""

from __future__ import annotations

from typing import Callable, Dict, Optional, Tuple

from lft.server.sessions import Session
from lft.server.transfer import Transfer
from protocol import Message, Spans

Tell = Callable[[Transfer, Message], None]  # has a message about a transfer sent to its client

_ByFile = Dict[Tuple[Session, Optional[int]], Transfer]  # by session, and number of the file if any


class UnderWay:
    """The transfers of each session, and those whose verdict its client may not have read.

    Any thread may call any method. There is no lock: each change is of one key of a dict.
    """

    def __init__(self) -> None:
        self._running: _ByFile = {}
        self._by_number: dict[tuple[Session, int], Transfer] = {}  # the same ones, once admitted
        self._unconfirmed: _ByFile = {}  # the oldest first

    def add(self, transfer: Transfer) -> None:
        """Note a transfer that begins."""
        self._running[transfer.session, transfer.facts.file] = transfer

    def note_number(self, transfer: Transfer) -> None:
        """Note the number that block headers have, once the transfer has it."""
        self._by_number[transfer.session, transfer.number] = transfer

    def find(self, session: Session, number: int) -> Transfer | None:
        """Return the transfer of ``session`` that block headers call ``number``."""
        return self._by_number.get((session, number))

    def find_file(self, session: Session, file: int | None) -> Transfer | None:
        """Return the transfer of the file that the session calls ``file``."""
        return self._running.get((session, file))

    def of(self, session: Session) -> list[Transfer]:
        """Return the transfers of ``session``."""
        return [one for one in list(self._running.values()) if one.session is session]

    def remove(self, transfer: Transfer) -> None:
        """Note that a transfer is over."""
        if self._running.get((transfer.session, transfer.facts.file)) is transfer:
            del self._running[transfer.session, transfer.facts.file]
        self._by_number.pop((transfer.session, transfer.number), None)

    # -- verdicts

    def note_published(self, transfer: Transfer) -> None:
        """Note a file whose verdict is about to be said."""
        self._unconfirmed[transfer.session, transfer.facts.file] = transfer

    def unconfirmed(self, session: Session) -> list[Transfer]:
        """Return the published transfers of ``session``, the oldest first."""
        return [one for one in list(self._unconfirmed.values()) if one.session is session]

    def confirmed(self, session: Session, files: Spans | None) -> list[Transfer]:
        """Return those of them that have one of these numbers, or no number for ``None``."""
        numbered = [(one, one.facts.file) for one in self.unconfirmed(session)]
        if files is None:
            return [one for one, file in numbered if file is None]
        return [one for one, file in numbered if file is not None and _holds(files, file)]

    def settle(self, transfer: Transfer, *, confirmed: bool) -> None:
        """Note whether the client has read the verdict: the part file is let go."""
        if self._unconfirmed.get((transfer.session, transfer.facts.file)) is transfer:
            del self._unconfirmed[transfer.session, transfer.facts.file]
            transfer.life.settle(confirmed=confirmed)


def _holds(spans: Spans, number: int) -> bool:
    return any(first <= number < end for first, end in spans)
