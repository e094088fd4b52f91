"""Standard input as a source."""

from __future__ import annotations

import argparse
import hashlib
import os
import pty
import threading
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest

import config
from config import ClientSettings
from lft.client.announcement import announcement, check_files, check_server
from lft.client.sources import open_source
from lft.client.standard_input import STANDARD_INPUT, StandardInput, file_argument
from lft.client.upload import BlockQueue, Upload, reader_of
from protocol import (
    PRESERVE,
    UNSIZED,
    FileReady,
    RejectedError,
    RemoteProtocolError,
    SourceError,
    UsageError,
)
from tests.support.waiting import PATIENCE, eventually

BLOCK = 4096


class Piped(NamedTuple):
    """A pipe that stands for standard input, and its end to write to."""

    source: StandardInput
    end: int

    def put(self, data: bytes) -> None:
        """Write some bytes."""
        assert os.write(self.end, data) == len(data)


@pytest.fixture
def piped() -> Iterator[Piped]:
    """A pipe; its writing end may be closed by the test."""
    ours, theirs = os.pipe()
    one = Piped(StandardInput("x", ours), theirs)
    yield one
    one.source.close()
    os.close(ours)
    try:
        os.close(theirs)
    except OSError:
        return


def block_of(source: StandardInput, size: int = BLOCK) -> bytes:
    """Read the next block."""
    view = memoryview(bytearray(size))
    return bytes(view[: source.fill(view)])


def test_a_block_is_filled_from_many_small_pieces(piped: Piped) -> None:
    """A pipe gives what is there, not what is wanted."""
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(block_of(piped.source)))
    thread.start()
    for _ in range(4):
        piped.put(b"x" * 1000)
    assert not done
    piped.put(b"y" * 96)
    thread.join(PATIENCE)
    assert done == [b"x" * 4000 + b"y" * 96]


def test_the_last_block_is_short_and_after_it_there_is_nothing(piped: Piped) -> None:
    """The end of the input is the end of the file."""
    piped.put(b"z" * 5000)
    os.close(piped.end)
    assert [len(block_of(piped.source)) for _ in range(3)] == [4096, 904, 0]


def test_what_is_not_verified_can_be_read_again(piped: Piped) -> None:
    """A damaged block is sent again from memory; a verified one has left it."""
    piped.put(b"a" * BLOCK + b"b" * BLOCK)
    first, second = block_of(piped.source), block_of(piped.source)
    view = memoryview(bytearray(BLOCK))
    for offset, block in ((0, first), (BLOCK, second)):
        piped.source.read(view, offset)
        assert bytes(view) == block
    piped.source.release(2 * BLOCK - 1)
    piped.source.read(view, BLOCK)
    with pytest.raises(SourceError, match="cannot be read again"):
        piped.source.read(view, 0)


def test_the_reader_waits_while_much_is_not_verified(
    piped: Piped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, however fast the input and however slow the server."""
    monkeypatch.setattr(config, "UNSIZED_WINDOW", 2 * BLOCK)
    piped.put(b"c" * 3 * BLOCK)
    done = [block_of(piped.source), block_of(piped.source)]
    thread = threading.Thread(target=lambda: done.append(block_of(piped.source)))
    thread.start()
    thread.join(0.1)
    assert len(done) == 2
    piped.source.release(BLOCK)
    thread.join(PATIENCE)
    assert len(done) == 3


@pytest.mark.parametrize("why", ["no input", "no room"])
def test_the_reader_can_be_stopped_whatever_it_waits_for(
    piped: Piped, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Ctrl-C and a rejection end the client, not only the end of the input."""
    if why == "no room":
        monkeypatch.setattr(config, "UNSIZED_WINDOW", BLOCK - 1)
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(block_of(piped.source)))
    thread.start()
    if why == "no input":
        eventually(lambda: piped.source.waiting, "the reader to wait")
    piped.source.stop()
    thread.join(PATIENCE)
    assert done == [b""]


def test_a_reader_that_was_woken_for_room_can_still_be_stopped(
    piped: Piped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server has verified wakes the reader, which must not read where nothing is."""
    woken = threading.Event()
    wait = StandardInput._wait_for

    def wait_for(source: StandardInput, *descriptors: int) -> list[int]:
        ready = wait(source, *descriptors)
        woken.set()
        return ready

    monkeypatch.setattr(StandardInput, "_wait_for", wait_for)
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(block_of(piped.source)), daemon=True)
    thread.start()
    piped.source.release(0)
    assert woken.wait(PATIENCE)
    piped.source.stop()
    thread.join(PATIENCE)
    assert done == [b""]


def test_it_can_be_tried_again_until_a_byte_was_read(piped: Piped) -> None:
    """A server that is busy at first is no reason to run the whole command anew."""
    assert piped.source.repeatable
    piped.put(b"d" * BLOCK)
    block_of(piped.source)
    assert not piped.source.repeatable


def test_a_terminal_is_told_how_to_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise a user would wait for the program while it waits for the user."""
    ours, theirs = pty.openpty()
    source = StandardInput("x", theirs)
    assert "Ctrl-D" not in caplog.text
    os.write(ours, b"hello\n\4")
    assert block_of(source) == b"hello\n"
    assert "Ctrl-D" in caplog.text
    source.close()
    os.close(ours)
    os.close(theirs)


def test_a_source_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """FAULTS 21: a folder, say."""
    folder = os.open(tmp_path, os.O_RDONLY)
    source = StandardInput("x", folder)
    with pytest.raises(SourceError, match="standard input: Is a directory"):
        block_of(source)
    source.close()
    os.close(folder)


def test_a_dash_names_standard_input_and_a_file_of_that_name_has_a_folder(tmp_path: Path) -> None:
    """./- is a file, as for other programs."""
    assert file_argument("-") == STANDARD_INPUT
    assert file_argument("./-") == Path.cwd() / "-"
    assert file_argument("a/b") == Path("a/b")
    with pytest.raises(SourceError, match="No such file"):
        open_source(tmp_path / "-", ClientSettings())


@pytest.mark.parametrize("name", [None, "backup.tar"])
def test_standard_input_has_a_name(name: str | None) -> None:
    """The one that is given, or one that says where it came from."""
    source = open_source(STANDARD_INPUT, ClientSettings(name=name))
    assert source.name == (name or "stdin")
    source.close()


def test_an_upload_ends_where_its_source_does(piped: Piped) -> None:
    """The size is known then; the server may ask only for blocks that were sent."""
    upload = Upload(piped.source, "md5", BLOCK, FileReady(7, ()), lambda: None)
    reader = reader_of(upload, BlockQueue(), 4)
    piped.put(b"e" * 5000)
    reader.start()
    eventually(lambda: upload.known == 1, "the first block")
    assert not upload.all_hashed
    os.close(piped.end)
    reader.join(PATIENCE)
    assert (upload.all_hashed, upload.known, piped.source.size) == (True, 2, 5000)
    assert upload.digests.hexdigest() == hashlib.md5(b"e" * 5000).hexdigest()


def test_a_server_cannot_have_blocks_of_what_was_never_sent(piped: Piped) -> None:
    """FAULTS 26: no attempt came before this one."""
    with pytest.raises(RemoteProtocolError, match="blocks that the file does not have"):
        Upload(piped.source, "md5", BLOCK, FileReady(7, ((0, 1),)), lambda: None)


def test_an_old_server_is_told_from_a_new_one(piped: Piped) -> None:
    """Before a byte is read."""
    check_server(piped.source, ("md5", "unsized"))
    with pytest.raises(RejectedError, match="too old to take standard input"):
        check_server(piped.source, ("md5",))


def test_an_empty_name_is_no_folder() -> None:
    """A variable of a script that is not set is no wish to send the folder in which it runs."""
    with pytest.raises(argparse.ArgumentTypeError, match="the name of a file is empty"):
        file_argument("")


def test_what_has_no_bits_to_keep_is_told(piped: Piped, caplog: pytest.LogCaptureFixture) -> None:
    """An option that can do nothing for a file is not passed over in silence."""
    settings = ClientSettings(preserve=True)
    start = announcement(
        piped.source, BLOCK, settings, (UNSIZED, PRESERVE), digest="md5", resume=True
    )
    assert (start.mode, start.mtime) == (None, None)
    assert "x: --preserve is for files" in caplog.text


def test_files_that_cannot_be_sent_together_are_refused() -> None:
    """There is one standard input, and one name for one file."""
    settings = config.ClientSettings(name="x")
    check_files([STANDARD_INPUT], settings)
    with pytest.raises(UsageError, match="once"):
        check_files([STANDARD_INPUT, Path("a"), STANDARD_INPUT], config.ClientSettings())
    with pytest.raises(UsageError, match="single FILE"):
        check_files([Path("a"), Path("b")], settings)
