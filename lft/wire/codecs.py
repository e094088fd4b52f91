"""The codecs of a block's payload, and which of them both sides have."""

from __future__ import annotations

import contextlib
import importlib
import zlib
from typing import Any, Collection

from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    CODEC_ZLIB,
    CODEC_ZSTD,
    DIGEST_SIZES,
    RemoteProtocolError,
)


def _load_zstd() -> Any:
    """Return Python's own module (3.14), or the package with the same functions, or ``None``.

    Loaded at once: one that is found may still not load, and a client must not be promised what the
    server cannot unpack. A client that does not compress never imports this file.
    """
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


_zstd = _load_zstd()
_ZSTD_WINDOW = 22  # log2 of the bytes that a payload may make us allocate; a block has 4 MB at most
_UNPACK_ERRORS = (zlib.error, _zstd.ZstdError) if _zstd else (zlib.error,)

COMPRESSIONS = {**({"zstd": CODEC_ZSTD} if _zstd else {}), "zlib": CODEC_ZLIB}  # the best first
CODECS = (CODEC_RAW, CODEC_HELD, *COMPRESSIONS.values())
FEATURES = (*DIGEST_SIZES, *COMPRESSIONS)  # of a HELLO


def common_codec(features: Collection[str]) -> int:
    """Return the best codec of both sides, by the peer's HELLO; ``CODEC_RAW`` if there is none."""
    return next((codec for name, codec in COMPRESSIONS.items() if name in features), CODEC_RAW)


def compress(codec: int, level: int, view: memoryview) -> memoryview:
    """Return ``view`` compressed, which may be larger."""
    return memoryview((_zstd if codec == CODEC_ZSTD else zlib).compress(view, level))


def decompress(codec: int, payload: memoryview, view: memoryview) -> None:
    """Fill ``view`` with what ``payload`` unpacks to. Raises ``RemoteProtocolError``.

    The lengths that the payload states are not believed: nothing is allocated by them.
    """
    try:
        unpacker = _zstd_unpacker() if codec == CODEC_ZSTD else zlib.decompressobj()
        raw = unpacker.decompress(payload, len(view) + 1)
    except _UNPACK_ERRORS:
        raise RemoteProtocolError("a block that does not unpack", "codec") from None
    if len(raw) != len(view) or not unpacker.eof or unpacker.unused_data:
        raise RemoteProtocolError("a block that does not unpack to its length", "codec")
    view[:] = raw


def _zstd_unpacker() -> Any:
    limit = {_zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    return _zstd.ZstdDecompressor(options=limit)
