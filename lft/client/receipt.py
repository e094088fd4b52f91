"""Receipts: what became of a file."""

from __future__ import annotations

from typing import Collection, NamedTuple

from config import ClientSettings
from lft.client.bottleneck import advice
from lft.client.inventory import number
from lft.client.link import Link
from lft.client.upload import Upload
from lft.options import format_size
from lft.terminal import printable
from protocol import IntegrityError, IntegrityOk


class Run(NamedTuple):
    """What all sessions of this run together did for one file."""

    seconds: float
    sent_bytes: int  # of the file
    wire_bytes: int


class Receipt(NamedTuple):
    """What became of one file; the fields of ``--json``.

    ``seconds`` go from its first FILE_START to the verdict. After a lost session the counts are
    those of the last one: what an earlier one had sent is among the ``resumed_bytes``. Only
    ``sent_bytes`` and ``wire_bytes`` are of all sessions of this run: bytes of the file that it
    brought to the server, and the payload of all blocks that it sent, as often as it did.
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
    bottleneck: str  # what most of the time went into: see ``Spent``; "" where it does not help
    wire_bytes: int
    sent_bytes: int
    preserved: bool = False  # whether the file has the permission bits and the time of the source
    files: int = 1  # in a directory: how many of them there are ...
    entries: int | None = None  # ... and with directories and links; None for a single file
    left_out: int = 0  # of a directory: what cannot be sent, such as sockets
    skipped: bool = False  # whether it had been there, from an earlier transfer

    @classmethod
    def of(
        cls,
        upload: Upload,
        verdict: IntegrityOk | None,
        link: Link,
        waits: tuple[float, float],
        run: Run,
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
            seconds=run.seconds,
            blocks=upload.blocks.count,
            resent_blocks=verdict.resent_blocks if verdict else 0,
            resumed_bytes=upload.resumed_bytes,
            streams=link.streams,
            durable=verdict.durable if verdict else False,
            congestion=link.congestion,
            bottleneck=upload.spent.bottleneck(verdict, waits, loopback=link.loopback)
            if verdict
            else "",
            wire_bytes=run.wire_bytes,
            sent_bytes=run.sent_bytes,
            preserved=bool(verdict and verdict.kept),
            skipped=bool(verdict and verdict.skipped),
            files=upload.source.contents.files,
            entries=upload.source.entries,
            left_out=upload.source.contents.left_out,
        )


class FailedIntegrityError(IntegrityError):
    """INTEGRITY_FAILED, with its receipt."""

    def __init__(self, reason: str, receipt: Receipt) -> None:
        super().__init__(reason)
        self.receipt = receipt


def arrival_line(receipt: Receipt, settings: ClientSettings, given: Collection[str] = ()) -> str:
    """Say for the log what the verdict does not: how fast a file came, and what held it up.

    ``given`` has the options of the command line.
    """
    facts = "was there already"
    if receipt.sent_bytes or not receipt.bytes:
        facts = f"arrived at {format_size(receipt.sent_bytes / max(receipt.seconds, 1e-9))}/s"
    if settings.compress and receipt.sent_bytes:
        facts += f", compressed to {100 * receipt.wire_bytes / receipt.sent_bytes:.0f} %"
    return f"{receipt.name} {facts}{advice(receipt.bottleneck, settings, given)}"


def receipt_line(receipt: Receipt) -> str:
    """Return the verdict of a file: the line on standard output."""
    size, sent = format_size(receipt.bytes), format_size(receipt.sent_bytes)
    if receipt.skipped:
        size += ", already there, checked"
    elif receipt.sent_bytes < receipt.bytes:
        size += f", {sent} of it sent now,"
    files = f"{number(receipt.files, 'file')}, " if receipt.entries is not None else ""
    saved = f"saved as {receipt.saved_as}, " if receipt.saved_as else "nothing saved, "
    facts = f"{size} in {receipt.seconds:.2f} s, {files}{saved}{receipt.algorithm}"
    return printable(f"{receipt.verdict} {facts} {receipt.digest}  {receipt.name}")
