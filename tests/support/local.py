"""A server in a thread of this process."""

from __future__ import annotations

import threading
from typing import Callable

from config import ClientSettings, ServerSettings
from lft.accounts.account import AccountSource, demo_credentials
from lft.server.sessions import Peer
from server import Server
from tests.support.waiting import PATIENCE

DEMO = demo_credentials()


class ServerThread:
    """A server in this process, for settings that have no option and faults made from inside."""

    def __init__(self, settings: ServerSettings, accounts: AccountSource = lambda: DEMO) -> None:
        self.output = settings.output
        self.server = Server(settings, accounts)
        self.port = self.server.address[1]
        self._thread = threading.Thread(target=self.server.run, name="server-main")
        self._thread.start()

    def client(self, **changes: object) -> ClientSettings:
        """Return the settings of a client of this server."""
        own: dict[str, object] = {"port": self.port, "timeout": 10.0, **changes}
        return ClientSettings(**own)  # type: ignore[arg-type]

    def stop(self) -> None:
        """End it and wait for that."""
        self.server.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def wire_peers(server: Server) -> list[Peer]:
    """Return the connections of a server on which the wire's protocol is spoken."""
    return [one for one in server.connections.peers if isinstance(one, Peer)]


StartLocal = Callable[..., ServerThread]
