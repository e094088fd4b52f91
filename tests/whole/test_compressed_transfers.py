"""A client and a server that compress."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

import config
from client import send_files
from config import KB, MB
from lft.client.compression import Compression
from lft.client.receipt import arrival_line
from lft.clock import TokenBucket
from lft.wire.codecs import COMPRESSIONS, compress, decompress
from protocol import CODEC_ZLIB
from tests.support.certificates import Pki, tls
from tests.support.compressed import CODECS, send_compressed, shrunk, text, text_file
from tests.support.files import md5, random_file, received
from tests.support.local import ServerThread, StartLocal
from tests.support.processes import StartServer, run_client
from tests.support.rawpeer import RawClient, push
from tests.tools.proxy import Fault, FaultProxy, Kind, Plan, Way, What

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

    monkeypatch.setattr("lft.server.receiving.decompress", record)
    return found


@pytest.mark.usefixtures("eager")
def test_text_shrinks_on_the_wire(local: ServerThread, tmp_path: Path) -> None:
    """The receipt counts what was sent, and a line of the log says it in words."""
    receipt = send_compressed(local, text_file(tmp_path / "x", 3 * MB))
    assert receipt.wire_bytes < receipt.bytes / 3
    shrunk = f"compressed to {100 * receipt.wire_bytes / receipt.bytes:.0f} %"
    assert shrunk in arrival_line(receipt, local.client(compress=True))


@pytest.mark.usefixtures("eager")
def test_random_data_goes_as_it_is(local: ServerThread, tmp_path: Path, unpacks: list[int]) -> None:
    """Not a byte more, and nothing to unpack."""
    receipt = send_compressed(local, random_file(tmp_path / "x", 3 * MB))
    assert receipt.wire_bytes == receipt.bytes
    assert unpacks == []


@pytest.mark.usefixtures("eager")
def test_of_a_mixed_file_the_text_shrinks(local: ServerThread, tmp_path: Path) -> None:
    """Text, noise, text: a good part of the text is compressed, the noise is not."""
    source = text_file(tmp_path / "x", 4 * MB)
    noise = random_file(tmp_path / "noise", 2 * MB).read_bytes()
    source.write_bytes(source.read_bytes()[: 2 * MB] + noise + source.read_bytes()[2 * MB :])
    receipt = send_compressed(local, source, block_size=16 * KB)
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
    monkeypatch.setattr("server.FEATURES", ("md5", "sha256", *names))
    send_compressed(local, text_file(tmp_path / "x", MB))
    assert set(unpacks) == {codec}


@pytest.mark.usefixtures("eager")
def test_a_server_that_takes_nothing_compressed_gets_it_raw(
    local: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The user is told; the file arrives."""
    monkeypatch.setattr("server.FEATURES", ("md5", "sha256"))
    receipt = send_compressed(local, text_file(tmp_path / "x", MB))
    assert receipt.wire_bytes == receipt.bytes
    assert "the server takes nothing compressed" in caplog.text


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("size", [0, 1, 5, 200 * KB - 1, 200 * KB, 200 * KB + 1, 600 * KB])
def test_a_file_of_any_size_arrives_compressed(
    local: ServerThread, tmp_path: Path, size: int
) -> None:
    """12: around the edges of a block, and where there is nothing to compress."""
    send_compressed(local, text_file(tmp_path / "x", size))


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
    receipt = send_compressed(local, text_file(tmp_path / "x", MB), limit=100 * MB)
    assert sum(size for size in counted if size > 0) == receipt.wire_bytes < MB / 3


@pytest.mark.usefixtures("eager")
def test_files_of_one_session_are_counted_each_for_itself(
    local: ServerThread, tmp_path: Path
) -> None:
    """What the first has brought is not the second's, though its last blocks go beside that."""
    sources = [text_file(tmp_path / "a", 8 * MB), random_file(tmp_path / "b", MB)]
    first, second = send_files(sources, local.client(compress=True))
    assert first.wire_bytes < 8 * MB / 2
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
    pki: Pki,
    tmp_path: Path,
    eager: None,
) -> None:
    """Compressed first, then encrypted: the other order would not shrink."""
    local = start_local(**tls(pki.server))
    receipt = send_compressed(local, text_file(tmp_path / "x", 3 * MB), ca=pki.ca)
    assert receipt.wire_bytes < MB
