"""Part files and journals as a killed server leaves them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from lft.store.journal import Claims, Facts, Journal
from lft.store.part import Part
from lft.store.partfile import PartFile
from lft.store.paths import PARTIAL, output_name

DATA = bytes(range(39))  # of ten blocks of four bytes; the last has three
HEAD = hashlib.md5(DATA[:4]).hexdigest()
RECORD = 4 + 16  # bytes of a record with an MD5


def facts_of(size: int, name: str = "x", unique: str = "taken", block: int = 4) -> Facts:
    """Return the facts of a file of one user."""
    return Facts("u", name, size, block, "md5", output_name(name, unique), head=HEAD)


def running(data: bytes, block: int) -> bytes:
    """Return the running digest of a block of ``data``."""
    return hashlib.md5(data[: (block + 1) * 4]).digest()


def claims_of(data: bytes, *blocks: int) -> Claims:
    """Return a true claim of some blocks of ``data``."""
    claims = Claims(-(-len(data) // 4), 16)
    for block in blocks:
        claims.add(block, running(data, block))
    return claims


def claimed(claims: Claims | None) -> list[int]:
    """Return the blocks that are claimed."""
    assert claims is not None
    return [block for block, flag in enumerate(claims.flags) if flag]


def journal_file(output: Path) -> Path:
    """Return where the only journal of an output directory is."""
    (path,) = (output / PARTIAL).glob("*.journal")
    return path


def rewrite_journal(output: Path, **changes: object) -> None:
    """Change facts in a journal; ``None`` takes one out."""
    path = journal_file(output)
    line, _, records = path.read_bytes().partition(b"\n")
    values = {**json.loads(line), **changes}
    values = {key: value for key, value in values.items() if value is not None}
    path.write_bytes(json.dumps(values).encode() + b"\n" + records)


def leave_part(
    output: Path, data: bytes = DATA, *, unique: str = "taken", name: str = "x"
) -> PartFile:
    """Leave a part file as a server does that is killed when all of ``data`` is written."""
    head = hashlib.md5(data[:4]).hexdigest()
    part = PartFile.create(output, facts_of(len(data), name, unique)._replace(head=head))
    part.write_run([memoryview(data)], 0)
    part.note(b"".join(claims_of(data, *range(-(-len(data) // 4))).records()))
    part.close()
    return part


def found_again(output: Path, part: Part) -> PartFile:
    """Stand for ``part`` as the next server does, which knows only its journal."""
    path = output / PARTIAL / f"{part.stem}.journal"
    return PartFile(output, part.stem, Journal(path).facts())


def leave_published(output: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> PartFile:
    """Leave a part file whose server was killed between publishing and answering."""
    part = leave_part(output)
    open_again(part, facts_of(39))
    with monkeypatch.context() as patch:
        if how == "rename":
            patch.setattr(os, "link", no_links)
        part.publish()
    part.close()
    return found_again(output, part)


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def broken_disk(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def open_again(part: PartFile, facts: Facts) -> Claims:
    """Go on with a part file, as the store does; return what its journal claims."""
    part.reopen(facts)
    return part.go_on(facts)
