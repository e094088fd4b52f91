"""What a start opens: accounts, certificate, the store, and listeners that only the right reach."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from config import ServerSettings
from lft.accounts.account import AccountSource, demo_credentials
from lft.accounts.file import CredentialStore
from lft.addresses import is_loopback
from lft.store.partstore import PartStore
from lft.terminal import printable
from lft.wire.listeners import listen
from lft.wire.sockets import Socket
from protocol import UsageError

if TYPE_CHECKING:
    from lft.wire.tls import Tls

log = logging.getLogger("server")


def accounts_of(settings: ServerSettings) -> AccountSource:
    """Load the accounts; the demo ones only where no other machine can reach them."""
    if settings.credentials is not None:
        return CredentialStore(settings.credentials, lambda text: log.warning("%s", text)).current
    for host in _hosts(settings):  # before anything is opened, which says what is wrong with others
        _check_loopback(host, if_unknown=True)
    accounts = demo_credentials()
    return lambda: accounts


def open_listeners(settings: ServerSettings) -> list[Socket]:
    """Open the listeners. Raises ``UsageError``.

    With the demo accounts each address that was bound counts: a name may stand for another one here
    than it did when it was looked at, as ``*`` does.
    """
    return _checked(settings, listen(settings.hosts, settings.port))


def open_web_listeners(settings: ServerSettings) -> list[Socket]:
    """Open the listeners of the HTTP side, if it is asked for. Raises ``UsageError``."""
    if settings.http is None:
        return []
    host, port = settings.http
    return _checked(settings, listen([host], port, "--http"))


def load_tls(settings: ServerSettings) -> Tls | None:
    """Read certificate and key, if the settings name any. Raises ``UsageError`` (main)."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    from lft.wire.tls import Tls  # noqa: PLC0415  (it loads ssl)

    return Tls.load(settings)


def open_store(settings: ServerSettings) -> PartStore:
    """Return what finds part files: by itself, or with others on the same directory (main)."""
    if not settings.shared:
        return PartStore(settings.output)
    from lft.store.sharedstore import SharedPartStore  # noqa: PLC0415  (few servers share)

    return SharedPartStore(settings.output)


def _checked(settings: ServerSettings, listeners: list[Socket]) -> list[Socket]:
    """Return ``listeners``; close them and raise ``UsageError`` where they may not be open."""
    with contextlib.ExitStack() as undo:
        for listener in listeners:
            undo.callback(listener.close)
        if settings.credentials is None:
            for listener in listeners:
                _check_loopback(listener.getsockname()[0])
        undo.pop_all()
    return listeners


def _hosts(settings: ServerSettings) -> tuple[str, ...]:
    return (*settings.hosts, *((settings.http[0],) if settings.http else ()))


def _check_loopback(host: str, *, if_unknown: bool = False) -> None:
    """Raise ``UsageError`` unless only this machine can reach ``host``, or it is unknown."""
    if not is_loopback(host, if_unknown=if_unknown):
        raise UsageError(
            f"the demo accounts work on loopback only, not on {printable(host)}: "
            "make accounts with auth.py add and start with --credentials"
        )
