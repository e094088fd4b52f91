"""Outcomes: what became of each file, told in order, and which of them the exit code tells."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Callable, Collection, Iterator, Sequence, Union

import config
from config import ClientSettings
from lft.client.interrupt import CancelledError
from lft.client.patience import way_on
from lft.client.receipt import FailedIntegrityError, Receipt, arrival_line, receipt_line
from lft.client.source import name_of as own_name_of
from lft.client.sources import check_source
from lft.client.standard_input import NAME, STANDARD_INPUT, InterruptedSourceError
from lft.terminal import SUCCESS, printable, say, shorten
from protocol import (
    AuthenticationError,
    ConnectionLostError,
    IntegrityError,
    ProtocolError,
    RejectedError,
    SourceError,
    TransferError,
    UsageError,
)

log = logging.getLogger("client")

Outcome = Union[Receipt, TransferError]
Report = Callable[[Path, Outcome], None]

# Of several errors the worst is raised, and gives the exit code: that of the first of these codes.
# The user stopped it; a proof failed, which a person must look at; files were not even tried;
# the server does not take a file; a file cannot be read.
WORST_FIRST = (130, 1, 3, 5, 4, 2)

BRIEF = 40  # columns of a name in the log of a terminal

_CODES = (
    (CancelledError, "interrupted"),
    (AuthenticationError, "authentication"),
    (ConnectionLostError, "connection"),
    (InterruptedSourceError, "connection"),
    (IntegrityError, "integrity"),
    (SourceError, "source"),
    (UsageError, "usage"),
)


class Outcomes:
    """The files to send, in order, and what became of those whose fate is known. Main's own.

    A fate is told once those of all files before it are.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        report: Report | None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the files; ``settle`` is called for each one, before ``report``.

        Raises ``TypeError`` for anything but several paths.
        """
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths: a list of paths is needed, not a single one: {paths!r}")
        self._paths = [Path(path) for path in paths]
        self._told = 0  # files from the first one on
        self._known: dict[int, Outcome] = {}  # by index, until it is told
        self._report = report
        self._settle = settle
        self._receipts: list[Receipt] = []
        self._errors: list[TransferError] = []

    @property
    def left(self) -> int:
        """The number of files whose fate has not been told."""
        return len(self._paths) - self._told

    @property
    def paths(self) -> list[Path]:
        """The files whose fate has not been told."""
        return self._paths[self._told :]

    @property
    def unknown(self) -> Iterator[tuple[int, Path]]:
        """The files whose fate is not known, each with its index."""
        for index in range(self._told, len(self._paths)):
            if index >= self._told and index not in self._known:
                yield index, self._paths[index]

    def note(self, outcome: Outcome, index: int | None = None) -> None:
        """Note what became of a file, of the next one to be told without ``index``."""
        self._known[self._told if index is None else index] = outcome
        while self._told in self._known:
            known = self._known.pop(self._told)
            self._told += 1  # first: what ends the program here does not tell it twice
            self._tell(self._paths[self._told - 1], known)

    def _tell(self, path: Path, outcome: Outcome) -> None:
        if isinstance(outcome, TransferError):
            self._errors.append(outcome)
        else:
            self._receipts.append(outcome)
        self._settle()
        if self._report:
            self._report(path, outcome)

    def note_unreadable(self, settings: ClientSettings) -> None:
        """Note the files at the front that cannot be read; warn of others, whose turn comes."""
        for index, path in list(self.unknown):
            try:
                check_source(path, settings)
            except SourceError as error:
                if index == self._told:
                    self.note(error)
                else:
                    log.warning("%s; this is tried again after the files before it", error)

    def end_with(self, error: TransferError) -> None:
        """Note that ``error`` ends everything: no other file is sent."""
        self._errors.append(error)
        for index, _ in list(self.unknown):
            self.note(error, index)

    def receipts(self) -> list[Receipt]:
        """Return the receipts of all files; raise the worst error, if there is any."""
        if self._errors:
            raise min(self._errors, key=lambda error: WORST_FIRST.index(error.exit_code))
        return self._receipts


class Reporter:
    """Tells what became of each file: a line on standard output, and in the log the rest.

    On a terminal, where both are seen, the log does not say the reason of a failure once more.
    """

    def __init__(
        self, settings: ClientSettings, *, as_json: bool, given: Collection[str] = ()
    ) -> None:
        """``given`` has the options of the command line: nothing is advised against them."""
        self._settings = settings
        self._as_json = as_json
        self.given = given
        self._both_seen = sys.stdout.isatty() and sys.stderr.isatty() and not as_json
        self._count = 0  # files
        self._failed: list[str] = []  # names
        self.told: list[TransferError] = []

    def report(self, path: Path, outcome: Outcome) -> None:
        """Tell what became of one file. Raises ``UsageError`` if standard output takes nothing."""
        self._count += 1
        path = self._named(path)
        if isinstance(outcome, Receipt):
            brief = outcome._replace(name=self._brief(outcome.name))
            log.info("%s", arrival_line(brief, self._settings, self.given), extra=SUCCESS)
        else:
            self._failed.append(self._brief(name_of(path)))
            self._log(path, outcome)
        say((_json if self._as_json else _line)(path, outcome))

    def _named(self, path: Path) -> Path:
        """Return what a file is called on the server, where that is not its own name."""
        if path == STANDARD_INPUT or self._settings.name:
            return Path((self._settings.name or NAME).replace("/", "_"))
        return path

    def _log(self, path: Path, error: TransferError) -> None:
        """Log an error, once for all the files that it concerns."""
        if error in self.told:
            return
        self.told.append(error)
        if isinstance(error, CancelledError):
            return  # the user knows
        what = f"{self._brief(str(path))} did not arrive" if self._both_seen else str(error)
        log.error("%s%s", what, self._way_on(error))

    def _way_on(self, error: TransferError) -> str:
        """Say how the file can go on, unless it was for the server of a demo, which is gone."""
        if not isinstance(error, ConnectionLostError) or "--demo" in self.given:
            return ""
        return way_on(error.unfinished, self._settings, self._count)

    def _brief(self, name: str) -> str:
        """Return a name for the log: where the line below has all of it, some of it will do."""
        return shorten(printable(name), BRIEF) if self._both_seen else name

    def sum_up(self) -> None:
        """Log how many of several files arrived, and which did not."""
        if self._count < 2:
            return
        arrived = f"{self._count - len(self._failed)} of {self._count} arrived"
        if not self._failed:
            log.info("%s", arrived, extra=SUCCESS)
            return
        names = ", ".join(self._failed[: config.FAILED_TOLD])
        more = len(self._failed) - config.FAILED_TOLD
        log.error("%s; failed: %s%s", arrived, names, f" and {more} more" if more > 0 else "")

    def say(self, line: str) -> None:
        """Print a line that is not about one file, unless a program reads standard output."""
        if not self._as_json:
            say(line)


def name_of(path: Path) -> str:
    """Return the name of a file as lines and objects have it, also of one that cannot be read."""
    return own_name_of(path) or str(path)


def reason_of(error: TransferError, path: Path) -> str:
    """Return why a file did not arrive, without the file's name, which stands beside it."""
    reason = str(error)
    for known in (f"{path}: ", f"{name_of(path)}: ", "rejected: "):
        reason = reason[len(known) :] if reason.startswith(known) else reason
    return reason


def code_of(error: TransferError) -> str:
    """Return the kind of an error as one word, for programs; a rejection has the server's."""
    if isinstance(error, (RejectedError, ProtocolError)):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), "internal")


def _line(path: Path, outcome: Outcome) -> str:
    receipt = outcome.receipt if isinstance(outcome, FailedIntegrityError) else outcome
    if isinstance(receipt, Receipt):
        return receipt_line(receipt)
    word = "REJECTED" if isinstance(receipt, RejectedError) else "FAILED"
    return printable(f"{word} {reason_of(receipt, path)}  {name_of(path)}")


def _json(path: Path, outcome: Outcome) -> str:
    if isinstance(outcome, Receipt):
        return json.dumps(outcome._asdict())
    known = {"verdict": None, "name": name_of(path)}
    if isinstance(outcome, FailedIntegrityError):
        known = outcome.receipt._asdict()
    reason = printable(reason_of(outcome, path))
    return json.dumps(
        {**known, "error": reason, "code": code_of(outcome), "exit_code": outcome.exit_code}
    )
