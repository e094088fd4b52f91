"""The server's parts without sockets: names, part file, transfer, queue, registry, start-up."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import socket
import stat
import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

import pytest
from conftest import Clock, eventually, part_files, received, strays
from hypothesis import given, settings
from hypothesis import strategies as st

import config
import server as module
from config import ServerSettings
from lft.accounts.account import MAX_USER_NAME
from lft.server.blockmap import Due
from lft.server.buffers import BufferPool
from lft.server.sessions import Peer, Registry, Session
from lft.server.transfer import Transfer, TransferEndedError
from lft.server.work_queue import RightOfWay, WorkQueue
from lft.store.journal import Claims, Facts, Journal, record
from lft.store.ownership import OutputDirectory
from lft.store.partfile import PartFile, StaleError
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL, is_same_file, make_directory, output_name, safe_name
from lft.wire.connection import Connection
from protocol import MAX_SPANS, MAX_TEXT, FileStart, RejectedError, Side, UsageError, Why
from server import Server

# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", "", " ", "...", ". ."])
def test_a_name_that_names_no_file_is_rejected(name: str) -> None:
    """FAULTS 8: nothing can be saved under such a name."""
    with pytest.raises(RejectedError):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../x", ".._x"),
        ("a/../b", "a_.._b"),
        ("/x", "_x"),
        ("\\\\srv\\s", "__srv_s"),
        ("C:x", "C_x"),
        ("f:stream", "f_stream"),
        ("dot.", "dot_"),
        ("space ", "space_"),
        ("nul\0", "nul_"),
        ("cr\r\nlf", "cr__lf"),
        ("esc\x1b[31m", "esc_[31m"),
        ("c1\x9bm", "c1_m"),
        ("zero\u200bwidth", "zero_width"),
        ("rtl\u202egnp", "rtl_gnp"),
        ("lone\udcff", "lone_"),
    ],
)
def test_a_dangerous_name_is_made_harmless(name: str, safe: str) -> None:
    """FAULTS 8 and 9: separators and characters that act or hide become underscores."""
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    "name",
    ["a.txt", "with space.txt", "at@sign", "it's \"quoted\"", "📦.bin", "über", "u\u0308ber", "-rf",
     ".hidden", "CON", "COM1.log", "日本語.tar.gz"],
)  # fmt: skip
def test_a_harmless_name_stays_as_it_is(name: str) -> None:
    """FAULTS 10: the original name is kept where it hurts nobody behind the prefix."""
    assert safe_name(name) == name
    assert output_name(name, "x") == f"server_received_x_{name}"


@given(st.text(max_size=400))
def test_no_name_leaves_the_output_directory(name: str) -> None:
    """FAULTS 8: whatever comes is rejected, or one plain file name of at most 255 bytes."""
    try:
        final = output_name(safe_name(name), "20260101-000000-abcdef")
    except RejectedError:
        return
    assert os.path.basename(final) == final
    assert len(os.fsencode(final)) <= 255


def test_a_long_name_is_shortened_before_its_extension() -> None:
    """FAULTS 10: 255 bytes and the prefix do not fit; the extension is kept."""
    final = output_name("é" * 125 + ".tar", "20260101-000000-abcdef")
    assert len(final.encode()) in (254, 255)
    assert final.endswith("é.tar")


@pytest.mark.parametrize("last", [".", " "])
def test_a_long_name_is_not_shortened_to_a_dot_or_a_space(last: str) -> None:
    """FAULTS 8 and 10: what stood in the middle does not become a dangerous end."""
    final = output_name(f"{'a' * 215}{last}{'b' * 100}", "20260101-000000-abcdef")
    assert len(final) == 255
    assert final.endswith("a_")


# --- the part file ------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output directory."""
    (tmp_path / PARTIAL).mkdir()
    return tmp_path


def facts_of(size: int, name: str = "x", unique: str = "taken", block: int = 4) -> Facts:
    """Facts of a file of one user."""
    return Facts("u", name, size, block, "md5", output_name(name, unique), head=HEAD)


def test_a_part_file_is_published_with_its_bytes(output: Path) -> None:
    """What was written at its offsets stands under the final name, and nothing else is left."""
    part = PartFile.create(output, facts_of(6))
    part.write(memoryview(b"def"), 3)
    part.write(memoryview(b"abc"), 0)
    part.flush()
    name = part.publish()
    part.remove()
    assert (output / name).read_bytes() == b"abcdef"
    assert part_files(output) == []


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "fifo"])
def test_publishing_never_replaces_or_follows_what_is_there(
    output: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """FAULTS 11: a taken name is left alone, whatever it is, and another one is found."""
    taken = output / "server_received_taken_x"
    victim = output / "victim"
    victim.write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "file": lambda: taken.write_text("precious"),
        "folder": taken.mkdir,
        "symlink": lambda: taken.symlink_to(victim),
        "fifo": lambda: os.mkfifo(taken),
    }
    make[kind]()
    before = taken.lstat()
    monkeypatch.setattr("lft.store.partfile.unique", lambda: "free")
    monkeypatch.setattr("lft.server.transfer.unique", lambda: "free")
    part = PartFile.create(output, facts_of(1))
    part.write(memoryview(b"x"), 0)
    assert part.publish() == "server_received_free_x"
    part.remove()
    assert stat.S_IFMT(taken.lstat().st_mode) == stat.S_IFMT(before.st_mode)
    assert victim.read_text() == "precious"


def test_without_room_nothing_is_left_behind(output: Path) -> None:
    """FAULTS 12: a file larger than the disk is refused before a byte is written."""
    with pytest.raises(OSError, match=r"space|large"):
        PartFile.create(output, facts_of(2**62))
    assert part_files(output) == []


def test_a_part_file_cut_short_by_somebody_else_is_noticed(output: Path) -> None:
    """Reading back what is gone is an error, not zeros."""
    part = PartFile.create(output, facts_of(4))
    os.truncate(part_files(output)[0], 2)
    with pytest.raises(OSError, match="truncated"):
        part.read(memoryview(bytearray(4)), 0)
    part.remove()


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    """FAULTS 44: two servers would take each other's part files for their own."""
    first = OutputDirectory(tmp_path)
    with pytest.raises(UsageError, match="another server"):
        OutputDirectory(tmp_path)
    first.release()
    OutputDirectory(tmp_path).release()


def test_part_files_without_a_journal_are_removed_at_the_start(
    output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody can go on with does not fill the disk, and the log says so."""
    (output / PARTIAL / "0123.part").write_bytes(b"old")
    PartStore(output).scan()
    assert part_files(output) == []
    assert "removing 0123" in caplog.text


# --- the journal --------------------------------------------------------------------------------

DATA = bytes(range(39))  # of ten blocks of four bytes; the last has three
RECORD = 4 + 16  # bytes of a record with an MD5


def running(data: bytes, block: int) -> bytes:
    """Return the running digest of a block of ``data``."""
    return hashlib.md5(data[: (block + 1) * 4]).digest()


def claims_of(data: bytes, *blocks: int) -> Claims:
    """Return a true claim of some blocks of ``data``."""
    claims = Claims(-(-len(data) // 4), 16)
    for block in blocks:
        claims.add(block, running(data, block))
    return claims


def claimed(claims: Claims | None) -> list[int]:
    """Return the blocks that are claimed."""
    assert claims is not None
    return [block for block, flag in enumerate(claims.flags) if flag]


@pytest.fixture
def journal(output: Path) -> Iterator[Journal]:
    """A journal that claims the first three blocks of DATA."""
    one = Journal(output / PARTIAL / "1.journal")
    one.begin(facts_of(39), claims_of(DATA, 0, 1, 2))
    one.close()
    yield one
    one.close()


def journal_file(output: Path) -> Path:
    """Return where the only journal of an output directory is."""
    (path,) = (output / PARTIAL).glob("*.journal")
    return path


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


def _rewrite(output: Path, **changes: object) -> None:
    """Change facts in a journal; ``None`` takes one out."""
    path = journal_file(output)
    line, _, records = path.read_bytes().partition(b"\n")
    values = {**json.loads(line), **changes}
    values = {key: value for key, value in values.items() if value is not None}
    path.write_bytes(json.dumps(values).encode() + b"\n" + records)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_a_journal_of_another_version_is_none_of_ours(
    output: Path, journal: Journal, version: object
) -> None:
    """FAULTS 35: an older or newer server's records may mean something else."""
    _rewrite(output, journal=version)
    with pytest.raises(ValueError, match="version"):
        journal.facts()


@pytest.mark.parametrize("key", Facts._fields)
def test_a_journal_that_lacks_a_fact_is_none_of_ours(
    output: Path, journal: Journal, key: str
) -> None:
    """FAULTS 35: every fact is needed."""
    _rewrite(output, **{key: None})
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
    _rewrite(output, **changes)
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
    _rewrite(output, saved_as=saved_as)
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
    assert claims.records() == record(0, running(DATA, 0)) + record(9, running(DATA, 9))
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


# --- a part file that is opened again -----------------------------------------------------------

HEAD = running(DATA, 0).hex()


def _left(output: Path, data: bytes = DATA, *, unique: str = "taken", name: str = "x") -> PartFile:
    """Leave a part file as a server does that is killed when all of ``data`` is written."""
    head = hashlib.md5(data[:4]).hexdigest()
    part = PartFile.create(output, facts_of(len(data), name, unique)._replace(head=head))
    part.write(memoryview(data), 0)
    part.note(claims_of(data, *range(-(-len(data) // 4))).records())
    part.close()
    return part


def _found(output: Path, part: PartFile) -> PartFile:
    """Stand for ``part`` as the next server does, which knows only its journal."""
    path = output / PARTIAL / f"{part.stem}.journal"
    return PartFile(output, part.stem, Journal(path).facts())


def _published(output: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> PartFile:
    """Leave a part file whose server was killed between publishing and answering."""
    part = _left(output)
    part.reopen(facts_of(39))
    with monkeypatch.context() as patch:
        if how == "rename":
            patch.setattr(os, "link", _no_links)
        part.publish()
    part.close()
    return _found(output, part)


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_part_file_is_opened_again_with_what_it_has(output: Path) -> None:
    """Claims and bytes are those that were left, and more can be written."""
    part = _found(output, _left(output))
    assert claimed(part.reopen(facts_of(39))) == list(range(10))
    view = memoryview(bytearray(39))
    part.read(view, 0)
    assert view == DATA
    part.write(memoryview(b"xyz"), 36)
    part.remove()
    assert strays(output) == part_files(output) == []


def test_a_file_that_has_no_room_on_the_disk_takes_none_in_memory(output: Path) -> None:
    """FAULTS 12 and 32: one that begins like a part file and claims to be huge by now."""
    part = _found(output, _left(output))
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="No space"):
            part.reopen(facts_of(2**45, block=2**21))  # 2**24 blocks
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    part.close()
    assert part_files(output)[0].read_bytes() == DATA


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_published_file_is_recognised_and_keeps_its_name(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """FAULTS 37: publishing it again gives the same answer and no second file."""
    part = _published(output, monkeypatch, how)
    assert claimed(part.reopen(facts_of(39, unique="other"))) == list(range(10))
    assert part.published
    assert part.publish() == "server_received_taken_x"
    part.remove()
    assert [path.read_bytes() for path in received(output)] == [DATA]


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_published_file_is_never_written_to(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is the user's; neither bytes nor claims change any more."""
    part = _published(output, monkeypatch, how)
    part.reopen(facts_of(39))
    before = journal_file(output).read_bytes()
    with pytest.raises(StaleError):
        part.write(memoryview(b"xyz"), 0)
    part.note(record(0, bytes(16)))
    part.close()
    assert journal_file(output).read_bytes() == before
    assert [path.read_bytes() for path in received(output)] == [DATA]


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_published_file_that_was_moved_away_is_left_alone(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What the user has put elsewhere is not written to through its other name."""
    part = _published(output, monkeypatch, how)
    received(output)[0].rename(output / "elsewhere")
    with pytest.raises((FileNotFoundError, ValueError)):
        part.reopen(facts_of(39))
    part.remove()
    assert (output / "elsewhere").read_bytes() == DATA


@pytest.mark.parametrize("size", [38, 40, 0])
def test_a_published_file_is_no_beginning_of_another(
    output: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The source has another size by now: the published file stays, the new one begins anew."""
    part = _published(output, monkeypatch, "link")
    with pytest.raises(ValueError, match="another size"):
        part.reopen(facts_of(size))
    part.remove()
    assert [path.read_bytes() for path in received(output)] == [DATA]


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_what_took_the_place_of_a_part_file_is_not_opened(output: Path, kind: str) -> None:
    """FAULTS 11: nothing is followed, written to or waited for."""
    part = _left(output)
    path = part_files(output)[0]
    path.unlink()
    victim = output / "victim"
    victim.write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "symlink": lambda: path.symlink_to(victim),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    with pytest.raises(ValueError, match="not a regular file"):
        part.reopen(facts_of(39))
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("length", [0, 5, 38, 40, 5000])
def test_a_part_file_of_another_length_gets_its_own(output: Path, length: int) -> None:
    """FAULTS 35: too short or too long, its blocks are where they should be."""
    part = _left(output)
    os.truncate(part_files(output)[0], length)
    part.reopen(facts_of(39))
    assert part_files(output)[0].stat().st_size == 39
    view = memoryview(bytearray(39))
    part.read(view, 0)
    assert view == DATA[:length].ljust(39, b"\0")
    part.remove()


def test_a_part_file_with_another_head_is_not_touched(output: Path) -> None:
    """It is for another file, whose client may still come."""
    _left(output)
    before = journal_file(output).read_bytes()
    store = PartStore(output)
    store.scan()
    assert store.resume(transfer_of(b"other" + DATA)) is None
    assert journal_file(output).read_bytes() == before
    assert part_files(output)[0].read_bytes() == DATA


def test_a_part_file_goes_on_for_a_file_that_has_grown(output: Path) -> None:
    """The journal then says the new size, and the file has it."""
    part = _left(output)
    assert claimed(part.reopen(facts_of(50, unique="other"))) == list(range(9))
    part.close()
    assert _found(output, part).facts == facts_of(50)  # the name it would get stays
    assert part_files(output)[0].stat().st_size == 50


def test_what_is_flushed_and_proven_is_given_back_to_the_system(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That and no more: what may have to be read back stays in memory."""
    advice: list[tuple[int, ...]] = []
    part = PartFile.create(output, facts_of(39))
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, *what: advice.append(what))
    part.flush()
    part.flush(proven=20)
    assert advice == [(0, 20, os.POSIX_FADV_DONTNEED)]
    part.remove()


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_space_cannot_be_reserved_files_are_taken_all_the_same(
    output: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """FAULTS 33: some file systems have no such call; whether there is room was looked at."""

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    PartFile.create(output, facts_of(39)).remove()


def test_a_file_whose_name_cannot_be_flushed_for_want_of_a_descriptor_is_not_lost(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: all of it is on the disk; the same command publishes it later."""
    part = _left(output)
    part.reopen(facts_of(39))
    open_ = os.open

    def no_directories(path: object, flags: int, *more: int) -> int:
        if flags & os.O_DIRECTORY:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_(path, flags, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_directories)
        with pytest.raises(OSError, match="Too many open files"):
            part.publish()
    assert received(output) == []
    assert part.worth_keeping
    assert part.publish() == "server_received_taken_x"
    part.remove()


def test_a_failed_flush_is_final(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 34: what the disk lost stays lost, though a second flush would say all is well."""
    store = PartStore(output)
    part = store.create(transfer_of(DATA))
    part.note(record(0, running(DATA, 0)))
    with monkeypatch.context() as patch:
        patch.setattr("lft.store.partfile.sync_data", _broken)
        patch.setattr("lft.store.journal.sync_data", _broken)
        with pytest.raises(OSError, match="Input/output"):
            part.flush()
    part.flush()
    assert not part.trusted
    store.rest(part)
    assert store.resume(transfer_of(DATA)) is None
    assert part_files(output) == strays(output) == []


def _broken(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_the_journal_is_flushed_with_the_data(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 37: else a power cut after publishing forgets whose file it was: it comes twice."""
    flushed = []
    part = PartFile.create(output, facts_of(6))
    with monkeypatch.context() as patch:
        patch.setattr(
            "lft.store.partfile.sync_data", lambda file: flushed.append(os.fstat(file).st_ino)
        )
        patch.setattr(
            "lft.store.journal.sync_data", lambda file: flushed.append(os.fstat(file).st_ino)
        )
        part.flush()
    inodes = [path.stat().st_ino for path in (*part_files(output), *_journals(output))]
    assert flushed == inodes
    part.remove()


def test_a_journal_that_cannot_be_flushed_spoils_nothing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 34: it is a claim; the data is on the disk."""
    part = PartFile.create(output, facts_of(6))
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "flush", _broken)
        part.flush()
    assert part.trusted
    part.publish()
    assert received(output)
    part.remove()


def _journals(output: Path) -> list[Path]:
    return list((output / PARTIAL).glob("*.journal"))


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_name_that_the_disk_may_not_have_is_taken_back(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """FAULTS 34: without INTEGRITY_OK there is no file under a final name."""
    part = _left(output)
    part.reopen(facts_of(39))
    monkeypatch.setattr(os, "fsync", _broken)
    if how == "rename":
        monkeypatch.setattr(os, "link", _no_links)
    with pytest.raises(OSError, match="Input/output"):
        part.publish()
    assert received(output) == []
    assert not part.worth_keeping
    part.remove()
    assert part_files(output) == strays(output) == []


def test_a_journal_knows_the_other_name_before_the_file_gets_it(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 37: killed right after publishing, the next server recognises it all the same."""
    (output / "server_received_taken_x").write_text("precious")
    monkeypatch.setattr("lft.store.partfile.unique", lambda: "free")
    monkeypatch.setattr("lft.server.transfer.unique", lambda: "free")
    part = _left(output)
    part.reopen(facts_of(39))
    part.publish()
    part.close()
    found = _found(output, part)
    found.look()
    assert found.published
    assert found.facts.saved_as == "server_received_free_x"
    found.remove()


def test_a_full_disk_does_not_take_back_what_is_published(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: the file and its name are on the disk; a journal's last record is not worth it."""
    part = _left(output)
    part.reopen(facts_of(39))
    monkeypatch.setattr(Journal, "append", _broken)
    part.publish()
    assert part.published
    assert part.trusted
    part.remove()
    assert [path.read_bytes() for path in received(output)] == [DATA]


def test_a_published_file_that_was_removed_is_not_kept_a_second_time(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its second name would hold the space of a file that somebody has deleted."""
    _published(output, monkeypatch, "link")
    received(output)[0].unlink()
    PartStore(output).scan()
    assert part_files(output) == strays(output) == []
    assert "removed since" in caplog.text


def test_a_directory_on_another_file_system_is_refused_before_anything_is_sent(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: a whole file could not get its name there, at the very end."""
    (output / "alice").mkdir()
    lstat = os.lstat

    def elsewhere(path: Path) -> os.stat_result:
        facts = list(lstat(path))
        facts[stat.ST_DEV] += path.name == "alice"
        return os.stat_result(facts)

    monkeypatch.setattr(os, "lstat", elsewhere)
    with pytest.raises(OSError, match="device link"):
        make_directory(output, "alice")


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "gone before the answer"])
def test_a_verdict_asked_for_again_is_still_that_of_a_published_file(
    output: Path, monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    """Its journal says so for ever: what is removed then is not taken for unfinished."""
    part = _published(output, monkeypatch, "link")
    part.reopen(facts_of(39))
    if answered:
        part.publish()
    part.close()
    received(output)[0].unlink()
    PartStore(output).scan()
    assert part_files(output) == strays(output) == []


def test_what_a_kill_kept_from_being_noted_as_published_is_noted_at_the_start(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 36: or who removes the file later leaves a hidden copy of it for a week."""
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note_published", lambda *_: None)
        _published(output, monkeypatch, "link")
    PartStore(output).scan()
    received(output)[0].unlink()
    PartStore(output).scan()
    assert part_files(output) == strays(output) == []


# --- all part files -----------------------------------------------------------------------------


def transfer_of(
    data: bytes, *, user: str = "u", name: str = "x", block: int = 4, digest: str = "md5"
) -> Transfer:
    """Return a transfer of ``data`` that wants to go on where another one stopped."""
    head = hashlib.new(digest, data[:block]).hexdigest()
    start = FileStart(name, len(data), block, digest, head, resume=True)
    session = Session(user, 0, _peer())
    return Transfer(session, start, name, BufferPool(64), lambda _transfer, _part: None)


@pytest.fixture
def store(output: Path) -> Iterator[PartStore]:
    """The part files of an output directory; whoever leaves some calls ``scan``."""
    one = PartStore(output)
    yield one
    one.close()


def test_the_start_finds_what_an_earlier_run_left(output: Path, store: PartStore) -> None:
    """Its client goes on with it."""
    left = _left(output)
    store.scan()
    found = store.resume(transfer_of(DATA))
    assert found is not None
    assert found[0].stem == left.stem
    assert claimed(found[1]) == list(range(10))
    assert store.in_use == 1


def _link_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("victim"))


def _spoil(output: Path, part: PartFile, how: str) -> None:
    path = output / PARTIAL / part.stem
    journal, file = path.with_suffix(".journal"), path.with_suffix(".part")
    spoil: dict[str, Callable[[], object]] = {
        "no journal": journal.unlink,
        "no part file": file.unlink,
        "garbage": lambda: journal.write_bytes(b"\xff" * 100),
        "empty": lambda: os.truncate(journal, 0),
        "half a journal": lambda: journal.rename(path.with_suffix(".new")),
        "a link": lambda: _link_instead(file),
        "moved": lambda: os.link(file, output / "moved"),
    }
    spoil[how]()


@pytest.mark.parametrize(
    "how",
    ["no journal", "no part file", "garbage", "empty", "half a journal", "a link", "moved"],
)
def test_the_start_removes_what_nobody_can_go_on_with(
    output: Path, store: PartStore, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """FAULTS 35: the log says so, and what is good stays."""
    bad, good = _left(output, unique="bad"), _left(output, unique="good", name="y")
    _spoil(output, bad, how)
    store.scan()
    assert f"removing {bad.stem}" in caplog.text
    assert {path.stem for path in (output / PARTIAL).iterdir()} == {good.stem}
    assert store.resume(transfer_of(DATA)) is None
    assert store.resume(transfer_of(DATA, name="y")) is not None


@pytest.mark.parametrize("how", ["a fact too many", "nested too deep"])
def test_a_journal_of_any_other_form_does_not_stop_the_start(
    output: Path, store: PartStore, how: str
) -> None:
    """FAULTS 35: it is removed as garbage is; the server starts."""
    _left(output)
    if how == "a fact too many":
        _rewrite(output, more=1)
    else:
        journal_file(output).write_bytes(b"[" * 16_000 + b"\n")
    store.scan()
    assert list((output / PARTIAL).iterdir()) == []


def test_a_part_file_whose_first_block_is_missing_is_resumed(
    output: Path, store: PartStore
) -> None:
    """FAULTS 36: with four streams any block may be the last to come; the others are not lost."""
    part = PartFile.create(output, facts_of(39))
    part.note(claims_of(DATA, *range(1, 10)).records())
    part.close()
    store.scan()
    found = store.resume(transfer_of(DATA))
    assert found is not None
    assert claimed(found[1]) == list(range(1, 10))


def test_an_empty_file_takes_no_other_files_part_file(output: Path, store: PartStore) -> None:
    """It has no first block in common with it; what rests there is somebody's gigabytes."""
    _left(output)
    store.scan()
    assert store.resume(transfer_of(b"")) is None
    found = store.resume(transfer_of(DATA))
    assert found is not None
    assert claimed(found[1]) == list(range(10))


@pytest.mark.parametrize("length", [0, 38, 40, 5000])
def test_a_published_file_of_another_length_is_not_answered_for(
    output: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """FAULTS 37: who appended to it, or cut it, has made another file of it."""
    part = _published(output, monkeypatch, "link")
    os.truncate(received(output)[0], length)
    with pytest.raises(ValueError, match="."):  # noqa: RUF043  (any reason will do)
        part.reopen(facts_of(39))
    part.close()


def test_a_resume_that_fails_leaves_no_half_journal(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: the disk is full just when the journal is written anew."""
    _left(output)
    store.scan()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", _broken)
        assert store.resume(transfer_of(DATA)) is None
    assert strays(output) == []


def test_on_a_full_disk_a_resume_goes_on_with_the_journal_that_is_there(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: the room for the file itself is reserved; a torn record is cut off before."""
    left = _left(output)
    path = output / PARTIAL / f"{left.stem}.journal"
    path.write_bytes(path.read_bytes()[:-1])
    store.scan()
    opened = os.open

    def full(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(name, flags, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        found = store.resume(transfer_of(DATA))
    assert found is not None
    assert claimed(found[1]) == list(range(9))
    found[0].note(claims_of(DATA, 9).records())
    assert claimed(Journal(path).load(found[0].facts)) == list(range(10))


def test_the_start_removes_no_published_file(
    output: Path, monkeypatch: pytest.MonkeyPatch, store: PartStore
) -> None:
    """FAULTS 37: a journal whose file was moved away goes, the file under its new name stays."""
    _published(output, monkeypatch, "rename")
    received(output)[0].rename(output / "elsewhere")
    store.scan()
    assert list((output / PARTIAL).iterdir()) == []
    assert (output / "elsewhere").read_bytes() == DATA


def test_two_that_come_back_never_get_the_same_part_file(output: Path, store: PartStore) -> None:
    """FAULTS 43: one resumes, the other starts anew."""
    _left(output)
    store.scan()
    first, second = store.resume(transfer_of(DATA)), store.resume(transfer_of(DATA))
    assert first is not None
    assert second is None


def test_two_attempts_left_are_for_two_that_come_back(output: Path, store: PartStore) -> None:
    """Each gets one of its own."""
    left = {_left(output, unique=unique).stem for unique in ("one", "two")}
    store.scan()
    found = [store.resume(transfer_of(DATA)) for _ in range(3)]
    assert {one[0].stem for one in found if one} == left
    assert found[2] is None


@pytest.mark.parametrize(
    "other", [{"user": "v"}, {"name": "y"}, {"block": 8}, {"digest": "sha256"}]
)
def test_a_part_file_is_for_the_same_user_name_block_size_and_digest(
    output: Path, store: PartStore, other: dict[str, object]
) -> None:
    """Nobody goes on with what is somebody else's, or cut in another way."""
    _left(output)
    store.scan()
    assert store.resume(transfer_of(DATA, **other)) is None  # type: ignore[arg-type]
    assert store.resume(transfer_of(DATA)) is not None


def test_the_right_one_of_several_with_the_same_name_is_found(
    output: Path, store: PartStore
) -> None:
    """Their first blocks tell them apart; the others rest on for their own clients."""
    files = [bytes([seed]) * 39 for seed in range(3)]
    left = [_left(output, data, unique=str(seed)).stem for seed, data in enumerate(files)]
    store.scan()
    for data, stem in zip(files, left):
        found = store.resume(transfer_of(data))
        assert found is not None
        assert found[0].stem == stem


def test_a_part_file_that_cannot_be_resumed_is_removed_and_said(
    output: Path, store: PartStore, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 35: damaged after the start; the client begins anew."""
    _left(output)
    store.scan()
    journal_file(output).write_bytes(b"garbage")
    assert store.resume(transfer_of(DATA)) is None
    assert "cannot be resumed" in caplog.text
    assert part_files(output) == strays(output) == []


def test_a_disk_error_while_resuming_costs_no_part_file(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: it is no fault of the file's; when the disk works again it can be resumed."""
    _left(output)
    store.scan()
    with monkeypatch.context() as patch:
        patch.setattr("lft.store.partfile.open_carefully", _broken)
        patch.setattr("lft.store.journal.open_carefully", _broken)
        assert store.resume(transfer_of(DATA)) is None
    assert store.in_use == 0
    assert store.resume(transfer_of(DATA)) is not None


def test_only_what_holds_something_rests(output: Path, store: PartStore) -> None:
    """Reserved space without a block, or of a file that failed, is given back at once."""
    empty, failed, good = (store.create(transfer_of(DATA, name=name)) for name in "abc")
    for part in (failed, good):
        part.note(record(0, running(DATA, 0)))
    failed.trusted = False
    for part in (empty, failed, good):
        store.rest(part)
    assert [path.stem for path in part_files(output)] == [good.stem]
    assert store.in_use == 0


def test_a_part_file_rests_once(output: Path, store: PartStore) -> None:
    """Two threads may let it go: nobody gets it twice."""
    part = store.create(transfer_of(DATA))
    part.note(record(0, running(DATA, 0)))
    for _ in range(2):
        store.rest(part)
    assert store.resume(transfer_of(DATA)) is not None
    assert store.resume(transfer_of(DATA)) is None


def _age(output: Path, part: PartFile, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(output / PARTIAL / f"{part.stem}.journal", (then, then))


def test_what_nobody_came_back_for_expires(
    output: Path, store: PartStore, caplog: pytest.LogCaptureFixture
) -> None:
    """DESIGN 8: by the time its journal was last written to; the log says so."""
    old, young = (_left(output, unique=name, name=name) for name in ("old", "young"))
    _age(output, old, config.KEEP_PARTIAL + 60)
    _age(output, young, config.KEEP_PARTIAL - 60)
    store.scan()
    store.expire()
    assert [path.stem for path in part_files(output)] == [young.stem]
    assert "removing old of u" in caplog.text
    assert store.resume(transfer_of(DATA, name="old")) is None
    assert store.resume(transfer_of(DATA, name="young")) is not None


@pytest.mark.parametrize("how", ["link", "rename"])
def test_a_verdict_that_nobody_asked_for_again_expires_earlier(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Only the answer is forgotten: the published file stays."""
    part = _published(output, monkeypatch, how)
    store.scan()
    _age(output, part, config.KEEP_ANSWER - 60)
    store.expire()
    assert journal_file(output).exists()
    _age(output, part, config.KEEP_ANSWER + 60)
    store.expire()
    assert list((output / PARTIAL).iterdir()) == []
    assert [path.read_bytes() for path in received(output)] == [DATA]


def test_what_is_in_use_never_expires(output: Path, store: PartStore) -> None:
    """However long its transfer takes."""
    part = _left(output)
    store.scan()
    found = store.resume(transfer_of(DATA))
    _age(output, part, 10 * config.KEEP_PARTIAL)
    store.expire()
    assert found is not None
    assert [path.stem for path in part_files(output)] == [part.stem]


def test_a_part_file_that_somebody_else_removed_is_forgotten(
    output: Path, store: PartStore
) -> None:
    """FAULTS 33: expiry goes on with the others."""
    gone, old = (_left(output, unique=name, name=name) for name in ("gone", "old"))
    _age(output, old, config.KEEP_PARTIAL + 60)
    store.scan()
    for suffix in (".part", ".journal"):
        (output / PARTIAL / gone.stem).with_suffix(suffix).unlink()
    store.expire()
    assert part_files(output) == strays(output) == []
    assert store.resume(transfer_of(DATA, name="gone")) is None


@pytest.mark.parametrize("what", ["open_carefully", "lstat"])
def test_what_cannot_be_looked_at_just_now_does_not_expire(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """FAULTS 29 and 33: no descriptor left, or a disk with a fault, is no reason to remove it."""
    _left(output)
    store.scan()
    with monkeypatch.context() as patch:
        patch.setattr(
            f"{'lft.store.journal' if what == 'open_carefully' else 'os'}.{what}", _no_descriptors
        )
        store.expire()
    assert len(part_files(output)) == 1
    assert store.resume(transfer_of(DATA)) is not None


def _no_descriptors(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_look_at_what_expires_changes_nothing_for_who_goes_on_with_it(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published between two looks stays published, and is not written to."""
    _left(output)
    store.scan()
    real, calls, parts = is_same_file, itertools.count(), []

    def overtaken(path: Path, facts: os.stat_result) -> bool:
        answer = real(path, facts)
        if next(calls) == 0:
            found = store.resume(transfer_of(DATA))
            assert found is not None
            found[0].publish()
            parts.append(found[0])
        return answer

    monkeypatch.setattr("lft.store.partfile.is_same_file", overtaken)
    store.expire()
    assert [part.published for part in parts] == [True]


def test_a_part_file_on_its_way_to_rest_is_still_known(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 43: who comes for it just then has to wait for it, and begins nothing anew."""
    owner, successor = transfer_of(DATA), transfer_of(DATA)
    part = store.create(owner)
    part.note(record(0, running(DATA, 0)))
    seen: list[bool] = []
    close = PartFile.close

    def look_and_close(part: PartFile) -> None:
        seen.append(store.rivals(successor) == [owner] or store.resume(successor) is not None)
        close(part)

    monkeypatch.setattr(PartFile, "close", look_and_close)
    store.rest(part)
    assert seen == [True]


def test_the_folder_may_come_back_while_somebody_makes_it(
    output: Path, store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: two workers find that it was deleted, and both make it."""
    create, calls = PartFile.create, itertools.count()

    def deleted_before(output: Path, facts: Facts) -> PartFile:
        if next(calls) == 0:
            raise FileNotFoundError
        return create(output, facts)

    monkeypatch.setattr(PartFile, "create", deleted_before)
    assert store.create(transfer_of(DATA)).facts.size == len(DATA)


def test_rivals_are_the_others_that_send_the_same_file(store: PartStore) -> None:
    """Same key and same first block; a transfer is no rival of itself."""
    mine, same, other = transfer_of(DATA), transfer_of(DATA), transfer_of(b"other" + DATA)
    for transfer in (mine, same, other, transfer_of(DATA, user="v")):
        store.create(transfer)
    assert store.rivals(mine) == [same]


# --- a transfer ---------------------------------------------------------------------------------

BLOCK = 4


class Sample:
    """A transfer of a small file, with what its client knows."""

    def __init__(self, output: Path, size: int, lend: int = 0, data: bytes = b"") -> None:
        self.data = data or os.urandom(size)
        self.judged = 0  # how often somebody was told to publish
        self.whys: list[str] = []  # why blocks were asked for again
        self.buffers = BufferPool(8 * BLOCK, lend)
        head = hashlib.md5(self.data[:BLOCK]).hexdigest()
        start = FileStart("x", len(self.data), BLOCK, "md5", head, True)
        session = Session("u", 0, _peer())
        self.store_of_parts = PartStore(output)
        self.transfer = Transfer(session, start, "x", self.buffers, self.let_go)
        self.part, self.claims = self._part()
        self.transfer.open(self.part, self.claims)
        self.parts = [self.data[i : i + BLOCK] for i in range(0, len(self.data), BLOCK)]
        self.digests = [
            hashlib.md5(self.data[: i + BLOCK]).digest() for i in range(0, len(self.data), BLOCK)
        ]
        self.digest = hashlib.md5(self.data).hexdigest()

    def _part(self) -> tuple[PartFile, Claims | None]:
        return self.store_of_parts.create(self.transfer), None

    def let_go(self, _transfer: Transfer, part: PartFile) -> None:
        """Take the part file at the end."""
        self.store_of_parts.drop(part)

    def store(self, index: int, payload: bytes | None = None) -> Due:
        """Have one block arrive, damaged if ``payload`` is not its own."""
        data = self.parts[index] if payload is None else payload
        view = self.buffers.take(len(data))
        view[:] = data
        return self.transfer.store(index, self.digests[index], view)

    def announce(self, *indexes: int) -> list[Due]:
        """Have the client's digests of blocks arrive that the journal claims."""
        return [self.transfer.announce(index, self.digests[index]) for index in indexes]

    def hash(self) -> list[int]:
        """Hash all that can be hashed; return the damaged blocks."""
        damaged = []
        more = True
        while more:
            stretch = self.transfer.hash_stretch()
            more = stretch.more
            damaged += [first for first, _ in stretch.missing]
            self.judged += stretch.judged
            self.whys += [stretch.why] * len(stretch.missing)
        return damaged


def _peer() -> Peer:
    """Make a peer whose connection nobody uses."""
    ours, theirs = socket.socketpair()
    theirs.close()
    connection = Connection(ours, Side.SERVER)
    connection.close()
    return Peer(connection, 1.0)


@pytest.fixture
def sample(output: Path) -> Iterator[Sample]:
    """A transfer of ten blocks."""
    one = Sample(output, 39)
    yield one
    one.transfer.end()
    assert part_files(output) == []


def test_blocks_in_any_order_are_verified_in_file_order(sample: Sample) -> None:
    """Hashing stops at a gap and goes on when it is filled."""
    for index in (3, 1, 2):
        sample.store(index)
    sample.hash()
    assert sample.transfer.verified_bytes == 0
    sample.store(0)
    sample.hash()
    assert sample.transfer.verified_bytes == 4 * BLOCK


def test_a_complete_transfer_is_judged_by_its_last_running_digest(sample: Sample) -> None:
    """The running digest of the last block is the digest of the file."""
    for index in range(10):
        sample.store(index)
    assert sample.transfer.complete(sample.digest) == ()
    assert sample.judged == 0
    sample.hash()
    assert sample.judged == 1
    assert sample.transfer.digest == sample.transfer.claimed_digest == sample.digest


def test_a_damaged_block_is_found_asked_for_and_repaired(sample: Sample) -> None:
    """FAULTS 15: the first block whose running digest differs is the damaged one."""
    for index in range(10):
        sample.store(index, b"XXXX" if index == 4 else None)
    assert sample.hash() == [4]
    assert sample.transfer.verified_bytes == 4 * BLOCK
    sample.store(4)
    assert sample.hash() == []
    assert sample.transfer.complete(sample.digest) == ()
    sample.hash()
    assert sample.judged == 1
    assert sample.transfer.resent == 1


def test_a_block_damaged_every_time_makes_a_transfer_hopeless(sample: Sample) -> None:
    """FAULTS 15: rounds are counted without progress, and they end."""
    for rounds in range(config.MAX_ROUNDS + 1):
        assert not sample.transfer.hopeless, rounds
        sample.store(0, b"XXXX")
        assert sample.hash() == [0]
    assert sample.transfer.hopeless


def test_many_damaged_blocks_are_not_hopeless_while_repair_goes_on(output: Path) -> None:
    """Only rounds without progress count: here every block is damaged once."""
    sample = Sample(output, 4 * BLOCK * config.MAX_ROUNDS)
    for index in range(len(sample.parts)):
        sample.store(index, b"XXXX")
        assert sample.hash() == [index]
        sample.store(index)
        assert sample.hash() == []
    assert not sample.transfer.hopeless
    sample.transfer.end()


def test_a_block_that_comes_twice_is_written_once(sample: Sample) -> None:
    """FAULTS 16: a duplicate, even a damaged one, changes nothing."""
    sample.store(0)
    assert sample.store(0, b"XXXX").received == BLOCK
    assert sample.hash() == []
    assert sample.store(0, b"XXXX").received == BLOCK
    assert sample.transfer.verified_bytes == BLOCK


def test_gaps_at_complete_are_asked_for(sample: Sample) -> None:
    """FAULTS 18: the answer names exactly the blocks that are not here."""
    for index in (0, 1, 4, 7, 8):
        sample.store(index)
    assert sample.transfer.complete(sample.digest) == ((2, 4), (5, 7), (9, 10))


def test_before_all_is_delivered_nothing_is_asked_for(sample: Sample) -> None:
    """The blocks are on their way; when the last of them has come, the file is judged at once."""
    for index in range(9):
        sample.store(index)
    assert sample.transfer.complete(sample.digest, delivered=False) == ()
    sample.hash()
    before = sample.judged
    assert sample.store(9).hashing
    sample.hash()
    assert (before, sample.judged) == (0, 1)


def test_a_complete_that_crossed_a_missing_asks_for_nothing_more(sample: Sample) -> None:
    """The client will send the block once it has read the MISSING."""
    for index in range(9):
        sample.store(index, b"XXXX" if index == 2 else None)
    assert sample.hash() == [2]
    assert sample.transfer.complete(sample.digest) == ()
    sample.store(2)
    assert sample.transfer.complete(sample.digest) == ((9, 10),)


def test_the_part_file_stays_open_until_its_last_user_has_left(sample: Sample) -> None:
    """Ending a transfer never pulls the file from under a worker."""
    with sample.transfer.part() as part:
        assert sample.transfer.end()
        part.write(memoryview(b"late"), 0)
    with pytest.raises(OSError, match="descriptor"):
        part.write(memoryview(b"gone"), 0)


def test_an_ended_transfer_takes_nothing(sample: Sample) -> None:
    """A late block finds the transfer closed."""
    sample.transfer.end()
    with pytest.raises(TransferEndedError):
        sample.store(0)


def test_a_transfer_ends_once(sample: Sample) -> None:
    """Only one of those who end it may answer the client."""
    assert [sample.transfer.end() for _ in range(3)] == [True, False, False]


def test_a_complete_transfer_is_judged_once(sample: Sample) -> None:
    """Two workers that find nothing more to hash must not both publish."""
    for index in range(10):
        sample.store(index)
    sample.hash()
    sample.transfer.complete(sample.digest)
    for _ in range(3):
        sample.hash()
    assert sample.judged == 1


def test_nobody_else_ends_a_transfer_that_is_being_published(sample: Sample) -> None:
    """A CANCEL that comes too late must not be answered REJECTED beside a published file."""
    with sample.transfer.publishing():
        assert not sample.transfer.end()
        assert not sample.transfer.ended
    assert sample.transfer.ended
    assert not sample.transfer.end()
    sample.transfer.settle(confirmed=False)


def test_a_transfer_that_cannot_be_published_can_end(sample: Sample) -> None:
    """Its client is told so."""
    with pytest.raises(OSError, match="full"), sample.transfer.publishing():
        raise OSError(errno.ENOSPC, "full")
    assert sample.transfer.end()


def test_an_ended_transfer_is_not_published(sample: Sample) -> None:
    """Whoever was faster has answered the client already."""
    sample.transfer.end()
    with pytest.raises(TransferEndedError), sample.transfer.publishing():
        pytest.fail("published")


def test_only_so_many_blocks_may_wait_behind_a_gap(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered about blocks beyond a gap is bounded."""
    monkeypatch.setattr(config, "MAX_AHEAD", 2)
    for index in (1, 2):
        sample.store(index)
    assert not sample.transfer.full
    sample.store(3)
    assert sample.transfer.full


def test_buffers_are_kept_up_to_a_limit_and_used_again() -> None:
    """One that is given back is the next to be taken; beyond the limit they are freed."""
    pool = BufferPool(10)
    views = [pool.take(6) for _ in range(2)]
    for view in views:
        pool.give(view)
    assert pool.take(6).obj is views[0].obj
    assert pool.take(6).obj is not views[1].obj


def test_what_waits_to_be_hashed_may_take_a_bounded_share_of_memory(output: Path) -> None:
    """The pool lends so much to all transfers together; an ended one gives its share back."""
    sample = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    for index in range(1, 10):
        sample.store(index)
    assert not sample.buffers.lend(1)
    sample.store(0)
    assert sample.hash() == []
    assert sample.buffers.lend(3 * BLOCK)
    sample.buffers.settle(3 * BLOCK)
    sample.transfer.end()
    other = Sample(output, 10 * BLOCK, lend=3 * BLOCK)
    other.store(5)
    other.transfer.end()
    assert other.buffers.lend(3 * BLOCK)


def test_hashing_is_begun_by_one_worker_only(sample: Sample) -> None:
    """A second worker that finds hashing due is told that somebody is at it."""
    due = [sample.store(index).hashing for index in range(10)]
    assert due.count(True) == 1
    assert not sample.transfer.begin_hashing()


@given(
    order=st.permutations(list(range(10))),
    damage=st.sets(st.integers(0, 9)),
    again=st.lists(st.integers(0, 9), max_size=5),
    size=st.integers(37, 40),
)
@settings(max_examples=60, deadline=None)
def test_any_order_damage_and_repetition_ends_with_the_right_file(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    damage: set[int],
    again: list[int],
    size: int,
) -> None:
    """Whatever the network does to blocks, the published bytes are the client's."""
    output = tmp_path_factory.mktemp("out")
    (output / PARTIAL).mkdir()
    sample = Sample(output, size)
    for index in order + again:
        bad = bytes(len(sample.parts[index]))
        sample.store(index, bad if index in damage and bad != sample.parts[index] else None)
    while not sample.judged:
        for index in sample.hash():
            sample.store(index)
        sample.transfer.complete(sample.digest)
    assert sample.transfer.digest == sample.digest
    name = sample.part.publish()
    sample.transfer.end()
    assert (output / name).read_bytes() == sample.data


# --- a transfer that goes on where another one stopped ------------------------------------------


class Resumed(Sample):
    """A transfer of DATA, or of what became of it, for which a killed server left all of DATA."""

    def __init__(self, output: Path, data: bytes = DATA) -> None:
        super().__init__(output, 0, data=data)

    def _part(self) -> tuple[PartFile, Claims | None]:
        self.store_of_parts.scan()
        found = self.store_of_parts.resume(self.transfer)
        assert found is not None
        return found


@pytest.fixture
def resumed(output: Path) -> Iterator[Resumed]:
    """A transfer that goes on with all ten blocks of DATA."""
    _left(output)
    one = Resumed(output)
    yield one
    one.transfer.end()


def test_the_client_is_told_what_the_journal_claims(resumed: Resumed) -> None:
    """Of these blocks only the running digests are wanted."""
    assert resumed.transfer.claimed == ((0, 10),)
    assert resumed.transfer.verified_bytes == 0


def test_announced_blocks_are_proven_by_the_part_file(output: Path, resumed: Resumed) -> None:
    """No byte is sent: what is there is hashed, and it is the client's file."""
    due = resumed.announce(*range(10))
    assert due[-1].received == 39
    assert resumed.hash() == []
    assert resumed.transfer.complete(resumed.digest) == ()
    resumed.hash()
    assert resumed.judged == 1
    assert resumed.transfer.digest == resumed.digest
    assert resumed.transfer.resent == 0


def test_announced_blocks_make_hashing_due_as_written_ones_do(resumed: Resumed) -> None:
    """It begins while further digests come."""
    assert [due.hashing for due in resumed.announce(*range(10))].count(True) == 1


def test_a_block_that_is_not_announced_is_not_believed(resumed: Resumed) -> None:
    """The journal's word alone is no proof: at the end it is asked for."""
    resumed.announce(0, 1, 2, 4, 5, 6, 7, 8, 9)
    assert resumed.transfer.complete(resumed.digest) == ((3, 4),)


def test_an_announcement_of_what_is_not_claimed_changes_nothing(sample: Sample) -> None:
    """A peer cannot talk a block into the file."""
    assert sample.announce(0)[0].received == 0
    assert sample.transfer.complete(sample.digest) == ((0, 10),)


def test_a_block_announced_twice_counts_once(resumed: Resumed) -> None:
    """FAULTS 16: a lost connection may bring it again."""
    assert [due.received for due in resumed.announce(0, 0)] == [4, 4]


def test_a_claimed_block_that_is_sent_all_the_same_is_written(
    output: Path, resumed: Resumed
) -> None:
    """A client may prefer to send its bytes; the claim is then of no interest."""
    resumed.store(0)
    resumed.announce(*range(10))
    assert resumed.hash() == []
    assert resumed.transfer.verified_bytes == 39


def test_the_bytes_of_an_announced_block_are_not_needed(resumed: Resumed) -> None:
    """Damaged ones, late on the way, do no harm."""
    resumed.announce(*range(10))
    resumed.store(4, b"XXXX")
    assert resumed.hash() == []


@pytest.mark.parametrize("block", [0, 4, 9])
def test_a_block_altered_on_the_disk_is_the_only_one_asked_for(output: Path, block: int) -> None:
    """FAULTS 35: the journal claims what is not there; one block is sent, the file is right."""
    _left(output)
    with open(part_files(output)[0], "r+b") as file:
        file.seek(block * 4)
        file.write(b"XX")
    resumed = Resumed(output)
    resumed.announce(*range(10))
    assert resumed.hash() == [block]
    assert resumed.whys == [Why.ALTERED]
    resumed.store(block)
    assert resumed.hash() == []
    resumed.transfer.complete(resumed.digest)
    resumed.hash()
    assert resumed.judged == 1
    assert part_files(output)[0].read_bytes() == DATA
    resumed.transfer.end()


def test_many_altered_blocks_are_not_hopeless(output: Path) -> None:
    """FAULTS 35: a power cut may have taken them all; each one that is repaired is progress."""
    _left(output)
    part_files(output)[0].write_bytes(bytes(39))
    resumed = Resumed(output)
    resumed.announce(*range(10))
    asked = []
    for block in range(10):
        asked += resumed.hash()
        resumed.store(block)
    resumed.hash()
    assert asked == list(range(10))
    assert not resumed.transfer.hopeless
    assert resumed.transfer.verified_bytes == 39
    resumed.transfer.end()


def _changed(at: int) -> bytes:
    """Return DATA with another byte."""
    return DATA[:at] + b"\xff" + DATA[at + 1 :]


def _asked(due: list[Due]) -> list[int]:
    return [block for one in due for span in one.missing for block in range(*span)]


@pytest.mark.parametrize("order", [range(10), range(9, -1, -1), (5, 2, 9, 0, 7, 1, 3, 8, 4, 6)])
def test_after_a_change_in_the_source_every_later_block_is_asked_for_once(
    output: Path, order: tuple[int, ...]
) -> None:
    """FAULTS 20: block 3 differs; what comes before it is kept, whatever the order of digests."""
    _left(output)
    resumed = Resumed(output, _changed(13))
    due = resumed.announce(*order)
    assert sorted(_asked(due)) == [3, 4, 5, 6, 7, 8, 9]
    for block in range(3, 10):
        resumed.store(block)
    assert resumed.hash() == []
    resumed.transfer.complete(resumed.digest)
    resumed.hash()
    assert resumed.judged == 1
    assert part_files(output)[0].read_bytes() == _changed(13)
    resumed.transfer.end()


def test_announced_blocks_that_are_asked_for_after_all_count_once(output: Path) -> None:
    """FAULTS 35: one wrong digest in a journal looks like a change; later blocks were right."""
    part = PartFile.create(output, facts_of(39))
    part.write(memoryview(DATA), 0)
    part.note(claims_of(DATA, *range(10)).records() + record(3, bytes(16)))
    part.close()
    resumed = Resumed(output)
    assert resumed.announce(9, 8, 7)[-1].received == 11
    (due,) = resumed.announce(3)
    assert _asked([due]) == [3, 4, 5, 6, 7, 8, 9]
    assert due.received == 0
    resumed.transfer.end()


def test_a_change_in_the_source_asks_for_claimed_blocks_only(output: Path) -> None:
    """What was never here the client sends anyway."""
    part = PartFile.create(output, facts_of(39))
    part.write(memoryview(DATA), 0)
    part.note(claims_of(DATA, 0, 1, 2, 5, 6, 9).records())
    part.close()
    resumed = Resumed(output, _changed(5))
    assert _asked(resumed.announce(0, 1, 2)) == [1, 2, 5, 6, 9]
    resumed.transfer.end()


def test_a_change_that_the_journal_hides_is_found_by_the_hash(output: Path) -> None:
    """The journal lies with the client's own digest over other bytes: found as an alteration."""
    part = PartFile.create(output, facts_of(39))
    part.write(memoryview(_changed(13)), 0)
    part.note(claims_of(DATA, *range(10)).records())
    part.close()
    resumed = Resumed(output)
    assert _asked(resumed.announce(*range(10))) == []
    assert resumed.hash() == [3]
    assert resumed.whys == [Why.ALTERED]
    resumed.transfer.end()


def test_a_file_that_has_grown_needs_only_its_end(output: Path) -> None:
    """FAULTS 20: more was appended between the attempts; its old last block was short."""
    _left(output)
    resumed = Resumed(output, DATA + b"more and more")
    assert resumed.transfer.claimed == ((0, 9),)
    assert _asked(resumed.announce(*range(9))) == []
    for block in range(9, 13):
        resumed.store(block)
    resumed.transfer.complete(resumed.digest)
    assert resumed.hash() == []
    assert resumed.judged == 1
    resumed.transfer.end()


def test_a_file_that_has_shrunk_keeps_its_beginning(output: Path) -> None:
    """FAULTS 20: what is published is as short as the source."""
    _left(output)
    resumed = Resumed(output, DATA[:18])
    resumed.announce(*range(4))
    resumed.store(4)
    resumed.transfer.complete(resumed.digest)
    assert resumed.hash() == []
    assert resumed.judged == 1
    assert part_files(output)[0].read_bytes() == DATA[:18]
    resumed.transfer.end()


@pytest.mark.parametrize("how", ["changed", "altered"])
def test_a_published_file_that_does_not_fit_is_stale(
    output: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """FAULTS 37: the source or the published file has changed since; neither is overwritten."""
    _published(output, monkeypatch, "link")
    if how == "altered":
        with open(received(output)[0], "r+b") as file:
            file.write(b"edited")
    before = received(output)[0].read_bytes()
    resumed = Resumed(output, _changed(13) if how == "changed" else DATA)
    due = resumed.announce(*range(10))
    with pytest.raises(StaleError):
        resumed.hash() if how == "altered" else resumed.store(_asked(due)[0])
    resumed.transfer.spoil()
    resumed.transfer.end()
    assert [path.read_bytes() for path in received(output)] == [before]


def test_what_was_written_is_claimed_when_it_is_noted(output: Path, sample: Sample) -> None:
    """No block is claimed before it is written, and each once."""
    for block in (0, 3):
        sample.store(block)
    for _ in range(2):
        sample.transfer.note_blocks()
    facts = sample.part.facts
    records = journal_file(output).read_bytes().partition(b"\n")[2]
    assert len(records) == 2 * RECORD
    assert claimed(Journal(journal_file(output)).load(facts)) == [0, 3]


class Kept(Sample):
    """A transfer whose part file stays when it ends."""

    def let_go(self, _transfer: Transfer, part: PartFile) -> None:
        """Let it rest."""
        self.store_of_parts.rest(part)


def test_the_last_blocks_are_claimed_when_a_transfer_ends(output: Path) -> None:
    """FAULTS 36: what was written but not yet acknowledged is not sent again either."""
    sample = Kept(output, 39)
    sample.store(2)
    sample.transfer.end()
    assert journal_file(output).read_bytes().endswith(record(2, sample.digests[2]))


# --- the queue of workers -----------------------------------------------------------------------


@pytest.fixture
def one_worker() -> Iterator[WorkQueue]:
    """A queue with a single worker, so that the order shows."""
    work = WorkQueue(1)
    yield work
    work.shutdown()


def _wait(gate: threading.Event) -> None:
    gate.wait()


def _run_behind_a_blocker(work: WorkQueue, units: list[tuple[str, int]]) -> list[str]:
    """Put units while the only worker is busy; return their names in the order they ran."""
    gate = threading.Event()
    ran: list[str] = []
    work.put(partial(_wait, gate), 0)
    for name, priority in units:
        work.put(partial(ran.append, name), priority)
    gate.set()
    eventually(lambda: len(ran) == len(units))
    return ran


def test_higher_priority_runs_first_then_the_older_unit(one_worker: WorkQueue) -> None:
    """Priority, then age."""
    units = [("low", 0), ("high", 1), ("low again", 0), ("high again", 1)]
    order = _run_behind_a_blocker(one_worker, units)
    assert order == ["high", "high again", "low", "low again"]


def test_waiting_raises_urgency(one_worker: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A low unit that waited longer than a step of priority is worth runs first: none starves."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gate = threading.Event()
    ran: list[str] = []
    one_worker.put(partial(_wait, gate), 0)
    one_worker.put(lambda: ran.append("low"), 0)
    now += 2 * config.LEAD
    one_worker.put(lambda: ran.append("high"), 1)
    gate.set()
    monkeypatch.undo()
    eventually(lambda: len(ran) == 2)
    assert ran == ["low", "high"]


def test_a_unit_that_raises_does_not_cost_a_worker(
    one_worker: WorkQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 45: the error is logged, the next unit runs."""
    done = threading.Event()
    one_worker.put(lambda: 1 / 0, 0)  # type: ignore[arg-type]
    one_worker.put(done.set, 0)
    assert done.wait(10)
    assert "a unit of work failed" in caplog.text


def test_a_worker_leaves_a_silent_peer_when_somebody_needs_it(
    one_worker: WorkQueue,
) -> None:
    """A worker never waits for a peer while somebody else is ready."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Side.SERVER)
    lingering, left, done = threading.Event(), threading.Event(), threading.Event()

    def unit() -> None:
        lingering.set()
        assert not one_worker.linger(connection, 3600.0)
        left.set()

    one_worker.put(unit, 0)
    assert lingering.wait(10)
    one_worker.put(done.set, 0)
    assert left.wait(10)
    assert done.wait(10)
    ours.close()
    theirs.close()


def test_a_unit_that_comes_after_the_end_is_dropped() -> None:
    """A worker that still runs may put one; that is no error."""
    work = WorkQueue(1)
    work.shutdown()
    work.put(lambda: None, 0)


def test_strangers_whom_a_worker_serves_make_way_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: while all workers are busy there are no more of them than there may be."""
    monkeypatch.setattr(config, "MAX_STRANGERS", 2)
    server = Server(ServerSettings(port=0, output=tmp_path), {})
    pairs = [socket.socketpair() for _ in range(6)]
    with monkeypatch.context() as patch:
        patch.setattr(server._service.work, "put", lambda unit, priority: None)
        for ours, _ in pairs:
            server._welcome(ours)
            for peer in [peer for peer in server._peers if peer.idle]:
                server._hand_over(peer)
    for _, theirs in pairs:
        theirs.setblocking(False)
    assert sum(_is_cut(theirs) for _, theirs in pairs) == 4
    for _, theirs in pairs:
        theirs.close()
    server._close()


def _is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def test_an_address_is_forgotten_with_its_last_connection(tmp_path: Path) -> None:
    """FAULTS 29: who comes from a new one each time must not fill the memory."""
    server = Server(ServerSettings(port=0, output=tmp_path), {})
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, _ in pairs:
        server._welcome(ours)
    for peer in list(server._peers):
        server._forget(peer)
    assert dict(server._neighbours) == {}
    for _, theirs in pairs:
        theirs.close()
    server._close()


def test_a_connection_is_never_given_to_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post and the peer's own bytes in one round of the selector: the second event is stale."""
    server = Server(ServerSettings(port=0, output=tmp_path), {})
    ours, theirs = socket.socketpair()
    server._welcome(ours)
    (peer,) = server._peers
    units: list[object] = []
    monkeypatch.setattr(server._service.work, "put", lambda unit, priority: units.append(unit))
    server._nudge(peer)
    server._on_ready(peer)
    assert len(units) == 1
    theirs.close()
    server._close()


def test_a_connection_that_is_held_back_costs_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its pause ends, main sees whether the next one begins."""
    server = Server(ServerSettings(port=0, output=tmp_path), {})
    units: list[object] = []
    held = True
    monkeypatch.setattr(server._service.work, "put", lambda unit, priority: units.append(unit))
    monkeypatch.setattr(server._service, "gives_way", lambda peer: held)
    server._go_on(_peer())
    assert (len(units), len(server._paused)) == (0, 1)
    held = False
    server._end_pauses()
    assert (len(units), len(server._paused)) == (1, 0)
    server._close()


def test_connections_that_time_out_together_are_closed_once(tmp_path: Path) -> None:
    """The end of a coordinator closes its data connections, whose own time may be up as well."""
    server = Server(ServerSettings(port=0, output=tmp_path), {})
    pairs = [socket.socketpair() for _ in range(20)]
    for ours, _ in pairs:
        server._welcome(ours)
    coordinator, *streams = server._peers
    coordinator.session = Session("u", 0, coordinator)
    server._service.registry.add(coordinator.session)
    for stream in streams:
        stream.session = server._service.registry.attach(coordinator.session.token, stream)
    for peer in server._peers:
        peer.deadline = 0.0
    server._tick()
    assert coordinator.leaving
    assert all(peer.gone for peer in streams)
    for _, theirs in pairs:
        theirs.close()
    server._close()


# --- who gives way ------------------------------------------------------------------------------

FAST = 10 * config.MB  # more than holds the others back for as long as may be
EVER = float("inf")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until somebody moves it."""
    one = Clock()
    monkeypatch.setattr("lft.server.work_queue.time", one)
    return one


def test_a_priority_that_moves_holds_the_lower_ones_back(clock: Clock) -> None:
    """FAULTS 31: them, and nobody else."""
    way = RightOfWay()
    way.moved(1, FAST)
    assert way.pause(0, EVER) == pytest.approx(config.HOLD)
    assert [way.pause(priority, EVER) for priority in (1, 2)] == [0.0, 0.0]


def test_the_lower_ones_do_not_take_the_way_over(clock: Clock) -> None:
    """A block that one of them still brings changes nothing; one of a higher one does."""
    way = RightOfWay()
    way.moved(1, FAST)
    way.moved(0, FAST)
    assert way.pause(0, EVER) > 0
    way.moved(2, FAST)
    assert way.pause(1, EVER) > 0


def test_nobody_is_held_back_by_what_has_ended(clock: Clock) -> None:
    """The next priority has the way then."""
    way = RightOfWay()
    way.moved(1, FAST)
    clock.now += config.HOLD
    assert way.pause(0, EVER) == 0.0
    way.moved(0, FAST)
    assert way.pause(-1, EVER) > 0


def test_who_has_been_held_back_for_long_goes_on(clock: Clock) -> None:
    """FAULTS 31: its pause ends at the instant that it was promised."""
    way = RightOfWay()
    way.moved(1, FAST)
    assert way.pause(0, clock.now + config.HOLD / 2) == pytest.approx(config.HOLD / 2)
    assert way.pause(0, clock.now) == 0.0


@pytest.mark.parametrize(("rate", "part"), [(2.0, 1.0), (1.0, 1.0), (0.25, 0.25), (0.01, 0.01)])
def test_a_slow_transfer_holds_the_others_back_in_proportion(
    clock: Clock, rate: float, part: float
) -> None:
    """What comes over a slow link does not keep a fast one waiting, block after block."""
    way, block, held = RightOfWay(), 200 * config.KB, 0.0
    gap = block / (rate * config.HOLD_RATE)
    for _ in range(100):
        way.moved(1, block)
        held += min(gap, way.pause(0, EVER))
        clock.now += gap
    assert held / (100 * gap) == pytest.approx(part, rel=0.01)


# --- the registry -------------------------------------------------------------------------------


def _transfer(priority: int = 0) -> Transfer:
    session = Session("u", priority, _peer())
    start = FileStart("x", 1, BLOCK, "md5", "0" * 32, False)
    return Transfer(session, start, "x", BufferPool(BLOCK), lambda _transfer, _part: None)


def test_further_transfers_wait_and_are_admitted_as_others_leave() -> None:
    """Positions count from 1 and move up."""
    registry = Registry(max_active=1)
    first, second, third = (_transfer() for _ in range(3))
    assert [registry.enter(one) for one in (first, second, third)] == [0, 1, 2]
    assert registry.leave(first) == [second]
    assert registry.waiting() == [third]
    assert registry.leave(third) == []
    assert registry.leave(second) == []


def test_an_urgent_transfer_waits_before_the_others() -> None:
    """Higher number first."""
    registry = Registry(max_active=1)
    registry.enter(_transfer(1))
    low, high = _transfer(0), _transfer(1)
    assert registry.enter(low) == 1
    assert registry.enter(high) == 1
    assert registry.positions() == [(high, 1), (low, 2)]


def test_lower_priorities_take_no_room_from_a_transfer() -> None:
    """FAULTS 31: an urgent one begins beside all the others there may be; not the reverse."""
    registry = Registry(max_active=2)
    assert [registry.enter(_transfer(0)) for _ in range(3)] == [0, 0, 1]
    assert [registry.enter(_transfer(1)) for _ in range(3)] == [0, 0, 1]
    assert registry.enter(_transfer(2)) == 0
    assert registry.enter(_transfer(0)) == 3


def test_a_position_counts_only_those_that_may_be_before() -> None:
    """One that has waited for long is first in the line, but takes nothing from higher ones."""
    registry = Registry(max_active=1)
    registry.enter(_transfer(1))
    old, high = _transfer(0), _transfer(1)
    old.asked_at -= 2 * config.URGENCY
    registry.enter(old)
    assert registry.enter(high) == 1
    assert registry.positions() == [(old, 1), (high, 1)]


@pytest.mark.parametrize(("waited", "admitted"), [(2.0, 2), (0.0, 1)])
def test_waiting_raises_the_urgency_of_a_transfer(waited: float, admitted: int) -> None:
    """FAULTS 31: while urgent ones come and go, who has waited for long gets the next place."""
    registry = Registry(max_active=1)
    first, low, high = _transfer(1), _transfer(0), _transfer(1)
    low.asked_at -= waited * config.URGENCY
    for one in (first, low, high):
        registry.enter(one)
    assert registry.leave(first) == [low, high][-admitted:]
    assert (low in registry.active()) == (waited > 0)


def test_a_place_goes_to_the_first_that_has_room() -> None:
    """Who has none lets those behind go first, and keeps its place in the line."""
    registry = Registry(max_active=1)
    bulk, urgent = _transfer(0), _transfer(1)
    registry.enter(bulk)
    registry.enter(urgent)
    old, high = _transfer(0), _transfer(1)
    old.asked_at -= 2 * config.URGENCY
    registry.enter(old)
    registry.enter(high)
    assert registry.leave(urgent) == [high]
    assert registry.leave(high) == []
    assert registry.leave(bulk) == [old]


def test_too_many_waiting_transfers_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 30: the queue is bounded."""
    monkeypatch.setattr(config, "MAX_WAITING_TRANSFERS", 1)
    registry = Registry(max_active=0)
    registry.enter(_transfer())
    with pytest.raises(RejectedError, match="try again"):
        registry.enter(_transfer())


def test_a_token_finds_its_session_until_that_ends() -> None:
    """FAULTS 17: an unknown token and one of a past session find nothing."""
    registry = Registry(max_active=1)
    session, peer = Session("u", 0, _peer()), _peer()
    registry.add(session)
    assert registry.attach(session.token, peer) is session
    assert registry.attach("guess", peer) is None
    assert registry.remove(session) == [peer]
    assert registry.attach(session.token, peer) is None


# --- starting in a way that cannot work ---------------------------------------------------------


def test_a_port_in_use_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert module.main(["--port", port, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "in use" in error
    assert "--port" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_the_demo_accounts_are_for_loopback_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """Asked to listen elsewhere without --credentials, the server refuses and says what to do."""
    assert module.main(["--host", host, "--port", "0", "--output", str(tmp_path / "out")]) == 2
    assert "auth.py add" in capsys.readouterr().err


@pytest.mark.parametrize("problem", ["missing", "readable", "malformed", "symlink"])
def test_a_bad_credential_file_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    """FAULTS 25: the server does not start and says why."""
    path = tmp_path / "users.json"
    if problem != "missing":
        path.write_text("{}")
        path.chmod(0o644 if problem == "readable" else 0o600)
    if problem == "symlink":
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
    options = ["--port", "0", "--output", str(tmp_path / "out"), "--credentials", str(path)]
    assert module.main(options) == 2
    error = capsys.readouterr().err
    assert "credential file" in error
    assert error.count("\n") == 1


def test_an_output_directory_that_cannot_be_made_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line."""
    (tmp_path / "file").write_text("in the way")
    assert module.main(["--port", "0", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "output directory" in capsys.readouterr().err
