"""The codecs: packing, unpacking, and payloads that do not unpack."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import KB, MB
from lft.wire.blocks import BlockHeader, decode_header, encode_header
from lft.wire.codecs import COMPRESSIONS, FEATURES, common_codec
from protocol import CODEC_HELD, CODEC_RAW, CODEC_ZLIB, CODEC_ZSTD, RemoteProtocolError
from tests.support.compressed import BLOCK, BOMB, CODECS, DATA, SPOILERS, packed, unpacked, zeros
from tests.support.processes import ROOT, environment


def test_zstd_is_tested_where_it_can_be_installed() -> None:
    """What tests/requirements.txt installs is found; otherwise half of these tests test nothing."""
    assert ("zstd" in COMPRESSIONS) == (sys.version_info >= (3, 9))


@settings(max_examples=60, deadline=None, database=None)
@given(st.sampled_from(CODECS), st.integers(1, 9), st.binary(max_size=3000), st.integers(1, 90))
def test_what_was_compressed_comes_back(codec: int, level: int, data: bytes, times: int) -> None:
    """Any bytes, of any size, repetitive or not."""
    assert unpacked(codec, packed(codec, data * times, level), len(data) * times) == data * times


@pytest.mark.parametrize("how", SPOILERS)
@pytest.mark.parametrize("codec", CODECS)
def test_what_does_not_unpack_to_its_length_is_refused(codec: int, how: str) -> None:
    """FAULTS 19: longer, shorter, cut, followed by something, or not compressed at all."""
    with pytest.raises(RemoteProtocolError, match="does not unpack") as caught:
        unpacked(codec, SPOILERS[how](codec), BLOCK)
    assert caught.value.code == "codec"


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_block_cut_anywhere_is_refused(codec: int) -> None:
    """FAULTS 19: no beginning of a payload passes for the whole."""
    payload = packed(codec, DATA)
    for cut in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            unpacked(codec, payload[:cut], BLOCK)


@settings(max_examples=100, deadline=None, database=None)
@given(st.sampled_from(CODECS), st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_block_is_refused_or_has_its_length(codec: int, at: int, change: int) -> None:
    """It raises only our own error. Damage that unpacks all the same is found by the digest."""
    payload = bytearray(packed(codec, DATA))
    payload[at % len(payload)] ^= change
    with contextlib.suppress(RemoteProtocolError):
        assert len(unpacked(codec, bytes(payload), BLOCK)) == BLOCK


def _zstd_frame(descriptor: int, window: bytes, size: bytes) -> bytes:
    """Return a zstd frame with this header and a block of 100 zeros (RFC 8878)."""
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
    """FAULTS 19: nothing is allocated by it."""
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="does not unpack"):
        unpacked(CODEC_ZSTD, LIARS[lie], 100)  # its true size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MB


def test_a_zstd_frame_may_have_a_window_of_a_large_block() -> None:
    """Encoders choose such a window when they do not know the size before."""
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
    """FAULTS 19: all memory of the process counts, not only Python's own."""
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
    """FAULTS 19: a compressed block is smaller than the raw one, and not empty."""
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
    """A codec that the peer does not name is not used."""
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
    """Decoded again it is equal."""
    header = BlockHeader(7, 3, 4096, 1000, codec, bytes(32))
    assert decode_header(encode_header(header)) == header
