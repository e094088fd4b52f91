"""What the log says of blocks that were asked for again."""

from __future__ import annotations

import pytest

import config
from lft.client.repair_report import Repairs
from protocol import Blocks, Why


def test_a_repair_is_named_when_it_is_asked_for_and_when_it_is_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With its place and its reason, so that a bad disk or network can be found."""
    caplog.set_level("INFO")
    repairs = Repairs(Blocks(100, 10))
    repairs.tell(3, 4, Why.DAMAGED)
    repairs.tell(5, 8, "some later reason")
    repairs.tell_success()
    assert [record.getMessage() for record in caplog.records] == [
        "block 3 (offset 30), damaged on the way: sent again",
        "blocks 5 to 7 (offset 50), asked for again: sent again",
        "block 3 (offset 30), damaged on the way: sent again, ok",
        "blocks 5 to 7 (offset 50), asked for again: sent again, ok",
    ]


def test_of_many_repairs_only_the_first_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand lines would hide the reason."""
    caplog.set_level("INFO")
    repairs = Repairs(Blocks(1000, 10))
    for block in range(config.REPAIRS_TOLD + 7):
        repairs.tell(block, block + 1, Why.LOST)
    repairs.tell_success()
    assert len(caplog.records) == 2 * config.REPAIRS_TOLD + 1
    assert caplog.records[-1].getMessage() == "and 7 more, all ok"
