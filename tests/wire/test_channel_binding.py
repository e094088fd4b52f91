"""The TLS binding of a login: the hash of the server's certificate."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from lft.wire.channel_binding import server_end_point
from protocol import AuthenticationError
from tests.support.generated import quick


def certificate(key: Any, algorithm: Any, pss: Any = None) -> bytes:
    """Return a certificate that signs itself, in DER form."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)])
    start = dt.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(start).not_valid_after(start + dt.timedelta(1))
    options = {"rsa_padding": pss} if pss else {}
    return builder.sign(key, algorithm, **options).public_bytes(serialization.Encoding.DER)


RSA = rsa.generate_private_key(65537, 2048)
ELLIPTIC = ec.generate_private_key(ec.SECP256R1())
ECDSA_SHA256 = certificate(ELLIPTIC, hashes.SHA256())
RSA_SHA256 = certificate(RSA, hashes.SHA256())


def pss(algorithm: Any) -> bytes:
    """Return a certificate that is signed with RSASSA-PSS."""
    return certificate(RSA, algorithm, padding.PSS(padding.MGF1(algorithm), 32))


END_POINTS = {
    "ECDSA SHA-224": (certificate(ELLIPTIC, hashes.SHA224()), "sha224"),
    "ECDSA SHA-256": (ECDSA_SHA256, "sha256"),
    "ECDSA SHA-384": (certificate(ELLIPTIC, hashes.SHA384()), "sha384"),
    "ECDSA SHA-512": (certificate(ELLIPTIC, hashes.SHA512()), "sha512"),
    "RSA SHA-256": (RSA_SHA256, "sha256"),
    "RSA SHA-384": (certificate(RSA, hashes.SHA384()), "sha384"),
    "RSA SHA-512": (certificate(RSA, hashes.SHA512()), "sha512"),
    "PSS SHA-256": (pss(hashes.SHA256()), "sha256"),
    "PSS SHA-384": (pss(hashes.SHA384()), "sha384"),
    "PSS SHA-512": (pss(hashes.SHA512()), "sha512"),
    "Ed25519": (certificate(ed25519.Ed25519PrivateKey.generate(), None), "sha256"),
    # cryptography does not sign with these any more: only their identifiers are put in
    "RSA MD5": (RSA_SHA256.replace(b"\xf7\r\x01\x01\x0b", b"\xf7\r\x01\x01\x04"), "sha256"),
    "RSA SHA-1": (RSA_SHA256.replace(b"\xf7\r\x01\x01\x0b", b"\xf7\r\x01\x01\x05"), "sha256"),
}


@pytest.mark.parametrize("kind", END_POINTS)
def test_the_end_point_is_hashed_as_the_certificate_was_signed(kind: str) -> None:
    """RFC 5929, section 4.1; the package cryptography tells the algorithm independently."""
    der, name = END_POINTS[kind]
    found = x509.load_der_x509_certificate(der).signature_hash_algorithm
    if found is not None and found.name not in ("md5", "sha1"):
        assert found.name == name
    assert server_end_point(der) == hashlib.new(name, der).digest()


def test_pss_without_a_hash_named_means_the_replaced_one() -> None:
    """RFC 4055, section 3.1: the default is SHA-1, which RFC 5929 replaces."""
    identifier = bytes.fromhex("06092a864886f70d01010a")
    for parameters in (b"0\x00", b"0\x04\xa2\x02\x05\x00"):
        algorithm = identifier + parameters
        der = b"0\x00" + bytes([0x30, len(algorithm)]) + algorithm
        der = bytes([0x30, len(der)]) + der
        assert server_end_point(der) == hashlib.sha256(der).digest()


@pytest.mark.parametrize("kind", ["ECDSA SHA-384", "PSS SHA-384"])
def test_every_cut_of_a_certificate_is_refused(kind: str) -> None:
    """Nothing is read beyond the end, and the error is one of ours."""
    der = END_POINTS[kind][0]
    for end in range(len(der)):
        with pytest.raises(AuthenticationError):
            server_end_point(der[:end])
    with pytest.raises(AuthenticationError):
        server_end_point(der + b"x")


def test_an_element_longer_than_the_one_around_it_is_refused() -> None:
    """Enough bytes follow, but they belong to the next element."""
    fits, reaches_out = (bytes([6, n, 1, 2, 3]) for n in (3, 5))
    for name, good in ((fits, True), (reaches_out, False)):
        der = b"\x30\x00\x30\x05" + name + b"\x03\x02\x00\x00"
        der = bytes([0x30, len(der)]) + der
        if good:
            assert server_end_point(der) == hashlib.sha256(der).digest()
        else:
            with pytest.raises(AuthenticationError):
                server_end_point(der)


@quick
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda data: b"0\x80" + data))
def test_no_bytes_raise_anything_but_authentication_error(data: bytes) -> None:
    """Lengths of lengths, indefinite lengths, and lengths beyond the end among them."""
    with contextlib.suppress(AuthenticationError):
        assert len(server_end_point(data)) == 32


@quick
@given(st.integers(0, len(ECDSA_SHA256) - 1), st.integers(0, 255))
def test_a_damaged_certificate_is_hashed_or_refused(place: int, byte: int) -> None:
    """One byte changed anywhere."""
    with contextlib.suppress(AuthenticationError):
        server_end_point(ECDSA_SHA256[:place] + bytes([byte]) + ECDSA_SHA256[place + 1 :])
