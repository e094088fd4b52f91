"""The journal: its claims, and journals that are not believed."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Callable, Iterator

import pytest

from config import MB
from lft.accounts.account import MAX_USER_NAME
from lft.store.journal import JOURNALED, Claims, Facts, Journal, record
from lft.store.partfile import PartFile
from lft.store.paths import PARTIAL, output_name
from protocol import MAX_SPANS, MAX_TEXT
from tests.support.partfiles import (
    DATA,
    RECORD,
    claimed,
    claims_of,
    facts_of,
    journal_file,
    rewrite_journal,
    running,
)


@pytest.fixture
def journal(output: Path) -> Iterator[Journal]:
    """A journal that claims the first three blocks of DATA."""
    one = Journal(output / PARTIAL / "1.journal")
    one.begin(facts_of(39), claims_of(DATA, 0, 1, 2))
    one.close()
    yield one
    one.close()


VERSION_1_0_0 = (
    b'{"journal": 1, "user": "u", "name": "x", "size": 39, "block_size": 4, "digest": "md5", '
    b'"saved_as": "server_received_taken_x", "directory": "", '
    b'"head": "37b59afd592725f9305e484a5d7f5168"}\n'
)


def test_a_journal_of_version_1_0_0_is_read(output: Path) -> None:
    """A file that was left unfinished before an update of the server goes on after it."""
    path = output / PARTIAL / "1.journal"
    path.write_bytes(VERSION_1_0_0 + b"".join(claims_of(DATA, 0, 2).records()))
    assert Journal(path).facts() == facts_of(39)
    assert claimed(Journal(path).load(facts_of(39))) == [0, 2]


def test_a_journal_is_written_as_version_1_0_0_wrote_it(journal: Journal, output: Path) -> None:
    """And goes on with a server of that version, too."""
    assert journal_file(output).read_bytes().startswith(VERSION_1_0_0)


@pytest.mark.parametrize(
    "name", ["x", "with space", "quo\"te's", "a\\b", "📦" * 1000, "u\u0308", "line\nfeed", "@{}"]
)
def test_a_journal_gives_its_facts_back(output: Path, name: str) -> None:
    """Whatever the name of the file, the first line is read as it was written."""
    facts = Facts("us@er", name, 2**62, 4096, "sha256", output_name("x", "1"))
    journal = Journal(output / PARTIAL / "1.journal")
    journal.begin(facts)
    journal.close()
    assert journal.facts() == facts


def test_a_journal_gives_the_longest_facts_back(output: Path) -> None:
    """FAULTS 10 and 35: names of all the characters they may have, each as long as one can be."""
    long, folder = "\U0001f4e6" * MAX_TEXT, "\U0001f4e6" * 63
    saved_as = output_name(long, "20260101-000000-abcdef")
    user, directory = long[:MAX_USER_NAME], "/".join([folder] * (MAX_TEXT // 64))
    facts = Facts(user, long, 39, 4, "sha256", saved_as, directory, head="0" * 64)
    PartFile.create(output, facts).close()
    assert Journal(journal_file(output)).facts() == facts


def test_a_journal_gives_its_claims_back(journal: Journal) -> None:
    """Blocks and digests are those that were claimed, and no others."""
    claims = journal.load(facts_of(39))
    assert claimed(claims) == [0, 1, 2]
    assert [claims.digest_of(block) for block in range(3)] == [running(DATA, b) for b in range(3)]


def test_what_is_appended_to_a_journal_is_claimed_too(output: Path) -> None:
    """Records in any order; of two claims of one block the later one counts."""
    journal = Journal(output / PARTIAL / "1.journal")
    journal.begin(facts_of(39), claims_of(DATA, 5))
    journal.append(record(7, bytes(16)) + record(3, running(DATA, 3)))
    journal.append(record(7, running(DATA, 7)))
    journal.close()
    claims = journal.load(facts_of(39))
    assert claimed(claims) == [3, 5, 7]
    assert claims.digest_of(7) == running(DATA, 7)


def test_a_new_journal_replaces_the_old_one_in_one_step(output: Path, journal: Journal) -> None:
    """What the old one claimed is gone, and no half-written one lies about."""
    journal.begin(facts_of(39), claims_of(DATA, 8))
    assert claimed(journal.load(facts_of(39))) == [8]
    assert [path.name for path in (output / PARTIAL).iterdir()] == ["1.journal"]


@pytest.mark.parametrize("cut", range(1, RECORD + 1))
def test_a_torn_tail_costs_the_last_record_only(output: Path, journal: Journal, cut: int) -> None:
    """FAULTS 35: cut at any byte of the last record, the others still count."""
    path = journal_file(output)
    os.truncate(path, path.stat().st_size - cut)
    assert claimed(journal.load(facts_of(39))) == [0, 1]


def test_a_first_line_cut_anywhere_is_no_journal(output: Path, journal: Journal) -> None:
    """FAULTS 35: half a line of facts is not believed."""
    path = journal_file(output)
    line = path.read_bytes().split(b"\n")[0]
    for cut in range(len(line)):
        path.write_bytes(line[:cut])
        with pytest.raises(ValueError):  # noqa: PT011  (the reason is the JSON parser's)
            journal.facts()


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\n", b"\xff\xfe\x00\n", b"null\n", b"[]\n", b"{}\n", b'"journal"\n', b"1\n", b"NaN\n",
     bytes(4096), b"{" * 5000, b'{"journal": ' + b"9" * 5000 + b"}\n"],
)  # fmt: skip
def test_garbage_is_no_journal(output: Path, journal: Journal, garbage: bytes) -> None:
    """FAULTS 35: said as such, whatever it is."""
    journal_file(output).write_bytes(garbage)
    for read in (journal.facts, lambda: journal.load(facts_of(39))):
        with pytest.raises(ValueError):  # noqa: PT011  (the reason is the JSON parser's)
            read()


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_a_journal_of_another_version_is_none_of_ours(
    output: Path, journal: Journal, version: object
) -> None:
    """FAULTS 35: an older or newer server's records may mean something else."""
    rewrite_journal(output, journal=version)
    with pytest.raises(ValueError, match="version"):
        journal.facts()


@pytest.mark.parametrize("key", JOURNALED)
def test_a_journal_that_lacks_a_fact_is_none_of_ours(
    output: Path, journal: Journal, key: str
) -> None:
    """FAULTS 35: every fact is needed."""
    rewrite_journal(output, **{key: None})
    with pytest.raises(ValueError, match="not a journal"):
        journal.facts()


@pytest.mark.parametrize(
    "changes",
    [{"user": 1}, {"name": []}, {"size": "39"}, {"size": 39.0}, {"size": True}, {"size": -1},
     {"block_size": "4"}, {"block_size": 0}, {"block_size": -4}, {"block_size": False},
     {"digest": 5}, {"digest": "crc32"}, {"saved_as": 7}, {"saved_as": {}}],
)  # fmt: skip
def test_a_journal_with_a_fact_that_cannot_be_is_none_of_ours(
    output: Path, journal: Journal, changes: dict[str, object]
) -> None:
    """FAULTS 35: types and ranges are looked at before anything is computed with them."""
    rewrite_journal(output, **changes)
    with pytest.raises(ValueError, match="not a journal"):
        journal.facts()


@pytest.mark.parametrize(
    "saved_as",
    ["", "x", "..", "../server_received_x", "/server_received_x", "server_received_",
     "server_received_/x", "server_received_../../x",
     "server_received_a\0b", "my_server_received_x"],
)  # fmt: skip
def test_a_journal_cannot_name_a_path(output: Path, journal: Journal, saved_as: str) -> None:
    """FAULTS 8 and 35: only a plain name such as the server makes is published under."""
    rewrite_journal(output, saved_as=saved_as)
    with pytest.raises(ValueError, match="not a journal"):
        journal.facts()


@pytest.mark.parametrize("block", [10, 11, 2**31, 2**32 - 1])
def test_a_claim_beyond_the_file_is_ignored(output: Path, journal: Journal, block: int) -> None:
    """FAULTS 35: it neither costs memory nor the claims of others."""
    with open(journal_file(output), "ab") as file:
        file.write(record(block, bytes(16)) + record(9, running(DATA, 9)))
    assert claimed(journal.load(facts_of(39))) == [0, 1, 2, 9]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [(39, 39, 10), (39, 40, 9), (39, 99, 9), (40, 41, 10), (40, 80, 10), (39, 38, 9), (39, 36, 9),
     (39, 34, 8), (40, 1, 0), (40, 0, 0), (0, 39, 0), (3, 39, 0)],
)  # fmt: skip
def test_a_block_whose_length_changed_is_not_claimed(
    output: Path, before: int, after: int, kept: int
) -> None:
    """The file has grown or shrunk since: of its last block we have too much or too little."""
    journal = Journal(output / PARTIAL / "1.journal")
    data = bytes(range(before))
    journal.begin(facts_of(before), claims_of(data, *range(-(-before // 4))))
    journal.close()
    assert claimed(journal.load(facts_of(after))) == list(range(kept))


@pytest.mark.parametrize("kind", ["symlink", "folder", "fifo"])
def test_what_is_not_a_file_is_not_read_as_a_journal(
    output: Path, journal: Journal, kind: str
) -> None:
    """FAULTS 11: a link is not followed, a FIFO without a writer does not hang."""
    path = journal_file(output)
    path.rename(output / "elsewhere")
    make: dict[str, Callable[[], object]] = {
        "symlink": lambda: path.symlink_to(output / "elsewhere"),
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
    }
    make[kind]()
    with pytest.raises((OSError, ValueError)):
        journal.facts()


def test_a_write_that_is_cut_short_is_an_error(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: a full disk may take half a record; nobody must think it took all."""
    journal.begin(facts_of(39))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:-1]))
    with pytest.raises(OSError, match="space"):
        journal.append(record(0, running(DATA, 0)))


def test_a_claim_is_the_blocks_that_were_added_and_not_dropped() -> None:
    """The digest stays known: only the flag says what is claimed."""
    claims = claims_of(DATA, 0, 4, 9)
    claims.flags[4] = 0
    assert claimed(claims) == [0, 9]
    assert b"".join(claims.records()) == record(0, running(DATA, 0)) + record(9, running(DATA, 9))
    assert claims.digest_of(5) == bytes(16)


def test_claims_are_told_as_ranges_in_order() -> None:
    """Half-open, not touching, as a message wants them."""
    assert claims_of(DATA).spans == ()
    assert claims_of(DATA, 9, 2, 1, 5).spans == ((1, 3), (5, 6), (9, 10))
    assert claims_of(DATA, *range(10)).spans == ((0, 10),)


def test_only_as_many_ranges_are_told_as_fit_a_message() -> None:
    """What is not told is sent: that costs time and no more."""
    claims = Claims(4 * MAX_SPANS, 16)
    for block in range(0, 4 * MAX_SPANS, 2):
        claims.add(block, bytes(16))
    assert len(claims.spans) == MAX_SPANS


def test_a_journal_of_many_blocks_is_not_held_in_memory(journal: Journal) -> None:
    """Neither when it is written nor when it is read: only the claims are, 17 bytes a block."""
    count = 200_000
    facts = facts_of(4 * count)
    claims = Claims(count, 16)
    for block in range(0, count, 2):
        claims.add(block, bytes(16))
    claims.flags[: count // 2] = b"\1" * (count // 2)
    tracemalloc.start()
    try:
        journal.begin(facts, claims)
        written = tracemalloc.get_traced_memory()[1]
        again = journal.load(facts)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (again.flags, again.count) == (claims.flags, 3 * count // 4)
    assert written < MB
    assert read < 17 * count + MB


def test_claims_of_few_blocks_of_a_huge_file_hold_no_digests_of_the_others() -> None:
    """A short part file may be announced again with terabytes: 32 bytes a block would be 2 GB."""
    count = 2**22
    tracemalloc.start()
    try:
        claims = Claims(count, 32)
        for block in (0, count - 1):
            claims.add(block, b"x" * 32)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [claims.digest_of(block)[:1] for block in (0, 1, 1000, count - 1)] == [
        b"x", b"\0", b"\0", b"x"
    ]  # fmt: skip
    assert used < count + MB
