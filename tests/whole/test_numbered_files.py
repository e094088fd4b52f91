"""Several numbered files of one session, side by side: what a server does with them."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import pytest

import config
from config import KB
from protocol import (
    MAX_AHEAD,
    Cancel,
    FileReady,
    FileStart,
    Goodbye,
    Heard,
    IntegrityOk,
    Message,
    Missing,
    Queued,
    Rejected,
    TransferComplete,
)
from tests.support.files import part_files, received
from tests.support.local import ServerThread, StartLocal
from tests.support.rawpeer import RawClient, RawUpload
from tests.support.waiting import eventually

BLOCK = 4 * KB
Kind = TypeVar("Kind", bound=Message)


def content(file: int) -> bytes:
    """Return what the file of this number has in it."""
    return bytes([file % 256]) * (2 * BLOCK + file)


def announce(client: RawClient, *files: int) -> None:
    """Announce numbered files without waiting for any answer."""
    for file in files:
        data = content(file)
        head = hashlib.md5(data[:BLOCK]).hexdigest()
        client.control.send(FileStart(f"x{file}", len(data), BLOCK, "md5", head, True, file=file))


def hear(client: RawClient, kind: type[Kind], count: int) -> dict[int, Kind]:
    """Wait for ``count`` messages of this kind; return them by the numbers of their files."""
    heard: dict[int, Kind] = {}
    while len(heard) < count:
        message = client.answer()
        assert isinstance(message, kind), message
        heard[vars(message)["file"]] = message
    return heard


def uploads(client: RawClient, *files: int) -> dict[int, RawUpload]:
    """Announce files; return what is to be sent of each, once the server is ready for all."""
    announce(client, *files)
    ready = hear(client, FileReady, len(files))
    return {file: RawUpload(client, ready[file].transfer, content(file), BLOCK) for file in files}


def complete(client: RawClient, upload: RawUpload, file: int) -> None:
    """Say that all of a file has been sent."""
    client.control.send(TransferComplete(upload.number, upload.digest, file=file))


def test_files_go_side_by_side_over_one_data_connection(local: ServerThread) -> None:
    """Their blocks are mixed; each has a verdict of its own, and is there once."""
    with RawClient(local.port).log_in() as client:
        sent, stream = uploads(client, 1, 2, 3), client.attach()
        for block in range(3):
            for file in (3, 1, 2):
                sent[file].send(stream, block)
        for file in (2, 3, 1):
            complete(client, sent[file], file)
        verdicts = hear(client, IntegrityOk, 3)
        assert {file: verdict.digest for file, verdict in verdicts.items()} == {
            file: hashlib.md5(content(file)).hexdigest() for file in (1, 2, 3)
        }
    found = {path.read_bytes() for path in received(local.output)}
    assert found == {content(file) for file in (1, 2, 3)}


def test_a_verdict_counts_as_read_when_the_client_says_so(local: ServerThread) -> None:
    """No other message confirms it: it may have crossed the verdict."""
    with RawClient(local.port).log_in() as client:
        sent, stream = uploads(client, 1, 2), client.attach()
        for file in (1, 2):
            sent[file].send(stream, 0, 1, 2)
            complete(client, sent[file], file)
        hear(client, IntegrityOk, 2)
        announce(client, 3)
        hear(client, FileReady, 1)
        assert len(part_files(local.output)) == 3
        client.control.send(Heard(((2, 3),)))
        eventually(lambda: len(part_files(local.output)) == 2, "one part file to go")
        client.control.send(Heard(((1, 2), (7, 2**32))))
        eventually(lambda: len(part_files(local.output)) == 1, "the other one to go")


def test_a_verdict_that_was_not_heard_is_given_again(local: ServerThread) -> None:
    """37: a client that lost its session asks again: the same names, and no file twice."""
    names = []
    for _ in range(2):
        with RawClient(local.port).log_in() as client:
            announce(client, 1, 2)
            ready = hear(client, FileReady, 2)
            stream = client.attach()
            for file in (1, 2):
                upload = RawUpload(client, ready[file].transfer, content(file), BLOCK)
                held = [index for span in ready[file].have for index in range(*span)]
                for index in range(3):
                    codec = {"codec": 1, "payload": b"", "raw_length": len(upload.blocks[index])}
                    frame = upload.frame(index, **codec) if index in held else upload.frame(index)
                    stream.push(frame)
                upload.await_acks(stream, 3)
                complete(client, upload, file)
            verdicts = hear(client, IntegrityOk, 2)
            names.append({file: verdict.saved_as for file, verdict in verdicts.items()})
            client.control.send(Goodbye())  # which confirms no numbered file
        eventually(lambda: local.server.parts.in_use == 0, "the part files to rest")
    assert names[0] == names[1]
    assert len(received(local.output)) == 2


def test_one_file_is_cancelled_and_the_others_go_on(local: ServerThread) -> None:
    """CANCEL has the number of the file that it is about."""
    with RawClient(local.port).log_in() as client:
        sent, stream = uploads(client, 1, 2), client.attach()
        client.control.send(Cancel(file=1))
        assert hear(client, Rejected, 1)[1].code == "cancelled"
        sent[2].send(stream, 0, 1, 2)
        complete(client, sent[2], 2)
        assert list(hear(client, IntegrityOk, 1)) == [2]


def test_what_is_missing_is_asked_for_by_file(local: ServerThread) -> None:
    """18: one file has a gap, and the verdict on the other comes all the same."""
    with RawClient(local.port).log_in() as client:
        sent, stream = uploads(client, 1, 2), client.attach()
        sent[1].send(stream, 0, 2)
        sent[2].send(stream, 0, 1, 2)
        complete(client, sent[1], 1)
        assert hear(client, Missing, 1)[1].blocks == ((1, 2),)
        complete(client, sent[2], 2)
        assert list(hear(client, IntegrityOk, 1)) == [2]


def test_the_same_file_twice_is_two_files(local: ServerThread) -> None:
    """43: neither is taken for an earlier attempt at the other, whichever is done first."""
    data = content(7)
    head = hashlib.md5(data[:BLOCK]).hexdigest()
    with RawClient(local.port).log_in() as client:
        for file in (1, 2):
            client.control.send(FileStart("x", len(data), BLOCK, "md5", head, True, file=file))
        ready, stream = hear(client, FileReady, 2), client.attach()
        for file in (1, 2):
            upload = RawUpload(client, ready[file].transfer, data, BLOCK)
            upload.send(stream, 0, 1, 2)
            complete(client, upload, file)
        assert len({one.saved_as for one in hear(client, IntegrityOk, 2).values()}) == 2


def test_a_session_has_one_place_for_all_its_files(start_local: StartLocal) -> None:
    """Many files of one client keep no other client waiting; it waits itself as before."""
    local = start_local(max_active=2)
    with RawClient(local.port).log_in() as many, RawClient(local.port).log_in() as one:
        assert len(uploads(many, *range(1, 6))) == 5
        assert one.start("alone", b"x" * 10)
        with RawClient(local.port).log_in() as third:
            third.control.send(FileStart("third", 1, BLOCK, "md5", "0" * 32, False))
            assert isinstance(third.control.answer(9), Queued)
            announce(many, 6)
            assert isinstance(many.control.answer(9), Queued)


def test_a_client_that_confirms_nothing_keeps_few_files_open(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest verdicts can be asked for again, without a part file in use."""
    monkeypatch.setattr("lft.server.lifecycle.MAX_AHEAD", 3)
    with RawClient(local.port).log_in() as client:
        stream = client.attach()
        for file in range(1, 8):
            upload = uploads(client, file)[file]
            upload.send(stream, 0, 1, 2)
            complete(client, upload, file)
            hear(client, IntegrityOk, 1)
            assert local.server.parts.in_use <= 3
    assert MAX_AHEAD <= config.MAX_PARTS_OF_USER
