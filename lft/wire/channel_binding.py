"""The certificate's fingerprint that binds a login to its TLS connection (RFC 5929)."""

from __future__ import annotations

import hashlib

from lft.wire.der import SEQUENCE, element
from protocol import AuthenticationError

# The signature algorithms whose own hash RFC 5929 uses, by the bytes of their identifiers. All
# others are hashed with SHA-256: it replaces MD5 and SHA-1, most of the rest use it anyway, and for
# Ed25519 and Ed448, which have no hash of their own, the RFC leaves the choice to the two ends.
_HASHES = {
    bytes.fromhex("2a864886f70d01010c"): "sha384",  # RSA: 1.2.840.113549.1.1.12 and so on
    bytes.fromhex("2a864886f70d01010d"): "sha512",
    bytes.fromhex("2a864886f70d01010e"): "sha224",
    bytes.fromhex("2a8648ce3d040301"): "sha224",  # ECDSA: 1.2.840.10045.4.3.1
    bytes.fromhex("2a8648ce3d040303"): "sha384",
    bytes.fromhex("2a8648ce3d040304"): "sha512",
    bytes.fromhex("608648016503040301"): "sha224",  # DSA: 2.16.840.1.101.3.4.3.1
    bytes.fromhex("608648016503040303"): "sha384",
    bytes.fromhex("608648016503040304"): "sha512",
    bytes.fromhex(
        "608648016503040202"
    ): "sha384",  # the hash alone, within PSS: 2.16.840.1.101.3.4.2.2
    bytes.fromhex("608648016503040203"): "sha512",
    bytes.fromhex("608648016503040204"): "sha224",
}
_PSS = bytes.fromhex("2a864886f70d01010a")  # RSASSA-PSS (RFC 4055): the hash is a parameter
_IDENTIFIER, _FIRST_PARAMETER = 0x06, 0xA0  # DER tags


def server_end_point(certificate: bytes) -> bytes:
    """Return the tls-server-end-point binding (RFC 5929, section 4) of a DER certificate.

    Raises ``AuthenticationError`` for one that cannot be read.
    """
    try:
        name = _signature_hash(certificate)
    except ValueError:
        raise AuthenticationError("the TLS certificate cannot be read") from None
    return hashlib.new(name, certificate).digest()


def _signature_hash(certificate: bytes) -> str:
    """Return the signature's hash. A Certificate is { to be signed, algorithm, signature }."""
    start, end = element(certificate, 0, len(certificate), SEQUENCE)
    if end != len(certificate):
        raise ValueError("bytes behind the certificate")
    _, signed_end = element(certificate, start, end, SEQUENCE)
    start, end = element(certificate, signed_end, end, SEQUENCE)
    first, last = element(certificate, start, end, _IDENTIFIER)
    if certificate[first:last] == _PSS:
        return _pss_hash(certificate, last, end)
    return _HASHES.get(certificate[first:last], "sha256")


def _pss_hash(data: bytes, start: int, end: int) -> str:
    """Return the hash of RSASSA-PSS-params { [0] { identifier, ... }, ... }."""
    start, end = element(data, start, end, SEQUENCE)
    if start == end or data[start] != _FIRST_PARAMETER:
        return "sha256"  # the default is SHA-1, which RFC 5929 replaces
    for tag in (_FIRST_PARAMETER, SEQUENCE, _IDENTIFIER):
        start, end = element(data, start, end, tag)
    return _HASHES.get(data[start:end], "sha256")
