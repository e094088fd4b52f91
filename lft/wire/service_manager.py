"""What the service manager is told: the datagrams of sd_notify(3), for ``Type=notify``."""

from __future__ import annotations

import logging
import os
import socket

from lft.terminal import printable

log = logging.getLogger("server")


class ServiceManager:
    """The service manager that started this process, if it wants to hear how that goes.

    One thread's own. Nothing here waits: a manager that does not read is told less.
    """

    def __init__(self) -> None:
        self._place = os.environ.get("NOTIFY_SOCKET", "")  # where it listens
        self._shown = ""  # the status that it was told last

    def tell(self, *states: str) -> None:
        """Tell it ``NAME=VALUE`` of each state."""
        if not self._place:
            return
        # "@" stands for the NUL byte of an address without a file
        address = "\0" + self._place[1:] if self._place.startswith("@") else self._place
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(states).encode(), address)
        except OSError as error:
            log.warning("cannot tell the service manager: %s", error.strerror)

    def show(self, status: str) -> None:
        """Have it show ``status``, a line for people, unless it does so already."""
        if self._place and status != self._shown:
            self._shown = status
            self.tell(f"STATUS={printable(status)}")
