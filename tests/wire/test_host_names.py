"""The names in certificates, beside those that another library finds."""

from __future__ import annotations

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lft.wire.host_names import host_names


def der(*names: str) -> bytes:
    """Make a certificate."""
    chain = trustme.CA().issue_cert(*names).cert_chain_pems[0].bytes()
    return x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "names", [["a.example"], ["A.example", "*.b.example", "127.0.0.1", "::1"], ["127.0.0.1"]]
)
def test_the_names_are_those_that_were_asked_for(names: list[str]) -> None:
    """Addresses are none: browsers check those by themselves."""
    wanted = [one.lower() for one in names if one[-1].isalpha()]
    assert list(host_names(der(*names))) == wanted


def test_a_certificate_without_names_has_none() -> None:
    """That of an authority, for example."""
    pem = trustme.CA().cert_pem.bytes()
    assert host_names(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)) == ()


def test_a_damaged_certificate_is_told() -> None:
    """Cut anywhere: an error that is caught, and no endless loop."""
    whole = der("a.example")
    for cut in range(0, len(whole), 7):
        with pytest.raises((ValueError, IndexError)):
            host_names(whole[:cut])
