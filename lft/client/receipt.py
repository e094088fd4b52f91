"""Receipts: what became of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, NamedTuple

from config import ClientSettings
from lft.client.bottleneck import advice
from lft.client.link import Link
from lft.client.upload import Upload
from lft.options import format_size
from lft.terminal import printable
from protocol import IntegrityError, IntegrityOk, TransferError


class Receipt(NamedTuple):
    """What became of one file; the fields of ``--json``.

    ``seconds`` go from its first FILE_START to the verdict. After a lost session the counts are
    those of the last one: what an earlier one had sent is among the ``resumed_bytes``.
    ``wire_bytes`` are the payload of all blocks that were sent, as often as they were.
    """

    verdict: str
    name: str
    saved_as: str
    bytes: int
    digest: str
    algorithm: str
    seconds: float
    blocks: int
    resent_blocks: int
    resumed_bytes: int
    streams: int
    durable: bool
    congestion: str  # what decided how fast TCP went; "" where the system does not say
    bottleneck: str  # what most of the time went into: see ``Spent``; "" for short ones
    wire_bytes: int

    @classmethod
    def of(
        cls,
        upload: Upload,
        verdict: IntegrityOk | None,
        link: Link,
        waits: tuple[float, float],
        seconds: float,
    ) -> Receipt:
        """Make the receipt of an upload; a ``verdict`` of ``None`` is INTEGRITY_FAILED.

        ``waits`` is what the connections say of their time.
        """
        return cls(
            verdict="INTEGRITY_OK" if verdict else "INTEGRITY_FAILED",
            name=upload.source.name,
            saved_as=verdict.saved_as if verdict else "",
            bytes=upload.source.size,
            digest=upload.digests.hexdigest(),
            algorithm=upload.digests.algorithm,
            seconds=seconds,
            blocks=upload.blocks.count,
            resent_blocks=verdict.resent_blocks if verdict else 0,
            resumed_bytes=upload.resumed_bytes,
            streams=link.streams,
            durable=verdict.durable if verdict else False,
            congestion=link.congestion,
            bottleneck=upload.spent.bottleneck(verdict, waits) if verdict else "",
            wire_bytes=upload.wire_bytes,
        )


class FailedIntegrityError(IntegrityError):
    """INTEGRITY_FAILED, with its receipt."""

    def __init__(self, reason: str, receipt: Receipt) -> None:
        super().__init__(reason)
        self.receipt = receipt


Report = Callable[[Path, "Receipt | TransferError"], None]


def arrival_line(receipt: Receipt, settings: ClientSettings) -> str:
    """Say for the log that a file arrived, how fast, and what held it up."""
    rate = receipt.bytes / max(receipt.seconds, 1e-9)
    size, length = format_size(receipt.bytes), receipt.bytes - receipt.resumed_bytes
    shrunk = ""
    if settings.compress and length:
        shrunk = f", compressed to {100 * receipt.wire_bytes / length:.0f} %"
    facts = f"{size} in {receipt.seconds:.2f} s ({format_size(rate)}/s)"
    return f"{receipt.name} arrived: {facts}{shrunk}{advice(receipt.bottleneck, settings)}"


def receipt_line(receipt: Receipt) -> str:
    saved = f"saved as {receipt.saved_as}, " if receipt.saved_as else "nothing saved, "
    facts = f"{format_size(receipt.bytes)} in {receipt.seconds:.2f} s, {saved}{receipt.algorithm}"
    return printable(f"{receipt.verdict} {facts} {receipt.digest}  {receipt.name}")
