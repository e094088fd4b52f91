"""Which host a request may be for, and from which site a browser may send it.

A foreign page can have its own name lead to this machine ("DNS rebinding"): the browser then takes
our answers for its own. It cannot change the ``Host`` that it sends, so that tells.
"""

from __future__ import annotations

import os
from functools import lru_cache
from http import HTTPStatus
from typing import Iterable

from lft.addresses import is_address
from lft.web.head import Head
from lft.web.problem import HttpError

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site: our own page, or no page at all


class Hosts:
    """The names of this server: those that the user has named, the machine's, the certificate's.

    Main sets ``certified``, which is replaced as a whole; any thread may ask.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Take those that the user has named."""
        self.certified: tuple[str, ...] = ()
        self._names = {"localhost", os.uname().nodename.lower(), *(one.lower() for one in names)}

    def check(self, head: Head) -> None:
        """Raise ``HttpError`` for a request that is for another host, or has a foreign page's mark.

        An address in place of a name is our own: no page of another name came from there.
        """
        host = head.host.strip("[]").rstrip(".")
        if host not in self._names and not self._is_certified(host) and not _is_address(host):
            reason = "this server has another name: give --http HOST:PORT the one to be used"
            raise HttpError(HTTPStatus.MISDIRECTED_REQUEST, reason)

    def _is_certified(self, host: str) -> bool:
        """Whether the certificate is for ``host``: there a name that leads astray fails anyway."""
        wild = f"*.{host.partition('.')[2]}"
        return host in self.certified or wild in self.certified


_is_address = lru_cache(maxsize=256)(is_address)  # a call of the system that each request made


def check_origin(head: Head, *, secure: bool) -> None:
    """Raise ``HttpError`` for a request by another site's page that would change something.

    Where we have no TLS, a proxy before us may: then the page has come by https.
    """
    if head.method in _SAFE_METHODS:
        return
    origin, site = head.fields.get("origin"), head.fields.get("sec-fetch-site", "none")
    own = {f"{scheme}://{head.authority}".lower() for scheme in ("https", "http")[: 2 - secure]}
    if site not in _OWN_SITES or (origin is not None and origin.lower() not in own):
        raise HttpError(HTTPStatus.FORBIDDEN, "this came from the page of another site")
