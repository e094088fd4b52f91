"""The names that a certificate is for (RFC 5280, section 4.2.1.6)."""

from __future__ import annotations

from lft.wire.der import SEQUENCE, element

# DER tags
_VERSION, _ISSUER_ID, _SUBJECT_ID, _EXTENSIONS, _DNS_NAME = 0xA0, 0x81, 0x82, 0xA3, 0x82
_BOOLEAN, _INTEGER, _OCTETS, _OID = 0x01, 0x02, 0x04, 0x06
_ALTERNATIVE_NAMES = bytes([0x55, 0x1D, 0x11])  # 2.5.29.17


def host_names(certificate: bytes) -> tuple[str, ...]:
    """Return the host names in a certificate in DER form, in lower case.

    Raises ``ValueError`` where it is damaged.
    """
    start, end = element(certificate, 0, len(certificate), SEQUENCE)
    at, end = element(certificate, start, end, SEQUENCE)  # what is signed
    at = _skip(certificate, at, end, _VERSION)
    # serial number, algorithm, issuer, validity, subject, key
    for tag in (_INTEGER, *[SEQUENCE] * 5):
        _, at = element(certificate, at, end, tag)
    for tag in (_ISSUER_ID, _SUBJECT_ID):
        at = _skip(certificate, at, end, tag)
    if at >= end:
        return ()
    at, end = element(certificate, at, end, _EXTENSIONS)
    at, end = element(certificate, at, end, SEQUENCE)
    while at < end:
        start, at = element(certificate, at, end, SEQUENCE)
        names = _names_of(certificate, start, at)
        if names:
            return names
    return ()


def _skip(data: bytes, at: int, end: int, tag: int) -> int:
    """Return where the next element begins, behind one that may be left out."""
    return element(data, at, end, tag)[1] if data[at : at + 1] == bytes([tag]) else at


def _names_of(data: bytes, at: int, end: int) -> tuple[str, ...]:
    """Return the names in one extension, if it is the one that has them."""
    start, at = element(data, at, end, _OID)
    if data[start:at] != _ALTERNATIVE_NAMES:
        return ()
    at, end = element(data, _skip(data, at, end, _BOOLEAN), end, _OCTETS)
    at, end = element(data, at, end, SEQUENCE)
    names = []
    while at < end:
        tag = data[at]
        start, at = element(data, at, end, tag)
        if tag == _DNS_NAME:
            names.append(data[start:at].decode("ascii").lower())
    return tuple(names)
