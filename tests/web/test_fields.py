"""Header fields about a file, without a server."""

from __future__ import annotations

import base64
import hashlib
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.store.paths import output_name, unique
from lft.web.fields import (
    content_disposition,
    original_name,
    parse_repr_digest,
    repr_digest,
)

SHA = hashlib.sha256(b"x")


def test_a_file_has_its_original_name_again() -> None:
    """What the server put before it is for the server's directory."""
    assert original_name(output_name("a_b.txt", unique())) == "a_b.txt"
    assert original_name("notes.txt") == "notes.txt"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("plain name.txt", 'attachment; filename="plain name.txt"'),
        ("na\u00efve.txt", "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
        ('a"b\\c', "attachment; filename=\"a_b_c\"; filename*=UTF-8''a%22b%5Cc"),
        ("50%.txt", "attachment; filename=\"50_.txt\"; filename*=UTF-8''50%25.txt"),
        ("a\r\nSet-Cookie: x", 'attachment; filename="a__Set-Cookie: x"'),
        ("\udcff", 'attachment; filename="_"'),
    ],
)
def test_a_name_is_said_in_both_forms(name: str, field: str) -> None:
    """RFC 6266 and 8187: a plain one for old clients, UTF-8 for the others."""
    assert content_disposition(name) == field


@given(st.text(min_size=1, max_size=40))
def test_no_cr_or_lf_from_a_name_reaches_a_header(name: str) -> None:
    """Nor anything but what ASCII shows; the name stands in it once it is decoded."""
    field = content_disposition(name)
    assert field.isascii()
    assert field.isprintable()
    assert field.startswith("attachment; ")
    if "filename*" in field:
        encoded = field.partition("filename*=UTF-8''")[2]
        assert len(urllib.parse.unquote(encoded, errors="strict")) == len(name)


def test_a_digest_is_read_as_it_is_written() -> None:
    """RFC 9530."""
    assert parse_repr_digest(repr_digest(SHA.hexdigest())) == SHA.hexdigest()
    both = f"md5=:AAAA:, {repr_digest(SHA.hexdigest())}"
    assert parse_repr_digest(both) == SHA.hexdigest()


@pytest.mark.parametrize("field", ["sha-256=:AAAA:", "sha-256=:A:", "sha-256=:====:"])
def test_a_digest_that_is_none_is_refused(field: str) -> None:
    """It must have 32 bytes in strict Base64."""
    with pytest.raises(ValueError, match=r"SHA-256|Base64"):
        parse_repr_digest(field)


@pytest.mark.parametrize("field", ["", "md5=:AAAA:", "xsha-256=:AAAA:", "sha-512=:AA:"])
def test_a_digest_of_another_kind_is_passed_over(field: str) -> None:
    """RFC 9530: what a recipient does not know it ignores."""
    assert parse_repr_digest(field) is None


def test_the_digest_field_is_base64_between_colons() -> None:
    """A structured field's byte sequence."""
    assert repr_digest(SHA.hexdigest()) == f"sha-256=:{base64.b64encode(SHA.digest()).decode()}:"
