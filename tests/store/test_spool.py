"""Notes of what is still to be done for published files."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from lft.store.paths import PARTIAL
from lft.store.spool import Spool
from tests.support.history import entry


@pytest.fixture
def spool(output: Path) -> Spool:
    """A spool, and an unfinished file with its journal."""
    for suffix in (".part", ".journal"):
        (output / PARTIAL / f"stem{suffix}").write_bytes(b"x")
    return Spool(output)


def publish(output: Path, name: str) -> None:
    """Give the unfinished file its final name."""
    os.link(output / PARTIAL / "stem.part", output / name)


def test_a_note_says_what_was_written_and_that_its_file_is_there(
    output: Path, spool: Spool
) -> None:
    """A new server reads it as the old one wrote it."""
    one = entry("Ünïcode $(x)\nname", 7, wire_bytes=3, files=2)
    name = spool.add(one, "stem", output / PARTIAL / "stem.part")
    publish(output, one.saved_as)
    left = Spool(output).read(name)
    assert (left.entry, left.published) == (one, True)


def test_notes_come_in_the_order_of_their_files(output: Path, spool: Spool) -> None:
    """Whatever the folder's order is."""
    written = [spool.add(entry(str(i)), "stem", output / PARTIAL / "stem.part") for i in range(20)]
    assert spool.names() == written
    for name in written:
        spool.remove(name)
    assert spool.names() == []


def test_a_file_that_was_not_published_is_not_taken_for_one_that_was(
    output: Path, spool: Spool
) -> None:
    """Also where another file has the name by now."""
    one = entry()
    name = spool.add(one, "stem", output / PARTIAL / "stem.part")
    assert not spool.read(name).published
    (output / one.saved_as).write_bytes(b"another")
    assert not spool.read(name).published


def test_a_verdict_counts_as_unconfirmed_while_its_journal_is_there(
    output: Path, spool: Spool
) -> None:
    """Until then the client may ask for it again."""
    one = entry()
    name = spool.add(one, "stem", output / PARTIAL / "stem.part")
    publish(output, one.saved_as)
    assert not spool.read(name).confirmed
    (output / PARTIAL / "stem.journal").unlink()
    assert spool.read(name).confirmed


def test_a_note_that_was_cut_short_by_a_kill_is_removed(output: Path, spool: Spool) -> None:
    """Its file has no final name: the note comes first."""
    whole = spool.add(entry(), "stem", output / PARTIAL / "stem.part")
    (output / PARTIAL / "received" / "00001-half.new").write_bytes(b'{"ended"')
    assert spool.names() == [whole]
    assert os.listdir(output / PARTIAL / "received") == [whole]


def test_a_note_that_cannot_be_written_leaves_nothing(
    output: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk."""

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lft.store.spool.sync_data", fail)
    with pytest.raises(OSError, match="No space"):
        spool.add(entry(), "stem", output / PARTIAL / "stem.part")
    assert os.listdir(output / PARTIAL / "received") == []


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"inode": 1, "stem": "x", "a": 1}'])
def test_what_is_no_note_of_ours_is_refused(output: Path, spool: Spool, text: bytes) -> None:
    """Without an error of another kind."""
    name = spool.add(entry(), "stem", output / PARTIAL / "stem.part")
    (output / PARTIAL / "received" / name).write_bytes(text)
    with pytest.raises(ValueError, match=r"."):
        spool.read(name)


def test_only_the_server_can_read_a_note(output: Path, spool: Spool) -> None:
    """It tells who sent what."""
    name = spool.add(entry(), "stem", output / PARTIAL / "stem.part")
    folder = output / PARTIAL / "received"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert json.loads((folder / name).read_text())["user"] == "ann"


def test_without_notes_there_is_no_folder(output: Path) -> None:
    """A server without a program makes none."""
    assert Spool(output).names() == []
    assert os.listdir(output / PARTIAL) == []
