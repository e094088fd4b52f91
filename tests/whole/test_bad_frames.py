"""Control frames that are cut, sliced, malformed, or of another protocol."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from lft.wire.codecs import FEATURES
from lft.wire.frames import encode
from protocol import VERSION, FileStart, Hello, IntegrityOk, Rejected, RemoteProtocolError
from tests.support.files import part_files
from tests.support.local import ServerThread
from tests.support.processes import still_serves
from tests.support.rawpeer import ANY_MD5, HEADER, HELLO, RawClient, last_words, push, raw_socket
from tests.support.waiting import PATIENCE

# --- framing ------------------------------------------------------------------------------------


def test_a_peer_that_connects_and_closes_leaves_no_trace(
    local: ServerThread, tmp_path: Path
) -> None:
    """1: nothing is logged as an error, nothing stays open."""
    for _ in range(20):
        raw_socket(local.port).close()
    still_serves(local.port, tmp_path)


@pytest.mark.parametrize("cut", range(0, len(HELLO), 3))
def test_a_control_frame_cut_anywhere_is_a_clean_end(local: ServerThread, cut: int) -> None:
    """2: the server closes without a word, nothing is left."""
    with raw_socket(local.port, HELLO[:cut]) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert last_words(sock) == b""


def test_frames_sliced_to_single_bytes_work_as_whole_ones(local: ServerThread) -> None:
    """2: the result is the same as of whole frames."""
    with raw_socket(local.port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HELLO:
            sock.sendall(bytes([byte]))
        assert sock.recv(4096)[4:].startswith(b"HELLO@")


def test_a_block_sliced_to_small_pieces_is_a_block(local: ServerThread) -> None:
    """2: a half-received block stays with its connection until the rest comes."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(1000))
        data = client.attach()
        frame = upload.frame(0)
        for start in range(0, len(frame), 7):
            push(data, frame[start : start + 7])
        upload.await_acks(data, 1)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("cut", [1, 4, 20, HEADER - 1, HEADER, HEADER + 1, HEADER + 999])
def test_a_block_cut_anywhere_loses_only_its_connection(local: ServerThread, cut: int) -> None:
    """2 and 39: another data connection brings the block, the file is right."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(1000))
        broken = client.attach()
        push(broken, upload.frame(0)[:cut])
        broken.close()
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)


def test_several_frames_in_one_segment_are_several_frames(local: ServerThread) -> None:
    """2: blocks behind one another are all taken."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", os.urandom(50_000), block_size=4096)
        data = client.attach()
        push(data, b"".join(upload.frame(index) for index in range(13)))
        upload.await_acks(data, 13)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("length", [0, 64 * 1024 + 1, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused_at_once(local: ServerThread, length: int) -> None:
    """3: four bytes are enough to know."""
    with raw_socket(local.port, struct.pack("!I", length)) as sock:
        assert b'"code": "protocol"' in last_words(sock)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "TLS"),
    ],
)
def test_another_protocol_is_closed_at_once_with_one_log_line(
    local: ServerThread, caplog: pytest.LogCaptureFixture, words: bytes, name: str
) -> None:
    """5: the line names what was spoken."""
    with raw_socket(local.port, words) as sock:
        last_words(sock)
    lines = [record for record in caplog.records if record.levelname != "DEBUG"]
    assert [name in record.getMessage() for record in lines] == [True]


@pytest.mark.parametrize(
    "body",
    [
        b"HELLO@\xff\xfe{}",
        b"HELLO@{nonsense",
        b'HELLO@{"version":1,"version":1,"features":[]}',
        b"HELLO@" + b"[" * 60_000,
        b'HELLO@{"version":1,"features":' + b"[" * 900 + b"]" * 900 + b"}",
        b'HELLO@{"version":NaN,"features":[]}',
        b'HELLO@{"version":true,"features":[]}',
        b'HELLO@{"version":' + b"9" * 5000 + b',"features":[]}',
        b'HELLO@{"version":1}',
        b'HELLO@{"version":1,"features":[],"more":1}',
        b"NOTHING@{}",
        b"",
    ],
)
def test_a_malformed_message_gets_a_coded_error(
    local: ServerThread, tmp_path: Path, body: bytes
) -> None:
    """6: short and coded, and the server lives."""
    with raw_socket(local.port, struct.pack("!I", len(body)) + body) as sock:
        words = last_words(sock)
    assert b'ERROR@{"code": "protocol"' in words
    assert b"Traceback" not in words
    still_serves(local.port, tmp_path)


def test_a_valid_message_in_the_wrong_state_names_the_offender(local: ServerThread) -> None:
    """7: the peer is told that it was the client."""
    with raw_socket(local.port, encode(FileStart("x", 1, 4096, "md5", ANY_MD5, False))) as sock:
        assert b"the client sent FILE_START in state new" in last_words(sock)


def test_another_version_gets_a_clear_message(local: ServerThread) -> None:
    """An old or new peer learns which version is spoken here."""
    with raw_socket(local.port, encode(Hello(VERSION + 1, FEATURES))) as sock:
        assert f"this server speaks version {VERSION}".encode() in last_words(sock)


# --- metadata -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "block_size"), [(2**63 - 1, 200 * 1024), (2**62, 4 * 1024**2), (10, 1), (10, 2**30)]
)
def test_sizes_that_cannot_be_are_rejected_and_leave_nothing(
    local: ServerThread, size: int, block_size: int
) -> None:
    """12: larger than the disk, blocks too small, too large, too many; the session goes on."""
    with RawClient(local.port).log_in() as client:
        answer = client.control.call(
            FileStart("x", size, block_size, "md5", ANY_MD5, False), PATIENCE
        )
        assert isinstance(answer, Rejected)
        assert part_files(local.output) == []
        client.start("x", b"fine")


@pytest.mark.parametrize("field", [b'"size": -1', b'"size": 9223372036854775808', b'"size": 1.5'])
def test_sizes_that_are_no_sizes_are_protocol_errors(local: ServerThread, field: bytes) -> None:
    """12: refused before anything else is looked at."""
    with RawClient(local.port).log_in() as client:
        good = encode(FileStart("x", 1, 4096, "md5", ANY_MD5, False))[4:]
        bad = good.replace(b'"size": 1', field)
        client.control.push(struct.pack("!I", len(bad)) + bad)
        with pytest.raises(RemoteProtocolError):
            client.answer()
