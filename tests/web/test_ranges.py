"""Ranges of bytes, without a server."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.web.ranges import Span, UnsatisfiableError, parse_range


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("bytes=0-", Span(0, 100)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=90-1000", Span(90, 100)),
        ("bytes=99-" + "9" * 5000, Span(99, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("Bytes= 5-5 ", Span(5, 6)),
        ("bytes=" + "0" * 3000 + "7-8", Span(7, 9)),
    ],
)
def test_one_range_is_taken(field: str, wanted: Span) -> None:
    """Every form of a single range names the bytes that RFC 9110 says."""
    assert parse_range(field, 100) == wanted


@pytest.mark.parametrize(
    "field", ["", "bytes=", "bytes=-", "bytes=9-5", "lines=1-2", "bytes=a-b", "bytes=0-1,5-6",
              "bytes=1-2,", "bytes=--1", "bytes=٣-٤"],
)  # fmt: skip
def test_several_ranges_and_nonsense_get_the_whole_file(field: str) -> None:
    """A server may ignore what is no single range."""
    assert parse_range(field, 100) is None


@pytest.mark.parametrize(("field", "size"), [("bytes=100-", 100), ("bytes=0-", 0), ("bytes=-0", 9),
                                             ("bytes=" + "9" * 4000 + "-", 100)])  # fmt: skip
def test_a_range_beyond_the_end_cannot_be_satisfied(field: str, size: int) -> None:
    """Nothing of it is in the file: the answer is 416."""
    with pytest.raises(UnsatisfiableError):
        parse_range(field, size)


def test_many_ranges_cost_linear_time() -> None:
    """A header of a thousand times as many ranges takes no more than that many times as long."""
    field = "bytes=" + ",".join(f"{n}-{n}" for n in range(100_000))
    began = time.process_time()
    assert parse_range(field, 10**6) is None
    assert time.process_time() - began < 0.5


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 50))
def test_a_range_lies_within_the_file(field: str, size: int) -> None:
    """Whatever a field says, nothing beyond the file is sent."""
    try:
        span = parse_range(f"bytes={field}", size)
    except UnsatisfiableError:
        return
    assert span is None or 0 <= span.start < span.end <= size
