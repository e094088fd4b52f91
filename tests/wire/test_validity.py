"""When a certificate is good, as read from its bytes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from config import CERTIFICATE_NOTICE
from lft.wire.validity import Validity
from tests.support.generated import quick

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)])
DER = serialization.Encoding.DER


def certificate(begins: dt.datetime, ends: dt.datetime) -> bytes:
    """Return a certificate with these dates, in DER form."""
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME)
    builder = builder.public_key(KEY.public_key()).serial_number(2**158)
    builder = builder.not_valid_before(begins).not_valid_after(ends)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(DER)


def seconds(instant: dt.datetime) -> float:
    """Return an instant of UTC in seconds since 1970."""
    return instant.replace(tzinfo=dt.timezone.utc, microsecond=0).timestamp()


@quick
@given(st.data())
def test_the_dates_are_those_that_another_library_wrote(data: st.DataObject) -> None:
    """In either form: with two digits of the year up to 2049, with four from then on."""
    first, last = dt.datetime(1950, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59)
    begins = data.draw(st.datetimes(first, last))
    ends = data.draw(st.datetimes(begins, last))
    assert Validity.of(certificate(begins, ends)) == (seconds(begins), seconds(ends))


@pytest.mark.parametrize("year", [1999, 2000, 2049, 2050])
def test_the_turn_of_a_century_is_right(year: int) -> None:
    """RFC 5280: 50 means 1950, and 49 means 2049."""
    ends = dt.datetime(year, 12, 31, 23, 59, 59)
    assert Validity.of(certificate(dt.datetime(1950, 1, 1), ends)).ends == seconds(ends)


def test_a_certificate_of_trustme_is_read() -> None:
    """One with extensions, issued by an authority."""
    pem = trustme.CA().issue_cert("localhost").cert_chain_pems[0].bytes()
    loaded = x509.load_pem_x509_certificate(pem)
    ends = loaded.not_valid_after_utc.timestamp()
    assert Validity.of(loaded.public_bytes(DER)).ends == ends


GOOD = certificate(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1))


@quick
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_damage_is_a_value_error(at: int, byte: int, cut: bool) -> None:
    """A byte changed, or all behind it gone: never anything but a date or that."""
    damaged = GOOD[:at] if cut else GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    try:
        assert len(Validity.of(damaged)) == 2
    except ValueError:
        assert damaged != GOOD


def test_a_chain_is_good_while_all_of_it_is() -> None:
    """The end of an authority is the end of what it has issued."""
    assert Validity.of_all([Validity(1, 9), Validity(3, 7), Validity(2, 8)]) == (3, 7)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (99.0, "no client trusts it before 1970-01-01 00:01 UTC: is a clock wrong?"),
        (100.0, ""),
        (10**9 - CERTIFICATE_NOTICE - 1, ""),
        (10**9 - CERTIFICATE_NOTICE, "it expires on 2001-09-09 01:46 UTC: renew it"),
        (10**9 - 1, "it expires on 2001-09-09 01:46 UTC: renew it"),
        (10**9, "it expired on 2001-09-09 01:46 UTC, and no client trusts it: renew it"),
    ],
)
def test_trouble_is_told_two_weeks_before(now: Any, words: str) -> None:
    """With the instant, so that no one has to count days."""
    assert Validity(100.0, 10**9).trouble(now) == words
