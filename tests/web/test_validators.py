"""Entity tags, dates and conditions, without a server."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.web.validators import Validators, judge, parse_date, range_holds

NOW = Validators('"abc"', 784111777)
SAME, EARLIER, LATER = (
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sun, 06 Nov 1994 08:49:36 GMT",
    "Sun, 06 Nov 1994 08:49:38 GMT",
)


@pytest.mark.parametrize(
    "text", [SAME, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_the_three_forms_of_a_date_are_read(text: str) -> None:
    """RFC 9110 has recipients accept the two old ones as well."""
    assert parse_date(text) == 784111777


@given(st.text(max_size=60))
def test_a_date_that_is_none_is_no_error(text: str) -> None:
    """A condition with a bad date is ignored; nothing a client sends raises."""
    assert parse_date(text) is None or isinstance(parse_date(text), int)


def test_a_date_is_written_as_it_is_read() -> None:
    """The form is IMF-fixdate."""
    assert NOW.last_modified == SAME


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"if-none-match": '"abc"'}, 304),
        ({"if-none-match": 'W/"abc"'}, 304),
        ({"if-none-match": '"x", "abc"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"', "if-modified-since": SAME}, None),
        ({"if-modified-since": SAME}, 304),
        ({"if-modified-since": LATER}, 304),
        ({"if-modified-since": EARLIER}, None),
        ({"if-modified-since": "yesterday"}, None),
        ({"if-match": '"abc"'}, None),
        ({"if-match": "*"}, None),
        ({"if-match": 'W/"abc"'}, 412),
        ({"if-match": '"x"'}, 412),
        ({"if-match": '"abc"', "if-unmodified-since": EARLIER}, None),
        ({"if-unmodified-since": EARLIER}, 412),
        ({"if-unmodified-since": SAME}, None),
        ({"if-match": '"x"', "if-none-match": '"abc"'}, 412),
    ],
)
def test_conditions_are_judged_in_their_order(headers: dict[str, str], status: int | None) -> None:
    """RFC 9110, section 13.2.2."""
    assert judge("GET", headers, NOW) == status


@pytest.mark.parametrize(
    ("field", "holds"),
    [
        ('"abc"', True),
        ('W/"abc"', False),
        ('"x"', False),
        (SAME, True),
        (EARLIER, False),
        ("", True),
    ],
)
def test_a_range_holds_for_the_same_state_only(field: str, holds: bool) -> None:
    """If-Range compares strongly; otherwise the whole file is sent."""
    assert range_holds({"if-range": field}, NOW) is holds


def test_a_date_of_this_moment_is_too_weak_for_a_range() -> None:
    """Within a second a file could have changed twice."""
    fresh = Validators('"abc"', int(time.time()))
    assert not range_holds({"if-range": fresh.last_modified}, fresh)


def test_a_long_list_of_tags_costs_linear_time() -> None:
    """A hundred thousand tags are looked through once."""
    began = time.process_time()
    assert judge("GET", {"if-none-match": '"x",' * 100_000}, NOW) is None
    assert time.process_time() - began < 0.5


def test_the_tag_changes_with_the_bytes_and_not_with_a_second_name(tmp_path: Path) -> None:
    """A download goes on while the server removes the part file's name."""
    path, other = tmp_path / "x", tmp_path / "y"
    path.write_bytes(b"one")
    before = Validators.of(path.stat())
    os.link(path, other)
    assert Validators.of(path.stat()) == before
    path.write_bytes(b"two")
    os.utime(path, ns=(0, before.modified * 10**9 + 5))
    assert Validators.of(path.stat()).etag != before.etag


def test_no_time_is_in_the_future(tmp_path: Path) -> None:
    """RFC 9110 allows no Last-Modified behind the Date, whatever the disk says."""
    path = tmp_path / "x"
    path.touch()
    os.utime(path, (2**33, 2**33))
    assert Validators.of(path.stat()).modified <= time.time()
