"""What a receipt says to a person."""

from __future__ import annotations

import pytest

from config import MB, ClientSettings
from lft.client.receipt import Receipt, arrival_line, receipt_line
from lft.client.rejected import raise_rejected
from protocol import EARLIER, Rejected, RemoteProtocolError

RECEIPT = Receipt(
    verdict="INTEGRITY_OK", name="x\x1b", saved_as="server_received_1_x", bytes=4 * MB,
    digest="0" * 32, algorithm="md5", seconds=2.0, blocks=20, resent_blocks=0, resumed_bytes=0,
    streams=4, durable=True, congestion="", bottleneck="", wire_bytes=MB, sent_bytes=4 * MB,
)  # fmt: skip


def test_the_verdict_ends_with_the_digest_and_the_name() -> None:
    """DESIGN 9: programs take it apart; nothing in it acts on a terminal."""
    assert receipt_line(RECEIPT) == (
        "INTEGRITY_OK 4.0 MB in 2.00 s, saved as server_received_1_x, md5 " + "0" * 32 + "  x\\x1b"
    )
    failed = RECEIPT._replace(verdict="INTEGRITY_FAILED", saved_as="")
    assert "nothing saved" in receipt_line(failed)


def test_the_log_says_what_the_verdict_does_not() -> None:
    """How fast a file came, and what held it up; size and time stand in the verdict."""
    assert arrival_line(RECEIPT, ClientSettings()) == "x\x1b arrived at 2.0 MB/s"
    held = RECEIPT._replace(bottleneck="network")
    assert "; held up by the network" in arrival_line(held, ClientSettings())


def test_compression_is_told_only_where_it_was_asked_for() -> None:
    """And only where bytes were sent."""
    compressed = ClientSettings(compress=True)
    assert arrival_line(RECEIPT, compressed).endswith("2.0 MB/s, compressed to 25 %")
    there = RECEIPT._replace(sent_bytes=0)
    assert arrival_line(there, compressed).endswith(" was there already")


def test_only_what_this_run_sent_counts() -> None:
    """A resume is not faster than its limit: neither in the log nor by the verdict."""
    resumed = RECEIPT._replace(sent_bytes=MB, seconds=1.0)
    assert arrival_line(resumed, ClientSettings()).endswith(" arrived at 1.0 MB/s")
    assert receipt_line(resumed).startswith("INTEGRITY_OK 4.0 MB, 1.0 MB of it sent now, in 1.00 s")


IMPOSSIBLE = ["", "0 md5", "-1 md5", "4095 md5", "99999999 md5", "1e6 md5", "4096", "4096 sha1"]
IMPOSSIBLE += ["\u0661\u0662\u0663\u0664 md5", "4096  md5", "4096 md5 "]


@pytest.mark.parametrize("reason", IMPOSSIBLE)
def test_an_earlier_attempt_that_there_cannot_be_is_the_servers_fault(reason: str) -> None:
    """FAULTS 26: a hostile server names one that never was."""
    with pytest.raises(RemoteProtocolError, match="cannot be"):
        raise_rejected("x", Rejected(EARLIER, reason))
