"""Records: cheap to define, and for ``dataclasses`` and its users a frozen dataclass."""

from __future__ import annotations

import dataclasses

import pytest

from lft.records import Record, unchecked, whole


class Parcel(Record):
    """A record with each kind of field."""

    weight: int = whole(1, 9)
    colour: str = "brown"
    secret: str = unchecked(default="none", shown=False)


def test_a_plain_default_declares_a_field_of_any_value() -> None:
    """Settings read like those of any other program."""
    assert Parcel(3).colour == "brown"
    assert Parcel(3, "blue") == Parcel(weight=3, colour="blue", secret="none")


def test_a_copy_with_changes_is_checked_too() -> None:
    """There is no way around the check."""
    assert Parcel(3).replace(weight=4) == Parcel(4)
    with pytest.raises(ValueError, match="weight must be a number from 1 to 9"):
        Parcel(3).replace(weight=10)


def test_the_library_takes_a_record_for_a_frozen_dataclass() -> None:
    """Programs that send with ``send_files`` change its settings with ``dataclasses.replace``."""
    parcel = Parcel(3)
    assert dataclasses.is_dataclass(parcel)
    assert [item.name for item in dataclasses.fields(Parcel)] == ["weight", "colour", "secret"]
    assert dataclasses.replace(parcel, colour="blue") == Parcel(3, "blue")
    assert dataclasses.asdict(parcel) == {"weight": 3, "colour": "brown", "secret": "none"}
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'weight'"):
        parcel.weight = 4  # type: ignore[misc]


def test_a_secret_is_not_in_the_representation() -> None:
    """A record may be logged."""
    assert repr(Parcel(3, secret="s3cret")) == "Parcel(weight=3, colour='brown')"
