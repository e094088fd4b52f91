"""JSON read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.strictjson import as_object, parse_json, with_keys
from tests.support.generated import quick, shorter

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@quick
@given(values)
def test_json_without_fractions_is_read_as_it_was_written(value: Any) -> None:
    """Objects, lists, text, whole numbers, true, false and null."""
    assert parse_json(json.dumps(value).encode()) == value


BAD = [b"", b"{", b"{}{}", b"\xff", b"NaN", b"-Infinity", b"1.0", b"1e0", b"9" * 21, b"9" * 5000]
BAD += [b"[" * 100_000, b'{"a":' * 100_000]


@pytest.mark.parametrize("data", BAD, ids=shorter)
def test_what_is_not_strict_json_is_refused_without_being_quoted(data: bytes) -> None:
    """Cut, doubled, not UTF-8, not a whole number, endless, or too deep."""
    with pytest.raises(ValueError, match=r"^not the JSON it should be$"):
        parse_json(data)


def test_fractions_are_read_when_asked_for() -> None:
    """The rest stays as strict."""
    assert parse_json(b"[1.5]", fractions=True) == [1.5]
    with pytest.raises(ValueError, match="not the JSON"):
        parse_json(b"NaN", fractions=True)


@pytest.mark.parametrize("data", [b"[]", b'[["a",1]]', b"null", b'"a"', b"1"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    """A list of pairs is no object, either."""
    with pytest.raises(ValueError, match="not the JSON"):
        as_object(parse_json(data))


def test_a_key_that_stands_twice_is_named() -> None:
    """It is unclear which value counts. An object is checked apart from the objects inside it."""
    parsed: Any = parse_json(b'{"a":{"b":1,"b":1},"c":2}')
    assert as_object(parsed)["c"] == 2
    with pytest.raises(ValueError, match="'b' stands there twice"):
        as_object(parsed["a"])


def test_a_missing_or_unknown_key_is_named() -> None:
    """Required keys must be there, optional ones may be, and no others."""
    parsed = parse_json(b'{"a":1,"b":2}')
    assert with_keys(parsed, {"a"}, {"b", "c"}) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match=r"^d is missing$"):
        with_keys(parsed, {"a", "b", "d"}, set())
    with pytest.raises(ValueError, match=r"^'b' is not known$"):
        with_keys(parsed, {"a"}, {"c"})
