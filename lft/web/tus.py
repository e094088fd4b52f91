"""The words of tus 1.0.0, the protocol of resumable uploads (https://tus.io), without a socket."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Mapping, NamedTuple

from lft.web.fields import decode_base64, parse_repr_digest
from protocol import MAX_FILE_SIZE

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
ALGORITHMS = ("sha1", "sha256", "md5")  # of a PATCH; tus wants SHA-1 in any case
CONTENT = "application/offset+octet-stream"
MAX_METADATA = 4096  # bytes of an Upload-Metadata field: a name of 255 characters takes 1400

_DIGITS = re.compile("[0-9]{1,19}")
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # what ASCII shows, without space and comma
_HEX = {"sha256": re.compile("[0-9a-f]{64}"), "md5": re.compile("[0-9a-f]{32}")}


class TusError(ValueError):
    """A header field that tus does not allow."""


class Claim(NamedTuple):
    """A digest of the whole file that the client has computed itself."""

    algorithm: str
    digest: str  # in hexadecimal


class Checksum(NamedTuple):
    """The digest of one PATCH, as its client says it."""

    algorithm: str
    digest: bytes

    def begin(self) -> Any:
        """Return a hash object for what comes."""
        return hashlib.new(self.algorithm)


def parse_number(field: str | None, name: str) -> int:
    """Return the number of bytes in a field. Raises ``TusError``."""
    if field is None or not _DIGITS.fullmatch(field):
        raise TusError(f"{name} must be a number of bytes")
    if int(field) > MAX_FILE_SIZE:
        raise TusError(f"{name} is larger than any file")
    return int(field)


def parse_metadata(field: str) -> dict[str, str]:
    """Return the pairs of an Upload-Metadata field. Raises ``TusError``."""
    if len(field) > MAX_METADATA:
        raise TusError(f"Upload-Metadata has more than {MAX_METADATA} bytes")
    pairs: dict[str, str] = {}
    for pair in field.split(",") if field.strip() else ():
        key, _, value = pair.strip(" \t").partition(" ")
        if not _KEY.fullmatch(key):
            raise TusError("Upload-Metadata has a key that is empty or not plain")
        if key in pairs:
            raise TusError("Upload-Metadata has a key twice")
        pairs[key] = _value(value)
    return pairs


def _value(text: str) -> str:
    try:
        return decode_base64(text).decode()
    except ValueError:  # of which UnicodeDecodeError is one
        raise TusError("Upload-Metadata has a value that is not Base64 of UTF-8") from None


def name_of(metadata: Mapping[str, str]) -> str:
    """Return the file's name: as tus and Uppy call it."""
    return metadata.get("filename") or metadata.get("name") or "upload"


def claim_of(metadata: Mapping[str, str], repr_digest: str | None) -> Claim | None:
    """Return the client's own digest of the whole file, the strongest that it has said.

    Raises ``TusError`` for one that is none.
    """
    try:
        sha256 = parse_repr_digest(repr_digest) if repr_digest else None
    except ValueError as error:
        raise TusError(f"Repr-Digest: {error}") from None
    if sha256:
        return Claim("sha256", sha256)
    for algorithm, pattern in _HEX.items():
        said = metadata.get(algorithm, "").lower()
        if said and not pattern.fullmatch(said):
            raise TusError(f"the {algorithm} in Upload-Metadata must be in hexadecimal")
        if said:
            return Claim(algorithm, said)
    return None


def parse_checksum(field: str | None) -> Checksum | None:
    """Return the checksum of a PATCH, if it has one. Raises ``TusError``."""
    if field is None:
        return None
    algorithm, _, text = field.strip(" \t").partition(" ")
    if algorithm not in ALGORITHMS:
        raise TusError(f"Upload-Checksum must be by one of {', '.join(ALGORITHMS)}")
    try:
        digest = decode_base64(text)
    except ValueError:
        raise TusError("Upload-Checksum is not Base64") from None
    if len(digest) != hashlib.new(algorithm).digest_size:
        raise TusError("Upload-Checksum has another length than its algorithm makes")
    return Checksum(algorithm, digest)
