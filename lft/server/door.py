"""The door: the listeners, while they are open, paused or shut."""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from functools import partial
from typing import Callable, Sequence

import config
from lft.server.event_loop import EventLoop
from lft.wire.listeners import Listening
from lft.wire.sockets import Socket

log = logging.getLogger("server")

ACCEPTS_TOGETHER = 64  # connections taken before the loop looks at other things


class Door:
    """The listeners of the server. Everything runs on main.

    *Paused* it leaves new connections with the system, for want of descriptors. *Shut* it has the
    system refuse them at once, so that clients go to another server, or come again.
    """

    def __init__(
        self,
        listeners: Sequence[Socket],
        loop: EventLoop,
        let_in: Callable[[Socket, str], None],
        make_room: Callable[[], bool],
    ) -> None:
        """``let_in`` takes a connection and its address; ``make_room`` frees a descriptor."""
        self._listeners = list(listeners)
        self._places = [Listening.of(one) for one in listeners]
        self._loop = loop
        self._let_in = let_in
        self._make_room = make_room
        self._failed = 0  # times that something did not work, of which no one was told
        self._told_at = -config.TELL_AGAIN

    def open(self) -> bool:
        """Accept connections; return whether it was shut and is not any more."""
        was_shut = not self._listeners
        if was_shut:
            self._listen_again()
        for listener in self._listeners:
            if not self._loop.watches(listener):
                self._loop.watch(listener, selectors.EVENT_READ, partial(self._accept, listener))
        return was_shut and bool(self._listeners)

    def _listen_again(self) -> None:
        """Bind all listeners as they were, or none of them."""
        with contextlib.ExitStack() as undo:
            try:
                opened = [undo.enter_context(place.open()) for place in self._places]
            except OSError as error:
                self._tell("cannot listen again", error)
            else:
                undo.pop_all()
                self._listeners = opened

    def pause(self) -> None:
        """Leave new connections with the system."""
        for listener in self._listeners:
            self._loop.unwatch(listener)

    def shut(self) -> bool:
        """Have the system refuse new and held connections; return whether it was open."""
        was_open = bool(self._listeners)
        self.pause()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        return was_open

    def _accept(self, listener: Socket) -> None:
        for _ in range(ACCEPTS_TOGETHER):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:  # out of descriptors
                if not self._make_room():
                    self.pause()
                    self._tell("cannot accept connections", error)
                    return
            else:
                self._let_in(sock, str(address[0]))

    def _tell(self, what: str, error: OSError) -> None:
        """Say now and then what does not work."""
        self._failed += 1
        if time.monotonic() - self._told_at >= config.TELL_AGAIN:
            times = f" ({self._failed} times)" if self._failed > 1 else ""
            log.warning("%s: %s%s", what, error.strerror, times)
            self._told_at, self._failed = time.monotonic(), 0
