"""What one user may send: sizes, extensions, and whether the content fits the name."""

from __future__ import annotations

import os
from typing import NamedTuple

from config import ServerSettings
from lft.accounts.account import Credential
from lft.manifest import Manifest
from lft.options import format_both
from lft.terminal import printable
from protocol import RejectedError


class Rights(NamedTuple):
    """What one user may send: the stricter of the server's limits and the account's."""

    directory: str = ""  # below the output directory; "" is the output directory itself
    max_file_size: int | None = None
    quota: int | None = None  # bytes of all files in that directory, finished or not
    limit: int | None = None  # bytes a second, over all sessions of the user
    allow_ext: tuple[tuple[str, ...], ...] = ()  # a name must end with one of each group

    @classmethod
    def of(cls, credential: Credential, settings: ServerSettings) -> Rights:
        """Return the rights of an account on a server."""
        sizes = [size for size in (credential.max_file_size, settings.max_file_size) if size]
        allowed = tuple(one for one in (credential.allow_ext, settings.allow_ext) if one)
        most = min(sizes, default=None)
        return cls(credential.directory, most, credential.quota, credential.limit, allowed)

    def check(self, name: str, size: int) -> None:
        """Raise ``RejectedError`` unless such a file may be sent."""
        self.check_name(name)
        self.check_size(size)

    def check_name(self, name: str) -> None:
        """Raise ``RejectedError`` unless a file of this name may be sent."""
        for extensions in self.allow_ext:
            if not name.lower().endswith(extensions):
                raise RejectedError("extension", f"only {', '.join(extensions)} may be sent here")

    def check_names(self, manifest: Manifest) -> None:
        """Raise ``RejectedError`` that names a file of a tree, unless all may be sent."""
        for number in range(manifest.files if self.allow_ext else 0):
            path = manifest.path(manifest.file(number)).decode()
            try:
                self.check_name(path)
            except RejectedError as error:
                reason = f"{printable(path[:80])!r}: {error}"
                raise RejectedError(error.code, reason) from None

    def check_size(self, size: int) -> None:
        """Raise ``RejectedError`` unless so many bytes may be sent as one."""
        if self.max_file_size is not None and size > self.max_file_size:
            has, most = format_both(size, self.max_file_size)
            raise RejectedError("size", f"{has} is more than {most}, the most here")


# How common kinds of files begin, by their specifications: any one of (offset, bytes).
_BEGINNINGS: dict[str, tuple[tuple[int, bytes], ...]] = {
    ".7z": ((0, b"7z\xbc\xaf\x27\x1c"),),
    ".bmp": ((0, b"BM"),),
    ".bz2": ((0, b"BZh"),),
    ".docx": ((0, b"PK\3\4"),),
    ".flac": ((0, b"fLaC"),),
    ".gif": ((0, b"GIF87a"), (0, b"GIF89a")),
    ".gz": ((0, b"\x1f\x8b"),),
    ".iso": ((32769, b"CD001"),),
    ".jpeg": ((0, b"\xff\xd8\xff"),),
    ".jpg": ((0, b"\xff\xd8\xff"),),
    ".mkv": ((0, b"\x1a\x45\xdf\xa3"),),
    ".mov": ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free")),
    ".mp4": ((4, b"ftyp"),),
    ".pdf": ((0, b"%PDF-"),),
    ".png": ((0, b"\x89PNG\r\n\x1a\n"),),
    ".pptx": ((0, b"PK\3\4"),),
    ".tar": ((257, b"ustar"),),
    ".tgz": ((0, b"\x1f\x8b"),),
    ".tif": ((0, b"II*\0"), (0, b"MM\0*")),
    ".tiff": ((0, b"II*\0"), (0, b"MM\0*")),
    ".wav": ((0, b"RIFF"),),
    ".webp": ((8, b"WEBP"),),
    ".xlsx": ((0, b"PK\3\4"),),
    ".xz": ((0, b"\xfd7zXZ\0"),),
    ".zip": ((0, b"PK\3\4"), (0, b"PK\5\6")),
    ".zst": ((0, b"\x28\xb5\x2f\xfd"),),
}
LONGEST_BEGINNING = 33 * 1024  # bytes of a file that are enough to tell its kind


def looks_like(name: str, head: bytes) -> bool:
    """Whether the beginning of a file fits its extension; any beginning fits an unknown one."""
    extension = os.path.splitext(name.lower())[1]
    known = _BEGINNINGS.get(extension)
    return known is None or any(head.startswith(part, offset) for offset, part in known)
