"""The words of tus, without a server."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.web.fields import repr_digest
from lft.web.tus import (
    MAX_METADATA,
    TusError,
    claim_of,
    name_of,
    parse_checksum,
    parse_metadata,
    parse_number,
)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SHA = hashlib.sha256(b"x").hexdigest()
MD5 = hashlib.md5(b"x").hexdigest()


def test_metadata_is_read() -> None:
    """Pairs of a key and a value in Base64, which may be empty or left out."""
    field = "filename " + encoded("na\u00efve.txt") + ", empty ,alone"
    assert parse_metadata(field) == {"filename": "na\u00efve.txt", "empty": "", "alone": ""}
    assert parse_metadata("") == {}


@pytest.mark.parametrize(
    "field",
    ["a YQ==,a YQ==", "a !", "a YQ==,,b YQ==", "\u00e4 YQ==", "a /w==", "a Y Q=",
     "a" * MAX_METADATA + "b"],
)  # fmt: skip
def test_bad_metadata_is_refused(field: str) -> None:
    """A key twice, empty or not ASCII, a value that is no Base64 of UTF-8, too much of it."""
    with pytest.raises(TusError):
        parse_metadata(field)


@given(st.text(max_size=60))
def test_metadata_raises_nothing_else(field: str) -> None:
    """Whatever a client sends."""
    try:
        parse_metadata(field)
    except TusError:
        return


def test_the_name_is_found_as_clients_call_it() -> None:
    """tus-js-client says filename, Uppy says name as well."""
    assert name_of({"filename": "a", "name": "b"}) == "a"
    assert name_of({"name": "b"}) == "b"
    assert name_of({}) == "upload"


def test_the_strongest_claim_counts() -> None:
    """A digest of the whole file, from Repr-Digest or Upload-Metadata."""
    both = {"md5": MD5, "sha256": SHA.upper()}
    assert claim_of(both, None) == ("sha256", SHA)
    assert claim_of({"md5": MD5}, None) == ("md5", MD5)
    assert claim_of({"md5": MD5}, repr_digest(SHA)) == ("sha256", SHA)
    assert claim_of({"filename": "x"}, None) is None


@pytest.mark.parametrize(
    ("metadata", "field"), [({"sha256": MD5}, None), ({"md5": "x"}, None), ({}, "sha-256=:AA==:")]
)
def test_a_claim_that_is_no_digest_is_refused(metadata: dict[str, str], field: str | None) -> None:
    """To pass it over would leave the file without the proof that its client asked for."""
    with pytest.raises(TusError):
        claim_of(metadata, field)


def test_a_checksum_is_read() -> None:
    """Algorithm and Base64."""
    digest = hashlib.sha1(b"x").digest()
    checksum = parse_checksum(f"sha1 {base64.b64encode(digest).decode()}")
    assert checksum == ("sha1", digest)
    assert parse_checksum(None) is None


@pytest.mark.parametrize(
    "field", ["crc32 AAAA", "sha1", "sha1 AAAA", "sha1 !", "", "shake_128 AA=="]
)
def test_a_checksum_that_is_none_is_refused(field: str) -> None:
    """Only what OPTIONS names, of its own length."""
    with pytest.raises(TusError):
        parse_checksum(field)


@pytest.mark.parametrize("field", [None, "", "-1", "1.5", "9" * 30, str(2**63), "\u0663"])
def test_a_length_that_is_none_is_refused(field: str | None) -> None:
    """Plain digits, and no more bytes than a file may have."""
    with pytest.raises(TusError):
        parse_number(field, "Upload-Length")
