"""The history: what became of each file, in a database below the output directory."""

from __future__ import annotations

import contextlib
import enum
import heapq
import os
import re
import time
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple, Sequence

import config
from lft.store.paths import PARTIAL

if TYPE_CHECKING:
    from sqlite3 import Connection

OUTCOMES = RECEIVED, FAILED, REFUSED, INTERRUPTED = "received", "failed", "refused", "interrupted"
WIRE, TUS = "wire", "tus"  # the doors: of ``client.py``, and of uploads over HTTP


class Proof(enum.Enum):
    """What shows that the file that arrived is the one that was sent."""

    CLIENT_DIGEST = "client-digest"  # the client's own digest of the whole file
    CHUNK_CHECKSUMS = "chunk-checksums"  # a checksum of each piece that was sent
    SERVER_ONLY = "server-only"  # none: the digest is that of what arrived


VERSION = 1  # of the tables, in each database
_SUFFIX = ".sqlite"
_PLACES_TOGETHER = 500  # of one query: SQLite takes 999 values
_STEM = r"history(?:-[\w.-]{1,100})?"
MICRO = 1_000_000


class HistoryError(Exception):
    """The history cannot be used now; the text is for the log."""


class DamagedError(HistoryError):
    """A database has something in it that no version of ours has written."""


class MissingModuleError(HistoryError):
    """This Python has no ``sqlite3``."""


class Outcome(NamedTuple):
    """What became of one file, or one directory; all that the history knows of it.

    ``reason`` and ``code`` say why a file was not received. ``seconds`` go from its announcement to
    the end. ``bottleneck`` is what most of that went into, where it was on the server. Of a file
    whose program (``--on-received``) has run, ``program_code`` is its exit code, or the negative
    number of the signal that ended it, and ``program_line`` the last line that it wrote.

    ``digest`` is that of the file, of a directory that of the list of its files' digests; ``proof``
    says with what of the client's it agreed (``Proof``), empty in entries of older versions.
    """

    ended: int  # microseconds since 1970
    outcome: str  # one of ``OUTCOMES``
    user: str
    name: str
    size: int  # bytes
    saved_as: str = ""  # with its directory, below the output directory
    digest: str = ""  # in hexadecimal
    algorithm: str = ""
    seconds: float = 0.0
    wire_bytes: int = 0  # the payload of all blocks that came
    resumed_bytes: int = 0  # that an earlier attempt had left
    resent_blocks: int = 0
    bottleneck: str = ""
    address: str = ""  # where it came from
    door: str = WIRE
    files: int | None = None  # in a directory
    code: str = ""
    reason: str = ""
    program_code: int | None = None
    program_line: str = ""
    proof: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """All of it by name, for JSON; ``ended`` as RFC 3339 wants it."""
        seconds, rest = divmod(self.ended, MICRO)
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return {**self._asdict(), "ended": f"{whole}.{rest // 1000:03}Z"}

    @property
    def words(self) -> str:
        """What a search looks through."""
        return f"{self.name}\n{self.reason}".rstrip().casefold()


class Query(NamedTuple):
    """Which entries to give: those that all of these allow."""

    user: str | None = None
    outcome: str | None = None
    text: str = ""  # in name or reason, in whatever case
    before: str = ""  # the ``before`` of the page before this one
    limit: int = 100


class Page(NamedTuple):
    """Entries, newest first."""

    entries: list[Outcome]
    before: str  # for the next page; "" where there is none
    unread: tuple[str, ...] = ()  # what could not be read, and why


class _Place(NamedTuple):
    """Where a page ends: entries are in the order of these three."""

    ended: int
    server: str  # whose database it is
    row: int

    @classmethod
    def parse(cls, text: str) -> _Place:
        """Read a ``before``. Raises ``ValueError``."""
        found = re.fullmatch(rf"(\d{{1,18}})\.(\d{{1,18}})\.({_STEM})", text, re.A)
        if not found:
            raise ValueError("not a place in the history")
        return cls(int(found[1]), found[3], int(found[2]))

    def __str__(self) -> str:
        return f"{self.ended}.{self.row}.{self.server}"


COLUMNS = ", ".join(Outcome._fields)


def own_name(kind: str, server: str = "") -> str:
    """Return ``kind`` with the name of a server, made harmless, if it shares its directory."""
    plain = re.sub(r"[^\w.-]", "_", server, flags=re.A)[:100]
    return f"{kind}-{plain}" if plain else kind


def database_name(server: str = "") -> str:
    """Return the file name of a server's database; ``server`` tells those apart that share it."""
    return own_name("history", server) + _SUFFIX


def sqlite() -> Any:
    """Load the module when it is needed: 11 ms. Raises ``MissingModuleError``."""
    try:
        import sqlite3  # noqa: PLC0415  (see above)
    except ImportError:
        words = "this Python has no sqlite3 (on Alpine: apk add py3-sqlite3; or build it anew)"
        raise MissingModuleError(words) from None
    return sqlite3


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what SQLite says into a ``HistoryError``."""
    module = sqlite()
    try:
        yield
    except module.OperationalError as error:  # locked, full, an error of the disk
        raise HistoryError(str(error)) from error
    except module.DatabaseError as error:
        raise DamagedError(str(error)) from error
    except OSError as error:
        raise HistoryError(error.strerror or str(error)) from error


def has_tables(opened: Connection) -> bool:
    """Return whether a database has our tables; ``False`` for an empty one (its thread).

    Raises ``DamagedError`` for one that another version has made.
    """
    version = opened.execute("PRAGMA user_version").fetchone()[0]
    tables = opened.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version != VERSION and (version or tables):
        raise DamagedError("it is of another version")
    return bool(version)


def lacks_proof(opened: Connection) -> bool:
    """Return whether an older version has made the tables of a database (its thread)."""
    return all(row[1] != "proof" for row in opened.execute("PRAGMA table_info(outcomes)"))


class _Filter:
    """What entries must be like, as conditions of SQL with their values."""

    def __init__(self, *pairs: tuple[str, Any]) -> None:
        """Take conditions with one value each."""
        self._pairs = list(pairs)

    @classmethod
    def of_places(cls, places: Sequence[str]) -> _Filter:
        """Return what was received under ``places``."""
        marks = ", ".join("?" * len(places))
        condition = f"saved_as IN ({marks})"  # the values of the pairs behind it are for it, too
        return cls((condition, places[0]), *(("", one) for one in places[1:]),
                   ("outcome = ?", RECEIVED))  # fmt: skip

    @classmethod
    def of(cls, query: Query, before: _Place | None, server: str) -> _Filter:
        """Return what ``query`` wants of the database of ``server``."""
        found = cls()
        for column, value in (("user", query.user), ("outcome", query.outcome)):
            if value is not None:
                found._pairs.append((f"{column} = ?", value))
        if query.text:
            found._pairs.append(("instr(words, ?)", query.text.casefold()))
        if before:
            found._pairs += _behind(before, server)
        return found

    def newest(self, opened: Connection, server: str, limit: int) -> list[tuple[_Place, Outcome]]:
        """Read the newest entries, each with its place."""
        where = " AND ".join(condition for condition, _ in self._pairs if condition) or "1"
        columns = COLUMNS.replace("proof", "''") if lacks_proof(opened) else COLUMNS
        rows = opened.execute(
            f"SELECT row, {columns} FROM outcomes WHERE {where} "
            "ORDER BY ended DESC, row DESC LIMIT ?",
            [*(value for _, value in self._pairs), limit],
        ).fetchall()
        entries = [(row, Outcome(*facts)) for row, *facts in rows]
        return [(_Place(entry.ended, server, row), entry) for row, entry in entries]


def _behind(place: _Place, server: str) -> list[tuple[str, Any]]:
    """Return the condition for what comes behind ``place`` in the database of ``server``.

    Of what ended at the same instant, entries of a server whose name is lower come behind.
    """
    if server == place.server:
        return [("ended <= ?", place.ended), (f"(ended < {place.ended} OR row < ?)", place.row)]
    return [(f"ended {'<=' if server < place.server else '<'} ?", place.ended)]


class History:
    """Reads what all servers of an output directory have noted, whether they run or not.

    Any thread may call any method, and may wait for the disk. Each call opens the databases and
    closes them again: so one that was set aside, or that another server has begun, is no matter.
    """

    def __init__(self, output: Path) -> None:
        self._folder = output / PARTIAL

    def page(self, query: Query) -> Page:
        """Return the newest entries that ``query`` allows.

        Raises ``ValueError`` for a ``before`` that is none of ours, ``MissingModuleError``.
        """
        before = _Place.parse(query.before) if query.before else None
        found, unread = self._newest(partial(_Filter.of, query, before), query.limit + 1)
        end = str(found[query.limit - 1][0]) if len(found) > query.limit else ""
        return Page([entry for _, entry in found[: query.limit]], end, unread)

    def published(self, user: str, name: str, limit: int = 10) -> list[Outcome]:
        """Return what was received of ``user`` under ``name``, the newest first.

        The files may have been moved or removed since. Raises ``MissingModuleError``.
        """
        wanted = _Filter(("user = ?", user), ("name = ?", name), ("outcome = ?", RECEIVED))
        return [entry for _, entry in self._newest(lambda _: wanted, limit)[0]]

    def known(self, places: Sequence[str]) -> dict[str, Outcome]:
        """Return what was received under those of ``places`` that are known.

        They are as ``Outcome.saved_as`` has them. Raises ``MissingModuleError``.
        """
        found: dict[str, Outcome] = {}
        for start in range(0, len(places), _PLACES_TOGETHER):
            found.update(self._known(places[start : start + _PLACES_TOGETHER]))
        return found

    def _known(self, places: Sequence[str]) -> dict[str, Outcome]:
        wanted = _Filter.of_places(places)
        entries, _ = self._newest(lambda _: wanted, 2 * len(places))
        return {entry.saved_as: entry for _, entry in reversed(entries)}

    def _newest(
        self, wanted: Callable[[str], _Filter], limit: int
    ) -> tuple[list[tuple[_Place, Outcome]], tuple[str, ...]]:
        """Read from each database; return the newest of all, and what could not be read."""
        found, unread = [], []
        for path in sorted(filter(_is_ours, self._folder.glob(f"history*{_SUFFIX}"))):
            try:
                with explained(), contextlib.closing(_open(path)) as opened:
                    if has_tables(opened):
                        found += wanted(path.stem).newest(opened, path.stem, limit)
            except MissingModuleError:
                raise
            except HistoryError as error:
                unread.append(f"{path.name}: {error}")
        return heapq.nlargest(limit, found, key=itemgetter(0)), tuple(unread)


def _is_ours(path: Path) -> bool:
    return re.fullmatch(_STEM, path.stem, re.A) is not None


def _open(path: Path) -> Connection:
    """Open a database for reading.

    What a killed server has left in a WAL is read, too, which takes a file beside it. Where none
    can be made, no server runs, and the database without it has to do.
    """
    fixed = "" if os.access(path.parent, os.W_OK) else "&immutable=1"
    address = f"{path.absolute().as_uri()}?mode=ro{fixed}"
    opened: Connection = sqlite().connect(address, config.HISTORY_LOCK_WAIT, uri=True)
    return opened
