"""Compression: the codecs, what a client compresses and what not, and bombs.

The number 19 is that of the project's fault list.
"""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
import tracemalloc
from typing import Any, Callable

import pytest
from conftest import (
    HEADER,
    PATIENCE,
    ROOT,
    RawClient,
    RawUpload,
    ServerThread,
    StartServer,
    environment,
    peak_memory,
    push,
    received,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import server as server_module
from config import KB, MB
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    CODEC_ZLIB,
    CODEC_ZSTD,
    COMPRESSIONS,
    FEATURES,
    BlockHeader,
    Connection,
    Error,
    IntegrityOk,
    Missing,
    RemoteProtocolError,
    Why,
    common_codec,
    compress,
    decode_header,
    decompress,
    encode_header,
)

CODECS = list(COMPRESSIONS.values())
BLOCK = 4096
BOMB = 64 * MB  # what a bomb unpacks to


def text(size: int, seed: int = 0) -> bytes:
    """Return ``size`` bytes that shrink to less than a third."""
    rng = random.Random(seed)
    words = [f"{rng.randrange(10**9):09} " for _ in range(300)]
    return "".join(rng.choice(words) for _ in range(size // 10 + 1)).encode()[:size]


def packed(codec: int, data: bytes, level: int = 6) -> bytes:
    """Return ``data`` compressed."""
    return bytes(compress(codec, level, memoryview(data)))


def unpacked(codec: int, payload: bytes, length: int) -> bytes:
    """Return what ``payload`` unpacks to, if that has ``length`` bytes."""
    room = bytearray(length)
    decompress(codec, memoryview(payload), memoryview(room))
    return bytes(room)


def zeros(codec: int, size: int) -> bytes:
    """Return zeros compressed as well as can be."""
    return packed(codec, bytes(size), 9)


# --- the codecs ---------------------------------------------------------------------------------


def test_the_tests_try_zstd_where_it_can_be_had() -> None:
    """What tests/requirements.txt installs is found: else half of the tests here test nothing."""
    assert ("zstd" in COMPRESSIONS) == (sys.version_info >= (3, 9))


@settings(max_examples=60, deadline=None, database=None)
@given(st.sampled_from(CODECS), st.integers(1, 9), st.binary(max_size=3000), st.integers(1, 90))
def test_what_was_compressed_comes_back(codec: int, level: int, data: bytes, times: int) -> None:
    """Any bytes, of any size, that repeat or not."""
    assert unpacked(codec, packed(codec, data * times, level), len(data) * times) == data * times


DATA = text(BLOCK)
SPOILERS: dict[str, Callable[[int], bytes]] = {
    "bomb": lambda codec: zeros(codec, BOMB),
    "one byte more": lambda codec: packed(codec, DATA + b"x"),
    "one byte less": lambda codec: packed(codec, DATA[:-1]),
    "nothing": lambda codec: packed(codec, b""),
    "cut": lambda codec: packed(codec, DATA)[:-1],
    "cut in the middle": lambda codec: packed(codec, DATA)[:200],
    "a byte behind it": lambda codec: packed(codec, DATA) + b"\0",
    "a second one behind it": lambda codec: packed(codec, DATA) + packed(codec, b"x"),
    "two halves": lambda codec: packed(codec, DATA[:2000]) + packed(codec, DATA[2000:]),
    "the other codec": lambda codec: packed(sum(CODECS) - codec, DATA),
    "garbage": lambda codec: random.Random(codec).getrandbits(8 * 500).to_bytes(500, "big"),
    "text": lambda codec: DATA[:500],
}
if len(CODECS) < 2:
    del SPOILERS["the other codec"]


@pytest.mark.parametrize("how", SPOILERS)
@pytest.mark.parametrize("codec", CODECS)
def test_what_does_not_unpack_to_its_length_is_refused(codec: int, how: str) -> None:
    """19: more, less, not whole, not alone, not compressed at all."""
    with pytest.raises(RemoteProtocolError, match="does not unpack") as caught:
        unpacked(codec, SPOILERS[how](codec), BLOCK)
    assert caught.value.code == "codec"


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_block_cut_anywhere_is_refused(codec: int) -> None:
    """19: no beginning passes for the whole."""
    payload = packed(codec, DATA)
    for cut in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            unpacked(codec, payload[:cut], BLOCK)


@settings(max_examples=100, deadline=None, database=None)
@given(st.sampled_from(CODECS), st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_block_is_refused_or_has_its_length(codec: int, at: int, change: int) -> None:
    """Nothing but our own error comes out; what unpacks all the same is the digest's to judge."""
    payload = bytearray(packed(codec, DATA))
    payload[at % len(payload)] ^= change
    with contextlib.suppress(RemoteProtocolError):
        assert len(unpacked(codec, bytes(payload), BLOCK)) == BLOCK


def _zstd_frame(descriptor: int, window: bytes, size: bytes) -> bytes:
    """Return a zstd frame that says this of itself, with a block of 100 zeros (RFC 8878)."""
    block = struct.pack("<I", 100 << 3 | 1)[:3] + bytes(100)
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + window + size + block


LIARS = {
    "size of 1 TB": _zstd_frame(0b11100000, b"", struct.pack("<Q", 2**40)),
    "size of 1 GB in a window of 4 MB": _zstd_frame(0b11000000, b"\x60", struct.pack("<Q", 2**30)),
    "window of 8 MB": _zstd_frame(0, bytes([13 << 3]), b""),
    "window of 2 GB": _zstd_frame(0, bytes([21 << 3]), b""),
    "a frame to be skipped": b"\x50\x2a\x4d\x18" + struct.pack("<I", 2**31) + bytes(100),
}


@pytest.mark.parametrize("lie", LIARS)
def test_what_a_zstd_frame_says_of_its_size_is_not_believed(lie: str) -> None:
    """19: nothing is allocated by it."""
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="does not unpack"):
        unpacked(CODEC_ZSTD, LIARS[lie], 100)  # which is what is in it
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MB


def test_a_zstd_frame_may_have_a_window_of_a_large_block() -> None:
    """As encoders choose it that do not know the size before."""
    frame = _zstd_frame(0, bytes([12 << 3]), b"")
    assert unpacked(CODEC_ZSTD, frame, 100) == bytes(100)


MEASURING = """
import resource, sys
from protocol import RemoteProtocolError, decompress
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
payload, room = memoryview(sys.stdin.buffer.read()), memoryview(bytearray(200 * 1024))
before = peak()
for _ in range(5):
    try:
        decompress(int(sys.argv[1]), payload, room)
    except RemoteProtocolError:
        print(peak() - before)
"""


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_takes_no_more_memory_than_a_block(codec: int) -> None:
    """19: all memory of the process counts, not only what Python knows of."""
    bomb = zeros(codec, BOMB)
    assert len(bomb) < BOMB / 900
    done = subprocess.run(
        [sys.executable, "-c", MEASURING, str(codec)], input=bomb, capture_output=True, cwd=ROOT,
        env=environment(), check=True,
    )  # fmt: skip
    grown = [int(line) for line in done.stdout.split()]
    assert len(grown) == 5
    assert max(grown) < 8 * KB  # in KB; the bomb would take 64 MB


@pytest.mark.parametrize(
    ("codec", "raw", "wire", "fits"),
    [
        (CODEC_RAW, 9, 9, True), (CODEC_RAW, 9, 8, False), (CODEC_RAW, 9, 10, False),
        (CODEC_HELD, 9, 0, True), (CODEC_HELD, 9, 9, False),
        (CODEC_ZLIB, 9, 8, True), (CODEC_ZLIB, 9, 1, True), (CODEC_ZLIB, 9, 0, False),
        (CODEC_ZLIB, 9, 9, False), (CODEC_ZLIB, 9, 10, False), (CODEC_ZSTD, 9, 8, True),
        (CODEC_ZSTD, 9, 0, False), (CODEC_ZSTD, 9, 2**32 - 1, False),
    ],
)  # fmt: skip
def test_a_codec_makes_some_lengths_and_no_others(
    codec: int, raw: int, wire: int, fits: bool
) -> None:
    """19: a compressed block is smaller than the raw one, and not empty."""
    assert BlockHeader(1, 0, raw, wire, codec, bytes(32)).consistent == fits


@pytest.mark.parametrize(
    ("features", "codec"),
    [
        (FEATURES, CODECS[0]),
        (("zlib",), CODEC_ZLIB),
        (("md5", "zlib", "something new"), CODEC_ZLIB),
        (("md5", "sha256"), CODEC_RAW),
        ((), CODEC_RAW),
    ],
)
def test_the_best_codec_of_both_is_taken(features: tuple[str, ...], codec: int) -> None:
    """What the other side does not name is not used."""
    assert common_codec(features) == codec


WITHOUT_ZSTD = """
import sys
sys.modules.update({"compression.zstd": None, "backports.zstd": None})
import protocol
assert protocol.FEATURES == ("md5", "sha256", "zlib")
assert protocol.common_codec(["zlib", "zstd"]) == protocol.CODEC_ZLIB
header = protocol.BlockHeader(1, 0, 9, 8, protocol.CODEC_ZSTD, bytes(32))
try:
    protocol.decode_header(protocol.encode_header(header))
except protocol.RemoteProtocolError as error:
    print(error.code)
"""


def test_without_zstd_there_is_zlib() -> None:
    """Nothing has to be installed; a block of the unknown codec is refused by its header."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ZSTD], capture_output=True, cwd=ROOT, text=True, check=True
    )
    assert done.stdout == "codec\n"


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_of_a_compressed_block_comes_back(codec: int) -> None:
    """As it was sent."""
    header = BlockHeader(7, 3, 4096, 1000, codec, bytes(32))
    assert decode_header(encode_header(header)) == header


# --- the server ---------------------------------------------------------------------------------


def shrunk(
    upload: RawUpload, index: int, codec: int, payload: bytes = b"", **changes: int
) -> bytes:
    """Return the frame of a compressed block, with changes to its header or another payload."""
    header: dict[str, Any] = {"raw_length": len(upload.blocks[index]), "codec": codec, **changes}
    return upload.frame(index, payload=payload or packed(codec, upload.blocks[index]), **header)


def refusal(connection: Connection) -> Error:
    """Wait for the error that ends a connection."""
    message = connection.receive()
    while message is None:
        assert connection.wait(PATIENCE), "no answer"
        message = connection.receive()
    assert isinstance(message, Error)
    return message


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_and_raw_blocks_make_the_file(local: ServerThread, codec: int) -> None:
    """Each block in its own way; the last one is short."""
    content = text(9 * BLOCK + 1000)
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", content, BLOCK)
        data = client.attach()
        for index in range(10):
            push(data, shrunk(upload, index, codec) if index % 3 else upload.frame(index))
        upload.await_acks(data, 10)
        assert isinstance(upload.complete(), IntegrityOk)
    assert received(local.output)[0].read_bytes() == content


@pytest.mark.parametrize("how", SPOILERS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_block_that_does_not_unpack_ends_its_connection_only(
    local: ServerThread, codec: int, how: str
) -> None:
    """19: the peer is told why; another connection brings the block."""
    payload = SPOILERS[how](codec)[: BLOCK - 1]  # what is left of a long one is no better
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(3 * BLOCK), BLOCK)
        good, bad = client.attach(), client.attach()
        push(bad, shrunk(upload, 1, codec, payload))
        assert refusal(bad).code == "codec"
        upload.send(good, 0)
        push(good, shrunk(upload, 1, codec))
        upload.await_acks(good, 1)
        upload.send(client.attach(), 2)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize(
    "changes",
    [{"wire_length": 0}, {"wire_length": BLOCK}, {"wire_length": BLOCK + 1},
     {"wire_length": 2**32 - 1}, {"raw_length": BLOCK - 1}, {"raw_length": BLOCK + 1},
     {"raw_length": 2**32 - 1}, {"codec": 4}, {"codec": 255}],
)  # fmt: skip
@pytest.mark.parametrize("codec", CODECS)
def test_a_header_that_cannot_be_is_refused_before_its_payload_comes(
    local: ServerThread, codec: int, changes: dict[str, Any]
) -> None:
    """19: lengths that no codec makes, and a codec that nobody knows."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(BLOCK), BLOCK)
        data = client.attach()
        header = decode_header(shrunk(upload, 0, codec)[:HEADER])._replace(**changes)
        push(data, encode_header(header))
        assert refusal(data).code == ("codec" if "codec" in changes else "protocol")
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)


def hear(connection: Connection, heard: list[int]) -> None:
    """Note the acknowledgements of a connection until that ends."""
    while connection.wait(PATIENCE):
        for ack in connection.receive_acks():
            heard.append(ack.block)


@pytest.mark.parametrize("codec", CODECS)
def test_what_came_before_a_bad_block_is_acknowledged(local: ServerThread, codec: int) -> None:
    """So the client sees progress, and does not give up for a few damaged blocks."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(3 * BLOCK), BLOCK)
        data = client.attach()
        bad = shrunk(upload, 2, codec, b"garbage")
        push(data, upload.frame(0) + shrunk(upload, 1, codec) + bad)
        heard: list[int] = []
        with pytest.raises(RemoteProtocolError, match="does not unpack"):
            hear(data, heard)
        assert heard == [0, 1]


@pytest.mark.parametrize("codec", CODECS)
def test_a_block_that_unpacks_to_other_bytes_is_repaired(local: ServerThread, codec: int) -> None:
    """15: the digest is of the file, not of what is on the wire."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(10 * BLOCK), BLOCK)
        data = client.attach()
        for index in range(10):
            other = packed(codec, text(BLOCK, seed=9)) if index == 3 else b""
            push(data, shrunk(upload, index, codec, other))
        upload.await_acks(data, 10)
        assert client.answer() == Missing(upload.number, ((3, 4),), Why.DAMAGED)
        push(data, shrunk(upload, 3, codec))
        upload.await_acks(data, 1)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_block_that_comes_twice_is_harmless(local: ServerThread, codec: int) -> None:
    """16: on two connections, compressed and raw."""
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(BLOCK), BLOCK)
        for frame in (shrunk(upload, 0, codec), upload.frame(0), shrunk(upload, 0, codec)):
            data = client.attach()
            push(data, frame)
            upload.await_acks(data, 1)
        assert isinstance(upload.complete(), IntegrityOk)


@pytest.mark.parametrize("codec", CODECS)
def test_bombs_do_not_fill_the_servers_memory(start_server: StartServer, codec: int) -> None:
    """19: twenty of them, each of 64 MB, at a real server."""
    server = start_server()
    bomb = zeros(codec, BOMB)
    with RawClient(server.port).log_in() as client:
        upload = client.start("x", text(200 * KB))
        upload.send(client.attach(), 0)
        before = peak_memory(server.process.pid)
        for _ in range(20):
            data = client.attach()
            push(data, shrunk(upload, 0, codec, bomb))
            assert refusal(data).code == "codec"
        assert isinstance(upload.complete(), IntegrityOk)
    assert peak_memory(server.process.pid) - before < 16 * KB  # in KB
    assert "Traceback" not in server.log


@pytest.mark.parametrize("codec", CODECS)
def test_a_limit_of_the_server_counts_what_is_on_the_wire(
    local: ServerThread, monkeypatch: pytest.MonkeyPatch, codec: int
) -> None:
    """What was not sent is not paid for."""
    counted: list[int] = []

    def count(_peer: object, length: int) -> bool:
        counted.append(length)
        return False

    monkeypatch.setattr(server_module.Service, "_must_pause", staticmethod(count))
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(2 * BLOCK), BLOCK)
        data = client.attach()
        frame = shrunk(upload, 0, codec)
        push(data, frame + upload.frame(1))
        upload.await_acks(data, 2)
        upload.complete()
    assert counted == [len(frame) - HEADER, BLOCK]
