"""What is sent: files, or directories. How each is made, told apart and removed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from pathlib import Path

from config import KB
from lft.manifest import Kind
from tests.support.files import md5, random_file
from tests.support.rawtrees import manifest_of

WHEN = 1_600_000_000_000_000_000


class Files:
    """Single files."""

    ending = ".bin"

    def make(self, path: Path, size: int, seed: int) -> None:
        """Make one of ``size`` random bytes."""
        random_file(path, size, seed)

    def size(self, path: Path) -> int:
        """Return how large one is."""
        return path.stat().st_size

    def published(self, output: Path, name: str) -> list[Path]:
        """Return those that were published under a name of its client."""
        return [path for path in output.glob(f"server_received_*_{name}") if self._is_one(path)]

    def _is_one(self, path: Path) -> bool:
        return path.is_file()

    def digest(self, path: Path) -> str:
        """Return what tells it from all that is not the same."""
        return md5(path)

    def bytes_of(self, path: Path) -> bytes:
        """Return all bytes that are sent of it."""
        return path.read_bytes()

    def bytes_in_part(self, part: Path, _source: Path) -> bytes:
        """Return what is at their places in an unfinished one."""
        return part.read_bytes()

    def remove(self, path: Path) -> None:
        """Remove one."""
        path.unlink()

    def faults(self, _published: Path) -> str:
        """Say what is wrong with a published one apart from itself, "" if nothing is."""
        return ""

    def strays(self, _output: Path) -> list[Path]:
        """Return what was published of one that was not."""
        return []

    def is_answer(self, part: Path) -> bool:
        """Return whether a part is that of a published one, which waits to be answered again."""
        return part.suffix == ".part" and part.exists() and part.stat().st_nlink > 1


class Trees(Files):
    """Directories of a file of half their bytes and many small ones, with all that else may be."""

    ending = ""

    def make(self, path: Path, size: int, seed: int) -> None:
        """Make one of ``size`` random bytes."""
        chance = random.Random(seed)
        lengths = [size // 2, 0, 0]
        while sum(lengths) < size:
            length = chance.choice((0, 1, 3 * KB, 10 * KB, 60 * KB))
            lengths.append(min(length, size - sum(lengths)))
        for number, length in enumerate(lengths):
            folder = path / f"d{number % 7}" / "below"
            folder.mkdir(parents=True, exist_ok=True)
            random_file(folder / f"f{number}", length, seed + number)
        (path / "empty" / "too").mkdir(mode=0o700, parents=True)
        (path / "a link").symlink_to("d0/below")
        (path / "d1" / "below" / "up").symlink_to("../../d2/below/f2")
        (path / "d0").chmod(0o555)
        for one in sorted(path.rglob("*"), reverse=True):
            os.utime(one, ns=(WHEN, WHEN + len(one.name)), follow_symlinks=False)
        os.utime(path, ns=(WHEN, WHEN))

    def _is_one(self, path: Path) -> bool:
        return path.is_dir()

    def size(self, path: Path) -> int:
        """Return the bytes of all files together."""
        return manifest_of(path).size

    def digest(self, path: Path) -> str:
        """Return the digest of its manifest, its own bits and time, and all bytes."""
        facts = path.stat()
        told = [*manifest_of(path), facts.st_mode & 0o777, facts.st_mtime_ns]
        return hashlib.md5(repr(told).encode() + self.bytes_of(path)).hexdigest()

    def bytes_of(self, path: Path) -> bytes:
        """Return the bytes of all files, one behind the other."""
        return self._bytes(path, path)

    def bytes_in_part(self, part: Path, source: Path) -> bytes:
        """Return what is at their places in an unfinished tree, zeros for what is not there."""
        return self._bytes(next(part.glob("tree*"), part), source)

    def _bytes(self, tree: Path, source: Path) -> bytes:
        manifest = manifest_of(source)
        pieces = []
        for index in manifest.of_kind(Kind.FILE):
            entry = manifest[index]
            there = (tree / entry.path).read_bytes() if (tree / entry.path).is_file() else b""
            pieces.append(there[: entry.size].ljust(entry.size, b"\0"))
        return b"".join(pieces)

    def remove(self, path: Path) -> None:
        """Remove one, and its sums."""
        shutil.rmtree(path)
        path.with_name(f"{path.name}.md5").unlink(missing_ok=True)

    def faults(self, published: Path) -> str:
        """Say what is wrong with the sums."""
        sums = published.with_name(f"{published.name}.md5")
        if not sums.exists():
            return "it has no sums"
        manifest = manifest_of(published)
        paths = [manifest[index].path for index in manifest.of_kind(Kind.FILE)]
        right = "".join(f"{md5(published / path)}  {path}\n" for path in paths)
        return "" if sums.read_text() == right else "its sums are wrong"

    def strays(self, output: Path) -> list[Path]:
        """Return sums without their tree."""
        sums = output.glob("server_received_*.md5")
        return [path for path in sums if not path.with_suffix("").is_dir()]

    def is_answer(self, part: Path) -> bool:
        """Return whether a part is that of a published tree, which waits to be answered again."""
        return part.suffix == ".tree" and part.is_dir() and not any(part.glob("tree*"))
