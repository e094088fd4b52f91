"""Writing the history: the database of one server."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, Sequence

import config
from lft.store.history import (
    COLUMNS,
    MICRO,
    RECEIVED,
    VERSION,
    HistoryError,
    Outcome,
    database_name,
    explained,
    has_tables,
    lacks_proof,
    sqlite,
)
from lft.store.mounts import is_network
from lft.store.paths import PARTIAL

if TYPE_CHECKING:
    from sqlite3 import Connection

_DAMAGED = ".damaged"  # what the name of a database ends with that was set aside
_PRUNED_TOGETHER = 2000  # entries: some milliseconds for which the database is locked
_INSERT = f"INSERT INTO outcomes ({COLUMNS}, words) VALUES ({'?, ' * len(Outcome._fields)}?)"
_SELECT_LAST = "SELECT ended FROM outcomes WHERE {} ORDER BY ended DESC LIMIT 1 OFFSET ?"
_KINDS: dict[str, Callable[[], int]] = {  # of entries, and how many of each are kept
    f"outcome = '{RECEIVED}'": lambda: config.HISTORY_RECEIVED,
    f"outcome <> '{RECEIVED}'": lambda: config.HISTORY_OTHERS,
}
_PROOF = "proof TEXT NOT NULL DEFAULT ''"  # older versions write without it
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS outcomes (
    row INTEGER PRIMARY KEY, ended INTEGER NOT NULL, outcome TEXT NOT NULL, user TEXT NOT NULL,
    name TEXT NOT NULL, size INTEGER NOT NULL, saved_as TEXT NOT NULL, digest TEXT NOT NULL,
    algorithm TEXT NOT NULL, seconds REAL NOT NULL, wire_bytes INTEGER NOT NULL,
    resumed_bytes INTEGER NOT NULL, resent_blocks INTEGER NOT NULL, bottleneck TEXT NOT NULL,
    address TEXT NOT NULL, door TEXT NOT NULL, files INTEGER, code TEXT NOT NULL,
    reason TEXT NOT NULL, program_code INTEGER, program_line TEXT NOT NULL, words TEXT NOT NULL,
    {_PROOF});
CREATE INDEX IF NOT EXISTS newest ON outcomes (ended, outcome, user, words);
CREATE INDEX IF NOT EXISTS of_user ON outcomes (user, ended);
CREATE INDEX IF NOT EXISTS of_file ON outcomes (user, name, ended);
CREATE INDEX IF NOT EXISTS of_place ON outcomes (saved_as);
PRAGMA user_version = {VERSION};
"""


class Database:
    """The database of one server, open for writing. One thread uses it, and may wait for the disk.

    WAL lets readers and the writer go on beside each other. Its memory is not shared between
    machines, so on a network file system, or ``shared`` with other servers, there is none.
    """

    def __init__(self, output: Path, server: str = "", *, shared: bool = False) -> None:
        """Open it, or make it. Raises ``HistoryError``; a damaged one was set aside then."""
        self.path = output / PARTIAL / database_name(server)
        self._connection: Connection | None = None
        with explained():
            try:
                self._open(wal=not (shared or is_network(self.path.parent)))
            except BaseException:
                self.close()
                raise
        self._identity = self._look()

    def _open(self, *, wal: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(self.path, flags, 0o600))  # SQLite would give others the right to read it
        module, wait = sqlite(), config.HISTORY_LOCK_WAIT
        self._connection = opened = module.connect(
            str(self.path), wait, isolation_level=None, check_same_thread=False
        )
        has_tables(opened)
        opened.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        opened.execute("PRAGMA synchronous = NORMAL")
        opened.executescript(_SCHEMA)
        if lacks_proof(opened):
            opened.execute(f"ALTER TABLE outcomes ADD COLUMN {_PROOF}")

    def _look(self) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            facts = os.stat(self.path, follow_symlinks=False)
            return facts.st_dev, facts.st_ino
        return 0, 0

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to it: another program may have moved or removed it."""
        return self._look() == self._identity

    def add(self, entries: Sequence[Outcome]) -> None:
        """Add entries, all or none. Raises ``HistoryError``.

        A file is received once: another entry of it only adds how its program has ended.
        """
        assert self._connection is not None  # until it is closed
        with explained(), _transaction(self._connection) as transaction:
            for entry in entries:
                if entry.outcome != RECEIVED or not _add_to_known(transaction, entry):
                    transaction.execute(_INSERT, (*entry, entry.words))

    def prune(self, now: float) -> bool:
        """Remove some of what is too old or too much; return whether there may be more.

        ``now`` is in seconds since 1970. What was not received is counted apart: a client that is
        refused all the time must not push out what arrived. Raises ``HistoryError``.
        """
        assert self._connection is not None  # until it is closed
        oldest = int((now - config.HISTORY_AGE) * MICRO)
        with explained(), _transaction(self._connection) as transaction:
            removed = _remove(transaction, "ended < ?", oldest)
            for kind, most in _KINDS.items():
                last = transaction.execute(_SELECT_LAST.format(kind), (most(),)).fetchone()
                removed += _remove(transaction, f"ended <= ? AND {kind}", *last) if last else 0
        return removed > 0

    def close(self) -> None:
        """Close it; what is in it stays, whatever SQLite says then."""
        opened, self._connection = self._connection, None
        if opened:
            with contextlib.suppress(sqlite().Error):
                opened.close()

    def set_aside(self) -> Path:
        """Give a damaged database another name, in place of the one before it; return that.

        Raises ``HistoryError``.
        """
        self.close()
        return set_aside(self.path)


def set_aside(path: Path) -> Path:
    """Give a damaged database another name; return that. Raises ``HistoryError``."""
    aside = path.with_name(path.name + _DAMAGED)
    for end in ("-wal", "-shm", "-journal"):
        with contextlib.suppress(OSError):
            os.replace(f"{path}{end}", f"{aside}{end}")
    try:
        os.replace(path, aside)
    except OSError as error:
        raise HistoryError(error.strerror or str(error)) from error
    return aside


@contextlib.contextmanager
def _transaction(opened: Connection) -> Iterator[Connection]:
    """Do all of it or nothing."""
    opened.execute("BEGIN IMMEDIATE")
    try:
        yield opened
    except BaseException:
        with contextlib.suppress(sqlite().Error):  # SQLite may have done so itself
            opened.execute("ROLLBACK")
        raise
    opened.execute("COMMIT")


def _add_to_known(opened: Connection, entry: Outcome) -> bool:
    """Add how a program ended to the entry of its file; return whether there is that entry.

    The verdict of a file may be given again, and a program may run again, after a kill.
    """
    changed = opened.execute(
        "UPDATE outcomes SET program_code = coalesce(?, program_code), "
        "program_line = coalesce(?, program_line) "
        "WHERE user = ? AND name = ? AND saved_as = ? AND outcome = ?",
        (
            entry.program_code, None if entry.program_code is None else entry.program_line,
            entry.user, entry.name, entry.saved_as, RECEIVED,
        ),
    )  # fmt: skip
    return changed.rowcount > 0


def _remove(opened: Connection, where: str, value: object) -> int:
    """Remove some of the oldest entries ``where`` allows; return their number."""
    rows = f"SELECT row FROM outcomes WHERE {where} ORDER BY ended LIMIT {_PRUNED_TOGETHER}"
    return opened.execute(f"DELETE FROM outcomes WHERE row IN ({rows})", (value,)).rowcount
