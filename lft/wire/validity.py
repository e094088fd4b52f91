"""The time for which a certificate is good (RFC 5280, section 4.1.2.5).

Python's ``ssl`` tells a certificate's dates only once a handshake has found it good, so never those
of one that has expired. We read certificates in DER for the channel binding anyway.
"""

from __future__ import annotations

import calendar
import time
from typing import Iterable, NamedTuple

import config
from lft.wire.der import SEQUENCE, element

_VERSION, _INTEGER, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x02, 0x17, 0x18  # DER tags


class Validity(NamedTuple):
    """From when until when clients trust a certificate: seconds since 1970."""

    begins: float
    ends: float

    @classmethod
    def of(cls, certificate: bytes) -> Validity:
        """Read it from a certificate in DER form. Raises ``ValueError``."""
        start, end = element(certificate, 0, len(certificate), SEQUENCE)
        at, end = element(certificate, start, end, SEQUENCE)  # what is signed
        if certificate[at : at + 1] == bytes([_VERSION]):
            _, at = element(certificate, at, end, _VERSION)
        for tag in (_INTEGER, SEQUENCE, SEQUENCE):  # serial number, algorithm, issuer
            _, at = element(certificate, at, end, tag)
        at, end = element(certificate, at, end, SEQUENCE)
        begins, at = _instant(certificate, at, end)
        ends, _ = _instant(certificate, at, end)
        return cls(begins, ends)

    @classmethod
    def of_all(cls, chain: Iterable[Validity]) -> Validity:
        """Return when all of a chain are good at once."""
        begins, ends = zip(*chain)
        return cls(max(begins), min(ends))

    def trouble(self, now: float) -> str:
        """Say what keeps clients from trusting it at ``now``, or will soon; "" if nothing does."""
        if now < self.begins:
            return f"no client trusts it before {_words(self.begins)}: is a clock wrong?"
        if now >= self.ends:
            return f"it expired on {_words(self.ends)}, and no client trusts it: renew it"
        if now >= self.ends - config.CERTIFICATE_NOTICE:
            return f"it expires on {_words(self.ends)}: renew it"
        return ""


def _instant(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the instant at ``at``, and where it ends. Raises ``ValueError``."""
    short = data[at : at + 1] == bytes([_UTC_TIME])  # a year of two digits, from 1950 to 2049
    start, end = element(data, at, end, _UTC_TIME if short else _GENERALIZED_TIME)
    text = data[start:end].decode("ascii")
    if short:
        text = ("19" if text >= "50" else "20") + text
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")), end


def _words(instant: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(instant))
