"""Compression: the codecs, what a client compresses and what not, and bombs.

The number 19 is that of the project's fault list.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import (
    HEADER,
    PATIENCE,
    ROOT,
    RawClient,
    RawUpload,
    ServerThread,
    StartLocal,
    StartServer,
    environment,
    md5,
    peak_memory,
    push,
    random_file,
    received,
    run_client,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy import Fault, FaultProxy, Kind, Line, Plan, Way, What
from test_access import Pki, pki, tls  # noqa: F401  (one is a fixture)

import client as module
import config
from client import send_files
from config import KB, MB
from lft.client.compression import Compression
from lft.client.connect import Patience
from lft.client.progress import Progress
from lft.client.receipt import Receipt
from lft.client.sender import Sender
from lft.clock import TokenBucket
from lft.server.service import Service
from lft.wire.blocks import BlockHeader, decode_header, encode_header
from lft.wire.codecs import COMPRESSIONS, FEATURES, common_codec, compress, decompress
from lft.wire.connection import Connection
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    CODEC_ZLIB,
    CODEC_ZSTD,
    Error,
    IntegrityOk,
    Missing,
    RemoteProtocolError,
    Why,
)

CODECS = list(COMPRESSIONS.values())
BLOCK = 4096
BOMB = 64 * MB  # what a bomb unpacks to


def text(size: int, seed: int = 0) -> bytes:
    """Return ``size`` bytes that shrink to less than a third."""
    rng = random.Random(seed)
    words = [f"{rng.randrange(10**9):09} " for _ in range(300)]
    return "".join(rng.choice(words) for _ in range(size // 10 + 1)).encode()[:size]


def text_file(path: Path, size: int, seed: int = 0) -> Path:
    """Write text."""
    path.write_bytes(text(size, seed))
    return path


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
from lft.wire.codecs import decompress
from protocol import RemoteProtocolError
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
from lft.wire.blocks import BlockHeader, decode_header, encode_header
from lft.wire.codecs import FEATURES, common_codec
from protocol import CODEC_ZLIB, CODEC_ZSTD, RemoteProtocolError
assert FEATURES == ("md5", "sha256", "zlib")
assert common_codec(["zlib", "zstd"]) == CODEC_ZLIB
header = BlockHeader(1, 0, 9, 8, CODEC_ZSTD, bytes(32))
try:
    decode_header(encode_header(header))
except RemoteProtocolError as error:
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

    monkeypatch.setattr(Service, "_must_pause", staticmethod(count))
    with RawClient(local.port).log_in() as client:
        upload = client.start("x", text(2 * BLOCK), BLOCK)
        data = client.attach()
        frame = shrunk(upload, 0, codec)
        push(data, frame + upload.frame(1))
        upload.await_acks(data, 2)
        upload.complete()
    assert counted == [len(frame) - HEADER, BLOCK]


# --- what the client compresses -----------------------------------------------------------------


class Clock:
    """The time, and the processor time of a thread: each block compressed takes ``cost``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cost = 0.0
        self._spent = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def thread_time(self) -> float:
        """Return the processor time; two calls stand around each block."""
        self._spent += self.cost
        return self._spent


class Trial:
    """A ``Compression`` that says what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.tried: list[int] = []  # the lengths that were compressed
        self.levels: list[int] = []
        monkeypatch.setattr("lft.clock.time", self.clock)
        monkeypatch.setattr("lft.client.compression.time", self.clock)
        monkeypatch.setattr("lft.client.sender.time", self.clock)
        monkeypatch.setattr("lft.client.compression.compress", self._record)
        monkeypatch.setattr("lft.client.compression._processors", lambda: 2)  # one second in each
        self.compression = Compression(CODEC_ZLIB, 4)

    def _record(self, codec: int, level: int, view: memoryview) -> memoryview:
        self.tried.append(len(view))
        self.levels.append(level)
        return compress(codec, level, view)

    def pack(self, data: bytes, behind: int = 0) -> bool:
        """Whether ``data`` would be sent compressed."""
        codec, payload = self.compression.pack(memoryview(data), behind)
        if codec != CODEC_RAW:
            assert unpacked(codec, bytes(payload), len(data)) == data
            return True
        assert payload == data
        return False


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A Compression with a clock of its own."""
    return Trial(monkeypatch)


TEXT, NOISE = text(50 * KB), random.Random(1).getrandbits(8 * 50 * KB).to_bytes(50 * KB, "big")
QUICK, THOROUGH = config.COMPRESS_LEVELS["zlib"]


def test_text_is_compressed(trial: Trial) -> None:
    """Every block; a sample of the first one is tried before."""
    assert all(trial.pack(TEXT) for _ in range(10))
    assert trial.tried == [config.COMPRESS_SAMPLE] + [len(TEXT)] * 10


def test_what_cannot_be_compressed_costs_next_to_nothing(trial: Trial) -> None:
    """A sample now and then, and never a whole block."""
    assert not any(trial.pack(NOISE) for _ in range(1000))
    assert set(trial.tried) == {config.COMPRESS_SAMPLE}
    assert len(trial.tried) < 1000 / config.COMPRESS_PAUSE + 10


def test_text_behind_noise_is_compressed_soon(trial: Trial) -> None:
    """A mixed file recovers within the longest pause, and then stays with it."""
    for _ in range(1000):
        trial.pack(NOISE)
    found = [trial.pack(TEXT) for _ in range(100)]
    assert True in found[: config.COMPRESS_PAUSE + 1]
    assert all(found[config.COMPRESS_PAUSE + 1 :])


def test_noise_behind_text_is_noticed_with_one_block(trial: Trial) -> None:
    """One is compressed in vain, and goes raw."""
    trial.pack(TEXT)
    del trial.tried[:]
    assert not any(trial.pack(NOISE) for _ in range(20))
    assert trial.tried.count(len(NOISE)) == 1
    assert trial.tried[0] == len(NOISE)


def test_noise_and_text_in_turn_are_told_apart(trial: Trial) -> None:
    """No rhythm of the file hides the text for ever."""
    found = [trial.pack(NOISE if number % 2 else TEXT) for number in range(200)]
    assert not any(found[1::2])
    assert sum(found[::2]) > 20


def test_a_block_that_hardly_shrinks_goes_raw(trial: Trial) -> None:
    """Who unpacks it has work, too: a few per cent are not worth that."""
    part = len(TEXT) // 40
    trial.pack(TEXT)
    assert not trial.pack(TEXT[:part] + NOISE[part:])
    assert trial.tried[-1] == len(TEXT)  # not only a sample


@pytest.mark.parametrize("size", [0, 1, 10])
def test_a_tiny_block_goes_raw(trial: Trial, size: int) -> None:
    """It cannot shrink, and does not disturb."""
    assert not trial.pack(TEXT[:size])


def test_overdrawn_processor_time_lets_blocks_go_raw(trial: Trial) -> None:
    """Until it is paid for: here every second of two processors allows one."""
    trial.clock.cost = 2.0
    assert trial.pack(TEXT)
    assert not any(trial.pack(TEXT) for _ in range(50))
    trial.clock.now += 3.4  # a sample and a block, less the half second saved up at first
    assert not trial.pack(TEXT)
    trial.clock.now += 0.2
    assert trial.pack(TEXT)


def test_scarce_processor_time_means_a_quick_level(trial: Trial) -> None:
    """The more thorough one only while more than half of what may be saved up is there."""
    trial.pack(TEXT)
    trial.compression.note_wait(90.0, 10.0, behind=2)
    trial.clock.now += 10
    trial.clock.cost = 0.2
    del trial.levels[:]
    for _ in range(5):
        trial.pack(TEXT)
    assert trial.levels == [THOROUGH] * 3 + [QUICK] * 2


def test_a_link_that_nobody_waits_for_means_raw_blocks(trial: Trial) -> None:
    """Over loopback the file cannot be hashed as fast as it is sent; to compress would cost."""
    for _ in range(1000):
        trial.compression.note_wait(0.001, 0.02, behind=2)
    assert not any(trial.pack(TEXT) for _ in range(100))
    assert trial.tried == []


def test_in_doubt_a_block_goes_raw_only_where_the_link_would_run_dry(trial: Trial) -> None:
    """A slow machine must not fill the buffers of a slow link with raw blocks."""
    for _ in range(1000):
        trial.compression.note_wait(0.0015, 0.0085, behind=2)
    assert not trial.pack(TEXT, behind=config.COMPRESS_BEHIND)
    assert trial.pack(TEXT, behind=config.COMPRESS_BEHIND + 1)


def test_a_link_that_becomes_slow_is_noticed(trial: Trial) -> None:
    """And compression begins again."""
    for _ in range(1000):
        trial.compression.note_wait(0.0, 0.02, behind=2)
    for _ in range(20):
        trial.compression.note_wait(0.05, 0.01, behind=2)
    assert trial.pack(TEXT)


def test_half_of_the_time_spent_waiting_means_a_thorough_level(trial: Trial) -> None:
    """There is time: the link has it."""
    trial.clock.now += 10
    for waited, level in ((0.3, QUICK), (0.7, THOROUGH)):
        for _ in range(1000):
            trial.compression.note_wait(waited / 100, (1 - waited) / 100, behind=50)
        trial.pack(TEXT)
        assert trial.levels[-1] == level


def test_blocks_that_are_on_their_way_keep_compression_up(trial: Trial) -> None:
    """The system's buffers take them without a wait, but the link is behind."""
    for _ in range(1000):
        trial.compression.note_wait(0.0, 0.02, behind=config.COMPRESS_BEHIND + 1)
    assert trial.pack(TEXT)


def test_blocks_that_are_on_their_way_mean_a_thorough_level(trial: Trial) -> None:
    """There is time: the link has enough to do."""
    trial.clock.now += 10
    for _ in range(1000):
        trial.compression.note_wait(0.003, 0.007, behind=2)
    for behind, level in ((config.COMPRESS_BEHIND, QUICK), (config.COMPRESS_BEHIND + 1, THOROUGH)):
        trial.pack(TEXT, behind)
        assert trial.levels[-1] == level


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Note what senders tell of their time: seconds waited, seconds not."""
    found: list[tuple[float, float]] = []
    note_wait = Compression.note_wait

    def note(compression: Compression, waited: float, worked: float, behind: int) -> None:
        found.append((waited, worked))
        note_wait(compression, waited, worked, behind)

    monkeypatch.setattr(Compression, "note_wait", note)
    return found


@pytest.fixture
def sender(trial: Trial) -> Iterator[Sender]:
    """A sender that is not connected, and lives by the clock of a trial."""
    settings = config.ClientSettings(streams=1)
    session = module.Session(settings, Progress(), Patience(settings))
    one = Sender(session, 0)
    yield one
    one.close()
    session.close()


def test_a_sender_tells_of_its_time_once(
    trial: Trial, sender: Sender, told: list[tuple[float, float]]
) -> None:
    """From one block to the next: what it waited for the link, and the rest."""
    for waited in (0.25, 0.0):
        trial.clock.now += waited + 0.0625
        sender._waited += waited
        sender._tell_wait(trial.compression, 0)
    assert told == [(0.25, 0.0625), (0.0, 0.0625)]


def test_a_pause_between_two_files_does_not_end_compression(
    trial: Trial, sender: Sender, told: list[tuple[float, float]]
) -> None:
    """A minute in which there was nothing to send is not a minute of a fast link."""
    trial.clock.now += 60
    sender._tell_wait(trial.compression, 0)
    assert told == [(0.0, config.COMPRESS_IDLE)]
    assert trial.pack(TEXT)


# --- a client and a server ----------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compress whatever shrinks, however fast the link and however busy the machine."""
    monkeypatch.setattr(config, "COMPRESS_WAIT", 0.0)
    monkeypatch.setattr(config, "COMPRESS_SHARE", 1000.0)


@pytest.fixture
def unpacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the codec of each block that a server of this process unpacks."""
    found: list[int] = []

    def record(codec: int, payload: memoryview, view: memoryview) -> None:
        found.append(codec)
        decompress(codec, payload, view)

    monkeypatch.setattr("lft.server.service.decompress", record)
    return found


def _send(local: ServerThread, source: Path, **changes: object) -> Receipt:
    """Send a file; it must arrive as it was."""
    (receipt,) = send_files([source], local.client(compress=True, **changes))
    assert receipt.verdict == "INTEGRITY_OK"
    assert md5(local.output / receipt.saved_as) == md5(source)
    return receipt


@pytest.mark.usefixtures("eager")
def test_text_shrinks_on_the_wire(
    local: ServerThread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The receipt counts what was sent, and the last line says it in words."""
    caplog.set_level(logging.INFO)
    receipt = _send(local, text_file(tmp_path / "x", 3 * MB))
    assert receipt.wire_bytes < receipt.bytes / 3
    assert f"compressed to {100 * receipt.wire_bytes / receipt.bytes:.0f} %" in caplog.text


@pytest.mark.usefixtures("eager")
def test_random_data_goes_as_it_is(local: ServerThread, tmp_path: Path, unpacks: list[int]) -> None:
    """Not a byte more, and nothing to unpack."""
    receipt = _send(local, random_file(tmp_path / "x", 3 * MB))
    assert receipt.wire_bytes == receipt.bytes
    assert unpacks == []


@pytest.mark.usefixtures("eager")
def test_of_a_mixed_file_the_text_shrinks(local: ServerThread, tmp_path: Path) -> None:
    """Text, noise, text: a good part of the text is compressed, the noise is not."""
    source = text_file(tmp_path / "x", 4 * MB)
    noise = random_file(tmp_path / "noise", 2 * MB).read_bytes()
    source.write_bytes(source.read_bytes()[: 2 * MB] + noise + source.read_bytes()[2 * MB :])
    receipt = _send(local, source, block_size=16 * KB)
    assert 2 * MB < receipt.wire_bytes < 4 * MB


def test_without_compress_every_byte_goes_as_it_is(
    local: ServerThread, tmp_path: Path, unpacks: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody has asked for does not happen, and is not talked about."""
    caplog.set_level(logging.INFO)
    (receipt,) = send_files([text_file(tmp_path / "x", MB)], local.client())
    assert receipt.wire_bytes == receipt.bytes
    assert unpacks == []
    assert "compress" not in caplog.text


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("names", "codec"), [(("zlib",), CODEC_ZLIB), (tuple(COMPRESSIONS), CODECS[0])]
)
def test_the_codec_is_the_best_that_the_server_offers(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unpacks: list[int],
    names: tuple[str, ...],
    codec: int,
) -> None:
    """Negotiated in HELLO."""
    monkeypatch.setattr("lft.server.service.FEATURES", ("md5", "sha256", *names))
    _send(local, text_file(tmp_path / "x", MB))
    assert set(unpacks) == {codec}


@pytest.mark.usefixtures("eager")
def test_a_server_that_takes_nothing_compressed_gets_it_raw(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The user is told; the file arrives."""
    monkeypatch.setattr("lft.server.service.FEATURES", ("md5", "sha256"))
    receipt = _send(local, text_file(tmp_path / "x", MB))
    assert receipt.wire_bytes == receipt.bytes
    assert "the server takes nothing compressed" in caplog.text


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("size", [0, 1, 5, 200 * KB - 1, 200 * KB, 200 * KB + 1, 600 * KB])
def test_a_file_of_any_size_arrives_compressed(
    local: ServerThread, tmp_path: Path, size: int
) -> None:
    """12: around the edges of a block, and where there is nothing to compress."""
    _send(local, text_file(tmp_path / "x", size))


@pytest.mark.usefixtures("eager")
def test_a_limit_of_the_client_counts_what_is_on_the_wire(
    local: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not sent is not waited for."""
    counted: list[float] = []

    def count(bucket: TokenBucket, size: float) -> float:
        counted.append(size)
        return 0.0

    monkeypatch.setattr(Compression, "_compress", lambda *a: compress(CODECS[0], 1, a[1]))
    monkeypatch.setattr(TokenBucket, "take", count)
    receipt = _send(local, text_file(tmp_path / "x", MB), limit=100 * MB)
    assert sum(size for size in counted if size > 0) == receipt.wire_bytes < MB / 3


def test_what_a_limit_takes_counts_as_waiting_for_the_link(
    local: ServerThread, tmp_path: Path, told: list[tuple[float, float]]
) -> None:
    """It is one, to whoever set it: less on the wire is what helps."""
    _send(local, random_file(tmp_path / "x", MB), limit=2 * MB, streams=1, block_size=64 * KB)
    assert sum(waited for waited, _ in told) > 0.2  # the limit takes half a second in all


def test_a_full_link_counts_as_waiting_for_it(
    local: ServerThread, tmp_path: Path, told: list[tuple[float, float]]
) -> None:
    """The system's buffers are full, and take the next block when the link has room."""
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(up=Line(rate=16 * MB)), Kind.DATA)
        _send(local, random_file(tmp_path / "x", 8 * MB), port=proxy.port, streams=1)
    assert sum(waited for waited, _ in told) > 0.05  # the link takes half a second in all


@pytest.mark.usefixtures("eager")
def test_files_of_one_session_are_counted_each_for_itself(
    local: ServerThread, tmp_path: Path
) -> None:
    """What the first has brought is not the second's."""
    sources = [text_file(tmp_path / "a", MB), random_file(tmp_path / "b", MB)]
    first, second = send_files(sources, local.client(compress=True))
    assert first.wire_bytes < MB / 3
    assert second.wire_bytes == MB


def test_a_block_that_is_sent_again_is_counted_again(local: ServerThread, tmp_path: Path) -> None:
    """The receipt says what was on the wire, not what should have been."""
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(faults=(Fault(What.FLIP, Way.UP, 1000),)), Kind.DATA)
        source = random_file(tmp_path / "x", 2 * MB)
        (receipt,) = send_files([source], local.client(port=proxy.port))
    assert receipt.resent_blocks == 1
    assert receipt.wire_bytes in (2 * MB + 200 * KB, 2 * MB + 2 * MB % (200 * KB))


# --- real processes -----------------------------------------------------------------------------


@pytest.fixture
def no_zstd(tmp_path: Path) -> dict[str, str]:
    """Variables for a process that finds no zstd."""
    for name in ("backports", "compression"):
        (tmp_path / "stubs" / name).mkdir(parents=True)
        (tmp_path / "stubs" / name / "__init__.py").write_text("")
        (tmp_path / "stubs" / name / "zstd.py").write_text("raise ImportError")
    return {"PYTHONPATH": str(tmp_path / "stubs")}


@pytest.mark.parametrize("with_zstd", [True, False])
@pytest.mark.parametrize("kind", ["text", "random", "mixed"])
def test_compress_changes_the_way_and_not_the_file(
    start_server: StartServer,
    tmp_path: Path,
    no_zstd: dict[str, str],
    kind: str,
    with_zstd: bool,
) -> None:
    """Two real processes, with the codec that both have."""
    server = start_server("--limit", "8M")
    content = {"text": text(4 * MB), "random": os.urandom(4 * MB)}
    content["mixed"] = text(2 * MB) + os.urandom(2 * MB)
    source = tmp_path / "x"
    source.write_bytes(content[kind])
    done = run_client(
        server.port, source, "--compress", variables={} if with_zstd else no_zstd
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert md5(received(server.output)[0]) == md5(source)
    assert ("compressed to 100 %" in done.stderr) == (kind == "random")


def test_a_cut_transfer_goes_on_compressed(start_server: StartServer, tmp_path: Path) -> None:
    """36: the part file knows no codec; only what was missing is sent, and it is compressed."""
    server = start_server("--grace", "0")
    source = text_file(tmp_path / "x", 5 * MB)
    content = source.read_bytes()
    with RawClient(server.port).log_in() as client:
        upload = client.start("x", content)
        data = client.attach()
        for index in range(15):
            push(data, shrunk(upload, index, CODECS[0]) if index % 2 else upload.frame(index))
        upload.await_acks(data, 15)
    done = run_client(server.port, source, "--compress", "--log-level", "DEBUG")
    assert done.returncode == 0, done.stderr
    assert "going on with x: the server has 2.9 MB of 5.0 MB" in done.stderr
    assert done.stderr.count(" is held") == 15
    assert received(server.output)[0].read_bytes() == content


def test_compressed_blocks_go_over_tls(
    start_local: StartLocal,
    pki: Pki,  # noqa: F811
    tmp_path: Path,
    eager: None,
) -> None:
    """Compressed first, then encrypted: the other order would not shrink."""
    local = start_local(**tls(pki.server))
    receipt = _send(local, text_file(tmp_path / "x", 3 * MB), ca=pki.ca)
    assert receipt.wire_bytes < MB


@pytest.mark.parametrize("at", [HEADER + 5, HEADER + 10 * KB, 20, 30])
def test_a_compressed_block_damaged_on_the_way_is_repaired(
    local: ServerThread, tmp_path: Path, at: int
) -> None:
    """15: in its payload, its length or its digest."""
    flip = Fault(What.FLIP, Way.UP, at)
    source = text_file(tmp_path / "x", 3 * MB)
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(faults=(flip,)), Kind.DATA)
        done = run_client(proxy.port, source, "--compress")
        assert proxy.happened(flip) == 1
    assert done.returncode == 0, done.stderr
    assert [md5(path) for path in received(local.output)] == [md5(source)]


def test_many_damaged_compressed_blocks_are_repaired(local: ServerThread, tmp_path: Path) -> None:
    """15: one on each connection, again and again, while blocks get through in between."""
    flip = Fault(What.FLIP, Way.UP, 400 * KB, every=400 * KB, times=None)
    source = text_file(tmp_path / "x", 10 * MB)  # some 2 MB on the wire, or less on a quiet machine
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(up=Line(rate=4 * MB), faults=(flip,)), Kind.DATA)
        done = run_client(proxy.port, source, "--compress", "--streams", "1")
        assert proxy.happened(flip) >= 2
    assert done.returncode == 0, done.stderr
    assert [md5(path) for path in received(local.output)] == [md5(source)]


def test_a_network_that_damages_every_compressed_block_is_given_up(
    local: ServerThread, tmp_path: Path
) -> None:
    """15: nothing is published, and the client ends with a clear error."""
    flip = Fault(What.FLIP, Way.UP, HEADER + 100, every=KB, times=None)
    source = text_file(tmp_path / "x", 100 * KB)
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(faults=(flip,)), Kind.DATA)
        done = run_client(proxy.port, source, "--compress", "--streams", "1")
    assert done.returncode == 5
    assert "a block that does not unpack" in done.stderr.splitlines()[-1]
    assert received(local.output) == []
