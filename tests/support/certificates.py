"""A certificate authority and the certificates that it issues."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import trustme


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Pki:
    """A certificate authority and what it has issued, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.server = self.issue("server")
        self.other = self.issue("other")  # another one for the same host

    def issue(self, name: str, *hosts: str, **options: Any) -> Pair:
        """Issue a certificate for ``hosts``, or for this machine."""
        issued = self._authority.issue_cert(*(hosts or ["localhost"]), **options)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        issued.private_key_pem.write_to_path(str(pair.key))
        issued.cert_chain_pems[0].write_to_path(str(pair.cert))
        return pair


def tls(pair: Pair) -> dict[str, Any]:
    """Return the server settings for a certificate."""
    return {"tls_cert": pair.cert, "tls_key": pair.key}


def tls_options(pair: Pair) -> list[str]:
    """Return the same for the command line."""
    return ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
