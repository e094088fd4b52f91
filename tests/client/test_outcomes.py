"""What is told of each file, and which error counts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from config import MB, ClientSettings
from lft.client.interrupt import CancelledError
from lft.client.outcomes import WORST_FIRST, Outcome, Outcomes, Reporter, reason_of
from lft.client.receipt import FailedIntegrityError, Receipt
from lft.client.standard_input import InterruptedSourceError
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    IntegrityError,
    RejectedError,
    RemoteProtocolError,
    SourceError,
    TransferError,
    UsageError,
)

RECEIPT = Receipt(
    verdict="INTEGRITY_OK", name="x", saved_as="server_received_1_x", bytes=4 * MB,
    digest="0" * 32, algorithm="md5", seconds=2.0, blocks=20, resent_blocks=0, resumed_bytes=0,
    streams=4, durable=True, congestion="", bottleneck="", wire_bytes=MB, sent_bytes=4 * MB,
)  # fmt: skip
DAMAGED = FailedIntegrityError("x: the file did not arrive intact",
                               RECEIPT._replace(verdict="INTEGRITY_FAILED"))  # fmt: skip
FAILURES: list[tuple[TransferError, str, str, int]] = [
    (RejectedError("size", "x: rejected: too large"), "REJECTED too large", "size", 4),
    (SourceError("in/x: No such file"), "FAILED No such file", "source", 2),
    (AuthenticationError("wrong password"), "FAILED wrong password", "authentication", 3),
    (ConnectionLostError("h:1: gone"), "FAILED h:1: gone", "connection", 5),
    (InterruptedSourceError("x: h:1: gone"), "FAILED h:1: gone", "connection", 5),
    (RemoteProtocolError("nonsense", "data"), "FAILED nonsense", "data", 5),
    (UsageError("no password"), "FAILED no password", "usage", 2),
    (CancelledError("interrupted"), "FAILED interrupted", "interrupted", 130),
    (TransferError("internal error"), "FAILED internal error", "internal", 1),
]


def _told(capsys: pytest.CaptureFixture[str], outcome: Outcome, *, as_json: bool) -> str:
    Reporter(ClientSettings(), as_json=as_json).report(Path("in/x"), outcome)
    return capsys.readouterr().out


@pytest.mark.parametrize(("error", "line", "code", "exit_code"), FAILURES)
def test_a_file_that_did_not_arrive_has_a_line_and_an_object(
    error: TransferError, line: str, code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """DESIGN 9: the reason and the name at the end; for programs, a code as well."""
    assert _told(capsys, error, as_json=False) == f"{line}  x\n"
    assert json.loads(_told(capsys, error, as_json=True)) == {
        "verdict": None, "name": "x", "error": line.partition(" ")[2], "code": code,
        "exit_code": exit_code,
    }  # fmt: skip


def test_a_damaged_file_has_its_receipt_and_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Its digest is known, and what a program asks each failed file for."""
    assert _told(capsys, DAMAGED, as_json=False).startswith("INTEGRITY_FAILED 4.0 MB")
    told = json.loads(_told(capsys, DAMAGED, as_json=True))
    assert (told["verdict"], told["code"], told["exit_code"]) == (
        "INTEGRITY_FAILED", "integrity", 1
    )  # fmt: skip
    assert told["digest"] == RECEIPT.digest


def test_nothing_of_a_failure_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """FAULTS 9: neither the server's reason nor the name."""
    Reporter(ClientSettings(), as_json=False).report(
        Path("a\x1bb"), RejectedError("size", "a\x1bb: rejected: too\nlarge")
    )
    assert capsys.readouterr().out == "REJECTED too\\nlarge  a\\x1bb\n"


def test_a_reason_that_is_about_something_else_stays_whole() -> None:
    """Only the file's own name is left out."""
    assert reason_of(ConnectionLostError("y: busy"), Path("x")) == "y: busy"


def test_an_error_of_many_files_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each has its line; the log needs the reason once."""
    reporter, error = Reporter(ClientSettings(), as_json=False), AuthenticationError("no")
    for name in "abc":
        reporter.report(Path(name), error)
    assert [record.message for record in caplog.records] == ["no"]


def test_on_a_terminal_the_log_leaves_the_reason_to_the_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One thing once, where both are seen; programs that read one of them get it there."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: True)
    error = ConnectionLostError("gone")
    Reporter(ClientSettings(), as_json=False).report(Path("x"), error)
    Reporter(ClientSettings(), as_json=True).report(Path("x"), error)
    first, second = (record.message.partition(";")[0] for record in caplog.records)
    assert (first, second) == ("x did not arrive", "gone")


def test_on_a_terminal_the_log_leaves_a_long_name_to_the_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A log in a file has all of it: programs look for it there."""
    caplog.set_level(logging.INFO)
    long = RECEIPT._replace(name="n" * 180)
    Reporter(ClientSettings(), as_json=False).report(Path(long.name), long)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: True)
    Reporter(ClientSettings(), as_json=False).report(Path(long.name), long)
    whole, brief = (record.message.partition(" ")[0] for record in caplog.records)
    assert (len(whole), len(brief)) == (180, 40)


@pytest.mark.parametrize(
    ("failed", "line", "level"),
    [
        ([], "3 of 3 arrived", logging.INFO),
        ([1], "2 of 3 arrived; failed: file1", logging.ERROR),
        ([0, 2], "1 of 3 arrived; failed: file0, file2", logging.ERROR),
    ],
)
def test_a_last_line_sums_up_several_files(
    failed: list[int], line: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Among many lines one that failed is easily overlooked."""
    caplog.set_level(logging.INFO)
    reporter = Reporter(ClientSettings(), as_json=False)
    for number in range(3):
        error = RejectedError("size", "no")
        reporter.report(Path(f"file{number}"), error if number in failed else RECEIPT)
    reporter.sum_up()
    assert (caplog.records[-1].message, caplog.records[-1].levelno) == (line, level)


def test_the_last_line_stays_short(caplog: pytest.LogCaptureFixture) -> None:
    """A lost connection may leave thousands of files."""
    reporter, error = Reporter(ClientSettings(), as_json=False), ConnectionLostError("gone")
    for number in range(1000):
        reporter.report(Path(f"{number}"), error)
    reporter.sum_up()
    assert caplog.records[-1].message.endswith(", 8, 9 and 990 more")


def test_of_one_file_there_is_nothing_to_sum_up(caplog: pytest.LogCaptureFixture) -> None:
    """Its verdict stays the last line."""
    reporter = Reporter(ClientSettings(), as_json=False)
    reporter.report(Path("x"), RECEIPT)
    count = len(caplog.records)
    reporter.sum_up()
    assert len(caplog.records) == count


@pytest.mark.parametrize(
    ("errors", "worst"),
    [
        ([SourceError("a"), RejectedError("size", "b")], 1),
        ([RejectedError("size", "a"), ConnectionLostError("b")], 1),
        ([IntegrityError("a"), ConnectionLostError("b")], 0),
        ([RejectedError("size", "a"), RejectedError("size", "b")], 0),
        ([AuthenticationError("a"), CancelledError("b")], 1),
    ],
)
def test_the_worst_error_is_raised(errors: list[TransferError], worst: int) -> None:
    """Its exit code is that of the run; of two alike the first one counts."""
    outcomes = Outcomes(["x"] * len(errors), None)
    for error in errors:
        outcomes.note(error)
    with pytest.raises(TransferError) as raised:
        outcomes.receipts()
    assert raised.value is errors[worst]


def test_every_exit_code_of_an_error_has_its_place() -> None:
    """A new kind of error has to be ranked."""
    kinds, codes = [TransferError], {CancelledError.exit_code}
    while kinds:
        kind = kinds.pop()
        codes.add(kind.exit_code)
        kinds += kind.__subclasses__()
    assert codes == set(WORST_FIRST)
