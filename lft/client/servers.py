"""Which of the addresses of a server's name is tried first."""

from __future__ import annotations

from typing import Any

from lft.addresses import Address, shuffled
from protocol import ConnectionLostError, SentAwayError, SilenceError


class Servers:
    """The servers behind a name, one for each of its addresses. Main's own.

    The server of the last session comes first: it has the file that is under way. One that was
    silent, or that sent us away, comes last. All others come in an order of chance, so that clients
    spread over them.
    """

    def __init__(self) -> None:
        self.others = False  # whether the name has more than one address
        self._first: Address | None = None
        self._last: list[Address] = []  # the one that disappointed us last at the end
        self._tried: Address | None = None
        self._stood = False  # whether there was a session with the one that was tried

    def order(self, addresses: list[Address]) -> list[Address]:
        """Return ``addresses`` in the order in which they are to be tried."""
        self.others = len(addresses) > 1
        first = [one for one in addresses if one == self._first]
        last = [one for one in self._last if one in addresses]
        return first + shuffled([one for one in addresses if one not in first + last]) + last

    def note_connected(self, family: int, address: Any) -> None:
        """Note which server has answered."""
        self._tried, self._stood = Address(family, address), False

    def note_session(self) -> None:
        """Note that there is a session with it."""
        self._stood = True

    def note_lost(self, error: ConnectionLostError) -> None:
        """Note how the last attempt ended."""
        tried, self._tried, self._first = self._tried, None, None
        if tried is None:  # no server has answered
            return
        self._last = [one for one in self._last if one != tried]
        if self._stood and not isinstance(error, (SentAwayError, SilenceError)):
            self._first = tried
        else:
            self._last.append(tried)
