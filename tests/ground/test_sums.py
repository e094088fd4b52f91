"""The digest of a directory: that of what ``md5sum`` prints for its files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.manifest import Entry, Kind, Manifest
from lft.sums import TreeHash
from tests.support.generated import quick


def tree_of(files: dict[str, bytes]) -> tuple[Manifest, bytes]:
    """Return the manifest of some files at the top, and their bytes one behind the other."""
    names = sorted(files, key=str.encode)
    manifest = Manifest(Entry(Kind.FILE, name, len(files[name])) for name in names)
    return manifest, b"".join(files[name] for name in names)


FILES = {
    "a": b"",
    "b": b"some bytes",
    "back\\slash": b"escaped",
    "c": b"",
    "d d": b"\0" * 5000,
    "ä": b"x",
    "ö": b"",
}


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_the_digest_is_that_of_the_sums_of_coreutils(algorithm: str, tmp_path: Path) -> None:
    """``md5sum`` itself prints the same lines, and their digest is the verdict."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    manifest, whole = tree_of(FILES)
    running = TreeHash(manifest, algorithm)
    running.update(whole)
    paths = [os.fsdecode(manifest.path(index)) for index in range(len(manifest))]
    printed = subprocess.run(
        [f"{algorithm}sum", *paths], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    assert b"".join(running.lines()) == printed
    assert running.hexdigest() == hashlib.new(algorithm, printed).hexdigest()
    assert running.digest().hex() == running.hexdigest()


def test_an_empty_tree_has_the_digest_of_nothing() -> None:
    """It has no line."""
    assert TreeHash(Manifest(), "md5").hexdigest() == hashlib.md5().hexdigest()


@quick
@given(st.lists(st.binary(max_size=9), max_size=8), st.lists(st.integers(1, 20), max_size=8))
def test_the_running_digest_is_that_of_the_lines_and_the_file_so_far(
    contents: list[bytes], steps: list[int]
) -> None:
    """However the bytes are cut, by the rule in protocol.py worked out the slow way."""
    manifest, whole = tree_of({f"{n}": data for n, data in enumerate(contents)})
    running, at = TreeHash(manifest, "md5"), 0
    for step in [0, *steps]:
        running.update(whole[at : at + step])
        at = min(at + step, len(whole))
        assert running.digest() == slow_digest(manifest, whole, at)


def slow_digest(manifest: Manifest, whole: bytes, end: int) -> bytes:
    """Return the digest of the first ``end`` bytes, by the words of protocol.py."""
    text, within = b"", b""
    for number in range(manifest.files):
        start, length = manifest.start(number), manifest.length(number)
        data = whole[start : start + length]
        if start + length > end:
            within = hashlib.md5(data[: end - start]).digest() if end > start else b""
            break
        path = manifest.path(manifest.file(number))
        text += hashlib.md5(data).hexdigest().encode() + b"  " + path + b"\n"
    return hashlib.md5(text + within).digest()


def test_a_copy_goes_on_by_itself() -> None:
    """What was hashed wrongly is taken back by going on with a copy made before it."""
    manifest, whole = tree_of(FILES)
    running = TreeHash(manifest, "md5")
    running.update(whole[:4])
    before = running.copy()
    running.update(bytes(len(whole) - 4))
    before.update(whole[4:])
    expected = TreeHash(manifest, "md5")
    expected.update(whole)
    assert before.digest() == expected.digest() != running.digest()
    assert list(before.lines()) == list(expected.lines())
